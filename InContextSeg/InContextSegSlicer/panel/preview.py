"""The preview of one slice: a segmentation of its own, so that nothing of the person's is touched by it."""

from collections.abc import Mapping, Sequence

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from InContextSegSlicer.panel.order import Order

NAME = "InContextSeg preview"
_FILL, _OUTLINE = 0.35, 1.0
_BINARY = "Binary labelmap"


class SlicePreview:
    """At most one node, made when there is something to show and never saved with the scene."""

    def __init__(self, scene: slicer.vtkMRMLScene):
        self._scene, self._nodeId = scene, ""

    @property
    def node(self) -> slicer.vtkMRMLSegmentationNode | None:
        return self._scene.GetNodeByID(self._nodeId) if self._nodeId else None

    def show(self, order: Order, names: Mapping[int, str], block: np.ndarray, cornerKji: Sequence[int]) -> None:
        """Show the labels of one slice of the order's target.

        Args:
            names: of the segments by label value.
            block: (k, j, i) labels, cropped.
            cornerKji: where the block lies in the volume.
        """
        looks = {value: (name, _colour(order, name, value)) for value, name in names.items()}
        self.showLabels(order.target, looks, block, cornerKji)

    def showLabels(
        self,
        target: slicer.vtkMRMLScalarVolumeNode,
        looks: Mapping[int, tuple[str, tuple[float, float, float]]],
        block: np.ndarray,
        cornerKji: Sequence[int],
    ) -> None:
        """Show labels of one slice of a volume; `looks` are names and colours by value.

        Args:
            target: in the scene, or one that never was.
        """
        closed = target.GetID() is not None and self._scene.GetNodeByID(target.GetID()) is None
        if closed or not block.any():
            self.clear()
            return
        node = self.node or self._made()
        node.SetAndObserveTransformNodeID(target.GetTransformNodeID())
        labelmap = _labelmap(target, block, cornerKji)
        segmentation = node.GetSegmentation()
        wasModifying = node.StartModify()
        segmentation.RemoveAllSegments()
        for value, (name, colour) in looks.items():
            segment = slicer.vtkSegment()
            segment.SetName(name)
            segment.SetColor(colour)
            # One image for all of them, each with its own value, as segments that do not overlap are kept anyway.
            segment.AddRepresentation(_BINARY, labelmap)
            segment.SetLabelValue(value)
            segmentation.AddSegment(segment, name)
        node.EndModify(wasModifying)

    def clear(self) -> None:
        """Take the preview away."""
        removeShown(self._scene, self.node)
        self._nodeId = ""

    def _made(self) -> slicer.vtkMRMLSegmentationNode:
        node = slicer.vtkMRMLSegmentationNode()
        node.SetName(NAME)
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        self._scene.AddNode(node)
        self._nodeId = node.GetID()
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        display.SetSaveWithScene(False)
        display.SetVisibility3D(False)
        display.SetOpacity2DFill(_FILL)
        display.SetOpacity2DOutline(_OUTLINE)
        node.GetSegmentation().SetSourceRepresentationName(_BINARY)
        return node


def removeShown(scene: slicer.vtkMRMLScene, node: slicer.vtkMRMLDisplayableNode | None) -> None:
    """Take a node out of the scene, and how it is displayed, which the scene would keep."""
    if node is not None:
        display = node.GetDisplayNode()
        for each in (node, display):
            if each is not None and each.GetScene() is scene:
                scene.RemoveNode(each)


def _labelmap(
    target: slicer.vtkMRMLScalarVolumeNode, block: np.ndarray, cornerKji: Sequence[int]
) -> slicer.vtkOrientedImageData:
    image = slicer.vtkOrientedImageData()
    extent = [bound for low, length in zip(cornerKji, block.shape, strict=True) for bound in (low, low + length - 1)]
    image.SetExtent(*extent[4:6], *extent[2:4], *extent[0:2])
    ijkToRas = vtk.vtkMatrix4x4()
    target.GetIJKToRASMatrix(ijkToRas)
    image.SetGeometryFromImageToWorldMatrix(ijkToRas)
    kind = np.uint8 if block.max(initial=0) < 256 else np.uint16
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(block, kind).ravel(), deep=True))
    return image


def _colour(order: Order, name: str, value: int) -> tuple[float, float, float]:
    for row in order.examples:
        found = row.segmentation.GetSegmentation().GetSegmentIdBySegmentName(name) if row.segmentation else ""
        if found:
            return row.segmentation.GetSegmentation().GetSegment(found).GetColor()
    colours = ((0.9, 0.75, 0.2), (0.3, 0.75, 0.4), (0.35, 0.6, 0.95), (0.9, 0.4, 0.4), (0.7, 0.5, 0.9))
    return colours[(value - 1) % len(colours)]
