"""One side of a network picture: which weighted means of voxels its pixels are, and the way back."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_BLUR_PER_STEP = 0.25
_BLUR_REACH = 3.0
# Sampling positions this close (in voxels or pixels) to a border are on it, whatever the rounding of the affine.
_TIE = 1e-6
_KEPT = 64


@dataclass(frozen=True)
class Ruler:
    """One side of a picture: `length` voxels, each `scale` pixels long, centred in `size` pixels, edge to edge."""

    length: int
    scale: float
    size: int

    @property
    def _edge(self) -> float:
        """Pixel coordinate of the first voxel's outer edge, where pixel p spans [p, p + 1]."""
        return (self.size - self.length * self.scale) / 2

    @property
    def covered(self) -> slice:
        """The pixels whose centre lies on the voxels; the middle one when the voxels are thinner than a pixel."""
        first = int(np.ceil(self._edge - 0.5 - _TIE))
        stop = int(np.floor(self.size - self._edge - 0.5 + _TIE)) + 1
        return slice(first, stop) if first < stop else slice(self.size // 2, self.size // 2 + 1)

    def to_pixel(self, voxel: np.ndarray | float) -> np.ndarray | float:
        return (voxel + 0.5) * self.scale + self._edge - 0.5

    def to_voxel(self, pixel: np.ndarray | float) -> np.ndarray | float:
        return (pixel + 0.5 - self._edge) / self.scale - 0.5

    def nearest(self) -> np.ndarray:
        """Voxel index for every covered pixel; a tie goes to the later voxel."""
        return np.clip(np.floor(self._centres() + 0.5 + _TIE), 0, self.length - 1).astype(np.intp)

    @property
    def sampling(self) -> np.ndarray:
        """(size, length) float32, read-only: voxels to pixels; rows are weighted means, all zero in the padding."""
        return _sampling(self)

    def sampled(self) -> np.ndarray:
        """Work `sampling` out."""
        before, fraction = _bracket(self._centres(), 0, self.length - 1)
        here, next_one = self._blurred(before), self._blurred(np.minimum(before + 1, self.length - 1))
        weights = np.zeros((self.size, self.length))
        weights[self.covered] = (1 - fraction)[:, None] * here + fraction[:, None] * next_one
        return weights.astype(np.float32)

    @property
    def restoring(self) -> np.ndarray:
        """(length, size) float32, read-only: pixels to voxels; rows are weighted means of covered pixels."""
        return _restoring(self)

    def restored(self) -> np.ndarray:
        """Work `restoring` out."""
        last = self.covered.stop - 1
        before, fraction = _bracket(self.to_pixel(np.arange(self.length)), self.covered.start, last)
        weights = np.zeros((self.length, self.size))
        voxels = np.arange(self.length)
        weights[voxels, before] += 1 - fraction
        weights[voxels, np.minimum(before + 1, last)] += fraction
        return weights.astype(np.float32)

    def _centres(self) -> np.ndarray:
        return self.to_voxel(np.arange(self.covered.start, self.covered.stop))

    def _blurred(self, centres: np.ndarray) -> np.ndarray:
        """(n, length): Gaussian weights about whole voxels; without downsampling only the voxel itself.

        A Gaussian that would reach over the end is cut on both sides alike: its centre of mass stays where it is,
        so a linear image stays linear up to the edge.
        """
        sigma = _BLUR_PER_STEP / self.scale if self.scale < 1 else 0.0
        reach = np.minimum(_BLUR_REACH * sigma, np.minimum(centres, self.length - 1 - centres))
        distance = np.abs(np.arange(self.length) - centres[:, None])
        weights = np.exp(-0.5 * (distance / max(sigma, _TIE)) ** 2) * (distance <= reach[:, None] + _TIE)
        return weights / weights.sum(axis=1, keepdims=True)


# Plans of one window are made over and over, one for each slice.
@lru_cache(_KEPT)
def _sampling(ruler: Ruler) -> np.ndarray:
    return _frozen(ruler.sampled())


@lru_cache(_KEPT)
def _restoring(ruler: Ruler) -> np.ndarray:
    return _frozen(ruler.restored())


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def _bracket(positions: np.ndarray, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole position at or before each of `positions` kept within [first, last], and the fraction beyond it."""
    kept = np.clip(positions, first, last)
    before = np.floor(kept).astype(np.intp)
    return before, kept - before
