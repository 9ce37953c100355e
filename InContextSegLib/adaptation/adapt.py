"""Adapting a network to the user's own examples: some seconds of training on episodes made of them alone.

In-context tuning: a query is one example, its supports are others, all mildly changed. The examples are divided into
folds by picture or volume; for each fold a copy of the network learns from the rest and is judged on the fold, which it
has never seen. The mean of the copies (model soup, Wortsman et al., ICML 2022) then learns a little longer from all
examples. Where the copies did no better than the network they came from, they get the rest of the time to learn on and
are judged again; where that does not help either, the network stays as it was.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from threading import Event

import numpy as np
import torch
from torch import Tensor, nn

from InContextSegLib.adaptation.calibration import FEWEST
from InContextSegLib.adaptation.episodes import EpisodeSampler
from InContextSegLib.adaptation.expectation import Trial, expected, in_turns, scores_of, to_try, tried
from InContextSegLib.adaptation.leave_out import LeaveOut, best_threshold, shift_of
from InContextSegLib.errors import Cancelled
from InContextSegLib.examples.origins import units
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.inference.prior import Calibration, Expected
from InContextSegLib.inference.settings import FEWEST_STEPS, AdaptSettings
from InContextSegLib.progress import Report

# By measurement (docs/development/tried.md, "Adapting").
FOLDS, SHARE_IN_FOLDS = 2, 0.5
TRIED_STEPS = 2  # to see how long one takes
TICK_SECONDS, SECONDS_TO_END = 0.1, 0.2
# Work of one judgement, per second of the budget: examples times supports times pictures of 128 x 128.
JUDGED_PER_SECOND = 35
FEWEST_JUDGED, MOST_JUDGED = 4, 16
SHARE_FOR_JUDGING = 0.3  # of the time, before and behind the folds each, on a computer too slow for the number above
MOST_SHOWN = 8  # to the adapted network, which has learnt from fewer
LEAST_GAIN = 0.08  # of mean Dice, over one less than the number of pictures or volumes tried
LEARNING = "the network adapts to the examples"
NOTHING_TO_JUDGE = "no label is shown by two pictures or volumes, of which one could predict the other"


@dataclass(frozen=True, eq=False)
class Adaptation:
    """What a network learnt from the examples of one task, and whether that helps.

    Attributes:
        differences: by the name of a parameter what to add to it, float16.
        helped: whether examples it had not learnt from were segmented better; else the network stays as it was.
        why: the same in words.
        calibration: how the network is best asked, adapted or not.
        before, after: by label value the Dice to expect, without and with what was learnt.
        trials: the examples segmented by the others, by the network that is to be used.
        steps: that were trained.
        cut_short: whether there was too little time to learn enough to tell that it does not help.
    """

    differences: Mapping[str, Tensor]
    helped: bool
    why: str
    calibration: Calibration
    before: Mapping[int, Expected]
    after: Mapping[int, Expected]
    trials: tuple[Trial, ...]
    steps: int
    seconds: float
    cut_short: bool = False

    @property
    def expected(self) -> Mapping[int, Expected]:
        """By label value the Dice to expect of what is going to be used."""
        return self.after if self.helped else self.before

    @property
    def gain(self) -> float:
        """Mean over the labels of the Dice with what was learnt less that without."""
        return float(np.mean([self.after[value].dice - before.dice for value, before in self.before.items()]))

    @property
    def record(self) -> dict:
        """For the provenance of an output."""
        return {
            "helped": self.helped,
            "why": self.why,
            "steps": self.steps,
            "seconds": round(self.seconds, 2),
            "before": {str(value): each.record for value, each in self.before.items()},
            "after": {str(value): each.record for value, each in self.after.items()},
        }

    def applied(self, segmenter: nn.Module) -> nn.Module:
        """A network with what was learnt; the one it came from where that did not help."""
        return with_differences(segmenter, self.differences) if self.helped else segmenter


def adapt(
    segmenter: nn.Module, device: torch.device, calibration: Calibration, settings: AdaptSettings, report: Report
) -> Adaptation:
    """Train a copy of a network on the examples of a calibration, and judge whether it is the better one.

    Args:
        segmenter: a `SliceSegmenter`; it is moved to the device and stays as it is.

    Raises:
        Cancelled: from `report`.
    """
    started, shown = time.monotonic(), min(calibration.shown, MOST_SHOWN)
    leave = _leave_out(calibration)
    judge = _Judge(leave, shown, report, _to_judge(leave, shown, settings))
    latest = math.inf if settings.steps else started + SHARE_FOR_JUDGING * settings.seconds
    trials = judge.before(CachedSegmenter(segmenter, device), latest)
    judging_seconds = time.monotonic() - started
    unchanged = Adaptation(
        {}, False, NOTHING_TO_JUDGE, calibration, _expected(trials, _best_shifts(trials)), {}, trials, 0, 0.0
    )
    if not unchanged.before or not any(each.requires_grad for each in segmenter.parameters()):
        return replace(unchanged, seconds=time.monotonic() - started)

    course = _Course(leave, device, settings, report)
    course.plan(segmenter, started + settings.seconds - judging_seconds)
    everything, folds = range(len(leave.units)), _folds(leave.units, settings.seed)
    copies = [deepcopy(segmenter) for _ in folds]
    rest = [[index for index in everything if index not in fold] for fold in folds]
    course.take(copies, rest)
    told = judge.after(copies, folds, unchanged)
    again = told.gain < _least_gain(told) and course.allow_until(started + settings.seconds - judging_seconds)
    if again:
        # What is left of the time is a second chance for the same copies.
        course.take(copies, rest)
        told = judge.after(copies, folds, unchanged)
    if told.gain < _least_gain(told) or not course.steps:
        needed = f"Dice {told.gain:+.3f}, at least {_least_gain(told):+.3f} was needed"
        why = f"examples it had not learnt from were not segmented better by enough ({needed})"
        short = course.steps < settings.most_steps // 4
        kept = replace(unchanged, after=told.after, why=why, steps=course.steps, cut_short=short)
        return replace(kept, seconds=time.monotonic() - started)

    soup = _soup(copies)
    if not again:
        course.allow_until(started + settings.seconds - SECONDS_TO_END)
        soup = _soup(course.take([soup, deepcopy(soup)], [everything] * FOLDS))
    return replace(
        told,
        differences=differences(segmenter, soup),
        helped=True,
        why=f"examples it had not learnt from were segmented better (Dice {told.gain:+.3f})",
        steps=course.steps,
        seconds=time.monotonic() - started,
    )


def foresee(
    segmenter: nn.Module, device: torch.device, calibration: Calibration, report: Report
) -> tuple[tuple[Trial, ...], dict[int, Expected]]:
    """The examples segmented by one another, and by label value the Dice to expect of a network as it is.

    Raises:
        Cancelled: from `report`.
    """
    network, leave = CachedSegmenter(segmenter, device), _leave_out(calibration)
    tries = in_turns({label.value: to_try(leave, label.value) for label in leave.support.labels})
    trials = tried(lambda index: network, leave, tries, calibration.shown, report)
    return trials, _expected(trials, {value: calibration.shifts.get(value, 0.0) for value in _best_shifts(trials)})


def differences(segmenter: nn.Module, adapted: nn.Module) -> dict[str, Tensor]:
    """What to add to the parameters of one network to get the other one, in float16 on the CPU."""
    own = segmenter.state_dict()
    return {name: (tensor - own[name]).half().cpu() for name, tensor in adapted.state_dict().items()}


def with_differences(segmenter: nn.Module, added: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a network with differences added to its parameters."""
    own = segmenter.state_dict()
    changed = deepcopy(segmenter)
    changed.load_state_dict({name: tensor + added[name].to(tensor) for name, tensor in own.items()})
    return changed.eval()


