"""A plane of the world that is no slice of the volume's own grid: cut out of the volume, and written back into it."""

from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

from InContextSegLib.errors import InputError
from InContextSegLib.volumes.geometry import AXES, Geometry
from InContextSegLib.worker.client import WorkerClient
from InContextSegLib.worker.protocol import ArrayRef
from InContextSegSlicer.scene.grid_mapping import (
    Grid,
    Passage,
    QueuedTask,
    Raster,
    arrayOfMatrix,
    inPieces,
    insideBox,
    matrixOfArray,
    sampled,
)
from InContextSegSlicer.scene.reading import arrayOf, geometryOf, gridOfVolume
from InContextSegSlicer.scene.voxelsets import tightBox
from InContextSegSlicer.scene.writing import EVERYWHERE, Region, SegmentWriter, gridOfSegment

# A cut is as fine as the finest edge of a voxel, but has no more pixels along a side than this: 4 MB of a CT.
LARGEST = 1024
KEPT = 4
# Planes that are nowhere in the volume as far apart as half its finest edge are one and the same.
NEAR = 0.5
# Fraction of a thickness by which what is written lies aside: else a plane just between two layers would be in both.
_ASIDE = 1e-4
_SAMPLES = 400  # places in a cut that tell how thick voxels are there
_GRID_POINTS = 5  # points along each edge of a volume that tell where it lies, under whatever transform
_WORLD = Grid(np.eye(4))
Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Plane:
    """A plane as a view showed it of a volume, in millimetres of the world.

    Attributes:
        origin: where it is nearest to the middle of the volume.
        across, up: unit vectors along the rows and columns of the view.
        spacing: the volume's finest edge of a voxel.
        radius: from the origin, within which all that it shows of the volume lies.
    """

    origin: Vector
    across: Vector
    up: Vector
    spacing: float
    radius: float

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.across, self.up)

    @property
    def axis(self) -> str:
        """What the library calls slices that lie like this plane."""
        permutation, _flips = Geometry((1, 2, 2), self.affine(self.spacing)).anatomical_order()
        return AXES[permutation.index(0)]

    def affine(self, spacing: float, first: np.ndarray | None = None) -> np.ndarray:
        """(4, 4) from pixels (column, row, 0, 1) to the world.

        Args:
            first: millimetres across and up from the origin to the first pixel.
        """
        affine = np.eye(4)
        affine[:3, :3] = np.stack([self.across, self.up, self.normal], axis=1) * (spacing, spacing, self.spacing)
        affine[:3, 3] = self.origin
        if first is not None:
            affine[:3, 3] += np.stack([self.across, self.up], axis=1) @ first
        return affine

    def coordinates(self, positions: np.ndarray) -> np.ndarray:
        """(..., 3) millimetres across, up and above the plane of positions (..., 3)."""
        return (positions - np.array(self.origin)) @ np.stack([self.across, self.up, self.normal], axis=1)

    def corners(self, first: Vector, opposite: Vector) -> tuple[Vector, ...]:
        """The four corners of a box along rows and columns, by two of them."""
        (a, b, above), (c, d, _above) = (self.coordinates(np.array(each)) for each in (first, opposite))
        axes = np.stack([self.across, self.up, self.normal])
        return tuple(_vector(np.array(self.origin) + (x, y, above) @ axes) for x, y in ((a, b), (c, b), (c, d), (a, d)))

    def isNear(self, other: "Plane") -> bool:
        """Whether both show the same of the volume, however they are turned within themselves."""
        tilt = float(np.linalg.norm(np.cross(self.normal, other.normal)))
        apart = abs(float(other.coordinates(np.array(self.origin))[2])) + tilt * self.radius
        return apart <= NEAR * self.spacing


def planeIn(sliceNode: slicer.vtkMRMLSliceNode, volume: slicer.vtkMRMLScalarVolumeNode) -> Plane:
    """The plane that a view shows of a volume, under any transforms.

    Raises:
        InputError: if it shows nothing of the volume.
    """
    toRas, shape = arrayOfMatrix(sliceNode.GetSliceToRAS()), np.array(arrayOf(volume).shape[2::-1])
    across, normal = _unit(toRas[:3, 0]), _unit(np.cross(toRas[:3, 0], toRas[:3, 1]))
    ends = [np.linspace(-0.5, length - 0.5, _GRID_POINTS) for length in shape]
    points = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
    middle = (shape - 1) / 2
    toWorld = Passage(gridOfVolume(volume), _WORLD)
    centre, *neighbours = toWorld.points(np.vstack([middle, middle + np.eye(3)]))
    outer = toWorld.points(points)
    above = (outer - toRas[:3, 3]) @ normal
    if (above > 0).all() or (above < 0).all():
        raise InputError(_("This view shows nothing of '{volume}'; scroll to it.").format(volume=volume.GetName()))
    return Plane(
        origin=_vector(centre - ((centre - toRas[:3, 3]) @ normal) * normal),
        across=_vector(across),
        up=_vector(np.cross(normal, across)),
        spacing=float(np.linalg.norm(np.array(neighbours) - centre, axis=1).min()),
        radius=float(np.linalg.norm(outer - centre, axis=1).max()),
    )


