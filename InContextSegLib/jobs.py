"""A whole segmentation from files to files: read, cut examples, segment, write, and a record of all of it."""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from InContextSegLib.catalog import cache_folder, ensure, find, pinned_sha256
from InContextSegLib.errors import InputError, OutputError, WeightsError
from InContextSegLib.files import WRITABLE, ending_of, read_volume, write_text, write_volume
from InContextSegLib.inference.aggregate import Prediction
from InContextSegLib.inference.session import Box, Session
from InContextSegLib.inference.settings import AUTO_AXIS, InferenceSettings
from InContextSegLib.models import SliceSegmenter, build
from InContextSegLib.models.weights import load_weights
from InContextSegLib.montage import montage
from InContextSegLib.progress import Report
from InContextSegLib.slicing import Intensities, SlicePlan, stored_axis
from InContextSegLib.support import Label, LabelledVolume, SliceChoice, SupportSet, paired_files
from InContextSegLib.volume import Geometry, Kind, Volume

log = logging.getLogger(__name__)

# A volume counts as sliced along one direction from this ratio of its coarsest to its next spacing on.
ANISOTROPIC = 1.2


@dataclass(frozen=True)
class Source:
    """Where labelled examples come from: an image and its labels, or a folder of images and one of labels."""

    images: Path
    labels: Path


@dataclass(frozen=True)
class Model:
    """Which network segments: a catalogue entry, and weights of one's own in place of the entry's."""

    name: str = "default"
    weights: Path | None = None


@dataclass(frozen=True)
class SegmentJob:
    """One target to segment. Output files are named after `output`, see `outputs`."""

    image: Path
    sources: tuple[Source, ...]
    output: Path
    settings: InferenceSettings = field(default_factory=InferenceSettings)
    model: Model = field(default_factory=Model)
    intensities: Intensities = field(default_factory=Intensities)
    labels: tuple[Label, ...] | None = None
    support_slices: SliceChoice = "auto"
    slice_range: tuple[int, int] | None = None
    box: Box | None = None
    probabilities: bool = False
    overwrite: bool = False
    device: str = "auto"


