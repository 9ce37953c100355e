"""What the slice views display, and how they are led elsewhere."""

from collections.abc import Iterator

import slicer

from InContextSegSlicer import bridge
from InContextSegSlicer.grid import arrayAxis

OVERLAY_OPACITY = 0.5


class SliceViews:
    """The slice views of a scene."""

    def __init__(self, scene: slicer.vtkMRMLScene):
        self._scene = scene
        self._overlay = ""

    def displayed(self, volume: slicer.vtkMRMLScalarVolumeNode, axis: str) -> int | None:
        """The index of the slice of a volume that is displayed, in the view that moved last; None where none is."""
        along = arrayAxis(volume, axis)
        found = [
            (node.GetMTime(), bridge.displayedIndex(node, volume, along)) for node in self._nodes("vtkMRMLSliceNode")
        ]
        return max(((time, index) for time, index in found if index is not None), default=(0, None))[1]

    def jump(self, volume: slicer.vtkMRMLScalarVolumeNode, axis: str, index: int) -> None:
        """Show a slice in every view along its axis."""
        along = arrayAxis(volume, axis)
        for node in self._nodes("vtkMRMLSliceNode"):
            bridge.jumpTo(node, volume, along, index)

    def showOverlay(self, volume: slicer.vtkMRMLScalarVolumeNode | None) -> None:
        """Lay a volume over the views, or take that one away again; other overlays are left alone."""
        wanted = volume.GetID() if volume is not None else ""
        if wanted == self._overlay:
            return
        for composite in self._nodes("vtkMRMLSliceCompositeNode"):
            if wanted:
                composite.SetForegroundVolumeID(wanted)
                composite.SetForegroundOpacity(OVERLAY_OPACITY)
            elif composite.GetForegroundVolumeID() == self._overlay:
                composite.SetForegroundVolumeID(None)
        self._overlay = wanted

    def _nodes(self, kind: str) -> Iterator:
        for number in range(self._scene.GetNumberOfNodesByClass(kind)):
            yield self._scene.GetNthNodeByClass(number, kind)
