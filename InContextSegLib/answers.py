"""What a worker answers to each request, and what it keeps so that the next answer comes sooner."""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from InContextSegLib import __version__
from InContextSegLib.batch import Result, Way, fingerprint_of_task, inputs_of, told
from InContextSegLib.catalog import cache_folder, ensure, find, pinned_sha256, remove
from InContextSegLib.colour import LUMINANCE, ColourMix
from InContextSegLib.discriminant import colour_mix
from InContextSegLib.errors import Cancelled, InputError
from InContextSegLib.files import as_intensities, as_labels, ending_of, read_colours, read_segments, read_volume
from InContextSegLib.inference.aggregate import Prediction
from InContextSegLib.inference.cache import BoundedCache
from InContextSegLib.inference.leave_out import origin
from InContextSegLib.inference.rehearsal import sizes_for
from InContextSegLib.inference.session import Session, slab
from InContextSegLib.inference.settings import InferenceSettings
from InContextSegLib.loading import Model, choose_device
from InContextSegLib.memory import NO_MEMORY, give_back_memory, installed_bytes, is_exhaustion
from InContextSegLib.pictures import colours_of, grey_values
from InContextSegLib.progress import Report
from InContextSegLib.protocol import (
    ArrayRef,
    Batch,
    Describe,
    Device,
    ExampleRef,
    FileRef,
    Prepare,
    Preview,
    Segment,
    TaskSpec,
    VolumeRef,
    Weights,
)
from InContextSegLib.segnrrd import ENDING as SEGMENTATION
from InContextSegLib.shared import SharedFolder
from InContextSegLib.slicing import Intensities, Scale, SlicePlan
from InContextSegLib.support import Label, LabelledVolume
from InContextSegLib.tasks import (
    Brief,
    Drawn,
    Source,
    axes_for,
    drawn_axis,
    files_of,
    findings,
    foreseen,
    keep_drawn,
    open_session,
    segments_of,
    shows,
)
from InContextSegLib.volume import Geometry, Kind, Volume, any_along, laid_onto

VOLUME_BYTES = 2 << 30
SESSIONS, TARGETS = 2, 4  # a session may hold a gigabyte of contexts and embeddings
LARGEST_SPREAD = 0.5  # of numbers in [0, 1]


@dataclass(frozen=True, eq=False)
class _Kept:
    """A value in a cache, and what it counts for there."""

    value: Any
    size_bytes: int = 1


@dataclass(frozen=True, eq=False)
class _Bound:
    """A task bound to a target: what can be known of both before the network is loaded.

    Attributes:
        own: for every example whether it is the target itself.
        drawn: what the user labelled there.
        key: the same where the network and the examples can be the same, whatever the target.
    """

    task: TaskSpec
    brief: Brief
    target: Volume
    own: tuple[bool, ...]
    drawn: Drawn
    mix: ColourMix
    key: tuple

    @property
    def settings(self) -> InferenceSettings:
        return self.brief.settings


