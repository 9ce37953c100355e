"""A simulated user for measurements: clicks where a segmentation is most wrong, or draws a box round the structure.

One random click, then the centre of the largest wrong component (Medical SAM Adapter, arXiv 2304.12620): positive where
the structure was missed, negative where something else was taken for it. Masks are (k, j, i) at native resolution; one
slice is a mask of length 1 along one axis.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK
from jaxtyping import Bool, Int

# A hasty box: every side is off by up to this share of the structure's extent.
JITTER = 0.1


@dataclass(frozen=True)
class Click:
    """Where a user clicks, as a voxel index, and whether to say that the structure is there."""

    index_kji: tuple[int, int, int]
    positive: bool


def random_click(truth: Bool[np.ndarray, "k j i"], generator: np.random.Generator) -> Click:
    """A positive click on any voxel of the structure, each as likely as the others; `truth` must not be empty."""
    voxels = np.argwhere(truth)
    return Click(_index(voxels[generator.integers(len(voxels))]), True)


def correcting_click(
    prediction: Bool[np.ndarray, "k j i"], truth: Bool[np.ndarray, "k j i"], spacing_mm: Sequence[float]
) -> Click | None:
    """A click at the centre of the largest wrong component, missed or false; None where nothing is wrong.

    Components connect across faces, the size is their number of voxels, a tie goes to what is missed. The centre is the
    voxel that lies deepest, in mm, of several the one nearest to their middle.
    """
    missed, false = _largest_component(truth & ~prediction), _largest_component(prediction & ~truth)
    if not missed.any() and not false.any():
        return None
    positive = bool(missed.sum() >= false.sum())
    return Click(_centre(missed if positive else false, spacing_mm), positive)


def jittered_box(
    truth: Bool[np.ndarray, "k j i"], generator: np.random.Generator, jitter: float = JITTER
) -> tuple[np.ndarray, np.ndarray]:
    """Low and high corner (k, j, i) of a box round the structure, as positions of voxels.

    The box ends at the outermost voxels' centres, every side moved by up to `jitter` times its extent, inward or
    outward, but not out of the image; along an axis of length 1 it stays exact. `truth` must not be empty.
    """
    voxels, last = np.argwhere(truth), np.array(truth.shape) - 1
    low, high = voxels.min(axis=0), voxels.max(axis=0)
    reach = np.where(last > 0, jitter * (high - low + 1), 0)
    low, high = (np.clip(end + reach * generator.uniform(-1, 1, 3), 0, last) for end in (low, high))
    return low, high


def _largest_component(mask: Bool[np.ndarray, "k j i"]) -> Bool[np.ndarray, "k j i"]:
    if not mask.any():
        return mask
    image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
    numbers = SimpleITK.GetArrayFromImage(SimpleITK.ConnectedComponent(image))
    sizes = np.bincount(numbers.ravel())
    sizes[0] = 0
    return numbers == sizes.argmax()


def _centre(component: Bool[np.ndarray, "k j i"], spacing_mm: Sequence[float]) -> tuple[int, int, int]:
    voxels = np.argwhere(component)
    corner = voxels.min(axis=0)
    crop = component[tuple(slice(low, high + 1) for low, high in zip(corner, voxels.max(axis=0), strict=True))]
    # A rim of background: the component ends at its box. A single slice has neighbours in its plane only.
    rim = [int(length > 1) for length in component.shape]
    padded = np.pad(crop, [(width, width) for width in rim])
    image = SimpleITK.GetImageFromArray(padded.astype(np.uint8))
    image.SetSpacing([float(step) for step in reversed(spacing_mm)])
    depth = SimpleITK.GetArrayFromImage(
        SimpleITK.SignedMaurerDistanceMap(image, insideIsPositive=True, squaredDistance=True, useImageSpacing=True)
    )
    depth = np.where(padded, depth, -np.inf)
    deepest = np.argwhere(depth >= depth.max() * (1 - 1e-6))
    distance = (((deepest - deepest.mean(axis=0)) * np.array(spacing_mm)) ** 2).sum(axis=1)
    return _index(deepest[distance.argmin()] - rim + corner)


def _index(voxel: Int[np.ndarray, "3"]) -> tuple[int, int, int]:
    k, j, i = voxel.tolist()
    return k, j, i
