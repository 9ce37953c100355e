"""Prompts: what is said at a place in the patient marks the pixels that show that place, on that slice alone."""

import numpy as np
import pytest

from InContextSegLib.errors import InputError
from InContextSegLib.slices.plan import AXES, SlicePlan
from InContextSegLib.slices.prompts import BoxPrompt, Point, Prompts, Scribble, rasters
from Testing.Library.fake_segmenter import grid

SIZE = 48
GRIDS = {
    "straight": grid((6, 24, 24)),
    "oblique": grid((20, 26, 30), (2.0, 1.5, 0.8), turned=True),
    "oblique and left-handed": grid((20, 26, 30), (2.0, 1.5, 0.8), turned=True, left_handed=True),
}
DISK = [1, 2, 2, 2, 1]  # half widths of the rows of a click


def plan_of(geometry, axis="axial", size=SIZE):
    return SlicePlan.of(geometry, axis, size)


def at(geometry, index_kji):
    return tuple(geometry.to_world(np.array(index_kji, float)).tolist())


def nearest_pixel(plan, index_kji):
    return tuple(np.floor(plan.place(np.array(index_kji, float)) + 0.5).astype(int).tolist())


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("name", GRIDS)
def test_a_click_marks_a_disk_about_the_pixel_that_shows_its_voxel(name, axis, generator):
    geometry = GRIDS[name]
    plan = plan_of(geometry, axis)
    for index in generator.integers(0, geometry.shape, (20, 3)):
        number, row, column = nearest_pixel(plan, index)
        marked = rasters(Prompts().adding(Point(at(geometry, index))), plan, number)
        wanted = np.zeros((SIZE, SIZE), np.float32)
        for step, half in zip(range(-2, 3), DISK, strict=True):
            if 0 <= row + step < SIZE:
                wanted[row + step, max(column - half, 0) : column + half + 1] = 1
        np.testing.assert_array_equal(marked[0], wanted)
        assert not marked[1:].any()


def test_a_click_at_the_border_of_a_voxel_stays_on_its_slice():
    geometry = GRIDS["oblique"]
    plan = plan_of(geometry)
    for offset, expected in ((-0.49, 7), (0.49, 7), (0.51, 8)):
        prompts = Prompts().adding(Point(at(geometry, (7 + offset, 10, 10))))
        assert [n for n in range(plan.count) if rasters(prompts, plan, n).any()] == [expected]


def test_positive_and_negative_clicks_have_channels_of_their_own():
    geometry = GRIDS["straight"]
    plan = plan_of(geometry)
    prompts = Prompts().adding(Point(at(geometry, (2, 5, 5))), Point(at(geometry, (2, 18, 18)), positive=False))
    positive, negative, box = rasters(prompts, plan, 2)
    assert positive.sum() == negative.sum() == 21
    assert not (positive * negative).any() and not box.any()


def test_clicks_on_the_outermost_voxels_count_and_those_beyond_are_refused():
    geometry = GRIDS["oblique"]
    plan = plan_of(geometry)
    for corner in ((0, 0, 0), (19, 25, 29)):
        number = nearest_pixel(plan, corner)[0]
        towards = np.sign(np.array(corner) - 5) * 0.499
        assert rasters(Prompts((Point(at(geometry, np.array(corner) + towards)),)), plan, number)[0].any()
        for axis in range(3):
            beyond = np.array(corner, float)
            beyond[axis] += towards[axis] * 1.01
            with pytest.raises(InputError, match="outside the image's voxels"):
                rasters(Prompts((Point(at(geometry, beyond)),)), plan, number)


def test_a_click_beside_the_part_that_is_cut_is_refused():
    geometry = GRIDS["straight"]
    plan = SlicePlan.of(geometry, "axial", SIZE, ((1, 4, 4), (3, 20, 20)))
    with pytest.raises(InputError, match="outside the image's voxels"):
        rasters(Prompts((Point(at(geometry, (2, 2, 10))),)), plan, 1)
    # On a slice that is not cut it merely does not count.
    assert not rasters(Prompts((Point(at(geometry, (5, 10, 10))),)), plan, 1).any()


@pytest.mark.parametrize("name", GRIDS)
def test_a_box_is_filled_between_its_corners_whichever_they_are(name):
    geometry = GRIDS[name]
    plan = plan_of(geometry)
    one, other = (4, 6, 7), (4, 15, 19)
    number, *_ = nearest_pixel(plan, one)
    places = np.sort(plan.place(np.array([one, other], float))[:, 1:], axis=0)
    rows, columns = np.ogrid[:SIZE, :SIZE]
    (top, left), (bottom, right) = places
    wanted = (rows >= top - 1e-6) & (rows <= bottom + 1e-6) & (columns >= left - 1e-6) & (columns <= right + 1e-6)
    for corners in ((one, other), (other, one), ((4, 15, 7), (4, 6, 19))):
        prompts = Prompts().adding(BoxPrompt(*(at(geometry, corner) for corner in corners)))
        np.testing.assert_array_equal(rasters(prompts, plan, number)[2], wanted)
        assert not rasters(prompts, plan, number)[:2].any()
        assert not rasters(prompts, plan, number + 1).any()


