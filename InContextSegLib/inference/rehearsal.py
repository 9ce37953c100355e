"""The rehearsal: labelled examples predict one another, which tells how the network is best asked.

Every example is left out in turn, with all slices of its volume, and segmented by the others. Only the user's own
examples take part, and nothing is trained; what is found is used for every target of the same examples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch.nn.functional import interpolate

from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.progress import Report
from InContextSegLib.slicing import SlicePlan
from InContextSegLib.support import Example, SupportSet
from InContextSegLib.volume import Geometry

FEWER = (8, 4, 2)  # examples shown: more of them dilute those that resemble the slice
SHOWING, EMPTY = 8, 2  # examples left out for every label: with it, and without
THRESHOLDS = (0.5, 0.4, 0.3, 0.2, 0.1, 0.6, 0.7)
FEWEST = 3  # with fewer examples of a label chance decides, so nothing is changed for it
MAP_BYTES = 512 << 20  # of float32 probabilities; a session holds four such maps at once
FINER = 1.5  # network pixels that are so many voxels wide or wider leave something to see
# Of Dice, or a share of what is missing to 1: a larger picture costs time, and another threshold is a guess.
LEAST_GAIN, LEAST_SHARE = 0.02, 0.1


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """What the examples taught about themselves.

    Attributes:
        support: the examples at the size that suits them.
        shown: how many of them to show for one slice, those that resemble it most.
        shifts: what to add to the logits of a label (by its value) before the sigmoid; 0 where none is named.
        dice: mean Dice at which the examples predicted one another, for every label that could be tried.
        tried: mean Dice over these labels for every size and number that were tried.
    """

    support: SupportSet
    shown: int
    shifts: Mapping[int, float] = field(default_factory=dict)
    dice: Mapping[int, float] = field(default_factory=dict)
    tried: Mapping[tuple[int, int], float] = field(default_factory=dict)

    @property
    def mean_dice(self) -> float:
        return float(np.mean(list(self.dice.values())))

    @property
    def record(self) -> dict:
        """For the provenance of an output."""
        return {
            "size": self.support.size,
            "shown": self.shown,
            "logit_shifts": {str(value): round(shift, 4) for value, shift in self.shifts.items()},
            "dice": {str(value): round(score, 4) for value, score in self.dice.items()},
            "tried": [
                {"size": size, "shown": shown, "dice": round(score, 4)} for (size, shown), score in self.tried.items()
            ],
        }


def sizes_for(geometry: Geometry, axis: str, size: int, labels: int) -> tuple[int, ...]:
    """The network's own size, and twice that where it would show more of the image than interpolation.

    Not where the maps of all labels in all slices would take more than `MAP_BYTES` at the larger size.
    """
    plan = SlicePlan.of(geometry, axis, size)
    in_plane_mm = [step for array_axis, step in enumerate(geometry.spacing_mm) if array_axis != plan.array_axis]
    map_bytes = 4 * labels * plan.count * (2 * size) ** 2
    larger = plan.pixel_mm > FINER * min(in_plane_mm) and map_bytes <= MAP_BYTES
    return (size, 2 * size) if larger else (size,)


def rehearse(
    network: CachedSegmenter, cut: Callable[[int], SupportSet], sizes: Sequence[int], shown: int, report: Report
) -> Rehearsal:
    """Let the examples predict one another, first by fewer and fewer of the others, then at every further size.

    Whatever departs from the first size, the number asked for and the threshold 0.5 must gain: see `LEAST_GAIN`. All
    sizes are compared on the pixels of the last one. With fewer than `FEWEST` examples of a label, from as many volumes
    or pictures, there is nothing to learn about it.

    Args:
        cut: makes the examples at a size, in the same order.
        sizes: of network images in pixels; the first is taken unless another one gains.
        shown: examples shown to the network at most.

    Raises:
        Cancelled: from `report`.
    """
    first = cut(sizes[0])
    trials = {label.value: _left_out(first, label.value) for label in first.labels}
    trials = {value: indices for value, indices in trials.items() if indices}
    if not trials:
        return Rehearsal(first, shown)
    truth = first if len(sizes) == 1 else cut(sizes[-1])
    counts = [shown, *(count for count in FEWER if count < min(shown, len(first) - 1))]
    choices = [(sizes[0], count) for count in counts] + [(size, None) for size in sizes[1:]]
    best: Rehearsal | None = None
    tried: dict[tuple[int, int], float] = {}
    for done, (size, number) in enumerate(choices):
        count = number or best.shown
        report.step(done, len(choices), f"the examples predict one another: {count} shown, {size} pixels")
        if done == 0 or size != stage.support.size:
            stage = _Stage(network, first if size == first.size else truth if size == truth.size else cut(size), truth)
        shifts, dice = {}, {}
        for value, indices in trials.items():
            shifts[value], dice[value] = _best_shift(stage.scores(value, indices, count))
        one = Rehearsal(stage.support, count, shifts, dice, tried)
        tried[size, count] = one.mean_dice
        if best is None or _gains(one.mean_dice, best.mean_dice):
            best = one
    return best


class _Stage:
    """The examples at one size; for each of them the others are ranked once.

    Args:
        truth: the same examples at the size on which Dice is computed.
    """

    def __init__(self, network: CachedSegmenter, support: SupportSet, truth: SupportSet):
        self.network, self.support, self.truth = network, support, truth
        self._ranked: dict[int, list[Example]] = {}

    def scores(self, value: int, indices: Sequence[int], count: int) -> Float[np.ndarray, " thresholds"]:
        """Mean Dice at every threshold, examples predicted by the `count` that resemble them most."""
        return np.mean([self._dice(value, index, self._others(index)[:count]) for index in indices], axis=0)

    def _others(self, index: int) -> list[Example]:
        """The examples of other pictures and volumes, those that resemble this one most first."""
        if index not in self._ranked:
            example = self.support.examples[index]
            others = [other for other in self.support.examples if _origin(other) != _origin(example)]
            rest = replace(self.support, examples=tuple(others))
            order = rest.select(example.image, example.position, max(1, len(others) - 1))
            last = set(range(len(others))) - set(order)  # a choice of all would come in stored order
            self._ranked[index] = [others[n] for n in (*order, *last)]
        return self._ranked[index]

    def _dice(self, value: int, index: int, others: Sequence[Example]) -> list[float]:
        """Dice of one example at every threshold; an empty one scores 1 or 0."""
        wanted = self.truth.examples[index].labels == value
        if not any((other.labels == value).any() for other in others):
            return [_dice(np.zeros_like(wanted), wanted)] * len(THRESHOLDS)  # what none shows is not looked for
        image = torch.from_numpy(self.support.examples[index].image.copy())[None, None].to(self.network.device)
        logits = self.network.logits(self.network.embed(image), self.network.context(others, value))
        logits = interpolate(logits, size=wanted.shape, mode="bilinear", align_corners=False)[0, 0].cpu().numpy()
        return [_dice(logits > _logit(threshold), wanted) for threshold in THRESHOLDS]


def _left_out(support: SupportSet, value: int) -> list[int]:
    """Examples to leave out for a label, evenly spread over those that show it and, fewer, those that do not."""
    showing = [index for index, example in enumerate(support.examples) if (example.labels == value).any()]
    if len({_origin(support.examples[index]) for index in showing}) < FEWEST:
        return []
    empty = sorted(set(range(len(support))) - set(showing))
    return _spread(showing, SHOWING) + _spread(empty, EMPTY)


def _spread(indices: Sequence[int], count: int) -> list[int]:
    if not indices:
        return []
    return [indices[round(place)] for place in np.linspace(0, len(indices) - 1, min(count, len(indices)))]


def _origin(example: Example) -> str:
    """The picture or the volume that an example is from; slices add their axis and index to its name."""
    return example.source if example.position is None else example.source.rsplit(" ", 2)[0]


def _best_shift(dice: Float[np.ndarray, " thresholds"]) -> tuple[float, float]:
    """The shift that makes 0.5 of the best threshold, and its Dice; the first threshold stays unless one gains."""
    best = int(dice.argmax())
    if not _gains(dice[best], dice[0]):
        best = 0
    return _logit(1 - THRESHOLDS[best]), float(dice[best])


def _gains(dice: float, before: float) -> bool:
    """Whether it is worth a departure."""
    return bool(dice > before and dice >= before + min(LEAST_GAIN, LEAST_SHARE * (1 - before)))


def _dice(found: Bool[np.ndarray, "h w"], wanted: Bool[np.ndarray, "h w"]) -> float:
    total = found.sum() + wanted.sum()
    return float(2 * (found & wanted).sum() / total) if total else 1.0


def _logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))
