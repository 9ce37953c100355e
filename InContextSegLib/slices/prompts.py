"""Clicks, boxes and scribbles at their place in the patient, and what they look like to a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from InContextSegLib.errors import InputError
from InContextSegLib.slices.plan import Box, SlicePlan
from InContextSegLib.volumes.geometry import Geometry

# A click marks the pixels whose centres lie this close to the centre of the pixel that was hit, in network pixels.
CLICK_RADIUS_PX = 2.5
# Positions this close (in voxels) to a border lie on it, whatever the rounding of the affine.
_TIE = 1e-6

Position = tuple[float, ...]  # three: RAS mm


@dataclass(frozen=True)
class Point:
    """A click at a position in RAS millimetres; `positive`: the structure is here, else: it is not.

    Raises:
        InputError: if the position is not three finite numbers.
    """

    position_mm: Position
    positive: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "position_mm", _checked_position(self.position_mm))


@dataclass(frozen=True)
class BoxPrompt:
    """A box round the structure, from one corner to the opposite one, both in RAS millimetres.

    Its edges run along the grid of the image it is drawn on, so two corners say all of it on an oblique grid too.
    It counts on the slices from one corner to the other, both included: a rectangle dragged on a slice on that one.

    Raises:
        InputError: if a corner is not three finite numbers.
    """

    corner_mm: Position
    opposite_mm: Position

    def __post_init__(self) -> None:
        for name in ("corner_mm", "opposite_mm"):
            object.__setattr__(self, name, _checked_position(getattr(self, name)))


@dataclass(frozen=True, eq=False)
class Scribble:
    """Painted voxels: a crop (k, j, i) of a mask on the image's grid, and the index of its first voxel.

    Raises:
        InputError: if nothing is painted.
    """

    mask: Bool[np.ndarray, "k j i"]
    corner_kji: tuple[int, int, int]
    positive: bool = True

    def __post_init__(self) -> None:
        if not self.mask.any():
            raise InputError("A scribble needs at least one painted voxel, but its mask is empty.")
        mask = np.array(self.mask)
        mask.setflags(write=False)
        object.__setattr__(self, "mask", mask)

    @cached_property
    def voxels_kji(self) -> np.ndarray:
        """(n, 3) indices of the painted voxels in the image."""
        return np.argwhere(self.mask) + np.array(self.corner_kji)


@dataclass(frozen=True)
class Prompts:
    """All that a user has said about one structure in one image. Undo is to keep the earlier one."""

    points: tuple[Point, ...] = ()
    boxes: tuple[BoxPrompt, ...] = ()
    scribbles: tuple[Scribble, ...] = ()

    def adding(self, *prompts: Point | BoxPrompt | Scribble) -> "Prompts":
        """These prompts and more."""
        return Prompts(
            self.points + tuple(each for each in prompts if isinstance(each, Point)),
            self.boxes + tuple(each for each in prompts if isinstance(each, BoxPrompt)),
            self.scribbles + tuple(each for each in prompts if isinstance(each, Scribble)),
        )

    @property
    def empty(self) -> bool:
        return not (self.points or self.boxes or self.scribbles)

    def extent(self, geometry: Geometry) -> Box | None:
        """Voxel indices (k, j, i) of a grid, low and high (exclusive), between which all of it lies; None: nothing."""
        corners = [each.position_mm for each in self.points]
        corners += [corner for box in self.boxes for corner in (box.corner_mm, box.opposite_mm)]
        voxels = [geometry.to_index(np.array(corners))] if corners else []
        voxels += [scribble.voxels_kji for scribble in self.scribbles]
        if not voxels:
            return None
        rounded = np.floor(np.concatenate(voxels) + 0.5 + _TIE).astype(int)
        low, high = rounded.min(axis=0), rounded.max(axis=0) + 1
        shape = np.array(geometry.shape)
        return tuple(np.clip(low, 0, shape - 1).tolist()), tuple(np.clip(high, 1, shape).tolist())


def rasters(prompts: Prompts, plan: SlicePlan, number: int) -> Float[np.ndarray, "3 h w"]:
    """What a network sees of the prompts on one slice: positive, negative and box, each 0 or 1, at the plan's size.

    A click is a disk of `CLICK_RADIUS_PX` about the pixel that was hit, a scribble every pixel it touches, boxes are
    filled and united. What was said on other slices does not count on this one.

    Args:
        plan: how the image is cut.
        number: the slice's number in the plan.

    Raises:
        InputError: if a click or a scribble lies outside the image, or a box does not meet it.
    """
    channels = np.zeros((3, plan.size, plan.size), np.float32)
    for point in prompts.points:
        here, row, column = _hit(_inside(point.position_mm, plan), plan)
        if here == number:
            _stamp(channels[0 if point.positive else 1], row, column)
    for box in prompts.boxes:
        _fill(channels[2], box, plan, number)
    for scribble in prompts.scribbles:
        _trace(channels[0 if scribble.positive else 1], scribble, plan, number)
    return channels


def _inside(position_mm: Position, plan: SlicePlan) -> np.ndarray:
    """(3,) voxel position (k, j, i); refused outside the volume, and beside the part of its slices that is cut."""
    index = plan.geometry.to_index(position_mm)
    low, high = _limits(plan)
    if (index < low - 0.5 - _TIE).any() or (index >= high - 0.5 + _TIE).any():
        raise InputError(
            f"A click lies at ({_listed(position_mm)}) mm RAS, which is voxel ({_listed(index)}), outside the image's "
            f"voxels ({_listed(low)}) to ({_listed(high - 1)}) (k, j, i); click on the image."
        )
    return np.clip(index, low, high - 1)


def _limits(plan: SlicePlan) -> tuple[np.ndarray, np.ndarray]:
    """Voxel indices (k, j, i), low inclusive and high exclusive, of all slices of the volume as far as they are cut."""
    low, high = np.array(plan.box)
    low[plan.array_axis], high[plan.array_axis] = 0, plan.geometry.shape[plan.array_axis]
    return low, high


def _hit(index_kji: np.ndarray, plan: SlicePlan) -> tuple[int, int, int]:
    """Slice number, row and column of the pixel that shows a voxel position; a tie goes to the later one."""
    number, row, column = np.floor(plan.place(index_kji) + 0.5 + _TIE).astype(int).tolist()
    return number, min(max(row, 0), plan.size - 1), min(max(column, 0), plan.size - 1)


def _stamp(channel: np.ndarray, row: int, column: int) -> None:
    rows, columns = np.ogrid[: channel.shape[0], : channel.shape[1]]
    channel[(rows - row) ** 2 + (columns - column) ** 2 <= CLICK_RADIUS_PX**2] = 1


def _fill(channel: np.ndarray, box: BoxPrompt, plan: SlicePlan, number: int) -> None:
    """Mark the pixels whose centres lie in the box, and the one nearest to its middle where none does."""
    ends = plan.geometry.to_index(np.array([box.corner_mm, box.opposite_mm]))
    low, high = _limits(plan)
    if (ends.max(axis=0) < low - 0.5 - _TIE).any() or (ends.min(axis=0) > high - 0.5 + _TIE).any():
        raise InputError(
            f"A box from ({_listed(box.corner_mm)}) to ({_listed(box.opposite_mm)}) mm RAS lies outside the image; "
            "drag it over the structure."
        )
    places = plan.place(np.clip(ends, low - 0.5, high - 0.5))
    first, last = np.floor(np.sort(places[:, 0]) + 0.5 + _TIE)
    if not first <= number <= last:
        return
    sides = []
    for start, stop in np.sort(places[:, 1:], axis=0).T:
        begin, end = int(np.ceil(start - _TIE)), int(np.floor(stop + _TIE))
        middle = min(max(round((start + stop) / 2), 0), plan.size - 1)
        sides.append(slice(max(begin, 0), end + 1) if begin <= end else slice(middle, middle + 1))
    channel[tuple(sides)] = 1


def _trace(channel: np.ndarray, scribble: Scribble, plan: SlicePlan, number: int) -> None:
    """Mark the pixels that show a painted voxel: those its centre falls into, and those it is the nearest voxel of."""
    voxels = scribble.voxels_kji
    low, high = _limits(plan)
    if (voxels < low).any() or (voxels >= high).any():
        raise InputError(
            f"A scribble reaches from voxel ({_listed(voxels.min(axis=0))}) to ({_listed(voxels.max(axis=0))}), beyond "
            f"the image's ({_listed(low)}) to ({_listed(high - 1)}) (k, j, i); paint on the image it belongs to."
        )
    places = np.floor(plan.place(voxels) + 0.5 + _TIE).astype(int)
    _, *shown = places[places[:, 0] == number].T
    channel[tuple(np.minimum(shown, plan.size - 1))] = 1
    rows, columns = np.nonzero(plan.coverage)
    centres = np.stack([np.full(len(rows), number), rows, columns], axis=1)
    nearest = np.floor(plan.locate(centres) + 0.5 + _TIE).astype(int) - np.array(scribble.corner_kji)
    within = ((nearest >= 0) & (nearest < scribble.mask.shape)).all(axis=1)
    painted = scribble.mask[tuple(nearest[within].T)]
    channel[rows[within][painted], columns[within][painted]] = 1


def _checked_position(position_mm: Sequence[float] | np.ndarray) -> Position:
    numbers = tuple(float(number) for number in position_mm)
    if len(numbers) != 3 or not np.isfinite(numbers).all():
        raise InputError(f"A position is three finite numbers (RAS mm), but ({_listed(numbers)}) came.")
    return numbers


def _listed(numbers: Sequence[float] | np.ndarray) -> str:
    return ", ".join(f"{number:.5g}" for number in numbers)
