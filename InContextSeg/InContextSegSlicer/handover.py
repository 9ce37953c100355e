"""Volumes and segments of the scene handed to the worker, each once for as long as it stays as it is."""

import hashlib
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import slicer

from InContextSegLib.client import WorkerClient
from InContextSegLib.protocol import ArrayRef
from InContextSegLib.volume import Kind
from InContextSegSlicer import bridge

# Read at about 1 GB/s, so a piece takes a few milliseconds.
_HASHED_BYTES = 1 << 22


@dataclass
class Handover:
    """Publishes arrays through the client and remembers what was published.

    Labels are told apart by their content: an edit of slices that do not teach changes nothing for the worker, whose
    caches stay good.
    """

    client: WorkerClient
    _volumes: dict[str, tuple[int, str]] = field(default_factory=dict)  # node ID: state of its voxels, array
    _labels: dict[str, str] = field(default_factory=dict)  # digest: array

    def volume(self, node: slicer.vtkMRMLScalarVolumeNode) -> Generator[None, None, ArrayRef]:
        """A chore: the volume as the worker can read it."""
        geometry = bridge.geometryOf(node)
        array = bridge.arrayOf(node)
        state = node.GetImageData().GetMTime()
        known = self._volumes.get(node.GetID())
        if known is None or known[0] != state:
            name = yield from self.client.publishing(array)
            if known is not None:
                self.client.forget(known[1])
            self._volumes[node.GetID()] = (state, name)
        return ArrayRef.of(self._volumes[node.GetID()][1], geometry, Kind.INTENSITY)

    def labels(
        self,
        segmentation: slicer.vtkMRMLSegmentationNode,
        values: Mapping[str, int],
        volume: slicer.vtkMRMLScalarVolumeNode,
        only: tuple[int, tuple[int, ...]] | None = None,
    ) -> Generator[None, None, ArrayRef]:
        """A chore: segments (ID: value) as a label map on the grid of a volume.

        Args:
            only: an axis of the array and indices along it; what is on other slices is left out.
        """
        array = yield from bridge.labelsOnGrid(segmentation, values, volume)
        if only is not None:
            axis, indices = only
            kept = np.zeros(array.shape[axis], bool)
            kept[list(indices)] = True
            for index in np.flatnonzero(~kept):
                array[(slice(None),) * axis + (int(index),)] = 0
            yield
        digest = yield from _digest(array)
        if digest not in self._labels:
            self._labels[digest] = yield from self.client.publishing(array)
        return ArrayRef.of(self._labels[digest], bridge.geometryOf(volume), Kind.LABELS)

    def keepOnly(self, names: Iterable[str]) -> None:
        """Forget every array that is not named, so that a long session does not fill the disk."""
        kept = set(names)
        for known, nameOf in ((self._volumes, lambda entry: entry[1]), (self._labels, lambda entry: entry)):
            for key in [key for key, entry in known.items() if nameOf(entry) not in kept]:
                self.client.forget(nameOf(known.pop(key)))


def _digest(array: np.ndarray) -> Generator[None, None, str]:
    digest = hashlib.sha256(f"{array.shape} {array.dtype}".encode())
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, flat.size, _HASHED_BYTES):
        digest.update(flat[start : start + _HASHED_BYTES])
        yield
    return digest.hexdigest()
