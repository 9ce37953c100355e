"""What to expect: examples left out in turn, by whole pictures and volumes."""

import math

import numpy as np
import pytest
import torch

from InContextSegLib.adaptation.expectation import SLICES, Trial, expected, in_turns, scores_of, to_try, tried
from InContextSegLib.adaptation.leave_out import (
    THRESHOLDS,
    LeaveOut,
    best_threshold,
    dice,
    shift_of,
    soft_overlap,
    threshold_of,
)
from InContextSegLib.examples.origins import spread_evenly, units
from InContextSegLib.examples.support import SupportSet
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.progress import Report
from Testing.Library.fake_segmenter import LABEL, Learner, square, squares


def leaving(support):
    return LeaveOut(support, support, units(support))


def volume_slices(volumes, each, showing=lambda number: True):
    examples = [
        square(n, value=1 if showing(n) else 2, position=n / each, source=f"case{v}.nii.gz axial {n}")
        for v in range(volumes)
        for n in range(each)
    ]
    return SupportSet(tuple(examples), (LABEL,), "axial", examples[0].image.shape[0])


def trial(unit, common, total, separation=1.0, soft=(0, 0)):
    overlap = np.array([[common] * len(THRESHOLDS), [total] * len(THRESHOLDS)], float)
    return Trial(1, 0, unit, overlap, np.array([[each] * len(THRESHOLDS) for each in soft], float), separation)


def test_few_pictures_are_all_tried():
    assert sorted(to_try(leaving(squares(7)), 1)) == list(range(7))


def test_of_many_slices_some_of_every_volume_are_tried():
    support = volume_slices(2, 40)
    chosen = to_try(leaving(support), 1)
    assert len(chosen) == 2 * SLICES and {index // 40 for index in chosen} == {0, 1}


@pytest.mark.parametrize("volumes", [2, 7, 9, 20])
def test_slices_from_the_middle_of_the_structure_are_tried_however_many_volumes_there_are(volumes):
    """The structure lies in the middle third; the first and the last slice say nothing about it."""
    support = volume_slices(volumes, 30, showing=lambda number: 10 <= number < 20)
    chosen = to_try(leaving(support), 1)
    showing = [index for index in chosen if 10 <= index % 30 < 20]
    assert len(showing) >= len(chosen) / 2
    assert len({index // 30 for index in showing}) >= min(volumes, 8)
    assert 0 not in {index % 30 for index in chosen}


def test_the_first_few_tried_are_of_different_volumes():
    chosen = to_try(leaving(volume_slices(4, 40)), 1)
    assert len({index // 40 for index in chosen[:4]}) == 4


def test_of_many_pictures_no_more_than_asked_for_are_tried():
    assert len(to_try(leaving(squares(30)), 1, at_most=5)) == 5


def test_a_label_that_one_volume_alone_shows_cannot_be_tried():
    assert sorted(to_try(leaving(volume_slices(1, 5)), 1)) == [0, 1, 2, 3, 4]  # its slices predict one another
    examples = [square(n, value=1 if n == 0 else 2) for n in range(5)]
    support = SupportSet(tuple(examples), (LABEL,), "axial", examples[0].image.shape[0])
    assert to_try(leaving(support), 1) == []


def test_a_rare_label_is_tried_where_it_is_shown():
    support = volume_slices(4, 40, showing=lambda number: number == 21)
    leave = leaving(support)
    assert all((leave.support.examples[index].labels == 1).any() for index in to_try(leave, 1, at_most=4))


def test_the_slices_of_a_volume_count_together():
    trials = [trial("a", 0, 10), trial("a", 90, 90), trial("b", 100, 100)]
    assert scores_of(trials, 1)[:, 0].tolist() == [0.9, 1.0]
    one = expected(trials, 1, 0.0)
    assert (one.dice, one.units) == (pytest.approx(0.95), 2)
    assert one.spread == pytest.approx(np.std([0.9, 1.0], ddof=1))


def test_examples_left_out_tell_how_sure_answers_usually_are_where_they_found_something():
    trials = [trial("a", 5, 10, soft=(4, 10)), trial("a", 5, 10, soft=(4, 6)), trial("b", 5, 10, soft=(9, 10))]
    assert expected(trials, 1, 0.0).soft == pytest.approx((8 / 16 + 0.9) / 2)
    assert expected([*trials, trial("c", 0, 10, soft=(0, 3))], 1, 0.0).soft == pytest.approx((8 / 16 + 0.9) / 2)
    assert expected([trial("a", 0, 10)], 1, 0.0).soft is None


def test_the_soft_overlap_is_that_of_the_probabilities_at_every_threshold():
    logits = np.array([[np.log(4), -np.log(4)]])  # 0.8 and 0.2
    common, total = soft_overlap(logits)
    assert (common[0], total[0]) == (pytest.approx(1.6), pytest.approx(2.0))
    assert THRESHOLDS[4] == 0.1 and common[4] == pytest.approx(2 * (36 / 37 + 9 / 13))  # odds nine times as large
    assert soft_overlap(None).tolist() == [[0.0] * len(THRESHOLDS)] * 2


def test_a_single_unit_has_no_spread():
    assert math.isnan(expected([trial("a", 5, 10)], 1, 0.0).spread)


def test_two_empty_masks_agree():
    assert dice(np.array([[0.0, 0.0], [0.0, 4.0]])).tolist() == [1.0, 0.0]


def test_a_shift_and_its_threshold_belong_together():
    for number in range(len(THRESHOLDS)):
        assert threshold_of(shift_of(number)) == number
    assert shift_of(0) == 0.0


def test_another_threshold_has_to_be_worth_it():
    assert best_threshold(np.array([0.5, 0.51, 0.4])) == 0
    assert best_threshold(np.array([0.5, 0.6, 0.4])) == 1


def test_a_right_answer_separates_the_label_from_the_rest_and_is_asked_of_the_network_named():
    support, asked = squares(4), []
    networks = {index: CachedSegmenter(Learner(0.3), torch.device("cpu")) for index in range(4)}

    def network_for(index):
        asked.append(index)
        return networks[index]

    trials = tried(network_for, leaving(support), [(1, 0), (1, 2)], 2, Report())
    assert asked == [0, 2]
    assert [each.separation for each in trials] == pytest.approx([1.0, 1.0], abs=1e-6) or trials[0].separation > 0.9
    assert all(dice(each.overlap)[0] == 1.0 for each in trials)


def test_behind_the_deadline_one_is_tried_and_no_more():
    network = CachedSegmenter(Learner(0.3), torch.device("cpu"))
    trials = tried(lambda index: network, leaving(squares(4)), [(1, 0), (1, 1)], 2, Report(), deadline=0.0)
    assert [each.index for each in trials] == [0]


def test_labels_take_turns():
    assert in_turns({1: [0, 1, 2], 2: [], 3: [5]}) == [(1, 0), (3, 5), (1, 1), (1, 2)]


def test_spread_evenly_keeps_both_ends():
    assert spread_evenly(list(range(10)), 3) == [0, 4, 9]
    assert spread_evenly([], 3) == []


def test_an_example_is_ranked_against_the_other_units_once():
    leave = leaving(volume_slices(2, 3))
    assert set(leave.others(0)) == {3, 4, 5}
    assert leave.others(0) is leave.others(0)
