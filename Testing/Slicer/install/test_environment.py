"""Slicer and pip as the installation meets them: stand-ins of Slicer's modules, but real processes and real folders."""

import os
import subprocess
import sys
import types

import pytest
import slicer
import slicer.packaging

from InContextSegSlicer.install.environment import BlockingTorchRun, PackagesRun, SlicerEnvironment, torchArguments
from InContextSegSlicer.worker.process import PythonProcess
from Testing.Slicer.worker.test_process import until

# Stands for the package light_the_torch: says what it was asked for, then hangs, if it was asked to.
FINDER = """
import sys, tempfile, time
print("asked", *sys.argv[1:], flush=True)
print(tempfile.gettempdir(), flush=True)
time.sleep(600 * ("torch>=99" in sys.argv))
"""


@pytest.fixture
def environment(scene):
    return SlicerEnvironment()


@pytest.fixture
def constraints(tmp_path):
    file = tmp_path / "a folder with spaces" / "constraints.txt"
    file.parent.mkdir()
    file.write_text("numpy==2.4.0\n")
    return file


class Logic:
    """The logic of the extension PyTorch, as far as it is used."""

    installed = ()
    result: object = object()

    @staticmethod
    def _getPipInstallArguments(forceComputationBackend=None, torchVersionRequirement=None, torchvisionVersionRequirement=None):  # fmt: skip # noqa: E501
        return ["install", "torch" + torchVersionRequirement, "torchvision"]

    def installTorch(self, askConfirmation=False, forceComputationBackend=None, torchVersionRequirement=None):
        type(self).installed = (askConfirmation, torchVersionRequirement, os.environ["PIP_CONSTRAINT"])
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class SilentLogic(Logic):
    """A later version that keeps its arguments to itself."""

    _getPipInstallArguments = None


