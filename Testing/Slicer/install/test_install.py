"""The installation without a window: every way it can go, in an environment that is invented."""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest

from InContextSegLib.worker.shared_arrays import SharedFolder
from InContextSegSlicer.install.install import (
    PROTECTED,
    REQUIREMENTS,
    RESUME_KEY,
    TORCH,
    Installer,
    inUnits,
    isSatisfied,
    nameOf,
    readRequirements,
)

ROOT = Path(__file__).resolve().parents[3]
SMALL = ("einops>=0.7,<1", "safetensors>=0.4.3,<1")
# A Slicer as it is delivered, with an odd version of its own as SimpleITK has.
SLICER = {"numpy": "2.4.0", "scipy": "1.17.0", "simpleitk": "2.5.0rc2.dev7", "pip": "25.1", "requests": "2.32.0"}
BROUGHT = {"einops": "0.8.2", "safetensors": "0.8.0", "light-the-torch": "0.8.1"}
TORCHES = {"torch": "2.13.0+cpu", "torchvision": "0.28.0+cpu"}


class Script:
    """A run that says some lines per poll, then ends with a code, and may change what is installed."""

    def __init__(self, polls, exitCode, ended=lambda: None, killable=True):
        self._polls, self._ended, self._killable = list(polls), ended, killable
        self._finalCode, self.exitCode, self.killed = exitCode, None, False

    def lines(self):
        if self._polls:
            return self._polls.pop(0)
        if self.exitCode is None:
            self.exitCode = self._finalCode
            self._ended()
        return []

    def running(self):
        return self.exitCode is None

    def kill(self):
        self.killed = True
        if self._killable:
            self._polls, self._finalCode, self._ended = [], -1, lambda: None


class FakeEnvironment:
    """A computer on which the installations go as a test says."""

    pythonVersion = (3, 12)

    def __init__(self, installed=None, extension=True):
        self.installed = dict(SLICER if installed is None else installed)
        self.extension, self.extensionWorks = extension, True
        self.card, self.free, self.isBusy, self.restarts = "", 50_000.0, False, 0
        self.started, self.constraints = [], []
        self.small = Script([["Collecting einops"], ["Successfully installed einops"]], 0, self.adding(BROUGHT))
        download = ["   Progress 50 of 200", "Progress 100 of 200"]
        polls = [["Collecting torch"], download, ["Installing collected packages: torch"]]
        self.torch = Script(polls, 0, self.adding(TORCHES))

    def adding(self, packages):
        return lambda: self.installed.update(packages)

    def versions(self):
        return dict(self.installed)

    def graphicsCard(self):
        return self.card

    def freeMegabytes(self):
        return self.free

    def hasTorchExtension(self):
        return self.extension

    def installTorchExtension(self):
        self.started.append("extension")
        return self.extensionWorks

    def busy(self):
        return self.isBusy

    def startPackages(self, requirements, constraints):
        self.started.append(requirements)
        self.constraints.append(constraints.read_text())
        self.file = constraints
        return self.small

    def startTorch(self, requirement, constraints):
        self.started.append(requirement)
        self.constraints.append(constraints.read_text())
        self.file = constraints
        return self.torch

    def restart(self):
        self.restarts += 1


class FakeSettings(dict):
    """Like QSettings on a file: what comes back may have become text."""

    def value(self, key):
        return self.get(key)

    def setValue(self, key, value):
        self[key] = str(value).lower()

    def remove(self, key):
        self.pop(key, None)


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
def installer(environment, settings):
    return Installer(environment, settings, SMALL, clock=lambda: 0.0)


def finish(installer, polls=30):
    states = [installer.state]
    for _ in range(polls):
        installer.poll()
        states.append(installer.state)
    return states


def test_what_is_missing_is_listed_with_its_size(installer):
    assert installer.state == "missing"
    assert [(part.name, part.megabytes) for part in installer.parts] == [
        ("PyTorch", 250),
        ("einops, safetensors", 0.6),
    ]


@pytest.mark.parametrize(("card", "megabytes"), [("nvidia", 3000), ("apple", 90), ("", 250)])
def test_torch_is_larger_for_a_graphics_card(environment, settings, card, megabytes):
    environment.card = card
    assert Installer(environment, settings, SMALL).parts[0].megabytes == megabytes


def test_nothing_is_missing_where_all_is_there(settings):
    installer = Installer(FakeEnvironment(SLICER | BROUGHT | TORCHES), settings, SMALL)
    assert (installer.state, installer.parts) == ("complete", [])
    installer.start()
    assert installer.state == "complete"


def test_looking_again_notices_what_came_by_other_ways(installer, environment):
    environment.installed |= BROUGHT | TORCHES
    assert installer.look() == "complete"


