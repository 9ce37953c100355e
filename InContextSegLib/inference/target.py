"""A target along one axis: its pictures, the slices of it that are labelled, and what these say of the others."""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from InContextSegLib.examples.support import Example, Label, SupportSet
from InContextSegLib.inference.prior import StyleOutcome
from InContextSegLib.inference.shape_prior import ShapePrior
from InContextSegLib.slices.body import planned
from InContextSegLib.slices.intensities import Scale
from InContextSegLib.slices.plan import Box, SlicePlan
from InContextSegLib.volumes.geometry import Volume

log = logging.getLogger(__name__)

Told = Mapping[int, frozenset[int] | None]  # by slice the values of labels; None: of all
# Relative positions closer than this are one place; no volume has a million slices.
SAME_POSITION = 1e-6
FEWEST_NEGATIVE, MOSTLY = 5, 0.9  # slices that a warning needs, and the share of them that are like a negative
KEPT = 4  # runs of slices, as all draws ask for one in turn


@dataclass(frozen=True, eq=False)
class OwnSlices:
    """The slices of a volume that are among the examples, by number in the plan of the whole volume.

    `labels` are those whose shape they show; none, where they cut through slices that were labelled along another axis.
    `window` is the part of the slices that they were cut from.
    """

    slices: Mapping[int, Sequence[Example]]
    labels: tuple[Label, ...]
    window: Box

    @classmethod
    def among(cls, support: SupportSet, volume: Volume, scale: Scale, shaped: bool) -> "OwnSlices":
        """Those of a volume that are among the examples of an axis: same place, same picture.

        Args:
            scale: of the volume's intensities, the same as for the examples.
            shaped: whether they show the shape of what is labelled.
        """
        whole, slices = planned(volume, scale, support.axis, support.size, support.field), {}
        picture = lru_cache(whole.count)(lambda number: whole.extract(volume, scale, [number])[0])
        for example in support.examples:
            # Empty slices look alike in every patient, so they prove nothing.
            if example.position is None or example.image.min() == example.image.max():
                continue
            for number in np.flatnonzero(np.abs(whole.positions - example.position) < SAME_POSITION).tolist():
                if np.allclose(picture(number), example.image, atol=1e-5):
                    slices[number] = (*slices.get(number, ()), example)
        return cls(dict(sorted(slices.items())), support.labels if shaped else (), whole.window)

    @cached_property
    def shapes(self) -> dict[int, ShapePrior]:
        """By label value what its labelled slices say of the others."""
        masks: dict[int, dict[float, np.ndarray]] = {label.value: {} for label in self.labels}
        for number, examples in self.slices.items():
            for value, found in masks.items():
                telling = [example.labels == value for example in examples if example.tells(value)]
                if telling:
                    found[number] = np.any(telling, axis=0)
        return {value: ShapePrior(found) for value, found in masks.items()}


class Pictures:
    """The slices of a target at network size, cut a few at a time: all of a large scan fill the memory.

    Args:
        plan: where the slices are.
        channels: that the network takes, 1 or 3.
        device: where it computes.
        styled: (n, 1, size, size), what is to be seen in place of the slices; None: the slices themselves.
    """

    def __init__(
        self,
        plan: SlicePlan,
        volume: Volume,
        scale: Scale,
        channels: int,
        device: torch.device,
        styled: Float[Tensor, "n 1 h w"] | None = None,
    ):
        self._plan, self._volume, self._scale = plan, volume, scale
        self._channels, self._device, self._styled = channels, device, styled
        self._kept: OrderedDict[tuple[int, int], tuple[np.ndarray, Tensor]] = OrderedDict()

    def in_style(self, styled: Float[Tensor, "n 1 h w"]) -> "Pictures":
        return Pictures(self._plan, self._volume, self._scale, self._channels, self._device, styled)

    def grey(self, start: int, stop: int) -> Float[np.ndarray, "n h w"]:
        """The slices from `start` to `stop` (exclusive), in [0, 1]."""
        return self._cut(start, stop)[0]

    def seen(self, start: int, stop: int) -> Float[Tensor, "n c h w"]:
        """The same as the network sees them, on its device."""
        return self._cut(start, stop)[1]

    def _cut(self, start: int, stop: int) -> tuple[np.ndarray, Tensor]:
        # No `lru_cache`: it would hold the scan in a cycle, until Python looks for these.
        if (start, stop) not in self._kept:
            self._kept[start, stop] = self._computed(start, stop)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return self._kept[start, stop]

    def _computed(self, start: int, stop: int) -> tuple[np.ndarray, Tensor]:
        if self._styled is not None:
            styled = self._styled[start:stop]
            return styled[:, 0].cpu().numpy(), styled
        numbers = range(start, stop)
        if self._channels == 1:
            images = self._plan.extract(self._volume, self._scale, numbers)
            return images, torch.from_numpy(images)[:, None].to(self._device)
        channels = self._plan.channels(self._volume, self._scale, numbers)
        coloured = self._volume.colours is not None
        images = (
            self._plan.extract(self._volume, self._scale, numbers)
            if coloured
            else np.stack([each[1] for each in channels])
        )
        return images, torch.from_numpy(np.stack(channels)).to(self._device)


