"""Leave-one-out calibration: labelled examples predict one another, which tells how the network is best asked.

Every example is left out in turn, with all slices of its volume, and segmented by the others. Only the user's own
examples take part, and nothing is trained; what is found is used for every target of the same examples.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float

from InContextSegLib.adaptation.leave_out import LeaveOut, best_threshold, dice, gains, shift_of
from InContextSegLib.examples.origins import origin, spread_evenly
from InContextSegLib.examples.support import SupportSet
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.inference.prior import Calibration
from InContextSegLib.models.fitted import STRIDE
from InContextSegLib.progress import Report
from InContextSegLib.slices.body import Field
from InContextSegLib.slices.plan import SlicePlan
from InContextSegLib.volumes.geometry import Geometry

FEWER = (8, 4, 2)  # examples shown: more of them dilute those that resemble the slice
SHOWING, EMPTY = 8, 2  # examples left out for every label: with it, and without
FEWEST = 3  # with fewer examples of a label chance decides, so nothing is changed for it
MAP_BYTES = 512 << 20  # of float32 probabilities; a session holds four such maps at once
LARGE = 256  # pixels; twice as many would take four times as long
FINER_STEPS = 1.5, 2, 3  # times a network's size, at which heads are fitted to pictures
FINER = 1.5  # network pixels that are so many voxels wide or wider leave something to see


def sizes_for(geometry: Geometry, axis: str, size: int, labels: int, field: Field | None = None) -> tuple[int, ...]:
    """The network's own size, and a larger one (`larger`) where it would show more of the image than interpolation.

    Not where the maps of all labels in all slices would take more than `MAP_BYTES` at the larger size.

    Args:
        field: of view; None: the slices fill the pictures.
    """
    plan = SlicePlan.of(geometry, axis, size)
    pixel_mm = field.edge_mm / size if field else plan.pixel_mm
    map_bytes = 4 * labels * plan.count * larger(size) ** 2
    worthwhile = pixel_mm > FINER * _finest_mm(geometry, plan) and map_bytes <= MAP_BYTES
    return (size, larger(size)) if worthwhile else (size,)


def finer_sizes(geometry: Geometry, axis: str, size: int) -> tuple[int, ...]:
    """The network's own size, and larger ones at which heads fitted to the examples may see what is thin.

    As far as the head's pixels, twice as wide as those of its pictures, are still wider than those of the image. For
    pictures; of a volume every slice would take that much longer.
    """
    plan = SlicePlan.of(geometry, axis, size)
    sizes = [size]
    for step in FINER_STEPS:
        if plan.count == 1 and STRIDE * plan.pixel_mm * size / sizes[-1] > FINER * _finest_mm(geometry, plan):
            sizes.append(round(step * size))
    return tuple(sizes)


def _finest_mm(geometry: Geometry, plan: SlicePlan) -> float:
    """The smaller side of a voxel within the slices."""
    return min(step for array_axis, step in enumerate(geometry.spacing_mm) if array_axis != plan.array_axis)


def larger(size: int) -> int:
    """The next size of pictures worth trying: twice that of small ones, half as large again of others."""
    return 2 * size if size < LARGE else size * 3 // 2


def calibrate(
    network: CachedSegmenter, cut: Callable[[int], SupportSet], sizes: Sequence[int], shown: int, report: Report
) -> Calibration:
    """Let the examples predict one another, first by fewer and fewer of the others, then at every further size.

    Whatever departs from the first size, the number asked for and the threshold 0.5 must gain: see `gains`. All
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
    trials = {label.value: left_out(first, label.value) for label in first.labels}
    trials = {value: indices for value, indices in trials.items() if indices}
    truth = first if len(sizes) == 1 else cut(sizes[-1])
    if not trials:
        return Calibration(first, shown, truth=truth)
    counts = [shown, *(count for count in FEWER if count < min(shown, len(first) - 1))]
    choices = [(sizes[0], count) for count in counts] + [(size, None) for size in sizes[1:]]
    best: Calibration | None = None
    tried: dict[tuple[int, int], float] = {}
    for done, (size, number) in enumerate(choices):
        count = number or best.shown
        message = f"the examples predict one another: {count} shown, {size} pixels"
        step = partial(report.step, done, len(choices), message)
        if done == 0 or size != stage.support.size:
            stage = _at(first if size == first.size else truth if size == truth.size else cut(size), truth)
        shifts, found = {}, {}
        for value, indices in trials.items():
            scores = _mean_dice(network, stage, value, indices, count, step)
            best_one = best_threshold(scores)
            shifts[value], found[value] = shift_of(best_one), float(scores[best_one])
        one = Calibration(stage.support, count, shifts, found, tried, truth)
        tried[size, count] = one.mean_dice
        if best is None or gains(one.mean_dice, best.mean_dice):
            best = one
    return best


def _at(support: SupportSet, truth: SupportSet) -> LeaveOut:
    return LeaveOut(support, truth, tuple(origin(example) for example in support.examples))


def _mean_dice(
    network: CachedSegmenter,
    stage: LeaveOut,
    value: int,
    indices: Sequence[int],
    count: int,
    step: Callable[[], None],
) -> Float[np.ndarray, " thresholds"]:
    """Mean Dice at every threshold, examples predicted by the `count` others that resemble them most.

    Before each of them `step` is called, so that nobody who cancels waits for all.
    """
    answers = []
    for index in indices:
        step()
        answers.append(stage.logits(network, value, index, count))
    return np.mean(
        [dice(stage.overlap(logits, value, index)) for logits, index in zip(answers, indices, strict=True)], axis=0
    )


def left_out(support: SupportSet, value: int) -> list[int]:
    """Examples to leave out for a label, evenly spread over those that show it and, fewer, those that do not."""
    telling = support.telling(value)
    showing = [index for index in telling if (support.examples[index].labels == value).any()]
    if len({origin(support.examples[index]) for index in showing}) < FEWEST:
        return []
    empty = sorted(set(telling) - set(showing))
    return spread_evenly(showing, SHOWING) + spread_evenly(empty, EMPTY)
