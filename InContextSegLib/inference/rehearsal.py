"""The rehearsal: labelled examples predict one another, which tells at what size and threshold the network does best.

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

SHOWING, EMPTY = 8, 2  # examples left out for every label: with it, and without
THRESHOLDS = (0.5, 0.4, 0.3, 0.2, 0.1, 0.6, 0.7)
FEWEST = 3  # with fewer examples of a label chance decides, so nothing is changed for it
FINER = 1.5  # network pixels that are so many voxels wide or wider leave something to see
LEAST_GAIN = 0.02  # of Dice: a larger picture costs time, and another threshold is a guess


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """What the examples taught about themselves.

    Attributes:
        support: the examples at the size that suits them.
        shifts: what to add to the logits of a label (by its value) before the sigmoid; 0 where none is named.
        dice: mean Dice at which the examples predicted one another, for every label that could be tried.
        tried: mean Dice over these labels for every size that was tried.
    """

    support: SupportSet
    shifts: Mapping[int, float] = field(default_factory=dict)
    dice: Mapping[int, float] = field(default_factory=dict)
    tried: Mapping[int, float] = field(default_factory=dict)

    @property
    def record(self) -> dict:
        """For the provenance of an output."""
        return {
            "size": self.support.size,
            "logit_shifts": {str(value): round(shift, 4) for value, shift in self.shifts.items()},
            "dice": {str(value): round(score, 4) for value, score in self.dice.items()},
            "dice_by_size": {str(size): round(score, 4) for size, score in self.tried.items()},
        }


def sizes_for(geometry: Geometry, axis: str, size: int) -> tuple[int, ...]:
    """The network's own size, and twice that where it would show more of the image than interpolation."""
    plan = SlicePlan.of(geometry, axis, size)
    in_plane_mm = [step for array_axis, step in enumerate(geometry.spacing_mm) if array_axis != plan.array_axis]
    return (size, 2 * size) if plan.pixel_mm > FINER * min(in_plane_mm) else (size,)


def rehearse(
    network: CachedSegmenter, cut: Callable[[int], SupportSet], sizes: Sequence[int], shown: int, report: Report
) -> Rehearsal:
    """Let the examples predict one another at every size; a later size or another threshold must gain `LEAST_GAIN`.

    All sizes are compared on the pixels of the last one. With fewer than `FEWEST` examples of a label from different
    volumes or pictures there is nothing to learn about it.

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
        return Rehearsal(first)
    truth = first if len(sizes) == 1 else cut(sizes[-1])
    total, best = len(sizes) * len(trials), None
    tried: dict[int, float] = {}
    for number, size in enumerate(sizes):
        support = first if size == first.size else truth if size == truth.size else cut(size)
        shifts, dice = {}, {}
        for done, (value, indices) in enumerate(trials.items()):
            report.step(number * len(trials) + done, total, f"the examples predict one another at {size} pixels")
            scores = np.array([_scores(network, support, truth, value, index, shown) for index in indices])
            shifts[value], dice[value] = _best_shift(scores.mean(axis=0))
        tried[size] = float(np.mean(list(dice.values())))
        if best is None or tried[size] >= tried[best.support.size] + LEAST_GAIN:
            best = Rehearsal(support, shifts, dice, tried)
    return best


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


def _scores(
    network: CachedSegmenter, support: SupportSet, truth: SupportSet, value: int, index: int, shown: int
) -> list[float]:
    """Dice at every threshold of one example as the others predict it; an empty one scores 1 or 0."""
    example = support.examples[index]
    others = [other for other in support.examples if _origin(other) != _origin(example)]
    if len(others) > shown:
        ranked = replace(support, examples=tuple(others)).select(example.image, example.position, shown)
        others = [others[n] for n in ranked]
    wanted = truth.examples[index].labels == value
    if not any((other.labels == value).any() for other in others):
        return [_dice(np.zeros_like(wanted), wanted)] * len(THRESHOLDS)  # what none shows is not looked for
    image = torch.from_numpy(example.image.copy())[None, None].to(network.device)
    logits = network.logits(network.embed(image), network.context(others, value))
    logits = interpolate(logits, size=wanted.shape, mode="bilinear", align_corners=False)[0, 0].cpu().numpy()
    return [_dice(logits > _logit(threshold), wanted) for threshold in THRESHOLDS]


def _best_shift(dice: Float[np.ndarray, " thresholds"]) -> tuple[float, float]:
    """The shift that makes 0.5 of the best threshold, and its Dice; the first threshold stays unless one gains."""
    best = int(dice.argmax())
    if dice[best] < dice[0] + LEAST_GAIN:
        best = 0
    return _logit(1 - THRESHOLDS[best]), float(dice[best])


def _dice(found: Bool[np.ndarray, "h w"], wanted: Bool[np.ndarray, "h w"]) -> float:
    total = found.sum() + wanted.sum()
    return float(2 * (found & wanted).sum() / total) if total else 1.0


def _logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))
