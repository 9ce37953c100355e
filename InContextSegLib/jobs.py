"""A whole segmentation from files to files: read, cut examples, segment, write, and a record of all of it."""

import hashlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from InContextSegLib.colour import LUMINANCE, ColourMix
from InContextSegLib.discriminant import colour_mix
from InContextSegLib.errors import InputError, OutputError
from InContextSegLib.files import (
    WRITABLE,
    check_fits,
    ending_of,
    json_text,
    read_volume,
    whole_file,
    write_text,
    write_volume,
)
from InContextSegLib.inference.aggregate import Prediction
from InContextSegLib.inference.prepare import Task, prepare
from InContextSegLib.inference.rehearsal import sizes_for
from InContextSegLib.inference.session import Session, slab
from InContextSegLib.inference.settings import AUTO_AXIS, InferenceSettings
from InContextSegLib.loading import Model, choose_device, load_model
from InContextSegLib.montage import montage
from InContextSegLib.progress import Report
from InContextSegLib.slicing import AXES, Box, Intensities, SlicePlan
from InContextSegLib.support import Label, LabelledVolume, SliceChoice, SupportSet, paired_files
from InContextSegLib.volume import Geometry, Kind, Volume, any_along

log = logging.getLogger(__name__)

# A volume counts as sliced along one direction from this ratio of its coarsest to its next spacing on.
ANISOTROPIC = 1.2


@dataclass(frozen=True)
class Source:
    """Where labelled examples come from: an image and its labels, or a folder of images and one of labels."""

    images: Path
    labels: Path


@dataclass(frozen=True)
class SegmentJob:
    """One target to segment. Output files are named after `output`, see `outputs`.

    `cache` is a folder where what the network learns from the examples is kept; None: nowhere.
    `colour` says how colours become grey; None: as separates the labels of the examples best, see `colour_mix`.

    Raises:
        InputError: if two labels have one name, both a box and a range of slices are given, or the output has no name.
    """

    image: Path
    sources: tuple[Source, ...]
    output: Path
    settings: InferenceSettings = field(default_factory=InferenceSettings)
    model: Model = field(default_factory=Model)
    intensities: Intensities = field(default_factory=Intensities)
    colour: ColourMix | None = None
    labels: tuple[Label, ...] | None = None
    support_slices: SliceChoice = "auto"
    slice_range: tuple[int, int] | None = None
    box: Box | None = None
    probabilities: bool = False
    overwrite: bool = False
    device: str = "auto"
    cache: Path | None = None

    def __post_init__(self):
        if not self.output.name:
            raise InputError(f"The output '{self.output}' is no file name; name the label map to write.")
        names = [label.name for label in self.labels or ()]
        if len(set(names)) < len(names):
            raise InputError(f"Every label needs a name of its own, but these came: {', '.join(names)}.")
        if self.box is not None and self.slice_range is not None:
            raise InputError("A box and a range of slices came; choose one of them, a box says which slices too.")


def run(job: SegmentJob, report: Report) -> dict:
    """Segment one target and write the label map, the uncertainty, a picture and a record.

    Nothing is written before everything is computed, and all files appear together or none does, the record last.

    Returns:
        The record, as written beside the output.

    Raises:
        InputError, OutputError, WeightsError: in one sentence, for what can be seen before the work starts and after.
        Cancelled: from `report`; nothing is written then.
    """
    started = time.monotonic()
    _check_outputs(job, outputs(job))
    files = [pair for source in job.sources for pair in files_of(source)]
    mix = job.colour or colour_mix(files, [job.image], job.intensities, partial(_wanted_labels, job.labels))
    volume = read_volume(job.image, mix=mix)
    _check_formats(job, volume.geometry)
    pairs = [pair for source in job.sources for pair in read_pairs(source, mix)]
    pairs = [replace(pair, may_be_finished=not _shows(pair, volume)) for pair in pairs]
    session = open_session(job, volume.geometry, pairs, report)
    _check_outputs(job, outputs(job, session.labels))
    box = job.box if job.slice_range is None else slab(volume.geometry, next(iter(session.supports)), job.slice_range)
    # Examples cut from pictures serve along the first axis only, whatever was asked for.
    settings = replace(job.settings, axes=tuple(session.supports))
    prediction = session.segment(volume, settings, report, box, job.probabilities)
    mask = _keep_given(prediction, volume, pairs, box)
    record = {
        "target": {"path": str(job.image), "shape_kji": list(volume.geometry.shape)},
        "labels": {label.name: _amount(mask, label) for label in session.labels},
        "next_slice": {"axis": prediction.next_axis, "index": prediction.next_slice},
        "given_slices": list(prediction.given),
        "slices": volume.geometry.shape[SlicePlan.of(volume.geometry, prediction.next_axis).array_axis],
        "unlike_slices": list(prediction.unlike),
        "doubtful": [doubt.record for doubt in session.foresight.doubtful] if session.foresight else [],
        "expected": _foreseen(session),
        "seconds": round(time.monotonic() - started, 2),
        "colour": mix.record,
        "provenance": prediction.provenance,
    }
    return _write(job, record, volume, replace(prediction, mask=mask), session.labels)