@dataclass(frozen=True, eq=False)
class Cut:
    """What a plane shows of a volume.

    Attributes:
        node: a volume of one slice in the world, outside of the scene; beyond the source it has its smallest value.
        inside: (1, rows, columns) bool, the pixels that lie in the source.
        source: what the source was like, see `stateOf`.
        array: the name under which the worker can read it.
    """

    node: slicer.vtkMRMLScalarVolumeNode
    inside: np.ndarray
    source: tuple
    array: str = ""

    @property
    def target(self) -> ArrayRef:
        return ArrayRef.of(self.array, geometryOf(self.node))


class Cuts:
    """The planes looked at last, as they were cut out of their volumes."""

    def __init__(self, client: WorkerClient):
        self._client = client
        self._kept: dict[tuple[str, Plane], Cut] = {}  # the last used last

    def known(self, plane: Plane, volume: slicer.vtkMRMLScalarVolumeNode) -> Cut | None:
        """The cut, as long as the volume is and lies as it was and did."""
        cut = self._kept.get((volume.GetID(), plane))
        return cut if cut is not None and cut.source == stateOf(volume) else None

    def cut(self, plane: Plane, volume: slicer.vtkMRMLScalarVolumeNode) -> Generator[None, None, Cut]:
        """A queued task: the cut, handed over to the worker.

        Raises:
            InputError: if the volume holds no image, or the plane does not meet it.
        """
        key, cut = (volume.GetID(), plane), self.known(plane, volume)
        if cut is None:
            cut = yield from cutOut(plane, volume)
            name = yield from self._client.publishing(arrayOf(cut.node))
            cut = replace(cut, array=name)
        before = self._kept.pop(key, cut)
        self._kept[key] = cut
        if before is not cut:
            self._client.forget(before.array)
        while len(self._kept) > KEPT:
            self._client.forget(self._kept.pop(next(iter(self._kept))).array)
        return cut

    def reset(self) -> None:
        """Forget all of them, as when a scene is closed."""
        for cut in self._kept.values():
            self._client.forget(cut.array)
        self._kept.clear()


def cutOut(plane: Plane, volume: slicer.vtkMRMLScalarVolumeNode) -> Generator[None, None, Cut]:
    """A queued task: what a plane shows of a volume, as far as it reaches; linear between voxels, in their type."""
    source, array, grid = stateOf(volume), arrayOf(volume), gridOfVolume(volume)
    whole = np.zeros(3, int), np.array(array.shape[:3])
    low, high = yield from _extentOf(plane, volume)
    spacing = max(plane.spacing, float((high - low).max()) / LARGEST)
    columns, rows = np.maximum(np.ceil((high - low) / spacing - 1e-6), 1).astype(int).tolist()
    first = (low + high) / 2 - (np.array([columns, rows]) - 1) / 2 * spacing
    affine = plane.affine(spacing, first)
    passage = Passage(Grid(affine), grid)
    rasters = [Raster(array)] if array.ndim == 3 else [Raster(np.ascontiguousarray(array[..., n])) for n in range(3)]
    yield
    values, inside = np.empty((1, rows, columns, len(rasters)), array.dtype), np.empty((1, rows, columns), bool)

    def work(low: np.ndarray, high: np.ndarray) -> None:
        window = tuple(map(slice, low, high))
        inside[window] = insideBox(whole, passage, low, high)
        for number, raster in enumerate(rasters):
            values[(*window, number)] = sampled(raster, passage, low, high, smooth=0)

    yield from inPieces(np.zeros(3, int), np.array(inside.shape), work)
    if not inside.any():
        raise InputError(_("This view shows nothing of '{volume}'; scroll to it.").format(volume=volume.GetName()))
    values[~inside] = values[inside].min()
    return Cut(_nodeOf(values, affine, volume.GetName()), inside, source)