@pytest.fixture
def extension(monkeypatch, tmp_path):
    """The extension PyTorch, and the package that it uses, where the child process finds it."""
    module = types.ModuleType("PyTorchUtils")
    module.PyTorchUtilsLogic = Logic
    monkeypatch.setitem(sys.modules, "PyTorchUtils", module)
    package = tmp_path / "light_the_torch"
    package.mkdir()
    (package / "__main__.py").write_text(FINDER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return module


def drained(run):
    lines = []

    def ended():
        running = run.running()
        lines.extend(run.lines())
        return not running

    until(ended)
    return lines


def test_versions_are_those_that_python_reports(environment):
    versions = environment.versions()
    numpy = sys.modules["numpy"].__version__
    assert versions["numpy"] == numpy
    assert {"simpleitk", "slicer-core", "vtk", "pip"} <= set(versions)


def test_versions_are_seen_as_soon_as_they_are_there(environment, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("torch-2.13.0+cpu.dist-info", "~orch-2.1.dist-info", "Light_The.Torch-0.8.1-py3.12.egg-info"):
        (tmp_path / name).mkdir()
    versions = environment.versions()
    assert (versions["torch"], versions["light-the-torch"]) == ("2.13.0+cpu", "0.8.1")
    assert not any("orch" in name and name not in ("torch", "light-the-torch") for name in versions)


def test_a_graphics_card_is_found_by_its_tool(environment, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert environment.graphicsCard() == ""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("")
    tool.chmod(0o755)
    assert environment.graphicsCard() == "nvidia"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert environment.graphicsCard() == "apple"


def test_room_on_the_disk_is_known(environment):
    assert environment.freeMegabytes() > 1


def test_the_extension_is_there_once_python_finds_it(environment, tmp_path, monkeypatch):
    assert not environment.hasTorchExtension()
    (tmp_path / "PyTorchUtils.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert environment.hasTorchExtension()


class Manager:
    """qSlicerExtensionsManagerModel, whose answer to an installation is True even where the download failed."""

    def __init__(self, works):
        self.works, self.interactive, self.enabled, self.asked = works, True, [], []

    def installExtensionFromServer(self, name, restart=True, update=False):
        self.asked.append((name, restart, self.interactive))
        return True

    def setExtensionEnabled(self, name, value):
        self.enabled.append((name, value))

    def isExtensionInstalled(self, name):
        return self.works


@pytest.mark.parametrize("works", [True, False])
def test_the_extension_comes_from_slicers_server_without_questions(environment, monkeypatch, works):
    manager = Manager(works)
    monkeypatch.setattr(slicer.app, "extensionsManagerModel", lambda: manager, raising=False)
    assert environment.installTorchExtension() is works
    assert manager.asked == [("PyTorch", False, False)]
    assert manager.interactive is True


def test_a_slicer_without_extensions_manager_cannot_install_one(environment, monkeypatch):
    monkeypatch.setattr(slicer.app, "extensionsManagerModel", lambda: None, raising=False)
    assert not environment.installTorchExtension()


def test_small_packages_go_through_slicer_packaging_beside_the_window(environment, constraints):
    run = environment.startPackages(["einops>=0.7,<1"], constraints)
    assert drained(run)
    assert run.exitCode == 0
    function, requirements, options = slicer.packaging.calls[0]
    assert function == "pip_install"
    assert requirements[0] == "einops>=0.7,<1" and all(each.startswith("--") for each in requirements[1:])
    assert (options["constraints"], options["blocking"]) == (constraints, False)


def test_what_slicer_packaging_reports_later_is_heard(scene, constraints, monkeypatch):
    later = {}
    monkeypatch.setattr(slicer.packaging, "pip_install", lambda *_arguments, **options: later.update(options))
    monkeypatch.setattr(slicer.packaging, "isPipInstallInProgress", lambda: True)
    assert SlicerEnvironment().busy()
    run = PackagesRun(["einops"], constraints)
    run.kill()
    assert run.running() and run.exitCode is None
    later["logCallback"]("Collecting einops")
    later["completedCallback"](2)
    assert (run.lines(), run.running(), run.exitCode) == (["Collecting einops"], False, 2)


def test_in_testing_mode_slicer_packaging_waits_and_calls_nobody(scene, constraints, monkeypatch):
    monkeypatch.setattr(slicer.packaging, "pip_install", lambda *_arguments, **_options: None)
    assert PackagesRun(["einops"], constraints).exitCode == 0


@pytest.mark.parametrize("error", [subprocess.CalledProcessError(3, "pip"), RuntimeError("no PythonSlicer")])
def test_what_slicer_packaging_refuses_is_a_failure_with_its_words(scene, constraints, monkeypatch, error):
    def fail(*_arguments, **_options):
        raise error

    monkeypatch.setattr(slicer.packaging, "pip_install", fail)
    run = PackagesRun(["einops"], constraints)
    assert (run.lines(), run.exitCode) == ([f"ERROR: {error}"], 1)


def test_torch_is_asked_for_as_the_extension_would_but_in_a_process_of_its_own(environment, extension, constraints):
    run = environment.startTorch("torch>=2.3", constraints)
    assert isinstance(run, PythonProcess)
    line, temporary = drained(run)
    assert line.startswith(f"asked install torch>=2.3 torchvision -c {constraints} --retries=2")
    assert temporary == str(constraints.parent)
    assert run.exitCode == 0


def test_a_running_installation_of_torch_can_be_ended(environment, extension, constraints):
    run = environment.startTorch("torch>=99", constraints)
    until(run.lines)
    run.kill()
    assert not run.running() and run.exitCode == -1


@pytest.mark.parametrize(("pip", "asked"), [("23.3", False), ("24.0", False), ("24.1.2", True), ("26.0", True)])
def test_progress_is_asked_for_where_pip_can_tell(environment, extension, constraints, monkeypatch, pip, asked):
    monkeypatch.setattr(environment, "versions", lambda: {"pip": pip})
    line = drained(environment.startTorch("torch>=2.3", constraints))[0]
    assert line.endswith("--progress-bar raw") is asked


@pytest.mark.parametrize("logic", [SilentLogic, object, type("Odd", (), {"_getPipInstallArguments": lambda **_: "no"})])
def test_arguments_that_the_extension_does_not_tell_are_not_guessed(logic):
    assert torchArguments(logic, ">=2.3") is None


def test_then_the_extension_installs_torch_itself_after_a_warning(environment, extension, constraints):
    extension.PyTorchUtilsLogic = SilentLogic
    run = environment.startTorch("torch>=2.3", constraints)
    assert "does not answer" in run.lines()[0]
    assert run.running() and SilentLogic.installed == ()
    assert run.lines() == []
    assert SilentLogic.installed == (False, ">=2.3", constraints.as_uri())
    assert "%20" in constraints.as_uri() and "PIP_CONSTRAINT" not in os.environ
    assert (run.running(), run.exitCode) == (False, 0)


@pytest.mark.parametrize(("result", "lines"), [(RuntimeError("no disk"), ["ERROR: no disk"]), (None, [])])
def test_then_a_failure_is_told(constraints, result, lines):
    run = BlockingTorchRun(type("Failing", (Logic,), {"result": result}), ">=2.3", constraints)
    run.lines()
    assert (run.lines(), run.exitCode) == (lines, 1)


def test_then_only_what_has_not_begun_can_be_cancelled(constraints):
    run = BlockingTorchRun(type("Untouched", (Logic,), {"result": RuntimeError("called")}), ">=2.3", constraints)
    run.lines()
    run.kill()
    assert (run.lines(), run.running(), run.exitCode) == ([], False, -1)


def test_slicer_is_restarted_by_slicer(environment):
    environment.restart()
    assert slicer.app.restarts == 1
