"""Examples that tell of some labels only: they teach these, say nothing of the others, and keep only what they tell."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from InContextSegLib.adaptation.calibration import left_out
from InContextSegLib.adaptation.episodes import EpisodeSampler
from InContextSegLib.adaptation.expectation import to_try
from InContextSegLib.adaptation.leave_out import LeaveOut
from InContextSegLib.adaptation.style import _Trial
from InContextSegLib.errors import InputError
from InContextSegLib.examples.origins import units
from InContextSegLib.examples.support import Label, LabelledVolume, SupportSet
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.inference.settings import InferenceSettings
from InContextSegLib.jobs.task import Drawn
from InContextSegLib.models.catalog import find
from InContextSegLib.progress import Report
from InContextSegLib.volumes.geometry import Kind, Volume
from InContextSegLib.worker import corrections
from InContextSegLib.worker.answers import ANSWERS
from InContextSegLib.worker.batches import fingerprint_of_task
from InContextSegLib.worker.cache import WorkerCache
from InContextSegLib.worker.protocol import (
    ArrayRef,
    Batch,
    Correct,
    ExampleRef,
    Prepare,
    Preview,
    Segment,
    TaskSpec,
    request_of,
)
from InContextSegLib.worker.shared_arrays import SharedFolder
from Testing.Library.fake_segmenter import SIZE, Echo, grid, squares, use

ONE, TWO = 1, 2
LABELS = ((ONE, "one"), (TWO, "two"))
SHAPE = (12, 32, 32)
A, B = (slice(None), slice(4, 12), slice(4, 12)), (slice(None), slice(18, 28), slice(18, 28))


@pytest.fixture
def network(monkeypatch):
    return use(monkeypatch, Echo())


@pytest.fixture
def cache(tmp_path, network):
    return WorkerCache(SharedFolder.make(tmp_path), ANSWERS)


def scene(cache):
    """A volume with two organs that reach through all slices; its reference, and the truth."""
    geometry = grid(SHAPE, (2.0, 1.0, 1.0))
    image = np.random.default_rng(0).integers(10, 60, SHAPE).astype(np.int16)
    truth = np.zeros(SHAPE, np.uint8)
    truth[A], truth[B] = ONE, TWO
    image[truth > 0] += 150
    return ref(cache, Volume(image, geometry)), truth, geometry


def ref(cache, volume):
    return ArrayRef.of(cache.shared.write(volume.array), volume.geometry, volume.kind)


def told(cache, target, truth, geometry, slices, *known):
    """An example of the target's own slices, in which only those labels are drawn of which they tell."""
    labels = np.zeros_like(truth)
    labels[list(slices)] = np.where(np.isin(truth, known or (ONE, TWO)), truth, 0)[list(slices)]
    labels = ref(cache, Volume(labels, geometry, Kind.LABELS))
    return ExampleRef(target, labels, "patient", tuple(slices), known=known or None)


def task(*examples, **settings):
    return TaskSpec(
        examples, LABELS, InferenceSettings(**({"supports": 8, "axes": ("axial",), "extend": True} | settings))
    )


def ask(cache, request):
    return cache.answer(request, Report())


def whole(cache, block, shape=SHAPE):
    out, array, corner = np.zeros(shape, np.uint8), cache.shared.read(block["array"]), block["corner_kji"]
    out[tuple(slice(low, low + length) for low, length in zip(corner, array.shape, strict=True))] = array
    return out


def partly(known, count=8):
    """Squares by turns of a first and of a second label, each telling of its own alone, or of both."""
    support = squares(count)
    examples = [
        replace(each, labels=each.labels * np.uint16(1 + n % 2), known=frozenset({1 + n % 2}) if known else None)
        for n, each in enumerate(support.examples)
    ]
    return replace(support, examples=tuple(examples), labels=tuple(Label(*each) for each in LABELS))


def test_an_organ_applied_on_some_slices_is_found_where_another_one_was_applied(cache):
    target, truth, geometry = scene(cache)
    examples = [
        told(cache, target, truth, geometry, (2, 6, 10), ONE),
        told(cache, target, truth, geometry, (4, 8), TWO),
    ]
    mask = whole(cache, ask(cache, Segment(task(*examples), target))["block"])
    np.testing.assert_array_equal(mask, truth)
    # As if every slice told of all: neither organ is shown by enough of the examples.
    mask = whole(cache, ask(cache, Segment(task(*(replace(each, known=None) for each in examples)), target))["block"])
    assert not (mask[[2, 6, 10]] == TWO).any() and not (mask[[4, 8]] == ONE).any()


def test_a_volume_tells_of_the_labels_that_it_shows_and_an_empty_one_of_all():
    drawn = np.zeros(SHAPE, np.uint8)
    assert [told_by(drawn, value) for value in (ONE, TWO)] == [True, True]
    drawn[A] = ONE
    assert [told_by(drawn, value) for value in (ONE, TWO)] == [True, False]


