"""Fitting heads to the examples, and choosing by leave-one-out what answers: the network, the heads, or their mean.

The examples are divided into folds by picture or volume. Heads fitted to the rest answer for a fold, and so does the
network from the rest; what is best in the mean over the examples left out is what answers for the targets. The heads
for the targets are fitted to all examples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from InContextSegLib.adaptation.calibration import FEWEST
from InContextSegLib.adaptation.expectation import Trial, to_try, trial
from InContextSegLib.adaptation.leave_out import LeaveOut, best_threshold, dice, shift_of
from InContextSegLib.examples.origins import spread_evenly, units
from InContextSegLib.examples.support import Example, SupportSet
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.inference.combined import AUGMENTED, NETWORK, Combined, FittedAt, resized
from InContextSegLib.inference.prior import Calibration
from InContextSegLib.inference.settings import InferenceSettings
from InContextSegLib.inference.shape_prior import ShapePrior
from InContextSegLib.models.fitted import LEVELS, FittedHead, Pixels, fit_head, pixels_of
from InContextSegLib.models.incontext import InContextNet
from InContextSegLib.progress import Report
from InContextSegLib.training.augment import chosen, moved, uniform

SHAPE = "shape"  # what the labelled slices of one volume say of those between
FOLDS = 4
MOST_PICTURES = 96  # that heads are fitted to
SHOWING_SHARE = 0.7  # of them, where there are enough, that show a label
MOST_PIXELS = 40  # as many examples give all the pixels they may; of more each gives less
MOST_TRIED = 16  # examples left out for a label
MOST_HEADS = 3  # that answer together; those at smaller sizes give way
COPIES = 8  # of an example, changed, at most
CHANGE, LIGHT = 2.0, 0.3  # how strongly they are `moved`; the largest logarithm of their gamma
CHANGED_A_SECOND = 3  # pictures of the network's own size, the fitting included
LONGER = 2  # times as long as a head that sees no copies is fitted
FEWER_SHOWN = (16, 8)  # examples, tried beside as many as are asked for: the few most like a slice may tell more
BEST_BY = 0.01  # of mean Dice that fewer members must be better by than all

Answers = Mapping[tuple[int, int], Float[np.ndarray, "h w"] | None]  # logits by label value and index of an example


@dataclass(frozen=True, eq=False)
class Combination:
    """What answers for a task.

    Attributes:
        segmenter: the network and the heads, weighted.
        calibration: thresholds and Dice of the examples left out.
        trials: the examples left out, as the combination segmented them.
    """

    segmenter: Combined
    calibration: Calibration
    trials: tuple[Trial, ...]


def combine(
    network: InContextNet,
    device: torch.device,
    support: SupportSet,
    sizes: Sequence[int],
    settings: InferenceSettings,
    report: Report,
    own: bool = False,
) -> Combination:
    """Fit heads at every size, and find out what is to answer.

    Where the settings ask for adapting, one more head is fitted to changed copies of the examples as well, as many as
    the seconds allow; examples left out say whether it answers, as they do of every other, and where too few can be
    left out it does not.

    Args:
        support: the examples at the largest of the sizes.
        sizes: of pictures in pixels, the network's own first. Heads are fitted at them one after the other, from the
            second on as long as they find examples left out better than those at the size before.
        own: whether the examples are slices of the very target.

    Raises:
        Cancelled: from `report`.
    """
    network.to(device)
    values, shown, seed = [label.value for label in support.labels], settings.supports, settings.seed
    leave = LeaveOut(support, support, units(support))
    tries = {value: to_try(leave, value, MOST_TRIED) for value in values}
    shapes = {(value, index): _shape(support, value, index) for value in values for index in tries[value] if own}
    if own:  # beyond the outermost labelled slices nothing is asked
        tries = {value: [index for index in tries[value] if shapes[value, index] is not None] for value in values}
    folds = _folds(leave.units, seed)
    fitting = _Fitting(network, device, support, tries, folds, seed, mirrored=len(values) == 1 and not own)
    heads, answers = _fitted(fitting, leave, sizes, settings, report)
    step = partial(report.step, len(sizes), len(sizes) + 1, "the network predicts the examples by one another")
    step()
    alone = CachedSegmenter(Combined(network, sizes[0]), device)
    shown, answers[NETWORK], tried_with = _by_the_network(leave, alone, tries, shown, choose=not own)
    answers[SHAPE] = shapes
    weights, shifts, scores, trials = {}, {}, {}, []
    names = [NETWORK, *(each.name for each in heads)]
    for value in values:
        step()
        # Slices left out of one volume lie twice as far from labelled ones as a target's: they tell what to expect at
        # least, and not what is best.
        found = _best(leave, value, tries[value], answers, names, choose=not own)
        weights[value], shifts[value], scores[value], tried = found
        trials += tried
    heads = [each for each in heads if any(weight.get(each.name) for weight in weights.values())]
    calibration = Calibration(
        support,
        shown,
        {value: shift for value, shift in shifts.items() if shift},
        {value: score for value, score in scores.items() if tries[value]},
        {(sizes[0], count): reached for count, reached in tried_with.items()},
        support,
    )
    return Combination(Combined(network, sizes[0], heads, values, weights), calibration, tuple(trials))


def _by_the_network(
    leave: LeaveOut, alone: CachedSegmenter, tries: Mapping[int, Sequence[int]], shown: int, choose: bool
) -> tuple[int, Answers, dict[int, float]]:
    """How many examples to show the network, its answers from so many, and the mean Dice from every number tried.

    Args:
        shown: at most.
        choose: fewer where the answers are better.
    """
    fewer = [count for count in FEWER_SHOWN if choose and count < min(shown, len(leave.support) - 1)]
    answers = {
        count: {
            (value, index): leave.logits(alone, value, index, count)
            for value, indices in tries.items()
            for index in indices
        }
        for count in (shown, *fewer)
    }
    reached = {count: _reached(leave, tries, found) for count, found in answers.items()}
    best = max(reached, key=reached.get)
    shown = best if reached[best] > reached[shown] + BEST_BY else shown
    return shown, answers[shown], reached if fewer else {}


def _fitted(
    fitting: "_Fitting", leave: LeaveOut, sizes: Sequence[int], settings: InferenceSettings, report: Report
) -> tuple[list[FittedAt], dict[str, Answers]]:
    """Heads at one size after the other, the last ones of them, and their answers for examples left out, by name."""
    heads, answers, reached = [], {}, []
    for number, at in enumerate(sizes):
        step = partial(report.step, number, len(sizes) + 1, f"heads are fitted to the examples, at {at} pixels")
        head, held_out = fitting.at(at, step)
        heads.append(FittedAt(at, head))
        answers[heads[-1].name] = held_out
        reached.append(_reached(leave, fitting.tries, held_out))
        if number and reached[-1] <= reached[-2]:
            break
    heads = heads[-MOST_HEADS:]
    at = sizes[int(np.argmax(reached))]
    changed = CHANGED_A_SECOND * settings.adapt_seconds * (sizes[0] / at) ** 2
    copies = min(COPIES, round(changed / len(fitting.learnt)))
    if copies:
        message = f"a head is fitted to changed examples, at {at} pixels"
        head, held_out = fitting.at(at, partial(report.step, len(sizes), len(sizes) + 1, message), copies)
        heads.append(FittedAt(at, head, augmented=True))
        answers[heads[-1].name] = held_out
    return heads, {each.name: answers[each.name] for each in heads}


def _reached(leave: LeaveOut, tries: Mapping[int, Sequence[int]], held_out: Answers) -> float:
    """Mean Dice of the labels at their best thresholds; 0 where too few pictures show one to tell a size by them."""
    scores = []
    for value, indices in tries.items():
        if len({leave.units[index] for index in indices}) >= FEWEST:
            overlaps = [leave.overlap(held_out[value, index], value, index) for index in indices]
            scores.append(np.mean([dice(each) for each in overlaps], axis=0).max())
    return float(np.mean(scores)) if scores else 0.0


def _best(
    leave: LeaveOut,
    value: int,
    indices: Sequence[int],
    answers: Mapping[str, Answers],
    names: Sequence[str],
    choose: bool = True,
) -> tuple[dict[str, float], float, float, list[Trial]]:
    """Weights, shift of the logits, mean Dice and trials of the members that do best together for a label.

    Args:
        choose: members and threshold; else they are the usual ones.
    """

    def trials(weights: Mapping[str, float]) -> list[Trial]:
        return [trial(leave, value, index, _mean(answers, weights, value, index)) for index in indices]

    if not choose or len({leave.units[index] for index in indices}) < FEWEST:
        weights = _usual(names)
        tried = trials(weights)
        score = float(np.mean([dice(each.overlap)[0] for each in tried])) if indices else float("nan")
        return weights, 0.0, score, tried
    best, judged = None, {}
    for count in range(len(names), 0, -1):
        for members in combinations(names, count):
            weights = dict.fromkeys(members, 1 / count)
            overlaps = [leave.overlap(_mean(answers, weights, value, index), value, index) for index in indices]
            scores = np.mean([dice(each) for each in overlaps], axis=0)
            judged[members] = (weights, scores)
            if best is None or scores[0] > judged[best][1][0] + BEST_BY:
                best = members
    weights, scores = judged[best]
    threshold = best_threshold(scores)
    return weights, shift_of(threshold), float(scores[threshold]), trials(weights)


def _usual(names: Sequence[str]) -> dict[str, float]:
    """Weights where too few pictures tell what is best: the network, which learnt from many tasks, counts half."""
    names = [name for name in names if not name.endswith(AUGMENTED)]  # of few examples copies did harm
    heads = [name for name in names if name != NETWORK]
    if len(heads) in (0, len(names)):
        return dict.fromkeys(names, 1 / len(names))
    return {NETWORK: 0.5} | dict.fromkeys(heads, 0.5 / len(heads))


def _mean(
    answers: Mapping[str, Answers], weights: Mapping[str, float], value: int, index: int
) -> Float[np.ndarray, "h w"] | None:
    """The weighted mean of members' logits for an example, and what its neighbours' shape adds; None: nothing is there.

    What none of the examples chosen for a slice shows is not looked for in it, whatever heads say.
    """
    shape = answers.get(SHAPE, {}).get((value, index))
    if NETWORK in answers and answers[NETWORK][value, index] is None:
        return shape
    there = {name: answers[name][value, index] for name in weights}
    there = {name: each for name, each in there.items() if each is not None}
    if not there:
        return shape
    mean = np.average(list(there.values()), axis=0, weights=[weights[name] for name in there])
    return (mean if shape is None else mean + shape).astype(np.float32)


def _shape(support: SupportSet, value: int, index: int) -> Float[np.ndarray, "h w"] | None:
    """What the other slices of the volume say of the shape in one of them."""
    telling = [example for example in support.examples if example.tells(value)]
    others = {example.position: example.labels == value for example in telling}
    place = support.examples[index].position
    return None if place is None else ShapePrior(others).without(place).logits(place)


@dataclass(frozen=True, eq=False)
class _Fitting:
    """Heads for the examples of one task, at whatever size."""

    network: InContextNet
    device: torch.device
    support: SupportSet
    tries: Mapping[int, Sequence[int]]
    folds: Sequence[frozenset[int]]
    seed: int
    mirrored: bool = False  # whether changed examples may be: not where labels tell left from right

    @cached_property
    def learnt(self) -> list[int]:
        """Indices of the examples that heads are fitted to."""
        return _to_learn(self.support, list(self.tries))

    def at(self, size: int, step: Callable[[], None], copies: int = 0) -> tuple[FittedHead, Answers]:
        """A head fitted to all examples, and logits for those tried from heads that have not seen their fold.

        Args:
            step: called before every example and every fold, to say how far it is and to be cancelled.
            copies: of every example, changed at random, that heads are fitted to as well.
        """
        values, learnt = list(self.tries), self.learnt
        tried = sorted({index for indices in self.tries.values() for index in indices})
        share, generator = min(1.0, MOST_PIXELS / len(learnt)), self._generator()
        sample: dict[int, list[Pixels]] = {}
        seen = {}
        for index in sorted({*learnt, *tried}):
            step()
            example = self.support.examples[index]
            picture, masks = self._picture(example, size), self._masks(example, size)
            maps = self._features(picture)
            if index in learnt:
                sample[index] = [_sample(maps, picture, masks, example, values, generator, share)]
                for _ in range(copies):
                    step()
                    other = _changed(picture, masks, generator, self.mirrored)
                    maps_of_it = self._features(other[0])
                    sample[index].append(_sample(maps_of_it, *other, example, values, generator, share / 2))
            if index in tried:
                seen[index] = [each.half() for each in maps], picture
        longer = LONGER if copies else 1
        own, taught = {}, {}
        for fold in self.folds:
            rest = [pixels for index, own_pixels in sample.items() if index not in fold for pixels in own_pixels]
            asked = [index for index in tried if index in fold]
            if asked and rest:
                step()
                own |= self._answers(self._head(rest, longer), asked, seen)
                shown = {value for value in values if self._taught(value, sample, fold)}
                taught |= dict.fromkeys(asked, shown)
        held_out = {
            (value, index): own[index][number].copy() if index in own and value in taught[index] else None
            for number, value in enumerate(values)
            for index in self.tries[value]
        }
        return self._head([pixels for own_pixels in sample.values() for pixels in own_pixels], longer), held_out

    def _taught(self, value: int, sample: Mapping[int, Sequence[Pixels]], fold: frozenset[int]) -> bool:
        """Whether some example that was fitted and is not of the fold shows the label."""
        shown = (self.support.examples[index].labels == value for index in sample if index not in fold)
        return any(each.any() for each in shown)

    def _head(self, sample: Sequence[Pixels], longer: int) -> FittedHead:
        return fit_head(sample, self.network.backbone.channels[:LEVELS], self._generator(), longer)

    def _answers(self, head: FittedHead, asked: Sequence[int], seen) -> dict[int, Float[np.ndarray, "k h w"]]:
        found = {}
        for index in asked:
            maps, picture = seen[index]
            logits = head([each.float() for each in maps], picture, [self.support.examples[index].place])
            found[index] = resized(logits, self.support.size)[0].half().numpy()
        return found

    def _picture(self, example: Example, size: int) -> Float[Tensor, "1 3 h w"]:
        return resized(torch.from_numpy(example.picture)[None].to(self.device), size).cpu()

    def _masks(self, example: Example, size: int) -> Float[Tensor, "1 k h w"]:
        masks = torch.from_numpy(np.stack([example.labels == value for value in self.tries])).float()
        return resized(masks[None], size)

    def _features(self, picture: Float[Tensor, "1 3 h w"]) -> list[Tensor]:
        return [each.cpu() for each in self.network.features(picture.to(self.device))[:LEVELS]]

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


def _sample(
    maps, picture, masks, example: Example, values: Sequence[int], generator: torch.Generator, share: float
) -> Pixels:
    known = [example.tells(value) for value in values]
    return pixels_of(maps, picture, masks[0], example.place, known, generator, share)


def _changed(
    picture: Float[Tensor, "1 3 h w"], masks: Float[Tensor, "1 k h w"], generator: torch.Generator, mirrored: bool
) -> tuple[Float[Tensor, "1 3 h w"], Float[Tensor, "1 k h w"]]:
    """A picture and its masks turned, scaled, shifted, bent and mirrored by chance together, and in another light."""
    picture, masks = moved(picture, masks, CHANGE, generator)
    flipped = [axis for axis in (-2, -1) if mirrored and chosen(0.5, (), generator)]
    picture, masks = picture.flip(flipped), masks.flip(flipped)
    gamma = torch.exp(uniform(-LIGHT, LIGHT, (), generator))
    return picture.clamp(0, 1) ** gamma, masks


def _to_learn(support: SupportSet, values: Sequence[int]) -> list[int]:
    """Examples that heads are fitted to: all, or of many an even choice, most of which show a label."""
    if len(support) <= MOST_PICTURES:
        return list(range(len(support)))
    showing = {
        value: [n for n, each in enumerate(support.examples) if (each.labels == value).any()] for value in values
    }
    empty = sorted(set(range(len(support))).difference(*showing.values()))
    most = max(round(SHOWING_SHARE * MOST_PICTURES), MOST_PICTURES - len(empty))
    # Of every label some, however rare it is.
    with_label = {n for own in showing.values() for n in spread_evenly(own, max(1, most // len(values)))}
    return sorted([*with_label, *spread_evenly(empty, max(0, MOST_PICTURES - len(with_label)))])


def _folds(names: Sequence[str], seed: int) -> list[frozenset[int]]:
    """Indices of the examples of every fold; those of one unit are never apart."""
    order = np.random.default_rng(seed).permutation(sorted(set(names))).tolist()
    count = min(FOLDS, len(order))
    return [
        frozenset(index for index, name in enumerate(names) if order.index(name) % count == fold)
        for fold in range(count)
    ]
