"""What a user sees: the uncertainty laid over a volume, pictures of slices, and which slice a view shows."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from InContextSegLib.errors import InputError
from InContextSegLib.volumes.geometry import Geometry
from InContextSegSlicer.scene.grid_mapping import Grid, Passage, QueuedTask, inPieces, matrixOfArray
from InContextSegSlicer.scene.labelmaps import Reading, segmentOf
from InContextSegSlicer.scene.reading import arrayOf, gridOfVolume

_HEAT = "vtkMRMLColorTableNodeIron"
UNCERTAINTY_OF = "InContextSegUncertaintyOf"  # the role under which such a volume refers to the one it is about
_COLOUR_SHARE = 0.45
_LARGEST_ANGLE = math.cos(math.radians(5))
_WORLD = Grid(np.eye(4))
_LEAST_SHOWN = 10  # percent; a little doubt is everywhere
# Which way rows and columns of a picture run, as everywhere in InContextSeg: (anatomical direction, turned round) with
# the directions 0 to superior, 1 to posterior, 2 to the left.
_READING = (((1, False), (2, False)), ((0, True), (2, False)), ((0, True), (1, False)))


def showUncertainty(scene: Any, volumeNode: Any, block: np.ndarray, cornerKji: tuple, node: Any = None) -> QueuedTask:
    """Make a volume of percentages (k, j, i), the first voxel at index `cornerKji` of another, to lay over that.

    Args:
        node: the scalar volume of an earlier call, to be used again; None makes one.

    Returns:
        the scalar volume: cropped to the block, under the volume's transform, in hot colours and clear at 0.
    """
    block = np.asarray(block)
    if block.ndim != 3 or block.size == 0 or block.dtype.kind not in "buif":
        raise InputError(f"An uncertainty is a block of numbers (k, j, i), but {block.dtype} of {block.shape} came.")
    kind = block.dtype if block.dtype in (np.uint8, np.uint16, np.float32) else np.dtype(np.float32)
    image = vtk.vtkImageData()
    image.SetDimensions(*block.shape[::-1])
    image.AllocateScalars(vtk.util.numpy_support.get_vtk_array_type(kind), 1)
    values = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(block.shape)

    def work(low, high):
        window = tuple(map(slice, low, high))
        values[window] = block[window]

    yield from inPieces(np.zeros(3, int), np.array(block.shape), work)
    if volumeNode.GetScene() is None or (node is not None and node.GetScene() is None):
        raise InputError("The volume was closed before its uncertainty could be shown; open it and segment again.")
    if node is None:
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"{volumeNode.GetName()} uncertainty")
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.AutoWindowLevelOff()  # else a histogram of everything is made first
    display.SetWindowLevelMinMax(0, 100)
    display.SetThreshold(_LEAST_SHOWN, 100)
    display.ApplyThresholdOn()
    display.SetAndObserveColorNodeID(_HEAT)
    affine = gridOfVolume(volumeNode).affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array(cornerKji, dtype=float)[::-1]
    node.SetIJKToRASMatrix(matrixOfArray(affine))
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    node.SetNodeReferenceID(UNCERTAINTY_OF, volumeNode.GetID())
    node.SetAndObserveImageData(image)
    return node


def uncertaintyOf(scene: Any, volumeNode: Any) -> Any:
    """How unsure the last result for a volume is, as a volume of the scene; None where that is not known."""
    kind = "vtkMRMLScalarVolumeNode"
    for number in range(scene.GetNumberOfNodesByClass(kind) if volumeNode is not None else 0):
        node = scene.GetNthNodeByClass(number, kind)
        if node.GetNodeReferenceID(UNCERTAINTY_OF) == volumeNode.GetID():
            return node
    return None


def thumbnail(
    volumeNode: Any, segmentationNode: Any, ids: list[str], arrayAxis: int, index: int, size: int
) -> np.ndarray:
    """A picture of one slice as one reads it, head or front up and the patient's left on the right.

    Args:
        segmentationNode: whose segments `ids` are laid over it in their colours; may be None.
        arrayAxis: the axis of (k, j, i) along which `index` counts.
        size: longest side in pixels.

    Returns:
        (height, width, 3) uint8, with square pixels.

    Raises:
        InputError: if the volume has no such slice.
    """
    array = arrayOf(volumeNode)
    if not 0 <= index < array.shape[arrayAxis]:
        raise InputError(
            f"Slice {index} of the volume {volumeNode.GetName()!r} was asked for, but it has those from 0 to "
            f"{array.shape[arrayAxis] - 1}."
        )
    layout = _Layout.of(Geometry(array.shape[:3], gridOfVolume(volumeNode).affine), arrayAxis, size)
    picture = _windowed(volumeNode, layout.shrunk(np.take(array, index, axis=arrayAxis)))
    if segmentationNode is not None and ids:
        values = {segmentID: number for number, segmentID in enumerate(ids, start=1)}
        grid = Grid(layout.affine(index), volumeNode.GetParentTransformNode())
        reading = Reading(segmentationNode, values, grid)
        for _ in reading.prepare():
            pass
        labels = reading(np.zeros(3, int), np.array((1, layout.height, layout.width)))[0]
        colours = np.array([(0, 0, 0), *(segmentOf(segmentationNode, segmentID).GetColor() for segmentID in ids)])
        laid = (1 - _COLOUR_SHARE) * picture + _COLOUR_SHARE * 255 * colours[labels]
        picture = np.where(labels[..., None] > 0, laid, picture)
    return picture.astype(np.uint8)


def displayedIndex(sliceNode: Any, volumeNode: Any, arrayAxis: int) -> int | None:
    """The index along an axis of (k, j, i) of the slice that a view shows; None where it shows none of them.

    That is where the view is turned against these slices by more than 5 degrees, or lies outside of the volume.
    """
    centre, normal = _placeInView(sliceNode, volumeNode)
    if not _isAlong(normal, volumeNode, arrayAxis):
        return None
    index = math.floor(centre[2 - arrayAxis] + 0.5)
    return index if 0 <= index < arrayOf(volumeNode).shape[arrayAxis] else None


def jumpTo(sliceNode: Any, volumeNode: Any, arrayAxis: int, index: int) -> bool:
    """Let a view show a slice of the volume, and return True; a view that is not along that axis stays where it is."""
    shape, grid = arrayOf(volumeNode).shape[:3], gridOfVolume(volumeNode)
    _, normal = _placeInView(sliceNode, volumeNode)
    if not _isAlong(normal, volumeNode, arrayAxis):
        return False
    middle = (np.array(shape[::-1]) - 1) / 2
    middle[2 - arrayAxis] = index
    sliceNode.JumpSliceByOffsetting(*Passage(grid, _WORLD).points(middle[None])[0])
    return True


def _placeInView(sliceNode: Any, volumeNode: Any) -> tuple[np.ndarray, np.ndarray]:
    """Where a view cuts the middle of a volume: index (i, j, k), and the plane's normal in the volume's own frame."""
    grid, shape = gridOfVolume(volumeNode), np.array(arrayOf(volumeNode).shape[:3])
    toRas = sliceNode.GetSliceToRAS()
    plane = np.array([[toRas.GetElement(row, column) for column in range(4)] for row in range(3)])
    middle = Passage(grid, _WORLD).points((shape[None, ::-1] - 1) / 2)[0]
    # Under a warp the plane is bent: what counts is how it lies where it is nearest to the middle of the volume.
    point = middle - ((middle - plane[:, 3]) @ plane[:, 2]) * plane[:, 2]
    indices = Passage(_WORLD, grid).points(np.stack([point, point + plane[:, 0], point + plane[:, 1]]))
    first, second = ((indices[n] - indices[0]) @ grid.affine[:3, :3].T for n in (1, 2))
    return indices[0], _unit(np.cross(first, second))


def _isAlong(normal: np.ndarray, volumeNode: Any, arrayAxis: int) -> bool:
    axis = Geometry(arrayOf(volumeNode).shape[:3], gridOfVolume(volumeNode).affine).directions[arrayAxis]
    return bool(abs(normal @ axis) >= _LARGEST_ANGLE)


@dataclass(frozen=True, eq=False)
class _Layout:
    """How a slice becomes a picture: which array axes its rows and columns are, whether turned round, its pixels."""

    geometry: Geometry
    sliceAxis: int
    axes: tuple[int, int]
    turned: tuple[bool, bool]
    height: int
    width: int

    @classmethod
    def of(cls, geometry: Geometry, arrayAxis: int, size: int) -> "_Layout":
        permutation, against = geometry.anatomical_order()
        directions = _READING[permutation.index(arrayAxis)]
        axes = tuple(permutation[direction] for direction, _ in directions)
        turned = tuple(against[direction] != turn for direction, turn in directions)
        lengths = np.array([geometry.shape[axis] * geometry.spacing_mm[axis] for axis in axes])
        height, width = np.maximum(1, np.rint(lengths * (size / lengths.max()))).astype(int).tolist()
        return cls(geometry, arrayAxis, axes, turned, height, width)

    def affine(self, index: int) -> np.ndarray:
        """(4, 4) from pixels (column, row, 0, 1) to the volume's millimetres."""
        steps, first = np.zeros((3, 3)), np.zeros(3)
        steps[2 - self.sliceAxis, 2] = 1
        first[2 - self.sliceAxis] = index
        for column, axis, turned, pixels in zip((1, 0), self.axes, self.turned, (self.height, self.width), strict=True):
            step = self.geometry.shape[axis] / pixels
            steps[2 - axis, column] = -step if turned else step
            first[2 - axis] = self.geometry.shape[axis] - 0.5 - step / 2 if turned else step / 2 - 0.5
        pixels = np.eye(4)
        pixels[:3, :3], pixels[:3, 3] = steps, first
        return self.geometry.affine @ pixels

    def shrunk(self, values: np.ndarray) -> np.ndarray:
        """(height, width, ...) float32 of a slice whose axes are as stored."""
        values = values.swapaxes(0, 1) if self.axes[0] > self.axes[1] else values
        values = np.flip(values, [axis for axis in (0, 1) if self.turned[axis]]).astype(np.float32)
        return _resampled(_resampled(values, self.height, 0), self.width, 1)


def _resampled(values: np.ndarray, length: int, axis: int) -> np.ndarray:
    """The mean of what a pixel covers where an axis shrinks, the nearest where it grows."""
    old = values.shape[axis]
    if length >= old:
        return np.take(values, ((2 * np.arange(length) + 1) * old) // (2 * length), axis=axis)
    starts = (np.arange(length) * old) // length
    counts = np.diff([*starts, old]).astype(np.float32)
    sums = np.add.reduceat(values, starts, axis=axis)
    return sums / counts.reshape([-1 if n == axis else 1 for n in range(values.ndim)])


def _windowed(volumeNode: Any, values: np.ndarray) -> np.ndarray:
    """(rows, columns, 3) float32 from 0 to 255, in the window and level the volume is shown in."""
    if values.ndim == 3:
        return np.clip(values, 0, 255)
    display = volumeNode.GetDisplayNode()
    if display is not None and display.IsA("vtkMRMLScalarVolumeDisplayNode") and display.GetWindow() > 0:
        low, high = display.GetWindowLevelMin(), display.GetWindowLevelMax()
    else:
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(values, nan=low) - low) * (255 / max(high - low, 1e-6))
    return np.repeat(np.clip(scaled, 0, 255)[..., None], 3, axis=2)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)
