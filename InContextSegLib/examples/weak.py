"""Weak references: what a hasty user would have drawn in place of a full mask (SR-ICL, section on weak references).

Every function takes a mask (h, w) and gives float32 channels (c, h, w) in [0, 1], which `SRICL.condition` takes for a
mask: one channel is a label, whose rest to 1 is background; two are marks of foreground and of background, and of a
place that neither marks nothing is said. The pixels of a component touch by sides or corners. Only references are ever
weakened; what a network is asked for stays the full mask.
"""

import numpy as np
from jaxtyping import Bool, Float
from numpy.random import Generator
from scipy import ndimage

AREA_OF_A_POINT = 200  # pixels: 0.005 points for each
# Points lie some 14 pixels apart, the side of that area, so of an object hardly a pixel is further from all of them.
FAR_PX = 24
SCALE_PX = 4.0  # over which a scribble's say falls to 1/e
CELLS, STROKE = 6, 8  # a stroke is a contour of noise of so many cells, its width about 1/6 of STROKE, twice

KINDS = ("full", "box", "points", "contour", "scribble")
_TOUCHING = np.ones((3, 3), bool)


def weakened(kind: str, mask: Bool[np.ndarray, "h w"], generator: Generator) -> Float[np.ndarray, "c h w"]:
    """The mask as a reference of one of the `KINDS`; "full" is the mask itself.

    Raises:
        ValueError: if there is no such kind.
    """
    match kind:
        case "full":
            return mask[None].astype(np.float32)
        case "box":
            return box(mask)
        case "points":
            return points(mask, generator)
        case "contour":
            return contour(mask)
        case "scribble":
            return scribble(mask, generator)
    raise ValueError(f"kind: asked for one of {', '.join(KINDS)}, got '{kind}'.")


def box(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "1 h w"]:
    """The filled bounding rectangle of every component, as a label."""
    filled = np.zeros((1, *mask.shape), np.float32)
    for place in ndimage.find_objects(_components(mask)[0]):
        filled[0][place] = 1
    return filled


def points(mask: Bool[np.ndarray, "h w"], generator: Generator) -> Float[np.ndarray, "2 h w"]:
    """Marks of 3 x 3 pixels round random ones of every component, one for 200 pixels but one at least.

    Background is what is further than `FAR_PX` from all of them; the paper takes all that is not marked, most of the
    object too.
    """
    components, number = _components(mask)
    chosen = np.zeros(mask.shape, bool)
    for value in range(1, number + 1):
        place = np.flatnonzero(components == value)
        chosen.flat[generator.choice(place, max(len(place) // AREA_OF_A_POINT, 1), replace=False)] = True
    return _marks(ndimage.binary_dilation(chosen, _TOUCHING), _distance_px(chosen) > FAR_PX)


def contour(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "2 h w"]:
    """Marks along the border of every component, one pixel inside and one outside; background is what lies outside.

    Of the inside nothing is said, where the paper takes it for background. The rim of the image is no border.
    """
    dilated = ndimage.binary_dilation(mask, _TOUCHING)
    return _marks(dilated & ~ndimage.binary_erosion(mask, _TOUCHING, border_value=1), ~dilated)


def scribble(
    mask: Bool[np.ndarray, "h w"], generator: Generator, scale_px: float = SCALE_PX
) -> Float[np.ndarray, "2 h w"]:
    """Winding strokes in every component and in the background, each as exp(-distance / scale) (MaCo, JBHI 2025)."""
    components, number = _components(mask)
    inside = np.zeros(mask.shape, bool)
    for value in range(1, number + 1):
        inside |= _strokes(components == value, generator)
    outside = _strokes(~mask, generator)
    return np.stack([np.exp(-_distance_px(drawn) / scale_px) for drawn in (inside, outside)]).astype(np.float32)


def _components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    return ndimage.label(mask, _TOUCHING)


def _marks(foreground: np.ndarray, background: np.ndarray) -> Float[np.ndarray, "2 h w"]:
    return np.stack([foreground, background]).astype(np.float32)


def _distance_px(marked: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """How far every pixel is from a marked one; infinitely where none is marked."""
    return ndimage.distance_transform_edt(~marked) if marked.any() else np.full(marked.shape, np.inf)


def _strokes(region: Bool[np.ndarray, "h w"], generator: Generator) -> Bool[np.ndarray, "h w"]:
    """Contours of smooth noise inside a region, broken by other noise, as `simulate.SimulatedUser` draws them.

    Of a region that none of them crosses the part that the other noise leaves is drawn, else all.
    """
    noise, breaks = _smooth_noise(region.shape, generator), _smooth_noise(region.shape, generator) > 0
    near = np.abs(noise - generator.uniform(-0.5, 0.5)) < STROKE / max(region.shape)
    return next((drawn for drawn in (region & near & breaks, region & breaks) if drawn.any()), region)


def _smooth_noise(shape: tuple[int, int], generator: Generator) -> Float[np.ndarray, "h w"]:
    knots = generator.standard_normal((CELLS, CELLS))
    places = np.meshgrid(*(np.linspace(0, CELLS - 1, size) for size in shape), indexing="ij")
    return ndimage.map_coordinates(knots, places, order=3, mode="nearest")
