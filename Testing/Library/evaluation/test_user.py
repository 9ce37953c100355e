"""The simulated user: a click lands where a careful person would put it, and says what is true there."""

import numpy as np
import pytest

from InContextSegLib.evaluation.user import Click, correcting_click, jittered_box, random_click

MM = (3.0, 1.0, 1.0)


def slice_of(*boxes, shape=(1, 40, 40)):
    """A slice with rectangles (rows, columns) of the structure."""
    mask = np.zeros(shape, bool)
    for rows, columns in boxes:
        mask[:, slice(*rows), slice(*columns)] = True
    return mask


def test_a_missed_object_is_clicked_at_its_centre():
    truth = slice_of(((10, 21), (5, 16)))
    assert correcting_click(np.zeros_like(truth), truth, MM) == Click((0, 15, 10), True)


def test_what_is_not_there_gets_a_negative_click():
    truth, guess = slice_of(((10, 20), (5, 15))), slice_of(((10, 20), (5, 15)), ((25, 36), (25, 36)))
    assert correcting_click(guess, truth, MM) == Click((0, 30, 30), False)


def test_the_largest_of_several_faults_is_corrected_first():
    truth = slice_of(((2, 5), (2, 5)), ((20, 29), (20, 29)))
    guess = slice_of(((33, 39), (2, 8)))
    assert correcting_click(guess, truth, MM) == Click((0, 24, 24), True)
    assert not correcting_click(guess | slice_of(((20, 29), (20, 29))), truth, MM).positive


def test_of_equal_faults_the_missed_one_comes_first():
    truth, guess = slice_of(((2, 7), (2, 7))), slice_of(((20, 25), (20, 25)))
    assert correcting_click(guess, truth, MM) == Click((0, 4, 4), True)


def test_a_right_answer_needs_no_click():
    truth = slice_of(((2, 7), (2, 7)))
    assert correcting_click(truth, truth, MM) is None
    assert correcting_click(np.zeros_like(truth), np.zeros_like(truth), MM) is None


def test_the_centre_of_a_crescent_lies_on_it():
    rows, columns = np.ogrid[:40, :40]
    radius = np.hypot(rows - 20, columns - 20)
    truth = ((radius < 18) & (radius > 12) & (columns < 22))[None]
    click = correcting_click(np.zeros_like(truth), truth, MM)
    assert truth[click.index_kji]
    assert radius[click.index_kji[1:]] == pytest.approx(15, abs=1)


@pytest.mark.parametrize("thickness", [1, 2])
def test_a_thin_line_is_clicked_in_its_middle(thickness):
    truth = slice_of(((10, 10 + thickness), (3, 34)))
    assert correcting_click(np.zeros_like(truth), truth, MM).index_kji == (0, 10, 18)


def test_depth_is_measured_in_millimetres():
    # Joined: a low, wide part and a high, narrow one; with rows of 5 mm the first is the deeper.
    truth = slice_of(((8, 13), (2, 17)), ((5, 16), (25, 34)), ((10, 11), (2, 34)))
    columns = [correcting_click(np.zeros_like(truth), truth, (1.0, row_mm, 1.0)).index_kji[2] for row_mm in (1.0, 5.0)]
    assert columns == [29, 9]


def test_an_object_at_the_border_ends_there():
    truth = slice_of(((0, 9), (0, 9)))
    assert correcting_click(np.zeros_like(truth), truth, MM).index_kji == (0, 4, 4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_across_any_axis_is_a_slice(axis):
    flat = slice_of(((10, 21), (5, 16)))[0]
    truth = np.expand_dims(flat, axis)
    wanted = [15, 10]
    wanted.insert(axis, 0)
    assert correcting_click(np.zeros_like(truth), truth, (1.0, 1.0, 1.0)).index_kji == tuple(wanted)


def test_a_random_click_is_anywhere_on_the_structure(generator):
    truth = slice_of(((10, 14), (5, 8)), ((30, 32), (30, 31)))
    clicks = [random_click(truth, generator) for _ in range(300)]
    assert all(click.positive for click in clicks)
    assert {click.index_kji for click in clicks} == set(map(tuple, np.argwhere(truth).tolist()))


def test_the_same_seed_clicks_the_same():
    truth = slice_of(((10, 30), (5, 28)))
    first, again, other = (random_click(truth, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_a_box_lies_about_the_structure_off_by_a_tenth_at_most(generator):
    truth = slice_of(((10, 30), (5, 25)), ((30, 35), (24, 25)))
    lows, highs = (np.array(ends) for ends in zip(*(jittered_box(truth, generator) for _ in range(200)), strict=True))
    for ends, exact in ((lows, (0, 10, 5)), (highs, (0, 34, 24))):
        assert (np.abs(ends - exact) <= (0, 2.5, 2)).all()
        assert (np.ptp(ends, axis=0)[1:] > 3).all()


def test_a_box_stays_inside_the_image(generator):
    truth = np.ones((1, 40, 40), bool)
    for _ in range(50):
        low, high = jittered_box(truth, generator, 0.5)
        assert (low >= 0).all() and (high <= (0, 39, 39)).all()
