"""What a worker answers to each request."""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from InContextSegLib import __version__
from InContextSegLib.errors import Cancelled, InputError
from InContextSegLib.examples.origins import origin
from InContextSegLib.examples.saved import Kept, Taught, save, taught_in
from InContextSegLib.examples.support import Label, LabelledVolume
from InContextSegLib.inference.aggregate import Prediction
from InContextSegLib.inference.session import Session
from InContextSegLib.jobs.batch import Result, Way
from InContextSegLib.jobs.task import Source, files_of, findings, foreseen, keep_drawn, segments_of
from InContextSegLib.memory import NO_MEMORY, give_back_memory, installed_bytes, is_exhaustion
from InContextSegLib.models.catalog import cache_folder, ensure, find, pinned_sha256, remove
from InContextSegLib.models.loading import choose_device
from InContextSegLib.progress import Report
from InContextSegLib.slices.boxes import slab
from InContextSegLib.slices.plan import SlicePlan
from InContextSegLib.volumes import segnrrd
from InContextSegLib.volumes.colour import LUMINANCE
from InContextSegLib.volumes.files import read_segments, read_volume
from InContextSegLib.volumes.geometry import Kind, Volume, any_along
from InContextSegLib.worker.batches import fingerprint_of_task, inputs_of, told
from InContextSegLib.worker.cache import WorkerCache
from InContextSegLib.worker.corrections import correct, neighbours, propagate
from InContextSegLib.worker.protocol import (
    Batch,
    Correct,
    Describe,
    Device,
    ExampleRef,
    FileRef,
    Look,
    Neighbours,
    Prepare,
    Preview,
    Propagate,
    SaveExamples,
    Segment,
    TaskSpec,
    VolumeRef,
    Weights,
)
from InContextSegLib.worker.site_answers import look_at_site, train_on_own_data
from InContextSegLib.worker.site_requests import LookAtSite, TrainOnSite


def device(cache: WorkerCache, request: Device, report: Report) -> dict[str, Any]:
    """What there is to compute with."""
    total, free = installed_bytes()
    title = platform.processor() or platform.machine()
    found = [{"name": "cpu", "title": title, "memory_bytes": total, "free_bytes": free}]
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(number)
        title = torch.cuda.get_device_name(number)
        found.append({"name": f"cuda:{number}", "title": title, "memory_bytes": total, "free_bytes": free})
    return {
        "version": __version__,
        "torch": torch.__version__,
        "devices": found,
        "chosen": str(choose_device(request.device)),
        "threads": torch.get_num_threads(),
    }


def prepare(cache: WorkerCache, request: Prepare, report: Report) -> dict[str, Any]:
    """Get everything ready that does not depend on a slice, and say what the examples lead to expect."""
    bound = cache.bound(request.task, request.target, report)
    session = cache.session(bound, report)
    axis = next(iter(session.supports))
    session.condition(axis, bound.settings, report)
    cache.scale(request.target, bound.mix, bound.brief.intensities)
    return {
        "labels": {label.name: label.value for label in session.labels},
        "axis": axis,
        "examples": len(session.supports[axis]),
        "size": session.size,
        "expected": foreseen(session),
        "label_check": _suspects(session),
        "adaptation": session.provenance.get("adaptation", {}),
    }


def preview(cache: WorkerCache, request: Preview, report: Report) -> dict[str, Any]:
    """The labels of one slice, and their uncertainty in percent of the largest possible spread if there are draws."""
    bound = cache.bound(request.task, request.target, report)
    session = cache.session(bound, report)
    axis = request.axis or next(iter(session.supports))
    if axis not in session.supports:
        bound = cache.bound(request.task, request.target, report, axis)
        session = cache.session(bound, report)
    if report.hurried:
        raise Cancelled("A newer preview is wanted.")
    geometry, index = bound.target.geometry, request.index
    found = session.segment_slice(
        bound.target, cache.scale(request.target, bound.mix, bound.brief.intensities), axis, index, bound.settings
    )
    box = slab(geometry, axis, (index, index))
    given = bound.drawn.given(geometry, axis, {index: found.partly.get(index)} if found.given else {})
    mask = bound.drawn.keep(found.mask.array, box, given)
    corner = list(box[0])
    return {
        "axis": axis,
        "index": index,
        "array_axis": SlicePlan.of(geometry, axis).array_axis,
        "block": cache.block(mask, corner),
        "uncertainty": cache.block(found.uncertainty.array, corner) if found.uncertainty else None,
        "unlike": found.unlike,
        "draws": found.draws,
        "supports": found.supports,
    }


