"""Slices of a segment that were applied, or carried on and not accepted yet: marks in the segment itself.

As tags they follow the segment through the undo of the Segment Editor, into files and other scenes.
"""

import json
from collections.abc import Iterable, Mapping
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


def spokenOf(
    slices: Iterable[int],
    axis: str,
    segment: slicer.vtkSegment,
    segmentation: slicer.vtkMRMLSegmentationNode,
    volume: slicer.vtkMRMLScalarVolumeNode,
) -> tuple[int, ...]:
    """Those of some teaching slices that say where a segment is: not those applied for others alone.

    A slice that a person chose as a whole says of every segment where it is; one that was applied speaks of its own.
    """
    own, others = set(), set()
    every = segmentation.GetSegmentation()
    for number in range(every.GetNumberOfSegments()):
        each = every.GetNthSegment(number)
        applied = marksIn(each, volume, APPLIED)
        if applied.axis == axis:
            (own if each is segment else others).update(applied.confidence)
    return tuple(index for index in slices if index in own or index not in others)
