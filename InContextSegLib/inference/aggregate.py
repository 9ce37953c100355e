"""From the probabilities of several draws and axes to one label map with its uncertainty."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter1d, maximum_filter1d
from scipy.special import expit, logit

from InContextSegLib.examples.support import Label
from InContextSegLib.slices.plan import Box, SlicePlan
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume

# Along the axis (docs/development/tried.md): as far as it helped, in slices and in millimetres.
SMOOTH_SLICES, SMOOTH_MM, LEAST_SIGMA = 0.7, 1.5, 0.2
CLIPPED = 1e-4  # a slice that is sure does not outvote its neighbours without bounds
REACH = 3  # slices to either side that smoothing looks at: four standard deviations
LARGEST_SPREAD = 0.5  # of a probability


@dataclass(frozen=True, eq=False)
class AxisMaps:
    """Means over the draws along one axis, of the probability and of its square: `l` labels, `n` slices.

    `first` is the slice index of the target with which the plan's grid begins.
    """

    plan: SlicePlan
    mean: Float[np.ndarray, "l n size size"]
    square: Float[np.ndarray, "l n size size"]
    first: int = 0


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a segmentation hands over.

    Attributes:
        mask: the label of every voxel, 0 where none reached the threshold; labels never overlap.
        uncertainty: per voxel, the largest standard deviation of a label's probability over draws and axes, in
            percent of the largest possible one, 0.5 (whole numbers from 0 to 100); None where there was only one
            prediction, whose spread is undefined.
        probabilities: per label value, float16 (k, j, i); empty unless asked for.
        next_slice, next_axis: the slice index, along that axis, whose labelling would settle most.
        given: slice indices along that axis that were themselves among the examples.
        partly: of these, those that may not tell of all labels, and of which they do.
        unlike: slice indices along that axis that look like none of the examples.
        provenance: how all of this was computed.
        soft: by label value the Dice that the result expects of itself (`Canvas.soft_dice`).
        whole: whether the whole volume was asked for.
    """

    mask: Volume
    uncertainty: Volume | None
    probabilities: dict[int, np.ndarray]
    next_slice: int
    next_axis: str
    given: tuple[int, ...]
    unlike: tuple[int, ...]
    provenance: dict
    partly: Mapping[int, frozenset[int]] = field(default_factory=dict)
    soft: Mapping[int, float] = field(default_factory=dict)
    whole: bool = True


