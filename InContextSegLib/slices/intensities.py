"""How grey values become [0, 1]: by a window, or by the percentiles of a volume."""

from dataclasses import dataclass

import numpy as np

from InContextSegLib.errors import InputError

WINDOWS = {"ct-soft": (-160, 240), "ct-bone": (-450, 1050), "ct-lung": (-1000, 400), "ct-brain": (0, 80)}
_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class Scale:
    """The linear map that takes intensities `low` to 0 and `high` to 1; `low == high` means a constant image."""

    low: float
    high: float

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Return `array` as new C-ordered float32 in [0, 1]; values beyond the ends are clipped, NaN becomes 0."""
        if not self.high > self.low:
            return np.zeros(array.shape, dtype=np.float32)
        scaled = np.array(array, dtype=np.float32, order="C")
        scaled -= np.float32(self.low)
        scaled *= np.float32(1 / (self.high - self.low))
        # fmax and fmin prefer the number when the other side is NaN, so one bad voxel cannot spoil its row and column.
        np.fmax(scaled, np.float32(0), out=scaled)
        np.fmin(scaled, np.float32(1), out=scaled)
        return scaled


@dataclass(frozen=True)
class Intensities:
    """How a volume becomes [0, 1]: by a fixed `window` (low, high), or by its own percentiles when that is None.

    The percentiles are 0.5 and 99.5 of the finite non-zero voxels of the whole volume (UniverSeg's rule for MR).
    """

    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.window is None:
            return
        low, high = (float(end) for end in self.window)
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise InputError(
                f"An intensity window needs two finite numbers, low below high, but ({low:g}, {high:g}) came."
            )
        object.__setattr__(self, "window", (low, high))

    @classmethod
    def named(cls, name: str) -> "Intensities":
        """Return a preset of `WINDOWS`, or the percentile rule for "percentiles".

        Raises:
            InputError: for another name.
        """
        if name == "percentiles":
            return cls()
        if name not in WINDOWS:
            raise InputError(f"There are no intensities named '{name}'; choose percentiles, {', '.join(WINDOWS)}.")
        return cls(WINDOWS[name])

    def of(self, array: np.ndarray) -> Scale:
        """Return the scale for `array` (any shape, the whole volume so that all its slices share one scale)."""
        if self.window is not None:
            return Scale(*self.window)
        values = array[array != 0]
        if np.issubdtype(array.dtype, np.floating):
            values = values[np.isfinite(values)]
        if values.size == 0:
            return Scale(0.0, 0.0)
        low, high = (float(value) for value in np.percentile(values, _PERCENTILES, overwrite_input=True))
        if _constant(low, high) and values.size < array.size:
            # One grey on a background of zeros, as in a drawing: the zeros are part of the picture.
            low, high = min(low, 0.0), max(high, 0.0)
        return Scale(low, low) if _constant(low, high) else Scale(low, high)


def _constant(low: float, high: float) -> bool:
    """Whether two ends are one value at the precision of float32."""
    limits = np.finfo(np.float32)
    return high - low <= max(float(limits.eps) * max(abs(low), abs(high)), float(limits.tiny))
