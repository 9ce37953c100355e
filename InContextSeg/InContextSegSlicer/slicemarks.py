"""Slices of a segment that were applied, or carried on and not accepted yet: marks in the segment itself.

As tags they follow the segment through the undo of the Segment Editor, into files and other scenes.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import slicer

from InContextSegSlicer.lattice import Grid
from InContextSegSlicer.reading import gridOfVolume
from InContextSegSlicer.voxelsets import setTag, tagOf

PROPAGATED, APPLIED = "InContextSeg.Propagated", "InContextSeg.Applied"


@dataclass(frozen=True)
class SliceMarks:
    """Slices of one volume.

    Attributes:
        axis: "axial", "coronal" or "sagittal"; empty where there are none.
        confidence: how sure each is, from 0 to 1, by its index.
    """

    axis: str = ""
    confidence: Mapping[int, float] = field(default_factory=dict)

    def without(self, indices: Iterable[int]) -> "SliceMarks":
        """All but these."""
        gone = set(indices)
        return SliceMarks(self.axis, {index: sure for index, sure in self.confidence.items() if index not in gone})

    def joined(self, other: "SliceMarks") -> "SliceMarks":
        """Those of both, if they lie along one axis; else those of the other."""
        return SliceMarks(other.axis, {**(self.confidence if self.axis == other.axis else {}), **other.confidence})


def marksIn(segment: slicer.vtkSegment, volume: slicer.vtkMRMLScalarVolumeNode, tag: str) -> SliceMarks:
    """The marked slices of a volume; none where the mark is of another grid, or damaged."""
    text = tagOf(segment, tag)
    if not text:
        return SliceMarks()
    try:
        told = json.loads(text)
        affine = np.array(told["affine"], float).reshape(4, 4)
        found = SliceMarks(str(told["axis"]), {int(index): float(sure) for index, sure in told["slices"].items()})
    except (ValueError, KeyError, TypeError, AttributeError):
        return SliceMarks()
    return found if Grid(affine).isGridOf(Grid(gridOfVolume(volume).affine)) else SliceMarks()


def mark(segment: slicer.vtkSegment, volume: slicer.vtkMRMLScalarVolumeNode, tag: str, slices: SliceMarks) -> None:
    """Mark these slices of a volume, and no others."""
    told = {"affine": np.asarray(gridOfVolume(volume).affine).ravel().tolist(), "axis": slices.axis}
    told["slices"] = {str(index): round(sure, 3) for index, sure in sorted(slices.confidence.items())}
    setTag(segment, tag, json.dumps(told) if slices.confidence else "")


def speakOfAll(
    segmentation: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode, axis: str, index: int
) -> None:
    """A person says that a slice is right as a whole: from now on it speaks of every segment, and waits no more."""
    every = segmentation.GetSegmentation()
    for number in range(every.GetNumberOfSegments()):
        segment = every.GetNthSegment(number)
        for tag in (APPLIED, PROPAGATED):
            marks = marksIn(segment, volume, tag)
            if marks.axis == axis and index in marks.confidence:
                mark(segment, volume, tag, marks.without((index,)))


def spokenByName(
    slices: Iterable[int],
    axis: str,
    names: Sequence[str],
    segmentation: slicer.vtkMRMLSegmentationNode,
    volume: slicer.vtkMRMLScalarVolumeNode,
) -> dict[int, tuple[str, ...]]:
    """For some teaching slices those among some names of whose segments they say where they are.

    A slice that a person chose as a whole speaks of every name, and of one that no segment has it says that there is
    none; a slice that was applied speaks of the segments that it was applied for.
    """
    applied: dict[str, set[int]] = defaultdict(set)
    every = segmentation.GetSegmentation()
    for number in range(every.GetNumberOfSegments()):
        segment = every.GetNthSegment(number)
        marks = marksIn(segment, volume, APPLIED)
        if marks.axis == axis:
            applied[segment.GetName()].update(marks.confidence)
    parts = set().union(*applied.values())
    return {
        index: tuple(name for name in names if index not in parts or index in applied.get(name, ())) for index in slices
    }
