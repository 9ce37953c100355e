"""Fusing draws and axes: who gets a voxel, how far the members differ, and what to label next."""

import numpy as np
import pytest

from InContextSegLib.examples.support import Label
from InContextSegLib.inference.aggregate import (
    AxisMaps,
    Canvas,
    Fused,
    fuse,
    in_blocks,
    most_worth_labelling,
    smooth,
)
from InContextSegLib.slices.plan import SlicePlan
from Testing.Library.fake_segmenter import grid

GRID = grid((4, 8, 8), (1.0, 1.0, 1.0))
ONE, TWO, BIG = Label(1, "one"), Label(2, "two"), Label(300, "big")


def maps_of(members, axis="axial", geometry=GRID, size=8):
    """Members (draws, labels): each a constant, or maps (n, size, size)."""
    plan = SlicePlan.of(geometry, axis, size)
    shape = (plan.count, size, size)
    stack = np.array([[np.broadcast_to(value, shape) for value in labels] for labels in members], np.float32)
    return AxisMaps(plan, stack.mean(axis=0), (stack**2).mean(axis=0))


def test_a_voxel_goes_to_the_most_probable_label_and_to_none_below_the_threshold():
    fused = fuse([maps_of([[0.6, 0.7]])], [ONE, TWO], 0.5, False)
    assert set(np.unique(fused.labels)) == {2}
    assert not fuse([maps_of([[0.4, 0.45]])], [ONE, TWO], 0.5, False).labels.any()


def test_the_first_of_two_equal_labels_keeps_the_voxel():
    assert set(np.unique(fuse([maps_of([[0.75, 0.75]])], [TWO, ONE], 0.5, False).labels)) == {2}


@pytest.mark.parametrize("probabilities", [[0.5, 0.25], [0.25, 0.5]])
def test_the_threshold_itself_is_enough_for_every_label(probabilities):
    winner = 1 + int(np.argmax(probabilities))
    assert set(np.unique(fuse([maps_of([probabilities])], [ONE, TWO], 0.5, False).labels)) == {winner}


def test_a_label_above_255_keeps_its_value():
    labels = fuse([maps_of([[0.9]])], [BIG], 0.5, False).labels
    assert (labels.dtype, set(np.unique(labels))) == (np.uint16, {300})


def test_the_spread_is_the_standard_deviation_over_the_draws_and_the_largest_of_the_labels():
    members = [[0.2, 0.5], [0.6, 0.6], [0.7, 0.4]]
    spread = fuse([maps_of(members)], [ONE, TWO], 0.5, False).spread
    np.testing.assert_allclose(spread, np.std([0.2, 0.6, 0.7]), atol=1e-5)


def test_the_spread_over_two_axes_is_the_standard_deviation_over_all_their_draws():
    fused = fuse([maps_of([[0.2], [0.4]]), maps_of([[0.9], [0.7]], "coronal")], [ONE], 0.5, True)
    np.testing.assert_allclose(fused.spread, np.std([0.2, 0.4, 0.9, 0.7]), atol=1e-5)
    np.testing.assert_allclose(fused.probabilities[1], 0.55, atol=1e-3)
    assert fused.probabilities[1].dtype == np.float16


def test_equal_members_have_no_spread_even_at_an_edge_between_coarse_pixels():
    edge = np.zeros((4, 8, 8), np.float32)
    edge[..., 4:] = 1
    fine = grid((4, 32, 32), (1.0, 0.25, 0.25))
    fused = fuse([maps_of([[edge], [edge]], geometry=fine)], [ONE], 0.5, True)
    between = fused.probabilities[1]
    assert ((between > 0.1) & (between < 0.9)).any()
    assert fused.spread.max() < 1e-3


