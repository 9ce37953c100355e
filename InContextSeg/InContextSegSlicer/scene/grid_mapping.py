"""Where the voxels of one grid lie in another, under any parent transforms, and what is found there, piece by piece."""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

# A generator that does a few milliseconds of work between yields; what it returns is its result.
QueuedTask = Generator[None, None, Any]
Box = tuple[np.ndarray, np.ndarray]  # (k, j, i) low inclusive, high exclusive

_PIECE_S = 0.006
_FIRST_VOXELS = 1 << 14
# Every piece costs something however small it is: below this a busy computer would be kept busier.
_FEWEST_VOXELS = 1 << 12
# Where nothing is, pieces are quick and grow; what comes next may not be quick.
_MOST_VOXELS = 1 << 19
_MOST_MASKED = 1 << 22
# Fraction of a voxel by which grids may be apart and still count as the same one; it changes no voxel's label.
_SAME = 0.05
_FACE_SAMPLES = 40
_POINTS = 500


@dataclass(frozen=True, eq=False)
class Raster:
    """An array (k, j, i) whose first voxel has the index `corner` of its grid; outside of it everything is 0."""

    array: np.ndarray
    corner: tuple[int, int, int] = (0, 0, 0)

    @property
    def box(self) -> Box:
        low = np.array(self.corner)
        return low, low + self.array.shape[:3]

    @cached_property
    def image(self) -> vtk.vtkImageData:
        """The same memory for VTK, index space being its world; lives no longer than this raster."""
        array = self.array.view(np.uint8) if self.array.dtype == bool else self.array
        image = vtk.vtkImageData()
        image.SetExtent(*extentOf(*self.box))
        image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array).ravel()))
        return image


@dataclass(frozen=True, eq=False)
class Grid:
    """An endless grid: `affine` takes (i, j, k, 1) to the millimetres that `parent`, a transform node, moves on."""

    affine: np.ndarray
    parent: Any = None

    def isGridOf(self, other: "Grid") -> bool:
        """Whether both are the same grid under the same transform node, to the last voxel of anything in use."""
        apart = np.linalg.solve(self.affine, other.affine) - np.eye(4)
        return self.parent is other.parent and bool(np.abs(apart).max() < _SAME * 1e-3)


class Passage:
    """Takes indices (i, j, k) of one grid to those of another, voxel by voxel where a transform is not linear."""

    def __init__(self, source: Grid, target: Grid):
        between = vtk.vtkGeneralTransform()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(source.parent, target.parent, between)
        linear = vtk.vtkTransform()
        if slicer.vtkMRMLTransformNode.IsGeneralTransformLinear(between, linear):
            moved = arrayOfMatrix(linear.GetMatrix()) @ source.affine
            self.matrix = np.linalg.solve(target.affine, moved)
            self.transform = vtk.vtkTransform()
            self.transform.SetMatrix(self.matrix.ravel())
        else:
            self.matrix = None
            self.transform = vtk.vtkGeneralTransform()
            self.transform.PostMultiply()
            self.transform.Concatenate(source.affine.ravel())
            self.transform.Concatenate(between)
            self.transform.Concatenate(np.linalg.inv(target.affine).ravel())

    def points(self, ijk: np.ndarray) -> np.ndarray:
        """Take indices (n, 3) over; fractions are fine."""
        ijk = np.ascontiguousarray(ijk, dtype=np.float64)
        if self.matrix is not None:
            return ijk @ self.matrix[:3, :3].T + self.matrix[:3, 3]
        before, after = vtk.vtkPoints(), vtk.vtkPoints()
        after.SetDataTypeToDouble()
        before.SetData(numpy_to_vtk(ijk))
        self.transform.TransformPoints(before, after)
        return vtk_to_numpy(after.GetData()).copy()

    def offset(self, low: np.ndarray, high: np.ndarray) -> np.ndarray | None:
        """(k, j, i) whole steps from index to index where the grids coincide in a box; None where they do not."""
        if self.matrix is None:
            return None
        corners = _corners(low, np.asarray(high) - 1)
        steps = self.points(corners) - corners
        whole = np.rint(steps[0])
        return whole[::-1].astype(int) if np.abs(steps - whole).max() < _SAME else None

    def reach(self, low: np.ndarray, high: np.ndarray) -> QueuedTask:
        """Find the box of the other grid that a box of this one can touch; only samples its faces where it has to."""
        low, high = np.asarray(low), np.asarray(high)
        if self.matrix is not None:
            moved, margin = self.points(_corners(low - 0.5, high - 0.5)), 0.0
        else:
            # A continuous map takes the border to the border; between two samples it strays less than they are apart.
            found = yield from self.faces(low, high)
            steps = [np.abs(np.diff(face, axis=axis)).max(initial=0) for face in found for axis in (0, 1)]
            moved, margin = np.concatenate([face.reshape(-1, 3) for face in found]), max(steps)
        first, last = moved.min(axis=0)[::-1] - margin, moved.max(axis=0)[::-1] + margin
        return np.floor(first + 0.5).astype(int), np.ceil(last + 0.5).astype(int) + 1

    def faces(self, low: np.ndarray, high: np.ndarray) -> QueuedTask:
        """Find where the six faces of a box come to lie: grids (n, m, 3) of points on them, in (i, j, k) order."""
        found = []
        for face in _faces(low - 0.5, high - 0.5):
            points, parts = face.reshape(-1, 3), []
            for start in range(0, len(points), _POINTS):
                parts.append(self.points(points[start : start + _POINTS]))
                yield
            found.append(np.concatenate(parts).reshape(face.shape))
        return found


