"""The command `batch`: its words become a task, which a worker process carries out."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from InContextSegLib.errors import Cancelled, InputError, OutputError, WeightsError
from InContextSegLib.examples.pairs import paired_files
from InContextSegLib.examples.saved import taught_in
from InContextSegLib.inference.settings import AUTO_AXIS, InferenceSettings
from InContextSegLib.jobs.cases import Case, CaseStatus
from InContextSegLib.jobs.records import check_table
from InContextSegLib.progress import Report
from InContextSegLib.volumes.files import read_segments, read_volume
from InContextSegLib.volumes.geometry import Kind
from InContextSegLib.worker.batch_run import BatchRun
from InContextSegLib.worker.client import WorkerClient
from InContextSegLib.worker.protocol import ExampleRef, FileRef, TaskSpec
from InContextSegLib.worker.transport import SubprocessTransport

_PAUSE_S = 0.02
_KINDS = {kind.__name__: kind for kind in (InputError, OutputError, WeightsError)}


def task_of(options: argparse.Namespace, settings: InferenceSettings) -> TaskSpec:
    """What the words of the command line ask for.

    Raises:
        InputError: if an example cannot be read, its slices are named for several volumes, or they were drawn along
            another axis than is asked for.
    """
    pairs = [pair for images, labels in options.support for pair in _pairs(images.absolute(), labels.absolute())]
    if isinstance(options.support_slices, tuple) and len(pairs) != 1:
        raise InputError(f"Slice indices can be named for a single volume only, but {len(pairs)} volumes came.")
    told = [taught_in(labels) for _, labels in pairs]
    choice = None if options.support_slices == "auto" else options.support_slices
    examples = tuple(
        ExampleRef(
            FileRef(str(image), Kind.INTENSITY),
            FileRef(str(labels), Kind.LABELS),
            str(image),
            slices,
            known=None if known is None else tuple(sorted(known)),
        )
        for (image, labels), taught in zip(pairs, told, strict=True)
        for slices, known in (taught.parts() if taught else [(choice, None)])
    )
    settings = replace(settings, axes=_axes({each.axis for each in told if each and each.axis}, settings.axes))
    labels = [(label.value, label.name) for label in options.labels or ()]
    return TaskSpec(
        examples=examples,
        labels=tuple(labels or _labels_in([labels for _, labels in pairs])),
        settings=settings,
        model=options.model,
        weights=str(options.weights.absolute()) if options.weights else None,
        window=options.window.window,
        colour=options.colour.weights if options.colour else None,
        device=options.device,
    )


def _axes(told: set[str], asked: tuple[str, ...]) -> tuple[str, ...]:
    """Along which axes to cut where examples tell by single slices along some."""
    if not told or asked == tuple(told):
        return asked
    if len(told) > 1 or asked != (AUTO_AXIS,):
        raise InputError(
            f"The examples teach by single {' and '.join(sorted(told))} slices, but the volumes are to be cut along "
            f"{' and '.join(asked)}; choose one axis, and examples that were drawn along it."
        )
    return tuple(told)


def run_in_worker(task: TaskSpec, cases: Sequence[Case], report: Report, overwrite: bool) -> Sequence[CaseStatus]:
    """Segment the cases in a worker process and wait for it; where it dies, another one goes on.

    Returns:
        The status of every case.

    Raises:
        Cancelled: from `report`; what is done stays.
        InputError, OutputError, WeightsError, RuntimeError: what ended the whole batch.
    """
    check_table(cases[0].output.parent)
    ends: list[tuple[str, str]] = []
    client = WorkerClient(SubprocessTransport)

    def ask(do, payload, on_progress, on_done, on_failed):
        return client.ask(do, payload, on_progress=on_progress, on_done=on_done, on_failed=on_failed)

    run = BatchRun(
        ask,
        {"task": task.to_mapping(), "overwrite": overwrite},
        cases,
        lambda place: None,
        lambda kind, message: ends.append((kind, message)),
    )
    try:
        run.start()
        while not ends:
            client.poll()
            _show(run, report)
            time.sleep(_PAUSE_S)
    except Cancelled:
        # Politely first, so that nothing is left half-written aside.
        client.cancel(run.number)
        while not ends:
            client.poll()
            time.sleep(_PAUSE_S)
        raise
    finally:
        client.close()
    kind, message = ends[0]
    if kind:
        raise _KINDS.get(kind, RuntimeError)(message)
    return run.statuses


def _show(run: BatchRun, report: Report) -> None:
    settled = sum(status.settled for status in run.statuses)
    running = next((status for status in run.statuses if status.status == "running"), None)
    what = f"{running.case.image.name}: {running.message}" if running else "starting"
    report.step(settled, len(run.statuses), what)


def _pairs(images: Path, labels: Path) -> list[tuple[Path, Path]]:
    if images.is_dir() and labels.is_dir():
        return paired_files(images, labels)
    return [(images, labels)]


def _labels_in(paths: Sequence[Path]) -> list[tuple[int, str]]:
    """All labels of the examples, called as a segmentation calls them, else by their values."""
    names: dict[int, str] = {}
    for path in paths:
        for segment in read_segments(path):
            names.setdefault(segment.value, segment.name)
    values = sorted({int(value) for path in paths for value in np.unique(read_volume(path, Kind.LABELS).array)} - {0})
    if not values:
        raise InputError("The label maps of the examples are empty; choose some that hold labels.")
    return [(value, names.get(value, f"label {value}")) for value in values]