def segment(cache: WorkerCache, request: Segment, report: Report) -> dict[str, Any]:
    """The labels of a target, and their uncertainty in percent of the largest possible spread if there are draws."""
    session, prediction, record = _segmented(cache, request, report)
    mask, uncertainty = prediction.mask, prediction.uncertainty
    return {
        "block": cache.block(*_cropped(mask.array)),
        "uncertainty": cache.block(*_cropped(uncertainty.array)) if uncertainty else None,
        "given": record["given_slices"],
        "axis": prediction.next_axis,
        "next_slice": prediction.next_slice,
        "unlike": record["unlike_slices"],
        "labels": record["labels"],
        "expected": record["expected"],
        "label_check": _suspects(session),
        "provenance": record["provenance"] | {"colour": record["colour"]},
    }


def batch(cache: WorkerCache, request: Batch, report: Report) -> dict[str, Any]:
    """The labels of many volumes, in files; a status for each."""

    def one(image: Path, report: Report) -> Result:
        try:
            session, prediction, record = _segmented(
                cache, Segment(request.task, FileRef(str(image), Kind.INTENSITY)), report
            )
        except (MemoryError, RuntimeError) as error:
            if not is_exhaustion(error):
                raise
            cache.recover(everything=True)
            raise InputError(NO_MEMORY) from error
        return Result(prediction.mask, looking(segments_of(session.labels), request.looks), record)

    way = Way(fingerprint_of_task(request, cache.shared.read), one, inputs_of(request.task))
    return {"cases": [status.to_mapping() for status in told(request, way, report)]}


def describe(cache: WorkerCache, request: Describe, report: Report) -> dict[str, Any]:
    """What labelled files hold, read before anything is computed from them."""
    files, pairs = files_of(Source(Path(request.images), Path(request.labels))), []
    for number, (image, mask) in enumerate(files):
        report.step(number, len(files), f"{mask.name} is read")
        labels = read_volume(mask, Kind.LABELS)
        names = {segment.value: segment.name for segment in read_segments(mask)}
        taught = taught_in(mask) or Taught("auto")
        held = {*np.unique(labels.array).tolist(), *(value for _, values in taught.told for value in values)} - {0}
        named = [(value, names.get(value, f"label {value}")) for value in sorted(held)]
        found = {"image": str(image), "mask": str(mask), "labels": named}
        pairs.append(found | {"slices": taught.slices, "axis": taught.axis, "told": taught.told})
    return {"pairs": pairs}


def save_examples(cache: WorkerCache, request: SaveExamples, report: Report) -> dict[str, Any]:
    """Keep the examples of a task in a folder of their own."""
    task, names = request.task, dict(request.names)
    labels = [Label(value, name) for value, name in task.labels]
    segments = looking(segments_of(labels), request.looks)
    kept = []
    for example, pair, partly in _whole_examples(task, cache.pairs(task, LUMINANCE)):
        original = _file_of(example.image)
        if original is None and cache.coloured(example.image):
            raise InputError(
                f"{names.get(example.source, example.source)} is in colour, and only grey images of the scene can be "
                "saved as examples; save it as a picture first, and add it from its file."
            )
        held = {*np.unique(pair.labels.array).tolist(), *(value for _, values in partly for value in values)}
        shown = tuple(segment for segment in segments if segment.value in held)
        name = names.get(example.source, example.source)
        kept.append(Kept(name, pair, task.settings.axes[0], shown, original, partly))
    return {"labels": [str(path) for path in save(Path(request.folder), kept, report)]}


def _whole_examples(
    task: TaskSpec, pairs: Sequence[LabelledVolume]
) -> Iterator[tuple[ExampleRef, LabelledVolume, tuple[tuple[int, tuple[int, ...]], ...]]]:
    """The examples with their labels and what slices tell (`Taught.told`), the parts of one volume together again."""
    parts: dict[Any, list[int]] = {}
    for number, each in enumerate(task.examples):
        parts.setdefault((each.image, each.source) if isinstance(each.slices, tuple) else number, []).append(number)
    for numbers in parts.values():
        in_part = any(pairs[number].known is not None for number in numbers)
        if in_part:  # but not where two segmentations of one volume tell of the same slice
            indices = [index for number in numbers for index in pairs[number].slices]
            in_part = len(set(indices)) == len(indices)
        for together in [numbers] if in_part else [[number] for number in numbers]:
            own = [pairs[number] for number in together]
            partly = {index: tuple(sorted(each.known)) for each in own if each.known for index in each.slices}
            yield task.examples[together[0]], _joined(own, task.settings.axes[0]), tuple(sorted(partly.items()))


