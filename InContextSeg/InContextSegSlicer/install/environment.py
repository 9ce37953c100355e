"""Slicer, pip and this computer as an installation meets them.

Why three ways to install, each read in the sources of Slicer 5.12 and of the extension PyTorch:

- The small packages go through ``slicer.packaging.pip_install(blocking=False)``, the convention. It leaves the window
  alone and hands over every line, but keeps its process to itself, so it cannot be ended, only waited for; few retries
  make that short.
- torch goes through the extension PyTorch, but not through its ``installTorch``: that occupies the window until
  gigabytes are downloaded, cannot be cancelled, takes no constraints, and imports torch into Slicer. What it does is
  run ``light_the_torch`` with arguments that its logic makes; we ask the logic for them and run that in a process of
  our own. Its temporary files lie beside the constraints, so that gigabytes do not stay behind when it is ended.
- Should a future version of the extension no longer tell its arguments, its ``installTorch`` is called after all, with
  a warning that Slicer does not answer meanwhile.
"""

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from InContextSegSlicer.install.install import canonical
from InContextSegSlicer.worker.process import PythonProcess

EXTENSION = "PyTorch"
# Without these pip tries for minutes before it admits that there is no network, and may wait for an answer.
_PATIENCE = ["--retries=2", "--timeout=20", "--no-input", "--disable-pip-version-check"]
# "numpy-2.4.6.dist-info"; what pip leaves half removed starts with "~".
_DESCRIPTION = re.compile(r"(?P<name>\w[\w.]*)-(?P<version>\d[^-]*)(-py[\d.]+)?\.(dist|egg)-info")


class SlicerEnvironment:
    """The environment of an `Installer`, in Slicer."""

    pythonVersion = sys.version_info[:2]

    def versions(self) -> Mapping[str, str]:
        """By the names of the folders that describe packages: importlib.metadata reads a file for each, in 1 ms."""
        importlib.invalidate_caches()
        found: dict[str, str] = {}
        for folder in filter(os.path.isdir, sys.path):
            with os.scandir(folder) as entries:
                for match in filter(None, (_DESCRIPTION.fullmatch(entry.name) for entry in entries)):
                    # Of two with one name, Python imports the first.
                    found.setdefault(canonical(match["name"]), match["version"])
        return found

    def graphicsCard(self) -> str:
        """By the same tool that decides which torch is installed."""
        if sys.platform == "darwin":
            return "apple"
        return "nvidia" if shutil.which("nvidia-smi") else ""

    def freeMegabytes(self) -> float:
        return shutil.disk_usage(sysconfig.get_path("purelib")).free / 1e6

    def hasTorchExtension(self) -> bool:
        return importlib.util.find_spec("PyTorchUtils") is not None

    def installTorchExtension(self) -> bool:
        manager = getattr(slicer.app, "extensionsManagerModel", lambda: None)()
        if manager is None:  # a Slicer built without the Extensions Manager
            return False
        asked = manager.interactive
        manager.interactive = False  # the user has agreed to it already
        try:
            manager.installExtensionFromServer(EXTENSION, False)
            manager.setExtensionEnabled(EXTENSION, True)
        finally:
            manager.interactive = asked
        # Not what installExtensionFromServer returns: that is True after a failed download as well.
        return bool(manager.isExtensionInstalled(EXTENSION))

    def busy(self) -> bool:
        import slicer.packaging  # noqa: PLC0415 - only Slicer 5.12 and later have it

        return slicer.packaging.isPipInstallInProgress()

    def startPackages(self, requirements: list[str], constraints: Path) -> "PackagesRun":
        return PackagesRun(requirements, constraints)

    def startTorch(self, requirement: str, constraints: Path) -> "PythonProcess | BlockingTorchRun":
        import PyTorchUtils  # noqa: PLC0415 - of another extension

        logic, version = PyTorchUtils.PyTorchUtilsLogic, requirement.removeprefix("torch")
        arguments = torchArguments(logic, version)
        if arguments is None:
            return BlockingTorchRun(logic, version, constraints)
        process = PythonProcess(
            ["-m", "light_the_torch", *arguments, "-c", str(constraints), *_PATIENCE, *self._progressOption()],
            environment=dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(constraints.parent)),
            merged=True,
        )
        process.start()
        return process

    def restart(self) -> None:
        slicer.util.restart()

    def _progressOption(self) -> list[str]:
        """Bytes done and to do, line by line, where pip is new enough to tell."""
        pip = [int(part) for part in self.versions().get("pip", "0.0").split(".")[:2]]
        return ["--progress-bar", "raw"] if pip >= [24, 1] else []


class PackagesRun:
    """pip as `slicer.packaging` runs it: beside the window, but not to be ended."""

    def __init__(self, requirements: list[str], constraints: Path):
        import slicer.packaging  # noqa: PLC0415 - only Slicer 5.12 and later have it

        self._lines: list[str] = []
        self.exitCode: int | None = None
        try:
            slicer.packaging.pip_install(
                [*requirements, *_PATIENCE],
                constraints=constraints,
                blocking=False,
                show_progress=False,
                logCallback=self._lines.append,
                completedCallback=self._complete,
            )
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            self._lines.append(f"ERROR: {error}")
            self.exitCode = 1
        # In testing mode, and outside the application, it waits in spite of blocking=False, and calls nothing back.
        if self.exitCode is None and not slicer.packaging.isPipInstallInProgress():
            self.exitCode = 0

    def lines(self) -> list[str]:
        lines = list(self._lines)
        self._lines.clear()
        return lines

    def running(self) -> bool:
        return self.exitCode is None

    def kill(self) -> None:
        """It ends by itself: the packages are small."""

    def _complete(self, exitCode: int) -> None:
        self.exitCode = exitCode


class BlockingTorchRun:
    """torch as the extension PyTorch installs it itself: Slicer does not answer until it is there."""

    def __init__(self, logic: type, version: str, constraints: Path):
        self._logic, self._version, self._constraints = logic, version, constraints
        self._announced = False
        self.exitCode: int | None = None

    def lines(self) -> list[str]:
        """First a warning, which the window can show before the second call, the one that installs."""
        if not self._announced:
            self._announced = True
            return [_("Slicer does not answer until PyTorch is installed. The Python console shows the progress.")]
        return self._install() if self.exitCode is None else []

    def running(self) -> bool:
        return self.exitCode is None

    def kill(self) -> None:
        """Possible before it has begun, and never while: nobody could have asked."""
        self.exitCode = -1

    def _install(self) -> list[str]:
        # As an address, because pip takes a space in this variable for the end of a file's name.
        os.environ["PIP_CONSTRAINT"] = self._constraints.as_uri()
        try:
            torch = self._logic().installTorch(askConfirmation=False, torchVersionRequirement=self._version)
        except (OSError, RuntimeError, ValueError, ImportError, subprocess.SubprocessError) as error:
            self.exitCode = 1
            return [f"ERROR: {error}"]
        finally:
            del os.environ["PIP_CONSTRAINT"]
        self.exitCode = 0 if torch is not None else 1
        return []


def torchArguments(logic: type, version: str) -> list[str] | None:
    """What the extension PyTorch would run light_the_torch with; None where it does not tell."""
    try:
        arguments = logic._getPipInstallArguments(torchVersionRequirement=version)
    except (AttributeError, TypeError):
        return None
    known = isinstance(arguments, list) and arguments[:1] == ["install"]
    return [str(argument) for argument in arguments] if known else None
