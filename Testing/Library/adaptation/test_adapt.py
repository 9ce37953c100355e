"""Adapting: a network learns from the examples, is judged on what it has not learnt from, and keeps to its time."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from InContextSegLib.adaptation import adapt as adapt_module
from InContextSegLib.adaptation import episodes as episodes_module
from InContextSegLib.adaptation.adapt import Adaptation, _least_gain, adapt, differences, foresee, with_differences
from InContextSegLib.adaptation.episodes import EpisodeSampler
from InContextSegLib.adaptation.leave_out import LeaveOut, dice
from InContextSegLib.errors import Cancelled, InputError
from InContextSegLib.examples.origins import units
from InContextSegLib.examples.support import Example, SupportSet
from InContextSegLib.inference.prior import Calibration, Expected
from InContextSegLib.inference.settings import STEPS_PER_SECOND, AdaptSettings, InferenceSettings
from InContextSegLib.models.universeg import UniverSeg
from InContextSegLib.progress import Report
from Testing.Library.fake_segmenter import LABEL, Learner, Spoilt, Threshold, square, squares
from Testing.Library.work_clock import WorkClock

CPU = torch.device("cpu")


def adapted(network, support, steps=80, seed=0, report=None, shown=4):
    return adapt(network, CPU, Calibration(support, shown), AdaptSettings(15, seed, steps), report or Report())


def test_a_network_learns_to_find_what_it_just_missed():
    network = Learner()
    told = adapted(network, squares(6))
    assert told.helped and "better" in told.why
    assert told.before[1].dice == 0.0 and told.after[1].dice == 1.0
    assert told.expected is told.after
    assert told.applied(network).level < network.level
    assert network.level.item() == pytest.approx(0.63)


def test_a_network_that_gets_no_better_stays_as_it_was():
    network = Spoilt()
    told = adapted(network, squares(6))
    assert not told.helped and "not segmented better by enough (Dice -1.000, at least +0.016" in told.why
    assert told.applied(network) is network and told.differences == {}
    assert told.before[1].dice == 1.0 > told.after[1].dice
    assert told.expected is told.before


def test_the_fewer_were_tried_the_more_they_must_gain():
    def judged(gain, units):
        before, after = Expected(0.5, 0.1, units), Expected(0.5 + gain, 0.1, units)
        calibration = Calibration(squares(2), 4)
        return Adaptation({}, False, "", calibration, {1: before}, {1: after}, (), 0, 0.0)

    assert judged(0.06, 16).gain == pytest.approx(0.06)
    assert _least_gain(judged(0.06, 2)) == pytest.approx(0.08)
    assert _least_gain(judged(0.06, 17)) == pytest.approx(0.005)


@pytest.mark.parametrize("count", [2, 3])
def test_two_examples_are_enough(count):
    assert adapted(Learner(), squares(count)).helped


def test_one_example_leaves_nothing_to_judge_by():
    network = Learner()
    told = adapted(network, squares(1))
    assert not told.helped and told.steps == 0 and "no label is shown by two" in told.why
    assert told.applied(network) is network and told.expected == {}


def test_slices_of_one_volume_predict_one_another_but_those_of_two_volumes_do_not():
    def slices(volumes):
        examples = [square(n, position=n / 8, source=f"case{n % volumes}.nii.gz axial {n}") for n in range(6)]
        return SupportSet(tuple(examples), (LABEL,), "axial", examples[0].image.shape[0])

    assert adapted(Learner(), slices(1)).before[1].units == 6
    assert adapted(Learner(), slices(2)).before[1].units == 2


def test_no_copy_is_judged_on_what_it_learnt_from(monkeypatch):
    """Every example lies in the fold of one copy, is kept from its episodes, and is segmented by it alone."""
    learnt_from, judged_by = {}, {}
    train, tried_by = EpisodeSampler.train, adapt_module._Judge.after

    def trained(self, network, among, *others):
        learnt_from.setdefault(id(network), set()).update(among)
        return train(self, network, among, *others)

    def after(self, copies, folds, unchanged):
        for copy, fold in zip(copies, folds, strict=True):
            judged_by[id(copy)] = set(fold)
        return tried_by(self, copies, folds, unchanged)

    monkeypatch.setattr(EpisodeSampler, "train", trained)
    monkeypatch.setattr(adapt_module._Judge, "after", after)
    adapted(Spoilt(), squares(6))
    assert len(judged_by) == 2
    assert sorted(index for fold in judged_by.values() for index in fold) == list(range(6))
    for copy, fold in judged_by.items():
        assert learnt_from[copy] and not learnt_from[copy] & fold


def test_the_answer_for_an_example_is_that_of_its_own_copy():
    support = squares(6)
    judge = adapt_module._Judge(
        LeaveOut(support, support, units(support)), 4, Report(), [(1, index) for index in range(6)]
    )
    blind, seeing = Learner(2.0), Learner(0.3)
    unchanged = Adaptation({}, False, "", Calibration(support, 4), {}, {}, (), 0, 0.0)
    told = judge.after([blind, seeing], [{0, 1, 2}, {3, 4, 5}], unchanged)
    found = {trial.index: float(dice(trial.overlap)[0]) for trial in told.trials}
    assert found == {0: 0.0, 1: 0.0, 2: 0.0, 3: 1.0, 4: 1.0, 5: 1.0}


def test_a_better_threshold_is_no_merit_of_what_was_learnt(monkeypatch):
    """The network is unsure of all; nothing is learnt, so nothing is gained."""
    monkeypatch.setattr(episodes_module, "LEARNING_RATE", 0.0)
    network = Learner(0.63)
    network.STEEPNESS = 50  # 0.38 where the square is
    told = adapted(network, squares(6))
    assert told.before[1].dice == told.after[1].dice == 1.0
    assert not told.helped


def test_without_a_step_nothing_has_helped(monkeypatch):
    monkeypatch.setattr(EpisodeSampler, "train", lambda *arguments: 0)
    assert not adapted(Learner(), squares(6)).helped


def test_the_number_of_threads_is_as_before():
    before = torch.get_num_threads()
    adapted(Learner(), squares(4), steps=8)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == before == torch.get_num_threads()


def test_a_network_without_parameters_has_nothing_to_learn():
    told = adapted(Threshold(), squares(4))
    assert not told.helped and told.steps == 0


def learnt_weights(seed):
    """What a few steps of training make of one network's first weights."""
    torch.manual_seed(7)
    network, support = UniverSeg((4, 4)), squares(5)
    sampler = EpisodeSampler(LeaveOut(support, support, units(support)), CPU, seed)
    sampler.train(network, range(5), 3, math.inf, lambda step: None)
    return network.state_dict()["enc_blocks.0.cross.cross_conv.weight"]