def _joined(pairs: Sequence[LabelledVolume], axis: str) -> LabelledVolume:
    """Labels on slices of one volume that lie apart, as one."""
    if len(pairs) == 1:
        return pairs[0]
    geometry = pairs[0].labels.geometry
    array_axis = SlicePlan.of(geometry, axis).array_axis
    labels = np.zeros(geometry.shape, np.result_type(*(each.labels.array.dtype for each in pairs)))
    for each in pairs:
        here = (slice(None),) * array_axis + (list(each.slices),)
        labels[here] = each.labels.array[here]
    slices = tuple(sorted(index for each in pairs for index in each.slices))
    return replace(pairs[0], labels=Volume(labels, geometry, Kind.LABELS), slices=slices, known=None)


def _file_of(ref: VolumeRef) -> Path | None:
    """The file of an image that can be copied as it is; None for arrays and folders."""
    return Path(ref.path) if isinstance(ref, FileRef) and Path(ref.path).is_file() else None


def looking(segments: Sequence[segnrrd.Segment], looks: Sequence[Look]) -> list[segnrrd.Segment]:
    """The segments with the colours and tags that are known of them."""
    known = {look.value: look for look in looks}
    return [
        replace(segment, colour=look.colour, tags=look.tags) if (look := known.get(segment.value)) else segment
        for segment in segments
    ]


def weights(cache: WorkerCache, request: Weights, report: Report) -> dict[str, Any]:
    """Fetch or delete the weights of a catalogue entry, as the user asked."""
    entry, folder = find(request.name), cache_folder()
    if request.action == "remove":
        return {"removed": remove(entry, folder)}
    return {"path": str(ensure(entry, folder, report=report)), "sha256": pinned_sha256(entry, folder)}


ANSWERS = {
    Device: device,
    Prepare: prepare,
    Preview: preview,
    Segment: segment,
    Batch: batch,
    Describe: describe,
    SaveExamples: save_examples,
    Weights: weights,
    Correct: correct,
    Neighbours: neighbours,
    Propagate: propagate,
    LookAtSite: look_at_site,
    TrainOnSite: train_on_own_data,
}


def _segmented(cache: WorkerCache, request: Segment, report: Report) -> tuple[Session, Prediction, dict[str, Any]]:
    """What was found, with what was drawn in the target in its place, and the record of it."""
    bound = cache.bound(request.task, request.target, report)
    session = cache.session(bound, report)
    axis, box = next(iter(session.supports)), request.box
    if request.slice_range is not None:
        box = slab(bound.target.geometry, axis, request.slice_range)
    # Examples cut from pictures serve along the first axis only, whatever was asked for.
    settings = replace(bound.settings, axes=tuple(session.supports))
    prediction = session.segment(
        bound.target, settings, report, box, scale=cache.scale(request.target, bound.mix, bound.brief.intensities)
    )
    give_back_memory()
    mask = keep_drawn(prediction, bound.drawn, box)
    record = {
        "target": {"shape_kji": list(mask.geometry.shape)},
        **findings(session, prediction, mask),
        "colour": bound.mix.record,
        "provenance": prediction.provenance,
    }
    return session, replace(prediction, mask=mask), record


def _suspects(session: Session) -> list[dict]:
    """Doubts, with the example as the task names it beside the slice."""
    origins = {each.source: origin(each) for support in session.supports.values() for each in support.examples}
    suspects = session.foresight.suspects if session.foresight else ()
    return [suspect.record | {"example": origins[suspect.source]} for suspect in suspects]


def _cropped(array: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The part that is not 0, one voxel where there is none, and its corner."""
    inside = [np.flatnonzero(any_along(array, axis)) for axis in range(3)]
    low = [int(found[0]) if len(found) else 0 for found in inside]
    high = [int(found[-1]) + 1 if len(found) else 1 for found in inside]
    return array[tuple(map(slice, low, high))], low
