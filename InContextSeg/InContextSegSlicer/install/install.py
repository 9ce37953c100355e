"""What InContextSeg needs and Slicer lacks, and how it gets there: the installation without a window.

torch comes through the extension PyTorch, the small rest through `slicer.packaging`, both reached by an `Environment`;
see `environment.py` for how, and why. Nothing here waits: `Installer.poll` is called by a timer.
"""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from slicer.i18n import tr as _

from InContextSegSlicer.install.diagnosis import Failure, explain

REQUIREMENTS = Path(__file__).resolve().parents[2] / "Resources" / "InContextSegRequirements.txt"
TORCH = "torch>=2.3"
# What the extension PyTorch uses to find the build of torch that fits the graphics card.
TORCH_FINDER = "light-the-torch>=0.5"
OLDEST_PYTHON = (3, 11)
RESUME_KEY = "InContextSeg/ResumeInstallation"

# What comes with Slicer and is built or chosen for it: pip must not touch these, whatever the new packages ask for.
PROTECTED = ("numpy", "scipy", "simpleitk", "vtk", "pillow", "pydicom", "dicomweb-client", "pip")

# Megabytes to download, and on the disk afterwards, with torch for: an NVIDIA card, a Mac, a plain processor.
_TORCH_DOWNLOAD_MB = {"nvidia": 3000, "apple": 90, "": 250}
_TORCH_DISK_MB = {"nvidia": 7500, "apple": 500, "": 1200}
_SMALL_MB = {"safetensors": 0.5}
_EXTENSION_MB = 1
_LOG_LINES = 5000
_LOG_COLUMNS = 1000  # a full disk makes pip list thousands of files in one line


class Run(Protocol):
    """Something that installs, in another process or, where there is no other way, in this one."""

    def lines(self) -> list[str]: ...
    def running(self) -> bool: ...
    @property
    def exitCode(self) -> int | None: ...
    def kill(self) -> None:
        """End it now, or if that is not possible do nothing: it is then waited for."""


class Environment(Protocol):
    """Slicer, pip and this computer, as far as an installation has to do with them."""

    pythonVersion: tuple[int, int]

    def versions(self) -> Mapping[str, str]:
        """What is installed now: name in lower case with hyphens, version."""

    def graphicsCard(self) -> str:
        """ "nvidia", "apple", or "" for none that torch computes on."""

    def freeMegabytes(self) -> float: ...
    def hasTorchExtension(self) -> bool: ...
    def installTorchExtension(self) -> bool: ...
    def busy(self) -> bool:
        """Whether somebody else installs packages at this moment."""

    def startPackages(self, requirements: list[str], constraints: Path) -> Run: ...
    def startTorch(self, requirement: str, constraints: Path) -> Run: ...
    def restart(self) -> None: ...


class Settings(Protocol):
    """QSettings, as far as it is used here."""

    def value(self, key: str) -> object: ...
    def setValue(self, key: str, value: object) -> None: ...
    def remove(self, key: str) -> None: ...


@dataclass(frozen=True)
class Part:
    """Something that is missing: its name, what it is for, and what it costs to download."""

    name: str
    purpose: str
    megabytes: float