def test_the_same_seed_learns_the_same_and_another_seed_something_else():
    def learnt(seed):
        torch.manual_seed(7)
        return adapted(UniverSeg((4, 4)), squares(5), steps=8, seed=seed)

    first, again = learnt(0), learnt(0)
    assert first.after == again.after
    if first.helped:
        assert all(torch.equal(first.differences[name], again.differences[name]) for name in first.differences)
    assert [trial.overlap.tolist() for trial in first.trials] == [trial.overlap.tolist() for trial in again.trials]
    weights = [learnt_weights(seed) for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_differences_lead_from_one_network_to_the_other_up_to_half_precision():
    torch.manual_seed(1)
    one, other = UniverSeg((4, 4)), UniverSeg((4, 4))
    added = differences(one, other)
    assert {tensor.dtype for tensor in added.values()} == {torch.float16}
    changed = with_differences(one, added).state_dict()
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(changed[name], tensor, atol=1e-3, rtol=1e-3)
    assert not torch.equal(one.state_dict()["out_conv.conv.bias"], changed["out_conv.conv.bias"])


class Slow(Learner):
    """Takes a tenth of a second of a clock for every answer."""

    clock = None

    def segment(self, embedding, context):
        self.clock.now += 0.1
        return super().segment(embedding, context)


def test_the_time_is_kept_by_a_slow_computer_that_takes_fewer_steps(monkeypatch):
    clock = WorkClock(monkeypatch)
    monkeypatch.setattr(Slow, "clock", clock)
    told = adapt(Slow(), CPU, Calibration(squares(6), 2), AdaptSettings(4), Report())
    assert 4 * 0.8 < clock.now < 4 * 1.2
    assert 4 <= told.steps < 4 * STEPS_PER_SECOND


def test_a_quick_computer_takes_no_more_steps_than_were_planned(monkeypatch):
    WorkClock(monkeypatch)
    assert adapt(Learner(), CPU, Calibration(squares(6), 2), AdaptSettings(2), Report()).steps == 2 * STEPS_PER_SECOND


@pytest.mark.parametrize("word", ["each example", "adapts"])
def test_adapting_can_be_cancelled_while_it_judges_and_while_it_learns(word):
    network = Learner()
    report = Report(lambda done, total, message: word in message and report.cancel())
    with pytest.raises(Cancelled, match="Cancelled after"):
        adapted(network, squares(6), steps=400, report=report)
    assert network.level.item() == pytest.approx(0.63)


def test_what_a_network_as_it_is_leads_to_expect():
    trials, expected = foresee(Learner(0.3), CPU, Calibration(squares(6), 4), Report())
    assert expected[1].dice == 1.0 and expected[1].spread == 0.0 and expected[1].units == 6
    assert len(trials) == 6
    _, lone = foresee(Learner(0.3), CPU, Calibration(squares(1), 4), Report())
    assert lone == {}


def test_the_record_says_what_was_learnt_and_what_came_of_it():
    record = adapted(Learner(), squares(6)).record
    assert record["helped"] and record["steps"] == 80
    assert (
        record["before"]["1"]["dice"] == 0.0
        and record["after"]["1"].items() >= {"dice": 1.0, "spread": 0.0, "units": 6}.items()
    )


@pytest.mark.parametrize(
    ("numbers", "match"),
    [({"seconds": 0.5}, "Adapting takes from 1 to 86400 seconds, but 0.5"), ({"steps": 0}, "at least 1 step, but 0")],
)
def test_settings_that_make_no_sense_are_refused(numbers, match):
    with pytest.raises(InputError, match=match):
        AdaptSettings(**numbers)


def test_inference_settings_refuse_the_same():
    with pytest.raises(InputError, match="Adapting takes from 1"):
        InferenceSettings(adapt_seconds=0.2)
    assert InferenceSettings().adapt_seconds == 0.0


def test_several_labels_are_judged_each_for_itself():
    examples = [square(n, value=1 + n % 2) for n in range(8)]
    support = SupportSet(tuple(examples), (LABEL, type(LABEL)(2, "other")), "axial", examples[0].image.shape[0])
    told = adapted(Learner(), support)
    assert set(told.before) == set(told.after) == {1, 2}
    assert np.isfinite([each.dice for each in told.before.values()]).all()


def test_answers_are_compared_on_the_finest_pixels_at_hand():
    """A label that is finer at twice the size than the network's pixels can follow."""
    coarse = squares(6)
    fine = SupportSet(
        tuple(
            Example(
                each.image.repeat(2, 0).repeat(2, 1),
                each.labels.repeat(2, 0).repeat(2, 1) * (np.indices((64, 64)).sum(axis=0) % 2).astype(np.uint16),
                None,
                each.source,
            )
            for each in coarse.examples
        ),
        coarse.labels,
        "axial",
        64,
    )
    _, expected = foresee(Learner(0.3), CPU, Calibration(coarse, 4, truth=fine), Report())
    assert expected[1].dice == pytest.approx(2 / 3, abs=0.05)
