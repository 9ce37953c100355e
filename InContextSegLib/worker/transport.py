"""The pipes between a panel and its worker process, and what a worker needs to be started."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

_PATIENCE_S = 3.0  # with the pipes of a process that is dead


class Transport(Protocol):
    """A worker process and its pipes; nothing here waits for it."""

    pid: int | None

    def start(self) -> None:
        """Start the process; raises OSError where that can be told at once."""

    def write(self, line: str) -> None:
        """Send a line; one that a dead process cannot take is lost in silence."""

    def lines(self) -> list[str]:
        """The complete lines that came since last asked."""

    def complaints(self) -> str:
        """What the process wrote on stderr since last asked."""

    def running(self) -> bool:
        """Whether more lines may come."""

    def kill(self) -> None:
        """End the process and all that it started."""


def command(folder: Path, python: str = sys.executable) -> list[str]:
    """The command line of a worker for that folder."""
    return [python, "-m", "InContextSegLib.worker.process", str(folder)]


def environment() -> dict[str, str]:
    """What a worker needs besides the variables of its parent: to find this library, and no other of the same name.

    The threads of numpy's products would wait for those of torch, and for the panel: a preview took twice as long.
    """
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1", "PYTHONUTF8": "1"}
    return found | {"OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1")}


class SubprocessTransport:
    """A worker as a child of a plain Python process; three threads serve its pipes, as pipes have no other patience.

    Attributes:
        command: what is started.
    """

    def __init__(self, folder: Path, python: str = sys.executable, variables: Mapping[str, str] | None = None):
        self.command = command(folder, python)
        self._environment = os.environ | environment() | dict(variables or {})
        self._process: subprocess.Popen | None = None
        self._written: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._complaints: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._threads: list[Thread] = []

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        self._process = self._spawned()
        readers = ((self._process.stdout, self._lines), (self._process.stderr, self._complaints))
        self._threads = [Thread(target=_drain, args=each, daemon=True) for each in readers]
        self._threads.append(Thread(target=self._send, daemon=True))
        for thread in self._threads:
            thread.start()

    def write(self, line: str) -> None:
        self._written.put(line.encode("ascii"))

    def lines(self) -> list[str]:
        return _taken(self._lines)

    def complaints(self) -> str:
        return "".join(_taken(self._complaints))

    def running(self) -> bool:
        # By the pipe: what the process said last may still be on its way when it is gone.
        return bool(self._threads) and self._threads[0].is_alive()

    def kill(self) -> None:
        if self._process is None:
            return
        kill_tree(self._process.pid)
        self._process.wait()
        self._written.put(None)
        for thread in self._threads:
            thread.join(_PATIENCE_S)

    def _spawned(self) -> subprocess.Popen:
        pipe, own_group = subprocess.PIPE, {"start_new_session": True}
        if os.name == "nt":
            own_group = {"creationflags": subprocess.CREATE_NO_WINDOW}
        return subprocess.Popen(self.command, stdin=pipe, stdout=pipe, stderr=pipe, env=self._environment, **own_group)

    def _send(self) -> None:
        with contextlib.suppress(OSError), self._process.stdin as pipe:
            while (line := self._written.get()) is not None:
                pipe.write(line)
                pipe.flush()


def _drain(pipe: Any, into: queue.SimpleQueue) -> None:
    with pipe:
        for line in pipe:
            into.put(line.decode("utf-8", "replace"))


def _taken(lines: queue.SimpleQueue) -> list[str]:
    found = []
    with contextlib.suppress(queue.Empty):
        while True:
            found.append(lines.get_nowait())
    return found


def kill_tree(pid: int) -> None:
    """End a process that leads a group of its own (Windows: any process), with its children; none is fine."""
    if os.name == "nt":
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(pid)], capture_output=True, check=False)
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
