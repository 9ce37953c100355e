"""Slices of a segment that were applied, or carried on and not accepted yet: marks in the segment itself.

As tags they follow the segment through the undo of the Segment Editor, into files and other scenes.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import slicer

from InContextSegSlicer.scene.examples import ExampleRow
from InContextSegSlicer.scene.grid_mapping import Grid
from InContextSegSlicer.scene.reading import gridOfVolume
from InContextSegSlicer.scene.voxelsets import setTag, tagOf

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
    """The marked slices of a volume; none where the marks are of other grids, or damaged."""
    here = gridOfVolume(volume).affine
    return next((marks for affine, marks in _marked(segment, tag) if Grid(affine).isGridOf(Grid(here))), SliceMarks())


def mark(segment: slicer.vtkSegment, volume: slicer.vtkMRMLScalarVolumeNode, tag: str, slices: SliceMarks) -> None:
    """Mark these slices of a volume, and no others of it; those of volumes on other grids stay marked."""
    here = gridOfVolume(volume).affine
    every = [each for each in _marked(segment, tag) if not Grid(each[0]).isGridOf(Grid(here))]
    every += [(here, slices)] if slices.confidence else []
    told = [
        {
            "affine": np.asarray(affine).ravel().tolist(),
            "axis": marks.axis,
            "slices": {str(index): round(sure, 3) for index, sure in sorted(marks.confidence.items())},
        }
        for affine, marks in every
    ]
    setTag(segment, tag, json.dumps(told) if told else "")


def _marked(segment: slicer.vtkSegment, tag: str) -> list[tuple[np.ndarray, SliceMarks]]:
    """The marked slices by the grid of their volume; none where what is written there is damaged."""
    try:
        return [
            (
                np.array(told["affine"], float).reshape(4, 4),
                SliceMarks(str(told["axis"]), {int(index): float(sure) for index, sure in told["slices"].items()}),
            )
            for told in json.loads(tagOf(segment, tag) or "[]")
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def appliedByName(row: ExampleRow) -> dict[str, set[int]]:
    """By the names of the segments of a row the slices along its axis that were applied for them.

    What the row itself calls applied was applied in its volume, wherever that lies by now.
    """
    applied: dict[str, set[int]] = defaultdict(set)
    every, here = row.segmentation.GetSegmentation(), Grid(gridOfVolume(row.volume).affine)
    for segment in (every.GetNthSegment(number) for number in range(every.GetNumberOfSegments())):
        for affine, marks in _marked(segment, APPLIED):
            if marks.axis == row.axis:
                mine = (
                    set(marks.confidence) if Grid(affine).isGridOf(here) else set(marks.confidence) & set(row.applied)
                )
                applied[segment.GetName()].update(mine)
    return applied


def spokenByName(row: ExampleRow, names: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """For the single slices of a row of the scene those among some names of whose segments they say where they are.

    A slice that a person chose as a whole speaks of every name, and of one that no segment has it says that there is
    none; a slice that was applied speaks of the segments that it was applied for, as long as that is not taken back.
    """
    applied = appliedByName(row)
    parts = set(row.applied).union(*applied.values())
    return {
        index: tuple(name for name in names if index not in parts or index in applied.get(name, ()))
        for index in row.slices
    }


def chooseWhole(
    segmentation: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode, axis: str, index: int
) -> None:
    """A person says that a slice is right as a whole: from now on it speaks of every segment, and waits no more."""
    every = segmentation.GetSegmentation()
    for segment in (every.GetNthSegment(number) for number in range(every.GetNumberOfSegments())):
        for tag in (APPLIED, PROPAGATED):
            marks = marksIn(segment, volume, tag)
            if marks.axis == axis and index in marks.confidence:
                mark(segment, volume, tag, marks.without([index]))
