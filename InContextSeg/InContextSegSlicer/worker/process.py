"""Slicer's Python as a child process: started without threads, read without waiting, ended with all its children."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import qt

from InContextSegLib.worker import transport

# How long the window may wait for a process that was ended by force to be gone; it takes a few milliseconds.
_GONE_MS = 2000


def pythonExecutable() -> str:
    """Slicer's Python with Slicer's settings: the launcher PythonSlicer, whose child is the real interpreter."""
    return shutil.which("PythonSlicer") or sys.executable


class PythonProcess:
    """A program run by Slicer's Python; its output arrives while Qt's event loop runs.

    Args:
        arguments: what follows ``python``, such as ``["-m", "pip", "list"]``.
        python: the interpreter; by default `pythonExecutable`.
        environment: variables that differ from Slicer's own.
        merged: whether what is written to stderr comes out of `lines` too, in its place among the rest.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        python: str | None = None,
        environment: Mapping[str, str] | None = None,
        merged: bool = False,
    ):
        self._arguments = [str(argument) for argument in arguments]
        self._python = python or pythonExecutable()
        self._rest = b""
        self._asked = self._started = self._toldWhy = False
        self._process = qt.QProcess()
        # Not asked by error(): in Qt 5 that is the name of a signal as well.
        self._process.connect("started()", self._onStarted)
        if merged:
            self._process.setProcessChannelMode(qt.QProcess.MergedChannels)
        self._process.setProcessEnvironment(_environment(environment or {}))

    def start(self) -> None:
        self._asked = True
        self._process.start(self._python, self._arguments)

    def write(self, line: str) -> None:
        """Queue one line for the program's stdin; Qt hands it over as the program reads."""
        if self.running():
            text = line if line.endswith("\n") else line + "\n"
            self._process.write(text.encode("utf-8"))

    def lines(self) -> list[str]:
        """The lines that are complete by now; the beginning of another is kept until its end has come."""
        *complete, self._rest = (self._rest + _bytes(self._process.readAllStandardOutput())).split(b"\n")
        if self._rest and not self.running():
            complete, self._rest = [*complete, self._rest], b""
        return [line.rstrip(b"\r").decode("utf-8", errors="replace") for line in complete]

    def complaints(self) -> str:
        """What was written to stderr since the last call, and why the program could not start, if it could not."""
        text = _bytes(self._process.readAllStandardError()).decode("utf-8", errors="replace")
        if self._failedToStart() and not self._toldWhy:
            self._toldWhy = True
            text += f"{self._python}: {self._process.errorString()}\n"
        return text

    def running(self) -> bool:
        return self._process.state() != qt.QProcess.NotRunning

    @property
    def exitCode(self) -> int | None:
        """None while it runs, -1 where it crashed, was killed, or never started."""
        if self.running():
            return None
        crashed = self._process.exitStatus() != qt.QProcess.NormalExit
        return -1 if crashed or not self._started else self._process.exitCode()

    @property
    def pid(self) -> int | None:
        """The process that Qt started, which may be a launcher; None where there is none."""
        return int(self._process.processId()) or None

    def kill(self) -> None:
        """End it with all its children, at once. What it has written by then can still be read."""
        if self.running():
            killTree([self.pid, *self._furtherPids()])
            self._process.kill()
            self._process.waitForFinished(_GONE_MS)

    def _furtherPids(self) -> list[int]:
        return []

    def _onStarted(self) -> None:
        self._started = True

    def _failedToStart(self) -> bool:
        return self._asked and not self._started and not self.running()


class QProcessTransport(PythonProcess):
    """The worker's pipes for `InContextSegLib.worker.client.WorkerClient`.

    If Slicer dies, its end of the worker's stdin closes, and the worker leaves at the end of its input.

    Args:
        folder: the folder that client and worker share for arrays.
        python: the interpreter; by default `pythonExecutable`.
        environment: variables that differ from Slicer's own.
    """

    def __init__(self, folder: Path, python: str | None = None, environment: Mapping[str, str] | None = None):
        python, *arguments = transport.command(folder, python or pythonExecutable())
        super().__init__(arguments, python, transport.environment() | dict(environment or {}))
        self._workerPid: int | None = None

    def lines(self) -> list[str]:
        complete = super().lines()
        if self._workerPid is None:
            self._workerPid = next(filter(None, map(_pidOfReady, complete)), None)
        return complete

    def _furtherPids(self) -> list[int]:
        """The real Python behind the launcher, as it introduced itself."""
        return [self._workerPid] if self._workerPid else []


def killTree(pids: Iterable[int | None]) -> None:
    """End processes with all their children, grandchildren and so on, without asking them."""
    roots = {pid for pid in pids if pid}
    if os.name == "nt":
        for pid in roots:
            _quietly("taskkill", "/PID", str(pid), "/T", "/F")
        return
    # Listed before the first one dies: an orphan is given to another parent, and could no longer be found.
    for pid in roots | _descendants(roots):
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            continue


def _descendants(roots: set[int]) -> set[int]:
    pairs = [tuple(map(int, line.split())) for line in _quietly("ps", "-A", "-o", "pid=,ppid=").splitlines()]
    found: set[int] = set()
    latest = roots
    while latest:
        latest = {pid for pid, parent in pairs if parent in latest} - found
        found |= latest
    return found - roots


def _quietly(*command: str) -> str:
    """What a command of the system prints; nothing where it is missing or fails."""
    # Without the flag a console window flashes up on Windows.
    flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5, creationflags=flags)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout


def _environment(changes: Mapping[str, str]) -> "qt.QProcessEnvironment":
    environment = qt.QProcessEnvironment.systemEnvironment()
    for name, value in {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", **changes}.items():
        environment.insert(name, str(value))
    return environment


def _bytes(array: "qt.QByteArray") -> bytes:
    return bytes(array.data())


def _pidOfReady(line: str) -> int | None:
    try:
        message = json.loads(line)
    except ValueError:
        return None
    ready = isinstance(message, dict) and message.get("is") == "ready"
    return message.get("pid") if ready else None
