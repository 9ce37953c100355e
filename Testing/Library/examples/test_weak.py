"""Weak references from masks one can see."""

import numpy as np
import pytest

from InContextSegLib.examples.weak import FAR_PX, KINDS, SCALE_PX, box, contour, points, scribble, weakened


def mask(*rows):
    return np.array([[c == "#" for c in row] for row in rows])


def rows(channel):
    return ["".join("#" if value else "." for value in row) for row in channel]


def disks(size=96):
    """Two disks, of radius 20 and 8."""
    y, x = np.indices((size, size))
    large, small = (y - 30) ** 2 + (x - 32) ** 2 <= 20**2, (y - 75) ** 2 + (x - 76) ** 2 <= 8**2
    return large, small


def distance_px(marked):
    """How far every pixel is from the nearest marked one."""
    y, x = np.indices(marked.shape)
    return np.min([np.hypot(y - row, x - column) for row, column in np.argwhere(marked)], axis=0)


def test_a_box_fills_the_rectangle_of_every_component():
    drawn = box(mask("#.......", "##......", "......#.", ".....#..", "....#..."))
    assert rows(drawn[0]) == ["##......", "##......", "....###.", "....###.", "....###."]
    assert drawn.shape == (1, 5, 8) and drawn.dtype == np.float32


def test_a_contour_is_a_pixel_on_either_side_of_the_border_and_says_nothing_of_the_inside():
    foreground, background = contour(mask(".........", ".........", "..#####..", "..#####..", "..#####..", "........."))
    assert rows(foreground) == [".........", ".#######.", ".#######.", ".##...##.", ".#######.", ".#######."]
    assert rows(background) == ["#########", "#.......#", "#.......#", "#.......#", "#.......#", "#.......#"]


def test_the_rim_of_the_image_is_no_border():
    foreground, background = contour(mask("####....", "####....", "####...."))
    assert rows(foreground) == ["...##...", "...##...", "...##..."]
    assert rows(background) == [".....###", ".....###", ".....###"]


@pytest.mark.parametrize("seed", range(5))
def test_every_component_gets_a_point_for_200_of_its_pixels_and_one_at_least(seed):
    large, small = disks()
    foreground, _ = points(large | small, np.random.default_rng(seed))
    assert large.sum() // 200 == 6 and small.sum() // 200 == 0
    # Nine pixels for each, unless two overlap.
    assert 9 < foreground[:60].sum() <= 6 * 9
    assert foreground[60:].sum() == 9


def test_points_lie_in_the_object_and_background_far_from_them():
    large, _ = disks()
    foreground, background = points(large, np.random.default_rng(1))
    y, x = np.nonzero(foreground)
    assert ((y - 30) ** 2 + (x - 32) ** 2 <= 22**2).all()
    distance = distance_px(foreground)
    assert not background[distance <= FAR_PX - 2].any()
    assert background[distance > FAR_PX].all()


def test_hardly_a_pixel_of_an_object_is_far_enough_from_its_points_to_pass_for_background():
    shares = [points(shape, np.random.default_rng(seed))[1][shape].mean() for seed in range(20) for shape in disks()]
    assert np.mean(shares) < 0.01


def test_a_scribble_is_surest_on_strokes_inside_every_component_and_fades_with_the_distance():
    large, small = disks()
    foreground, background = scribble(large | small, np.random.default_rng(3))
    for component in (large, small):
        assert (foreground[component] == 1).any()
    assert not (foreground[~(large | small)] == 1).any()
    assert not (background[large | small] == 1).any() and (background == 1).any()
    np.testing.assert_allclose(foreground, np.exp(-distance_px(foreground == 1) / SCALE_PX), rtol=1e-5)


def test_a_scribble_is_a_small_part_of_a_large_object():
    large, _ = disks()
    shares = [(scribble(large, np.random.default_rng(seed))[0] == 1)[large].mean() for seed in range(30)]
    assert 0.01 < np.median(shares) < 0.35


def test_an_object_of_one_pixel_is_marked_by_every_kind():
    lone = np.zeros((64, 64), bool)
    lone[40, 20] = True
    for seed in range(5):
        for kind in KINDS:
            assert weakened(kind, lone, np.random.default_rng(seed))[0, 40, 20] == 1, kind


def test_of_an_empty_mask_everything_may_be_background():
    empty = np.zeros((64, 64), bool)
    for kind in KINDS:
        drawn = weakened(kind, empty, np.random.default_rng(0))
        assert np.isfinite(drawn).all() and not drawn[0].any(), kind
        assert len(drawn) == 1 or drawn[1].any(), kind


def test_of_a_full_mask_everything_may_be_foreground():
    full = np.ones((64, 64), bool)
    for kind in KINDS:
        drawn = weakened(kind, full, np.random.default_rng(0))
        assert np.isfinite(drawn).all(), kind
        assert kind == "contour" or drawn[0].any(), kind
        assert len(drawn) == 1 or kind == "points" or not drawn[1].any(), kind


def test_the_same_generator_draws_the_same_and_another_one_something_else():
    large, small = disks()
    for kind in ("points", "scribble"):
        one, again, other = (weakened(kind, large | small, np.random.default_rng(seed)) for seed in (1, 1, 2))
        np.testing.assert_array_equal(one, again)
        assert (one != other).any()


def test_a_kind_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="asked for one of full, box, points, contour, scribble, got 'lasso'"):
        weakened("lasso", np.zeros((4, 4), bool), np.random.default_rng(0))
