"""A slice that answers prompts: the answer lies where the user pointed, builds on the last, and touches one slice."""

import numpy as np
import pytest
import torch

from InContextSegLib.errors import InputError
from InContextSegLib.examples.support import LabelledVolume, SupportSet
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.inference.interactive import InteractiveSlice
from InContextSegLib.slices.intensities import Intensities, Scale
from InContextSegLib.slices.plan import AXES, SlicePlan
from InContextSegLib.slices.prompts import BoxPrompt, Point, Prompts
from InContextSegLib.volumes.geometry import Kind, Volume
from Testing.Library.fake_segmenter import SIZE, Brush, Threshold, grid, scan

CPU = torch.device("cpu")
OBLIQUE = grid((20, 26, 30), (2.0, 1.5, 0.8), turned=True, left_handed=True)


def slice_of(volume, axis="axial", index=3, network=None):
    plan = SlicePlan.of(volume.geometry, axis, SIZE)
    network = network or CachedSegmenter(Brush(), CPU)
    return InteractiveSlice(network, volume, Intensities().of(volume.array), plan, plan.number(index))


def at(volume, index_kji, positive=True):
    return Point(tuple(volume.geometry.to_world(np.array(index_kji, float)).tolist()), positive)


def examples_of(*seeds):
    return SupportSet.from_volumes(
        [LabelledVolume(*scan(seed), f"case{seed}") for seed in seeds], "axial", SIZE, "labelled"
    )


@pytest.mark.parametrize("axis", AXES)
def test_the_mask_appears_where_the_user_clicked_in_an_oblique_volume(axis):
    volume = scan(0, geometry=OBLIQUE)[0]
    index = [9, 12, 17]
    array_axis = SlicePlan.of(volume.geometry, axis, SIZE).array_axis
    here = slice_of(volume, axis, index[array_axis])
    answer = here.segment(Prompts().adding(at(volume, index)))
    shape = [1 if other == array_axis else size for other, size in enumerate(OBLIQUE.shape)]
    assert answer.mask().shape == answer.probability.shape == tuple(shape)
    own = here.geometry
    assert own.shape == answer.mask().shape
    np.testing.assert_allclose(own.to_index(volume.geometry.to_world(index))[array_axis], 0, atol=1e-9)
    index[array_axis] = 0
    assert answer.mask()[tuple(index)]
    centre = np.argwhere(answer.mask()).mean(axis=0)
    assert np.abs(centre - index).max() < 1


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("box", [None, ((2, 5, 6), (18, 25, 28))])
def test_the_answer_lies_where_it_would_in_the_whole_volume(axis, box, generator):
    volume = scan(0, geometry=OBLIQUE)[0]
    plan = SlicePlan.of(volume.geometry, axis, SIZE, box)
    here = InteractiveSlice(CachedSegmenter(Brush(), CPU), volume, Intensities().of(volume.array), plan, 5)
    logits = generator.normal(size=(SIZE, SIZE)).astype(np.float32)
    whole = plan.restore(1 / (1 + np.exp(-logits[None])), [5])
    block = np.take(whole, [plan.slice_index(5)], axis=plan.array_axis)
    np.testing.assert_allclose(here.answer(logits).probability, block, atol=1e-6)


def test_the_answer_is_at_network_size_and_at_the_image_s_own():
    volume = scan(0)[0]
    answer = slice_of(volume).segment(Prompts().adding(at(volume, (3, 10, 12))))
    assert answer.logits.shape == (SIZE, SIZE)
    assert answer.probability.shape == (1, 24, 24)
    assert answer.probability.min() >= 0 and answer.probability.max() <= 1
    assert answer.mask(0.001).sum() >= answer.mask().sum() >= answer.mask(0.999).sum()


def test_the_last_answer_is_fed_back():
    volume, network = scan(0)[0], Brush()
    here = slice_of(volume, network=CachedSegmenter(network, CPU))
    first = here.segment(Prompts().adding(at(volume, (3, 6, 6))))
    only_new = Prompts().adding(at(volume, (3, 17, 17)))
    alone, after = here.segment(only_new), here.segment(only_new, first.logits)
    np.testing.assert_allclose(network.prompts[-1][0, 3], np.tanh(first.logits / 2))
    assert not network.prompts[0][0, 3].any()
    np.testing.assert_array_equal(after.mask(), alone.mask() | first.mask())


def test_a_negative_click_takes_away():
    volume = scan(0)[0]
    here = slice_of(volume)
    prompts = Prompts().adding(BoxPrompt(at(volume, (3, 4, 4)).position_mm, at(volume, (3, 20, 20)).position_mm))
    first = here.segment(prompts)
    second = here.segment(prompts.adding(at(volume, (3, 12, 12), positive=False)), first.logits)
    assert first.mask()[0, 12, 12] and not second.mask()[0, 12, 12]
    assert second.mask()[0, 6, 6]


