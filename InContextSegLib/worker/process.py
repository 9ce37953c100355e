"""The worker process: `python -m InContextSegLib.worker.process FOLDER` answers until its pipes are closed."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Lock, Thread
from typing import Any, BinaryIO

from InContextSegLib import __version__
from InContextSegLib.errors import Cancelled, InputError, OutputError, WeightsError
from InContextSegLib.memory import NO_MEMORY, is_exhaustion, keep_freed_memory
from InContextSegLib.progress import Report
from InContextSegLib.worker.protocol import (
    BEGUN,
    Cancel,
    Correct,
    Neighbours,
    Preview,
    Stop,
    decode_line,
    encode_line,
    request_of,
)
from InContextSegLib.worker.shared_arrays import SharedFolder

LINE_BYTES = 16 << 20
BETWEEN_REPORTS_S = 0.1
REMARKS = 20
LANES = {Preview: "preview", Correct: "correct"}
QUICK = (Correct, Neighbours)

log = logging.getLogger(__name__)


class Channel:
    """Where answers go; both threads may send."""

    def __init__(self, pipe: BinaryIO, broken: Callable[[], None]):
        self._pipe, self._broken, self._lock = pipe, broken, Lock()

    def send(self, **message: Any) -> None:
        line = encode_line(message).encode("ascii")
        try:
            with self._lock:
                self._pipe.write(line)
                self._pipe.flush()
        except OSError:
            self._broken()


@dataclass(eq=False)
class _Errand:
    """A request on its way: asked, queued, running, answered."""

    number: int
    lane: str | None
    task: Any
    request: Any
    report: Report


class Worker:
    """One thread reads requests and answers what cannot wait; another computes, one request after the other."""

    def __init__(self, shared: SharedFolder, requests: BinaryIO, answers: BinaryIO):
        self._shared, self._turn = shared, shared.turn
        self._requests, self._channel = requests, Channel(answers, self.leave)
        self._waiting: list[_Errand] = []
        self._running: _Errand | None = None
        self._changed = Condition()
        self._stopping = False

    def run(self) -> None:
        """Serve until the pipe is closed or a stop was asked for; does not return."""
        computing = Thread(target=self._compute, daemon=True)
        computing.start()
        self._channel.send(**{"is": "ready", "version": __version__, "pid": os.getpid()})
        while not self._stopping and (line := self._requests.readline(LINE_BYTES)):
            text = line.decode("utf-8", "replace")
            if not line.endswith(b"\n"):
                text = text[:100]  # no request is that long, and its beginning is no JSON
            while line and not line.endswith(b"\n"):
                line = self._requests.readline(LINE_BYTES)
            self._take(text)
        if self._stopping:
            computing.join()
            os._exit(0)
        self.leave()

    def leave(self) -> None:
        """End at once, whatever is being computed: nobody is there any more to hear it."""
        # Where another worker has followed, the folder is in use.
        if self._turn and self._shared.turn == self._turn:
            self._shared.remove()
        os._exit(0)

    def _take(self, line: str) -> None:
        number = None
        try:
            message = decode_line(line)
            number = message.get("id")
            if type(number) is not int:
                raise InputError(f"A request needs a whole number as its id, but {number!r} came.")
            request = request_of(message)
        except InputError as error:
            self._channel.send(id=number, **{"is": "failed", "kind": "InputError", "message": str(error)})
            return
        if isinstance(request, Cancel):
            self._channel.send(id=number, **{"is": "done", "found": self._cancel(request.target)})
            return
        lane = message.get("lane") or LANES.get(type(request))
        report = Report(_Show(self._channel, number))
        errand = _Errand(number, lane, message.get("task"), request, report)
        with self._changed:
            self._make_way(errand)
            self._waiting.append(errand)
            self._stopping = isinstance(request, Stop)
            self._changed.notify()

    def _make_way(self, newer: _Errand) -> None:
        """The newest of a lane takes the place of those before it, and anything that of neighbours computed ahead."""
        running = self._running
        if running is not None and isinstance(running.request, Neighbours):
            running.report.cancel()
        if newer.lane is not None and running is not None and running.lane == newer.lane:
            # What is learnt about the task serves the newer one too; only its slice is of no use any more.
            if running.task == newer.task:
                running.report.hurry()
            else:
                running.report.cancel()
        for older in list(self._waiting):
            if isinstance(older.request, Neighbours) or (newer.lane is not None and older.lane == newer.lane):
                self._drop(older)

    def _cancel(self, number: int) -> bool:
        with self._changed:
            for errand in [each for each in self._waiting if each.number == number]:
                self._drop(errand)
                return True
            if self._running is not None and self._running.number == number:
                self._running.report.cancel()
                return True
        return False

    def _drop(self, errand: _Errand) -> None:
        self._waiting.remove(errand)
        self._channel.send(id=errand.number, **{"is": "cancelled"})

    def _compute(self) -> None:
        cache = None
        while True:
            with self._changed:
                self._running = None
                self._changed.wait_for(lambda: self._waiting)
                self._running = errand = self._waiting.pop(0)
            if isinstance(errand.request, Stop):
                self._channel.send(id=errand.number, **{"is": "done"})
                return
            remarks = _Remarks()
            self._channel.send(id=errand.number, **{"is": "progress", "done": 0, "total": 1, "message": BEGUN})
            try:
                cache = cache or _cache(self._shared)
                answer = {"is": "done", **cache.answer(errand.request, errand.report), "remarks": remarks.said}
            except Exception as error:
                answer = outcome(error)
                if answer.get("kind") == "Bug":
                    log.exception("Request %d failed.", errand.number)
                # What a newer click takes the place of leaves all in use.
                if cache is not None and not (answer["is"] == "cancelled" and isinstance(errand.request, QUICK)):
                    cache.recover(everything=answer.get("kind") == "OutOfMemory")
            finally:
                remarks.close()
            self._channel.send(id=errand.number, **answer)


def outcome(error: Exception) -> dict[str, str]:
    """What to answer where there is no result."""
    if isinstance(error, Cancelled):
        return {"is": "cancelled"}
    for kind in (InputError, OutputError, WeightsError):
        if isinstance(error, kind):
            return _failed(kind.__name__, str(error))
    if isinstance(error, ModuleNotFoundError):
        sentence = f"The package {error.name} is not installed for {sys.executable}; install it and ask again."
        return _failed("Missing", sentence)
    if is_exhaustion(error):
        return _failed("OutOfMemory", NO_MEMORY)
    return _failed("Bug", f"The worker failed with {type(error).__name__}: {error}; please report it with its log.")


def _failed(kind: str, message: str) -> dict[str, str]:
    return {"is": "failed", "kind": kind, "message": message}


def _cache(shared: SharedFolder) -> Any:
    # With the first request, as loading torch takes seconds, and it may be what is missing.
    from InContextSegLib.worker.answers import ANSWERS  # noqa: PLC0415
    from InContextSegLib.worker.cache import WorkerCache  # noqa: PLC0415

    return WorkerCache(shared, ANSWERS)


class _Show:
    """Sends the progress of a request, not more often than anybody can look."""

    def __init__(self, channel: Channel, number: int):
        self._channel, self._number, self._sent_at = channel, number, 0.0

    def __call__(self, done: int, total: int, message: str) -> None:
        now = time.monotonic()
        # What has no steps is news.
        if total and now - self._sent_at < BETWEEN_REPORTS_S:
            return
        self._sent_at = now
        self._channel.send(id=self._number, **{"is": "progress", "done": done, "total": total, "message": message})


class _Remarks(logging.Handler):
    """Collects the warnings of the library while a request is answered; a user should read them beside the result."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.said: list[str] = []
        logging.getLogger("InContextSegLib").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.said) < REMARKS:
            self.said.append(record.getMessage())

    def close(self) -> None:
        logging.getLogger("InContextSegLib").removeHandler(self)
        super().close()


def private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The process's own pipes for requests and answers, out of reach of whatever prints or reads.

    What is written to stdout, by Python, by a library in C or by a child, comes out on stderr; stdin is empty.
    """
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def main() -> None:
    """Serve the folder named on the command line."""
    requests, answers = private_pipes()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    # Read by OpenMP when torch is loaded: threads that spin while they wait take the processor from the panel.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    worker = Worker(SharedFolder(Path(sys.argv[1])), requests, answers)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal it is meant for the panel, whose end is heard
    signal.signal(signal.SIGTERM, lambda *_: worker.leave())
    worker.run()


if __name__ == "__main__":
    main()
