"""Where along the body a slice lies, whichever part of the body a scan shows.

Scans begin and end where the operator wanted, so that the share of a scan at which a slice lies says little. What a
slice looks like says more: a ridge regression from the deepest features of the network to millimetres, fitted to the
examples, whose own places their labels tell; a scan then lies where most of its slices say. (The idea of Yan et al.,
"Unsupervised body part regression", 2018, without any training.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from InContextSegLib.examples.labelled import LabelledVolume
from InContextSegLib.examples.origins import origin, spread_evenly
from InContextSegLib.examples.support import SupportSet
from InContextSegLib.models.incontext import InContextNet
from InContextSegLib.slices.intensities import Intensities, Scale
from InContextSegLib.slices.plan import SlicePlan
from InContextSegLib.volumes.geometry import Volume

FEWEST = 3  # volumes
PIXELS, PARTS = 128, 2  # of the pictures that are looked at; over so many times so many parts features are averaged
MOST_SLICES, MOST_OF_ONE, AT_ONCE = 640, 64, 16  # looked at in all examples, in one volume, and together
RIDGE = 3.0  # by the number of slices
WIDTH_MM = 15.0  # within which slices agree on where their scan lies
BETTER = 0.8  # of the scatter of labels that may be left of what it is by the share of the scan
ROUNDS, LEAST_MM = 50, 5.0  # of finding where volumes lie by their labels; a label that scatters less counts no more


@dataclass(frozen=True, eq=False)
class Seen:
    """Slices of one volume: their features, and where they lie in millimetres from its first face."""

    features: Float[np.ndarray, "n c"]
    at_mm: Float[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Levels:
    """Takes slices of any volume to one axis along the body, on which a scan like the examples' goes from 0 to 1.

    Attributes:
        network: its features are looked at.
        axis: that the slices are stacked along.
        mean, spread, weights, middle_mm: of the regression.
        unit_mm: length of the axis.
        start_mm: where it begins.
        spans: of the examples' volumes, by name: where each begins, and how long it is.
    """

    network: InContextNet
    axis: str
    mean: Float[np.ndarray, " c"]
    spread: Float[np.ndarray, " c"]
    weights: Float[np.ndarray, " c"]
    middle_mm: float
    unit_mm: float
    start_mm: float
    spans: Mapping[str, tuple[float, float]]

    def span(self, volume: Volume, scale: Scale) -> tuple[float, float]:
        """Where on the axis a volume begins, and how long it is there."""
        if volume not in self._found:
            seen = look(self.network, volume, scale, self.axis, MOST_OF_ONE)
            said = ((seen.features - self.mean) / self.spread) @ self.weights + self.middle_mm
            offset = agreed(seen.at_mm - said) if len(said) else -self.start_mm
            self._found[volume] = self.placed(volume, offset)
        return self._found[volume]

    def placed(self, volume: Volume, offset_mm: float) -> tuple[float, float]:
        """The span of a volume whose first face lies at minus `offset_mm`."""
        return (-offset_mm - self.start_mm) / self.unit_mm, _length_mm(volume, self.axis) / self.unit_mm

    def applied(self, support: SupportSet) -> SupportSet:
        """The examples, which know where along the body they lie."""
        placed = []
        for example in support.examples:
            span = None if example.position is None else self.spans.get(origin(example))
            level = None if span is None else span[0] + span[1] * example.position
            placed.append(replace(example, level=level))
        return replace(support, examples=tuple(placed))

    @cached_property
    def _found(self) -> WeakKeyDictionary[Volume, tuple[float, float]]:
        return WeakKeyDictionary()


def levels_of(
    network: nn.Module,
    device: torch.device,
    pairs: Sequence[LabelledVolume],
    support: SupportSet,
    intensities: Intensities,
) -> Levels | None:
    """The common axis of some examples; None where it does not bring their labels together, or of another network.

    Every volume is placed by the others in turn; its labels must then scatter less over the volumes than they do by
    the share of the scan at which they lie.

    Args:
        network: is moved to the device.
        pairs: all volumes that the examples were cut from.
        support: the examples of them.
    """
    if not isinstance(network, InContextNet):
        return None
    axis, wanted = support.axis, [label.value for label in support.labels]
    middles = {pair: _middles_mm(pair, axis, wanted) for pair in pairs if _tells(pair)}
    taught = [pair for pair, own in middles.items() if not np.isnan(own).all()]
    if len({pair.source for pair in taught}) < max(FEWEST, len(taught)) or len(taught) > MOST_SLICES:
        return None
    network.to(device)
    middle, length = np.array([middles[pair] for pair in taught]), [_length_mm(pair.image, axis) for pair in taught]
    (offsets, weights), unit = _offsets(middle, np.array(length) / 2), float(np.mean(length))
    most = min(MOST_OF_ONE, MOST_SLICES // len(taught))
    scales = {pair: intensities.of(pair.image.array) for pair in pairs}
    slices = [look(network, pair.image, scales[pair], axis, most) for pair in taught]
    if not all(len(each.at_mm) for each in slices):
        return None
    by_share = middle / np.array(length)[:, None] * unit
    by_others = middle - _by_others(slices, offsets)[:, None]
    if not _scatter(by_others, weights) < BETTER * _scatter(by_share, weights):
        return None
    start = float(np.mean(np.array(length) / 2 - offsets) - unit / 2)
    found = Levels(network, axis, *_fitted(slices, offsets), unit, start, {})
    spans = {pair.source: found.placed(pair.image, float(own)) for pair, own in zip(taught, offsets, strict=True)}
    others = [pair for pair in pairs if pair.source not in spans and pair.image.geometry.shape[0] > 1]
    return replace(found, spans=spans | {pair.source: found.span(pair.image, scales[pair]) for pair in others})


def _tells(pair: LabelledVolume) -> bool:
    """Whether labels tell where along the body a volume lies: not those of a few slices."""
    return pair.image.geometry.shape[0] > 1 and pair.may_be_finished and not isinstance(pair.slices, tuple)


def _by_others(slices: Sequence[Seen], offsets: Float[np.ndarray, " v"]) -> Float[np.ndarray, " v"]:
    """The offset of every volume as the others tell it."""
    found = []
    for number, own in enumerate(slices):
        rest = [n for n in range(len(slices)) if n != number]
        mean, spread, weights, middle = _fitted([slices[n] for n in rest], offsets[rest])
        said = ((own.features - mean) / spread) @ weights + middle
        found.append(agreed(own.at_mm - said))
    return np.array(found)


@torch.inference_mode()
def look(network: InContextNet, volume: Volume, scale: Scale, axis: str, most: int) -> Seen:
    """At most so many whole slices of a volume, evenly spread; those that show nothing are left out."""
    plan = SlicePlan.of(volume.geometry, axis, PIXELS)
    numbers = spread_evenly(range(plan.count), most)
    pictures = np.stack([np.stack(each) for each in plan.channels(volume, scale, numbers)])
    shows = pictures[:, 1].max(axis=(1, 2)) > pictures[:, 1].min(axis=(1, 2))
    at_mm = (np.array(numbers)[shows] + 0.5) * plan.step_mm
    device, features = next(network.parameters()).device, []
    for begin in range(0, int(shows.sum()), AT_ONCE):
        block = torch.from_numpy(pictures[shows][begin : begin + AT_ONCE]).to(device)
        features.append(adaptive_avg_pool2d(network.features(block)[-1].float(), PARTS).flatten(1).cpu().numpy())
    return Seen(np.concatenate(features) if features else np.zeros((0, 1), np.float32), at_mm)


def agreed(offsets: Float[np.ndarray, " n"]) -> float:
    """What most of some offsets in millimetres say: where their density is highest."""
    grid = np.arange(offsets.min(), offsets.max() + 1)
    density = np.exp(-(((offsets[:, None] - grid) / WIDTH_MM) ** 2) / 2).sum(axis=0)
    return float(grid[density.argmax()])


def _fitted(
    slices: Sequence[Seen], offsets: Float[np.ndarray, " v"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Mean and spread of the features, weights, and the mean of what they are to tell."""
    x = np.concatenate([each.features for each in slices])
    y = np.concatenate([each.at_mm - offset for each, offset in zip(slices, offsets, strict=True)])
    mean, spread, middle = x.mean(axis=0), x.std(axis=0) + 1e-3, float(y.mean())
    x = (x - mean) / spread
    weights = x.T @ np.linalg.solve(x @ x.T + RIDGE * len(x) * np.eye(len(x)), y - middle)
    return mean, spread, weights, middle


