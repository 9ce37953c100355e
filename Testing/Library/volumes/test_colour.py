"""Colours as one grey value."""

import numpy as np
import pytest

from InContextSegLib.errors import InputError
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.volumes.colour import LUMINANCE, ColourMix

RED_AGAINST_GREEN = ColourMix((0.5, -0.5, 0.0), "asked for")


def fundus():
    """A reddish field of view with an olive line, round it black with the noise that JPEG leaves."""
    picture = np.random.default_rng(0).integers(0, 4, (40, 40, 3)).astype(np.uint8)
    picture[8:32, 8:32] = (120, 60, 30)
    picture[8:32, 20] = (80, 75, 30)
    return picture


def test_without_a_negative_weight_grey_is_the_weighted_sum():
    colours = np.random.default_rng(0).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    np.testing.assert_allclose(LUMINANCE.grey(colours), colours @ np.array([0.2126, 0.7152, 0.0722]), rtol=1e-5)
    np.testing.assert_array_equal(ColourMix((0.0, 1.0, 0.0), "green").grey(colours), colours[..., 1])


def test_no_grey_is_negative_and_the_colours_keep_their_distances():
    colours = np.full((10, 10, 3), 100, np.uint8)
    colours[:3], colours[3:6] = (200, 100, 0), (100, 200, 0)
    grey = RED_AGAINST_GREEN.grey(colours)
    assert grey.dtype == np.float32
    assert (grey[0, 0], grey[4, 0], grey[8, 0]) == (100, 0, 50)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_black_round_a_field_of_view_stays_dark(sign):
    mix = ColourMix((0.4 * sign, -0.6 * sign, 0.0), "asked for")
    picture = fundus()
    field = np.zeros((40, 40), bool)
    field[8:32, 8:32] = True
    grey = mix.grey(picture)
    scaled = Intensities().of(grey).apply(grey)
    assert scaled[~field].mean() < 0.1
    assert abs(scaled[10, 20] - scaled[10, 10]) > 0.8


def test_exact_black_is_zero_so_that_it_does_not_count_for_the_scale():
    picture = fundus()
    picture[:4] = 0
    assert not RED_AGAINST_GREEN.grey(picture)[:4].any()
    assert not RED_AGAINST_GREEN.grey(np.zeros((4, 4, 3), np.uint8)).any()


def test_sixteen_bits_and_fractions_give_the_same_picture_as_eight():
    eight = fundus()
    expected = RED_AGAINST_GREEN.grey(eight)
    np.testing.assert_allclose(RED_AGAINST_GREEN.grey(eight.astype(np.uint16) * 257) / 257, expected, atol=1e-3)
    np.testing.assert_allclose(RED_AGAINST_GREEN.grey(eight / np.float32(255)) * 255, expected, atol=1e-3)


def test_a_colour_that_is_not_a_number_spoils_no_other():
    colours = fundus().astype(np.float32)
    colours[10, 10] = np.nan
    grey = RED_AGAINST_GREEN.grey(colours)
    assert np.argwhere(np.isnan(grey)).tolist() == [[10, 10]]


@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (float("nan"), 1.0, 0.0), (1.0, float("inf"), 0.0)])
def test_weights_that_make_no_grey_are_refused(weights):
    with pytest.raises(InputError, match="three finite weights, not all of them zero"):
        ColourMix(weights, "asked for")
