"""From labelled volumes and a user's choices to a session, and what the user labelled in the target to keep."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from InContextSegLib.inference.aggregate import Prediction
from InContextSegLib.inference.prepare import Task, prepare
from InContextSegLib.inference.rehearsal import sizes_for
from InContextSegLib.inference.session import Session
from InContextSegLib.inference.settings import AUTO_AXIS, InferenceSettings
from InContextSegLib.loading import Model, choose_device, load_model
from InContextSegLib.progress import Report
from InContextSegLib.slicing import AXES, Box, Intensities, SliceChoice, SlicePlan
from InContextSegLib.support import Label, LabelledVolume, SupportSet
from InContextSegLib.volume import Geometry, Kind, Volume, across_slices, any_along

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Brief:
    """What is to be segmented, and how, whatever the target.

    Attributes:
        labels: wanted; None: all that the examples hold.
        support_slices: which slices of the examples teach, where a labelled volume does not say it itself.
        cache: a folder where what the network learns from the examples is kept; None: nowhere.
    """

    settings: InferenceSettings = field(default_factory=InferenceSettings)
    model: Model = field(default_factory=Model)
    intensities: Intensities = field(default_factory=Intensities)
    labels: tuple[Label, ...] | None = None
    support_slices: SliceChoice = "auto"
    device: str = "auto"
    cache: Path | None = None


def open_session(brief: Brief, target: Geometry, pairs: Sequence[LabelledVolume], report: Report) -> Session:
    """Load the network and cut the examples of a task whose target lies on `target`.

    Where the settings say so, the examples predict one another first and decide the size at which they are cut.

    Raises:
        Cancelled: from `report`.
        InputError, WeightsError: in one sentence.
    """
    segmenter, provenance, size = load_model(brief.model)
    axes = brief.settings.axes
    drawn = drawn_axis(pairs)
    if axes == (AUTO_AXIS,):
        axes = (drawn or across_slices(target),)
    if drawn and axes != (drawn,):
        log.warning(
            "The labels lie on single %s slices, so cut along %s they are stripes and teach little; choose --axis %s.",
            drawn,
            " and ".join(axis for axis in axes if axis != drawn),
            drawn,
        )
    device = choose_device(brief.device)
    first = cut(pairs, axes[:1], size, brief)[0]
    task = Task(
        cut=lambda pixels: first if pixels == size else cut(pairs, axes[:1], pixels, brief)[0],
        sizes=sizes_for(target, axes[0], size, len(first.labels)) if brief.settings.rehearse else (size,),
        weights_sha256=provenance["weights_sha256"],
        folder=brief.cache,
    )
    ready = prepare(segmenter, device, task, brief.settings, report)
    if ready.adaptation:
        provenance = provenance | {"adaptation": ready.record}
    support = ready.rehearsal.support if ready.rehearsal else first
    # Pictures have no axis, and serve along the first one only.
    supports = [support, *(cut(pairs, axes, support.size, brief)[1:] if axes[1:] else ())]
    return Session(ready.segmenter, supports, brief.intensities, provenance, device, ready.rehearsal, ready.foresight)


def cut(pairs: Sequence[LabelledVolume], axes: Sequence[str], size: int, brief: Brief) -> list[SupportSet]:
    """Examples along every axis; pictures (one slice) have no axis and serve along any one."""
    if all(pair.image.geometry.shape[0] == 1 for pair in pairs):
        support = SupportSet.from_images(pairs, size, brief.intensities, brief.labels)
        return [replace(support, axis=axes[0])]
    return [
        SupportSet.from_volumes(pairs, axis, size, brief.support_slices, brief.intensities, brief.labels)
        for axis in axes
    ]


def drawn_axis(pairs: Sequence[LabelledVolume]) -> str | None:
    """The axis along which people labelled single slices, none beside another; None where that is not plain.

    Cut along another axis, such labels would be stripes, and pass for finished slices.
    """
    possible = set(AXES)
    for pair in pairs:
        if 1 in pair.labels.geometry.shape or not pair.labels.array.any():
            return None
        possible &= {axis for axis in AXES if _stand_alone(pair.labels, axis)}
    return next(iter(possible)) if len(possible) == 1 else None


def _stand_alone(labels: Volume, axis: str) -> bool:
    labelled = any_along(labels.array, SlicePlan.of(labels.geometry, axis).array_axis)
    return not (labelled[1:] & labelled[:-1]).any()


def shows(pair: LabelledVolume, volume: Volume) -> bool:
    """Whether the labels belong to this very volume."""
    return pair.image.geometry.matches(volume.geometry) and np.array_equal(pair.image.array, volume.array)


def keep_given(
    prediction: Prediction, volume: Volume, pairs: Sequence[LabelledVolume], box: Box | None = None
) -> Volume:
    """The mask, with the slices the user labelled in this very volume as the user labelled them, inside the box."""
    own = [pair for pair in pairs if shows(pair, volume)]
    if not own or not prediction.given:
        return prediction.mask
    given = _given_part(prediction, own, box)
    values = [int(value) for value in prediction.provenance["labels"]]
    array = np.where(given, 0, prediction.mask.array)
    drawn = np.zeros(array.shape, bool)
    # The labels may be spread over several files, each with slices of its own.
    for pair in own:
        labelled = np.isin(pair.labels.array, values)
        np.copyto(array, pair.labels.array, where=given & labelled, casting="same_kind")
        drawn |= labelled
    if given.all():
        log.warning(
            "Every slice of the target is an example itself (%s): its labels are the result.", prediction.next_axis
        )
    elif not array[~drawn].any():
        log.warning(
            "Nothing was found beyond the labels drawn in the target; if they were drawn in another view than %s, "
            "choose it with --axis.",
            prediction.next_axis,
        )
    return Volume(array, volume.geometry, Kind.LABELS)


def _given_part(prediction: Prediction, own: Sequence[LabelledVolume], box: Box | None) -> np.ndarray:
    """(k, j, i) bool: the slices that the user labelled, in the direction in which they were drawn, inside the box.

    Cut across that direction every slice of the object shows a stripe of the labels, and none is drawn to its end.
    """
    geometry = prediction.mask.geometry
    name = drawn_axis(own) or prediction.next_axis
    axis = SlicePlan.of(geometry, name).array_axis
    along = np.zeros(geometry.shape[axis], bool)
    if name == prediction.next_axis:
        along[list(prediction.given)] = True
    else:
        along = np.any([any_along(pair.labels.array, axis) for pair in own], axis=0)
    inside = np.zeros(geometry.shape, bool)
    inside[tuple(map(slice, *box)) if box else ...] = True
    return inside & along.reshape([-1 if other == axis else 1 for other in range(3)])
