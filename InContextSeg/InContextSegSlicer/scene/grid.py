"""Slices and boxes of a volume in the words of the panel: axes by name, regions of interest, what is drawn where."""

from collections.abc import Generator
from itertools import product

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from InContextSegLib.errors import InputError
from InContextSegLib.slices.plan import SlicePlan
from InContextSegLib.volumes.geometry import across_slices
from InContextSegSlicer.scene import bridge


def arrayAxis(volume: slicer.vtkMRMLScalarVolumeNode, axis: str) -> int:
    """The axis of the volume's array across its slices of that anatomical name."""
    return SlicePlan.of(bridge.geometryOf(volume), axis).array_axis


def acrossSlices(volume: slicer.vtkMRMLScalarVolumeNode) -> str:
    """The name of the slices in which people look at a volume: across its thickest spacing."""
    return across_slices(bridge.geometryOf(volume))


def drawnSlices(
    volume: slicer.vtkMRMLScalarVolumeNode, segmentation: slicer.vtkMRMLSegmentationNode, axis: str
) -> Generator[None, None, tuple[int, ...]]:
    """A queued task: indices of the slices along an axis on which any segment is drawn."""
    ids = bridge.segmentNames(segmentation)
    array = yield from bridge.labelsOnGrid(segmentation, dict.fromkeys(ids, 1), volume)
    along = arrayAxis(volume, axis)
    drawn = []
    for index in range(array.shape[along]):
        if array.take(index, along).any():
            drawn.append(index)
        yield
    return tuple(drawn)


def middleSlice(volume: slicer.vtkMRMLScalarVolumeNode, segmentation: slicer.vtkMRMLSegmentationNode) -> int:
    """The k index about the middle of what is drawn, by the extents of the label maps, which is cheap to know."""
    depth = bridge.arrayOf(volume).shape[0]
    ends = []
    for identifier in bridge.segmentNames(segmentation):
        labelmap = segmentation.GetBinaryLabelmapInternalRepresentation(identifier)
        if labelmap is None or labelmap.GetExtent()[1] < labelmap.GetExtent()[0]:
            continue
        toWorld, fromWorld = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
        labelmap.GetImageToWorldMatrix(toWorld)
        volume.GetRASToIJKMatrix(fromWorld)
        extent = labelmap.GetExtent()
        for corner in product(extent[:2], extent[2:4], extent[4:]):
            ends.append(fromWorld.MultiplyPoint(toWorld.MultiplyPoint((*corner, 1)))[2])
    return int(np.clip((min(ends) + max(ends)) / 2, 0, depth - 1)) if ends else depth // 2


def boxOf(
    region: slicer.vtkMRMLMarkupsROINode, volume: slicer.vtkMRMLScalarVolumeNode
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The box of voxels, (k, j, i) low inclusive and high exclusive, that holds a region of interest.

    Raises:
        InputError: if the region lies outside the volume.
    """
    half = np.array(region.GetSize()) / 2
    toWorld = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, volume.GetParentTransformNode(), toWorld)
    rasToIjk = vtk.vtkMatrix4x4()
    volume.GetRASToIJKMatrix(rasToIjk)
    corners = []
    for signs in product((-1, 1), repeat=3):
        world = region.GetObjectToWorldMatrix().MultiplyPoint((*(half * signs), 1))[:3]
        corners.append(rasToIjk.MultiplyPoint((*toWorld.TransformPoint(world), 1))[2::-1])
    shape = volume.GetImageData().GetDimensions()[::-1]
    low = np.maximum(np.ceil(np.min(corners, axis=0) - 1e-6), 0).astype(int)
    high = np.minimum(np.floor(np.max(corners, axis=0) + 1e-6) + 1, shape).astype(int)
    if (low >= high).any():
        raise InputError(
            _("The region '{region}' lies outside the volume '{volume}'; move it or choose another.").format(
                region=region.GetName(), volume=volume.GetName()
            )
        )
    return tuple(low.tolist()), tuple(high.tolist())


def countAlong(volume: slicer.vtkMRMLScalarVolumeNode, axis: str) -> int:
    """How many slices a volume has along an axis, or across its thickest spacing where the axis is "auto".

    Raises:
        InputError: if it has none, or its axes are not perpendicular.
    """
    return bridge.arrayOf(volume).shape[arrayAxis(volume, acrossSlices(volume) if axis == "auto" else axis)]


def slab(
    volume: slicer.vtkMRMLScalarVolumeNode, axis: str, first: int, last: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The box of whole slices along an axis, from the first to the last, both included."""
    along, shape = arrayAxis(volume, axis), volume.GetImageData().GetDimensions()[::-1]
    low = [first if each == along else 0 for each in range(3)]
    high = [last + 1 if each == along else length for each, length in enumerate(shape)]
    return tuple(low), tuple(high)
