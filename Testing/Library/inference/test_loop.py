"""The loop: which slices stand beside one, where one looks, and what the outlines beside it add."""

import numpy as np
import pytest
import torch

from InContextSegLib.examples.support import Example
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.inference.loop import OUTLINE, Cut, Labelled, Loop, LoopMemory, signed_distance
from InContextSegLib.slices.boxes import extent_of
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.slices.plan import SlicePlan
from InContextSegLib.slices.prompts import BoxPrompt, Point, Prompts, Scribble
from InContextSegLib.volumes.geometry import Kind, Volume
from Testing.Library.fake_segmenter import SIZE, Echo, grid

FINE = grid((20, 96, 128), (3.0, 1.0, 1.0))


@pytest.fixture
def memory():
    return LoopMemory(CachedSegmenter(Echo(), torch.device("cpu")))


def cut_of(volume, axis="axial"):
    plan = SlicePlan.of(volume.geometry, axis, SIZE)
    return Cut(lambda: volume, Intensities().of(volume.array), plan)


def noise(seed=0, geometry=FINE):
    return Volume(
        np.random.default_rng(seed).integers(0, 99, geometry.shape).astype(np.int16), geometry, Kind.INTENSITY
    )


def square(rows, columns, geometry=FINE):
    mask = np.zeros((1, *geometry.shape[1:]), bool)
    mask[0, slice(*rows), slice(*columns)] = True
    return mask


def applied(memory, cut, masks):
    empty = Loop(memory, "target", cut, ())
    return [empty.labelled(number, mask) for number, mask in masks.items()]


def other(seed, number, mask):
    cut = cut_of(noise(seed))
    image = cut.plan.extract(cut.read(), cut.scale, [number])[0]
    example = Example(
        image, np.zeros(image.shape, np.uint16), float(cut.plan.positions[number]), f"other axial {number}"
    )
    return Labelled.of(cut, example, number, mask, own=False)


def test_the_nearest_applied_slices_come_first_then_the_most_alike_and_never_the_slice_itself(memory):
    cut, mask = cut_of(noise()), square((40, 50), (60, 70))
    own = applied(memory, cut, dict.fromkeys((2, 5, 9, 15, 19), mask))
    elsewhere = [other(seed, 7, mask) for seed in (1, 2)]
    loop = Loop(memory, "target", cut, [*elsewhere, *own])
    assert {each.number for each in loop.chosen(8, 2)} == {5, 9}
    assert {each.number for each in loop.chosen(9, 2)} == {5, 15}
    assert loop.chosen(8, 4) == loop.chosen(8, 4)
    assert {each.number for each in loop.chosen(8, 4)} - {5, 9} == {7}
    assert len(loop.chosen(9, 99)) == 6
    assert (loop.chosen(8, 0), Loop(memory, "target", cut, ()).chosen(8, 4)) == ((), ())


def test_a_slice_that_is_applied_alone_has_nothing_beside_it(memory):
    cut = cut_of(noise())
    loop = Loop(memory, "target", cut, applied(memory, cut, {3: square((40, 50), (60, 70))}))
    assert loop.chosen(3, 4) == ()


@pytest.mark.parametrize(
    ("extent", "side_mm", "window"),
    [
        (((0, 40, 60), (1, 50, 70)), 40.0, ((0, 25, 45), (20, 65, 85))),
        (((0, 0, 120), (1, 10, 128)), 40.0, ((0, 0, 88), (20, 40, 128))),  # moved inside
        (((0, 40, 60), (1, 42, 61)), 5.0, ((0, 29, 48), (20, 53, 72))),  # no finer than can be seen
        (((0, 40, 60), (1, 50, 70)), 100.0, ((0, 0, 15), (20, 96, 115))),
        (((0, 40, 60), (1, 50, 70)), 500.0, None),
    ],
)
def test_a_window_is_square_about_the_structure_and_inside_the_image(extent, side_mm, window):
    assert cut_of(noise()).window(extent, side_mm) == window


