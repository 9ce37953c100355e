"""From the probabilities of several draws and axes to one label map with its uncertainty."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter1d
from scipy.special import expit, logit

from InContextSegLib.examples.support import Label
from InContextSegLib.slices.plan import Box, SlicePlan
from InContextSegLib.volumes.geometry import Volume

# Along the axis (docs/development/tried.md): as far as it helped, in slices and in millimetres.
SMOOTH_SLICES, SMOOTH_MM, LEAST_SIGMA = 0.7, 1.5, 0.2
CLIPPED = 1e-4  # a slice that is sure does not outvote its neighbours without bounds


@dataclass(frozen=True, eq=False)
class AxisMaps:
    """Means over the draws along one axis, of the probability and of its square: `l` labels, `n` slices."""

    plan: SlicePlan
    mean: Float[np.ndarray, "l n size size"]
    square: Float[np.ndarray, "l n size size"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a segmentation hands over.

    Attributes:
        mask: the label of every voxel, 0 where none reached the threshold; labels never overlap.
        uncertainty: per voxel, the largest standard deviation of a label's probability over draws and axes,
            in [0, 0.5]; None where there was only one prediction, whose spread is undefined.
        probabilities: per label value, float16 (k, j, i); empty unless asked for.
        next_slice, next_axis: the slice index, along that axis, whose labelling would settle most.
        given: slice indices along that axis that were themselves among the examples.
        partly: of these, those that tell of some labels only, and of which.
        unlike: slice indices along that axis that look like none of the examples.
        provenance: how all of this was computed.
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
    """The arrays of a `Prediction`, (k, j, i), and `doubt`: how unsettled every voxel is."""

    labels: np.ndarray
    spread: np.ndarray
    doubt: np.ndarray
    probabilities: dict[int, np.ndarray]

    def inside(self, box: Box) -> "Fused":
        """The same with nothing outside the box ((k, j, i) low inclusive, high exclusive)."""
        here = tuple(slice(low, high) for low, high in zip(*box, strict=True))

        def cleared(array: np.ndarray) -> np.ndarray:
            kept = np.zeros_like(array)
            kept[here] = array[here]
            return kept

        probabilities = {value: cleared(array) for value, array in self.probabilities.items()}
        return Fused(cleared(self.labels), cleared(self.spread), cleared(self.doubt), probabilities)


def smooth(probabilities: Float[np.ndarray, "l n size size"], step_mm: float) -> None:
    """Let neighbouring slices agree, in place: a Gaussian over their logits, narrower where slices lie further apart.

    Args:
        step_mm: from slice to slice.
    """
    sigma = min(SMOOTH_SLICES, SMOOTH_MM / step_mm)
    if probabilities.shape[1] == 1 or sigma < LEAST_SIGMA:
        return
    for label in probabilities:
        nowhere = label.max(axis=0) < CLIPPED
        np.clip(label, CLIPPED, 1 - CLIPPED, out=label)
        label[...] = expit(gaussian_filter1d(logit(label), sigma, axis=0, mode="nearest"))
        label[:, nowhere] = 0


def fuse(maps: Sequence[AxisMaps], labels: Sequence[Label], threshold: float, keep_probabilities: bool) -> Fused:
    """Average the axes at native resolution, label by label, and give every voxel to its most probable label.

    The spread is the standard deviation over draws and axes. Where the voxels are finer than the network's pixels, the
    draws' share of it is interpolated: never less than that of the interpolated draws, and zero where they agree.
    Only one label's probability exists at full size at a time (along every axis), unless they are to be kept.
    """
    shape = maps[0].plan.geometry.shape
    best = np.zeros(shape, np.float32)
    winner = np.zeros(shape, np.uint8 if max(label.value for label in labels) < 256 else np.uint16)
    spread, doubt, kept = np.zeros(shape, np.float32), np.zeros(shape, np.float32), {}
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
    return Fused(winner, spread, doubt, kept)


def _deviation(maps: Sequence[AxisMaps], label: int, means: Sequence[np.ndarray], mean: np.ndarray) -> np.ndarray:
    """Standard deviation over all members: within every axis, and between the axes."""
    variance = np.zeros_like(mean)
    for each, own in zip(maps, means, strict=True):
        # Deviations are interpolated, not squares: those of equal members are large wherever the members have an edge.
        within = np.sqrt(np.maximum(each.square[label] - each.mean[label] ** 2, 0))
        variance += each.plan.restore(within) ** 2 + (own - mean) ** 2
    return np.sqrt(variance / np.float32(len(maps)))


def most_worth_labelling(unsettled: np.ndarray, plan: SlicePlan, labelled: Collection[int]) -> int:
    """The slice index along the plan's array axis that holds most of what is unsettled.

    Args:
        unsettled: (k, j, i), spread or doubt.
        labelled: slice numbers of the plan that are examples already; they and their direct neighbours are left out.
    """
    others = tuple(axis for axis in range(3) if axis != plan.array_axis)
    amount = unsettled.sum(axis=others, dtype=np.float64)
    score = np.array([amount[plan.slice_index(number)] for number in range(plan.count)])
    near = [number + step for number in labelled for step in (-1, 0, 1)]
    free = np.setdiff1d(np.arange(plan.count), near)
    if not len(free):
        free = np.arange(plan.count)
    return plan.slice_index(int(free[score[free].argmax()]))
