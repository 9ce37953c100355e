"""Carries a label from the slices that a user applied to those beside them, slice by slice, until it is unsure.

Every slice leans on the one before it, so uncertainties multiply: a slice is as sure as its own confidence
(`walk`) times that of all slices between it and the applied one. Neither alone tells much about a Dice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.special import expit

from InContextSegLib.errors import InputError
from InContextSegLib.inference.interactive import Answer
from InContextSegLib.inference.loop import Labelled, Loop
from InContextSegLib.inference.walk import confidence, walk
from InContextSegLib.progress import Report

# Measured (docs/benchmarks.md): of the slices carried on to, 79 % had a Dice of 0.8 or more (mean 0.85), and every
# fourth direction stopped where the next one was still that good; 0.7: 86 %, every second.
STOP_BELOW = 0.6

Reason = Literal["unsure", "ended", "range"]


@dataclass(frozen=True)
class Rule:
    """When to go on.

    Attributes:
        threshold: probability from which a voxel belongs to the label.
        stop_below: how sure a slice has to be, from 0 to 1.
        supports: applied slices and other examples to stand beside every slice, besides the two slices before it.

    Raises:
        InputError: if a number is out of its range.
    """

    threshold: float = 0.5
    stop_below: float = STOP_BELOW
    supports: int = 4

    def __post_init__(self) -> None:
        for name in ("threshold", "stop_below"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}: asked for a number from 0 to 1, got {getattr(self, name)}.")
        if self.supports < 1:
            raise InputError(f"supports: asked for at least 1, got {self.supports}.")


@dataclass(frozen=True, eq=False)
class Carried:
    """Slices that were reached, by number, and why it stopped on the far sides, toward lower and higher numbers."""

    answers: dict[int, Answer] = field(default_factory=dict)
    confidence: dict[int, float] = field(default_factory=dict)
    stopped: dict[int, Reason] = field(default_factory=dict)


def carried(
    loop: Loop, start: Sequence[int] | None, limits: Sequence[int] | None, rule: Rule, report: Report
) -> Carried:
    """Walk away from applied slices, every slice seeing examples and the slices that were done before it.

    A direction ends at a slice that is unsure, which is left to the user, and at one that holds nothing.

    Args:
        start: numbers of the applied slices to start from; None: all of them.
        limits: the first and the last number to go to.

    Raises:
        InputError: if one to start from was not applied, or none was.
        Cancelled: from `report`.
    """
    sources = sorted(number for number, each in loop.applied.items() if each.extent)
    begin = set(sources if start is None else start)
    if not begin or not begin <= set(sources):
        wanted = ", ".join(str(loop.cut.plan.slice_index(number)) for number in sorted(begin))
        where = f" from slice {wanted}, where it was not applied" if wanted else ", but it was applied on no slice"
        raise InputError(f"The label was to be carried on{where}; apply a slice first.")
    first, last = limits or (0, loop.cut.plan.count - 1)
    found, done, ended = Carried(), {}, {}
    for count, step in enumerate(walk(loop.cut.plan.count, sources)):
        report.step(count, loop.cut.plan.count, f"slice {loop.cut.plan.slice_index(step.number)}")
        if not step.behind:
            continue
        source = min(sources, key=lambda each, here=step.number: (abs(each - here), each))
        side = int(np.sign(step.number - source))
        if source not in begin or not first <= step.number <= last or (source, side) in ended:
            continue
        if step.number in loop.applied:
            ended[source, side] = "ended"  # nothing is drawn there
            continue
        behind = [done[number] for number in step.behind if number in done]
        answer, sure = _one(loop, step.number, [*loop.chosen(step.number, rule.supports), *behind])
        sure *= found.confidence.get(step.behind[0], 1.0)
        mask = answer.mask(rule.threshold)
        if not mask.any() or sure < rule.stop_below:
            ended[source, side] = "unsure" if mask.any() else "ended"
            continue
        found.answers[step.number], found.confidence[step.number] = answer, sure
        done[step.number] = loop.labelled(step.number, mask)
    # What ended between two applied slices is seen by what is missing there.
    for side, outermost in ((-1, min(begin)), (1, max(begin))):
        found.stopped[side] = ended.get((outermost, side), "range")
    return found


def _one(loop: Loop, number: int, chosen: Sequence[Labelled]) -> tuple[Answer, float]:
    answer = loop.opening(number, chosen)
    if answer is None:
        return Answer(np.zeros((loop.cut.plan.size,) * 2), np.zeros(loop.slice(number, None).geometry.shape)), 1.0
    return answer, confidence(expit(answer.logits))