@dataclass(frozen=True, eq=False)
class TargetAxis:
    """A target along one axis: its plan, its slices at network size, its examples, and what was done to its style.

    `own` is what the examples say of this very volume; `step` how many pixels lie between two slices, None where labels
    may go on beyond the outermost labelled ones as far as the network sees them. `span` says where along the body the
    volume begins and how long it is. `unlike` gathers the numbers of slices that turn out to look like no example, and
    `negative` of every slice whether its negative looks more like one.
    """

    plan: SlicePlan
    pictures: Pictures
    support: SupportSet
    own: OwnSlices
    step: float | None
    style: StyleOutcome | None = None
    span: tuple[float, float] = (0.0, 1.0)
    unlike: list[int] = field(default_factory=list)
    negative: list[bool] = field(default_factory=list)

    @cached_property
    def known(self) -> Told:
        """The slices that are among the examples, by number, and the labels that these tell of."""
        told = {
            number - self.plan.first: joined(*(each.known for each in own)) for number, own in self.own.slices.items()
        }
        return {number: each for number, each in told.items() if 0 <= number < self.plan.count}

    def place(self, number: int) -> float | None:
        """Where a slice lies, as the examples know it of themselves; a single slice may come from anywhere."""
        if self.plan.geometry.shape[self.plan.array_axis] == 1:
            return None
        begin, length = self.span
        return begin + length * float(self.plan.positions[number])

    def warn_of_negative(self) -> None:
        """Say so where bright and dark seem to be exchanged, once all slices have been seen."""
        if self.plan.count >= FEWEST_NEGATIVE and np.mean(self.negative) >= MOSTLY:
            log.warning(
                "With bright and dark exchanged the target looks more like the examples than as it is: it may be a "
                "negative, or another kind of image; little good is to be expected of the result."
            )

    def warn_of_edge(self, labels: np.ndarray) -> None:
        """Say so where a label goes on beyond what was looked at.

        Args:
            labels: (k, j, i) of the result.
        """
        low, high = self.plan.box
        sides = {0, 1, 2} - {self.plan.array_axis}
        edges = [(side, low[side]) for side in sides if low[side] > 0]
        edges += [(side, high[side] - 1) for side in sides if high[side] < labels.shape[side]]
        held = {value for side, index in edges for value in np.unique(labels.take(index, side)).tolist()}
        reaching = [label.name for label in self.support.labels if label.value in held]
        if reaching:
            log.warning(
                "%s may go on beyond the field of view, which is as large as the examples need: what lies farther out "
                "was not looked at. Give a box round it, or choose the preset fast, which looks at whole slices.",
                ", ".join(reaching),
            )

    def joined(self, value: int, number: int, logits: np.ndarray | None) -> np.ndarray | None:
        """What the network says of a label in a slice (size, size), and what the labelled slices beside it do."""
        # In a field of view that was moved to show a box the outlines lie elsewhere.
        shape = self.own.shapes.get(value) if self.plan.window == self.own.window else None
        return logits if shape is None else shape.joined(self.plan.first + number, logits, self.step)


def joined(*known: frozenset[int] | None) -> frozenset[int] | None:
    """What several examples of one slice tell of together; None: of all labels."""
    return None if None in known else frozenset().union(*known)