class _Judge:
    """Asks networks about examples they have not learnt from, always the same ones.

    Attributes:
        tries: pairs of a label's value and an example's index, as many as there was time for.
    """

    def __init__(self, leave: LeaveOut, shown: int, report: Report, tries: Sequence[tuple[int, int]]):
        self.tries = list(tries)
        self._shown, self._tried = shown, partial(tried, leave=leave, count=shown, report=report)

    def before(self, network: CachedSegmenter, deadline: float) -> tuple[Trial, ...]:
        """The trials of the network as it is, until a deadline of `time.monotonic`."""
        trials = self._tried(lambda index: network, tries=self.tries, deadline=deadline)
        self.tries = [(trial.value, trial.index) for trial in trials]
        return trials

    def after(self, copies: Sequence[nn.Module], folds: Sequence[set[int]], unchanged: Adaptation) -> Adaptation:
        """What came of copies, each judged on its fold: expectations, and how an adapted network is best asked."""
        device = next(copies[0].parameters()).device
        asked = [(CachedSegmenter(copy, device), fold) for copy, fold in zip(copies, folds, strict=True)]
        network_of = {index: network for network, fold in asked for index in fold}
        trials = self._tried(network_of.__getitem__, tries=self.tries)
        shifts = _best_shifts(trials)
        calibration = unchanged.calibration
        calibration = replace(calibration, shown=self._shown, shifts=dict(calibration.shifts) | shifts)
        return replace(unchanged, after=_expected(trials, shifts), trials=trials, calibration=calibration)


