"""How alike pictures are, by what they look like and by where in the body they lie."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

_THUMBNAIL = 16
_BINS = 32
# Spread (in units of the whole range) below which distances count as equal.
_LEAST_SPREAD = 0.01
FEWEST = 3
# The fewer examples there are, the less their own distances say about what is usual: a picture is unlike all of them
# beyond (1 + SLACK / units) times the largest (measured in docs/benchmarks.md).
SLACK = 2.0


@dataclass(frozen=True, eq=False)
class Appearance:
    """What `n` pictures look like: blurred thumbnails, and how their grey values are distributed."""

    thumbnails: Float[np.ndarray, "n t"]
    cumulative_grey: Float[np.ndarray, "n b"]

    @classmethod
    def of(cls, images: Float[np.ndarray, "n h w"]) -> "Appearance":
        """Of square pictures in [0, 1], of any size."""
        count, size, _ = images.shape
        edges = np.linspace(0, size, _THUMBNAIL + 1)
        pixels = np.arange(size)
        # Share of each pixel that lies in each of the thumbnail's cells: an exact mean over areas for any size.
        overlap = np.clip(np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels), 0, None)
        mean = (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)
        thumbnails = (mean @ images @ mean.T).reshape(count, -1)
        bins = np.minimum((images.reshape(count, -1) * _BINS).astype(np.intp), _BINS - 1)
        bins += _BINS * np.arange(count)[:, None]
        histogram = np.bincount(bins.ravel(), minlength=count * _BINS).reshape(count, _BINS)
        return cls(thumbnails, np.cumsum(histogram, axis=1) / (size * size))

    def at(self, indices: Sequence[int]) -> "Appearance":
        """Of these pictures alone."""
        return Appearance(self.thumbnails[list(indices)], self.cumulative_grey[list(indices)])

    def distances(self, one: "Appearance") -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """How far every picture is from a single one, as both are in [0, 1]: by thumbnails, by grey values.

        The mean difference of cumulative histograms is the earth mover's distance in units of the grey range.
        """
        unlike = np.sqrt(np.mean((self.thumbnails - one.thumbnails[0]) ** 2, axis=1))
        return unlike, np.mean(np.abs(self.cumulative_grey - one.cumulative_grey[0]), axis=1)


@dataclass(frozen=True, eq=False)
class Coverage:
    """What examples cover: how far the nearest one is from a picture, against how far they are from one another.

    Attributes:
        limit: how far a picture may be: somewhat more than the largest distance of an example to the nearest one of
            another unit; nan with fewer than `FEWEST` units, which tell nothing about what is usual.
    """

    appearance: Appearance
    limit: float

    @classmethod
    def of(cls, appearance: Appearance, units: Sequence[str]) -> "Coverage":
        """Of examples, of which those of one unit (a picture or a volume) are not compared."""
        names = np.array(units)
        if len(set(units)) < FEWEST:
            return cls(appearance, math.nan)
        nearest = [
            np.add(*appearance.distances(appearance.at([index])))[names != name].min()
            for index, name in enumerate(names)
        ]
        return cls(appearance, (1 + SLACK / len(set(units))) * max(float(max(nearest)), _LEAST_SPREAD))

    def outside(self, images: Float[np.ndarray, "n h w"]) -> list[int]:
        """The pictures that resemble no example; one of a single grey value (nothing is there) never counts."""
        if math.isnan(self.limit):
            return []
        return [index for index, image in enumerate(images) if np.ptp(image) > 0 and self._nearest(image) > self.limit]

    def negatives(self, images: Float[np.ndarray, "n h w"], shown: Bool[np.ndarray, "h w"]) -> list[bool]:
        """Of every picture whether it resembles the examples more with bright and dark exchanged.

        Args:
            shown: the pixels that show the image; the others are padding.
        """
        negative = np.where(shown, 1 - images, 0).astype(np.float32)
        return [self._nearest(turned) < self._nearest(seen) for seen, turned in zip(images, negative, strict=True)]

    def _nearest(self, image: Float[np.ndarray, "h w"]) -> float:
        return float(np.add(*self.appearance.distances(Appearance.of(image[None]))).min())


def dissimilarity(
    appearance: Appearance, one: Appearance, positions: Sequence[float | None], position: float | None
) -> Float[np.ndarray, " n"]:
    """How little every picture resembles a single one: appearance (two halves) and, where both are known, position.

    Each is standardised over the pictures, so that none dominates; the result ranks them and says no more.
    """
    unlike, grey = appearance.distances(one)
    apart = np.full(len(positions), np.nan)
    if position is not None:
        apart = np.abs(np.array([np.nan if each is None else each for each in positions], float) - position)
    return (_standardised(unlike) + _standardised(grey)) / 2 + _standardised(apart)


def _standardised(distance: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Distances with mean 0 and spread 1; an unknown one (NaN) counts as average."""
    known = np.isfinite(distance)
    if not known.any():
        return np.zeros_like(distance)
    spread = max(float(distance[known].std()), _LEAST_SPREAD)
    return np.where(known, (distance - distance[known].mean()) / spread, 0.0)
