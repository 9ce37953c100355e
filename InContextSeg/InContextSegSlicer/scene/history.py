"""Voxels that change hands between segments, and back: the states of undo."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import slicer

from InContextSegLib.errors import InputError
from InContextSegSlicer.scene.grid_mapping import (
    Box,
    Grid,
    Passage,
    QueuedTask,
    Raster,
    fewer,
    inPieces,
    intersection,
    sampled,
    union,
)
from InContextSegSlicer.scene.labelmaps import (
    Layers,
    announce,
    giveOwnLabelmap,
    gridOf,
    isEmpty,
    labelmapOf,
    makeRoom,
    rasterOf,
    segmentOf,
)
from InContextSegSlicer.scene.voxelsets import MADE_TAG, VoxelSet, setTag, tagOf, tightBox

Masks = dict[str, np.ndarray]  # segment: (k, j, i) bool


@dataclass
class Changes:
    """What the segments of one grid gained and lost."""

    grid: Grid
    gains: dict[str, VoxelSet] = field(default_factory=lambda: defaultdict(VoxelSet))
    losses: dict[str, VoxelSet] = field(default_factory=lambda: defaultdict(VoxelSet))

    def box(self) -> Box:
        box = (np.zeros(3, int), np.zeros(3, int))
        for voxels in (*self.gains.values(), *self.losses.values()):
            box = union(box, voxels.box)
        return box


class Step:
    """One state of undo: what a write changed, segment by segment."""

    def __init__(self, node: Any):
        self._node = node
        self._passes: list[Changes] = []
        self._made: dict[str, tuple[Grid, VoxelSet]] = {}
        self._tags: dict[str, tuple[str, str]] = {}

    @property
    def alive(self) -> bool:
        return self._node.GetScene() is not None

    def begin(self, grid: Grid, made: dict[str, VoxelSet]) -> Changes:
        """Start the changes on another grid; `made` is filled by them."""
        self._made.update({segmentID: (grid, voxels) for segmentID, voxels in made.items()})
        self._passes.append(Changes(grid))
        return self._passes[-1]

    def finish(self) -> QueuedTask:
        """Note in the segments what was made, and tell everybody that they changed."""
        for segmentID, (grid, voxels) in self._made.items():
            after = (yield from voxels.encoded(grid)) if voxels else ""
            segment = segmentOf(self._node, segmentID)
            self._tags[segmentID] = (tagOf(segment, MADE_TAG), after)
            setTag(segment, MADE_TAG, after)
            status = slicer.vtkSlicerSegmentationsModuleLogic
            if status.GetSegmentStatus(segment) == status.NotStarted:
                status.SetSegmentStatus(segment, status.InProgress)
        self._made = {}
        yield from self._announced()

    def takeBack(self) -> None:
        """Undo at once what there is of a write that failed."""
        if self.alive:
            for _ in self.apply(True):
                pass

    def apply(self, back: bool) -> QueuedTask:
        """Take the changes back, or make them again."""
        for changes in reversed(self._passes) if back else self._passes:
            gains, losses = (changes.losses, changes.gains) if back else (changes.gains, changes.losses)

            def work(low, high, grid=changes.grid, gains=gains, losses=losses):
                met = sum(voxels.meets(low, high) for voxels in (*gains.values(), *losses.values()))
                if (most := fewer(low, high, met)) is not None:
                    return most
                layers = Layers(self._node)
                plus, minus = (self._within(layers, voxels, grid, (low, high)) for voxels in (gains, losses))
                return exchange(self._node, layers, (low, high), (plus, minus), grid)

            yield from inPieces(*changes.box(), work)
        for segmentID, tags in self._tags.items():
            segment = self._node.GetSegmentation().GetSegment(segmentID)
            if segment is not None:
                setTag(segment, MADE_TAG, tags[0 if back else 1])
        yield from self._announced()

    def _within(self, layers: Layers, voxels: dict[str, VoxelSet], grid: Grid, box: Box) -> Masks:
        masks = {}
        for segmentID, those in voxels.items():
            mask = those.within(*box)
            if mask is None or segmentID not in layers:  # somebody may have removed it
                continue
            labelmap, _ = layers[segmentID]
            if not isEmpty(labelmap) and not gridOf(labelmap, self._node).isGridOf(grid):
                name = segmentOf(self._node, segmentID).GetName()
                raise InputError(
                    f"The segment {name!r} was resampled or transformed since it was written, so the write cannot be "
                    "taken back or done again; use the undo of the Segment Editor."
                )
            masks[segmentID] = mask
        return masks

    def _announced(self) -> QueuedTask:
        changed = {i: None for changes in self._passes for i in (*changes.gains, *changes.losses)}
        segmentation = self._node.GetSegmentation()
        present = [segmentID for segmentID in changed if segmentation.GetSegment(segmentID) is not None]
        labelmaps = list(dict.fromkeys(labelmapOf(segmentation.GetSegment(segmentID)) for segmentID in present))
        yield from announce(self._node, [labelmap for labelmap in labelmaps if labelmap is not None], present)


def _put(raster: Raster, box: Box, window: np.ndarray) -> None:
    """Write what a box holds into a labelmap, as far as this reaches; a loss may lie beyond all that it holds."""
    first, last = intersection(box, raster.box)
    if np.all(first < last):
        target = raster.array[tuple(map(slice, first - raster.box[0], last - raster.box[0]))]
        target[...] = window[tuple(map(slice, first - box[0], last - box[0]))]


def exchange(
    node: Any, layers: Layers, box: Box, exchanged: tuple[Masks, Masks], grid: Grid, room: Box | None = None
) -> QueuedTask | None:
    """Let segments gain voxels and lose others, in one go; or return what has to be done before, and change nothing.

    Args:
        exchanged: gains, and losses, which go first.
        room: the box to make room for at once; None: voxels that meanwhile belong to others stay theirs.
    """
    low, high = box
    gains, losses = exchanged
    windows: dict[Any, np.ndarray] = {}
    for segmentID, mask in losses.items():
        labelmap, label = layers[segmentID]
        if labelmap not in windows:
            windows[labelmap] = windowOf(labelmap, low, high).copy()
        windows[labelmap][mask & (windows[labelmap] == label)] = 0
    for segmentID, mask in gains.items():
        tight = tightBox(mask)
        if tight is None:
            continue
        labelmap, label = layers[segmentID]
        needed = (low + tight[0], low + tight[1])
        if not _reaches(labelmap, needed):
            return makeRoom(node, labelmap, union(needed, room or box), grid)
        if labelmap not in windows:
            windows[labelmap] = windowOf(labelmap, low, high).copy()
        window = windows[labelmap]
        taken = set(valuesIn(window[mask])) - {label}
        if room is not None and not taken.isdisjoint(layers.sharing(labelmap)):
            return giveOwnLabelmap(node, segmentID)
        window[mask & (window == 0) if room is None else mask] = label
    for labelmap, window in windows.items():
        if not isEmpty(labelmap):
            _put(rasterOf(labelmap), box, window)
    return None


def windowOf(labelmap: Any, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """What a labelmap holds in a box of its own grid, 0 where it does not reach; not to be written to."""
    if isEmpty(labelmap):
        return np.zeros(tuple(high - low), np.uint8)
    same = Grid(np.eye(4))
    return sampled(rasterOf(labelmap), Passage(same, same), low, high)


def _reaches(labelmap: Any, box: Box) -> bool:
    if isEmpty(labelmap):
        return False
    low, high = rasterOf(labelmap).box
    return bool(np.all(low <= box[0]) and np.all(box[1] <= high))


def valuesIn(labels: np.ndarray) -> list[int]:
    """The labels other than 0 that occur."""
    if labels.dtype.kind not in "iu":
        labels = labels.astype(np.int64)
    found = np.flatnonzero(np.bincount(labels.ravel())) if labels.size else np.zeros(0, int)
    return [int(value) for value in found if value]
