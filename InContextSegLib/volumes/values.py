"""What the numbers of a file mean: intensities, labels, colours."""

import logging
from pathlib import Path

import numpy as np

from InContextSegLib.errors import InputError
from InContextSegLib.volumes.colour import ColourMix
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume
from InContextSegLib.volumes.pictures import colours_of, grey_values

_log = logging.getLogger(__name__)

_LARGEST_LABEL = np.iinfo(np.uint16).max
# A label map with so many values in one slice, of whose voxels fewer than half are like the next one, is an image.
_MANY_VALUES, _ALIKE = 50, 0.5
_WHOLE_NUMBER_TOLERANCE = 1e-4  # a header's scale factor leaves 2.9999998 where 3 was meant


def volume_of(array: np.ndarray, geometry: Geometry, kind: Kind, name: Path | str, mix: ColourMix) -> Volume:
    """A volume of an array (k, j, i), or (k, j, i, channels) that may hold colours. Raises: see `read_volume`."""
    colours = None
    if array.ndim == 4:
        colours = colours_of(array) if kind is Kind.INTENSITY else None
        array = grey_values(array, kind, name, mix)
    array = as_labels(array, name) if kind is Kind.LABELS else as_intensities(array, name)
    return Volume(array, geometry, kind, colours)


def as_intensities(array: np.ndarray, path: str | Path) -> np.ndarray:
    """The array of a file or of that name as its integers or as float32, what is not finite set to the smallest value.

    Raises:
        InputError: if nothing in it is finite.
    """
    if array.dtype.kind in "iu":
        return array
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    finite = np.isfinite(array)
    missing = array.size - int(np.count_nonzero(finite))
    if missing == array.size:
        raise InputError(f"{path} holds no finite number at all: every voxel is NaN or infinite.")
    if missing:
        array[~finite] = lowest = array[finite].min()
        _log.warning(
            "%s: %d voxels that are NaN or infinite were set to the smallest value, %g.", path, missing, lowest
        )
    return array


def as_labels(array: np.ndarray, path: str | Path) -> np.ndarray:
    """The array of a file or of that name as uint8 or uint16, which whole numbers from 0 to 65535 fit.

    Raises:
        InputError: if it holds anything else.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise InputError(f"{path} cannot be labels: it holds NaN or infinite voxels.")
        rounded = np.rint(array)
        if np.abs(array - rounded).max() > _WHOLE_NUMBER_TOLERANCE:
            raise InputError(f"{path} cannot be labels: it holds fractions, but labels are whole numbers.")
        array = rounded
    lowest, highest = array.min(), array.max()
    if lowest < 0:
        raise InputError(f"{path} cannot be labels: it holds negative numbers, down to {lowest:g}.")
    if highest > _LARGEST_LABEL:
        raise InputError(f"{path} cannot be labels: it holds {highest:g}, but the largest label is {_LARGEST_LABEL}.")
    return array.astype(np.uint8 if highest <= 255 else np.uint16)


def looks_like_image(labels: np.ndarray) -> bool:
    """Whether the values of a label map (k, j, i) change as those of an image do; seen in the slice that has most."""
    slices = [labels[index] for index in np.linspace(0, len(labels) - 1, min(5, len(labels))).round().astype(int)]
    fullest = max(slices, key=np.count_nonzero)
    here = fullest[:, :-1] > 0
    if here.sum() < _MANY_VALUES or len(np.unique(fullest)) <= _MANY_VALUES:
        return False
    return bool((fullest[:, 1:] == fullest[:, :-1])[here].mean() < _ALIKE)
