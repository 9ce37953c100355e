"""From labelled volumes and a user's choices to a session, and what the user labelled in the target to keep."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from InContextSegLib.adaptation.calibration import finer_sizes, sizes_for
from InContextSegLib.adaptation.levels import levels_of
from InContextSegLib.adaptation.prepare import Prepared, Task, prepare
from InContextSegLib.errors import InputError
from InContextSegLib.examples.pairs import paired_files
from InContextSegLib.examples.saved import parts_of
from InContextSegLib.examples.support import Label, LabelledVolume, SupportSet, field_of, is_finished
from InContextSegLib.inference.aggregate import Prediction
from InContextSegLib.inference.postprocessing import pieces_of, volumes_of
from InContextSegLib.inference.quality import POOR_BELOW, quality_of
from InContextSegLib.inference.session import Session
from InContextSegLib.inference.settings import AUTO_AXIS, InferenceSettings
from InContextSegLib.inference.target import Told, joined
from InContextSegLib.models.loading import Model, choose_device, load_model
from InContextSegLib.progress import Report
from InContextSegLib.slices.body import Field
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.slices.plan import AXES, Box, SliceChoice, SlicePlan
from InContextSegLib.volumes.colour import LUMINANCE, ColourMix, palette
from InContextSegLib.volumes.files import read_labels, read_volume
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume, across_slices, any_along
from InContextSegLib.volumes.segnrrd import Segment

CLIPPED = 0.9  # of the voxels round what is labelled, on one side of the window

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where labelled examples come from: an image and its labels, or a folder of images and one of labels."""

    images: Path
    labels: Path


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


def files_of(source: Source) -> list[tuple[Path, Path]]:
    """One image with its labels, or all pairs of two folders, which are matched by their names."""
    if source.images.is_dir() and source.labels.is_dir():
        return paired_files(source.images, source.labels)
    return [(source.images, source.labels)]


def read_pairs(
    source: Source, mix: ColourMix = LUMINANCE, read: Mapping[Path, Volume] | None = None
) -> list[LabelledVolume]:
    """Read the images of a source, their colours as `mix` says, with their labels.

    They are called by their whole path, as files of several patients often have one name (`calibrate` parts them).

    Args:
        read: by their resolved paths, images that have been read already.
    """
    pairs = []
    for path, labels in files_of(source):
        image = (read or {}).get(path.resolve()) or read_volume(path, mix=mix)
        pairs += parts_of(LabelledVolume(image, read_labels(labels, image.geometry), str(path)), labels)
    return pairs


def open_session(brief: Brief, target: Geometry, pairs: Sequence[LabelledVolume], report: Report) -> Session:
    """Load the network and cut the examples of a task whose target lies on `target`.

    Where the settings say so, the examples predict one another first and decide the size at which they are cut.

    Raises:
        Cancelled: from `report`.
        InputError, WeightsError: in one sentence.
    """
    segmenter, provenance, size = load_model(brief.model)
    drawn = drawn_axis(pairs)
    own = [pair for pair in pairs if not pair.may_be_finished]
    axes = axes_for(brief.settings, target, drawn)
    shaped = _shaped_axis(own, axes[0])
    if drawn and axes != (drawn,):
        log.warning(
            "The labels lie on single %s slices, so cut along %s they are stripes and teach little; choose axis %s.",
            drawn,
            " and ".join(axis for axis in axes if axis != drawn),
            drawn,
        )
    _warn_of_window(pairs, brief.intensities)
    device = choose_device(brief.device)
    view = field_for(pairs, axes[0], brief)
    first = cut(pairs, axes[:1], size, brief, view)[0]
    levels = levels_of(segmenter, device, pairs, first, brief.intensities) if brief.settings.calibrate else None
    placed = levels.applied if levels else lambda support: support
    task = Task(
        cut=lambda pixels: placed(first if pixels == size else cut(pairs, axes[:1], pixels, brief, view)[0]),
        sizes=sizes_for(target, axes[0], size, len(first.labels), view) if brief.settings.calibrate else (size,),
        weights_sha256=provenance["weights_sha256"],
        folder=brief.cache,
        finer=finer_sizes(target, axes[0], size) if brief.settings.calibrate else (),
        own=len(own) == len(pairs) and shaped == axes[0],
    )
    ready = prepare(segmenter, device, task, brief.settings, report)
    _warn_of_poor(ready, first.labels)
    if ready.adaptation:
        provenance = provenance | {"adaptation": ready.record}
    if ready.members:
        provenance = provenance | {"members": ready.members}
    support = ready.calibration.support if ready.calibration else placed(first)
    # Pictures have no axis, and serve along the first one only.
    supports = [support, *(cut(pairs, axes, support.size, brief)[1:] if axes[1:] else ())]
    finished = [pair for pair in pairs if is_finished(pair, axes[0])]
    pieces = pieces_of(finished, support.labels) if brief.settings.postprocess else {}
    prior = replace(ready.prior, pieces=pieces, millilitres=volumes_of(finished, support.labels), levels=levels)
    return Session(ready.segmenter, supports, brief.intensities, provenance, device, prior, shaped)


