"""The installation as it is seen: states, buttons, words, and pictures where a folder for them is named."""

import os
import tempfile
from pathlib import Path

import pytest
import qt

from InContextSegSlicer.install.install import RESUME_KEY, Installer
from InContextSegSlicer.install.panel import InstallPanel, describeDevice, expectedDevice
from Testing.Slicer.install.test_install import BROUGHT, SLICER, SMALL, TORCHES, FakeEnvironment, FakeSettings, Script
from Testing.Slicer.worker.test_process import until

DEVICES = [
    {"name": "cpu", "title": "AMD Ryzen 7", "memory_bytes": 16e9, "free_bytes": 9.5e9},
    {"name": "cuda:0", "title": "NVIDIA RTX 4070", "memory_bytes": 12e9, "free_bytes": 11e9},
]
GPU = {"version": "0.1.0", "torch": "2.13.0+cu130", "devices": DEVICES, "chosen": "cuda:0", "threads": 8}
CPU = {"version": "0.1.0", "torch": "2.13.0+cpu", "devices": DEVICES[:1], "chosen": "cpu", "threads": 8}
WHEEL = "https://download.pytorch.org/whl/cpu/torch-2.13.0%2Bcpu-cp312-cp312-manylinux_2_28_x86_64.whl"
PIP = ["Looking in indexes: https://pypi.org/simple", "Collecting torch>=2.3", f"  Downloading {WHEEL} (191.4 MB)"]
FULL = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"