class Desk:
    """Answers requests one at a time; what it keeps from one to the next changes nothing but the time they take."""

    def __init__(self, shared: SharedFolder):
        self.shared = shared
        self.forget()

    def forget(self) -> None:
        """Keep nothing from now on."""
        self._volumes, self._scales = BoundedCache(VOLUME_BYTES), BoundedCache(TARGETS)
        self._bound, self._sessions = BoundedCache(TARGETS), BoundedCache(SESSIONS)

    def recover(self, everything: bool) -> None:
        """After a request came to nothing, give the memory of a GPU back: what nothing holds, or `everything`."""
        if everything:
            self.forget()
        give_back_memory()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def answer(self, request: Any, report: Report) -> dict[str, Any]:
        """What the request asks for, ready for JSON.

        Raises:
            Cancelled: from `report`.
            InputError, OutputError, WeightsError: in one sentence.
        """
        started = time.monotonic()
        answer = ANSWERS[type(request)](self, request, report)
        return answer | {"seconds": round(time.monotonic() - started, 3)}

    def bound(self, task: TaskSpec, target: VolumeRef, report: Report, axis: str | None = None) -> _Bound:
        """The task for that target, cut along `axis` instead of the task's own if one is named."""
        report.step(0, 1, "the volumes are read")
        stamps = tuple(_stamp(ref) for each in task.examples for ref in (each.image, each.labels))
        key = (task.key, stamps, target, _stamp(target), axis)
        return self._bound.get(key, lambda: _Kept(self._bind(task, stamps, target, axis))).value

    def session(self, bound: _Bound, report: Report) -> Session:
        """The network and the examples of a task; loaded, rehearsed and adapted only once."""

        def opened() -> _Kept:
            pairs = self._pairs(bound.task, bound.mix)
            # Slices drawn in the target itself are no finished volume, however many they are.
            pairs = [replace(pair, may_be_finished=not own) for pair, own in zip(pairs, bound.own, strict=True)]
            return _Kept(open_session(bound.brief, bound.target.geometry, pairs, report))

        return self._sessions.get(bound.key, opened).value

    def scale(self, bound: _Bound) -> Scale:
        """How the grey values of the target become [0, 1]."""
        intensities = bound.brief.intensities
        key = (bound.target, intensities)
        return self._scales.get(key, lambda: _Kept(intensities.of(bound.target.array))).value

    def volume(self, ref: VolumeRef, mix: ColourMix = LUMINANCE) -> Volume:
        """The volume that a reference means."""
        read = partial(self._mapped if isinstance(ref, ArrayRef) else _from_file, ref, mix)

        def kept() -> _Kept:
            volume = read()
            return _Kept(volume, volume.array.nbytes)

        return self._volumes.get((ref, _stamp(ref), mix.weights), kept).value

    def block(self, array: np.ndarray, corner_kji: list[int]) -> dict[str, Any]:
        """Hand an array over."""
        return {"array": self.shared.write(array), "corner_kji": corner_kji}

    def _mapped(self, ref: ArrayRef, mix: ColourMix) -> Volume:
        array, geometry = self._array(ref)
        if array.ndim == 4:
            array = grey_values(array, ref.kind, ref.name, mix)
        array = as_labels(array, ref.name) if ref.kind is Kind.LABELS else as_intensities(array, ref.name)
        return Volume(array, geometry, ref.kind)

    def _array(self, ref: ArrayRef) -> tuple[np.ndarray, Geometry]:
        array = np.asarray(self.shared.read(ref.name))
        if array.ndim != 3 and array.shape[3:] != (3,):
            raise InputError(
                f"The array {ref.name} should be (k, j, i) or (k, j, i, 3), but it is {array.shape}; hand over another."
            )
        return array, Geometry(array.shape[:3], np.array(ref.affine))

    def _colours(self, ref: VolumeRef) -> np.ndarray | None:
        if isinstance(ref, FileRef):
            return read_colours(ref.path)
        array, _ = self._array(ref)
        return colours_of(array) if array.ndim == 4 else None

    def _labels(self, example: ExampleRef) -> Volume:
        labels = self.volume(example.labels)
        if isinstance(example.labels, FileRef) and ending_of(example.labels.path) == SEGMENTATION:
            labels = laid_onto(labels, self.volume(example.image).geometry)
        return labels if example.values is None else _remapped(labels, dict(example.values))

    def _asked_for(self, values: Sequence[int], example: ExampleRef) -> np.ndarray:
        labels = self._labels(example).array
        return np.where(np.isin(labels, values), labels, 0)

    def _pairs(self, task: TaskSpec, mix: ColourMix) -> list[LabelledVolume]:
        return [
            LabelledVolume(self.volume(each.image, mix), self._labels(each), each.source, slices=each.slices)
            for each in task.examples
        ]

    def _bind(self, task: TaskSpec, stamps: tuple, target: VolumeRef, axis: str | None) -> _Bound:
        if not task.examples:
            raise InputError("A task needs at least one example, but none came; add a labelled image.")
        brief, entry = _brief(task), find(task.model)
        values = tuple(label.value for label in brief.labels)
        examples = [(each.image, each) for each in task.examples]
        labels_of = partial(self._asked_for, values)
        mix = ColourMix(task.colour, "asked for") if task.colour else None
        mix = mix or colour_mix(examples, [target], brief.intensities, labels_of, self._colours)
        volume, pairs = self.volume(target, mix), self._pairs(task, mix)
        own = tuple(
            each.image == target or shows(pair, volume) for each, pair in zip(task.examples, pairs, strict=True)
        )
        drawn = Drawn(tuple(pair for pair, mine in zip(pairs, own, strict=True) if mine), values)
        axes = (axis,) if axis else axes_for(brief.settings, volume.geometry, drawn_axis(pairs))
        brief = replace(brief, settings=replace(brief.settings, axes=axes))
        sizes = sizes_for(volume.geometry, axes[0], entry.capability.input_size, len(values))
        key = (task.key, stamps, own, mix.weights, axes, sizes if brief.settings.rehearse else ())
        return _Bound(task, brief, volume, own, drawn, mix, key)


