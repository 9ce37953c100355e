"""How well a mask agrees with the truth, at the image's own resolution and in mm, and how sure a mean of that is."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK
from jaxtyping import Bool, Float
from scipy import ndimage

from InContextSegLib.errors import InputError
from InContextSegLib.volumes.overlap import dice, iou

# A distance of exactly the tolerance counts as inside, whatever the last bits of the spacing say.
_ROUNDING_MM = 1e-5

Values = Sequence[float] | Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Scores:
    """The agreement of one label in one case; distances are nan where they are undefined.

    If neither mask has a voxel, Dice, IoU and NSD are 1; if exactly one has none, they are 0. Both times the distances
    are undefined.
    """

    dice: float
    iou: float
    asd_mm: float
    hd95_mm: float
    nsd: float


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """How far every surface voxel of one mask lies from the nearest surface voxel of the other, in mm.

    A surface voxel is a voxel of the mask of which at least one neighbour across a face is not in the mask; beyond the
    image nothing is. Distances run between voxel centres and every surface voxel counts once, as is usual. Where the
    other mask has no surface the distance is infinite. In a one-slice image neighbours and distances are in its plane.
    """

    prediction_mm: Float[np.ndarray, " p"]
    truth_mm: Float[np.ndarray, " t"]

    @classmethod
    def between(
        cls, prediction: Bool[np.ndarray, "k j i"], truth: Bool[np.ndarray, "k j i"], spacing_mm: Sequence[float]
    ) -> "SurfaceDistances":
        """Distances in both directions.

        Args:
            spacing_mm: the size of a voxel along k, j and i.

        Raises:
            InputError: if the masks differ in shape, or the spacing is not three positive numbers.
        """
        _require_comparable(prediction, truth, spacing_mm)
        box = _joint_box(prediction, truth)
        neighbours = _face_neighbours(prediction.shape)
        ours, theirs = (_surface(mask[box], neighbours) for mask in (prediction, truth))
        from_theirs, from_ours = _distance_map(theirs, spacing_mm), _distance_map(ours, spacing_mm)
        return cls(from_theirs[ours].astype(np.float64), from_ours[theirs].astype(np.float64))

    @property
    def pooled_mm(self) -> Float[np.ndarray, " n"]:
        """The distances of both directions, one per surface voxel."""
        return np.concatenate([self.prediction_mm, self.truth_mm])

    @property
    def defined(self) -> bool:
        """Whether both masks have a surface."""
        return self.prediction_mm.size > 0 and self.truth_mm.size > 0


def asd_mm(distances: SurfaceDistances) -> float:
    """Average symmetric surface distance: the mean over the surface voxels of both masks; nan if undefined.

    Source: Heimann et al., "Comparison and evaluation of methods for liver segmentation from CT datasets", 2009.
    """
    return float(distances.pooled_mm.mean()) if distances.defined else math.nan


def hd95_mm(distances: SurfaceDistances) -> float:
    """95th percentile Hausdorff distance: the larger of the two directions' percentiles; nan if undefined.

    Taking the percentile per direction keeps a large surface from hiding what a small one misses.
    """
    if not distances.defined:
        return math.nan
    return float(max(np.percentile(d, 95) for d in (distances.prediction_mm, distances.truth_mm)))


def nsd(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Normalised surface distance: the share of both surfaces that lies within the tolerance of the other surface.

    1 if both masks are empty, 0 if one is.
    Source: Nikolov et al., "Clinically applicable segmentation of head and neck anatomy", 2021 (there over areas,
    here over surface voxels).
    """
    pooled = distances.pooled_mm
    return float(np.mean(pooled <= tolerance_mm + _ROUNDING_MM)) if pooled.size else 1.0


def evaluate_labels(
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing_mm: Sequence[float],
    labels: Sequence[int],
    tolerance_mm: float = 2.0,
) -> dict[int, Scores]:
    """The scores of each label of a segmentation, at the resolution of the truth.

    Args:
        prediction, truth: label maps (k, j, i) on the same grid; a bool mask is label 1.
        spacing_mm: the size of a voxel along k, j and i.
        labels: the values to score; 0 is background and has no score.
        tolerance_mm: of the NSD; 2 mm is usual, 1 mm for thin structures.

    Raises:
        InputError: if the maps differ in shape or are not (k, j, i), or spacing, labels or tolerance make no sense.
    """
    _require_comparable(prediction, truth, spacing_mm)
    if not tolerance_mm >= 0:
        raise InputError(f"The tolerance must be 0 mm or more, not {tolerance_mm}.")
    if any(label <= 0 for label in labels):
        raise InputError(f"Labels to score must be 1 or more, 0 being background; got {', '.join(map(str, labels))}.")
    return {label: _evaluate(prediction == label, truth == label, spacing_mm, tolerance_mm) for label in labels}


@dataclass(frozen=True)
class Summary:
    """The mean over the defined values with its interval; all nan if no value is defined."""

    mean: float
    low: float
    high: float
    defined: int
    undefined: int


def bootstrap_interval(
    values: Values, generator: np.random.Generator, level: float = 0.95, draws: int = 2000
) -> tuple[float, float]:
    """A percentile bootstrap interval of the mean over the defined values, resampling cases.

    Fewer than two defined values say nothing about their spread: both ends are nan.

    Raises:
        InputError: if the level is not between 0 and 1, or there is no draw.
    """
    _require_interval(level, draws)
    defined = _defined(values)
    if defined.size < 2:
        return math.nan, math.nan
    return _interval(_resampled_means(defined, generator, draws), level)