def _offsets(
    middles: Float[np.ndarray, "v k"], begin: Float[np.ndarray, " v"]
) -> tuple[Float[np.ndarray, " v"], Float[np.ndarray, "v k"]]:
    """By how many millimetres every volume is to be moved so that its labels lie where the others' do.

    Labels that still scatter count less: of what runs through the body, as the spinal cord, every volume shows another
    part.

    Args:
        middles: of every label in every volume; nan where there is none.
        begin: a first guess.

    Returns:
        offsets, and how much every label of every volume counts.
    """
    there = ~np.isnan(middles)
    middles, weights, offsets = np.nan_to_num(middles), there.astype(float), begin
    for _ in range(ROUNDS):
        moved = middles - offsets[:, None]
        usual = (weights * moved).sum(axis=0) / np.maximum(weights.sum(axis=0), 1e-9)
        scatter = (there * (moved - usual) ** 2).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
        weights = there / (scatter + LEAST_MM**2)
        offsets = (weights * (middles - usual)).sum(axis=1) / weights.sum(axis=1)
    return offsets, weights


def _scatter(middles: Float[np.ndarray, "v k"], weights: Float[np.ndarray, "v k"]) -> float:
    """Root of the mean square by which labels lie away from where they do in the mean over the volumes."""
    middles = np.nan_to_num(middles)
    usual = (weights * middles).sum(axis=0) / np.maximum(weights.sum(axis=0), 1e-9)
    return float(np.sqrt((weights * (middles - usual) ** 2).sum() / weights.sum()))


def _middles_mm(pair: LabelledVolume, axis: str, wanted: Sequence[int]) -> list[float]:
    """Where the middle of every label lies from the first face of its volume; nan where it is not, or cut off."""
    plan = SlicePlan.of(pair.labels.geometry, axis)
    planes = np.moveaxis(pair.labels.array, plan.array_axis, 0)
    shown = {value: [] for value in wanted}
    for index, plane in enumerate(planes):
        for value in set(np.unique(plane).tolist()) & shown.keys():
            shown[value].append(plan.number(index))
    ends = {0, plan.count - 1}
    return [
        float("nan") if not numbers or ends & set(numbers) else (np.mean(numbers) + 0.5) * plan.step_mm
        for numbers in shown.values()
    ]


def _length_mm(volume: Volume, axis: str) -> float:
    plan = SlicePlan.of(volume.geometry, axis)
    return plan.count * plan.step_mm
