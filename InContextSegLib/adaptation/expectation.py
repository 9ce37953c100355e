"""How good a segmentation will be: what the examples, each segmented by the others, say about the next picture."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from jaxtyping import Float

from InContextSegLib.adaptation.leave_out import LeaveOut, dice, soft_overlap, threshold_of
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.inference.prior import Expected
from InContextSegLib.progress import Report

AT_MOST = 16  # pictures or slices tried for every label, unless told otherwise
SLICES = 6  # of them from one volume
# What is missing to a Dice of 1 where the labelled slices beside lie twice as far away: 3.5 times as much in the
# hippocampus, 3.3 in sarcomas, 1.8 in organs of the neck.
TWICE_AS_FAR = 2.5


@dataclass(frozen=True, eq=False)
class Trial:
    """One example segmented by the others, for one label.

    Attributes:
        index: of the example in its support set.
        unit: the picture or volume that it was left out with.
        overlap: see `LeaveOut.overlap`.
        soft: see `soft_overlap`.
        separation: chance that the answer puts a pixel of the label above another pixel (area under the ROC curve);
            nan where the example does not show the label or is full of it, or none of the others shows it.
    """

    value: int
    index: int
    unit: str
    overlap: Float[np.ndarray, "2 thresholds"]
    soft: Float[np.ndarray, "2 thresholds"]
    separation: float


def to_try(leave: LeaveOut, value: int, at_most: int = AT_MOST) -> list[int]:
    """Examples to leave out for a label, in an order of chance: the first few of them speak for all.

    Pictures with and without the label are among them in their own proportion, as they will be among the targets; of a
    volume two slices with the label for every one without, from the middle of either kind outwards. Labels that fewer
    than two units show cannot be tried: there would be nothing to predict them from.
    """
    members: dict[str, list[int]] = {}
    for index in leave.support.telling(value):
        members.setdefault(leave.units[index], []).append(index)
    showing = {unit: [index for index in own if _shows(leave, value, index)] for unit, own in members.items()}
    if sum(bool(own) for own in showing.values()) < 2:
        return []
    each = max(1, min(SLICES, at_most // len(members)))
    chosen = []
    for unit, own in members.items():
        shown = set(showing[unit])
        empty = [index for index in own if index not in shown]
        with_label = middles(showing[unit], each - min(len(empty), each // 3))
        chosen.append(with_label + middles(empty, each - len(with_label)))
    order = np.random.default_rng(len(chosen)).permutation(len(chosen))
    turns = zip_longest(*(chosen[place] for place in order))
    found = [index for turn in turns for index in turn if index is not None][:at_most]
    # Where the label is rare it has to be among those tried.
    if sum(_shows(leave, value, index) for index in found) < 2:
        found = [own[len(own) // 2] for own in showing.values() if own][:at_most]
    return found


def middles(indices: Sequence[int], count: int) -> list[int]:
    """At most `count` of them, each in the middle of an equal share."""
    count = min(max(count, 0), len(indices))
    return [indices[int((place + 0.5) * len(indices) / count)] for place in range(count)]


def tried(
    network_for: Callable[[int], CachedSegmenter],
    leave: LeaveOut,
    tries: Sequence[tuple[int, int]],
    count: int,
    report: Report,
    deadline: float = math.inf,
) -> tuple[Trial, ...]:
    """Segment examples by the `count` others that resemble them most.

    Args:
        network_for: the network to ask about the example at an index; one that has not learnt from it.
        tries: pairs of a label's value and the index of an example to leave out (`in_turns`).
        deadline: of `time.monotonic`, behind which none but the first is begun.

    Raises:
        Cancelled: from `report`.
    """
    trials: list[Trial] = []
    for value, index in tries:
        if trials and time.monotonic() > deadline:
            break
        report.step(len(trials), len(tries), "each example is segmented by the others")
        logits = leave.logits(network_for(index), value, index, count)
        trials.append(trial(leave, value, index, logits))
    return tuple(trials)


def trial(leave: LeaveOut, value: int, index: int, logits: Float[np.ndarray, "h w"] | None) -> Trial:
    """What an answer for an example left out is worth."""
    wanted = leave.truth.examples[index].labels == value
    overlap = leave.overlap(logits, value, index)
    return Trial(value, index, leave.units[index], overlap, soft_overlap(logits), _area(logits, wanted))


def in_turns(indices: Mapping[int, Sequence[int]]) -> list[tuple[int, int]]:
    """Pairs of a label's value and an example's index, the labels in turns: whatever is cut off leaves all of them."""
    turns = zip_longest(*([(value, index) for index in chosen] for value, chosen in indices.items()))
    return [pair for turn in turns for pair in turn if pair]


def scores_of(trials: Sequence[Trial], value: int) -> Float[np.ndarray, "units thresholds"]:
    """Dice of every unit at every threshold; the slices of a volume count together, as they do in a result."""
    return np.array([dice(overlap) for overlap in _summed(trials, value, "overlap").values()])


def expected(trials: Sequence[Trial], value: int, shift: float) -> Expected:
    """The Dice of a label with that shift of the logits (`leave_out.shift_of` one of the thresholds)."""
    at = threshold_of(shift)
    scores = scores_of(trials, value)[:, at]
    spread = float(scores.std(ddof=1)) if len(scores) > 1 else math.nan
    soft = [common[at] / total[at] for common, total in _summed(trials, value, "soft").values() if common[at]]
    return Expected(float(scores.mean()), spread, len(scores), float(np.mean(soft)) if soft else None)


def _summed(trials: Sequence[Trial], value: int, what: str) -> dict[str, np.ndarray]:
    """Overlaps of the trials of a label, added up by unit."""
    found: dict[str, np.ndarray] = {}
    for each in trials:
        if each.value == value:
            found[each.unit] = found.get(each.unit, 0) + getattr(each, what)
    return found


def expected_between(trials: Sequence[Trial], value: int, shift: float) -> Expected:
    """The same for slices between labelled ones; those that were left out lay twice as far from others."""
    found = expected(trials, value, shift)
    soft = None if found.soft is None else 1 - (1 - found.soft) / TWICE_AS_FAR
    return Expected(1 - (1 - found.dice) / TWICE_AS_FAR, found.spread / TWICE_AS_FAR, found.units, soft)


def _shows(leave: LeaveOut, value: int, index: int) -> bool:
    return bool((leave.support.examples[index].labels == value).any())


def _area(logits: np.ndarray | None, wanted: np.ndarray) -> float:
    """Area under the ROC curve, by the rank sum (Hanley and McNeil, 1982)."""
    inside = int(wanted.sum())
    outside = wanted.size - inside
    if logits is None or not inside or not outside:
        return math.nan
    order = np.argsort(logits, axis=None, kind="stable")
    ranks = np.empty(wanted.size)
    ranks[order] = np.arange(1, wanted.size + 1)
    return float((ranks[wanted.ravel()].sum() - inside * (inside + 1) / 2) / (inside * outside))