def _foreseen(session: Session) -> dict[str, dict]:
    """By label name the Dice to expect, and the same without adapting where the network adapted."""
    if session.foresight is None:
        return {}
    expected, before = session.foresight.expected, session.foresight.before
    return {
        label.name: expected[label.value].record
        | ({"without_adapting": before[label.value].record} if label.value in before else {})
        for label in session.labels
        if label.value in expected
    }


def outputs(job: SegmentJob, labels: Sequence[Label] = ()) -> dict[str, Path]:
    """The files a job writes: what they hold, and their paths; those of the probabilities only for `labels`."""
    ending = ending_of(job.output)
    stem = job.output.name[: -len(ending)] if ending else job.output.name
    beside = {"mask": job.output, "picture": job.output.with_name(f"{stem}_picture.png")}
    if job.settings.members > 1:
        beside["uncertainty"] = job.output.with_name(f"{stem}_uncertainty{_float_ending(ending)}")
    for label in labels if job.probabilities else ():
        name = f"{stem}_probability_{label.value}{_float_ending(ending)}"
        beside[f"probability {label.value}"] = job.output.with_name(name)
    return beside | {"record": job.output.with_name(f"{stem}.json")}


def open_session(job: SegmentJob, target: Geometry, pairs: Sequence[LabelledVolume], report: Report) -> Session:
    """Load the network and cut the examples of a job, read from its sources, whose target lies on `target`.

    Where the settings say so, the examples predict one another first and decide the size at which they are cut.

    Raises:
        Cancelled: from `report`.
        InputError, WeightsError: in one sentence.
    """
    segmenter, provenance, size = load_model(job.model)
    axes = job.settings.axes
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
    device = choose_device(job.device)
    first = cut(pairs, axes[:1], size, job)[0]
    task = Task(
        cut=lambda pixels: first if pixels == size else cut(pairs, axes[:1], pixels, job)[0],
        sizes=sizes_for(target, axes[0], size, len(first.labels)) if job.settings.rehearse else (size,),
        weights_sha256=provenance["weights_sha256"],
        folder=job.cache,
    )
    ready = prepare(segmenter, device, task, job.settings, report)
    if ready.adaptation:
        provenance = provenance | {"adaptation": ready.record}
    support = ready.rehearsal.support if ready.rehearsal else first
    # Pictures have no axis, and serve along the first one only.
    supports = [support, *(cut(pairs, axes, support.size, job)[1:] if axes[1:] else ())]
    return Session(ready.segmenter, supports, job.intensities, provenance, device, ready.rehearsal, ready.foresight)


def _wanted_labels(wanted: Sequence[Label] | None, path: Path) -> np.ndarray:
    labels = read_volume(path, Kind.LABELS).array
    return labels if wanted is None else np.where(np.isin(labels, [label.value for label in wanted]), labels, 0)


def files_of(source: Source) -> list[tuple[Path, Path]]:
    """One image with its labels, or all pairs of two folders, which are matched by their names."""
    if source.images.is_dir() and source.labels.is_dir():
        return paired_files(source.images, source.labels)
    return [(source.images, source.labels)]


def read_pairs(source: Source, mix: ColourMix = LUMINANCE) -> list[LabelledVolume]:
    """Read the images of a source, their colours as `mix` says, with their labels.

    They are called by their whole path, as files of several patients often have one name (`rehearse` tells them apart).
    """
    return [
        LabelledVolume(read_volume(image, mix=mix), read_volume(labels, Kind.LABELS), str(image))
        for image, labels in files_of(source)
    ]


def cut(pairs: Sequence[LabelledVolume], axes: Sequence[str], size: int, job: SegmentJob) -> list[SupportSet]:
    """Examples along every axis; pictures (one slice) have no axis and serve along any one."""
    if all(pair.image.geometry.shape[0] == 1 for pair in pairs):
        support = SupportSet.from_images(pairs, size, job.intensities, job.labels)
        return [replace(support, axis=axes[0])]
    return [
        SupportSet.from_volumes(pairs, axis, size, job.support_slices, job.intensities, job.labels) for axis in axes
    ]