class Installer:
    """One installation after another, each from "missing" to "complete".

    A cancelled or killed installation can be started again: pip downloads first, then unpacks, and overwrites what it
    finds half unpacked.

    Attributes:
        state: "complete", "missing", "installing", "stopping", "failed" or "restart".
        parts: what is missing.
        failure: why it has "failed".
        log: what pip wrote.
        download: bytes done and to do of the file that is being downloaded; None where pip does not tell.
        cancelled: whether the last installation was stopped by the user.
    """

    def __init__(self, environment: Environment, settings: Settings, requirements: Iterable[str] | None = None,
                 clock: Callable[[], float] = time.monotonic):  # fmt: skip
        self._environment = environment
        self._settings = settings
        self._requirements = tuple(readRequirements(REQUIREMENTS) if requirements is None else requirements)
        self._clock = clock
        self._run: Run | None = None
        self._steps: list[Callable[[], Run]] = []
        self._before: Mapping[str, str] = {}
        self._constraints: Path | None = None
        self._began = 0.0
        self.parts: list[Part] = []
        self.log: list[str] = []
        self.download: tuple[int, int] | None = None
        self.failure: Failure | None = None
        self.cancelled = False
        self.state = "missing"
        self.look()

    def look(self) -> str:
        """See anew what is missing, unless something else is to be told. Returns the state."""
        if self.state in ("missing", "complete"):
            self.parts = self._missing()
            self.state = "missing" if self.parts else "complete"
        return self.state

    @property
    def seconds(self) -> float:
        """How long the installation runs."""
        return self._clock() - self._began

    def needsExtension(self) -> bool:
        return self._torchIsMissing() and not self._environment.hasTorchExtension()

    def waitsForRestart(self) -> bool:
        """Whether the installation goes on after a restart."""
        return str(self._settings.value(RESUME_KEY)).lower() == "true"

    def mustResume(self) -> bool:
        """Whether the restart has taken place, and the installation is to go on."""
        return self.waitsForRestart() and self.state == "missing"

    def start(self) -> None:
        """Install what is missing. Afterwards `poll` until the state is no longer "installing" or "stopping"."""
        if self.state == "failed":
            self.state, self.failure = "missing", None
        if self.look() != "missing":
            return
        # Taken away first: an installation that crashes Slicer is not repeated at every start.
        self._settings.remove(RESUME_KEY)
        self.cancelled, self.log, self.download = False, [], None
        self._began = self._clock()
        obstacle = self._obstacle()
        if obstacle:
            self._fail(obstacle)
        elif self.needsExtension():
            self._installExtension()
        else:
            self._begin()

    def poll(self) -> None:
        """Read what the running installation wrote; go on to the next step, or come to an end."""
        if self._run is None:
            return
        # Asked before the lines are read: what it writes last is read all the same.
        running = self._run.running()
        for line in self._run.lines():
            self._read(line)
        if running:
            return
        code = self._run.exitCode
        self._run = None
        if self.cancelled:
            self._finish("missing")
            self.look()
        elif code != 0:
            self._fail(explain(self.log, -1 if code is None else code))
        elif self._steps:
            self._next()
        else:
            self._verify()

    def cancel(self) -> None:
        """Stop soon. pip leaves what is complete, and overwrites the rest next time."""
        if self._run is not None and not self.cancelled:
            self.cancelled = True
            self._steps = []
            self.state = "stopping"
            self._run.kill()

    def restart(self) -> None:
        self._environment.restart()

    def _obstacle(self) -> Failure | None:
        environment = self._environment
        if environment.pythonVersion < OLDEST_PYTHON:
            have, need = (".".join(map(str, version)) for version in (environment.pythonVersion, OLDEST_PYTHON))
            return Failure(
                _("This Slicer brings Python {have}; InContextSeg needs {need}.").format(have=have, need=need),
                _("Install the newest Slicer."),
            )
        if environment.busy():
            return Failure(
                _("Another extension is installing packages at the moment."),
                _("Wait until it is done, then try again."),
            )
        needed = _TORCH_DISK_MB[environment.graphicsCard()] if self._torchIsMissing() else 50
        free = environment.freeMegabytes()
        if free < needed:
            return Failure(
                _("There is not enough room on the disk that holds Slicer: {need} are needed, {free} are free.").format(
                    need=inUnits(needed), free=inUnits(free)
                ),
                _("Free some space, then try again."),
            )
        return None

    def _installExtension(self) -> None:
        """Slicer downloads it while its window keeps working, and loads it at its next start."""
        self._settings.setValue(RESUME_KEY, True)
        self.state = "installing"
        if self._environment.installTorchExtension():
            self._finish("restart")
            return
        self._settings.remove(RESUME_KEY)
        self._fail(
            Failure(
                _("Slicer could not install its extension PyTorch."),
                _("Check the network, or install the extension PyTorch in the Extensions Manager; then try again."),
            )
        )

    def _begin(self) -> None:
        self._before = dict(self._environment.versions())
        self._constraints = writeConstraints(self._before)
        small = [line for line in self._requirements if not isSatisfied(line, self._before)]
        torch = self._torchIsMissing()
        if torch and not isSatisfied(TORCH_FINDER, self._before):
            small.append(TORCH_FINDER)
        # The small ones first: they show within seconds whether the network, the disk and the permissions are right.
        if small:
            self._steps.append(lambda: self._environment.startPackages(small, self._constraints))
        if torch:
            self._steps.append(lambda: self._environment.startTorch(TORCH, self._constraints))
        self.state = "installing"
        self._next()

    def _next(self) -> None:
        self.download = None
        try:
            self._run = self._steps.pop(0)()
        except ImportError as error:
            self._fail(
                Failure(
                    _("Slicer's extension PyTorch cannot be loaded: {error}").format(error=error),
                    _("Remove it in the Extensions Manager and install it again; then try again here."),
                )
            )

    def _read(self, line: str) -> None:
        done = re.fullmatch(r"\s*Progress (\d+) of (\d+)\s*", line)
        if done:
            self.download = (int(done[1]), int(done[2]))
        elif line.strip():
            self.download = None
            self.log = [*self.log[-_LOG_LINES:], line.rstrip()[:_LOG_COLUMNS]]

    def _verify(self) -> None:
        after = self._environment.versions()
        changed = {name: old for name, old in self._before.items() if after.get(name) != old}
        broken = {name: old for name, old in changed.items() if name in PROTECTED}
        if broken:
            self._fail(_replaced(broken, after))
            return
        self.parts = self._missing()
        if self.parts:
            names = ", ".join(part.name for part in self.parts)
            self._fail(
                Failure(
                    _("pip reported success, but this is still missing: {names}.").format(names=names),
                    _("Restart Slicer and try again. If it happens again, copy the log and report it."),
                )
            )
        else:
            # Slicer may have loaded the older version of something that was replaced.
            self._finish("restart" if changed else "complete")

    def _fail(self, failure: Failure) -> None:
        self.failure = failure
        self._finish("failed")

    def _finish(self, state: str) -> None:
        self._steps = []
        if self._constraints is not None:
            shutil.rmtree(self._constraints.parent, ignore_errors=True)
            self._constraints = None
        self.state = state

    def _missing(self) -> list[Part]:
        installed = self._environment.versions()
        parts = []
        if not isSatisfied(TORCH, installed):
            if self.needsExtension():
                parts.append(Part(_("Extension PyTorch"), _("finds the right PyTorch"), _EXTENSION_MB))
            parts.append(
                Part("PyTorch", _("the engine that computes"), _TORCH_DOWNLOAD_MB[self._environment.graphicsCard()])
            )
        small = [nameOf(line) for line in self._requirements if not isSatisfied(line, installed)]
        if small:
            megabytes = sum(_SMALL_MB.get(name, 0.1) for name in small)
            parts.append(Part(", ".join(small), _("small tools that it uses"), megabytes))
        return parts

    def _torchIsMissing(self) -> bool:
        return not isSatisfied(TORCH, self._environment.versions())


