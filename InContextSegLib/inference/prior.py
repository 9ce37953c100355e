"""What a session may know of its task before the first target; `adaptation` finds it out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from InContextSegLib.examples.support import SupportSet
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.progress import Report
from InContextSegLib.slices.intensities import Intensities, Scale
from InContextSegLib.volumes.geometry import Volume


@dataclass(frozen=True, eq=False)
class Calibration:
    """What the examples taught about themselves.

    Attributes:
        support: the examples at the size that suits them.
        shown: how many of them to show for one slice, those that resemble it most.
        shifts: what to add to the logits of a label (by its value) before the sigmoid; 0 where none is named.
        dice: mean Dice at which the examples predicted one another, for every label that could be tried.
        tried: mean Dice over these labels for every size and number that were tried.
        truth: the examples at the largest size, on which answers are compared; None: at the size of `support`.
    """

    support: SupportSet
    shown: int
    shifts: Mapping[int, float] = field(default_factory=dict)
    dice: Mapping[int, float] = field(default_factory=dict)
    tried: Mapping[tuple[int, int], float] = field(default_factory=dict)
    truth: SupportSet | None = None

    @property
    def mean_dice(self) -> float:
        return float(np.mean(list(self.dice.values())))

    @property
    def record(self) -> dict:
        """For the provenance of an output."""
        return {
            "size": self.support.size,
            "shown": self.shown,
            "logit_shifts": {str(value): round(shift, 4) for value, shift in self.shifts.items()},
            "dice": {str(value): round(score, 4) for value, score in self.dice.items()},
            "tried": [
                {"size": size, "shown": shown, "dice": round(score, 4)} for (size, shown), score in self.tried.items()
            ],
        }


@dataclass(frozen=True)
class Expected:
    """The Dice to expect for a new picture or volume: mean and standard deviation (nan for one) over `units` tried.

    `soft` is the mean Dice that the answers for these expected of themselves, by their probabilities
    (`Canvas.soft_dice`); None where none found anything.
    """

    dice: float
    spread: float
    units: int
    soft: float | None = None

    def of_case(self, soft: float | None) -> float:
        """The Dice to expect for a target whose answer expects `soft` of itself: more where it is surer than usual."""
        if soft is None or self.soft is None:
            return self.dice
        return min(max(self.dice + soft - self.soft, 0.0), 1.0)

    @property
    def record(self) -> dict:
        """For the provenance of an output."""
        return {
            "dice": round(self.dice, 4),
            "spread": round(self.spread, 4),
            "units": self.units,
            "soft": None if self.soft is None else round(self.soft, 4),
        }


@dataclass(frozen=True)
class SuspectLabel:
    """One example whose label for one structure neither the other examples nor its own image bear out.

    Attributes:
        value: of the label.
        source: the example's name, as in `Example.source`.
        dice, usual: its Dice when segmented by the others, and the median of all.
        strength: robust standard deviations behind the other examples.
    """

    value: int
    source: str
    dice: float
    usual: float
    strength: float

    @property
    def why(self) -> str:
        return (
            f"its label {self.value} fits the other examples (Dice {self.dice:.2f}, usual {self.usual:.2f}) and the "
            "edges of its image less than theirs do; it may be another image's or unfinished"
        )

    @property
    def record(self) -> dict:
        """For the provenance of an output."""
        return {
            "label": self.value,
            "source": self.source,
            "dice": round(self.dice, 4),
            "usual": round(self.usual, 4),
            "strength": round(self.strength, 2),
            "why": self.why,
        }


@dataclass(frozen=True, eq=False)
class Foresight:
    """What is known about a task before its first target.

    Attributes:
        expected: by label value the Dice to expect.
        before: the same without adapting, where the network adapted.
        suspects: examples that disagree with the others.
    """

    expected: Mapping[int, Expected]
    before: Mapping[int, Expected]
    suspects: tuple[SuspectLabel, ...]

    @property
    def record(self) -> dict:
        """For the provenance of an output."""
        return {
            "expected": {str(value): each.record for value, each in self.expected.items()},
            "without_adapting": {str(value): each.record for value, each in self.before.items()},
            "label_check": [each.record for each in self.suspects],
        }


@runtime_checkable
class StyleOutcome(Protocol):
    """What was done to the style of one target."""

    @property
    def record(self) -> dict[str, Any]:
        """For the provenance of an output."""


@runtime_checkable
class Style(Protocol):
    """What the examples say for and against bringing a target to their style."""

    def adapt(
        self, pictures: Float[Tensor, "n 1 h w"], positions: Sequence[float | None], own: bool
    ) -> tuple[Float[Tensor, "n 1 h w"], StyleOutcome]:
        """The pictures of one target in the style of the examples, or as they came, and what was done."""


@runtime_checkable
class StyleJudge(Protocol):
    """Finds out whether examples gain by it; `adaptation.style.judge` does."""

    def __call__(
        self,
        network: CachedSegmenter,
        support: SupportSet,
        intensities: Intensities,
        shown: int,
        shifts: Mapping[int, float],
        report: Report,
    ) -> Style:
        """The style of these examples."""


@runtime_checkable
class BodyAxis(Protocol):
    """Tells where along the body a volume lies; `adaptation.levels.Levels` does."""

    axis: str

    def span(self, volume: Volume, scale: Scale) -> tuple[float, float]:
        """Where on the common axis a volume begins, and how long it is there."""


@dataclass(frozen=True, eq=False)
class Prior:
    """All of it; None where it was not asked.

    Attributes:
        calibration: what the examples taught about themselves.
        foresight: what they lead to expect.
        judge: of their style; needed where the settings ask for it.
        pieces: by label value in how many pieces the completely labelled examples show it.
        millilitres: by label value its least and largest volume in these.
        levels: where along the body slices lie, if the examples know it.
    """

    calibration: Calibration | None = None
    foresight: Foresight | None = None
    judge: StyleJudge | None = None
    pieces: Mapping[int, int] = field(default_factory=dict)
    millilitres: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    levels: BodyAxis | None = None