def written(
    writer: SegmentWriter,
    cut: Cut,
    volume: slicer.vtkMRMLScalarVolumeNode,
    where: tuple[slicer.vtkMRMLSegmentationNode, str],
    mask: np.ndarray,
    existing: str,
) -> QueuedTask:
    """A queued task: write a mask (1, rows, columns) of a cut into a segment (segmentation, ID).

    Every voxel that the plane passes through takes the pixel nearest to its centre. So the same plane shows the same
    again; of one voxel per column, as thin as a digital plane can be, it would show a sieve.

    Args:
        existing: see `SegmentWriter.write`; "all" means what the segment has on this plane.
    """
    segmentation, segment = where
    affine = gridOfVolume(cut.node).affine.copy()
    normal = _unit(affine[:3, 2])
    thickness = _thickness(gridOfSegment(segmentation, segment, volume), cut, normal)
    affine[:3, 2] = normal * thickness
    affine[:3, 3] += normal * thickness * _ASIDE
    layer = slicer.vtkMRMLScalarVolumeNode()
    layer.SetName(volume.GetName())
    layer.SetAndObserveImageData(cut.node.GetImageData())
    layer.SetIJKToRASMatrix(matrixOfArray(affine))
    block = (mask > 0) & cut.inside
    low, high = (np.zeros(3, int), np.zeros(3, int)) if not block.any() else tightBox(block)
    # To look for the region as well takes time, and no label lies outside of it.
    region = Region(((0, 0, 0), block.shape)) if existing == "all" else EVERYWHERE
    yield from writer.write(
        layer, segmentation, block[tuple(map(slice, low, high))], tuple(low), {1: segment}, existing, region
    )


def _extentOf(plane: Plane, volume: slicer.vtkMRMLScalarVolumeNode) -> Generator[None, None, tuple]:
    """A queued task: millimetres (across, up) from where to where the plane meets a volume: where faces cross it."""
    faces = yield from Passage(gridOfVolume(volume), _WORLD).faces(
        np.zeros(3, int), np.array(arrayOf(volume).shape[:3])
    )
    met = []
    for face in faces:
        places = plane.coordinates(face)
        for axis in (0, 1):
            one, other = (np.moveaxis(places, axis, 0)[part].reshape(-1, 3) for part in (slice(-1), slice(1, None)))
            crossing = (one[:, 2] <= 0) != (other[:, 2] <= 0)
            one, other = one[crossing], other[crossing]
            met.append(one[:, :2] + (one[:, 2:] / (one[:, 2:] - other[:, 2:])) * (other - one)[:, :2])
    met = np.concatenate(met)
    if not len(met):
        raise InputError(_("This view shows nothing of '{volume}'; scroll to it.").format(volume=volume.GetName()))
    return met.min(axis=0), met.max(axis=0)


def _thickness(grid: Grid, cut: Cut, normal: np.ndarray) -> float:
    """How far apart, in millimetres, two planes along a cut are that touch the same voxel on either side.

    Under a warp that is not everywhere the same; the largest is taken, so that no voxel is left out.
    """
    pixels = np.argwhere(cut.inside)
    pixels = pixels[:: max(len(pixels) // _SAMPLES, 1), ::-1]
    indices = Passage(gridOfVolume(cut.node), grid).points(pixels)
    toWorld = Passage(grid, _WORLD)
    here = toWorld.points(indices)
    return float(sum(np.abs((toWorld.points(indices + step) - here) @ normal) for step in np.eye(3)).max())


def stateOf(volume: slicer.vtkMRMLScalarVolumeNode) -> tuple:
    """What a cut depends on, besides its plane."""
    parent, image = volume.GetParentTransformNode(), volume.GetImageData()
    times = image.GetMTime() if image is not None else 0, parent.GetTransformToWorldMTime() if parent is not None else 0
    return (*times, parent.GetID() if parent is not None else "", gridOfVolume(volume).affine.tobytes())


def _nodeOf(values: np.ndarray, affine: np.ndarray, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    """A volume outside of the scene that holds (1, rows, columns, components)."""
    image = vtk.vtkImageData()
    image.SetDimensions(*values.shape[2::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(values.reshape(-1, values.shape[3]), deep=True))
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(name)
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(matrixOfArray(affine))
    return node


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _vector(numbers: np.ndarray) -> Vector:
    return tuple(numbers.tolist())
