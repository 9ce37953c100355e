"""A whole segmentation from files to files: read, cut examples, segment, write, and a record of all of it."""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from InContextSegLib.errors import InputError, OutputError
from InContextSegLib.examples.discriminant import colour_mix
from InContextSegLib.examples.support import Label
from InContextSegLib.inference.aggregate import Prediction
from InContextSegLib.jobs.montage import montage
from InContextSegLib.jobs.records import sha256_of
from InContextSegLib.jobs.task import (
    Brief,
    Drawn,
    Source,
    alike_in_colour,
    files_of,
    findings,
    keep_drawn,
    open_session,
    read_pairs,
    same_volume,
    segments_of,
)
from InContextSegLib.progress import Report
from InContextSegLib.slices.boxes import slab
from InContextSegLib.slices.plan import Box
from InContextSegLib.volumes import segnrrd
from InContextSegLib.volumes.colour import ColourMix
from InContextSegLib.volumes.files import (
    WRITABLE,
    check_fits,
    ending_of,
    json_text,
    read_volume,
    whole_file,
    write_text,
    write_volume,
)
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SegmentJob(Brief):
    """One target to segment. Output files are named after `output`, see `outputs`.

    `colour` says how colours become grey; None: as separates the labels of the examples best, see `colour_mix`.

    Raises:
        InputError: if two labels have one name, both a box and a range of slices are given, or the output has no name.
    """

    image: Path
    sources: tuple[Source, ...]
    output: Path
    colour: ColourMix | None = None
    slice_range: tuple[int, int] | None = None
    box: Box | None = None
    probabilities: bool = False
    overwrite: bool = False

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
    path = job.image.resolve()
    pairs = [pair for source in job.sources for pair in read_pairs(source, mix, {path: volume})]
    volume, pairs = alike_in_colour(volume, pairs)
    own = [pair for pair in pairs if same_volume(pair.image, volume)]
    pairs = [replace(pair, may_be_finished=pair not in own) for pair in pairs]
    session = open_session(job, volume.geometry, pairs, report)
    _check_outputs(job, outputs(job, session.labels))
    box = job.box if job.slice_range is None else slab(volume.geometry, next(iter(session.supports)), job.slice_range)
    # Examples cut from pictures serve along the first axis only, whatever was asked for.
    settings = replace(job.settings, axes=tuple(session.supports))
    prediction = session.segment(volume, settings, report, box, job.probabilities)
    drawn = Drawn(tuple(own), tuple(label.value for label in session.labels))
    mask = keep_drawn(prediction, drawn, box)
    record = {
        "target": {"path": str(job.image), "shape_kji": list(volume.geometry.shape)},
        **findings(session, prediction, mask),
        "seconds": round(time.monotonic() - started, 2),
        "colour": mix.record,
        "provenance": prediction.provenance,
    }
    return _write(job, record, volume, replace(prediction, mask=mask), session.labels)


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


def _wanted_labels(wanted: Sequence[Label] | None, path: Path) -> np.ndarray:
    labels = read_volume(path, Kind.LABELS).array
    return labels if wanted is None else np.where(np.isin(labels, [label.value for label in wanted]), labels, 0)


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
    left_behind = _left_behind(job, paths)
    with ExitStack() as stack:
        # What is entered first takes its name last: the record.
        aside = {what: stack.enter_context(_aside(path)) for what, path in reversed(paths.items())}
        write_volume(aside["mask"], prediction.mask, segments_of(labels))
        if prediction.uncertainty is not None:
            write_volume(aside["uncertainty"], prediction.uncertainty)
        for label in labels if job.probabilities else ():
            array = prediction.probabilities[label.value].astype(np.float32)
            write_volume(aside[f"probability {label.value}"], Volume(array, volume.geometry, Kind.INTENSITY))
        montage(aside["picture"], volume, prediction.mask, labels, prediction.uncertainty, axis=prediction.next_axis)
        files = {
            what: {"path": str(path), "sha256": sha256_of(aside[what])}
            for what, path in paths.items()
            if what != "record"
        }
        record = record | {"files": files}
        write_text(aside["record"], json_text(record, indent=2) + "\n")
    for path in left_behind:
        try:
            path.unlink()
        except OSError as error:
            log.warning("%s belongs to the run before and cannot be removed: %s.", path, error.strerror or error)
    return record


def _left_behind(job: SegmentJob, paths: Mapping[str, Path]) -> list[Path]:
    """What an earlier run wrote beside the mask that this one replaces, and this one does not write.

    It would lie beside a result that it does not belong to. What somebody has changed since stays, and so does a mask
    under another name with all that belongs to it.
    """
    record, taken = paths["record"], {path.resolve() for path in (*paths.values(), *_inputs(job))}
    try:
        files = json.loads(record.read_text(encoding="utf-8"))["files"]
        if Path(files["mask"]["path"]).name != job.output.name:
            return []
        before = {record.with_name(Path(each["path"]).name): each["sha256"] for each in files.values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # there was no run, or it has left no record
    return [path for path, sha256 in before.items() if path.resolve() not in taken and _is_still(path, sha256)]


def _is_still(path: Path, sha256: str) -> bool:
    """Whether a file is there as it was written; what cannot be read is not known to be."""
    try:
        return path.is_file() and sha256_of(path) == sha256
    except OSError:
        return False


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A temporary file that takes the name `path` at the end; errors speak of `path`."""
    with whole_file(path) as temporary:
        try:
            yield temporary
        except OutputError as error:
            raise OutputError(str(error).replace(str(temporary), str(path))) from error


def _float_ending(ending: str) -> str:
    """Segmentations and pictures hold nothing but labels: what belongs to one is written as a volume."""
    if ending == segnrrd.ENDING:
        return ".nrrd"
    return ending if ending in (".nii.gz", ".nii", ".nrrd", ".mha") else ".nii.gz"