def test_the_small_packages_come_first_and_torch_after_them(installer, environment):
    installer.start()
    assert environment.started == [[*SMALL, "light-the-torch>=0.5"]]
    states = finish(installer)
    assert environment.started[1:] == [TORCH]
    assert list(dict.fromkeys(states)) == ["installing", "complete"]


def test_what_is_there_already_is_not_installed_again(environment, settings):
    environment.installed |= TORCHES | {"einops": "0.8.0"}
    environment.small = Script([], 0, environment.adding({"safetensors": "0.8.0"}))
    installer = Installer(environment, settings, SMALL)
    installer.start()
    finish(installer)
    assert environment.started == [["safetensors>=0.4.3,<1"]]
    assert installer.state == "complete"


def test_pip_is_told_to_leave_alone_what_came_with_slicer(installer, environment):
    installer.start()
    finish(installer)
    assert environment.constraints == ["numpy==2.4.0\nscipy==1.17.0\nsimpleitk==2.5.0rc2.dev7\npip==25.1\n"] * 2
    assert not environment.file.parent.exists()


def test_what_a_crash_leaves_is_named_so_that_a_later_worker_sweeps_it_away(installer, environment, tmp_path):
    installer.start()
    folder = environment.file.parent
    assert re.fullmatch(rf"incontextseg-{os.getpid()}-\w+", folder.name) and folder.parent == tmp_path
    dead = folder.rename(tmp_path / f"incontextseg-{2**22 + 1}-x")  # no process has this number
    SharedFolder.make(tmp_path)
    assert not dead.exists()


def test_the_log_moves_and_the_download_shows_how_far_it_is(installer, environment):
    installer.start()
    seen = []
    for _ in range(8):
        installer.poll()
        seen.append((len(installer.log), installer.download))
    assert installer.log[:3] == ["Collecting einops", "Successfully installed einops", "Collecting torch"]
    assert (3, (100, 200)) in seen
    assert installer.download is None  # it unpacks, which nobody can count


def test_a_cancelled_installation_ends_and_can_be_started_again(installer, environment):
    installer.start()
    while len(environment.started) < 2:
        installer.poll()
    installer.cancel()
    assert environment.torch.killed
    assert finish(installer)[-1] == "missing"
    assert installer.cancelled and not environment.file.parent.exists()
    environment.torch = Script([], 0, environment.adding(TORCHES))
    installer.start()
    assert not installer.cancelled
    assert finish(installer)[-1] == "complete"


def test_what_cannot_be_ended_is_waited_for_and_nothing_follows(installer, environment):
    environment.small = Script([["1"], ["2"], ["3"]], 0, environment.adding(BROUGHT), killable=False)
    installer.start()
    installer.cancel()
    assert list(dict.fromkeys(finish(installer))) == ["stopping", "missing"]
    assert len(environment.started) == 1
    assert [part.name for part in installer.parts] == ["PyTorch"]


def test_cancelling_without_an_installation_changes_nothing(installer):
    installer.cancel()
    assert installer.state == "missing" and not installer.cancelled


@pytest.mark.parametrize("step", ["small", "torch"])
def test_a_failure_is_told_in_words_and_the_rest_is_left_out(installer, environment, step):
    setattr(environment, step, Script([["ERROR: [Errno 28] No space left on device"]], 1))
    installer.start()
    assert finish(installer)[-1] == "failed"
    assert installer.failure.what == "The disk is full."
    assert not environment.file.parent.exists()
    setattr(environment, step, Script([], 0, environment.adding(BROUGHT | TORCHES)))
    installer.start()
    assert finish(installer)[-1] == "complete"
    assert installer.failure is None


def test_endless_lines_of_pip_are_cut(installer, environment):
    environment.small = Script([["x" * 100_000]], 1)
    installer.start()
    finish(installer)
    assert len(installer.log[0]) == 1000


def test_a_failure_stays_until_the_next_attempt(installer, environment):
    environment.small = Script([["ERROR: oops"]], 1)
    installer.start()
    finish(installer)
    assert installer.look() == "failed" and installer.failure


def test_a_run_that_dies_is_a_failure(installer, environment):
    environment.torch = Script([["Collecting torch"]], -1)
    installer.start()
    finish(installer)
    assert "ended from outside, or crashed" in installer.failure.what


def test_success_without_the_package_is_not_believed(installer, environment):
    environment.torch = Script([["Successfully installed nothing"]], 0)
    installer.start()
    finish(installer)
    assert installer.failure.what == "pip reported success, but this is still missing: PyTorch."


@pytest.mark.parametrize("change", [{"numpy": "1.26.4"}, {"simpleitk": None}])
def test_a_replaced_package_of_slicer_is_told_loudly(installer, environment, change):
    name, version = next(iter(change.items()))

    def spoil():
        environment.installed |= TORCHES | change
        if version is None:
            del environment.installed[name]

    environment.torch = Script([], 0, spoil)
    installer.start()
    finish(installer)
    assert installer.state == "failed"
    assert f"{name} {SLICER[name]} → {version or 'removed'}" in installer.failure.what
    assert f"{name}=={SLICER[name]}" in installer.failure.advice