def _warn_of_poor(ready: Prepared, labels: Sequence[Label]) -> None:
    """Say before the work which labels the examples cannot tell of."""
    expected = ready.foresight.expected if ready.foresight else {}
    for label in labels:
        if label.value in expected and expected[label.value].dice < POOR_BELOW:
            log.warning(
                "Little is to be expected of %s: left out in turn, the examples reach a Dice of %.2f only. "
                "More examples, labelled slices of the target itself, or clicks help.",
                label.name, expected[label.value].dice,
            )  # fmt: skip


def _shaped_axis(own: Sequence[LabelledVolume], usual: str) -> str:
    """Along which axis the labelled slices of the target itself show whole shapes: where they are fewest."""
    if not own:
        return usual
    axes = [usual, *(axis for axis in AXES if axis != usual)]
    return min(axes, key=lambda axis: sum(_labelled_along(pair, axis) for pair in own))


def _labelled_along(pair: LabelledVolume, axis: str) -> int:
    plan = SlicePlan.of(pair.labels.geometry, axis)
    return int(any_along(pair.labels.array, plan.array_axis).sum())


def _warn_of_window(pairs: Sequence[LabelledVolume], intensities: Intensities) -> None:
    """Say it where a window leaves nothing to see round what is labelled in the first of the examples."""
    if intensities.window is None or not pairs:
        return
    (low, high), labelled = intensities.window, pairs[0].labels.array > 0
    if not labelled.any() or labelled.shape != pairs[0].image.array.shape:
        return
    ends = [np.flatnonzero(any_along(labelled, axis))[[0, -1]] for axis in range(3)]
    values = pairs[0].image.array[tuple(slice(first, last + 1) for first, last in ends)]
    for share, side in (((values <= low).mean(), "below"), ((values >= high).mean(), "above")):
        if share > CLIPPED:
            log.warning(
                "%.0f %% of the voxels round the labels of %s lie %s the window of %g to %g, so nearly nothing is seen "
                "there: they go from %g to %g (1st to 99th percentile). Files that hold HU + 1024 need a window 1024 "
                "higher.",
                100 * share, pairs[0].source, side, low, high, *np.percentile(values, (1, 99)),
            )  # fmt: skip


def alike_in_colour(volume: Volume, pairs: Sequence[LabelledVolume]) -> tuple[Volume, list[LabelledVolume]]:
    """A target and examples with their colours where all of them have some, else all of them grey."""
    images = (volume, *(pair.image for pair in pairs))
    if len({image.colours is None for image in images}) == 1:
        return volume, list(pairs)
    grey = {id(image): replace(image, colours=None) for image in images}
    return grey[id(volume)], [replace(pair, image=grey[id(pair.image)]) for pair in pairs]


def axes_for(settings: InferenceSettings, target: Geometry, drawn: str | None) -> tuple[str, ...]:
    """Along which axes a target is cut: as the settings say, or as the examples were `drawn`, or as it was acquired."""
    return (drawn or across_slices(target),) if settings.axes == (AUTO_AXIS,) else settings.axes