class _Course:
    """Steps of training, as many as are planned and there is time for, by copies of a network that learn side by side.

    Each copy has its own thread and its own share of the processor's: steps are small, and two threads that wait for
    one another at every operation get less done, on a busy computer far less.

    Attributes:
        steps: done so far by all copies.
    """

    def __init__(self, leave: LeaveOut, device: torch.device, settings: AdaptSettings, report: Report):
        self._deadline = math.inf
        self._done = [0] * FOLDS
        self._settings, self._report, self._device = settings, report, device
        first = EpisodeSampler(leave, device, FOLDS * settings.seed)
        self._samplers = [first, *(first.with_seed(FOLDS * settings.seed + number) for number in range(1, FOLDS))]
        self._step_seconds = 0.0
        self._planned = settings.most_steps
        self._stopped = Event()

    @property
    def steps(self) -> int:
        return sum(self._done)

    def plan(self, segmenter: nn.Module, deadline: float) -> None:
        """See how long a step takes, and plan as many as there is time for; half of the time until the judgement."""
        if self._settings.steps is not None:
            return
        trials = [deepcopy(segmenter) for _ in self._samplers]
        seconds = []
        for _ in range(TRIED_STEPS):
            since = time.monotonic()
            self._side_by_side([partial(self._tried, *each) for each in enumerate(trials)])
            seconds.append((time.monotonic() - since) / len(trials))
        now, self._step_seconds = time.monotonic(), min(seconds)
        self._planned = int(np.clip((deadline - now) / self._step_seconds, FEWEST_STEPS, self._planned))
        self.allow_until(now + (deadline - now) * SHARE_IN_FOLDS)

    def allow_until(self, deadline: float) -> bool:
        """Begin no step behind that time (of `time.monotonic`), unless a number of steps was asked for.

        Returns:
            Whether there is time for a step of every copy.
        """
        if self._settings.steps is None:
            self._deadline = deadline
        return time.monotonic() + self._step_seconds * len(self._samplers) < self._deadline

    def take(self, networks: list[nn.Module], among: Sequence[Sequence[int]]) -> list[nn.Module]:
        """Train each network on its own examples by half of the planned steps; the same networks."""
        steps, now = max(1, round(SHARE_IN_FOLDS * self._planned / len(networks))), time.monotonic()
        # Copies that learn one after the other share the time.
        ends = [
            now + (self._deadline - now) * (n + 1) / len(networks) if self._alone else self._deadline
            for n in range(len(networks))
        ]
        works = [
            partial(self._samplers[n].train, networks[n], among[n], steps, ends[n], partial(self._step_done, n))
            for n in range(len(networks))
        ]
        self._side_by_side(works)
        return networks

    def _tried(self, number: int, network: nn.Module) -> None:
        sampler = self._samplers[number].with_seed(0)
        sampler.train(network, range(len(sampler.leave.units)), 1, math.inf, lambda step: None)

    @property
    def _alone(self) -> bool:
        """A GPU is kept busy by one copy at a time, and a lone thread too."""
        return self._device.type != "cpu" or torch.get_num_threads() == 1

    def _side_by_side(self, works: Sequence[Callable[[], object]]) -> None:
        all_threads = torch.get_num_threads()
        workers, threads = (1, all_threads) if self._alone else (len(works), max(1, all_threads // len(works)))
        try:
            with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
                waiting = {pool.submit(work) for work in works}
                try:
                    while waiting:
                        done, waiting = wait(waiting, timeout=TICK_SECONDS)
                        self._report.step(self.steps, max(self.steps, self._planned), LEARNING)
                        for each in done:
                            each.result()
                finally:
                    self._stopped.set()  # for the others, where one of them failed or the report was cancelled
        finally:
            torch.set_num_threads(all_threads)  # what a thread sets, later threads of the process inherit
        self._stopped.clear()

    def _step_done(self, number: int, step: int) -> None:
        self._done[number] += 1
        if self._stopped.is_set():
            raise Cancelled("Cancelled while the network adapted.")


def _leave_out(calibration: Calibration) -> LeaveOut:
    return LeaveOut(calibration.support, calibration.truth or calibration.support, units(calibration.support))


def _to_judge(leave: LeaveOut, shown: int, settings: AdaptSettings) -> list[tuple[int, int]]:
    """Labels and the examples to leave out for them, few enough that judging leaves time for learning."""
    labels, shown = leave.support.labels, max(1, min(shown, len(leave.units) - 1))
    work_of_one = shown * len(labels) * (leave.support.size / 128) ** 2
    count = int(np.clip(settings.seconds * JUDGED_PER_SECOND / work_of_one, FEWEST_JUDGED, MOST_JUDGED))
    return in_turns({label.value: to_try(leave, label.value, count) for label in labels})


def _folds(names: Sequence[str], seed: int) -> list[set[int]]:
    """Indices of examples in `FOLDS` parts, by whole units."""
    different = list(dict.fromkeys(names))
    order = np.random.default_rng(seed).permutation(len(different))
    parts = [{different[place] for place in order[first::FOLDS]} for first in range(FOLDS)]
    return [{index for index, name in enumerate(names) if name in part} for part in parts]


def _best_shifts(trials: Sequence[Trial]) -> dict[int, float]:
    """By label value the shift that suits the trials best, chosen alike before and after adapting.

    With few units chance decides, so there is none; of less than two units nothing is known, not even a Dice.
    """
    shifts = {}
    for value in dict.fromkeys(trial.value for trial in trials):
        scores = scores_of(trials, value)
        if len(scores) >= 2:
            shifts[value] = shift_of(best_threshold(scores.mean(axis=0))) if len(scores) >= FEWEST else 0.0
    return shifts


def _expected(trials: Sequence[Trial], shifts: Mapping[int, float]) -> dict[int, Expected]:
    return {value: expected(trials, value, shift) for value, shift in shifts.items()}


def _least_gain(tested: Adaptation) -> float:
    """The gain from which the copies count as better: the fewer were tried, the more of it may be chance.

    At least two units were, or there would be nothing to predict one from.
    """
    return LEAST_GAIN / (float(np.mean([each.units for each in tested.before.values()])) - 1)


def _soup(networks: Sequence[nn.Module]) -> nn.Module:
    """A network whose every parameter is the mean of the others'."""
    states, mean = [network.state_dict() for network in networks], deepcopy(networks[0])
    mean.load_state_dict({name: sum(state[name] for state in states) / len(states) for name in states[0]})
    return mean
