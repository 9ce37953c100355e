"""Which patient an example is from, and a few examples instead of many."""

from collections.abc import Sequence

import numpy as np

from InContextSegLib.examples.support import Example, SupportSet


def origin(example: Example) -> str:
    """The picture or the volume that an example is from; slices add their axis and index to its name."""
    return example.source if example.position is None else example.source.rsplit(" ", 2)[0]


def units(support: SupportSet) -> tuple[str, ...]:
    """What every example is left out with: its picture or volume, so that no patient predicts the own slices.

    Where all examples are slices of one volume every slice is a unit, as the target then lies between them.
    """
    origins = tuple(origin(example) for example in support.examples)
    return origins if len(set(origins)) > 1 else tuple(example.source for example in support.examples)


def spread_evenly(indices: Sequence[int], count: int) -> list[int]:
    """At most `count` of them, evenly spread, the first and the last among them."""
    if not indices:
        return []
    return [indices[round(place)] for place in np.linspace(0, len(indices) - 1, min(count, len(indices)))]