def test_another_package_in_a_new_version_asks_for_a_restart(installer, environment):
    environment.torch = Script([], 0, environment.adding(TORCHES | {"requests": "2.33.0"}))
    installer.start()
    assert finish(installer)[-1] == "restart"
    assert not installer.waitsForRestart()
    installer.restart()
    assert environment.restarts == 1


def test_a_missing_extension_is_installed_and_the_rest_follows_after_the_restart(environment, settings):
    environment.extension = False
    installer = Installer(environment, settings, SMALL)
    assert installer.parts[0].name == "Extension PyTorch"
    assert not installer.mustResume()
    installer.start()
    assert (installer.state, environment.started) == ("restart", ["extension"])
    assert installer.waitsForRestart() and not installer.mustResume()

    environment.extension = True
    again = Installer(environment, settings, SMALL)
    assert again.mustResume()
    again.start()
    assert RESUME_KEY not in settings
    assert finish(again)[-1] == "complete"


def test_an_extension_that_cannot_be_had_is_a_failure_and_nothing_is_resumed(environment, settings):
    environment.extension = environment.extensionWorks = False
    installer = Installer(environment, settings, SMALL)
    installer.start()
    assert installer.failure.what == "Slicer could not install its extension PyTorch."
    assert not installer.mustResume()


def test_an_extension_that_cannot_be_loaded_is_told(installer, environment, monkeypatch):
    def broken(_requirement, _constraints):
        raise ImportError("no module named qt.")

    monkeypatch.setattr(environment, "startTorch", broken)
    installer.start()
    assert finish(installer)[-1] == "failed"
    assert installer.failure.what == "Slicer's extension PyTorch cannot be loaded: no module named qt."
    assert not environment.file.parent.exists()


def test_nothing_is_resumed_where_everything_is_there(settings):
    settings.setValue(RESUME_KEY, True)
    assert not Installer(FakeEnvironment(SLICER | BROUGHT | TORCHES), settings, SMALL).mustResume()


@pytest.mark.parametrize(
    ("obstacle", "what"),
    [
        ({"pythonVersion": (3, 9)}, "This Slicer brings Python 3.9; InContextSeg needs 3.11."),
        ({"isBusy": True}, "Another extension is installing packages at the moment."),
        (
            {"free": 400.0},
            "There is not enough room on the disk that holds Slicer: 1.2 GB are needed, 400 MB are free.",
        ),
        ({"free": 5000.0, "card": "nvidia"}, ".*: 7.5 GB are needed, 5 GB are free."),
    ],
)
def test_what_would_fail_for_certain_is_not_begun(installer, environment, obstacle, what):
    for name, value in obstacle.items():
        setattr(environment, name, value)
    installer.start()
    assert installer.state == "failed" and environment.started == []
    assert re.fullmatch(what, installer.failure.what)


def test_a_version_that_is_too_old_is_missing():
    assert not isSatisfied("torch>=2.3", {"torch": "2.2.1+cu118"})
    assert isSatisfied("torch>=2.3", {"torch": "2.13.0+cu130"})
    assert not isSatisfied("einops>=0.7,<1", {"einops": "1.0"})
    assert isSatisfied("SimpleITK>=2.3", {"simpleitk": "2.5.0rc2.dev7"})


@pytest.mark.parametrize(
    ("megabytes", "text"),
    [
        (0.1, "1 MB"),
        (251.7, "250 MB"),
        (99.6, "100 MB"),
        (8.2, "8 MB"),
        (996, "1 GB"),
        (3000, "3 GB"),
        (7480, "7.5 GB"),
    ],
)
def test_sizes_are_coarse(megabytes, text):
    assert inUnits(megabytes) == text


def test_the_requirements_are_those_of_the_library_without_what_slicer_brings():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {nameOf(line): line for line in project["dependencies"]}
    listed = {nameOf(line): line for line in readRequirements(REQUIREMENTS)}
    assert asked.pop("torch") == TORCH
    brought = {"numpy", "scipy", "simpleitk", "pillow"}
    forTheCommandLine = {"tqdm", "matplotlib"}  # progress on a terminal, figures of studies: no worker imports them
    assert set(asked) - brought - forTheCommandLine == set(listed)
    assert brought <= set(PROTECTED)
    for name, line in listed.items():
        assert line.startswith(f"{asked[name]},<"), "the lower end as in pyproject.toml, and an upper end"


WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tqdm", "matplotlib", "beartype", "nibabel"):
            raise ModuleNotFoundError(f"{name} is not installed")
sys.meta_path.insert(0, Blocked())
import InContextSegLib.worker.process, InContextSegLib.worker.answers
"""


def test_the_worker_does_without_what_is_not_listed():
    command = [sys.executable, "-c", WITHOUT]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