def summarise(values: Values, generator: np.random.Generator, level: float = 0.95, draws: int = 2000) -> Summary:
    """The mean over the defined values, its bootstrap interval, and how many values were undefined (nan)."""
    low, high = bootstrap_interval(values, generator, level, draws)
    defined = _defined(values)
    mean = float(defined.mean()) if defined.size else math.nan
    return Summary(mean, low, high, defined.size, len(values) - defined.size)


def hierarchical_mean(
    values: Mapping[str, Any], generator: np.random.Generator, level: float = 0.95, draws: int = 2000
) -> Summary:
    """The mean of means, from case to task to data set: a data set with many cases or tasks weighs like any other.

    A task in which no value is defined takes no part. The interval resamples the cases inside each task; a task with
    one defined case is taken as it is, and if no task has two, the interval is nan. The counts are of cases.

    Args:
        values: data set -> task -> the values of its cases; any other depth works too.

    Raises:
        InputError: if the level is not between 0 and 1, or there is no draw.
    """
    _require_interval(level, draws)
    leaves = _leaves(values)
    sizes = [_defined(leaf).size for leaf in leaves]
    defined, undefined = sum(sizes), sum(len(leaf) for leaf in leaves) - sum(sizes)
    mean = float(_mean_of_means(values, np.mean))
    low, high = math.nan, math.nan
    if max(sizes, default=0) > 1:
        low, high = _interval(_mean_of_means(values, lambda leaf: _resampled_means(leaf, generator, draws)), level)
    return Summary(mean, low, high, defined, undefined)


def _evaluate(prediction: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float) -> Scores:
    distances = SurfaceDistances.between(prediction, truth, spacing_mm)
    return Scores(
        dice=dice(prediction, truth),
        iou=iou(prediction, truth),
        asd_mm=asd_mm(distances),
        hd95_mm=hd95_mm(distances),
        nsd=nsd(distances, tolerance_mm),
    )


def _require_comparable(prediction: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float]) -> None:
    if prediction.shape != truth.shape or prediction.ndim != 3:
        raise InputError(
            f"Prediction and truth must be (k, j, i) arrays of one shape; got {prediction.shape} and {truth.shape}."
        )
    if len(spacing_mm) != 3 or not all(math.isfinite(step) and step > 0 for step in spacing_mm):
        raise InputError(f"The spacing must be three positive numbers in mm, along k, j and i; got {spacing_mm}.")


def _require_interval(level: float, draws: int) -> None:
    if not 0 < level < 1 or draws < 1:
        raise InputError(f"An interval needs a level between 0 and 1 and at least 1 draw; got {level} and {draws}.")


def _joint_box(prediction: np.ndarray, truth: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around both masks: beyond it lies only background, so nothing is lost by cutting there."""
    either = prediction | truth
    box = []
    for axis in range(3):
        occupied = np.flatnonzero(either.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(occupied[0], occupied[-1] + 1) if occupied.size else slice(0, 1))
    return tuple(box)


def _face_neighbours(shape: tuple[int, ...]) -> Bool[np.ndarray, "a b c"]:
    """A voxel and its neighbours across faces; a one-slice image has none across the slice."""
    cross = ndimage.generate_binary_structure(3, 1)
    return cross[tuple(slice(None) if length > 1 else slice(1, 2) for length in shape)]


def _surface(mask: Bool[np.ndarray, "k j i"], neighbours: Bool[np.ndarray, "a b c"]) -> Bool[np.ndarray, "k j i"]:
    return mask & ~ndimage.binary_erosion(mask, neighbours)


def _distance_map(surface: Bool[np.ndarray, "k j i"], spacing_mm: Sequence[float]) -> Float[np.ndarray, "k j i"]:
    """The distance in mm of every voxel from the nearest surface voxel."""
    if not surface.any():
        return np.full(surface.shape, math.inf, dtype=np.float32)
    image = SimpleITK.GetImageFromArray(surface.astype(np.uint8))
    image.SetSpacing([float(step) for step in reversed(spacing_mm)])
    signed = SimpleITK.SignedMaurerDistanceMap(
        image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    # Where a surface is more than one voxel thick, its inside counts as negative.
    return np.maximum(SimpleITK.GetArrayViewFromImage(signed), 0)


def _defined(values: Values) -> Float[np.ndarray, " n"]:
    array = np.asarray(values, dtype=np.float64)
    return array[~np.isnan(array)]


def _resampled_means(
    defined: Float[np.ndarray, " n"], generator: np.random.Generator, draws: int
) -> Float[np.ndarray, " draws"]:
    return defined[generator.integers(defined.size, size=(draws, defined.size))].mean(axis=1)


def _interval(means: Float[np.ndarray, " draws"], level: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _leaves(values: Mapping[str, Any] | Values) -> list[Values]:
    if not isinstance(values, Mapping):
        return [values]
    return [leaf for below in values.values() for leaf in _leaves(below)]


def _mean_of_means(values: Mapping[str, Any] | Values, of_cases: Callable) -> Any:
    """`of_cases` of each task's defined values, averaged level by level; nan below which nothing is defined."""
    if not isinstance(values, Mapping):
        defined = _defined(values)
        return of_cases(defined) if defined.size else math.nan
    means = [
        mean for mean in (_mean_of_means(below, of_cases) for below in values.values()) if not np.isnan(mean).all()
    ]
    return np.mean(means, axis=0) if means else math.nan
