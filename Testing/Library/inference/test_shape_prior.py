"""What labelled slices of a volume say of the shape between them."""

import numpy as np
import pytest

from InContextSegLib.inference.shape_prior import ShapePrior

SIDE = 64


def disc(radius, row=32, column=32):
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def test_between_two_discs_lies_one_of_the_radius_between():
    prior = ShapePrior({0: disc(6), 8: disc(18)})
    for place, radius in ((0, 6), (2, 9), (4, 12), (6, 15), (8, 18)):
        found = prior.logits(place) > 0
        assert abs(np.sqrt(found.sum() / np.pi) - radius) < 0.6


def test_between_two_places_lies_one_on_the_way_where_they_overlap():
    found = ShapePrior({0: disc(12, column=28), 4: disc(12, column=36)}).logits(2) > 0
    assert abs(np.argwhere(found)[:, 1].mean() - 32) < 0.5


@pytest.mark.parametrize("place", [-1, 9])
def test_beyond_the_outermost_it_says_nothing(place):
    assert ShapePrior({0: disc(6), 8: disc(9)}).logits(place) is None


def test_a_single_slice_says_nothing_of_others():
    assert ShapePrior({3: disc(6)}).logits(4) is None
    assert ShapePrior({3: disc(6), 7: disc(0) & False}).logits(4) is None


def test_where_slices_between_are_empty_it_ends_half_way_to_them():
    nothing = np.zeros((SIDE, SIDE), bool)
    prior = ShapePrior({0: disc(10), 8: nothing, 12: nothing, 20: disc(10)})
    there = [bool((prior.logits(place) > 0).any()) for place in range(21)]
    assert there == [place <= 3 or place >= 17 for place in range(21)]


def test_where_the_outline_stays_it_is_surer_than_where_it_moves():
    still, moving = ShapePrior({0: disc(11), 4: disc(13)}), ShapePrior({0: disc(6), 4: disc(18)})
    assert still.logits(2)[32, 32] > 3 * moving.logits(2)[32, 32] > 0


def test_logits_do_not_depend_on_the_size_of_the_picture():
    large = ShapePrior({0: np.kron(disc(9), np.ones((2, 2), bool)), 4: np.kron(disc(15), np.ones((2, 2), bool))})
    small = ShapePrior({0: disc(9), 4: disc(15)})
    assert np.abs(large.logits(2)[::2, ::2] - small.logits(2)).max() < 0.1 * np.abs(small.logits(2)).max()


def test_without_a_slice_it_is_told_by_the_others():
    prior = ShapePrior({0: disc(6), 4: disc(2), 8: disc(18)})
    assert abs(np.sqrt((prior.without(4).logits(4) > 0).sum() / np.pi) - 12) < 0.6


def test_with_a_network_both_say_what_lies_between():
    prior, network = ShapePrior({0: disc(6), 8: disc(18)}), np.where(disc(14), 4.0, -4.0)
    np.testing.assert_allclose(prior.joined(4, network, 1.0), network + prior.logits(4))
    np.testing.assert_allclose(prior.joined(4, None, 1.0), prior.logits(4))


def test_beyond_the_outermost_a_structure_narrows_however_sure_the_network_is():
    prior, everywhere = ShapePrior({0: disc(6), 8: disc(12)}), np.full((SIDE, SIDE), 50.0)
    radii = [np.sqrt((prior.joined(8 + beyond, everywhere, 2.0) > 0).sum() / np.pi) for beyond in (1, 3, 5)]
    np.testing.assert_allclose(radii, [10, 6, 2], atol=0.7)
    assert not (prior.joined(8 + 7, everywhere, 2.0) > 0).any()


def test_beyond_the_outermost_nothing_is_where_the_network_sees_nothing():
    prior, nowhere = ShapePrior({0: disc(6), 8: disc(12)}), np.full((SIDE, SIDE), -1.0)
    assert (prior.joined(9, nowhere, 0.1) < 0).all()
    assert prior.joined(9, None, 0.1) is None


def test_a_structure_may_be_let_go_on_without_an_end():
    prior, everywhere = ShapePrior({0: disc(6), 8: disc(12)}), np.full((SIDE, SIDE), 50.0)
    np.testing.assert_array_equal(prior.joined(30, everywhere, None), everywhere)


def test_of_one_labelled_slice_a_structure_goes_on_as_the_network_sees_it():
    network = np.where(disc(14), 4.0, -4.0)
    np.testing.assert_array_equal(ShapePrior({3: disc(6)}).joined(20, network, 5.0), network)


def test_where_a_structure_moves_by_more_than_its_width_the_network_decides():
    prior, network = ShapePrior({0: disc(5, column=15), 8: disc(5, column=45)}), np.where(disc(5), 3.0, -3.0)
    np.testing.assert_array_equal(prior.joined(4, network, 1.0), network)


@pytest.mark.parametrize("step", [1.0, None])
def test_beyond_a_slice_that_tells_that_it_is_not_there_it_is_nowhere(step):
    nothing, everywhere = np.zeros((SIDE, SIDE), bool), np.full((SIDE, SIDE), 9.0)
    prior = ShapePrior({0: disc(12), 4: disc(10), 8: nothing})
    assert (prior.joined(5, everywhere, step) > 0).any()
    for place in (8, 9, 30):
        assert not (prior.joined(place, everywhere, step) > 0).any()


def test_a_structure_that_fills_the_picture_ends_at_its_border():
    full = np.ones((SIDE, SIDE), bool)
    found = ShapePrior({0: full, 4: full}).joined(4 + 10, np.full((SIDE, SIDE), 50.0), 1.0) > 0
    assert found[32, 32] and not found[0].any() and not found[:, -1].any()
