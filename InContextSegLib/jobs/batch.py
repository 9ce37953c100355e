"""One task, many volumes: each case is segmented, written and recorded on its own, and what is done already is left."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from InContextSegLib.errors import Cancelled, InputError, WeightsError, sentence_of
from InContextSegLib.inference.quality import GOOD, LOOK, POOR
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
from InContextSegLib.progress import Report
from InContextSegLib.volumes.files import check_fits, make_folder, write_volume
from InContextSegLib.volumes.geometry import Volume
from InContextSegLib.volumes.segnrrd import Segment

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
            seconds = traces.record.get("seconds") or 0.0
            return CaseStatus(case, "skipped", seconds=seconds, **_found(traces.record))
        traces.check_free(case, overwrite)
    except (OSError, InputError) as error:
        return CaseStatus(case, "failed", sentence_of(error))
    try:
        result = way.segment(case.image, report)
        seconds = round(time.monotonic() - started, 2)
        _write(case, result, {"task": way.task, "target": target}, seconds)
        return CaseStatus(case, "done", seconds=seconds, **_found(result.record))
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


def _found(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a status says of a result."""
    amounts = record.get("labels", {})
    return {
        "millilitres": {name: amount["millilitres"] for name, amount in amounts.items()},
        "expected": {
            name: amount["expected_dice"] for name, amount in amounts.items() if amount.get("expected_dice") is not None
        },
        "verdict": _verdict({name: amount.get("verdict", "") for name, amount in amounts.items()}),
    }


def _verdict(verdicts: Mapping[str, str]) -> str:
    """The least favourable verdict, and which labels it is about where not about all; none where none was judged."""
    worst = next((each for each in (POOR, LOOK, GOOD) if each in verdicts.values()), "")
    about = [name for name, each in verdicts.items() if each == worst]
    return worst if len(about) == len(verdicts) or not worst else f"{worst}: {', '.join(about)}"
