"""Style: the low frequencies of a target's pictures brought to those of the examples, without labels.

VPTTA (Chen et al., CVPR 2024) multiplies the lowest frequencies of a picture's amplitude by a prompt, keeps the phase,
and fits the prompt by the statistics of batch normalisation. There is none here, but the examples are the source data
themselves: the prompt is the ratio of their mean amplitudes to the target's, one for all slices of a target. That takes
no steps, and did better than steps along the statistics of the network's own features (docs/development/tried.md).

It is used where examples under an invented other scanner gain by it, for targets outside of what the examples cover.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from InContextSegLib.adaptation.calibration import left_out
from InContextSegLib.adaptation.leave_out import gains
from InContextSegLib.examples.origins import origin
from InContextSegLib.examples.support import SupportSet
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.progress import Report
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.training.augment import another_scanner
from InContextSegLib.volumes.overlap import dice

# Frequencies are whole waves per picture, which spans the whole slice at any size, so the number does not grow with it.
# The paper's 1 % of 128 pixels is 1, the mean alone, which mends contrast and light less (docs/development/tried.md).
BAND = 7
FARTHER = 1.5  # times as far from the examples as the farthest of them is from the others: another scanner
MOST = 2.0  # times stronger or weaker; more than that is anatomy
LEAST_AMPLITUDE = 1e-4  # of a grey range; what is weaker has no style
SHIFT_STRENGTH = 0.7  # of the invented other scanner
MAY_LOSE = 0.005  # of Dice on the examples as they are: noise
AT_ONCE = 64  # pictures in one Fourier transform
PLAIN, ADAPTED, SHIFTED, SHIFTED_ADAPTED = "as they are", "adapted", "shifted", "shifted, adapted"


@dataclass(frozen=True, eq=False)
class Style:
    """What the examples say for and against adapting a target to them.

    Attributes:
        support: the examples.
        used: whether a target is adapted that lies outside of what they cover.
        why: in words.
        dice: mean Dice of examples left out, as they are and under an invented other scanner, with and without.
    """

    support: SupportSet
    used: bool
    why: str
    dice: Mapping[str, float] = field(default_factory=dict)

    def adapt(
        self, pictures: Float[Tensor, "n 1 h w"], positions: Sequence[float | None], own: bool = False
    ) -> tuple[Float[Tensor, "n 1 h w"], "Outcome"]:
        """The pictures of one target in the style of the examples, or as they came, and what was done.

        Args:
            positions: of the pictures along the slice axis, as examples have them.
            own: whether slices of this very target are among the examples.
        """
        if not self.used:
            return pictures, Outcome(self, False, self.why)
        if own:
            return pictures, Outcome(self, False, "slices of the target itself are among the examples")
        adapted, distance, limit = _adapted(pictures[:, 0], positions, self._spectra)
        if adapted is None:
            return pictures, Outcome(self, False, "the target looks like the examples", distance, limit)
        why = "the target lies outside of what the examples cover"
        return adapted[:, None], Outcome(self, True, why, distance, limit)

    @cached_property
    def _spectra(self) -> "_Spectra":
        return _Spectra.of(self.support)


@dataclass(frozen=True, eq=False)
class Outcome:
    """Whether a target was adapted, and why.

    Attributes:
        distance: mean absolute log ratio of the target's amplitudes to the examples'; None where it was not asked.
        limit: up to which the target counts as one of them.
    """

    style: Style
    applied: bool
    why: str
    distance: float | None = None
    limit: float | None = None

    @property
    def record(self) -> dict:
        """For the provenance of an output."""
        record = {"applied": self.applied, "why": self.why, "band": BAND}
        if self.distance is not None:
            record |= {"distance": round(self.distance, 4), "limit": round(self.limit, 4)}
        return record | {"dice": {what: round(score, 4) for what, score in self.style.dice.items()}}


def judge(
    network: CachedSegmenter,
    support: SupportSet,
    intensities: Intensities,
    shown: int,
    shifts: Mapping[int, float],
    report: Report,
) -> Style:
    """Leave examples out, segment them by the others, and see whether adapting helps under another scanner.

    It must gain where the scanner is another one, and not lose where it is the same; the example's whole volume is left
    out and adapted as a target would be. The invented scanner is always the same for the same examples.

    Args:
        intensities: how the grey values of a target become [0, 1].
        shown: examples shown to the network at most.
        shifts: what is added to the logits of a label, by its value.

    Raises:
        Cancelled: from `report`.
    """
    trials = {label.value: left_out(support, label.value) for label in support.labels}
    trials = {value: indices for value, indices in trials.items() if indices}
    if not trials:
        return Style(support, False, "there are too few examples to tell whether it helps")
    origins = [origin(example) for example in support.examples]
    names = sorted({origins[index] for indices in trials.values() for index in indices})
    scores = {value: {} for value in trials}
    for done, name in enumerate(names):
        report.step(done, len(names), "the examples try on the style of another scanner")
        own = [index for index, each in enumerate(origins) if each == name]
        rest = support.without(own)
        spectra = _Spectra.of(rest)
        for what, pictures in _versions(support, own, intensities, spectra, seed=done).items():
            one = _Trial(network, rest, shown, {index: pictures[n] for n, index in enumerate(own)})
            for value, indices in trials.items():
                wanted = [index for index in indices if index in one.pictures]
                scores[value].setdefault(what, []).extend(one.dice(support, wanted, value, shifts.get(value, 0.0)))
    dice = {
        what: float(np.mean([np.mean(scores[value][what]) for value in scores]))
        for what in (PLAIN, ADAPTED, SHIFTED, SHIFTED_ADAPTED)
    }
    return Style(support, *_verdict(dice), dice)


def _verdict(dice: Mapping[str, float]) -> tuple[bool, str]:
    if not gains(dice[SHIFTED_ADAPTED], dice[SHIFTED]):
        return False, "the examples gain too little by it under another scanner"
    if dice[ADAPTED] < dice[PLAIN] - MAY_LOSE:
        return False, "the examples lose by it as they are"
    return True, "the examples gain by it under another scanner and do not lose as they are"


def _versions(
    support: SupportSet, own: Sequence[int], intensities: Intensities, spectra: "_Spectra", seed: int
) -> dict[str, Float[Tensor, "n h w"]]:
    """The pictures of one volume as they are and under another scanner, each also adapted to the other examples."""
    pictures = torch.from_numpy(np.stack([support.examples[index].image for index in own]))
    positions = [support.examples[index].place for index in own]
    generator = torch.Generator().manual_seed(seed)
    shifted = another_scanner(pictures, SHIFT_STRENGTH, generator).numpy()
    # A window is of the scanner's own values and has been applied; percentiles follow what the scanner makes of them.
    shifted = np.clip(shifted, 0, 1) if intensities.window else intensities.of(shifted).apply(shifted)
    # Rows and columns without any content are padding, which no scanner sees.
    seen = pictures.amax(dim=0) > 0
    shifted = torch.from_numpy(shifted) * (seen.any(dim=1)[:, None] & seen.any(dim=0)[None])
    versions = {PLAIN: pictures, SHIFTED: shifted}
    for what, version in {ADAPTED: pictures, SHIFTED_ADAPTED: shifted}.items():
        adapted, _, _ = _adapted(version, positions, spectra)
        versions[what] = version if adapted is None else adapted
    return versions


@dataclass(frozen=True, eq=False)
class _Trial:
    """Pictures left out, by the number of their example, and the examples that segment them."""

    network: CachedSegmenter
    rest: SupportSet
    shown: int
    pictures: Mapping[int, Float[Tensor, "h w"]]

    def dice(self, support: SupportSet, indices: Sequence[int], value: int, shift: float) -> list[float]:
        found = []
        for index in indices:
            example, picture = support.examples[index], self.pictures[index]
            telling = self.rest.telling(value)
            chosen = self.rest.select(picture.numpy(), example.place, self.shown, among=telling)
            others = [self.rest.examples[number] for number in chosen]
            wanted = example.labels == value
            answer = np.zeros_like(wanted)
            if any((other.labels == value).any() for other in others):
                embedding = self.network.embed(picture[None, None].to(self.network.device))
                logits = self.network.logits(embedding, self.network.context(others, value))
                answer = (logits[0, 0] + shift > 0).cpu().numpy()
            found.append(dice(answer, wanted))
        return found


@dataclass(frozen=True, eq=False)
class _Spectra:
    """Amplitudes of the low frequencies of every example, whence it is and where it lies."""

    amplitudes: Float[np.ndarray, "n k l"]
    positions: tuple[float | None, ...]
    origins: tuple[str, ...]

    @classmethod
    def of(cls, support: SupportSet) -> "_Spectra":
        amplitudes = low_amplitudes(torch.from_numpy(support.images()))
        positions = tuple(example.place for example in support.examples)
        return cls(amplitudes, positions, tuple(origin(example) for example in support.examples))

    def limit(self, at: Bool[np.ndarray, " n"]) -> float:
        """The largest distance of a volume or picture to all others among those examples; infinite without others."""
        names, distances = np.array(self.origins), []
        for name in dict.fromkeys(names[at].tolist()):
            own, others = at & (names == name), at & (names != name)
            if not others.any():
                return np.inf
            distances.append(_distance(_ratio(self.amplitudes[own], self.amplitudes[others])))
        return max(distances)


def low_amplitudes(pictures: Float[Tensor, "n h w"]) -> Float[np.ndarray, "n k l"]:
    """Amplitudes of the `BAND` x `BAND` lowest frequencies, in grey ranges; small pictures have fewer."""
    rows, columns = _low(pictures)
    parts = [torch.fft.fft2(part, norm="forward")[:, rows, columns].abs() for part in pictures.split(AT_ONCE)]
    return torch.cat(parts).cpu().numpy()


def prompted(pictures: Float[Tensor, "n h w"], prompt: Float[np.ndarray, "k l"]) -> Float[Tensor, "n h w"]:
    """The pictures, their lowest frequencies multiplied by the prompt, clipped to [0, 1]; what is 0 stays 0."""
    rows, columns = _low(pictures)
    factors = torch.ones(pictures.shape[1:], device=pictures.device)
    factors[rows, columns] = torch.from_numpy(prompt).to(factors)
    parts = [torch.fft.ifft2(torch.fft.fft2(part) * factors).real for part in pictures.split(AT_ONCE)]
    # Padding has no style.
    return torch.where(pictures == 0, 0.0, torch.cat(parts).clamp(0, 1))


def _low(pictures: Float[Tensor, "n h w"]) -> tuple[Tensor, Tensor]:
    """Row and column indices of the lowest frequencies, those below the mean's too."""
    height, width = pictures.shape[1:]
    reach = [min(BAND // 2, (length - 1) // 2) for length in (height, width)]
    rows, columns = (torch.arange(-most, most + 1, device=pictures.device) for most in reach)
    return rows[:, None] % height, columns[None] % width


def _adapted(
    pictures: Float[Tensor, "n h w"], positions: Sequence[float | None], spectra: _Spectra
) -> tuple[Float[Tensor, "n h w"] | None, float, float]:
    """The pictures in the style of the examples, None where they have it already; their distance, and its limit.

    Both sides count with the stretch along the axis that they have in common: elsewhere is other anatomy.
    """
    own, theirs = _in_common(positions, spectra.positions)
    ratio = _ratio(low_amplitudes(pictures)[own], spectra.amplitudes[theirs])
    distance, limit = _distance(ratio), FARTHER * spectra.limit(theirs)
    if distance <= limit:
        return None, distance, limit
    return prompted(pictures, ratio.clip(1 / MOST, MOST)), distance, limit


def _ratio(amplitudes: Float[np.ndarray, "n k l"], others: Float[np.ndarray, "m k l"]) -> Float[np.ndarray, "k l"]:
    """Mean amplitudes of the others over the own ones."""
    return (others.mean(axis=0) + LEAST_AMPLITUDE) / (amplitudes.mean(axis=0) + LEAST_AMPLITUDE)


def _in_common(first: Sequence[float | None], second: Sequence[float | None]) -> tuple[np.ndarray, np.ndarray]:
    """Which positions lie in the range of the others; all of them where some have none, or the ranges do not meet."""
    everything = np.ones(len(first), bool), np.ones(len(second), bool)
    if None in first or None in second:
        return everything
    first, second = np.array(first), np.array(second)
    low, high = max(first.min(), second.min()), min(first.max(), second.max())
    own, theirs = (first >= low) & (first <= high), (second >= low) & (second <= high)
    return (own, theirs) if own.any() and theirs.any() else everything


def _distance(ratio: Float[np.ndarray, "k l"]) -> float:
    return float(np.abs(np.log(ratio)).mean())
