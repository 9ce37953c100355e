"""Parts of a volume: whole slices, and the box round what is set."""

import numpy as np

from InContextSegLib.errors import InputError
from InContextSegLib.slices.plan import Box, SlicePlan
from InContextSegLib.volumes.geometry import Geometry, Volume


def slab(geometry: Geometry, axis: str, wanted: tuple[int, int]) -> Box:
    """The box of whole slices from the first to the last wanted one, both included."""
    array_axis = SlicePlan.of(geometry, axis).array_axis
    first, last = wanted
    if not 0 <= first <= last < geometry.shape[array_axis]:
        raise InputError(
            f"Asked for the slices {first} to {last}, but the target has {axis} slices "
            f"0 to {geometry.shape[array_axis] - 1}."
        )
    low, high = [0, 0, 0], list(geometry.shape)
    low[array_axis], high[array_axis] = first, last + 1
    return tuple(low), tuple(high)


def whole_slices(volume: Volume, axis: str, box: Box) -> Box:
    """The box, widened to whole slices: pictures keep the scale at which the examples were cut."""
    along = SlicePlan.of(volume.geometry, axis, box=box).array_axis  # refuses a box that does not fit
    return slab(volume.geometry, axis, (box[0][along], box[1][along] - 1))


def extent_of(mask: np.ndarray) -> Box | None:
    """(k, j, i) low and high (exclusive) of what is set; None where nothing is."""
    if not mask.any():
        return None
    sides = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return tuple(int(side[0]) for side in sides), tuple(int(side[-1]) + 1 for side in sides)