def test_prompts_on_another_slice_change_nothing():
    volume = scan(0)[0]
    here = slice_of(volume)
    one = Prompts().adding(at(volume, (3, 10, 12)))
    np.testing.assert_array_equal(here.segment(one).logits, here.segment(one.adding(at(volume, (1, 20, 20)))).logits)


def test_examples_answer_before_the_first_click():
    volume, labels = scan(0)
    answer = slice_of(volume).segment(Prompts(), examples=examples_of(1, 2).examples)
    truth = labels.array[3:4] > 0
    assert (answer.mask() & truth).sum() > 0.8 * truth.sum()


def test_examples_without_the_label_count_as_none():
    volume, network = scan(0)[0], Brush()
    support = examples_of(1)
    here = slice_of(volume, network=CachedSegmenter(network, CPU))
    for label, wanted in ((1, len(support)), (2, 0)):
        here.segment(Prompts(), examples=support.examples, label=label)
        assert network.shown[-1] == wanted


def test_image_and_examples_are_computed_before_the_click(monkeypatch):
    volume, network = scan(0)[0], Brush()
    here, examples = slice_of(volume, network=CachedSegmenter(network, CPU)), examples_of(1).examples
    here.segment(Prompts(), examples=examples)
    for name in ("encode", "condition", "join"):
        monkeypatch.setattr(network, name, None)
    here.segment(Prompts().adding(at(volume, (3, 10, 12))), examples=examples)


def test_the_same_prompts_give_the_same_answer():
    volume = scan(0)[0]
    prompts = Prompts().adding(at(volume, (3, 10, 12)))
    answers = [slice_of(volume).segment(prompts, examples=examples_of(1).examples) for _ in range(2)]
    np.testing.assert_array_equal(answers[0].logits, answers[1].logits)
    np.testing.assert_array_equal(answers[0].probability, answers[1].probability)


def test_the_examples_chosen_lie_at_the_height_of_the_slice():
    volume, support = scan(0)[0], examples_of(1, 2)
    for index in (1, 4):
        positions = [example.position for example in slice_of(volume, index=index).chosen(support, 2)]
        assert positions == pytest.approx([(index + 0.5) / 6] * 2)


def test_a_picture_is_a_slice_without_a_height(monkeypatch):
    array = scan(0)[0].array[3:4]
    picture = Volume(array, grid((1, 24, 24)), Kind.INTENSITY)
    asked = []
    select = SupportSet.select
    monkeypatch.setattr(SupportSet, "select", lambda self, *rest: asked.append(rest[1]) or select(self, *rest))
    assert len(slice_of(picture, index=0).chosen(examples_of(1), 2)) == 2
    assert asked == [None]


def test_a_network_that_takes_no_prompts_answers_by_examples_alone():
    volume, labels = scan(0)
    here = slice_of(volume, network=CachedSegmenter(Threshold(), CPU))
    answer = here.segment(Prompts(), examples=examples_of(1).examples)
    np.testing.assert_array_equal(answer.mask(), labels.array[3:4] > 0)
    with pytest.raises(InputError, match="This model takes no clicks, boxes or scribbles"):
        here.segment(Prompts().adding(at(volume, (3, 10, 12))))


def test_what_lies_on_the_voxels_is_seen_as_the_network_sees_them(generator):
    volume = scan(0, geometry=OBLIQUE)[0]
    here = slice_of(volume, "coronal", 9)
    values = generator.random(here.geometry.shape).astype(np.float32)
    whole = np.zeros(OBLIQUE.shape, np.float32)
    whole[:, 9:10] = values
    plan = SlicePlan.of(OBLIQUE, "coronal", SIZE)
    wanted = plan.extract(Volume(whole, OBLIQUE, Kind.INTENSITY), Scale(0.0, 1.0), [plan.number(9)])[0]
    np.testing.assert_allclose(here.seen(values), wanted, atol=1e-6)


def test_examples_of_another_size_are_refused():
    small = SupportSet.from_volumes([LabelledVolume(*scan(1), "case1")], "axial", SIZE // 2)
    with pytest.raises(InputError, match="picture of 32 pixels, but case1 axial 1 has 16"):
        slice_of(scan(0)[0]).segment(Prompts(), examples=small.examples)


def test_a_click_beside_the_image_is_refused():
    volume = scan(0)[0]
    with pytest.raises(InputError, match="click on the image"):
        slice_of(volume).segment(Prompts().adding(at(volume, (3, 30, 12))))