def told_by(drawn, value):
    """Whether the slices of a volume with these labels tell of one."""
    geometry = grid(SHAPE)
    image = Volume(np.random.default_rng(0).random(SHAPE, np.float32), geometry, Kind.INTENSITY)
    volume = LabelledVolume(image, Volume(drawn, geometry, Kind.LABELS), "case", slices="all")
    labels = [Label(*each) for each in LABELS]
    support = SupportSet.from_volumes([volume, full(geometry)], size=SIZE, labels=labels)
    (told,) = {each.tells(value) for each in support.examples[: SHAPE[0]]}
    return told


def full(geometry):
    """A volume with both labels."""
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[A], drawn[B] = ONE, TWO
    image = Volume(np.random.default_rng(1).random(SHAPE, np.float32), geometry, Kind.INTENSITY)
    return LabelledVolume(image, Volume(drawn, geometry, Kind.LABELS), "full", slices="all")


@pytest.mark.parametrize(
    "settings", [{"draws": 3}, {"supports": 2}, {"calibrate": True}, {"slices_at_once": 3}], ids=str
)
def test_however_examples_are_chosen_they_are_chosen_for_each_label_among_those_that_tell_of_it(cache, settings):
    target, truth, geometry = scene(cache)
    examples = [
        told(cache, target, truth, geometry, (2, 3, 6, 9, 10), ONE),
        told(cache, target, truth, geometry, (5, 7, 8), TWO),
    ]
    about = task(*examples, **settings)
    mask = whole(cache, ask(cache, Segment(about, target))["block"])
    np.testing.assert_array_equal(mask, truth)
    assert ask(cache, Prepare(about, target))["examples"] == 8


def test_what_was_drawn_of_a_told_label_stays_and_wins_over_what_is_found_of_the_others(cache):
    target, truth, geometry = scene(cache)
    odd = truth.copy()
    odd[6, 20:30, 10:22] = ONE  # over the other organ, where no network would put it
    odd[6, 4:8] = 0
    examples = [told(cache, target, odd, geometry, (2, 6), ONE), told(cache, target, odd, geometry, (4, 8), TWO)]
    # What else lies in these labels, and elsewhere, does not matter.
    examples[1] = replace(examples[1], labels=ref(cache, Volume(truth, geometry, Kind.LABELS)))
    about = task(*examples)
    found = ask(cache, Segment(about, target))
    mask = whole(cache, found["block"])
    assert sorted(found["given"]) == [2, 4, 6, 8]
    np.testing.assert_array_equal(mask[6] == ONE, odd[6] == ONE)
    np.testing.assert_array_equal(mask[6] == TWO, (truth[6] == TWO) & (odd[6] != ONE))
    np.testing.assert_array_equal(mask[[4, 8]] == TWO, odd[[4, 8]] == TWO)
    assert (mask[4] == ONE).sum() > 40  # between 64 pixels on one side and half of them on the other
    for index in (4, 6):
        shown = whole(cache, ask(cache, Preview(about, target, index))["block"])
        np.testing.assert_array_equal(shown[index], mask[index])


def test_a_slice_that_tells_of_all_is_kept_whole_beside_one_that_tells_of_some(cache):
    target, truth, geometry = scene(cache)
    empty = truth.copy()
    empty[8] = 0
    empty[8, 0, 0] = ONE
    examples = [
        told(cache, target, truth, geometry, (2, 4, 6), ONE),
        told(cache, target, truth, geometry, (1, 3, 5), TWO),
        told(cache, target, empty, geometry, (8,)),
    ]
    mask = whole(cache, ask(cache, Segment(task(*examples), target))["block"])
    np.testing.assert_array_equal(mask[8], empty[8])
    assert (mask[2] == TWO).any() and (mask[1] == ONE).any()


def test_labels_drawn_in_another_view_are_kept_as_far_as_they_tell():
    geometry = grid(SHAPE, (2.0, 1.0, 1.0))
    drawn = np.zeros((2, *SHAPE), np.uint8)
    drawn[0, :, 6:12, [5, 9]], drawn[1, :, 20:26, 20] = ONE, TWO
    pairs = tuple(
        LabelledVolume(Volume(labels, geometry), Volume(labels, geometry, Kind.LABELS), "", known=frozenset({value}))
        for labels, value in zip(drawn, (ONE, TWO), strict=True)
    )
    given = Drawn(pairs, (ONE, TWO)).given(geometry, "axial", {3: None})
    assert given == (2, {5: {ONE}, 9: {ONE}, 20: {TWO}})
    kept = Drawn(pairs, (ONE, TWO)).keep(np.full(SHAPE, TWO, np.uint8), ((0, 0, 0), SHAPE), given)
    expected = np.where(drawn[0] == ONE, ONE, TWO)
    expected[..., 20] = drawn[1, ..., 20]
    np.testing.assert_array_equal(kept, expected)


