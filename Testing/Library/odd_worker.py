"""A worker whose requests behave badly, for tests of the channel: `python odd_worker.py FOLDER`; it needs no torch."""

import ctypes
import os
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from InContextSegLib.errors import OutputError
from InContextSegLib.worker import process as worker
from InContextSegLib.worker import protocol
from InContextSegLib.worker.transport import SubprocessTransport


@dataclass(frozen=True)
class Odd:
    """Does `what` it says with `number`."""

    what: str
    number: float = 0


class OddCache:
    """Answers by doing the odd thing."""

    def __init__(self, shared):
        self.shared = shared

    def answer(self, request, report):
        if isinstance(request, protocol.Neighbours):
            return self.steps(10000, report)
        if isinstance(request, protocol.Correct):
            return self.steps(10, report) or self.echo(request.index, report)
        return getattr(self, request.what)(request.number, report) or {}

    def recover(self, everything):
        print("recovered, everything" if everything else "recovered")

    def echo(self, number, report):
        return {"echo": number}

    def pid(self, number, report):
        return {"pid": os.getpid(), "folder": str(self.shared.path)}

    def noise(self, number, report):
        print('{"id": 1, "is": "done"}', flush=True)
        os.write(1, b"half a line")
        library = ctypes.CDLL(None)
        library.puts(b'{"id": 1, "is": "failed", "kind": "Bug", "message": "C"}')
        library.fflush(None)
        subprocess.run(["echo", '{"id": 1, "is": "cancelled"}'], check=True)
        warnings.warn("a warning", stacklevel=1)
        return {"read": sys.stdin.readline(), "descriptors": os.read(0, 10).decode()}

    def steps(self, number, report):
        for done in range(int(number)):
            report.step(done, int(number), "step")
            time.sleep(0.02)

    def deaf(self, number, report):
        report.step(0, 1, "deaf from now on")
        time.sleep(number)

    def busy(self, number, report):
        square = np.ones((600, 600))
        while True:
            square = square @ square / 600

    def writes(self, number, report):
        while True:
            self.shared.write(np.zeros(int(number), np.uint8))

    def array(self, number, report):
        time.sleep(number)
        return {"block": {"array": self.shared.write(np.arange(3)), "corner_kji": [0, 0, 0]}}

    def fails(self, number, report):
        raise [
            ZeroDivisionError("by nothing"),
            MemoryError(),
            RuntimeError("CUDA out of memory"),
            OutputError("Full."),
        ][int(number)]

    def missing(self, number, report):
        import no_such_package  # noqa: F401, PLC0415

    def dies(self, number, report):
        print("these are my last words", file=sys.stderr, flush=True)
        os._exit(3)


def transport(folder):
    """Of an odd worker."""
    made = SubprocessTransport(folder)
    made.command = [sys.executable, str(Path(__file__).resolve()), str(folder)]
    return made


if __name__ == "__main__":
    protocol.REQUESTS["odd"] = Odd
    worker._cache = OddCache
    worker.main()