@dataclass(frozen=True, eq=False)
class SlicePrediction:
    """What is predicted of one slice alone, as volumes of one slice.

    Attributes:
        mask, uncertainty: see `Prediction`.
        draws, supports: how many there were.
        given: whether the slice is itself among the examples.
        partly: as in `Prediction`.
        unlike: whether it looks like none of them.
    """

    mask: Volume
    uncertainty: Volume | None
    draws: int
    supports: int
    given: bool
    unlike: bool
    partly: Mapping[int, frozenset[int]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Fused:
    """Some slices at their resolution, (k, j, i): labels, spread, and `doubt`, how unsettled every voxel is.

    `soft` is by label value what its voxels are expected to have in common with the truth, twice, and the sum of both.
    """

    labels: np.ndarray
    spread: np.ndarray
    doubt: np.ndarray
    probabilities: dict[int, np.ndarray]
    soft: dict[int, Float[np.ndarray, "2"]] = field(default_factory=dict)


class Canvas:
    """A result at the resolution of its target, to which block after block of slices is added.

    Of what is unsettled it keeps a sum for every slice, and of the spread whole percents: all of a large scan in
    floating point would take many times the memory of the scan.

    Args:
        geometry: of the target.
        array_axis: along which the blocks follow one another.
        box: outside of which nothing is kept.
        members: predictions that are averaged.
        keep_probabilities: whether those of every label are wanted.
    """

    def __init__(
        self,
        geometry: Geometry,
        labels: Sequence[Label],
        array_axis: int,
        box: Box | None,
        members: int,
        keep_probabilities: bool,
    ):
        shape, values = geometry.shape, [label.value for label in labels]
        self.geometry, self._axis, self._box = geometry, array_axis, box or ((0, 0, 0), shape)
        self.labels = _no_labels(shape, labels)
        self._percent = np.zeros(shape, np.uint8) if members > 1 else None
        self.probabilities = {value: np.zeros(shape, np.float16) for value in values} if keep_probabilities else {}
        self._spread, self._doubt = np.zeros((2, shape[array_axis]))
        self._soft = {value: np.zeros(2) for value in values}

    def wanted(self, first: int, count: int) -> tuple[slice, slice, slice]:
        """What is kept of `count` slices from the index `first` along the array axis on, as indices of these."""
        low, high = (list(end) for end in self._box)
        low[self._axis] = min(max(low[self._axis] - first, 0), count)
        high[self._axis] = min(max(high[self._axis] - first, 0), count)
        return tuple(map(slice, low, high))

    def add(self, fused: Fused, first: int) -> None:
        """Lay down the slices from the index `first` along the array axis on."""
        there = self.wanted(first, fused.labels.shape[self._axis])
        here = list(there)
        here[self._axis] = slice(there[self._axis].start + first, there[self._axis].stop + first)
        here = tuple(here)
        self.labels[here] = fused.labels[there]
        if self._percent is not None:
            self._percent[here] = percent(fused.spread[there])
        for value, kept in self.probabilities.items():
            kept[here] = fused.probabilities[value][there]
        for value, soft in fused.soft.items():
            self._soft[value] += soft
        others = tuple(axis for axis in range(3) if axis != self._axis)
        self._spread[here[self._axis]] = fused.spread[there].sum(axis=others, dtype=np.float64)
        self._doubt[here[self._axis]] = fused.doubt[there].sum(axis=others, dtype=np.float64)

    @property
    def uncertainty(self) -> Volume | None:
        return None if self._percent is None else Volume(self._percent, self.geometry, Kind.INTENSITY)

    @property
    def whole(self) -> bool:
        """Whether no part of the target is left out."""
        return (tuple(self._box[0]), tuple(self._box[1])) == ((0, 0, 0), self.geometry.shape)

    @property
    def soft_dice(self) -> dict[int, float]:
        """By label value the Dice that the result expects of itself; what was not found is left out."""
        return {value: float(common / total) for value, (common, total) in self._soft.items() if common}

    @property
    def unsettled(self) -> Float[np.ndarray, " n"]:
        """By slice index, how much is unsettled: by the spread, where there is some."""
        return self._spread if self._spread.any() else self._doubt


def percent(spread: Float[np.ndarray, "k j i"]) -> np.ndarray:
    """Standard deviations of probabilities in whole percents (uint8) of the largest possible one."""
    return np.round(np.clip(spread / LARGEST_SPREAD, 0, 1) * 100).astype(np.uint8)


def in_blocks(
    runs: Sequence[tuple[int, int]], compute: Callable[[tuple[int, int]], np.ndarray], least: int, halo: int
) -> Iterator[tuple[int, int, np.ndarray, int]]:
    """Compute runs of slices one after the other, and hand them on in blocks with some slices to either side.

    Args:
        runs: first and last (exclusive) numbers, in order and without gaps.
        compute: gives the maps (..., n, h, w) of a run.
        least: slices in a block, but for the last one.
        halo: slices to either side, where there are so many.

    Yields:
        first and last (exclusive) number of a block, maps of it and of its neighbours, and how many of these come
        before it.
    """
    held, begin, done = [], runs[0][0], runs[0][0]
    for run in runs:
        held.append(compute(run))
        ends = run == runs[-1]
        stop = run[1] if ends else run[1] - halo
        if stop - done < least and not ends:
            continue
        window = held[0] if len(held) == 1 else np.concatenate(held, axis=-3)
        yield done, stop, window, done - begin
        kept = max(stop - halo, begin)
        held, begin, done = [window[..., kept - begin :, :, :]], kept, stop


def smooth(probabilities: Float[np.ndarray, "l n size size"], step_mm: float) -> None:
    """Let neighbouring slices agree, in place: a Gaussian over their logits, narrower where slices lie further apart.

    Args:
        step_mm: from slice to slice.
    """
    sigma = min(SMOOTH_SLICES, SMOOTH_MM / step_mm)
    if probabilities.shape[1] == 1 or sigma < LEAST_SIGMA:
        return
    for label in probabilities:
        nowhere = maximum_filter1d(label, 2 * REACH + 1, axis=0) < CLIPPED
        np.clip(label, CLIPPED, 1 - CLIPPED, out=label)
        label[...] = expit(gaussian_filter1d(logit(label), sigma, axis=0, mode="nearest", radius=REACH))
        label[nowhere] = 0


def fuse(
    maps: Sequence[AxisMaps],
    labels: Sequence[Label],
    threshold: float,
    keep_probabilities: bool,
    within: tuple[slice, slice, slice] = (slice(None),) * 3,
) -> Fused:
    """Average the axes at native resolution, label by label, and give every voxel to its most probable label.

    The spread is the standard deviation over draws and axes. Where the voxels are finer than the network's pixels, the
    draws' share of it is interpolated: never less than that of the interpolated draws, and zero where they agree.
    Only one label's probability exists at full size at a time (along every axis), unless they are to be kept.

    Args:
        within: the voxels that `Fused.soft` is about.
    """
    shape = maps[0].plan.geometry.shape
    best = np.zeros(shape, np.float32)
    winner = _no_labels(shape, labels)
    spread, doubt, kept, soft = np.zeros(shape, np.float32), np.zeros(shape, np.float32), {}, {}
    for number, label in enumerate(labels):
        means = [np.clip(each.plan.restore(each.mean[number]), 0, 1) for each in maps]
        mean = sum(means) / np.float32(len(maps))
        np.maximum(spread, _deviation(maps, number, means, mean), out=spread)
        np.maximum(doubt, mean * (1 - mean), out=doubt)
        # The first of equal labels keeps a voxel.
        wins = (mean >= threshold) & ((winner == 0) | (mean > best))
        best[wins], winner[wins] = mean[wins], label.value
        if keep_probabilities:
            kept[label.value] = mean.astype(np.float16)
        inside = mean[within] >= threshold
        total = inside.sum() + mean[within].sum(dtype=np.float64)
        soft[label.value] = np.array([2 * mean[within][inside].sum(dtype=np.float64), total])
    return Fused(winner, spread, doubt, kept, soft)


def moments(members: Iterable[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean of `count` arrays of probabilities, and that of their squares."""
    mean, square = 0.0, 0.0
    for member in members:
        mean, square = mean + member / count, square + member**2 / count
    return mean, square


def _no_labels(shape: tuple[int, int, int], labels: Sequence[Label]) -> np.ndarray:
    return np.zeros(shape, np.uint8 if max(label.value for label in labels) < 256 else np.uint16)


def _deviation(maps: Sequence[AxisMaps], label: int, means: Sequence[np.ndarray], mean: np.ndarray) -> np.ndarray:
    """Standard deviation over all members: within every axis, and between the axes."""
    variance = np.zeros_like(mean)
    for each, own in zip(maps, means, strict=True):
        # Deviations are interpolated, not squares: those of equal members are large wherever the members have an edge.
        within = np.sqrt(np.maximum(each.square[label] - each.mean[label] ** 2, 0))
        variance += each.plan.restore(within) ** 2 + (own - mean) ** 2
    return np.sqrt(variance / np.float32(len(maps)))


def most_worth_labelling(unsettled: Float[np.ndarray, " n"], plan: SlicePlan, labelled: Collection[int]) -> int:
    """The slice index along the plan's array axis that holds most of what is unsettled.

    Args:
        unsettled: how much every slice holds, by its index (`Canvas.unsettled`).
        labelled: slice numbers of the plan that are examples already; they and their direct neighbours are left out.
    """
    score = np.array([unsettled[plan.slice_index(number)] for number in range(plan.count)])
    near = [number + step for number in labelled for step in (-1, 0, 1)]
    free = np.setdiff1d(np.arange(plan.count), near)
    if not len(free):
        free = np.arange(plan.count)
    return plan.slice_index(int(free[score[free].argmax()]))
