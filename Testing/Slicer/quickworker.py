"""A worker that answers at once, or when it is told to, so that a test decides what happens when."""

import json
import os

import numpy as np

from InContextSegLib.errors import InputError
from InContextSegLib.models.catalog import find, remove
from InContextSegLib.worker.protocol import ArrayRef, Preview, Segment, SlicesRef, request_of
from InContextSegLib.worker.shared_arrays import SharedFolder

BOX = (slice(2, 5), slice(3, 9), slice(3, 9))


def namesOf(labels):
    """The arrays that labels are made of."""
    return [name for _index, name in labels.slices] if isinstance(labels, SlicesRef) else [labels.name]


class QuickWorker:
    """Stands in for a transport: reads requests strictly, and segments a box whatever is shown.

    Attributes:
        hold: requests wait until this is empty again.
        fail: the kind and message of every answer to come, or None.
        dead: whether the process has ended.
        asked: what was asked for, by name.
    """

    def __init__(self, folder):
        self._folder, self._lines, self._waiting = SharedFolder(folder), [], []
        self.pid, self.hold, self.fail, self.dead, self.asked = os.getpid(), False, None, False, []

    def start(self):
        self._send(id=None, **{"is": "ready", "version": "", "pid": self.pid})

    def write(self, line):
        message = json.loads(line)
        self.asked.append(message["do"])
        if message["do"] != "cancel":
            self._waiting.append(message)
            self._send(id=message["id"], **{"is": "progress", "done": 0, "total": 1, "message": "begun"})
            return
        for each in [each for each in self._waiting if each["id"] == message["target"]]:
            self._waiting.remove(each)
            self._send(id=each["id"], **{"is": "cancelled"})

    def lines(self):
        if not self.hold:
            for message in self._waiting:
                self._send(id=message["id"], **self._tried(message))
            self._waiting = []
        lines, self._lines = self._lines, []
        return lines

    def complaints(self):
        return ""

    def running(self):
        return not self.dead

    def kill(self):
        self.dead = True

    def _send(self, **message):
        self._lines.append(json.dumps(message))

    def _tried(self, message):
        """The answer, or what a worker says of arrays that were taken back meanwhile."""
        try:
            return self._answer(message)
        except InputError as error:
            return {"is": "failed", "kind": "InputError", "message": str(error)}

    def _answer(self, message):
        if self.fail is not None:
            return {"is": "failed", "kind": self.fail[0], "message": self.fail[1]}
        try:
            return {"is": "done", "seconds": 0.1, "remarks": [], **self._done(message["do"], request_of(message))}
        except InputError as error:
            return {"is": "failed", "kind": "InputError", "message": str(error)}

    def _done(self, do, request):
        if do == "weights" and find(request.name).weights.own:
            return {"removed": remove(find(request.name), self._folder.path)}
        if do not in ("prepare", "preview", "segment"):
            return {"devices": [], "torch": "", "version": "", "chosen": "cpu", "threads": 1, "pairs": []}
        values = [value for value, _name in request.task.labels]
        for each in request.task.examples:
            if isinstance(each.image, ArrayRef):
                self._folder.read(each.image.name)
                for name in namesOf(each.labels):
                    self._folder.read(name)
        shape = self._folder.read(request.target.name).shape[:3]
        axis = next(iter(request.task.settings.axes))
        known = {"axis": "axial" if axis == "auto" else axis, "adaptation": {}, "uncertainty": None, "given": []}
        known["expected"] = {name: {"dice": 0.8, "spread": 0.1} for _value, name in request.task.labels}
        known["label_check"] = [{"example": request.task.examples[0].source, "why": "it is the first"}]
        labels = np.zeros(shape, np.uint8)
        labels[BOX] = values[0]
        if isinstance(request, Preview):
            along = {"axial": 0, "coronal": 1, "sagittal": 2}[request.axis or known["axis"]]
            labels = labels.take([request.index], along)
            corner = [request.index if each == along else 0 for each in range(3)]
            return known | {"block": {"array": self._folder.write(labels), "corner_kji": corner}}
        if isinstance(request, Segment):
            spread = self._folder.write(np.full(shape, 40, np.uint8))
            known |= {"block": {"array": self._folder.write(labels), "corner_kji": [0, 0, 0]}}
            known |= {"uncertainty": {"array": spread, "corner_kji": [0, 0, 0]}, "next_slice": 4, "unlike": []}
            amount = {
                "voxels": 9,
                "millilitres": 0.9,
                "expected_dice": 0.63,
                "verdict": "look at it",
                "why": ["too small"],
            }
            known["labels"] = {name: {"value": value} | amount for value, name in request.task.labels}
        return known
