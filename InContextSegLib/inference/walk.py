"""The order in which slices are walked through, away from what is known (arXiv 2412.13299)."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

POSSIBLE = 0.1
NEIGHBOURS = 2


@dataclass(frozen=True)
class Step:
    """One slice to segment, and the slices behind it (nearest first) whose predictions may join the examples."""

    number: int
    behind: tuple[int, ...]


def walk(count: int, known: Collection[int]) -> list[Step]:
    """Steps over all `count` slices, nearest to a known slice first; the known ones lean on nothing."""
    start = np.asarray(sorted(known))
    distance = np.abs(np.arange(count)[:, None] - start)
    nearest = start[distance.argmin(axis=1)]
    steps = []
    for number in np.argsort(distance.min(axis=1), kind="stable").tolist():
        toward = int(np.sign(nearest[number] - number))
        reach = min(NEIGHBOURS, abs(int(nearest[number]) - number))
        steps.append(Step(number, tuple(number + toward * n for n in range(1, reach + 1))))
    return steps


def confidence(probability: Float[np.ndarray, "h w"]) -> float:
    """How decided a predicted slice is: mean |2p - 1| where the label is possible, 1 where it is nowhere."""
    possible = probability > POSSIBLE
    return float(np.abs(2 * probability[possible] - 1).mean()) if possible.any() else 1.0
