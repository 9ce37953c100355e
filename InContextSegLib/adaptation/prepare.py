"""What is done with the examples of a task before its first target: calibrate, adapt, foresee how good it will be."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from InContextSegLib.adaptation.adapt import Adaptation, adapt, foresee
from InContextSegLib.adaptation.cache import key_of, remembered
from InContextSegLib.adaptation.calibration import calibrate
from InContextSegLib.adaptation.combination import combine
from InContextSegLib.adaptation.expectation import expected, expected_between
from InContextSegLib.adaptation.label_check import check_labels
from InContextSegLib.adaptation.style import judge
from InContextSegLib.examples.support import SupportSet
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.inference.prior import Calibration, Foresight, Prior
from InContextSegLib.inference.settings import AdaptSettings, InferenceSettings
from InContextSegLib.models.incontext import InContextNet
from InContextSegLib.progress import Report

PICTURES_BYTES = 1 << 30  # of examples at a finer size, while heads are fitted
BYTES_A_PIXEL, BYTES_A_LABEL = 38, 2


@dataclass(frozen=True, eq=False)
class Task:
    """The examples of a task as they can be had.

    Attributes:
        cut: makes the examples at a size, in the same order.
        sizes: of network images in pixels that are worth trying, the usual one first.
        finer: the same for heads fitted to the examples, if these are others.
        own: whether the examples are slices of the very target, which lies between them.
        weights_sha256: of the network's weights.
        folder: where what was learnt is kept; None: nowhere.
    """

    cut: Callable[[int], SupportSet]
    sizes: Sequence[int]
    weights_sha256: str = ""
    folder: Path | None = None
    finer: Sequence[int] = ()
    own: bool = False


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network ready for a task: adapted or not, how to ask it, what to expect of it (None where it was not asked).

    Attributes:
        members: by label value, which members of a combination answer with what weight.
    """

    segmenter: nn.Module
    calibration: Calibration | None = None
    foresight: Foresight | None = None
    adaptation: Adaptation | None = None
    key: str = ""
    members: Mapping[str, Mapping[str, float]] | None = None

    @property
    def prior(self) -> Prior:
        """What a session is told of it."""
        return Prior(self.calibration, self.foresight, judge)

    @property
    def record(self) -> dict:
        """For the provenance of an output: what was learnt, and the name of the file that holds it."""
        return {"key": self.key} | self.adaptation.record if self.adaptation else {}


def prepare(
    segmenter: nn.Module, device: torch.device, task: Task, settings: InferenceSettings, report: Report
) -> Prepared:
    """Do what the settings ask for before the first target.

    Raises:
        Cancelled: from `report`.
    """
    if isinstance(segmenter, InContextNet) and (settings.calibrate or settings.adapt_seconds):
        return _combined(segmenter, device, task, settings, report)
    if settings.adapt_seconds:
        compute = partial(_adapted, segmenter, device, task, settings, report)
        key = key_of(task.cut(task.sizes[0]), task.sizes, task.weights_sha256, settings)
        adaptation = remembered(task.folder, key, task.cut, compute) if task.folder else compute()
        before = adaptation.before if adaptation.helped else {}
        foresight = Foresight(adaptation.expected, before, check_labels(adaptation.trials, adaptation.calibration))
        return Prepared(adaptation.applied(segmenter), adaptation.calibration, foresight, adaptation, key)
    if settings.calibrate:
        calibration = _calibrated(segmenter, device, task, settings, report)
        trials, expectations = foresee(segmenter, device, calibration, report)
        return Prepared(segmenter, calibration, Foresight(expectations, {}, check_labels(trials, calibration)))
    return Prepared(segmenter)


def _combined(
    network: InContextNet, device: torch.device, task: Task, settings: InferenceSettings, report: Report
) -> Prepared:
    """The network beside heads that are fitted to the examples."""
    first = task.cut(task.sizes[0])
    # Of every example a colour picture, feature maps, and labels and answers in half precision.
    pixel_bytes = len(first) * (BYTES_A_PIXEL + BYTES_A_LABEL * len(first.labels))
    sizes = sorted({*task.sizes, *(size for size in task.finer if pixel_bytes * size**2 <= PICTURES_BYTES)})
    # The examples stay at the size at which everything was judged, and so will the targets.
    found = combine(network, device, task.cut(max(sizes)), sizes, settings, report, task.own)
    calibration = found.calibration
    tried = {trial.value for trial in found.trials}
    foretell = expected_between if task.own else expected
    expectations = {value: foretell(found.trials, value, calibration.shifts.get(value, 0.0)) for value in tried}
    foresight = Foresight(expectations, {}, check_labels(found.trials, calibration))
    return Prepared(found.segmenter, calibration, foresight, members=found.segmenter.record)


def _adapted(
    segmenter: nn.Module, device: torch.device, task: Task, settings: InferenceSettings, report: Report
) -> Adaptation:
    calibration = _calibrated(segmenter, device, task, settings, report)
    return adapt(segmenter, device, calibration, AdaptSettings(settings.adapt_seconds, settings.seed), report)


def _calibrated(
    segmenter: nn.Module, device: torch.device, task: Task, settings: InferenceSettings, report: Report
) -> Calibration:
    if not settings.calibrate:
        return Calibration(task.cut(task.sizes[0]), settings.supports)
    return calibrate(CachedSegmenter(segmenter, device), task.cut, task.sizes, settings.supports, report)