def device(desk: Desk, request: Device, report: Report) -> dict[str, Any]:
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


def prepare(desk: Desk, request: Prepare, report: Report) -> dict[str, Any]:
    """Get everything ready that does not depend on a slice, and say what the examples lead to expect."""
    bound = desk.bound(request.task, request.target, report)
    session = desk.session(bound, report)
    axis = next(iter(session.supports))
    session.condition(axis, bound.settings, report)
    desk.scale(bound)
    return {
        "labels": {label.name: label.value for label in session.labels},
        "axis": axis,
        "examples": len(session.supports[axis]),
        "size": session.size,
        "expected": foreseen(session),
        "doubtful": _doubtful(session),
        "adaptation": session.provenance.get("adaptation", {}),
    }


def preview(desk: Desk, request: Preview, report: Report) -> dict[str, Any]:
    """The labels of one slice, and their uncertainty in percent of the largest possible spread if there are draws."""
    bound = desk.bound(request.task, request.target, report)
    session = desk.session(bound, report)
    axis = request.axis or next(iter(session.supports))
    if axis not in session.supports:
        bound = desk.bound(request.task, request.target, report, axis)
        session = desk.session(bound, report)
    if report.hurried:
        raise Cancelled("A newer preview is wanted.")
    geometry, index = bound.target.geometry, request.index
    found = session.segment_slice(bound.target, desk.scale(bound), axis, index, bound.settings)
    box = slab(geometry, axis, (index, index))
    mask = bound.drawn.keep(found.mask.array, box, bound.drawn.given(geometry, axis, [index] if found.given else []))
    corner = list(box[0])
    return {
        "axis": axis,
        "index": index,
        "array_axis": SlicePlan.of(geometry, axis).array_axis,
        "block": desk.block(mask, corner),
        "uncertainty": desk.block(_percent(found.uncertainty), corner) if found.uncertainty else None,
        "unlike": found.unlike,
        "draws": found.draws,
        "supports": found.supports,
    }


def segment(desk: Desk, request: Segment, report: Report) -> dict[str, Any]:
    """The labels of a target, and their uncertainty in percent of the largest possible spread if there are draws."""
    session, prediction, record = _segmented(desk, request, report)
    mask, uncertainty = prediction.mask, prediction.uncertainty
    return {
        "block": desk.block(*_cropped(mask.array)),
        "uncertainty": desk.block(*_cropped(_percent(uncertainty))) if uncertainty else None,
        "given": record["given_slices"],
        "axis": prediction.next_axis,
        "next_slice": prediction.next_slice,
        "unlike": record["unlike_slices"],
        "labels": record["labels"],
        "expected": record["expected"],
        "doubtful": _doubtful(session),
        "provenance": record["provenance"] | {"colour": record["colour"]},
    }


def batch(desk: Desk, request: Batch, report: Report) -> dict[str, Any]:
    """The labels of many volumes, in files; a status for each."""
    looks = {look.value: look for look in request.looks}

    def one(image: Path, report: Report) -> Result:
        try:
            session, prediction, record = _segmented(
                desk, Segment(request.task, FileRef(str(image), Kind.INTENSITY)), report
            )
        except (MemoryError, RuntimeError) as error:
            if not is_exhaustion(error):
                raise
            desk.recover(everything=True)
            raise InputError(NO_MEMORY) from error
        segments = [
            replace(segment, colour=look.colour, tags=look.tags) if (look := looks.get(segment.value)) else segment
            for segment in segments_of(session.labels)
        ]
        return Result(prediction.mask, segments, record)

    way = Way(fingerprint_of_task(request, desk.shared.read), one, inputs_of(request.task))
    return {"cases": [status.to_mapping() for status in told(request, way, report)]}