def across_slices(geometry: Geometry) -> str:
    """The axis across the thickest slices, along which people scroll and label; axial where none stands out."""
    permutation, _ = geometry.anatomical_order()
    if 1 in geometry.shape:
        return AXES[permutation.index(geometry.shape.index(1))]
    spacing = [geometry.spacing_mm[axis] for axis in permutation]
    if max(spacing) < ANISOTROPIC * sorted(spacing)[1]:
        return "axial"
    return AXES[int(np.argmax(spacing))]


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


def _shows(pair: LabelledVolume, volume: Volume) -> bool:
    """Whether the labels belong to this very volume."""
    return pair.image.geometry.matches(volume.geometry) and np.array_equal(pair.image.array, volume.array)


def _keep_given(
    prediction: Prediction, volume: Volume, pairs: Sequence[LabelledVolume], box: Box | None = None
) -> Volume:
    """The mask, with the slices the user labelled in this very volume as the user labelled them, inside the box."""
    own = [pair for pair in pairs if _shows(pair, volume)]
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


def _check_outputs(job: SegmentJob, paths: Mapping[str, Path]) -> None:
    """See before the work what would only be seen behind it."""
    if ending_of(job.output) not in WRITABLE:
        raise InputError(f"The output {job.output} must end in one of {', '.join(WRITABLE)}.")
    if not job.output.parent.is_dir():
        raise OutputError(f"The folder {job.output.parent} for the output does not exist; create it first.")
    if not os.access(job.output.parent, os.W_OK):
        raise OutputError(f"Nothing can be written to the folder {job.output.parent}: permission is missing.")
    taken = {path.resolve() for path in _inputs(job)}
    for path in paths.values():
        if path.resolve() in taken:
            raise InputError(f"The output {path} is also an input; choose another name, inputs are never written to.")
        if path.is_dir():
            raise InputError(f"The output {path} is a folder; choose another name.")
        if path.exists() and not job.overwrite:
            raise InputError(f"{path} exists already; choose another name or allow overwriting it (--overwrite).")


def _inputs(job: SegmentJob) -> Iterator[Path]:
    """All that is read, the files inside a folder too."""
    weights = [job.model.weights] if job.model.weights is not None else []
    for path in (job.image, *weights, *(path for source in job.sources for path in (source.images, source.labels))):
        yield path
        if path.is_dir():
            yield from path.iterdir()


def _check_formats(job: SegmentJob, geometry: Geometry) -> None:
    """See before the work whether the outputs' formats can hold a volume of the target's shape and position."""
    nothing = Volume(np.zeros(geometry.shape, np.uint8), geometry, Kind.LABELS)
    for what, path in outputs(job).items():
        if what in ("mask", "uncertainty"):
            check_fits(path, nothing)


def _write(job: SegmentJob, record: dict, volume: Volume, prediction: Prediction, labels: Sequence[Label]) -> dict:
    """Write all outputs or none; the record with the other files' names and sha256, as it was written."""
    paths = outputs(job, labels)
    if prediction.uncertainty is None:
        paths.pop("uncertainty", None)
    with ExitStack() as stack:
        # What is entered first takes its name last: the record.
        aside = {what: stack.enter_context(_aside(path)) for what, path in reversed(paths.items())}
        write_volume(aside["mask"], prediction.mask)
        if prediction.uncertainty is not None:
            write_volume(aside["uncertainty"], prediction.uncertainty)
        for label in labels if job.probabilities else ():
            array = prediction.probabilities[label.value].astype(np.float32)
            write_volume(aside[f"probability {label.value}"], Volume(array, volume.geometry, Kind.INTENSITY))
        montage(aside["picture"], volume, prediction.mask, labels, prediction.uncertainty, axis=prediction.next_axis)
        files = {
            what: {"path": str(path), "sha256": hashlib.sha256(aside[what].read_bytes()).hexdigest()}
            for what, path in paths.items()
            if what != "record"
        }
        record = record | {"files": files}
        write_text(aside["record"], json_text(record, indent=2) + "\n")
    return record


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A temporary file that takes the name `path` at the end; errors speak of `path`."""
    with whole_file(path) as temporary:
        try:
            yield temporary
        except OutputError as error:
            raise OutputError(str(error).replace(str(temporary), str(path))) from error


def _float_ending(ending: str) -> str:
    """Pictures hold no fractions: what belongs to one is written as a volume of one slice."""
    return ending if ending in (".nii.gz", ".nii", ".nrrd", ".mha") else ".nii.gz"


def _amount(mask: Volume, label: Label) -> dict:
    voxels = int((mask.array == label.value).sum())
    return {
        "value": label.value,
        "voxels": voxels,
        "millilitres": round(voxels * float(np.prod(mask.geometry.spacing_mm)) / 1000, 3),
    }
