"""What the slice views display, and how they are led elsewhere."""

from collections.abc import Iterator

import slicer
from slicer.i18n import tr as _

from InContextSegSlicer.scene import bridge
from InContextSegSlicer.scene.grid import arrayAxis

OVERLAY_OPACITY = 0.5


class SliceViews:
    """The slice views of a scene."""

    def __init__(self, scene: slicer.vtkMRMLScene):
        self._scene = scene
        self._overlay = ""
        self._before: dict[str, tuple[str | None, float]] = {}

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
        """Lay a volume over the views, or take that one away again; what lay there before comes back."""
        wanted = volume.GetID() if volume is not None else ""
        if wanted == self._overlay:
            return
        for composite in self._nodes("vtkMRMLSliceCompositeNode"):
            shown, before = composite.GetForegroundVolumeID() or "", self._before.get(composite.GetID())
            if before is None or shown not in (self._overlay, ""):
                before = (shown, composite.GetForegroundOpacity())
            if wanted:
                self._before[composite.GetID()] = before
                composite.SetForegroundVolumeID(wanted)
                composite.SetForegroundOpacity(OVERLAY_OPACITY)
            else:
                gone = before[0] in (self._overlay, "") or self._scene.GetNodeByID(before[0]) is None
                composite.SetForegroundVolumeID(None if gone else before[0])
                composite.SetForegroundOpacity(before[1])
        if not wanted:
            self._before.clear()
        self._overlay = wanted

    def _nodes(self, kind: str) -> Iterator:
        for number in range(self._scene.GetNumberOfNodesByClass(kind)):
            yield self._scene.GetNthNodeByClass(number, kind)


def notDisplayed(axis: str) -> str:
    """What to do where no view shows a slice of the volume."""
    return _("No {axis} view shows a slice of the volume; scroll to the slice first.").format(axis=axis)