def test_a_label_of_which_an_example_does_not_tell_is_not_in_it():
    (example,) = squares(1, value=TWO).examples
    told = replace(example, known=frozenset({ONE}))
    assert told.labels.dtype == np.uint16 and not told.labels.any()
    assert told.tells(ONE) and not told.tells(TWO) and example.tells(TWO)


def test_what_examples_tell_of_belongs_to_their_fingerprint():
    prints = {partly(known).fingerprint for known in (True, False)}
    assert len(prints) == 2
    support = partly(True)
    other = replace(support.examples[0], known=frozenset({ONE, 7}))
    assert replace(support, examples=(other, *support.examples[1:])).fingerprint not in prints


def test_a_context_is_made_of_examples_that_tell_of_the_label_alone():
    support, network = partly(True), Echo()
    cached = CachedSegmenter(network, torch.device("cpu"))
    for value in (ONE, TWO):
        context = cached.context(support.examples, value)
        assert context.masks.shape[1] == 4
        assert context.masks.flatten(2).any(dim=2).all()


def test_an_example_that_does_not_tell_of_a_label_is_neither_truth_nor_negative_for_it():
    silent, plain = partly(True), partly(False)
    odd = {1, 3, 5, 7}
    assert not odd & set(left_out(silent, ONE)) and odd & set(left_out(plain, ONE))
    trials = {known: to_try(LeaveOut(each, each, units(each)), ONE) for known, each in (("s", silent), ("p", plain))}
    assert not odd & set(trials["s"]) and odd & set(trials["p"])


@pytest.mark.parametrize("count", [2, 8])
def test_answers_of_the_others_come_from_those_that_tell_of_the_label(count):
    support, network = partly(True), Echo()
    leave = LeaveOut(support, support, units(support))
    leave.logits(CachedSegmenter(network, torch.device("cpu")), TWO, 1, count)
    assert network.shown == [min(count, 3)]


def test_episodes_never_show_a_label_beside_examples_that_do_not_tell_of_it():
    support = partly(True)
    sampler = EpisodeSampler(LeaveOut(support, support, units(support)), torch.device("cpu"), seed=0)
    for _ in range(40):
        value, indices = sampler._episode(list(range(8)))
        assert all(support.examples[index].tells(value) for index in indices)
    value, indices = sampler._episode([1, 3])
    assert value == TWO and set(indices) <= {1, 3}


def test_episodes_of_examples_that_show_nothing_ask_for_what_they_tell_of():
    support = partly(True)
    blank = [replace(each, labels=np.zeros_like(each.labels)) for each in support.examples[1::2]]
    support = replace(support, examples=(*support.examples[::2], *blank))
    sampler = EpisodeSampler(LeaveOut(support, support, units(support)), torch.device("cpu"), seed=0)
    assert sampler._episode([5, 7])[0] == TWO


def test_a_style_is_judged_by_examples_that_tell_of_the_label():
    support, network = partly(True), Echo()
    rest, picture = support.without([0]), torch.from_numpy(support.examples[0].image.copy())
    trial = _Trial(CachedSegmenter(network, torch.device("cpu")), rest, 5, {0: picture})
    trial.dice(support, [0], ONE, 0.0)
    assert network.shown == [3]


def test_a_click_is_not_answered_beside_slices_that_do_not_tell_of_its_label(cache, network, monkeypatch):
    entry = replace(find("default"), name="fake")
    monkeypatch.setattr(corrections, "find", lambda name: entry)
    monkeypatch.setattr(corrections, "load_model", lambda model: (network, {}, SIZE))
    target, truth, geometry = scene(cache)
    about = task(told(cache, target, truth, geometry, (2, 6), ONE), told(cache, target, truth, geometry, (4,), TWO))
    for value, count in ((ONE, 2), (TWO, 1)):
        answer = ask(cache, Correct(target, "axial", 5, task=about, label=value))
        assert answer["context"] == count
        probability = cache.shared.read(answer["probability"]["array"])
        np.testing.assert_array_equal(probability[0] >= 128, truth[5] == value)
    silent = task(told(cache, target, truth, geometry, (2, 6), ONE))
    with pytest.raises(InputError, match="Neither prompts nor an example of label 2 came"):
        ask(cache, Correct(target, "axial", 5, task=silent, label=TWO))


def test_what_examples_tell_of_travels_and_counts_for_a_batch(cache):
    target, truth, geometry = scene(cache)
    one = told(cache, target, truth, geometry, (2,), ONE)
    about = task(one)
    message = {
        "do": "segment",
        "task": about.to_mapping(),
        "target": {"name": target.name, "affine": target.affine, "kind": "intensity"},
    }
    assert request_of(message).task.examples[0].known == (ONE,)
    plain = replace(about, examples=(replace(one, known=None),))
    assert TaskSpec.from_mapping({**plain.to_mapping()}).examples[0].known is None
    prints = {fingerprint_of_task(Batch(each, ()), cache.shared.read) for each in (about, plain)}
    assert len(prints) == 2