def cut(
    pairs: Sequence[LabelledVolume], axes: Sequence[str], size: int, brief: Brief, view: Field | None = None
) -> list[SupportSet]:
    """Examples along every axis; pictures (one slice) have no axis and serve along any one.

    Args:
        view: the field of view of volumes (`field_for`); None: their slices fill the pictures.

    Raises:
        InputError: as `SupportSet` does, and if an example's slices were drawn along another axis.
    """
    for pair in pairs:
        if pair.axis and tuple(axes) != (pair.axis,):
            raise InputError(
                f"{pair.source} teaches by single {pair.axis} slices, but the volume is to be cut along "
                f"{' and '.join(axes)}; choose axis {pair.axis}, or other examples."
            )
    if all(pair.image.geometry.shape[0] == 1 for pair in pairs):
        support = SupportSet.from_images(pairs, size, brief.intensities, brief.labels)
        return [replace(support, axis=axes[0])]
    how = brief.support_slices, brief.intensities, brief.labels
    return [SupportSet.from_volumes(pairs, axis, size, *how, view) for axis in axes]


def field_for(pairs: Sequence[LabelledVolume], axis: str, brief: Brief) -> Field | None:
    """The field of view of examples and targets, where the settings let the examples decide how they are shown.

    None along several axes, as what one of them does not show would count as empty beside the others.
    """
    chosen = brief.settings.calibrate and len(brief.settings.axes) == 1
    return field_of(pairs, axis, brief.intensities, brief.labels) if chosen else None


def drawn_axis(pairs: Sequence[LabelledVolume]) -> str | None:
    """The axis along which people labelled single slices, none beside another; None where that is not plain.

    Cut along another axis, such labels would be stripes, and pass for finished slices.
    """
    told = {pair.axis for pair in pairs if pair.axis}
    if told:
        return next(iter(told)) if len(told) == 1 else None
    possible = set(AXES)
    for pair in pairs:
        if 1 in pair.labels.geometry.shape or not pair.labels.array.any():
            return None
        possible &= {axis for axis in AXES if _stand_alone(pair.labels, axis)}
    return next(iter(possible)) if len(possible) == 1 else None


def _stand_alone(labels: Volume, axis: str) -> bool:
    labelled = any_along(labels.array, SlicePlan.of(labels.geometry, axis).array_axis)
    return not (labelled[1:] & labelled[:-1]).any()


