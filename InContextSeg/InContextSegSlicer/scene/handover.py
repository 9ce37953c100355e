"""Volumes and segments of the scene handed to the worker, each once for as long as it stays as it is."""

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import slicer

from InContextSegLib.volumes.geometry import Kind
from InContextSegLib.worker.client import WorkerClient
from InContextSegLib.worker.protocol import ArrayRef, SlicesRef
from InContextSegSlicer.scene import bridge
from InContextSegSlicer.scene.labelmaps import gridOf, labelmapOf
from InContextSegSlicer.scene.reading import gridOfVolume

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
    _slices: dict[tuple, dict[int, tuple[tuple, str]]] = field(default_factory=dict)  # of what: index: state, digest

    def volume(self, node: slicer.vtkMRMLScalarVolumeNode) -> Generator[None, None, ArrayRef]:
        """A queued task: the volume as the worker can read it."""
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
        """A queued task: segments (ID: value) as a label map on the grid of a volume."""
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
        """A queued task: segments (ID: value) on slices of a volume across an array axis, those that show any."""
        where, state = _whereOf(segmentation, values, volume, axis), _stateOf(segmentation, values, volume)
        found = self._slices.setdefault(where, {})
        unread = [index for index in indices if found.get(index, (None,))[0] != state]
        labels = yield from bridge.labelsOnSlices(segmentation, values, volume, axis, unread)
        for number, index in enumerate(unread):
            one = labels.take([number], axis)
            digest = (yield from _digest(one)) if one.any() else ""
            if digest:
                yield from self._published(("labels", digest), one)
            found[index] = state, digest
        named = []
        for index in indices:
            digest = found[index][1]
            if digest and ("labels", digest) not in self._kept:  # it had to go to make room
                one = yield from bridge.labelsOnSlices(segmentation, values, volume, axis, [index])
                digest = (yield from _digest(one)) if one.any() else ""  # somebody may have drawn meanwhile
                found.pop(index)
                if digest:
                    yield from self._published(("labels", digest), one)
            if digest:
                named.append((index, self._used(("labels", digest))))
        return SlicesRef.of(named, axis, bridge.geometryOf(volume))

    def changing(
        self,
        segmentation: slicer.vtkMRMLSegmentationNode,
        identifier: str,
        volume: slicer.vtkMRMLScalarVolumeNode,
        axis: int,
        index: int,
    ) -> Callable[[], None]:
        """To be called before one slice of a segment is changed, and what it returns after: the others stay known.

        Not where the segment has another grid than the volume: there a voxel may show on two slices.
        """
        values = {identifier: 1}
        where, before = _whereOf(segmentation, values, volume, axis), _stateOf(segmentation, values, volume)

        def changed() -> None:
            labelmap = labelmapOf(segmentation.GetSegmentation().GetSegment(identifier))
            if labelmap is None or not gridOf(labelmap, segmentation).isGridOf(gridOfVolume(volume)):
                return
            now, found = _stateOf(segmentation, values, volume), self._slices.get(where, {})
            for other, (state, digest) in list(found.items()):
                if other != index and state == before:
                    found[other] = now, digest

        return changed

    def forgetAll(self) -> None:
        """Take every array back, as when a scene is closed."""
        for name, _bytes in self._kept.values():
            self.client.forget(name)
        self._kept.clear()
        self._slices.clear()

    def _told(self, labels: np.ndarray) -> Generator[None, None, str]:
        digest = yield from _digest(labels)
        return (yield from self._published(("labels", digest), labels))

    def _published(self, what: tuple, array: np.ndarray) -> Generator[None, None, str]:
        if what not in self._kept:
            name = yield from self.client.publishing(array)
            self._kept[what] = name, array.nbytes
        name = self._used(what)
        while sum(size for _name, size in self._kept.values()) > self.keptBytes and len(self._kept) > 1:
            oldest = next(iter(self._kept))
            self.client.forget(self._kept.pop(oldest)[0])
        return name

    def _used(self, what: tuple) -> str:
        self._kept[what] = self._kept.pop(what)
        return self._kept[what][0]


def _whereOf(segmentation: Any, values: Mapping[str, int], volume: Any, axis: int) -> tuple:
    return segmentation.GetID(), tuple(values.items()), volume.GetID(), axis


def _stateOf(segmentation: Any, values: Mapping[str, int], volume: Any) -> tuple:
    """The same as long as segments have the same voxels at the same places of a volume."""
    every = segmentation.GetSegmentation()
    labelmaps = [labelmapOf(segment) for name in values if (segment := every.GetSegment(name)) is not None]
    parents = (node.GetParentTransformNode() for node in (segmentation, volume))
    return (
        gridOfVolume(volume).affine.tobytes(),
        bridge.arrayOf(volume).shape,
        tuple(each.GetMTime() if each is not None else None for each in labelmaps),
        tuple((each.GetID(), each.GetTransformToWorldMTime()) if each is not None else None for each in parents),
        every.GetSourceRepresentationName(),
    )


def _digest(array: np.ndarray) -> Generator[None, None, str]:
    digest = hashlib.sha256(f"{array.shape} {array.dtype}".encode())
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, flat.size, _HASHED_BYTES):
        digest.update(flat[start : start + _HASHED_BYTES])
        yield
    return digest.hexdigest()