def describe(desk: Desk, request: Describe, report: Report) -> dict[str, Any]:
    """What labelled files hold, read before anything is computed from them."""
    files, pairs = files_of(Source(Path(request.images), Path(request.labels))), []
    for number, (image, mask) in enumerate(files):
        report.step(number, len(files), f"{mask.name} is read")
        labels = read_volume(mask, Kind.LABELS)
        names = {segment.value: segment.name for segment in read_segments(mask)}
        held = [(int(value), names.get(int(value), f"label {value}")) for value in np.unique(labels.array) if value]
        pairs.append({"image": str(image), "mask": str(mask), "labels": held})
    return {"pairs": pairs}


def weights(desk: Desk, request: Weights, report: Report) -> dict[str, Any]:
    """Fetch or delete the weights of a catalogue entry, as the user asked."""
    entry, folder = find(request.name), cache_folder()
    if request.action == "remove":
        return {"removed": remove(entry, folder)}
    return {"path": str(ensure(entry, folder, report=report)), "sha256": pinned_sha256(entry, folder)}


ANSWERS: Mapping[type, Callable[[Desk, Any, Report], dict[str, Any]]] = {
    Device: device,
    Prepare: prepare,
    Preview: preview,
    Segment: segment,
    Batch: batch,
    Describe: describe,
    Weights: weights,
}


def _segmented(desk: Desk, request: Segment, report: Report) -> tuple[Session, Prediction, dict[str, Any]]:
    """What was found, with what was drawn in the target in its place, and the record of it."""
    bound = desk.bound(request.task, request.target, report)
    session = desk.session(bound, report)
    axis, box = next(iter(session.supports)), request.box
    if request.slice_range is not None:
        box = slab(bound.target.geometry, axis, request.slice_range)
    # Examples cut from pictures serve along the first axis only, whatever was asked for.
    settings = replace(bound.settings, axes=tuple(session.supports))
    prediction = session.segment(bound.target, settings, report, box, scale=desk.scale(bound))
    give_back_memory()
    mask = keep_drawn(prediction, bound.drawn, box)
    record = {
        "target": {"shape_kji": list(mask.geometry.shape)},
        **findings(session, prediction, mask),
        "colour": bound.mix.record,
        "provenance": prediction.provenance,
    }
    return session, replace(prediction, mask=mask), record


def _brief(task: TaskSpec) -> Brief:
    return Brief(
        settings=task.settings,
        model=Model(task.model, Path(task.weights) if task.weights else None),
        intensities=Intensities(task.window),
        labels=tuple(Label(value, name) for value, name in task.labels),
        device=task.device,
        cache=cache_folder() / "adapted",
    )


def _from_file(ref: FileRef, mix: ColourMix) -> Volume:
    return read_volume(ref.path, ref.kind, mix)


def _stamp(ref: VolumeRef) -> tuple[int, int] | None:
    """What changes when a file is written anew; arrays never change."""
    if isinstance(ref, ArrayRef):
        return None
    try:
        found = Path(ref.path).stat()
    except OSError:
        return None  # reading it says why
    return found.st_mtime_ns, found.st_size


def _remapped(labels: Volume, values: Mapping[int, int]) -> Volume:
    table = np.zeros(1 << 16, np.uint8 if max(values.values(), default=0) < 256 else np.uint16)
    for value, wanted in values.items():
        if not (0 <= value < 1 << 16 and 0 <= wanted < 1 << 16):
            raise InputError(f"Values of labels are from 0 to 65535, but {value} was to become {wanted}.")
        table[value] = wanted
    return Volume(table[labels.array], labels.geometry, Kind.LABELS)


def _doubtful(session: Session) -> list[dict]:
    """Doubts, with the example as the task names it beside the slice."""
    origins = {each.source: origin(each) for support in session.supports.values() for each in support.examples}
    doubts = session.foresight.doubtful if session.foresight else ()
    return [doubt.record | {"example": origins[doubt.source]} for doubt in doubts]


def _percent(spread: Volume) -> np.ndarray:
    return np.rint(spread.array * (100 / LARGEST_SPREAD)).astype(np.uint8)


def _cropped(array: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The part that is not 0, one voxel where there is none, and its corner."""
    inside = [np.flatnonzero(any_along(array, axis)) for axis in range(3)]
    low = [int(found[0]) if len(found) else 0 for found in inside]
    high = [int(found[-1]) + 1 if len(found) else 1 for found in inside]
    return array[tuple(map(slice, low, high))], low