def sampled(raster: Raster, passage: Passage, low: np.ndarray, high: np.ndarray, smooth: float | None = None):
    """What a raster holds at the voxel centres of a box: (k, j, i) of the raster's number type, 0 outside of it.

    Args:
        passage: from the grid of the box to the grid of the raster.
        smooth: interpolate linearly, with this value outside; None takes the nearest voxel, which labels need.

    Returns:
        a view where the grids coincide and the raster covers the box; never write to it.
    """
    low, high = np.asarray(low), np.asarray(high)
    outside = 0 if smooth is None else smooth
    offset = passage.offset(low, high)
    if offset is not None:
        return _window(raster, low + offset, high + offset, outside)
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(raster.image)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputExtent(*extentOf(low, high))
    reslice.SetResliceTransform(passage.transform)
    reslice.SetBackgroundLevel(outside)
    if smooth is None:
        reslice.SetInterpolationModeToNearestNeighbor()
    else:
        reslice.SetInterpolationModeToLinear()
    reslice.Update()
    return vtk_to_numpy(reslice.GetOutput().GetPointData().GetScalars()).reshape(tuple(high - low))


def insideBox(box: Box, passage: Passage, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which voxels (k, j, i) of a box of one grid have their centre in a box of the other: bool."""
    first, last = (np.asarray(end)[::-1] for end in box)
    # One voxel as large as the box: nearest to it is what lies in it.
    image = vtk.vtkImageData()
    image.SetDimensions(1, 1, 1)
    image.SetOrigin(*((first + last - 1) / 2))
    image.SetSpacing(*(last - first).astype(float))
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    image.GetPointData().GetScalars().Fill(1)
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(image)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputExtent(*extentOf(low, high))
    reslice.SetResliceTransform(passage.transform)
    reslice.SetInterpolationModeToNearestNeighbor()
    reslice.Update()
    return vtk_to_numpy(reslice.GetOutput().GetPointData().GetScalars()).reshape(tuple(high - low)) > 0


def inPieces(
    low: np.ndarray, high: np.ndarray, work: Callable[[np.ndarray, np.ndarray], QueuedTask | int | None]
) -> QueuedTask:
    """Call `work(low, high)` for boxes that tile a box, as large as the time the last one took allows.

    Pieces are as long as the box along i. Work that returns anything has done nothing yet: a number of voxels asks for
    a smaller piece, a queued task is done before the piece is tried again.
    """
    low, high = np.asarray(low), np.asarray(high)
    if np.any(low >= high):
        return
    row, plane = int(high[2] - low[2]), int(high[2] - low[2]) * int(high[1] - low[1])
    voxels, k, j = float(_FIRST_VOXELS), int(low[0]), int(low[1])
    while k < high[0]:
        planes = max(1, int(voxels / plane)) if j == low[1] else 1
        rows = int(high[1]) - j if voxels >= plane else max(1, int(voxels / row))
        first = np.array([k, j, low[2]])
        last = np.minimum([k + planes, j + rows, high[2]], high)
        begun = time.perf_counter()
        before = work(first, last)
        if isinstance(before, int):
            voxels = before
            continue
        if before is not None:
            yield from before
            continue
        pace = _PIECE_S / max(time.perf_counter() - begun, 1e-6)
        done = float(np.prod(last - first))  # less than asked for at the end of a plane or of the box
        voxels = max(_FEWEST_VOXELS, done * max(pace, 0.25)) if pace < 1 else max(voxels, done * min(pace, 2.0))
        voxels = min(voxels, _MOST_VOXELS)
        j = int(last[1]) if last[1] < high[1] else int(low[1])
        k = k if j > low[1] else int(last[0])
        yield


def fewer(low: np.ndarray, high: np.ndarray, masks: int) -> int | None:
    """How many voxels to take instead where a piece is too large to make so many masks of it; None where it is not."""
    size = np.asarray(high) - low
    most = max(_FEWEST_VOXELS, _MOST_MASKED // max(masks, 1))
    return most if size.prod() > most and size[:2].prod() > 1 else None


def intersection(first: Box, second: Box) -> Box:
    """The box that two have in common; empty ones have a low that is not below the high."""
    return np.maximum(first[0], second[0]), np.minimum(first[1], second[1])


def union(first: Box, second: Box) -> Box:
    """The smallest box that holds two; an empty one adds nothing."""
    if np.any(first[0] >= first[1]):
        return second
    if np.any(second[0] >= second[1]):
        return first
    return np.minimum(first[0], second[0]), np.maximum(first[1], second[1])


def boxOfExtent(extent: Sequence[int]) -> Box:
    """The box of a VTK extent (i, i, j, j, k, k), both ends inclusive there."""
    ends = np.array(extent).reshape(3, 2)[::-1]
    return ends[:, 0], ends[:, 1] + 1


def extentOf(low: np.ndarray, high: np.ndarray) -> list[int]:
    """The VTK extent of a box."""
    return [int(end) for pair in zip(low[::-1], np.asarray(high)[::-1] - 1, strict=True) for end in pair]


def arrayOfMatrix(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    """(4, 4) float64."""
    return np.array([matrix.GetElement(row, column) for row in range(4) for column in range(4)]).reshape(4, 4)


def matrixOfArray(affine: np.ndarray) -> vtk.vtkMatrix4x4:
    """The inverse of `arrayOfMatrix`."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(affine, dtype=float).ravel())
    return matrix


def _window(raster: Raster, low: np.ndarray, high: np.ndarray, outside: float) -> np.ndarray:
    first, last = intersection((low, high), raster.box)
    corner = np.array(raster.corner)
    found = raster.array[tuple(map(slice, np.maximum(first - corner, 0), np.maximum(last - corner, 0)))]
    if found.shape[:3] == tuple(high - low):
        return found
    window = np.full(tuple(high - low), outside, dtype=raster.array.dtype)
    if np.all(first < last):
        window[tuple(map(slice, first - low, last - low))] = found
    return window


def _corners(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(8, 3) the corners in (i, j, k) order of ends in (k, j, i) order."""
    return np.array(list(product(*zip(low[::-1], high[::-1], strict=True))), dtype=float)


def _faces(low: np.ndarray, high: np.ndarray) -> list[np.ndarray]:
    """Six grids (n, m, 3) of points in (i, j, k) order."""
    ends = list(zip(low[::-1], high[::-1], strict=True))
    faces = []
    for axis in range(3):
        first, second = (np.linspace(*ends[other], _FACE_SAMPLES) for other in range(3) if other != axis)
        for end in ends[axis]:
            one, two = np.meshgrid(first, second, indexing="ij")
            faces.append(np.insert(np.stack([one, two], axis=-1), axis, end, axis=-1))
    return faces
