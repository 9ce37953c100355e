"""Where in its scan the body lies, and a field of view that shows what is wanted of several bodies at one scale.

Scanners are set to different fields of view, so that the same organ is 60 pixels wide in one picture and 90 in the
next; and most of a picture is air, table, and what is not asked for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from weakref import WeakKeyDictionary

import numpy as np
from scipy.ndimage import binary_opening, label

from InContextSegLib.slices.boxes import extent_of, whole_slices
from InContextSegLib.slices.intensities import Intensities, Scale
from InContextSegLib.slices.plan import Box, SlicePlan
from InContextSegLib.volumes.geometry import Geometry, Volume

# Brighter than this, as a share of the scale, is not background. Where noise is as bright, all of the scan is the body.
BACKGROUND = 0.05
BLOCKS = 96  # along an axis, whose means are looked at
THIN = 3  # blocks: what is thinner is a table
PART = 0.1  # of the largest part, that another one has at least: the other leg, an arm
# On either side of a field of view: as a share of what is labelled, and at least; from one volume twice that.
MARGIN, LEAST_MARGIN_MM = 0.2, 25.0
LIKE = 0.7  # of the width of the narrowest body in the examples, and the widest is of a target's
STRAIGHT = 0.97  # cosine between an axis of the grid and one of the patient
WORTHWHILE = 0.8  # of the longest side of a slice: a field of view that is larger shows nearly all of it

_found: WeakKeyDictionary[Volume, dict[Scale, Box]] = WeakKeyDictionary()


def body_of(volume: Volume, scale: Scale) -> Box:
    """The box round the body: the large connected parts that are not background; all of the volume where none is."""
    known = _found.setdefault(volume, {})
    if scale not in known:
        known[scale] = _body_of(volume, scale)
    return known[scale]


@dataclass(frozen=True)
class Field:
    """A square field of view of axial slices, at the same place in all bodies.

    Attributes:
        edge_mm: of the pictures.
        offset_mm: of its middle from that of the body, in RAS.
        body_mm: the least and the largest width of the bodies it was found with.
    """

    edge_mm: float
    offset_mm: tuple[float, float, float]
    body_mm: tuple[float, float]

    def fits(self, width_mm: float) -> bool:
        """Whether the middle of a body so wide is where it is in the others; a part of one has it elsewhere."""
        return LIKE * self.body_mm[0] <= width_mm <= self.body_mm[1] / LIKE


def field_about(
    images: Sequence[Volume], masks: Iterable[np.ndarray], axis: str, intensities: Intensities
) -> Field | None:
    """The field of view that shows what is labelled in all of some volumes, with a margin.

    It is as large as what is labelled, seen from the middle of the bodies, and wider by a share of that, or by twice
    as much as one of the volumes reaches beyond the others.

    Args:
        masks: (k, j, i) bool, where something is labelled in the images.

    Returns:
        None where nothing is labelled, the slices show little else, are not axial or oblique, or where a field made
        without one of the volumes would cut off what is labelled in it.
    """
    if axis != "axial" or any(_oblique(image.geometry) for image in images):
        return None
    bounds, edges, widths = [], [], []
    for image, mask in zip(images, masks, strict=True):
        if not mask.any():
            continue
        body = body_of(image, intensities.of(image.array))
        bounds.append(_extent_mm(image.geometry, extent_of(mask)) - _middle_mm(image.geometry, body))
        edges.append(SlicePlan.of(image.geometry, axis, 1).pixel_mm)
        widths.append(_width_mm(image.geometry, body))
    if not bounds:
        return None
    bounds = np.stack(bounds)[:, :, :2]  # volumes, low and high, right and anterior
    middle, edge = _window(bounds)
    if edge > WORTHWHILE * max(edges) or not _shown_by_others(bounds):
        return None
    return Field(edge, (float(middle[0]), float(middle[1]), 0.0), (min(widths), max(widths)))


def planned(
    volume: Volume, scale: Scale, axis: str, size: int, field: Field | None = None, within: Box | None = None
) -> SlicePlan:
    """The plan of a volume in a field of view, which is moved inside the slices as far as it can be.

    A single slice may be a picture without a true spacing, and is shown whole. Whole slices, at the field's scale if
    that shows all of them, are shown of an oblique volume, and of a body that is much wider or narrower than those
    the field was found with.

    Args:
        scale: of the volume's intensities.
        field: None: whole slices fill the pictures.
        within: (k, j, i) a box, of which the slices are wanted; the field is moved so that it shows the box.
    """
    geometry = volume.geometry
    slices = ((0, 0, 0), geometry.shape) if within is None else whole_slices(volume, axis, within)
    along = SlicePlan.of(geometry, axis).array_axis
    if field is None or geometry.shape[along] == 1:
        return SlicePlan.of(geometry, axis, size, slices)
    body = body_of(volume, scale)
    if _oblique(geometry) or not field.fits(_width_mm(geometry, body)):
        return SlicePlan.of(geometry, axis, size, slices, field.edge_mm)
    middle = geometry.to_index(_middle_mm(geometry, body) + field.offset_mm) + 0.5
    low, high = (list(end) for end in slices)
    for side in {0, 1, 2} - {along}:
        whole = geometry.shape[side]
        length = min(max(round(field.edge_mm / geometry.spacing_mm[side]), 1), whole)
        start = round(float(middle[side]) - length / 2)
        if within is not None and (within[0][side], within[1][side]) != (0, whole):
            first, last = within[0][side], within[1][side]
            spare = length - (last - first)
            start = first - spare // 2 if spare < 0 else min(max(start, first - spare), first)
        low[side] = min(max(start, 0), whole - length)
        high[side] = low[side] + length
    return SlicePlan.of(geometry, axis, size, (tuple(low), tuple(high)), field.edge_mm)


def _window(bounds: np.ndarray) -> tuple[np.ndarray, float]:
    """Middle (2,) and edge of a square round the bounds (volumes, low and high, 2), with its margin."""
    low, high = bounds[:, 0].min(axis=0), bounds[:, 1].max(axis=0)
    extent = float((high - low).max())
    beyond = max(_beyond(bounds, number) for number in range(len(bounds))) if len(bounds) > 1 else 0.0
    least = LEAST_MARGIN_MM if len(bounds) > 1 else 2 * LEAST_MARGIN_MM
    return (low + high) / 2, extent + 2 * max(MARGIN * extent, 2 * beyond, least)


def _shown_by_others(bounds: np.ndarray) -> bool:
    """Whether fields made without one of the volumes would show what is labelled in it; true of two and one."""
    for number in range(len(bounds) if len(bounds) > 2 else 0):
        middle, edge = _window(np.delete(bounds, number, axis=0))
        if (np.abs(bounds[number] - middle) > edge / 2).any():
            return False
    return True


def _body_of(volume: Volume, scale: Scale) -> Box:
    shape = volume.geometry.shape
    steps = [-(-length // BLOCKS) for length in shape]
    means = scale.apply(_block_means(volume.array, steps))
    bright = means > BACKGROUND
    solid = binary_opening(bright, np.ones([min(THIN, length) for length in bright.shape]))
    parts, count = label(solid if solid.any() else bright)
    if not count:
        return (0, 0, 0), shape
    sizes = np.bincount(parts.ravel())[1:]
    first, last = extent_of(np.isin(parts, np.flatnonzero(sizes >= PART * sizes.max()) + 1))
    # A block more on either side: its mean may have hidden an edge.
    low = tuple(max(end - 1, 0) * step for end, step in zip(first, steps, strict=True))
    high = tuple(min((end + 1) * step, size) for end, step, size in zip(last, steps, shape, strict=True))
    return low, high


def _block_means(array: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """Means of blocks of so many voxels along every axis; a block at the end may be smaller."""
    slabs = (array[begin : begin + steps[0]] for begin in range(0, len(array), steps[0]))
    means = np.stack([slab.mean(axis=0, dtype=np.float32) for slab in slabs])
    for axis in (1, 2):
        starts = np.arange(0, array.shape[axis], steps[axis])
        counts = np.diff([*starts, array.shape[axis]]).astype(np.float32)
        means = np.add.reduceat(means, starts, axis=axis) / (counts[:, None] if axis == 1 else counts)
    return means


def _middle_mm(geometry: Geometry, box: Box) -> np.ndarray:
    """(3,) RAS of the middle of a box of voxels."""
    return geometry.to_world((np.array(box[0]) + box[1] - 1) / 2)


def _extent_mm(geometry: Geometry, box: Box) -> np.ndarray:
    """(2, 3) RAS, the lowest and the highest of a box of voxels, edge to edge."""
    low, high = np.array(box[0]) - 0.5, np.array(box[1]) - 0.5
    corners = geometry.to_world(np.array(list(product(*zip(low, high, strict=True)))))
    return np.stack([corners.min(axis=0), corners.max(axis=0)])


def _beyond(bounds: np.ndarray, number: int) -> float:
    """How far one of the volumes reaches beyond all others."""
    others = np.delete(bounds, number, axis=0)
    return float(
        np.maximum(others[:, 0].min(axis=0) - bounds[number, 0], bounds[number, 1] - others[:, 1].max(axis=0)).max()
    )


def _width_mm(geometry: Geometry, box: Box) -> float:
    """The longer side of a box in axial slices."""
    return SlicePlan.of(geometry, "axial", 1, box).pixel_mm


def _oblique(geometry: Geometry) -> bool:
    return bool(np.abs(geometry.directions).max(axis=1).min() < STRAIGHT)