def readRequirements(path: Path) -> list[str]:
    """The lines of a requirements file that name a package."""
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line]


def nameOf(requirement: str) -> str:
    return canonical(re.match(r"[\w.-]+", requirement)[0])


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def isSatisfied(requirement: str, installed: Mapping[str, str]) -> bool:
    from packaging.specifiers import SpecifierSet  # noqa: PLC0415 - Slicer brings it, but it is not for file scope

    name, limits = re.fullmatch(r"([\w.-]+)\s*(.*)", requirement).groups()
    version = installed.get(canonical(name))
    return version is not None and SpecifierSet(limits).contains(version, prereleases=True)


def writeConstraints(installed: Mapping[str, str]) -> Path:
    """A file that tells pip to leave what Slicer came with as it is.

    It has a folder to itself, in which pip may also put what it downloads; the caller deletes the folder. Named like
    the folders of workers, so that after a crash it is swept away with these.
    """
    file = Path(tempfile.mkdtemp(prefix=f"incontextseg-{os.getpid()}-")) / "constraints.txt"
    file.write_text("".join(f"{name}=={installed[name]}\n" for name in PROTECTED if name in installed), "utf-8")
    return file


def inUnits(megabytes: float) -> str:
    """A size somebody waits for: coarse."""
    if megabytes >= 995:
        return _("{size} GB").format(size=f"{megabytes / 1000:.1f}".removesuffix(".0"))
    step = 10 if megabytes >= 100 else 1
    return _("{size} MB").format(size=max(1, step * round(megabytes / step)))


def _replaced(broken: Mapping[str, str], after: Mapping[str, str]) -> Failure:
    changes = ", ".join(f"{name} {old} → {after.get(name, _('removed'))}" for name, old in broken.items())
    commands = " ".join(f"{name}=={old}" for name, old in broken.items())
    return Failure(
        _("Packages that came with Slicer were replaced, which must not happen: {changes}.").format(changes=changes),
        _("Slicer may misbehave until they are put back: run 'PythonSlicer -m pip install {commands}', or install"
          " Slicer anew. Please report this with the log.").format(commands=commands),
    )  # fmt: skip
