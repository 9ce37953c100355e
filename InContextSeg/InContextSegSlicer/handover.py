"""Volumes and segments of the scene handed to the worker, each once for as long as it stays as it is."""

import hashlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import slicer

from InContextSegLib.client import WorkerClient
from InContextSegLib.protocol import ArrayRef, SlicesRef
from InContextSegLib.volume import Kind
from InContextSegSlicer import bridge

# On the disk for temporary files; a large CT is 100 MB, its labels half of it.
KEPT_BYTES = 4 << 30
# Read at about 1 GB/s, so a piece takes a few milliseconds.
_HASHED_BYTES = 1 << 22


@dataclass
class Handover:
    """Publishes arrays through the client and remembers what was published.

    Labels are told apart by their content: an edit of slices that do not teach changes nothing for the worker, whose
    caches stay good. What was used longest ago goes first where there is too much.
    """

    client: WorkerClient
    keptBytes: int = KEPT_BYTES
    _kept: dict[tuple, tuple[str, int]] = field(default_factory=dict)  # what it is: array, bytes; the last used last

    def volume(self, node: slicer.vtkMRMLScalarVolumeNode) -> Generator[None, None, ArrayRef]:
        """A chore: the volume as the worker can read it."""
        array = bridge.arrayOf(node)
        what = ("volume", node.GetID(), node.GetImageData().GetMTime())
        name = yield from self._published(what, array)
        return ArrayRef.of(name, bridge.geometryOf(node))

    def labels(
        self,
        segmentation: slicer.vtkMRMLSegmentationNode,
        values: Mapping[str, int],
        volume: slicer.vtkMRMLScalarVolumeNode,
    ) -> Generator[None, None, ArrayRef]:
        """A chore: segments (ID: value) as a label map on the grid of a volume."""
        array = yield from bridge.labelsOnGrid(segmentation, values, volume)
        name = yield from self._told(array)
        return ArrayRef.of(name, bridge.geometryOf(volume), Kind.LABELS)

    def slices(
        self,
        segmentation: slicer.vtkMRMLSegmentationNode,
        values: Mapping[str, int],
        volume: slicer.vtkMRMLScalarVolumeNode,
        axis: int,
        indices: Sequence[int],
    ) -> Generator[None, None, SlicesRef]:
        """A chore: segments (ID: value) on slices of a volume across an axis of the array, those that show any."""
        labels = yield from bridge.labelsOnSlices(segmentation, values, volume, axis, indices)
        named = []
        for number, index in enumerate(indices):
            one = labels.take([number], axis)
            if one.any():
                name = yield from self._told(one)
                named.append((index, name))
        return SlicesRef.of(named, axis, bridge.geometryOf(volume))

    def forgetAll(self) -> None:
        """Take every array back, as when a scene is closed."""
        for name, _bytes in self._kept.values():
            self.client.forget(name)
        self._kept.clear()

    def _told(self, labels: np.ndarray) -> Generator[None, None, str]:
        digest = yield from _digest(labels)
        return (yield from self._published(("labels", digest), labels))

    def _published(self, what: tuple, array: np.ndarray) -> Generator[None, None, str]:
        known = self._kept.pop(what, None)
        if known is None:
            name = yield from self.client.publishing(array)
            known = name, array.nbytes
        self._kept[what] = known
        while sum(size for _name, size in self._kept.values()) > self.keptBytes and len(self._kept) > 1:
            oldest = next(iter(self._kept))
            self.client.forget(self._kept.pop(oldest)[0])
        return known[0]


def _digest(array: np.ndarray) -> Generator[None, None, str]:
    digest = hashlib.sha256(f"{array.shape} {array.dtype}".encode())
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, flat.size, _HASHED_BYTES):
        digest.update(flat[start : start + _HASHED_BYTES])
        yield
    return digest.hexdigest()
