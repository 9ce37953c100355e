"""Heads fitted to examples, and which members answer for a task, with random weights of the network."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from InContextSegLib.adaptation import combination
from InContextSegLib.adaptation import prepare as prepare_module
from InContextSegLib.adaptation.combination import combine
from InContextSegLib.adaptation.leave_out import LeaveOut
from InContextSegLib.adaptation.prepare import Task, prepare
from InContextSegLib.errors import Cancelled
from InContextSegLib.examples.origins import units
from InContextSegLib.examples.support import Example, Label, SupportSet
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.inference.combined import NETWORK, Combined, FittedAt
from InContextSegLib.inference.session import Session
from InContextSegLib.inference.settings import InferenceSettings
from InContextSegLib.models import fitted
from InContextSegLib.models.fitted import FittedHead
from InContextSegLib.models.incontext import InContextNet
from InContextSegLib.progress import Report
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.volumes.geometry import Volume
from Testing.Library.fake_segmenter import grid

CPU = torch.device("cpu")
SIZE = 64
SETTINGS = InferenceSettings(supports=4, draws=1, calibrate=True, seed=3)


@pytest.fixture(autouse=True)
def _quick_fits(monkeypatch):
    monkeypatch.setattr(fitted, "STEPS", 60)
    monkeypatch.setattr(fitted, "BATCH", 1024)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return InContextNet(width=16, fine=12, coarse=16, context=16).eval()


def example(number, shows=True, size=SIZE, position=None, source=None):
    """A bright disk with another one that differs in texture alone; the first is label 1, the other 2."""
    random = np.random.default_rng(number)
    rows, columns = np.mgrid[:size, :size]
    image = np.full((size, size), 0.2, np.float32) + 0.05 * random.random((size, size), np.float32)
    labels = np.zeros((size, size), np.uint16)
    for value, column in ((1, 0.3), (2, 0.7)) if shows else ():
        centre = np.array([0.5, column]) * size + random.uniform(-4, 4, 2)
        disk = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < (0.16 * size) ** 2
        image[disk] = 0.8 - 0.25 * (value - 1)
        labels[disk] = value
    return Example(np.clip(image, 0, 1), labels, position, source or f"p{number}")


def support(count=6, labels=(1, 2), **others):
    examples = tuple(example(number, **others) for number in range(count))
    return SupportSet(
        examples, tuple(Label(value, f"disk {value}") for value in labels), "axial", others.get("size", SIZE)
    )


def test_heads_fitted_to_a_few_pictures_find_the_same_in_a_new_one(network):
    found = combine(network, CPU, support(), (SIZE,), SETTINGS, Report())
    cached = CachedSegmenter(found.segmenter, CPU)
    new = example(99)
    embedding = cached.embed(cached.picture(new)[None])
    for value in (1, 2):
        logits = cached.logits(embedding, cached.context(support().examples, value), label=value)[0, 0].numpy()
        wanted, answer = new.labels == value, logits > 0
        assert 2 * (wanted & answer).sum() / (wanted.sum() + answer.sum()) > 0.8
        assert found.calibration.dice[value] > 0.7
        assert found.segmenter.weights[value].keys() <= {NETWORK, f"fitted at {SIZE}"}


def test_the_same_seed_gives_the_same_answers(network):
    one, two = (combine(network, CPU, support(), (SIZE,), SETTINGS, Report()) for _ in range(2))
    assert one.segmenter.record == two.segmenter.record
    images = torch.rand(1, 3, SIZE, SIZE)
    context = network.condition(images[None], torch.ones(1, 1, 1, SIZE, SIZE))
    answers = [each.segmenter.segment(each.segmenter.encode(images), context, label=1) for each in (one, two)]
    assert torch.equal(*answers)


def test_no_head_judges_an_example_that_it_was_fitted_to(network, monkeypatch):
    held_out = []
    real = combination._Fitting._answers

    def watched(self, head, asked, seen):
        held_out.append(set(asked))
        return real(self, head, asked, seen)

    monkeypatch.setattr(combination._Fitting, "_answers", watched)
    slices = [example(n, position=n % 3 / 3, source=f"case{n // 3}.nii.gz axial {n % 3}") for n in range(12)]
    several = SupportSet(tuple(slices), (Label(1, "disk"),), "axial", SIZE)
    names = units(several)
    found = combine(network, CPU, several, (SIZE,), SETTINGS, Report())
    assert found.trials
    for asked in held_out:
        together = {names[index] for index in asked}
        folds = [fold for fold in combination._folds(names, SETTINGS.seed) if asked <= fold]
        assert len(folds) == 1
        assert all(index in folds[0] for index, name in enumerate(names) if name in together)


@pytest.mark.parametrize(
    ("asked", "good", "shown"), [(18, (8,), 8), (18, (16, 8), 16), (18, (18, 8), 18), (8, (4,), 8)]
)
def test_fewer_examples_are_shown_where_those_left_out_gain_by_it(network, monkeypatch, asked, good, shown):
    def logits(leave, _network, value, index, count):
        wanted = leave.truth.examples[index].labels == value
        return np.where(wanted if count in good else np.roll(wanted, 9, axis=0), 5, -5).astype(np.float32)

    monkeypatch.setattr(LeaveOut, "logits", logits)
    found = combine(network, CPU, support(20), (SIZE,), replace(SETTINGS, supports=asked), Report())
    assert found.calibration.shown == shown
    assert {count for _, count in found.calibration.tried} == ({18, 16, 8} if asked == 18 else set())


def test_the_slices_of_one_volume_are_never_in_two_folds():
    names = [f"case{n // 5}" for n in range(40)]
    folds = combination._folds(names, 0)
    assert sorted(index for fold in folds for index in fold) == list(range(40))
    for name in set(names):
        assert sum(any(names[index] == name for index in fold) for fold in folds) == 1


def test_the_best_members_answer_and_all_where_none_is_better():
    examples = support(5, labels=(1,))
    leave = LeaveOut(examples, examples, units(examples))
    truth = {(1, n): np.where(each.labels == 1, 4.0, -4.0) for n, each in enumerate(examples.examples)}
    wrong = {key: -8.0 * np.sign(each) for key, each in truth.items()}
    best, alike = (
        combination._best(leave, 1, range(5), answers, ["a", "b"])
        for answers in ({"a": truth, "b": wrong}, {"a": truth, "b": truth})
    )
    assert best[0] == {"a": 1.0}
    assert best[2] == 1.0
    assert alike[0] == {"a": 0.5, "b": 0.5}


def test_of_fewer_than_three_pictures_nothing_is_concluded():
    examples = support(2, labels=(1,))
    leave = LeaveOut(examples, examples, units(examples))
    truth = {(1, n): np.where(each.labels == 1, 4.0, -4.0) for n, each in enumerate(examples.examples)}
    wrong = {key: -each for key, each in truth.items()}
    weights, shift, _, _ = combination._best(leave, 1, range(2), {"a": truth, "b": wrong}, ["a", "b"])
    assert (weights, shift) == ({"a": 0.5, "b": 0.5}, 0.0)


def test_of_few_pictures_the_network_counts_as_much_as_all_heads():
    assert combination._usual([NETWORK, "a", "b"]) == {NETWORK: 0.5, "a": 0.25, "b": 0.25}
    assert combination._usual([NETWORK]) == {NETWORK: 1.0}


def test_one_example_is_enough_to_answer(network):
    single = support(1, labels=(1,))
    found = combine(network, CPU, single, (SIZE,), SETTINGS, Report())
    assert found.trials == ()
    assert found.segmenter.weights[1] == {NETWORK: 0.5, f"fitted at {SIZE}": 0.5}


def test_many_slices_are_thinned_out_and_most_show_a_label():
    examples = [example(n, shows=n % 5 == 0, size=32) for n in range(400)]
    many = SupportSet(tuple(examples), (Label(1, "disk"),), "axial", 32)
    chosen = combination._to_learn(many, [1])
    assert len(chosen) <= combination.MOST_PICTURES
    showing = [index for index in chosen if index % 5 == 0]
    assert len(showing) >= 0.6 * len(chosen)


def test_members_see_the_picture_at_their_own_size(network):
    torch.manual_seed(0)
    head = FittedHead(network.backbone.channels[:4], 1).eval()
    both = Combined(network, 64, [FittedAt(96, head)], [1], {1: {"fitted at 96": 1.0}})
    found = both.segment(both.encode(torch.rand(1, 1, 128, 128)), None, label=1)
    assert found.shape == (1, 1, 128, 128)


def test_a_label_that_no_head_knows_is_the_networks_alone(network):
    head = FittedHead(network.backbone.channels[:4], 1).eval()
    both = Combined(network, SIZE, [FittedAt(SIZE, head)], [1])
    pictures = torch.rand(1, 3, SIZE, SIZE)
    context = network.condition(pictures[None], torch.ones(1, 1, 1, SIZE, SIZE))
    expected = network.segment(network.encode(pictures), context)
    assert torch.allclose(both.segment(both.encode(pictures), context, label=7), expected, atol=1e-5)


def test_a_task_that_asks_for_calibration_gets_heads_expectations_and_a_record(network):
    task = Task(lambda size: support(), (SIZE,))
    ready = prepare(network, CPU, task, SETTINGS, Report())
    assert isinstance(ready.segmenter, Combined)
    assert ready.members == ready.segmenter.record
    assert set(ready.foresight.expected) == {1, 2}
    assert 0.5 < ready.foresight.expected[1].dice <= 1


def test_along_a_second_axis_the_network_answers_alone(network):
    """Heads are fitted to pictures of the first axis, and know nothing of others."""
    volume = Volume(np.random.default_rng(0).random((40, 40, 40)).astype(np.float32), grid((40, 40, 40)))
    head = FittedHead(network.backbone.channels[:4], 1).eval()
    with torch.no_grad():
        head.last.bias.fill_(50.0)
        head.last.weight.zero_()
    sure = Combined(network, SIZE, [FittedAt(SIZE, head)], [1], {1: {f"fitted at {SIZE}": 1.0}})
    supports = [replace(support(2, labels=(1,)), axis=axis) for axis in ("axial", "coronal")]
    session = Session(sure, supports, Intensities(), {}, CPU)
    along = {
        axis: session.segment(volume, replace(SETTINGS, axes=(axis,)), Report(), keep_probabilities=True)
        for axis in ("axial", "coronal")
    }
    assert along["axial"].mask.array.all()
    assert not along["coronal"].mask.array.all()


def test_a_rare_label_is_among_what_heads_are_fitted_to():
    examples = [example(n, shows=n in (7, 201, 333), size=32) for n in range(400)]
    for number in range(0, 400, 2):
        labels = examples[number].labels.copy()
        labels[0, :5] = 3
        examples[number] = replace(examples[number], labels=labels)
    many = SupportSet(tuple(examples), (Label(1, "disk"), Label(3, "line")), "axial", 32)
    chosen = combination._to_learn(many, [1, 3])
    assert {7, 201, 333} <= set(chosen)
    assert len(chosen) <= combination.MOST_PICTURES


def test_a_head_is_not_judged_where_nothing_that_it_learnt_from_shows_the_label(network):
    """Both pictures that show label 1 fall into one fold."""
    shown = support(6, labels=(1,))
    folds = combination._folds(units(shown), SETTINGS.seed)
    fold = max(folds, key=len)
    examples = [
        each if number in fold else replace(each, labels=np.where(each.labels == 1, 0, each.labels).astype(np.uint16))
        for number, each in enumerate(shown.examples)
    ]
    rare = SupportSet(tuple(examples), (Label(1, "disk"), Label(2, "other")), "axial", SIZE)
    tries = {1: sorted(fold), 2: sorted(fold)}
    fitting = combination._Fitting(network, CPU, rare, tries, folds, SETTINGS.seed)
    _, held_out = fitting.at(SIZE, lambda: None)
    assert all(held_out[1, index] is None for index in fold)
    assert all(held_out[2, index] is not None for index in fold)


@pytest.mark.parametrize(("reached", "fitted"), [((0.5, 0.4), 2), ((0.5, 0.6, 0.6), 3), ((0.5, 0.6, 0.7, 0.8), 4)])
def test_larger_sizes_are_tried_as_long_as_they_gain(network, monkeypatch, reached, fitted):
    scores, seen = iter(reached), []
    real = combination._Fitting.at
    monkeypatch.setattr(combination, "_reached", lambda *_: next(scores, 0.0))
    monkeypatch.setattr(
        combination._Fitting, "at", lambda self, size, step: (seen.append(size), real(self, size, step))[1]
    )
    sizes = (32, 64, 96, 128)
    found = combine(network, CPU, support(4), sizes, SETTINGS, Report())
    assert tuple(seen) == sizes[:fitted]
    assert {each.size for each in found.segmenter.heads} <= set(sizes[max(0, fitted - 3) : fitted])


def test_targets_are_seen_as_the_examples_were_when_they_judged(network):
    cut = []

    def at(size):
        cut.append(size)
        return support(4, size=size)

    task = Task(at, (SIZE,), finer=(SIZE, 2 * SIZE))
    ready = prepare(network, CPU, task, InferenceSettings(supports=4, draws=1, calibrate=True), Report())
    assert ready.calibration.support.size == max(cut) == 2 * SIZE


def test_finer_sizes_are_left_out_where_their_pictures_would_fill_the_memory(network, monkeypatch):
    cut = []
    monkeypatch.setattr(prepare_module, "PICTURES_BYTES", 4 * 40 * (2 * SIZE) ** 2)
    task = Task(lambda size: (cut.append(size), support(4, size=size))[1], (SIZE,), finer=(SIZE, 2 * SIZE))
    prepare(network, CPU, task, InferenceSettings(supports=4, draws=1, calibrate=True), Report())
    assert set(cut) == {SIZE}


def test_fitting_heads_can_be_cancelled_between_two_examples(network):
    calls = []
    report = Report(lambda done, total, message: (calls.append(message), report.cancel() if len(calls) == 3 else None))
    with pytest.raises(Cancelled):
        combine(network, CPU, support(4), (SIZE,), SETTINGS, report)
    assert len(calls) == 3 and calls[0].startswith("heads are fitted")


def own_slices():
    """Five slices of one volume, in which a disk moves a little."""
    slices = []
    for number, position in enumerate((0.1, 0.3, 0.5, 0.7, 0.9)):
        one = example(0)
        slices.append(
            replace(
                one,
                image=np.roll(one.image, 2 * number, axis=0),
                labels=np.roll(one.labels, 2 * number, axis=0),
                position=position,
                source=f"target axial {number}",
            )
        )
    return SupportSet(tuple(slices), (Label(1, "disk"),), "axial", SIZE)


def test_slices_of_the_target_are_judged_where_others_lie_on_either_side_and_choose_nothing(network):
    found = combine(network, CPU, own_slices(), (SIZE,), SETTINGS, Report(), own=True)
    assert {trial.index for trial in found.trials} == {1, 2, 3}
    assert found.calibration.shifts == {}
    assert found.segmenter.weights[1] == {NETWORK: 0.5, "fitted at 64": 0.5}


def test_between_slices_of_the_target_more_is_expected_than_of_those_left_out(network):
    expected = {}
    for own in (False, True):
        task = Task(lambda size: own_slices(), (SIZE,), own=own)
        expected[own] = prepare(network, CPU, task, SETTINGS, Report()).foresight.expected[1].dice
    assert 0.9 < expected[True] < 1
    assert expected[False] < expected[True]


def test_where_it_is_to_adapt_a_head_learns_from_changed_examples_too_and_is_judged_like_the_others(network):
    settings = replace(SETTINGS, adapt_seconds=10.0)
    found = combine(network, CPU, support(4), (SIZE,), settings, Report())
    asked = {name for weights in found.segmenter.weights.values() for name in weights}
    assert asked <= {NETWORK, "fitted at 64", "fitted at 64, augmented"}
    assert "fitted at 64, augmented" in asked


def test_more_seconds_make_more_copies_and_many_examples_fewer(network, monkeypatch):
    asked = []

    def at(self, size, step, copies=0):
        asked.append(copies)
        head = FittedHead(network.backbone.channels[: fitted.LEVELS], 2)
        return head, {(value, index): None for value, indices in self.tries.items() for index in indices}

    monkeypatch.setattr(combination._Fitting, "at", at)
    for count, seconds in ((4, 2.0), (4, 4.0), (4, 60.0), (12, 2.0), (8, 1.0)):
        combine(network, CPU, support(count), (SIZE,), replace(SETTINGS, adapt_seconds=seconds), Report())
    assert [each for each in asked if each] == [2, 3, 8]
