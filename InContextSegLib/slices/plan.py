"""Cuts volumes into square network pictures in anatomical reading order and lays network maps back onto the voxels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from InContextSegLib.errors import InputError
from InContextSegLib.slices.intensities import Intensities, Scale
from InContextSegLib.slices.resampling import Ruler
from InContextSegLib.volumes.geometry import AXES, Geometry, Kind, Volume, reorder

Box = tuple[Sequence[int], Sequence[int]]  # (k, j, i) low inclusive, high exclusive
SliceChoice = Literal["auto", "labelled", "all"] | int | tuple[int, ...]  # see `SupportSet.from_volumes`

# Per axis: the anatomical directions (0 toward Superior, 1 toward Posterior, 2 toward Left) that slices, rows and
# columns follow, and which of the three are turned round: a coronal or sagittal picture has the head at the top.
_READING = {
    "axial": ((0, 1, 2), (False, False, False)),
    "coronal": ((1, 0, 2), (False, True, False)),
    "sagittal": ((2, 0, 1), (False, True, False)),
}
# Slices per matrix product: bounds the memory, and fills whole cache lines when slices lie across the storage order.
_CHUNK = 16
# Fraction of the smallest voxel edge by which two grids may differ and still be the same grid.
_GRID_TOLERANCE = 0.1


@dataclass(frozen=True, eq=False)
class SlicePlan:
    """Where the voxels of a grid come to lie in square network pictures of one reading axis, and the way back.

    Slices are numbered from inferior to superior (axial), anterior to posterior (coronal), right to left (sagittal),
    whatever the storage order of the array. Rows run toward posterior (axial) or inferior (coronal, sagittal), columns
    toward the patient's left (axial, coronal) or posterior (sagittal). A picture is never stretched: its pixels are
    square in millimetres, the longer side of the slice (edge to edge) fills `size` pixels, the shorter is centred
    between zeros. A volume that lies obliquely is cut along the array axis closest to `axis`.

    Attributes:
        geometry: the grid that the plan cuts.
        axis: one of `AXES`.
        size: rows and columns of a picture, in pixels.
        box: the part of the grid that is cut: (low, high) voxel indices (k, j, i), low inclusive, high exclusive.
        field_mm: the edge of a picture in millimetres, where the box is not longer; None: the longer side of the box.
    """

    geometry: Geometry
    axis: str
    size: int
    box: Box
    field_mm: float | None = None

    @classmethod
    def of(
        cls,
        geometry: Geometry,
        axis: str = "axial",
        size: int = 128,
        box: Box | None = None,
        field_mm: float | None = None,
    ) -> "SlicePlan":
        """Plan the cutting of `geometry`, or of its part inside `box`.

        Raises:
            InputError: if the axis is unknown, the size is not a positive number or the box does not lie in the grid.
        """
        if axis not in AXES:
            raise InputError(f"There is no slice axis '{axis}'; choose one of {', '.join(AXES)}.")
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise InputError(f"The picture size must be a whole number of pixels from 1 up, but {size!r} came.")
        return cls(geometry, axis, int(size), _checked_box(box, geometry.shape), field_mm)

    @property
    def count(self) -> int:
        """Number of slices inside the box."""
        return self._extent[0]

    @property
    def array_axis(self) -> int:
        """The array axis (0 = k, 1 = j, 2 = i) that the slices are stacked along."""
        return self._layout[0][0]

    @property
    def first(self) -> int:
        """The number of the first slice inside the box in a plan of the whole grid."""
        return int(self._start[0])

    @property
    def pixel_mm(self) -> float:
        """Edge of a picture's pixel in millimetres, the same for rows and columns."""
        return max(self.field_mm or 0, *(self._extent[n] * self._spacing_mm[n] for n in (1, 2))) / self.size

    @property
    def window(self) -> Box:
        """The part of every slice that is shown, as a box of all slices."""
        return _whole_depth(self.box, self.geometry, self.array_axis)

    @property
    def slice_voxels(self) -> int:
        """Voxels in a slice of the whole grid."""
        return math.prod(self.geometry.shape) // self.geometry.shape[self.array_axis]

    @property
    def step_mm(self) -> float:
        """Distance from slice to slice in millimetres."""
        return self.geometry.spacing_mm[self.array_axis]

    @cached_property
    def positions(self) -> np.ndarray:
        """(count,) float64: where each slice lies along the axis of the whole volume, also when a box is set.

        0 is the outer face of the first slice (inferior, anterior or right), 1 that of the last; a single slice is 0.5.
        """
        length = self.geometry.shape[self.array_axis]
        return (np.arange(self.count) + self._start[0] + 0.5) / length

    @cached_property
    def coverage(self) -> np.ndarray:
        """(size, size) bool: the pixels that show the image; the others are padding."""
        rows, columns = self._rulers
        inside = np.zeros((self.size, self.size), dtype=bool)
        inside[rows.covered, columns.covered] = True
        return inside

    def slice_index(self, number: int) -> int:
        """Return the index along `array_axis` of slice `number`, as viewers of the stored array count it."""
        (number,) = self._checked([number])
        low, high = (end[self.array_axis] for end in self.box)
        return int(high - 1 - number if self._layout[1][0] else low + number)

    def number(self, slice_index: int) -> int:
        """Return the slice number that shows index `slice_index` of `array_axis`: the inverse of `slice_index`.

        Raises:
            InputError: if no slice of the plan shows that index.
        """
        low, high = (end[self.array_axis] for end in self.box)
        if not low <= slice_index < high:
            raise InputError(
                f"There is no {self.axis} slice {slice_index}; choose an index from {low} to {high - 1} "
                f"(along array axis {'kji'[self.array_axis]})."
            )
        return high - 1 - slice_index if self._layout[1][0] else slice_index - low

    def extract(self, volume: Volume, scale: Scale, numbers: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Cut pictures from `volume`.

        Sampling is linear after a Gaussian of sigma 0.25 * (pixel / voxel) voxels where that ratio exceeds 1.

        Args:
            volume: on the plan's grid.
            scale: brings the intensities to [0, 1] before they are sampled.
            numbers: the slices wanted, in the order wanted; None means all.

        Returns:
            (n, size, size) float32 in [0, 1], padding 0.

        Raises:
            InputError: if the volume lies on another grid or a number names no slice.
        """
        self._require_grid(volume)
        chosen = self._checked(numbers)
        stack = self._stack(volume.array)
        rows, columns = self._rulers
        pictures = np.empty((len(chosen), self.size, self.size), dtype=np.float32)
        for start in range(0, len(chosen), _CHUNK):
            block = scale.apply(stack[_run(chosen[start : start + _CHUNK])])
            pictures[start : start + _CHUNK] = rows.sampling @ block @ columns.sampling.T
        # Rounding in a weighted mean of ones may exceed one by the last bit.
        return np.clip(pictures, 0, 1, out=pictures)

    def channels(
        self, volume: Volume, scale: Scale, numbers: Sequence[int] | np.ndarray | None = None
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Cut pictures of three channels: the colours of a volume that has some, else a slice between its neighbours.

        At either end of the volume, and of a volume of one slice, the slice itself takes its neighbour's place. Colours
        are scaled by their own percentiles, all three alike.

        Returns:
            for every slice three (size, size) float32 in [0, 1]; pictures that occur more than once are the same array.

        Raises:
            InputError: as `extract`.
        """
        chosen = self._checked(numbers).tolist()
        if volume.colours is not None:
            own = Intensities().of(volume.colours)
            parts = [
                self.extract(Volume(volume.colours[..., channel], volume.geometry), own, chosen) for channel in range(3)
            ]
            return list(zip(*parts, strict=True))
        whole = replace(self, box=self.window)
        shift, last = self.first, whole.count - 1
        wanted = [[max(n + shift - 1, 0), n + shift, min(n + shift + 1, last)] for n in chosen]
        needed = sorted({number for three in wanted for number in three})
        cut = dict(zip(needed, whole.extract(volume, scale, needed), strict=True))
        return [tuple(cut[number] for number in three) for three in wanted]

    def extract_labels(self, volume: Volume, numbers: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Cut pictures from a label volume: (n, size, size) uint16, the nearest voxel's value, padding 0.

        Raises:
            InputError: if the volume lies on another grid, does not hold labels or a number names no slice.
        """
        self._require_grid(volume)
        if volume.kind is not Kind.LABELS:
            raise InputError("Labels were to be cut from a volume of intensities; read the file as labels.")
        chosen = self._checked(numbers)
        stack = self._stack(volume.array)
        rows, columns = self._rulers
        sources = np.ix_(rows.nearest(), columns.nearest())
        pictures = np.zeros((len(chosen), self.size, self.size), dtype=np.uint16)
        for picture, number in zip(pictures, chosen, strict=True):
            picture[rows.covered, columns.covered] = stack[number][sources]
        return pictures

    def restore(self, maps: np.ndarray, numbers: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Lay maps back onto the voxels of the whole volume.

        Linear between pixel centres at the positions `extract` sampled, so what varies linearly comes back exactly.
        Beyond the outermost centres the value is kept, not continued: probabilities stay so. Padding is never used.

        Args:
            maps: (n, size, size), any real type.
            numbers: the slice each map belongs to; None means all, in order.

        Returns:
            (k, j, i) float32 of the geometry's shape, 0 outside the box and in slices without a map.

        Raises:
            InputError: if the maps have another shape or a number names no slice.
        """
        chosen = self._checked(numbers)
        if np.shape(maps) != (wanted := (len(chosen), self.size, self.size)):
            raise InputError(f"The maps to restore must have shape {wanted}, but {np.shape(maps)} came.")
        restored = np.zeros(self.geometry.shape, dtype=np.float32)
        stack = self._stack(restored)
        rows, columns = self._rulers
        for start in range(0, len(chosen), _CHUNK):
            block = np.asarray(maps[start : start + _CHUNK], dtype=np.float32)
            stack[_run(chosen[start : start + _CHUNK])] = rows.restoring @ block @ columns.restoring.T
        return restored

    def lowest(self, start: int, stop: int) -> int:
        """The least index along `array_axis` of slices `start` to `stop` (exclusive)."""
        return min(self.slice_index(start), self.slice_index(stop - 1))

    def part(self, start: int, stop: int) -> "SlicePlan":
        """The plan of slices `start` to `stop` (exclusive) as a grid of their own.

        Restoring on the whole volume would touch all of it.
        """
        across, (low, high) = self.array_axis, (list(end) for end in self.box)
        corner, shape = np.zeros(3), list(self.geometry.shape)
        corner[across] = self.lowest(start, stop)
        shape[across], low[across], high[across] = stop - start, 0, stop - start
        affine = self.geometry.affine.copy()
        affine[:3, 3] = self.geometry.to_world(corner)
        return replace(self, geometry=Geometry(tuple(shape), affine), box=(tuple(low), tuple(high)))

    def place(self, index_kji: np.ndarray) -> np.ndarray:
        """Return (..., 3) float64 (number, row, column) of voxel positions (..., 3); whole numbers are centres."""
        steps = self._turned(np.asarray(index_kji, dtype=np.float64)[..., list(self._layout[0])]) - self._start
        rows, columns = self._rulers
        return np.stack([steps[..., 0], rows.to_pixel(steps[..., 1]), columns.to_pixel(steps[..., 2])], axis=-1)

    def locate(self, place: np.ndarray) -> np.ndarray:
        """Return (..., 3) float64 voxel positions (k, j, i) of (number, row, column): the inverse of `place`."""
        place = np.asarray(place, dtype=np.float64)
        rows, columns = self._rulers
        steps = np.stack([place[..., 0], rows.to_voxel(place[..., 1]), columns.to_voxel(place[..., 2])], axis=-1)
        return self._turned(steps + self._start)[..., list(np.argsort(self._layout[0]))]

    @cached_property
    def _layout(self) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
        """Array axes that slices, rows and columns run along, and which of them run against the storage."""
        permutation, against = self.geometry.anatomical_order()
        directions, turned = _READING[self.axis]
        order = tuple(permutation[direction] for direction in directions)
        flips = tuple(against[direction] != turn for direction, turn in zip(directions, turned, strict=True))
        return order, flips

    @cached_property
    def _extent(self) -> tuple[int, int, int]:
        low, high = self.box
        return tuple(high[axis] - low[axis] for axis in self._layout[0])

    @cached_property
    def _start(self) -> np.ndarray:
        """(3,) where the box begins along slices, rows and columns, counted in reading direction."""
        (low, high), shape = self.box, self.geometry.shape
        pairs = zip(*self._layout, strict=True)
        return np.array([shape[axis] - high[axis] if flip else low[axis] for axis, flip in pairs])

    @cached_property
    def _spacing_mm(self) -> tuple[float, float, float]:
        return tuple(self.geometry.spacing_mm[axis] for axis in self._layout[0])

    @cached_property
    def _rulers(self) -> tuple["Ruler", "Ruler"]:
        return tuple(Ruler(self._extent[n], self._spacing_mm[n] / self.pixel_mm, self.size) for n in (1, 2))

    def _stack(self, array: np.ndarray) -> np.ndarray:
        """View (count, rows, columns) of the box in reading order; writing to it writes to `array`."""
        return reorder(array[tuple(map(slice, *self.box))], *self._layout)

    def _turned(self, steps: np.ndarray) -> np.ndarray:
        """Exchange storage and reading direction where they oppose; its own inverse."""
        order, flips = self._layout
        return np.where(flips, np.array(self.geometry.shape)[list(order)] - 1 - steps, steps)

    def _checked(self, numbers: Sequence[int] | np.ndarray | None) -> np.ndarray:
        if numbers is None:
            return np.arange(self.count)
        chosen = np.asarray(numbers)
        if chosen.size == 0:
            return np.zeros(0, dtype=np.intp)
        whole = chosen.ndim == 1 and np.issubdtype(chosen.dtype, np.integer)
        if not whole or chosen.min() < 0 or chosen.max() >= self.count:
            raise InputError(
                f"Slice numbers must be whole numbers from 0 to {self.count - 1} ({self.axis}), but {numbers} came."
            )
        return chosen.astype(np.intp)

    def _require_grid(self, volume: Volume) -> None:
        if not same_grid(self.geometry, volume.geometry):
            raise InputError(
                f"The slices were planned for a grid of {self.geometry.shape} voxels, but the volume of "
                f"{volume.geometry.shape} lies elsewhere; make a plan from the volume's own geometry."
            )


def same_grid(first: Geometry, second: Geometry) -> bool:
    """Whether two grids agree in shape and, to a tenth of the smallest voxel edge, in all their corners.

    Programs round the affine they write; a tenth of a voxel changes no voxel's label.
    """
    return first.matches(second, tolerance_mm=_GRID_TOLERANCE * min(first.spacing_mm))


def stored_axis(geometry: Geometry) -> str:
    """Return the slice axis whose slices are the stored planes of the array (constant k), as for a 2D image."""
    permutation, _ = geometry.anatomical_order()
    return next(axis for axis in AXES if permutation[_READING[axis][0][0]] == 0)


def _run(numbers: np.ndarray) -> np.ndarray | slice:
    """Index for `numbers`: a slice when they follow one another, which spares a copy."""
    return slice(numbers[0], numbers[-1] + 1) if np.all(np.diff(numbers) == 1) else numbers


def _checked_box(box: Box | None, shape: tuple[int, int, int]) -> Box:
    if box is None:
        return (0, 0, 0), tuple(int(length) for length in shape)
    ends = np.asarray(box)
    if ends.shape != (2, 3) or not np.issubdtype(ends.dtype, np.integer):
        raise InputError(f"A box is two corners of three whole voxel indices (k, j, i), low and high, but {box} came.")
    low, high = ends
    if np.any(low >= high) or np.any(low < 0) or np.any(high > shape):
        raise InputError(
            f"The box {_spoken(low.tolist(), high.tolist())} must hold at least one voxel and lie inside the volume "
            f"{_spoken((0, 0, 0), shape)} (ends included); move its corners."
        )
    return tuple(low.tolist()), tuple(high.tolist())


def _spoken(low: Sequence[int], high: Sequence[int]) -> str:
    """The corners of a box, axis by axis in the order that people name them, with both ends."""
    return ", ".join(f"{name} {low[axis]} to {high[axis] - 1}" for name, axis in (("i", 2), ("j", 1), ("k", 0)))


def _whole_depth(box: Box, geometry: Geometry, array_axis: int) -> Box:
    """The box from the first slice to the last."""
    low, high = (list(end) for end in box)
    low[array_axis], high[array_axis] = 0, geometry.shape[array_axis]
    return tuple(low), tuple(high)
