"""Voxels that change hands between segments, and back: the states of undo."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import slicer

from InContextSegLib.errors import InputError
from InContextSegSlicer.labelmaps import (
    announce,
    giveOwnLabelmap,
    gridOf,
    isEmpty,
    labelmapOf,
    makeRoom,
    rasterOf,
    segmentOf,
    sharedBy,
)
from InContextSegSlicer.lattice import Box, Chore, Grid, Passage, inPieces, intersection, sampled, union
from InContextSegSlicer.voxelsets import MADE_TAG, VoxelSet, tagOf, tightBox

Masks = dict[str, np.ndarray]  # segment: (k, j, i) bool


@dataclass
class Changes:
    """What the segments of one lattice gained and lost."""

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
        """Start the changes on another lattice; `made` is filled by them."""
        self._made.update({segmentID: (grid, voxels) for segmentID, voxels in made.items()})
        self._passes.append(Changes(grid))
        return self._passes[-1]

    def finish(self) -> Chore:
        """Note in the segments what was made, and tell everybody that they changed."""
        for segmentID, (grid, voxels) in self._made.items():
            after = (yield from voxels.encoded(grid)) if voxels else ""
            segment = segmentOf(self._node, segmentID)
            self._tags[segmentID] = (tagOf(segment, MADE_TAG), after)
            setTag(segment, after)
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

    def apply(self, back: bool) -> Chore:
        """Take the changes back, or make them again."""
        for changes in reversed(self._passes) if back else self._passes:
            gains, losses = (changes.losses, changes.gains) if back else (changes.gains, changes.losses)

            def work(low, high, grid=changes.grid, gains=gains, losses=losses):
                plus, minus = self._within(gains, grid, low, high), self._within(losses, grid, low, high)
                return exchange(self._node, (low, high), plus, minus, grid)

            yield from inPieces(*changes.box(), work)
        for segmentID, tags in self._tags.items():
            segment = self._node.GetSegmentation().GetSegment(segmentID)
            if segment is not None:
                setTag(segment, tags[0 if back else 1])
        yield from self._announced()

    def _within(self, voxels: dict[str, VoxelSet], grid: Grid, low: np.ndarray, high: np.ndarray) -> Masks:
        segmentation, masks = self._node.GetSegmentation(), {}
        for segmentID, those in voxels.items():
            segment = segmentation.GetSegment(segmentID)
            if segment is None:  # somebody has removed it
                continue
            labelmap = labelmapOf(segment)
            if not isEmpty(labelmap) and not gridOf(labelmap, self._node).isGridOf(grid):
                raise InputError(
                    f"The segment {segment.GetName()!r} was resampled or transformed since it was written, so the "
                    "write cannot be taken back or done again; use the undo of the Segment Editor."
                )
            mask = those.within(low, high)
            if mask is not None:
                masks[segmentID] = mask
        return masks

    def _announced(self) -> Chore:
        changed = {i: None for changes in self._passes for i in (*changes.gains, *changes.losses)}
        segmentation = self._node.GetSegmentation()
        present = [segmentID for segmentID in changed if segmentation.GetSegment(segmentID) is not None]
        labelmaps = list(dict.fromkeys(labelmapOf(segmentation.GetSegment(segmentID)) for segmentID in present))
        yield from announce(self._node, [labelmap for labelmap in labelmaps if labelmap is not None], present)


def exchange(node: Any, box: Box, gains: Masks, losses: Masks, grid: Grid, room: Box | None = None) -> Chore | None:
    """Let segments lose voxels, then gain others, in one go; or return what has to be done to them before.

    Without `room` (the box to make room for) voxels that meanwhile belong to others stay theirs.
    """
    low, high = box
    windows: dict[Any, np.ndarray] = {}
    for masks, losing in ((losses, True), (gains, False)):
        for segmentID, mask in masks.items():
            tight = tightBox(mask)
            if tight is None:
                continue
            segment = segmentOf(node, segmentID)
            labelmap, label = labelmapOf(segment), segment.GetLabelValue()
            if not losing and not _reaches(labelmap, (low + tight[0], low + tight[1])):
                return makeRoom(node, labelmap, union((low + tight[0], low + tight[1]), room or box), grid)
            if labelmap not in windows:
                windows[labelmap] = windowOf(labelmap, low, high).copy()
            window = windows[labelmap]
            if losing:
                window[mask & (window == label)] = 0
                continue
            owners = sharedBy(node, labelmap)
            if room is None:
                mask = mask & (window == 0)  # noqa: PLW2901 - less of the same
            elif any(owner in owners for owner in valuesIn(window[mask]) if owner != label):
                return giveOwnLabelmap(node, segmentID)
            window[mask] = label
    for labelmap, window in windows.items():
        raster = rasterOf(labelmap)
        first, last = intersection(box, raster.box)
        target = raster.array[tuple(map(slice, first - raster.box[0], last - raster.box[0]))]
        target[...] = window[tuple(map(slice, first - low, last - low))]
    return None


def windowOf(labelmap: Any, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """What a labelmap holds in a box of its own lattice, 0 where it does not reach; not to be written to."""
    if isEmpty(labelmap):
        return np.zeros(tuple(high - low), np.uint8)
    same = Grid(np.eye(4))
    return sampled(rasterOf(labelmap), Passage(same, same), low, high)


def voxelsOf(node: Any, segmentID: str, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    segment = segmentOf(node, segmentID)
    return windowOf(labelmapOf(segment), low, high) == segment.GetLabelValue()


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


def setTag(segment: Any, text: str) -> None:
    if text:
        segment.SetTag(MADE_TAG, text)
    elif segment.HasTag(MADE_TAG):
        segment.RemoveTag(MADE_TAG)
