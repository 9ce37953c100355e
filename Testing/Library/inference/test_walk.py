"""The walk through a volume, and the memory of computed values."""

from dataclasses import dataclass

import numpy as np
import pytest

from InContextSegLib.inference.cached import BoundedCache
from InContextSegLib.inference.walk import Step, confidence, walk


def test_the_walk_starts_at_the_known_slices_and_leans_on_what_lies_behind():
    assert walk(5, [2]) == [Step(2, ()), Step(1, (2,)), Step(3, (2,)), Step(0, (1, 2)), Step(4, (3, 2))]


def test_between_two_known_slices_each_side_leans_on_its_nearer_one():
    steps = {step.number: step.behind for step in walk(7, [0, 6])}
    assert steps[2] == (1, 0)
    assert steps[4] == (5, 6)


def test_every_slice_is_walked_once_and_never_before_what_it_leans_on():
    for known in ([0], [9], [3, 4], [1, 8]):
        seen = set()
        for step in walk(10, known):
            assert set(step.behind) <= seen
            seen.add(step.number)
        assert seen == set(range(10))


def test_a_decided_slice_is_confident_and_an_undecided_one_is_not():
    decided, undecided = np.zeros((4, 4)), np.full((4, 4), 0.5)
    decided[1:3, 1:3] = 1
    assert confidence(decided) == 1
    assert confidence(undecided) == 0
    assert confidence(np.zeros((4, 4))) == 1


@dataclass
class Thing:
    size_bytes: int


def test_the_cache_forgets_the_least_recently_used_when_full():
    cache, computed = BoundedCache(10), []

    def get(key, size):
        return cache.get(key, lambda: computed.append(key) or Thing(size))

    get("a", 4), get("b", 4), get("a", 4), get("c", 4), get("a", 4), get("b", 4)
    assert computed == ["a", "b", "c", "b"]
    assert cache.used_bytes <= 10


def test_a_value_larger_than_the_budget_is_handed_over_and_not_kept():
    cache = BoundedCache(10)
    assert cache.get("big", lambda: Thing(11)).size_bytes == 11
    assert cache.used_bytes == 0
    with pytest.raises(KeyError):
        cache.get("big", lambda: {}["missing"])
