"""What a worker reads, opens and computes once, so that the next answer comes sooner."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from InContextSegLib.adaptation.calibration import finer_sizes, sizes_for
from InContextSegLib.errors import InputError
from InContextSegLib.examples.discriminant import colour_mix
from InContextSegLib.examples.support import Label, LabelledVolume
from InContextSegLib.inference.cached import BoundedCache
from InContextSegLib.inference.session import Session
from InContextSegLib.inference.settings import InferenceSettings
from InContextSegLib.jobs.task import (
    Brief,
    Drawn,
    alike_in_colour,
    axes_for,
    drawn_axis,
    field_for,
    open_session,
    same_volume,
)
from InContextSegLib.memory import give_back_memory
from InContextSegLib.models.catalog import cache_folder, find, list_entries
from InContextSegLib.models.loading import Model
from InContextSegLib.progress import Report
from InContextSegLib.slices.intensities import Intensities, Scale
from InContextSegLib.volumes.colour import LUMINANCE, ColourMix
from InContextSegLib.volumes.files import ending_of, read_colours, read_volume
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume, laid_onto
from InContextSegLib.volumes.pictures import colours_of
from InContextSegLib.volumes.segnrrd import ENDING as SEGMENTATION
from InContextSegLib.volumes.values import as_labels, volume_of
from InContextSegLib.worker.protocol import ArrayRef, ExampleRef, FileRef, LabelsRef, SlicesRef, TaskSpec, VolumeRef
from InContextSegLib.worker.shared_arrays import SharedFolder

VOLUME_BYTES = 2 << 30
SCALES, CLICKED = 256, 1
SESSIONS, TARGETS = 2, 4  # a session may hold a gigabyte of contexts and embeddings


@dataclass(frozen=True, eq=False)
class Kept:
    """A value in a cache, and what it counts for there."""

    value: Any
    size_bytes: int = 1


@dataclass(frozen=True, eq=False)
class Bound:
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


class WorkerCache:
    """Answers requests one at a time; what it keeps from one to the next changes nothing but the time they take.

    Attributes:
        for_clicks, for_surveys: what answers clicks, and what looks at training data, keeps its own here.

    Args:
        answers: for every kind of request what answers it, given this cache.
    """

    def __init__(
        self, shared: SharedFolder, answers: Mapping[type, Callable[["WorkerCache", Any, Report], dict[str, Any]]]
    ):
        self.shared, self._answers = shared, answers
        self.for_surveys = BoundedCache(1)  # no burden to a training, which asks for one first
        self.forget()

    def forget(self) -> None:
        """Keep nothing from now on."""
        self._volumes, self._scales = BoundedCache(VOLUME_BYTES), BoundedCache(SCALES)
        self._bound, self._sessions = BoundedCache(TARGETS), BoundedCache(SESSIONS)
        self.for_clicks = BoundedCache(CLICKED)

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
        answer = self._answers[type(request)](self, request, report)
        return answer | {"seconds": round(time.monotonic() - started, 3)}

    def bound(self, task: TaskSpec, target: VolumeRef, report: Report, axis: str | None = None) -> Bound:
        """The task for that target, cut along `axis` instead of the task's own if one is named."""
        report.step(0, 1, "the volumes are read")
        stamps = stamps_of(task)
        key = (task.key, stamps, target, stamp_of(target), axis)
        return self._bound.get(key, lambda: Kept(self._bind(task, stamps, target, axis))).value

    def session(self, bound: Bound, report: Report) -> Session:
        """The network and the examples of a task; loaded, calibrated and adapted only once."""

        def opened() -> Kept:
            _, pairs = alike_in_colour(bound.target, self.pairs(bound.task, bound.mix))
            # Slices drawn in the target itself are no finished volume, however many they are.
            pairs = [replace(pair, may_be_finished=not own) for pair, own in zip(pairs, bound.own, strict=True)]
            return Kept(open_session(bound.brief, bound.target.geometry, pairs, report))

        return self._sessions.get(bound.key, opened).value

    def scale(self, ref: VolumeRef, mix: ColourMix, intensities: Intensities) -> Scale:
        """How the grey values of a volume become [0, 1]."""
        key = (ref, stamp_of(ref), mix.weights, intensities)
        return self._scales.get(key, lambda: Kept(intensities.of(self.volume(ref, mix).array))).value

    def volume(self, ref: VolumeRef, mix: ColourMix = LUMINANCE) -> Volume:
        """The volume that a reference means."""
        read = partial(self._mapped if isinstance(ref, ArrayRef) else _from_file, ref, mix)

        def kept() -> Kept:
            volume = read()
            return Kept(volume, volume.array.nbytes + (0 if volume.colours is None else volume.colours.nbytes))

        return self._volumes.get((ref, stamp_of(ref), mix.weights), kept).value

    def mix(self, task: TaskSpec, target: VolumeRef) -> ColourMix:
        """How the colours of a task become grey."""
        if task.colour:
            return ColourMix(task.colour, "asked for")
        values, examples = [value for value, _ in task.labels], [(each.image, each) for each in task.examples]
        labels_of = partial(self._asked_for, values)
        return colour_mix(examples, [target], Intensities(task.window), labels_of, self._colours)

    def pairs(self, task: TaskSpec, mix: ColourMix) -> list[LabelledVolume]:
        """The examples of a task, whole."""
        return [self.pair(each, mix) for each in task.examples]

    def pair(self, example: ExampleRef, mix: ColourMix) -> LabelledVolume:
        """One example, whole."""
        image = self.volume(example.image, mix)
        known = None if example.known is None else frozenset(example.known)
        return LabelledVolume(image, self._labels(example), example.source, slices=example.slices, known=known)

    def block(self, array: np.ndarray, corner_kji: list[int]) -> dict[str, Any]:
        """Hand an array over."""
        return {"array": self.shared.write(array), "corner_kji": corner_kji}

    def _mapped(self, ref: ArrayRef, mix: ColourMix) -> Volume:
        array, geometry = self._array(ref)
        return volume_of(array, geometry, ref.kind, ref.name, mix)

    def _array(self, ref: ArrayRef) -> tuple[np.ndarray, Geometry]:
        array = np.asarray(self.shared.read(ref.name))
        if array.ndim != 3 and array.shape[3:] != (3,):
            raise InputError(
                f"The array {ref.name} should be (k, j, i) or (k, j, i, 3), but it is {array.shape}; hand over another."
            )
        return array, Geometry(array.shape[:3], np.array(ref.affine))

    def coloured(self, ref: VolumeRef) -> bool:
        """Whether an image is in colour."""
        return self._colours(ref) is not None

    def _colours(self, ref: VolumeRef) -> np.ndarray | None:
        if isinstance(ref, FileRef):
            return read_colours(ref.path)
        array, _ = self._array(ref)
        return colours_of(array) if array.ndim == 4 else None

    def _labels(self, example: ExampleRef) -> Volume:
        ref = example.labels
        labels = self._laid(ref) if isinstance(ref, SlicesRef) else self.volume(ref)
        if isinstance(example.labels, FileRef) and ending_of(example.labels.path) == SEGMENTATION:
            labels = laid_onto(labels, self.volume(example.image).geometry)
        return labels if example.values is None else _remapped(labels, dict(example.values))

    def _laid(self, ref: SlicesRef) -> Volume:
        """Slices as a label map of the whole grid; not kept, as the system makes only those pages that are written."""
        parts = {index: as_labels(np.asarray(self.shared.read(name)), name) for index, name in ref.slices}
        one = tuple(1 if axis == ref.array_axis else length for axis, length in enumerate(ref.shape))
        labels = np.zeros(ref.shape, np.result_type(np.uint8, *(part.dtype for part in parts.values())))
        for index, part in parts.items():
            if part.shape != one:
                raise InputError(f"The labels of slice {index} should be {one}, but they are {part.shape}.")
            labels[(slice(None),) * ref.array_axis + (slice(index, index + 1),)] = part
        return Volume(labels, Geometry(ref.shape, np.array(ref.affine)), Kind.LABELS)

    def _asked_for(self, values: Sequence[int], example: ExampleRef) -> np.ndarray:
        labels = self._labels(example).array
        return np.where(np.isin(labels, values), labels, 0)

    def _bind(self, task: TaskSpec, stamps: tuple, target: VolumeRef, axis: str | None) -> Bound:
        if not task.examples:
            raise InputError("A task needs at least one example, but none came; add a labelled image.")
        brief, entry = _brief(task), find(task.model)
        values = tuple(label.value for label in brief.labels)
        mix = self.mix(task, target)
        volume, pairs = alike_in_colour(self.volume(target, mix), self.pairs(task, mix))
        own = own_of(task, target, [pair.image for pair in pairs], volume)
        drawn = Drawn(tuple(pair for pair, mine in zip(pairs, own, strict=True) if mine), values)
        axes = (axis,) if axis else axes_for(brief.settings, volume.geometry, drawn_axis(pairs))
        brief = replace(brief, settings=replace(brief.settings, axes=axes))
        told = [replace(pair, may_be_finished=not mine) for pair, mine in zip(pairs, own, strict=True)]
        field = field_for(told, axes[0], brief)
        sizes = sizes_for(volume.geometry, axes[0], entry.capability.input_size, len(values), field)
        sizes += finer_sizes(volume.geometry, axes[0], entry.capability.input_size)
        key = (task.key, stamps, own, mix.weights, axes, sizes if brief.settings.calibrate else ())
        return Bound(task, brief, volume, own, drawn, mix, key)


def own_of(task: TaskSpec, target: VolumeRef, images: Sequence[Volume], volume: Volume) -> tuple[bool, ...]:
    """For every example whether its image is the target itself."""
    return tuple(
        each.image == target or same_volume(image, volume) for each, image in zip(task.examples, images, strict=True)
    )


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


def stamps_of(task: TaskSpec) -> tuple:
    """What changes when a file of an example is written anew, or the network of a model is another one."""
    files = tuple(stamp_of(ref) for each in task.examples for ref in (each.image, each.labels))
    return *files, weights_of(task)


def weights_of(task: TaskSpec) -> tuple:
    """What changes when a model of the user's own was replaced, or a weights file is written anew."""
    own = stamp_of(FileRef(task.weights, Kind.INTENSITY)) if task.weights else None
    return next((entry.weights.sha256 for entry in list_entries() if entry.name == task.model), None), own


def stamp_of(ref: LabelsRef) -> tuple[int, int] | None:
    """What changes when a file is written anew; arrays never change."""
    if not isinstance(ref, FileRef):
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
