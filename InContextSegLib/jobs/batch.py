"""One task, many volumes: each case is segmented, written and recorded on its own, and what is done already is left."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from InContextSegLib import __version__
from InContextSegLib.config import to_mapping
from InContextSegLib.errors import Cancelled, InputError, WeightsError, sentence_of
from InContextSegLib.jobs.cases import Case, CaseStatus
from InContextSegLib.jobs.records import (
    Traces,
    check_table,
    fingerprint_of,
    note_failure,
    sha256_of,
    write_record,
    write_table,
)
from InContextSegLib.models.catalog import cache_folder, find, pinned_sha256
from InContextSegLib.progress import Report
from InContextSegLib.volumes.files import check_fits, make_folder, write_volume
from InContextSegLib.volumes.geometry import Volume
from InContextSegLib.volumes.segnrrd import Segment
from InContextSegLib.worker.protocol import Batch, FileRef, LabelsRef, SlicesRef, TaskSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Result:
    """A segmented target: its label map, the segments in it, and what the record of a job says of it."""

    mask: Volume
    segments: Sequence[Segment]
    record: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Way:
    """How every case is segmented.

    Attributes:
        task: the fingerprint of all that decides the result, but for the target.
        segment: does it, with steps of the report that count for this case alone.
        inputs: files that are read besides the targets, and must not be written to.
    """

    task: str
    segment: Callable[[Path, Report], Result]
    inputs: frozenset[Path] = frozenset()


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


def told(request: Batch, way: "Way", report: Report) -> list[CaseStatus]:
    """Run the batch of a request and tell of every case, in words that `batchrun.BatchRun` understands.

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


def run_batch(cases: Sequence[Case], way: Way, report: Report, overwrite: bool = False) -> Iterator[CaseStatus]:
    """Segment case after case; yields the status of each when it begins ("running") and when it is settled.

    A case is done, and skipped, if the sha256 of its output is that of its record, and the record is of the same task
    and target. So a batch that was killed goes on where it stopped. Whatever else goes wrong with a case fails this
    case only; it is tried again the next time. The table `records.TABLE` is written anew after every case.

    Args:
        report: gets the steps of the running case.
        overwrite: whether outputs of other tasks are replaced; those that somebody changed never are.

    Raises:
        InputError, OutputError: before the first case, if the outputs cannot come where they should.
        WeightsError: with the first case that is not done, as no other could do better.
        Cancelled: from `report`; the case it came in has left nothing.
    """
    folder = _checked(cases, way)
    statuses = [CaseStatus(case) for case in cases]
    for number, case in enumerate(cases):
        yield replace(statuses[number], status="running")
        statuses[number] = _settled(case, way, report, overwrite)
        write_table(folder, statuses)
        yield statuses[number]


def _checked(cases: Sequence[Case], way: Way) -> Path:
    """The folder of all outputs; made if need be."""
    folders = {case.output.parent for case in cases}
    if len(folders) != 1:
        raise InputError(f"The outputs of a batch need one folder, but {len(folders)} came; run a batch for each.")
    (folder,) = folders
    make_folder(folder)
    check_table(folder)
    inputs = {path.resolve() for path in (*way.inputs, *(case.image for case in cases))}
    for case in cases:
        if case.output.resolve() in inputs:
            raise InputError(f"The output {case.output} is also an input; choose another folder for the outputs.")
    return folder


def _settled(case: Case, way: Way, report: Report, overwrite: bool) -> CaseStatus:
    started = time.monotonic()
    report.step(0, 1, case.image.name)
    try:
        traces, target = Traces.of(case), fingerprint_of(case.image)
        if traces.done(way.task, target):
            seconds, amounts = traces.record.get("seconds") or 0.0, _millilitres(traces.record)
            return CaseStatus(case, "skipped", seconds=seconds, millilitres=amounts)
        traces.check_free(case, overwrite)
    except (OSError, InputError) as error:
        return CaseStatus(case, "failed", sentence_of(error))
    try:
        result = way.segment(case.image, report)
        seconds = round(time.monotonic() - started, 2)
        _write(case, result, {"task": way.task, "target": target}, seconds)
        return CaseStatus(case, "done", seconds=seconds, millilitres=_millilitres(result.record))
    except (Cancelled, WeightsError):
        raise
    except Exception as error:
        # Whatever it is, the other cases go on.
        log.debug("%s failed.", case.image, exc_info=True)
        note_failure(case, way.task, sentence_of(error))
        return CaseStatus(case, "failed", sentence_of(error), time.monotonic() - started)


def _write(case: Case, result: Result, batch: Mapping[str, str], seconds: float) -> None:
    """Write output and record; the record says before that the output is being written, so that it may be again."""
    check_fits(case.output, result.mask)
    write_record(case, {}, **batch, status="writing")
    write_volume(case.output, result.mask, result.segments)
    kept = {"files": {"mask": {"path": str(case.output), "sha256": sha256_of(case.output)}}, "seconds": seconds}
    write_record(case, {**result.record, **kept}, **batch, status="done", output=kept["files"]["mask"]["sha256"])


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


def _millilitres(record: Mapping[str, Any]) -> dict[str, float]:
    return {name: amount["millilitres"] for name, amount in record.get("labels", {}).items()}
