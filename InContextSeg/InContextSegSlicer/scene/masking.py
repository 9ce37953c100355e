"""What the masking of the Segment Editor lets change: whose voxels, inside of what, at which intensities."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer

from InContextSegLib.errors import InputError
from InContextSegSlicer.scene.grid_mapping import Box, Grid
from InContextSegSlicer.scene.labelmaps import Reading


@dataclass(frozen=True)
class Rules:
    """What the Segment Editor's masking says, as it stood when the write began."""

    overwrite: int
    area: int
    areaSegment: str | None
    intensities: tuple[float, float] | None
    source: Any

    @classmethod
    def of(cls, editor: Any, volumeNode: Any) -> "Rules":
        masked = editor.GetSourceVolumeIntensityMask()
        intensities = tuple(editor.GetSourceVolumeIntensityMaskRange()) if masked else None
        source = editor.GetSourceVolumeNode() or volumeNode
        area = editor.GetMaskMode()
        return cls(editor.GetOverwriteMode(), area, editor.GetMaskSegmentID(), intensities, source)

    def overwritable(self, node: Any) -> set[str]:
        """The segments that lose the voxels another one gets."""
        editor = slicer.vtkMRMLSegmentEditorNode
        if self.overwrite == editor.OverwriteNone:
            return set()
        return set(visibleSegments(node) if self.overwrite == editor.OverwriteVisibleSegments else allSegments(node))

    def areaOf(self, node: Any) -> tuple[list[str], bool] | None:
        """The segments that bound the editable area, and whether it is inside of them; None: everywhere."""
        modes = slicer.vtkMRMLSegmentationNode
        if self.area == modes.EditAllowedEverywhere:
            return None
        if self.area == modes.EditAllowedInsideSingleSegment:
            if self.areaSegment not in allSegments(node):
                raise InputError(
                    f"Only the inside of one segment may be edited, but {node.GetName()!r} has no segment "
                    f"{self.areaSegment!r}; choose the editable area in the Segment Editor."
                )
            return [self.areaSegment], True
        inside = self.area in (modes.EditAllowedInsideAllSegments, modes.EditAllowedInsideVisibleSegments)
        everything = self.area in (modes.EditAllowedInsideAllSegments, modes.EditAllowedOutsideAllSegments)
        return (allSegments(node) if everything else visibleSegments(node)), inside


class Bounds:
    """The editable area in one piece."""

    def __init__(self, rules: Rules, node: Any, grid: Grid, box: Box):
        self._node, self._grid, self._box, self._area = node, grid, box, rules.areaOf(node)
        self._masks: dict[tuple[str, ...], np.ndarray] = {}

    def within(self, segmentID: str, mask: np.ndarray) -> np.ndarray:
        """The part of a mask in which a segment may be changed."""
        if self._area is None:
            return mask
        segmentIDs, inside = self._area
        bounding = tuple(segmentIDs if inside else (other for other in segmentIDs if other != segmentID))
        if bounding not in self._masks:
            reading = Reading(self._node, dict.fromkeys(bounding, 1), self._grid)
            self._masks[bounding] = reading(*self._box) > 0
        return mask & (self._masks[bounding] if inside else ~self._masks[bounding])


def allSegments(node: Any) -> list[str]:
    return list(node.GetSegmentation().GetSegmentIDs())


def visibleSegments(node: Any) -> list[str]:
    display = node.GetDisplayNode()
    return [] if display is None else [s for s in allSegments(node) if display.GetSegmentVisibility(s)]
