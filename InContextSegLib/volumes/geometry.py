"""Where a voxel lies: a volume's array with its geometry, brought into other orders and onto other grids."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import permutations, product

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own documentation uses this name

from InContextSegLib.errors import InputError

AXES = ("axial", "coronal", "sagittal")

# Everything outside this file speaks RAS; ITK speaks LPS. The matrix is its own inverse.
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# RAS directions of the array axes after `anatomical_order`: slices upward, rows to the back, columns to the left.
_READING = np.array([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]])
# A volume counts as sliced along one direction from this ratio of its coarsest to its next spacing on.
_ANISOTROPIC = 1.2
_LABEL_TYPES = (np.uint8, np.uint16)
# Sums of cosines closer than this count as a tie, so that rounding in a file cannot order image and labels differently.
_TIE = 1e-4
# Voxels of two grids are the same where they lie this close together, in voxels; a header rounds positions.
_OFF_GRID = 0.05

Order = tuple[tuple[int, int, int], tuple[bool, bool, bool]]


class Kind(Enum):
    """What the numbers mean, and thereby how they may be interpolated."""

    INTENSITY = "intensity"
    LABELS = "labels"


@dataclass(frozen=True, eq=False)
class Geometry:
    """A grid in the patient's space.

    Attributes:
        shape: voxels along the array axes (k, j, i).
        affine: (4, 4) float64, read-only; takes (i, j, k, 1) to RAS millimetres, voxel centres at whole indices.

    Raises:
        InputError: if the shape is not three positive numbers, or the affine is not a finite, invertible (4, 4) matrix.
    """

    shape: tuple[int, ...]  # three: (k, j, i)
    affine: np.ndarray

    def __post_init__(self):
        shape = tuple(int(size) for size in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise InputError(f"A geometry needs three positive sizes (k, j, i), but got {tuple(self.shape)}.")
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.array_equal(affine[3], [0, 0, 0, 1]):
            raise InputError("The affine must be a finite (4, 4) matrix with the last row 0 0 0 1.")
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if spacing.min() <= 0 or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-6:
            raise InputError("The affine is not invertible: two axes of the grid coincide or one has no length.")
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    def millilitres(self, voxels: int) -> float:
        """The volume of so many voxels."""
        return voxels * float(np.prod(self.spacing_mm)) / 1000

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along the array axes (k, j, i), in millimetres."""
        i_mm, j_mm, k_mm = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return k_mm, j_mm, i_mm

    @property
    def directions(self) -> np.ndarray:
        """(3, 3) unit vectors in RAS; row n points along array axis n of (k, j, i)."""
        steps = self.affine[:3, :3].T[::-1]
        return steps / np.linalg.norm(steps, axis=1, keepdims=True)

    @property
    def shear(self) -> float:
        """Largest |cosine| between two axes of the grid: 0 when they are perpendicular."""
        return float(np.abs(self.directions @ self.directions.T - np.eye(3)).max())

    def to_world(self, index_kji: np.ndarray | Sequence[float]) -> np.ndarray:
        """RAS millimetres (..., 3) of the indices (..., 3) in (k, j, i) order; fractions are fine."""
        index_ijk = np.asarray(index_kji, dtype=np.float64)[..., ::-1]
        return index_ijk @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, position_mm: np.ndarray | Sequence[float]) -> np.ndarray:
        """Fractional indices (..., 3) in (k, j, i) order of the RAS positions (..., 3) in millimetres."""
        offset_mm = np.asarray(position_mm, dtype=np.float64) - self.affine[:3, 3]
        return (offset_mm @ np.linalg.inv(self.affine[:3, :3]).T)[..., ::-1]

    def matches(self, other: "Geometry", tolerance_mm: float = 1e-3) -> bool:
        """Whether both grids have one shape and all eight outer corners agree within `tolerance_mm`."""
        if self.shape != other.shape:
            return False
        # Voxel edges, not centres: a single slice must agree in its thickness too.
        corners_kji = np.array(list(product(*((-0.5, size - 0.5) for size in self.shape))))
        distance_mm = np.linalg.norm(self.to_world(corners_kji) - other.to_world(corners_kji), axis=1)
        return bool(distance_mm.max() <= tolerance_mm)

    def anatomical_order(self) -> Order:
        """How to turn an array of this grid so that slices of differently stored volumes look alike.

        Returns:
            permutation: entry n is the array axis (0 = k, 1 = j, 2 = i) that lies closest to inferior-superior,
                anterior-posterior, right-left for n = 0, 1, 2; one to one, with the largest sum of |cosine|.
            flips: entry n is True when that axis runs against the reading direction: axis 0 toward superior,
                axis 1 toward posterior, axis 2 toward the patient's left.
        """
        cosine = _READING @ self.directions.T
        best, best_total = (0, 1, 2), -np.inf
        for candidate in permutations(range(3)):
            total = sum(abs(cosine[n, axis]) for n, axis in enumerate(candidate))
            if total > best_total + _TIE:
                best, best_total = candidate, total
        return best, tuple(bool(cosine[n, axis] < 0) for n, axis in enumerate(best))

    def reordered(self, permutation: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> "Geometry":
        """The grid of `reorder(array, permutation, flips)`: every voxel stays where it was in the patient."""
        affine = self.affine.copy()
        for n, (axis, flipped) in enumerate(zip(permutation, flips, strict=True)):
            step = self.affine[:3, 2 - axis]
            affine[:3, 2 - n] = -step if flipped else step
            if flipped:
                affine[:3, 3] += step * (self.shape[axis] - 1)
        return Geometry(tuple(self.shape[axis] for axis in permutation), affine)


@dataclass(frozen=True, eq=False)
class Volume:
    """An array (k, j, i) at its place in the patient; the array is kept as a read-only view.

    LABELS are uint8 or uint16 (bool becomes uint8), INTENSITY is any real number type.

    Attributes:
        colours: (k, j, i, 3), red, green and blue of the voxels where there are any; the array is then a grey of them.

    Raises:
        InputError: if array and geometry differ in shape or the number type does not suit the kind.
    """

    array: np.ndarray
    geometry: Geometry
    kind: Kind = Kind.INTENSITY
    colours: np.ndarray | None = None

    def __post_init__(self):
        array = np.asarray(self.array)
        if self.colours is not None and self.colours.shape != (*array.shape, 3):
            raise InputError(f"The colours have the shape {self.colours.shape}, but the array {array.shape}.")
        if array.shape != self.geometry.shape:
            raise InputError(f"The array has the shape {array.shape}, but its geometry says {self.geometry.shape}.")
        array = array.astype(np.uint8) if array.dtype == bool else array.view()
        if self.kind is Kind.LABELS and array.dtype not in _LABEL_TYPES:
            raise InputError(f"Labels must be uint8 or uint16, but the array holds {array.dtype}.")
        if array.dtype.kind not in "iuf":
            raise InputError(f"Intensities must be real numbers, but the array holds {array.dtype}.")
        array.setflags(write=False)
        object.__setattr__(self, "array", array)


def across_slices(geometry: Geometry) -> str:
    """The axis across the thickest slices, along which people scroll and label; axial where none stands out."""
    permutation, _ = geometry.anatomical_order()
    if 1 in geometry.shape:
        return AXES[permutation.index(geometry.shape.index(1))]
    spacing = [geometry.spacing_mm[axis] for axis in permutation]
    if max(spacing) < _ANISOTROPIC * sorted(spacing)[1]:
        return "axial"
    return AXES[int(np.argmax(spacing))]


def any_along(array: np.ndarray, axis: int) -> np.ndarray:
    """(n,) bool: which slices along an array axis hold anything but 0."""
    return array.any(axis=tuple(other for other in range(array.ndim) if other != axis))


def reorder(array: np.ndarray, permutation: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> np.ndarray:
    """A view of a (k, j, i) array with its axes permuted, then the flagged ones reversed."""
    return np.flip(array.transpose(permutation), _flagged(flips))


def resample(volume: Volume, geometry: Geometry) -> Volume:
    """Bring a volume onto another grid, each voxel taken from the same place in the patient.

    LABELS: nearest neighbour, 0 outside, number type kept. INTENSITY: linear, float32, outside the smallest value of
    the volume; where the new grid is coarser, smoothed before by a Gaussian of sigma = 0.25 * (new / old spacing)
    voxels along each axis, so that fine detail does not fold into coarse patterns.
    """
    labels = volume.kind is Kind.LABELS
    array = volume.array if labels else volume.array.astype(np.float32)
    outside = 0.0 if labels else float(array.min())
    if volume.geometry.matches(geometry):
        return Volume(array, geometry, volume.kind)
    if not labels:
        array = _smoothed(array, _sigmas(volume.geometry, geometry))
    source = itk_image(array, volume.geometry)
    grid = itk_image(np.broadcast_to(np.uint8(0), geometry.shape), geometry)
    interpolator = sitk.sitkNearestNeighbor if labels else sitk.sitkLinear
    moved = sitk.Resample(source, grid, sitk.Transform(), interpolator, outside)
    return Volume(sitk.GetArrayFromImage(moved), geometry, volume.kind)


def laid_onto(labels: Volume, geometry: Geometry) -> Volume:
    """Labels on a grid of the same voxels, but of another extent or with axes swapped or reversed; 0 outside.

    They come back as they are where the voxels are not the same.
    """
    if labels.geometry.matches(geometry):
        return labels
    step = np.linalg.inv(geometry.affine[:3, :3]) @ labels.geometry.affine[:3, :3]
    whole = np.rint(step)
    start = geometry.to_index(labels.geometry.to_world((0, 0, 0)))
    off = np.abs(step - whole).max() * max(labels.geometry.shape) + np.abs(start - np.rint(start)).max()
    a_permutation = (np.abs(whole).sum(axis=0) == 1).all() and (np.abs(whole).sum(axis=1) == 1).all()
    return resample(labels, geometry) if a_permutation and off < _OFF_GRID else labels


def itk_image(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    """A copy of the array as a SimpleITK image at the same place; for writing files and for ITK's filters."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    lps = _LPS @ geometry.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def itk_geometry(image: sitk.Image | sitk.ImageFileReader) -> Geometry:
    """The grid of a SimpleITK image, or of the header a reader has read; the first three of its axes.

    Two-dimensional images become one slice, 1 mm thick, at the height 0.
    """
    size, dimension = image.GetSize(), image.GetDimension()
    used = min(dimension, 3)
    direction = np.reshape(image.GetDirection(), (dimension, dimension))
    lps = np.eye(4)
    lps[:used, :used] = direction[:used, :used] * np.asarray(image.GetSpacing()[:used])
    lps[:used, 3] = image.GetOrigin()[:used]
    return Geometry((*(1,) * (3 - used), *size[:used][::-1]), _LPS @ lps)


def picture_geometry(shape: tuple[int, int, int], spacing_mm: tuple[float, float] = (1.0, 1.0)) -> Geometry:
    """The grid of a picture without a place in a patient: columns run to the left, rows to the back.

    Args:
        shape: (pages, rows, columns).
        spacing_mm: height and width of a pixel.
    """
    row_mm, column_mm = spacing_mm
    return Geometry(shape, _LPS @ np.diag([column_mm, row_mm, 1.0, 1.0]))


def _flagged(flips: tuple[bool, bool, bool]) -> tuple[int, ...]:
    return tuple(axis for axis, flipped in enumerate(flips) if flipped)


def _sigmas(old: Geometry, new: Geometry) -> np.ndarray:
    """Sigma of the anti-aliasing along each array axis, in old voxels; 0 where the grid gets no coarser."""
    # Root mean square over the new axes: exact for parallel grids, the same for every rotation of an isotropic one.
    cosine = old.directions @ new.directions.T
    new_mm = np.sqrt((cosine**2 * np.square(new.spacing_mm)).sum(axis=1) / (cosine**2).sum(axis=1))
    ratio = new_mm / np.asarray(old.spacing_mm)
    return np.where(ratio > 1 + 1e-6, 0.25 * ratio, 0.0)


def _smoothed(array: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Gaussian smoothing of a float32 array (k, j, i), the border repeated outward."""
    for axis, sigma in enumerate(sigmas):
        # An axis with one voxel has nothing to mix.
        if sigma == 0 or array.shape[axis] == 1:
            continue
        radius = int(np.ceil(4 * sigma))
        weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        weights = (weights / weights.sum()).astype(np.float32)
        padding = [(radius, radius) if n == axis else (0, 0) for n in range(3)]
        padded = np.moveaxis(np.pad(array, padding, mode="edge"), axis, 0)
        length = array.shape[axis]
        mixed = np.zeros_like(padded[:length])
        for offset, weight in enumerate(weights):
            mixed += weight * padded[offset : offset + length]
        array = np.moveaxis(mixed, 0, axis)
    return array
