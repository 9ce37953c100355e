"""Where in its scan the body lies, and a field of view that shows what is wanted of several bodies at one scale.

Scanners are set to different fields of view, so that the same organ is 60 pixels wide in one picture and 90 in the
next; and most of a picture is air, table, and what is not asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from weakref import WeakKeyDictionary

import numpy as np
from scipy.ndimage import binary_opening, find_objects, label

from InContextSegLib.slices.boxes import whole_slices
from InContextSegLib.slices.intensities import Intensities, Scale
from InContextSegLib.slices.plan import Box, SlicePlan
from InContextSegLib.volumes.geometry import AXES, Geometry, Volume, any_along

# Brighter than this, as a share of the scale, is not background. Where noise is as bright, all of the scan is the body.
BACKGROUND = 0.05
BLOCKS = 96  # along an axis, whose means are looked at
THIN = 3  # blocks: what is thinner is a table
MARGIN = 0.2  # of what is labelled, on either side of a field of view
WORTHWHILE = 0.8  # of the longest side of a slice: a field of view that is larger shows nearly all of it

_found: WeakKeyDictionary[Volume, dict[Scale, Box]] = WeakKeyDictionary()


def body_of(volume: Volume, scale: Scale) -> Box:
    """The box round the body: the largest connected part that is not background; all of the volume where none is."""
    known = _found.setdefault(volume, {})
    if scale not in known:
        known[scale] = _body_of(volume, scale)
    return known[scale]


@dataclass(frozen=True)
class Field:
    """A square field of view, at the same place in all bodies.

    Attributes:
        edge_mm: of the pictures.
        offset_mm: of its middle from that of the body, in RAS.
    """

    edge_mm: float
    offset_mm: tuple[float, float, float]


def field_about(
    images: Sequence[Volume], masks: Sequence[np.ndarray], axis: str, intensities: Intensities
) -> Field | None:
    """The field of view that shows what is labelled in all of some volumes, with a margin.

    It is as large as what is labelled, seen from the middle of the bodies, and wider by a share of that, and by twice
    as much as one of the volumes reaches beyond the others.

    Args:
        masks: (k, j, i) bool, where something is labelled in the images.

    Returns:
        None where nothing is labelled, or the slices show little else.
    """
    bounds, edges = [], []
    for image, mask in zip(images, masks, strict=True):
        if not mask.any():
            continue
        body = body_of(image, intensities.of(image.array))
        bounds.append(_extent_mm(image.geometry, _box_round(mask)) - _middle_mm(image.geometry, body))
        edges.append(SlicePlan.of(image.geometry, axis, 1).pixel_mm)
    if not bounds:
        return None
    across = [n for n in range(3) if n != AXES.index(axis)]  # of superior, anterior, right: those within a slice
    within = [2 - n for n in across]
    bounds = np.stack(bounds)  # volumes, low and high, RAS
    low, high = bounds[:, 0].min(axis=0), bounds[:, 1].max(axis=0)
    beyond = [_beyond(bounds, number)[within].max() for number in range(len(bounds))] if len(bounds) > 1 else [0.0]
    extent = (high - low)[within].max()
    edge = float(extent + 2 * max(MARGIN * extent, 2 * max(beyond)))
    if edge > WORTHWHILE * max(edges):
        return None
    middle = (low + high) / 2
    return Field(edge, tuple(float(middle[n]) if n in within else 0.0 for n in range(3)))


def planned(
    volume: Volume, scale: Scale, axis: str, size: int, field: Field | None = None, within: Box | None = None
) -> SlicePlan:
    """The plan of a volume in a field of view, which is moved inside the slices as far as it can be.

    A single slice may be a picture without a true spacing, and is shown whole.

    Args:
        scale: of the volume's intensities.
        field: None: whole slices fill the pictures.
        within: (k, j, i) a box, of which the slices are wanted; where it is no run of whole slices and reaches beyond
            the field, whole slices are shown.
    """
    geometry = volume.geometry
    slices = ((0, 0, 0), geometry.shape) if within is None else whole_slices(volume, axis, within)
    along = SlicePlan.of(geometry, axis).array_axis
    if field is None or geometry.shape[along] == 1:
        return SlicePlan.of(geometry, axis, size, slices)
    middle = geometry.to_index(_middle_mm(geometry, body_of(volume, scale)) + field.offset_mm) + 0.5
    low, high = (list(end) for end in slices)
    for side in {0, 1, 2} - {along}:
        length = min(max(round(field.edge_mm / geometry.spacing_mm[side]), 1), geometry.shape[side])
        low[side] = min(max(round(float(middle[side]) - length / 2), 0), geometry.shape[side] - length)
        high[side] = low[side] + length
    window = tuple(low), tuple(high)
    if within is not None and tuple(map(tuple, within)) != slices and _reaches_beyond(within, window):
        window = slices
    return SlicePlan.of(geometry, axis, size, window, field.edge_mm)


def _body_of(volume: Volume, scale: Scale) -> Box:
    shape = volume.geometry.shape
    steps = [-(-length // BLOCKS) for length in shape]
    means = scale.apply(_block_means(volume.array, steps))
    bright = means > BACKGROUND
    solid = binary_opening(bright, np.ones([min(THIN, length) for length in bright.shape]))
    parts, count = label(solid if solid.any() else bright)
    if not count:
        return (0, 0, 0), shape
    largest = int(np.bincount(parts.ravel())[1:].argmax())
    ends = find_objects(parts)[largest]
    # A block more on either side: its mean may have hidden an edge.
    low = tuple(max(end.start - 1, 0) * step for end, step in zip(ends, steps, strict=True))
    high = tuple(min((end.stop + 1) * step, size) for end, step, size in zip(ends, steps, shape, strict=True))
    return low, high


def _block_means(array: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """Means of blocks of so many voxels along every axis; what is left over at the end counts with the last block."""
    mean = partial(np.add.reduceat, dtype=np.float32)
    for axis, step in enumerate(steps):
        starts = np.arange(0, array.shape[axis], step)
        counts = np.diff([*starts, array.shape[axis]]).reshape([-1 if n == axis else 1 for n in range(3)])
        array = mean(array, starts, axis=axis) / counts
    return array


def _middle_mm(geometry: Geometry, box: Box) -> np.ndarray:
    """(3,) RAS of the middle of a box of voxels."""
    return geometry.to_world((np.array(box[0]) + box[1] - 1) / 2)


def _extent_mm(geometry: Geometry, box: Box) -> np.ndarray:
    """(2, 3) RAS, the lowest and the highest of a box of voxels, edge to edge."""
    low, high = np.array(box[0]) - 0.5, np.array(box[1]) - 0.5
    corners = geometry.to_world(np.array(list(product(*zip(low, high, strict=True)))))
    return np.stack([corners.min(axis=0), corners.max(axis=0)])


def _box_round(mask: np.ndarray) -> Box:
    ends = [np.flatnonzero(any_along(mask, axis))[[0, -1]] for axis in range(3)]
    return tuple(int(end[0]) for end in ends), tuple(int(end[1]) + 1 for end in ends)


def _beyond(bounds: np.ndarray, number: int) -> np.ndarray:
    """(3,) how far one of the volumes reaches beyond all others, along RAS."""
    others = np.delete(bounds, number, axis=0)
    return np.maximum(others[:, 0].min(axis=0) - bounds[number, 0], bounds[number, 1] - others[:, 1].max(axis=0))


def _reaches_beyond(box: Box, window: Box) -> bool:
    low, high = np.array(box), np.array(window)
    return bool((low[0] < high[0]).any() or (low[1] > high[1]).any())