def test_a_labelled_slice_keeps_where_its_label_lies_and_shows_it_in_any_window(memory):
    cut, mask = cut_of(noise()), square((40, 50), (60, 76))
    (each,) = applied(memory, cut, {3: mask})
    assert each.extent == extent_of(mask) == ((0, 40, 60), (1, 50, 76))
    assert each.mask.size == 160
    np.testing.assert_array_equal(each.whole(), mask)
    assert each.picture(None).labels.sum() < each.picture(cut.window(each.extent, 32.0)).labels.sum() == 160
    (nothing,) = applied(memory, cut, {4: np.zeros_like(mask)})
    assert (nothing.extent, nothing.whole().any()) == (None, False)


def test_another_patient_is_shown_where_its_own_structure_lies(memory):
    cut = cut_of(noise())
    here, there = square((20, 30), (20, 30)), square((60, 70), (90, 100))
    loop = Loop(
        memory, "target", cut, [*applied(memory, cut, {3: here}), other(1, 4, there), other(2, 4, here & False)]
    )
    box, side_mm = loop._window(loop.chosen(4, 3), Prompts())
    shown = loop._shown(loop.chosen(4, 3), box, side_mm)
    assert len(shown) == 2  # what shows nothing has no place
    np.testing.assert_array_equal(shown[0].labels, shown[1].labels)


def test_the_outline_counts_less_the_farther_it_is_and_both_sides_count(memory):
    memory.network.segmenter.segment = lambda *_: torch.zeros(1, 1, SIZE, SIZE)
    cut, mask = cut_of(noise()), square((40, 50), (60, 70))
    near = Loop(memory, "target", cut, applied(memory, cut, {3: mask}))
    one, two = (near.opening(number, near.chosen(number, 4)) for number in (4, 5))
    distance = signed_distance(
        near._picture(near.applied[3], near._window(near.chosen(4, 4), Prompts())[0]).labels == 1
    )
    np.testing.assert_allclose(one.logits, OUTLINE * distance, rtol=1e-6)
    np.testing.assert_allclose(two.logits, OUTLINE / 2 * distance, rtol=1e-6)
    between = Loop(memory, "target", cut, applied(memory, cut, {3: mask, 5: mask}))
    np.testing.assert_allclose(between.opening(4, between.chosen(4, 4)).logits, 2 * OUTLINE * distance, rtol=1e-6)


def test_distances_are_negative_outside_and_half_a_pixel_beside_the_outline():
    mask = np.zeros((5, 5), bool)
    mask[1:4, 1:4] = True
    np.testing.assert_allclose(signed_distance(mask)[2], [-0.5, 0.5, 1.5, 0.5, -0.5])


def test_examples_that_look_alike_are_conditioned_once(memory):
    cut, mask = cut_of(noise()), square((40, 50), (60, 70))
    counted = []
    real = memory.network.segmenter.condition
    memory.network.segmenter.condition = lambda *every: counted.append(1) or real(*every)
    for _ in range(2):
        loop = Loop(memory, "target", cut, applied(memory, cut, {3: mask, 7: mask}))
        loop.opening(5, loop.chosen(5, 4))
    assert len(counted) == 2


def test_what_was_said_lies_between_voxels():
    geometry = grid((6, 24, 24), turned=True)

    def at(*index):
        return tuple(geometry.to_world(np.array(index, float)).tolist())

    painted = Scribble(np.ones((1, 2, 2), bool), (3, 20, 1))
    assert Prompts().extent(geometry) is None
    assert Prompts().adding(Point(at(3, 4.4, 9))).extent(geometry) == ((3, 4, 9), (4, 5, 10))
    box = BoxPrompt(at(3, 2, 12), at(3, 8, 10))
    assert Prompts().adding(box, painted).extent(geometry) == ((3, 2, 1), (4, 22, 13))
    assert Prompts().adding(Point(at(3, -5, 30))).extent(geometry) == ((3, 0, 23), (4, 1, 24))
