"""Leaving examples out: each of them segmented by the others, which tells how well they do their work."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit
from torch.nn.functional import interpolate

from InContextSegLib.examples.support import SupportSet
from InContextSegLib.inference.cached import CachedSegmenter

THRESHOLDS = (0.5, 0.4, 0.3, 0.2, 0.1, 0.6, 0.7)
# Of Dice, or a share of what is missing to 1: what departs from the usual costs time or is a guess.
LEAST_GAIN, LEAST_SHARE = 0.02, 0.1


@dataclass(frozen=True, eq=False)
class LeaveOut:
    """Examples to be segmented by one another, the others ranked once for each.

    Args:
        support: the examples at the size that the network sees.
        truth: the same examples at the size on which answers are compared.
        units: for every example the name of what it is left out with (`units`, or `origin` alone).
    """

    support: SupportSet
    truth: SupportSet
    units: tuple[str, ...]

    @cached_property
    def _ranked(self) -> dict[int, tuple[int, ...]]:
        return {}

    def others(self, index: int) -> tuple[int, ...]:
        """Indices of the examples of other units, those that resemble this one most first."""
        if index not in self._ranked:
            others = [number for number, name in enumerate(self.units) if name != self.units[index]]
            self._ranked[index] = self.support.ranked(index, others)
        return self._ranked[index]

    def logits(self, network: CachedSegmenter, value: int, index: int, count: int) -> Float[np.ndarray, "h w"] | None:
        """The answer for an example from the `count` others that resemble it most; None if none of them shows it.

        Both it and the others are to tell of the label.
        """
        others = [self.support.examples[number] for number in self.others(index)]
        others = [other for other in others if other.tells(value)][:count]
        if not any((other.labels == value).any() for other in others):
            return None  # what none shows is not looked for
        image = network.picture(self.support.examples[index])[None]
        position = self.support.examples[index].place
        logits = network.logits(network.embed(image, (), [position]), network.context(others, value), label=value)
        size = self.truth.examples[index].labels.shape
        return interpolate(logits, size=size, mode="bilinear", align_corners=False)[0, 0].cpu().numpy()

    def overlap(
        self, logits: Float[np.ndarray, "h w"] | None, value: int, index: int
    ) -> Float[np.ndarray, "2 thresholds"]:
        """Twice the common pixels of answer and label, and the sum of both, at every one of `THRESHOLDS`."""
        wanted: Bool[np.ndarray, "h w"] = self.truth.examples[index].labels == value
        found = [np.zeros_like(wanted) if logits is None else logits > logit(each) for each in THRESHOLDS]
        return np.array(
            [[2 * (one & wanted).sum() for one in found], [one.sum() + wanted.sum() for one in found]], float
        )


def soft_overlap(logits: Float[np.ndarray, "h w"] | None) -> Float[np.ndarray, "2 thresholds"]:
    """What `LeaveOut.overlap` is in the mean if probabilities are right: common pixels twice, and the sum of both."""
    if logits is None:
        return np.zeros((2, len(THRESHOLDS)))
    found = []
    for number in range(len(THRESHOLDS)):
        probability = expit(logits.astype(np.float64) + shift_of(number))
        inside = probability > 0.5
        found.append((2 * probability[inside].sum(), inside.sum() + probability.sum()))
    return np.array(found).T


def dice(overlap: Float[np.ndarray, "2 thresholds"]) -> Float[np.ndarray, " thresholds"]:
    """Dice out of twice the common pixels and the sum of both masks; 1 where both are empty."""
    common, total = overlap
    return np.where(total > 0, common / np.maximum(total, 1), 1.0)


def best_threshold(scores: Float[np.ndarray, " thresholds"]) -> int:
    """The number of the best threshold; the first stays unless another gains."""
    best = int(scores.argmax())
    return best if gains(scores[best], scores[0]) else 0


def shift_of(threshold: int) -> float:
    """What to add to logits so that 0.5 does what the threshold of that number did."""
    return logit(1 - THRESHOLDS[threshold])


def threshold_of(shift: float) -> int:
    """The number of the threshold that a shift stands for."""
    return int(np.argmin([abs(shift_of(threshold) - shift) for threshold in range(len(THRESHOLDS))]))


def gains(score: float, before: float) -> bool:
    """Whether it is worth a departure."""
    return bool(score > before and score >= before + min(LEAST_GAIN, LEAST_SHARE * (1 - before)))


def logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))