def test_a_result_expects_of_itself_what_its_probabilities_say_inside_the_box():
    canvas = Canvas(GRID, [ONE, TWO], 0, ((0, 0, 0), (4, 8, 4)), members=1, keep_probabilities=False)
    canvas.add(fuse([maps_of([[0.8, 0.1]])], [ONE, TWO], 0.5, False, canvas.wanted(0, 4)), 0)
    count = 4 * 8 * 4
    assert canvas.soft_dice == {1: pytest.approx(2 * 0.8 * count / (count + 0.8 * count))}


def test_the_slice_worth_labelling_holds_most_doubt_away_from_labelled_ones():
    plan = SlicePlan.of(GRID, "axial", 8)
    unsettled = np.zeros(GRID.shape[0])
    unsettled[plan.slice_index(0)], unsettled[plan.slice_index(3)] = 2, 1
    assert most_worth_labelling(unsettled, plan, []) == plan.slice_index(0)
    assert most_worth_labelling(unsettled, plan, [1]) == plan.slice_index(3)
    assert most_worth_labelling(unsettled, plan, [1, 2]) == plan.slice_index(0)


def test_the_slice_worth_labelling_is_counted_as_stored_in_a_volume_from_superior_to_inferior():
    plan = SlicePlan.of(grid((4, 8, 8), left_handed=True), "axial", 8)
    unsettled = np.zeros(4)
    unsettled[3] = 1
    assert most_worth_labelling(unsettled, plan, []) == 3


def test_the_slice_worth_labelling_lies_inside_the_box():
    plan = SlicePlan.of(GRID, "axial", 8, ((1, 0, 0), (3, 8, 8)))
    unsettled = np.zeros(GRID.shape[0])
    unsettled[3], unsettled[2] = 9, 1
    assert most_worth_labelling(unsettled, plan, []) == 2


def test_nothing_is_left_outside_a_box():
    ones = np.ones((2, 4, 4), np.float32)
    canvas = Canvas(grid((4, 4, 4)), [ONE], 0, ((1, 1, 1), (3, 3, 4)), members=2, keep_probabilities=True)
    for first in (0, 2):
        canvas.add(Fused(ones.astype(np.uint8), ones / 2, ones, {1: ones}), first)
    for array in (canvas.labels, canvas.uncertainty.array / 100, canvas.probabilities[1]):
        assert array.sum() == 12
        assert (array[1:3, 1:3, 1:4] == 1).all()
    assert canvas.unsettled.tolist() == [0, 3, 3, 0]


def test_blocks_hold_every_slice_once_with_their_neighbours():
    maps = np.arange(11, dtype=np.float32)[:, None, None]
    runs = [(0, 2), (2, 6), (6, 10), (10, 11)]
    for least, halo in ((1, 0), (1, 3), (3, 1), (4, 2), (100, 3)):
        found, places = [], []
        for start, stop, window, before in in_blocks(runs, lambda run: maps[slice(*run)], least, halo):
            found += window[before : before + stop - start, 0, 0].tolist()
            places += range(start, stop)
            assert before == min(start, halo)
            assert window.shape[0] - before >= min(stop - start + halo, 11 - start)
        assert found == places == list(range(11))


def test_a_slice_that_contradicts_both_its_neighbours_gives_way_to_them():
    probabilities = np.full((1, 5, 4, 4), 0.9, np.float32)
    probabilities[0, 2, :2] = 0.4
    smooth(probabilities, step_mm=1.0)
    assert (probabilities > 0.5).all()


def test_slices_far_apart_are_left_as_they_are():
    probabilities = np.random.default_rng(0).random((2, 5, 4, 4), np.float32)
    before = probabilities.copy()
    smooth(probabilities, step_mm=10.0)
    np.testing.assert_array_equal(probabilities, before)


def test_where_a_label_is_nowhere_it_stays_so():
    probabilities = np.zeros((1, 5, 4, 4), np.float32)
    probabilities[0, :, 0, 0] = 0.8
    smooth(probabilities, step_mm=1.0)
    assert probabilities[0, :, 0, 0] == pytest.approx(0.8, abs=1e-3)
    assert not probabilities[0, :, 1:].any()