@pytest.fixture(autouse=True)
def _temporary(tmp_path, monkeypatch):
    """An installation that a test leaves unfinished leaves nothing behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def environment():
    return FakeEnvironment()


@pytest.fixture
def settings():
    return FakeSettings()


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def panel(scene, environment, settings, clock):
    completed = []
    panel = InstallPanel(Installer(environment, settings, SMALL, lambda: clock[0]), lambda: completed.append(True))
    panel.completed = completed
    yield panel
    panel.cleanup()
    panel.widget.deleteLater()


def shown(widget):
    return not widget.isHidden()


def buttons(panel):
    return [button.text for button in panel.widget.findChildren(qt.QPushButton) if shown(button)]


def photograph(panel, name):
    """A picture for the eye, in the folder INCONTEXTSEG_SCREENSHOTS; without it, only that it can be drawn."""
    panel.widget.resize(420, panel.widget.sizeHint().height())
    picture = panel.widget.grab()
    assert picture.width() > 0
    if os.environ.get("INCONTEXTSEG_SCREENSHOTS"):
        assert picture.save(str(Path(os.environ["INCONTEXTSEG_SCREENSHOTS"]) / f"install-{name}.png"))


def test_it_explains_itself_with_nothing_installed(panel):
    panel.enter()
    assert buttons(panel) == ["Install (about 250 MB)"]
    assert "PyTorch" in panel.ui.headlineLabel.text and "no image leaves" in panel.ui.textLabel.text
    assert "250 MB" in panel.ui.partsLabel.text
    assert not shown(panel.ui.logEdit) and not shown(panel.ui.progressBar)
    photograph(panel, "missing")


def test_one_click_installs_with_a_log_that_moves(panel, environment, clock):
    environment.torch = Script(
        [PIP, ["   Progress 47600000 of 191400000"], ["Installing collected packages: torch"]],
        0,
        environment.adding(TORCHES),
    )
    panel.ui.primaryButton.click()
    assert buttons(panel) == ["Cancel"]
    until(lambda: panel.installer.download)
    clock[0] = 83.0
    panel.refresh()
    assert panel.ui.headlineLabel.text == "Installing… 1:23"
    assert panel.ui.progressBar.value == 248
    assert "48 MB of 190 MB" in panel.ui.textLabel.text
    assert "Collecting torch" in panel.ui.logEdit.toPlainText()
    photograph(panel, "installing")
    until(lambda: panel.completed)
    assert panel.completed == [True]
    assert buttons(panel) == []
    assert panel.ui.logEdit.toPlainText().count("Collecting torch>=2.3") == 1
    photograph(panel, "complete")


def test_cancel_stops_and_offers_to_start_again(panel, environment):
    environment.small = Script([["Collecting einops"]] * 8, 0, killable=False)
    panel.ui.primaryButton.click()
    panel.ui.cancelButton.click()
    assert panel.ui.headlineLabel.text == "Stopping…" and not panel.ui.cancelButton.enabled
    photograph(panel, "stopping")
    until(lambda: panel.installer.state == "missing")
    assert "stopped" in panel.ui.textLabel.text
    assert buttons(panel) == ["Install (about 250 MB)"]
    photograph(panel, "cancelled")


def test_a_failure_says_what_to_do_and_its_log_can_be_copied(panel, environment):
    environment.torch = Script([[*PIP, FULL]], 1)
    panel.ui.primaryButton.click()
    until(lambda: panel.installer.state == "failed")
    assert buttons(panel) == ["Try again", "Copy log"]
    assert panel.ui.headlineLabel.text == "The disk is full."
    assert "Free some gigabytes" in panel.ui.textLabel.text
    photograph(panel, "failed")
    panel.ui.copyLogButton.click()
    assert qt.QApplication.clipboard().text().splitlines()[-1].endswith("No space left on device")
    environment.torch = Script([], 0, environment.adding(TORCHES))
    panel.ui.primaryButton.click()
    until(lambda: panel.completed)


def test_an_obstacle_is_told_without_a_log(panel, environment):
    environment.free = 300.0
    panel.ui.primaryButton.click()
    until(lambda: panel.installer.state == "failed")
    assert buttons(panel) == ["Try again"]
    photograph(panel, "obstacle")


def test_the_extension_pytorch_comes_first_and_the_restart_is_one_click(scene, environment, settings):
    environment.extension = False
    panel = InstallPanel(Installer(environment, settings, SMALL))
    assert "restarted once" in panel.ui.textLabel.text and "Extension PyTorch" in panel.ui.partsLabel.text
    photograph(panel, "extension")
    panel.ui.primaryButton.click()
    assert buttons(panel) == ["Restart Slicer"]
    assert "goes on by itself" in panel.ui.textLabel.text and "Save your work" in panel.ui.textLabel.text
    photograph(panel, "restart")
    panel.ui.primaryButton.click()
    assert environment.restarts == 1

    environment.extension = True
    again = InstallPanel(Installer(environment, settings, SMALL))
    assert again.installer.state == "missing"
    again.enter()
    assert again.installer.state == "installing" and RESUME_KEY not in settings
    until(lambda: again.installer.state == "complete")


def test_a_restart_at_the_end_is_asked_for_in_other_words(panel, environment):
    environment.torch = Script([], 0, environment.adding(TORCHES | {"requests": "2.33.0"}))
    panel.ui.primaryButton.click()
    until(lambda: panel.installer.state == "restart")
    assert "everything is ready" in panel.ui.textLabel.text and not panel.completed


def test_nothing_is_asked_where_nothing_is_missing(scene):
    panel = InstallPanel(Installer(FakeEnvironment(SLICER | BROUGHT | TORCHES), FakeSettings(), SMALL))
    panel.enter()
    assert buttons(panel) == []
    assert not shown(panel.ui.partsLabel)


def test_leaving_the_module_for_good_ends_the_installation(panel, environment):
    environment.small = Script([["Collecting"]] * 1000, 0)
    panel.ui.primaryButton.click()
    panel.cleanup()
    assert environment.small.killed and panel.installer.state == "stopping"


def test_a_torch_that_does_not_start_is_told(panel):
    panel.showTrouble("The worker process could not start; it said: DLL load failed; ask again.")
    assert panel.ui.deviceLabel.text.startswith("PyTorch does not start: The worker process could not start")


def test_where_torch_is_there_already_only_the_rest_is_offered(scene):
    panel = InstallPanel(Installer(FakeEnvironment(SLICER | TORCHES), FakeSettings(), SMALL))
    assert buttons(panel) == ["Install (about 1 MB)"]
    assert "PyTorch" not in panel.ui.headlineLabel.text + panel.ui.partsLabel.text


def test_what_computes_is_told_with_memory_and_version():
    told = describeDevice(GPU, "nvidia")
    assert told == "Computes on NVIDIA RTX 4070. Memory: 12 GB, 11 GB of it free. PyTorch 2.13.0+cu130."
    assert "Threads: 8." in describeDevice(CPU)


def test_a_graphics_card_that_lies_idle_is_pointed_out():
    assert "does not use: update its driver" in describeDevice(CPU, "nvidia")
    assert "driver" not in describeDevice(CPU)


def test_a_chosen_device_that_is_not_listed_is_named_all_the_same():
    assert describeDevice({**CPU, "chosen": "mps"}).startswith("Computes on mps. PyTorch")


@pytest.mark.parametrize(("card", "word"), [("nvidia", "driver"), ("apple", "Mac"), ("", "processor")])
def test_before_torch_is_there_the_computer_is_described_in_words(card, word):
    assert word in expectedDevice(card)
