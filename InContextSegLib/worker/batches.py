"""A batch as a worker is asked for it: its fingerprint, the files it reads, and what is told of its cases."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from InContextSegLib import __version__
from InContextSegLib.config import to_mapping
from InContextSegLib.jobs.batch import Way, run_batch
from InContextSegLib.jobs.cases import Case, CaseStatus
from InContextSegLib.jobs.records import fingerprint_of, sha256_of
from InContextSegLib.models.catalog import cache_folder, find, pinned_sha256
from InContextSegLib.progress import Report
from InContextSegLib.worker.protocol import Batch, FileRef, LabelsRef, SlicesRef, TaskSpec


def fingerprint_of_task(request: Batch, array_of: Callable[[str], np.ndarray]) -> str:
    """SHA-256 (hex) of all that decides the results of a batch, but for the targets: examples by what is in them.

    Raises:
        InputError, WeightsError: if an example or the weights cannot be read.
    """
    task = request.task
    sources = [example.source for example in task.examples]
    examples = [
        {
            "image": _fingerprint(example.image, array_of),
            "labels": _fingerprint(example.labels, array_of),
            # What it is called does not matter, but who is the same patient does.
            "patient": sources.index(example.source),
            "slices": example.slices,
            "values": example.values,
            # Not where it is None, so that what was done before there were such examples stays done.
            **({} if example.known is None else {"known": sorted(example.known)}),
        }
        for example in task.examples
    ]
    weights = sha256_of(Path(task.weights)) if task.weights else pinned_sha256(find(task.model), cache_folder())
    same = {"version": __version__, "weights_sha256": weights, "examples": examples}
    mapping = to_mapping(request)
    same |= {name: value for name, value in mapping["task"].items() if name not in ("examples", "weights", "device")}
    text = json.dumps(same | {"looks": mapping["looks"]}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def inputs_of(task: TaskSpec) -> frozenset[Path]:
    """The files that a task reads."""
    refs = [ref for example in task.examples for ref in (example.image, example.labels)]
    paths = [ref.path for ref in refs if isinstance(ref, FileRef)]
    return frozenset(map(Path, [*paths, *filter(None, [task.weights])]))


def told(request: Batch, way: Way, report: Report) -> list[CaseStatus]:
    """Run the batch of a request and tell of every case, in words that `batch_run.BatchRun` understands.

    Raises: as `run_batch`.
    """
    cases = [Case(Path(case.image), Path(case.output)) for case in request.cases]
    running: list[CaseStatus] = []

    def show(done: int, total: int, message: str) -> None:
        report.step(done, max(total, 1), json.dumps(replace(running[-1], message=message).to_mapping()))

    settled = []
    for status in run_batch(cases, way, Report(show), request.overwrite):
        report.step(0, 0, json.dumps(status.to_mapping()))
        (settled if status.settled else running).append(status)
    return settled


def _fingerprint(ref: LabelsRef, array_of: Callable[[str], np.ndarray]) -> str:
    if isinstance(ref, FileRef):
        return fingerprint_of(Path(ref.path))
    if isinstance(ref, SlicesRef):
        place, names = (
            f"{ref.array_axis} {ref.shape} {[index for index, _name in ref.slices]}",
            dict(ref.slices).values(),
        )
    else:
        place, names = ref.kind.value, [ref.name]
    digest = hashlib.sha256(f"{place} {ref.affine}".encode())
    for array in map(array_of, names):
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        for plane in array:
            digest.update(np.ascontiguousarray(plane))
    return digest.hexdigest()