def test_a_box_across_slices_counts_on_all_of_them():
    geometry = GRIDS["straight"]
    prompts = Prompts().adding(BoxPrompt(at(geometry, (1, 6, 7)), at(geometry, (3, 15, 19))))
    plan = plan_of(geometry)
    assert [n for n in range(plan.count) if rasters(prompts, plan, n)[2].any()] == [1, 2, 3]


def test_boxes_are_united_and_the_smallest_marks_a_pixel():
    geometry = GRIDS["straight"]
    tiny = BoxPrompt(at(geometry, (2, 3.1, 3.1)), at(geometry, (2, 3.15, 3.15)))
    far = BoxPrompt(at(geometry, (2, 15, 15)), at(geometry, (2, 18, 18)))
    plan = plan_of(geometry)
    alone, both = (rasters(Prompts().adding(*boxes), plan, 2)[2] for boxes in ([tiny], [tiny, far]))
    assert alone.sum() == 1
    assert (both >= alone).all() and both.sum() > 30


def test_a_box_is_cut_at_the_border_of_the_image_and_refused_beyond():
    geometry = GRIDS["straight"]
    plan = plan_of(geometry)
    over = BoxPrompt(at(geometry, (2, -9, 5)), at(geometry, (2, 3, 8)))
    channel = rasters(Prompts().adding(over), plan, 2)[2]
    assert channel[0].any() and channel.sum() == 7 * 6
    beyond = BoxPrompt(at(geometry, (2, -9, 5)), at(geometry, (2, -2, 8)))
    with pytest.raises(InputError, match=r"A box from .* lies outside the image"):
        rasters(Prompts().adding(beyond), plan, 2)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("size", [16, 48])
@pytest.mark.parametrize("name", GRIDS)
def test_a_scribble_marks_every_pixel_that_shows_it_and_no_other(name, size, axis, generator):
    geometry = GRIDS[name]
    plan = plan_of(geometry, axis, size)
    mask = generator.random((3, 4, 5)) < 0.4
    corner = (1, 7, 9)
    prompts = Prompts().adding(Scribble(mask, corner, positive=False))
    painted = np.zeros(geometry.shape, bool)
    painted[1:4, 7:11, 9:14] = mask
    shown = np.array([nearest_pixel(plan, voxel) for voxel in np.argwhere(painted)])
    covered = np.argwhere(plan.coverage)
    for number in range(plan.count):
        positive, marked, box = rasters(prompts, plan, number)
        assert not positive.any() and not box.any()
        wanted = np.zeros((size, size), bool)
        wanted[tuple(shown[shown[:, 0] == number, 1:].T)] = True
        voxels = np.floor(plan.locate(np.insert(covered, 0, number, axis=1)) + 0.5 + 1e-6).astype(int)
        wanted[tuple(covered.T)] |= painted[tuple(voxels.T)]
        np.testing.assert_array_equal(marked.astype(bool), wanted)


def test_a_scribble_beyond_the_image_is_refused():
    prompts = Prompts().adding(Scribble(np.ones((1, 3, 3), bool), (2, 22, 5)))
    with pytest.raises(InputError, match=r"A scribble reaches from voxel \(2, 22, 5\) to \(2, 24, 7\)"):
        rasters(prompts, plan_of(GRIDS["straight"]), 2)


def test_an_empty_scribble_is_refused():
    with pytest.raises(InputError, match="needs at least one painted voxel"):
        Scribble(np.zeros((1, 3, 3), bool), (0, 0, 0))


def test_a_scribble_keeps_what_was_painted():
    mask = np.ones((1, 3, 3), bool)
    scribble = Scribble(mask, (0, 0, 0))
    mask[:] = False
    assert scribble.mask.all()
    with pytest.raises(ValueError, match="read-only"):
        scribble.mask[0, 0, 0] = False


@pytest.mark.parametrize("position_mm", [(1.0, 2.0), (1.0, 2.0, float("nan"))])
def test_a_position_without_sense_is_refused(position_mm):
    for make in (Point, lambda position: BoxPrompt((0.0, 0.0, 0.0), position)):
        with pytest.raises(InputError, match="A position is three finite numbers"):
            make(position_mm)


def test_adding_leaves_the_earlier_prompts_for_undo():
    before = Prompts()
    after = before.adding(Point((1.0, 2.0, 3.0)), BoxPrompt((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    assert before.empty and before == Prompts()
    assert (len(after.points), len(after.boxes), len(after.scribbles)) == (1, 1, 0)
    assert not after.empty