def run(job: SegmentJob, report: Report) -> dict:
    """Segment one target and write the label map, the uncertainty, a picture and a record.

    Nothing is written before everything is computed, and every file appears whole or not at all, the record last.

    Returns:
        The record, as written beside the output.

    Raises:
        InputError, OutputError, WeightsError: in one sentence, for what can be seen before the work starts and after.
        Cancelled: from `report`; nothing is written then.
    """
    started = time.monotonic()
    _check_outputs(job)
    volume = read_volume(job.image)
    session = open_session(job, volume.geometry)
    settings = _with_axes(job.settings, session)
    box = job.box if job.slice_range is None else slab(volume.geometry, next(iter(session.supports)), job.slice_range)
    prediction = session.segment(volume, settings, report, box, job.probabilities)
    mask = _keep_given(prediction, volume, job)
    files = _write(job, volume, prediction, mask, session.labels)
    record = {
        "target": {"path": str(job.image), "shape_kji": list(volume.geometry.shape)},
        "labels": {label.name: _amount(mask, label) for label in session.labels},
        "next_slice": {"axis": prediction.next_axis, "index": prediction.next_slice},
        "given_slices": list(prediction.given),
        "seconds": round(time.monotonic() - started, 2),
        "files": files,
        "provenance": prediction.provenance,
    }
    write_text(outputs(job)["record"], json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return record


def outputs(job: SegmentJob) -> dict[str, Path]:
    """The files a job writes: what they hold, and their paths."""
    ending = ending_of(job.output)
    stem = job.output.name[: -len(ending)] if ending else job.output.name
    beside = {"mask": job.output, "picture": job.output.with_name(f"{stem}_picture.png")}
    if job.settings.members > 1 or len(job.settings.axes) > 1:
        beside["uncertainty"] = job.output.with_name(f"{stem}_uncertainty{_float_ending(ending)}")
    return beside | {"record": job.output.with_name(f"{stem}.json")}


def load_model(model: Model) -> tuple[SliceSegmenter, dict[str, str], int]:
    """The network with its weights, what to say about them, and the size of its input in pixels.

    Raises:
        InputError: if there is no such model, or the weights belong to another.
        WeightsError: if the weights are missing, changed or unsafe.
    """
    entry = find(model.name)
    path, sha256 = model.weights, None
    if path is None:
        path = ensure(entry, cache_folder())
        sha256 = pinned_sha256(entry, cache_folder())
    state = load_weights(path, sha256)
    segmenter = build(entry)
    try:
        segmenter.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"The weights {path} do not fit the model '{entry.name}'; name the model they belong to."
        ) from error
    provenance = {"entry": entry.name, "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return segmenter, provenance, entry.capability.input_size


def open_session(job: SegmentJob, target: Geometry) -> Session:
    """Load the network and cut the examples of a job whose target lies on `target`."""
    segmenter, provenance, size = load_model(job.model)
    pairs = [pair for source in job.sources for pair in read_pairs(source)]
    axes = (across_slices(target),) if job.settings.axes == (AUTO_AXIS,) else job.settings.axes
    return Session(segmenter, cut(pairs, axes, size, job), job.intensities, provenance, choose_device(job.device))


def read_pairs(source: Source) -> list[LabelledVolume]:
    """Read one image with its labels, or all pairs of two folders, which are matched by their names."""
    if source.images.is_dir() and source.labels.is_dir():
        files = paired_files(source.images, source.labels)
    else:
        files = [(source.images, source.labels)]
    return [
        LabelledVolume(read_volume(image), read_volume(labels, Kind.LABELS), Path(image).name)
        for image, labels in files
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
    if 1 in geometry.shape:
        return stored_axis(geometry)
    permutation, _ = geometry.anatomical_order()
    spacing = [geometry.spacing_mm[axis] for axis in permutation]
    if max(spacing) < ANISOTROPIC * sorted(spacing)[1]:
        return "axial"
    return ("axial", "coronal", "sagittal")[int(np.argmax(spacing))]


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is a CUDA GPU where there is one, else the CPU.

    Raises:
        InputError: if the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"Asked to compute on '{name}', but torch finds no CUDA GPU here; use --device cpu.")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise InputError(f"Asked to compute on '{name}', which torch does not know; use auto, cpu or cuda.") from error


def _with_axes(settings: InferenceSettings, session: Session) -> InferenceSettings:
    return replace(settings, axes=tuple(session.supports))


def slab(geometry: Geometry, axis: str, wanted: tuple[int, int]) -> Box:
    """The box of whole slices from the first to the last wanted one, both included."""
    array_axis = SlicePlan.of(geometry, axis).array_axis
    first, last = wanted
    if not 0 <= first <= last < geometry.shape[array_axis]:
        raise InputError(
            f"Asked for the slices {first} to {last}, but the target has {axis} slices "
            f"0 to {geometry.shape[array_axis] - 1}."
        )
    low, high = [0, 0, 0], list(geometry.shape)
    low[array_axis], high[array_axis] = first, last + 1
    return tuple(low), tuple(high)


def _keep_given(prediction: Prediction, volume: Volume, job: SegmentJob) -> Volume:
    """The mask, with the slices the user labelled in this very volume as the user labelled them."""
    if not prediction.given:
        return prediction.mask
    array = prediction.mask.array.copy()
    axis = SlicePlan.of(volume.geometry, prediction.next_axis).array_axis
    values = [int(value) for value in prediction.provenance["labels"]]
    for pair in (pair for source in job.sources for pair in read_pairs(source)):
        if pair.image.geometry.matches(volume.geometry) and np.array_equal(pair.image.array, volume.array):
            for index in prediction.given:
                here = tuple(index if each == axis else slice(None) for each in range(3))
                drawn = pair.labels.array[here]
                array[here] = np.where(np.isin(drawn, values), drawn, 0)
    return Volume(array, volume.geometry, Kind.LABELS)


def _check_outputs(job: SegmentJob) -> None:
    """See before the work what would only be seen behind it."""
    if ending_of(job.output) not in WRITABLE:
        raise InputError(f"The output {job.output} must end in one of {', '.join(WRITABLE)}.")
    if not job.output.parent.is_dir():
        raise OutputError(f"The folder {job.output.parent} for the output does not exist; create it first.")
    taken = {job.image.resolve()} | {
        path.resolve() for source in job.sources for path in (source.images, source.labels)
    }
    for path in outputs(job).values():
        if path.resolve() in taken:
            raise InputError(f"The output {path} is also an input; choose another name, inputs are never written to.")
        if path.exists() and not job.overwrite:
            raise InputError(f"{path} exists already; choose another name or allow overwriting it (--overwrite).")


def _write(
    job: SegmentJob, volume: Volume, prediction: Prediction, mask: Volume, labels: Sequence[Label]
) -> dict[str, dict[str, str]]:
    paths = outputs(job)
    write_volume(paths["mask"], mask)
    if prediction.uncertainty is not None:
        write_volume(paths["uncertainty"], prediction.uncertainty)
    for label in labels if job.probabilities else ():
        paths[f"probability {label.value}"] = path = _probability_path(job, label)
        array = prediction.probabilities[label.value].astype(np.float32)
        write_volume(path, Volume(array, volume.geometry, Kind.INTENSITY))
    montage(paths["picture"], volume, mask, labels, prediction.uncertainty, axis=prediction.next_axis)
    return {
        what: {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for what, path in paths.items()
        if path.exists() and what != "record"
    }


def _probability_path(job: SegmentJob, label: Label) -> Path:
    ending = ending_of(job.output)
    stem = job.output.name[: -len(ending)]
    return job.output.with_name(f"{stem}_probability_{label.value}{_float_ending(ending)}")


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