def same_volume(image: Volume, volume: Volume) -> bool:
    """Whether two volumes are the very same."""
    return image is volume or (image.geometry.matches(volume.geometry) and np.array_equal(image.array, volume.array))


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a user labelled in the target itself; there it is the result.

    Attributes:
        pairs: the labels, which may be spread over several files, each with slices of its own; none is fine.
        values: of the labels that are asked for.
    """

    pairs: tuple[LabelledVolume, ...]
    values: tuple[int, ...]

    @cached_property
    def axis(self) -> str | None:
        """In which direction, where that is plain."""
        return drawn_axis(self.pairs)

    def given(self, geometry: Geometry, axis: str, known: Told) -> tuple[int, Told]:
        """The slices that the user labelled, in the direction in which they were drawn: array axis, and what they tell.

        Cut across that direction every slice of the object shows a stripe of the labels, and none is drawn to its end.

        Args:
            axis: along which the target is cut.
            known: the slices that are examples themselves, by index along its array axis.
        """
        array_axis = SlicePlan.of(geometry, self.axis or axis).array_axis
        return array_axis, known if self.axis in (None, axis) else self._along

    def keep(self, mask: np.ndarray, box: Box, given: tuple[int, Told]) -> np.ndarray:
        """The labels (k, j, i) of a box with what was drawn in the given slices in their place.

        Of labels of which a slice does not tell it keeps what was found, where nothing is drawn.
        """
        array_axis, told = given
        low, high = box[0][array_axis], box[1][array_axis]
        mask = mask.copy()
        for index in told.keys() & range(low, high):
            found = np.moveaxis(mask, array_axis, 0)[index - low]
            wanted = [value for value in self.values if told[index] is None or value in told[index]]
            found[np.isin(found, wanted)] = 0
            for pair in self.pairs:
                labels = np.moveaxis(pair.labels.array[tuple(map(slice, *box))], array_axis, 0)[index - low]
                own = [value for value in wanted if pair.known is None or value in pair.known]
                np.copyto(found, labels, where=np.isin(labels, own), casting="same_kind")
        return mask

    def holds(self, mask: np.ndarray) -> bool:
        """Whether all that a mask (k, j, i) shows was drawn."""
        for number, plane in enumerate(mask):
            found = plane > 0
            for pair in self.pairs:
                found &= ~np.isin(pair.labels.array[number], self.values)
            if found.any():
                return False
        return True

    @cached_property
    def _along(self) -> Told:
        array_axis = SlicePlan.of(self.pairs[0].labels.geometry, self.axis).array_axis
        told: dict[int, frozenset[int] | None] = {}
        for pair in self.pairs:
            for index in np.flatnonzero(any_along(pair.labels.array, array_axis)).tolist():
                told[index] = joined(told.get(index, frozenset()), pair.known)
        return told


def keep_drawn(prediction: Prediction, drawn: Drawn, box: Box | None = None) -> Volume:
    """The mask, with the slices the user labelled in this very volume as the user labelled them, inside the box."""
    mask = prediction.mask
    if not drawn.pairs or not prediction.given:
        return mask
    box = box or ((0, 0, 0), mask.geometry.shape)
    here = tuple(map(slice, *box))
    told = {index: prediction.partly.get(index) for index in prediction.given}
    given = drawn.given(mask.geometry, prediction.next_axis, told)
    array = mask.array.copy()
    array[here] = drawn.keep(mask.array[here], box, given)
    whole = [index for index, told in given[1].items() if told is None or told.issuperset(drawn.values)]
    if len(whole) == array.shape[given[0]] and array[here].shape == array.shape:
        log.warning(
            "Every slice of the target is an example itself (%s): its labels are the result.", prediction.next_axis
        )
    elif drawn.holds(array):
        log.warning(
            "Nothing was found beyond the labels drawn in the target; if they were drawn in another view than %s, "
            "choose that axis.",
            prediction.next_axis,
        )
    return Volume(array, mask.geometry, Kind.LABELS)


def segments_of(labels: Sequence[Label]) -> list[Segment]:
    """The labels as a segmentation shows them, in the colours of a picture of them."""
    return [Segment(label.value, label.name, palette(number)) for number, label in enumerate(labels)]


def findings(session: Session, prediction: Prediction, mask: Volume) -> dict:
    """What a result says besides its voxels, ready for a record."""
    foresight = session.foresight
    return {
        "labels": {
            label.name: (amount := _amount(mask, label, prediction.next_axis))
            | _quality(session, prediction, label.value, amount, mask.geometry)
            for label in session.labels
        },
        "next_slice": {"axis": prediction.next_axis, "index": prediction.next_slice},
        "given_slices": list(prediction.given),
        "slices": mask.geometry.shape[SlicePlan.of(mask.geometry, prediction.next_axis).array_axis],
        "unlike_slices": list(prediction.unlike),
        "label_check": [suspect.record for suspect in foresight.suspects] if foresight else [],
        "expected": foreseen(session),
    }


def _quality(session: Session, prediction: Prediction, value: int, amount: dict, geometry: Geometry) -> dict:
    """What to think of one label of this very result; nothing where nothing was foreseen of it."""
    expected = session.foresight.expected.get(value) if session.foresight else None
    if expected is None:
        return {}
    first, last = amount["slices"] or (0, -1)
    unlike = sum(first <= index <= last for index in prediction.unlike) / max(last - first + 1, 1)
    dice = expected.of_case(prediction.soft.get(value))
    # A part of a scan cannot be compared with whole ones.
    usual = session.millilitres.get(value) if prediction.whole else None
    # Of small structures nothing is left of the rounded volume.
    return quality_of(dice, geometry.millilitres(amount["voxels"]), usual, unlike).record


def foreseen(session: Session) -> dict[str, dict]:
    """By label name the Dice to expect, and the same without adapting where the network adapted."""
    if session.foresight is None:
        return {}
    found, before = session.foresight.expected, session.foresight.before
    return {
        label.name: found[label.value].record
        | ({"without_adapting": before[label.value].record} if label.value in before else {})
        for label in session.labels
        if label.value in found
    }


def _amount(mask: Volume, label: Label, axis: str) -> dict:
    here = mask.array == label.value
    voxels = int(here.sum())
    shown = np.flatnonzero(any_along(here, SlicePlan.of(mask.geometry, axis).array_axis))
    return {
        "value": label.value,
        "voxels": voxels,
        "slices": [int(shown[0]), int(shown[-1])] if voxels else [],
        "millilitres": round(mask.geometry.millilitres(voxels), 3),
    }
