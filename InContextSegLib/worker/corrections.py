"""What a worker answers to clicks, boxes and scribbles on a slice, and how it carries on what was applied."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from InContextSegLib.errors import Cancelled, InputError
from InContextSegLib.examples.support import LabelledVolume, picture_of, slices_of
from InContextSegLib.inference.cached import BoundedCache, CachedSegmenter, Interruptible
from InContextSegLib.inference.interactive import Answer
from InContextSegLib.inference.loop import Cut, Labelled, Loop, LoopMemory
from InContextSegLib.inference.propagation import STOP_BELOW, Rule, carried
from InContextSegLib.memory import give_back_memory
from InContextSegLib.models.catalog import find
from InContextSegLib.models.entry import PROMPTS, Capability
from InContextSegLib.models.loading import Model, answering_clicks, choose_device, load_model
from InContextSegLib.progress import Report
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.slices.plan import SlicePlan, stored_axis
from InContextSegLib.slices.prompts import BoxPrompt, Point, Prompts, Scribble
from InContextSegLib.volumes.colour import ColourMix
from InContextSegLib.worker.cache import Kept, WorkerCache, own_of, stamp_of, stamps_of, weights_of
from InContextSegLib.worker.protocol import (
    Correct,
    ExampleRef,
    Neighbours,
    PromptsRef,
    Propagate,
    SlicesRef,
    TaskSpec,
    VolumeRef,
)

SHARE = 0.25  # of the memory that a session may use: some hundred examples, a dozen slices
LOOPS = 4
LABELLED_BYTES = 256 << 20
LARGEST_LOGIT = 12.0


@dataclass(frozen=True, eq=False)
class _Engine:
    """A network for clicks and all that was computed with it; what takes its place frees all of it."""

    memory: LoopMemory
    size: int
    loops: BoundedCache
    labelled: BoundedCache


def correct(cache: WorkerCache, request: Correct, report: Report) -> dict[str, Any]:
    """The probability of one slice."""
    task, prompts = _task_of(request), _prompts(cache, request.prompts)
    capability = find(task.model).capability
    _refuse(task, capability, prompts)
    loop = _loop(cache, task, request, report)
    number = loop.cut.plan.number(request.index)
    chosen = loop.chosen(number, request.supports)
    shown = any(each.extent for each in chosen)
    if not shown and capability.support == "required":
        raise InputError(
            f"The model '{task.model}' takes {capability.taken}, but no example beside this slice shows label "
            f"{request.label}; apply a slice first, or choose another model."
        )
    if report.hurried:
        raise Cancelled("A newer click is wanted.")
    if request.previous is None or prompts.empty:
        answer = loop.opening(number, chosen)
        previous = answer.probability if answer else None
    else:
        previous = _previous(cache, request.previous, loop, number)
    if not prompts.empty:
        answer = loop.segment(number, prompts, previous, chosen, alone=capability.support != "required")
    if answer is None:
        raise InputError(
            f"Neither prompts nor an example of label {request.label} came; click on the structure, or apply a slice."
        )
    return _described(cache, request, loop, answer) | {"context": len(chosen) if shown else 0}


def neighbours(cache: WorkerCache, request: Neighbours, report: Report) -> dict[str, Any]:
    """Slices and the examples beside them computed ahead, the displayed one first."""
    loop = _loop(cache, _task_of(request), request, report)
    wanted = [request.index + step * side for step in range(request.radius + 1) for side in (1, -1)]
    length = loop.cut.plan.geometry.shape[loop.cut.plan.array_axis]
    wanted = [index for index in dict.fromkeys(wanted) if 0 <= index < length]
    with Interruptible(report.check):
        for done, index in enumerate(wanted):
            number = loop.cut.plan.number(index)
            loop.slice(number, None)
            report.step(done, len(wanted), "slices are computed ahead")
            loop.opening(number, loop.chosen(number, request.supports))
            report.step(done + 1, len(wanted), "slices are computed ahead")
    return {"ready": wanted}


def propagate(cache: WorkerCache, request: Propagate, report: Report) -> dict[str, Any]:
    """The label in the slices beside those that were applied, and how uncertain each voxel is, in percent."""
    capability = find(request.task.model).capability
    if capability.support == "unused":
        raise InputError(
            f"The model '{request.task.model}' takes {capability.taken}, and learns nothing from applied slices; "
            "choose another model to carry them on."
        )
    loop = _loop(cache, request.task, request, report)
    plan = loop.cut.plan
    start = None if request.start is None else [plan.number(index) for index in request.start]
    limits = request.slice_range and sorted(plan.number(index) for index in request.slice_range)
    sure = STOP_BELOW if request.stop_below is None else request.stop_below
    found = carried(loop, start, limits, Rule(request.threshold, sure, request.supports), report)
    give_back_memory()
    turned = plan.count > 1 and plan.slice_index(0) > plan.slice_index(1)
    sides = {1: "before" if turned else "after", -1: "after" if turned else "before"}
    indices = {plan.slice_index(number): number for number in found.answers}
    kind = np.uint8 if request.label < 256 else np.uint16
    masks = {
        n: answer.mask(request.threshold).astype(kind) * kind(request.label) for n, answer in found.answers.items()
    }
    uncertainties = {
        n: np.rint(100 - 100 * np.abs(2 * a.probability - 1)).astype(np.uint8) for n, a in found.answers.items()
    }
    return {
        "axis": request.axis,
        "array_axis": plan.array_axis,
        "block": cache.block(*_block(plan, masks)),
        "uncertainty": cache.block(*_block(plan, uncertainties)),
        "slices": sorted(indices),
        "confidence": [round(found.confidence[indices[index]], 3) for index in sorted(indices)],
        "reached": [min(indices), max(indices)] if indices else None,
        "stopped": {sides[side]: why for side, why in found.stopped.items()},
    }


def _block(plan: SlicePlan, slices: Mapping[int, np.ndarray]) -> tuple[np.ndarray, list[int]]:
    """Slices by number as one array (k, j, i) from the first to the last, 0 between them; and its corner."""
    indices = [plan.slice_index(number) for number in slices] or [0]
    shape, corner = list(plan.geometry.shape), [0, 0, 0]
    corner[plan.array_axis], shape[plan.array_axis] = min(indices), max(indices) - min(indices) + 1
    block = np.zeros(shape, next((each.dtype for each in slices.values()), np.uint8))
    stack = np.moveaxis(block, plan.array_axis, 0)
    for number, each in slices.items():
        stack[plan.slice_index(number) - min(indices)] = np.moveaxis(each, plan.array_axis, 0)[0]
    return block, corner


def _described(cache: WorkerCache, request: Correct, loop: Loop, answer: Answer) -> dict[str, Any]:
    corner = [0, 0, 0]
    corner[loop.cut.plan.array_axis] = request.index
    probability = np.clip(answer.probability, 1e-6, 1 - 1e-6)
    logits = np.clip(np.log(probability / (1 - probability)), -LARGEST_LOGIT, LARGEST_LOGIT)
    return {
        "axis": request.axis,
        "index": request.index,
        "array_axis": loop.cut.plan.array_axis,
        "probability": cache.block(np.rint(answer.probability * 255).astype(np.uint8), corner),
        "logits": cache.shared.write(logits.astype(np.float16)),
    }


def _previous(cache: WorkerCache, name: str, loop: Loop, number: int) -> np.ndarray:
    logits, wanted = cache.shared.read(name), loop.slice(number, None).geometry.shape
    if logits.shape != wanted:
        raise InputError(
            f"The logits of the last answer belong to a slice of {logits.shape} voxels, but this one has {wanted}; "
            "hand over those of this slice, or none."
        )
    return 1 / (1 + np.exp(-np.asarray(logits, np.float32)))


def _task_of(request: Correct | Neighbours) -> TaskSpec:
    if request.task is not None:
        return request.task
    return TaskSpec((), (), model=request.model, weights=request.weights, window=request.window, device=request.device)


def _prompts(cache: WorkerCache, refs: PromptsRef) -> Prompts:
    return Prompts(
        tuple(Point(position, positive) for position, positive in refs.points),
        tuple(BoxPrompt(*corners) for corners in refs.boxes),
        tuple(
            Scribble(np.asarray(cache.shared.read(name)) != 0, corner, positive)
            for name, corner, positive in refs.scribbles
        ),
    )


def _refuse(task: TaskSpec, capability: Capability, prompts: Prompts) -> None:
    """What a model cannot serve, in one sentence that names what it can."""
    given = {"click": prompts.points, "box": prompts.boxes, "scribble": prompts.scribbles}
    came = [PROMPTS[kind] for kind, some in given.items() if some and kind not in capability.prompts]
    if task.examples and capability.support == "unused":
        came.append("labelled examples")
    if came:
        raise InputError(
            f"The model '{task.model}' takes {capability.taken}, but {' and '.join(came)} came; "
            "leave them out, or choose another model."
        )


def _engine(cache: WorkerCache, task: TaskSpec) -> _Engine:
    def opened() -> Kept:
        chosen = Model(task.model, Path(task.weights) if task.weights else None)
        segmenter, _, size = load_model(answering_clicks(chosen, find(task.model)))
        memory = LoopMemory(CachedSegmenter(segmenter, choose_device(task.device), SHARE))
        return Kept(_Engine(memory, size, BoundedCache(LOOPS), BoundedCache(LABELLED_BYTES)))

    return cache.for_clicks.get((task.model, task.weights, weights_of(task), task.device), opened).value


def _loop(cache: WorkerCache, task: TaskSpec, request: Correct | Neighbours | Propagate, report: Report) -> Loop:
    """The labelled slices of a task before its target."""
    report.step(0, 1, "the volumes are read")
    engine = _engine(cache, task)
    key = (task.key, stamps_of(task), request.target, stamp_of(request.target), request.axis, request.label)

    def opened() -> Kept:
        scene = _Scene(cache, engine, task, cache.mix(task, request.target), request.axis, request.label)
        return Kept(scene.loop(request.target, report))

    return engine.loops.get(key, opened).value


@dataclass(frozen=True, eq=False)
class _Scene:
    """How the images of a task are seen."""

    cache: WorkerCache
    engine: _Engine
    task: TaskSpec
    mix: ColourMix
    axis: str
    label: int

    def loop(self, target: VolumeRef, report: Report) -> Loop:
        """All labelled slices before a target."""
        cut, labelled = self._cut(target), []
        images = [self.cache.volume(each.image, self.mix) for each in self.task.examples]
        own = own_of(self.task, target, images, cut.read())
        for done, (ref, mine) in enumerate(zip(self.task.examples, own, strict=True)):
            report.step(done, len(own), "examples are cut")
            for part in self._parts(ref) if ref.known is None or self.label in ref.known else ():
                labelled += self._labelled(part, mine)
        name = (target, stamp_of(target), self.mix.weights, self.task.window)
        return Loop(self.engine.memory, name, cut, labelled)

    def _cut(self, ref: VolumeRef, axis: str | None = None) -> Cut:
        scale = self.cache.scale(ref, self.mix, Intensities(self.task.window))
        read = partial(self.cache.volume, ref, self.mix)
        return Cut(read, scale, SlicePlan.of(read().geometry, axis or self.axis, self.engine.size))

    def _parts(self, ref: ExampleRef) -> list[ExampleRef]:
        """Slices that came one by one as examples of their own, so that those cut before are found again."""
        if not isinstance(ref.labels, SlicesRef) or not isinstance(ref.slices, tuple):
            return [ref]
        plan = SlicePlan.of(self.cache.volume(ref.image, self.mix).geometry, self.axis, self.engine.size)
        if plan.array_axis != ref.labels.array_axis:
            return [ref]  # cut across the slices that were drawn
        return [replace(ref, labels=ref.labels.at(index), slices=(index,)) for index in dict.fromkeys(ref.slices)]

    def _labelled(self, ref: ExampleRef, mine: bool) -> tuple[Labelled, ...]:
        stamps = stamp_of(ref.image), stamp_of(ref.labels)
        key = (ref, stamps, self.mix.weights, self.task.window, self.axis, self.label, mine)

        def found() -> Kept:
            # The label is the only one here, whatever its value.
            pair = replace(self.cache.pair(ref, self.mix), may_be_finished=not mine, known=None)
            every = tuple(self._slices(ref, pair, mine))
            return Kept(every, sum(each.example.size_bytes + each.mask.nbytes for each in every))

        return self.engine.labelled.get(key, found).value

    def _slices(self, ref: ExampleRef, pair: LabelledVolume, mine: bool) -> Iterator[Labelled]:
        picture = pair.image.geometry.shape[0] == 1
        cut = self._cut(ref.image, stored_axis(pair.image.geometry) if picture else None)
        plan = cut.plan
        examples = (
            [picture_of(pair, plan.size, cut.scale)] if picture else slices_of(pair, plan.axis, plan.size, cut.scale)
        )
        for example in examples:
            number = 0 if example.position is None else round(example.position * plan.count - 0.5)
            labels = np.take(pair.labels.array, [plan.slice_index(number)], axis=plan.array_axis)
            yield Labelled.of(cut, example, number, labels == self.label, mine)
