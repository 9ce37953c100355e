"""What became of the cases of a batch: a record beside every result, by which it goes on later, and one table."""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from InContextSegLib.errors import InputError, OutputError
from InContextSegLib.jobs.cases import Case, CaseStatus
from InContextSegLib.volumes.files import json_text, write_text

TABLE = "batch.csv"

_COLUMNS = ("image", "output", "status", "seconds", "message")
_VERDICT, _VOLUME, _DICE = "verdict", "ml ", "expected Dice "  # the latter two before a label's name in the table
_CHUNK_BYTES = 1 << 20


def fingerprint_of(path: Path) -> str:
    """SHA-256 (hex) of a file, or of all files of a folder with their names; `folder#SERIES` counts as its folder.

    Raises:
        InputError: if it cannot be read.
    """
    if not path.exists() and "#" in path.name:
        path = Path(str(path).rpartition("#")[0])
    try:
        if not path.is_dir():
            return sha256_of(path)
        parts = [f"{each.name} {sha256_of(each)}" for each in sorted(path.iterdir()) if each.is_file()]
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).") from error
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Traces:
    """What an earlier batch left of a case: its record (None: there is none) and the output's sha256 (None: no output).

    Raises:
        InputError: from `of`, if the place of the record is taken by a file that is no record of a batch.
    """

    record: Mapping[str, Any] | None
    sha256: str | None

    @classmethod
    def of(cls, case: Case) -> "Traces":
        sha256 = sha256_of(case.output) if case.output.is_file() else None
        if not case.record.exists():
            return cls(None, sha256)
        with suppress(OSError, ValueError):
            record = json.loads(case.record.read_text(encoding="utf-8"))
            if isinstance(record, dict) and isinstance(record.get("batch"), dict):
                return cls(record, sha256)
        raise InputError(f"{case.record} exists already and is no record of a batch; choose another folder or name.")

    def done(self, task: str, target: str) -> bool:
        """Whether the output is that of this very task and target, by their fingerprints."""
        if self.record is None or self.sha256 is None:
            return False
        batch = self.record["batch"]
        wanted = {"status": "done", "task": task, "target": target, "output": self.sha256}
        return {name: batch.get(name) for name in wanted} == wanted

    def check_free(self, case: Case, overwrite: bool) -> None:
        """See whether the output may be written.

        A batch that was killed while it wrote may write again. What somebody has changed since is never replaced: it
        may be a result corrected by hand.

        Raises:
            InputError: if it exists.
        """
        batch = self.record["batch"] if self.record else {}
        if self.sha256 is None or batch.get("status") == "writing":
            return
        if batch.get("status") == "done" and batch.get("output") != self.sha256:
            raise InputError(
                f"{case.output} was changed since the batch wrote it, perhaps corrected by hand, and is left as it is; "
                "move it away to have it segmented again."
            )
        if not overwrite:
            known = " from other examples, settings or another image" if batch.get("status") == "done" else ""
            raise InputError(f"{case.output} exists already{known}; choose another folder or allow overwriting it.")


def note_failure(case: Case, task: str, message: str) -> None:
    """Leave a record of why a case failed, unless there is an output that it would seem to belong to."""
    with suppress(InputError, OutputError):
        if Traces.of(case).sha256 is None:
            write_record(case, {}, task=task, status="failed", message=message)


def write_record(case: Case, record: Mapping[str, Any], **batch: str) -> None:
    """Write the record of a case, whole or not at all, with what is kept of it for later batches.

    Raises:
        OutputError: if it could not be written.
    """
    write_text(case.record, json_text({"batch": batch, **record}, indent=2) + "\n")


def write_table(folder: Path, statuses: Iterable[CaseStatus]) -> None:
    """Write the table of a folder anew, with rows for these cases and, of earlier batches, for outputs not among them.

    Raises:
        InputError: if there is a file of that name that no batch wrote.
        OutputError: if it could not be written.
    """
    rows = {row["output"]: row for row in _earlier_rows(folder / TABLE)}
    for each in statuses:
        row = {"image": str(each.case.image), "output": each.case.output.name, "message": each.message}
        # In the table it does not matter which batch did it.
        row |= {"status": "done" if each.status == "skipped" else each.status}
        row |= {"seconds": f"{each.seconds:.1f}" if each.seconds else ""}
        row |= {_VERDICT: each.verdict} if each.verdict else {}
        for name, amount in each.millilitres.items():
            row[f"{_VOLUME}{name}"] = f"{amount:g}"
            row |= {f"{_DICE}{name}": f"{each.expected[name]:.2f}"} if name in each.expected else {}
        rows[row["output"]] = row
    labels = list(dict.fromkeys(name for row in rows.values() for name in row if name not in _COLUMNS))
    text = io.StringIO()
    # The mark at the start tells Excel that it is UTF-8.
    text.write("\ufeff")
    writer = csv.DictWriter(text, [*_COLUMNS, *labels], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows.values())
    write_text(folder / TABLE, text.getvalue())


def check_table(folder: Path) -> None:
    """See whether the table of a folder may be written.

    Raises:
        InputError: if there is a file of that name that no batch wrote.
    """
    _earlier_rows(folder / TABLE)


def _earlier_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with suppress(OSError, UnicodeDecodeError), path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, restval="")
        if tuple(rows.fieldnames or ())[: len(_COLUMNS)] == _COLUMNS:
            return [{name: value for name, value in row.items() if name} for row in rows]
    raise InputError(f"{path} exists already and is no table of a batch; move it away or choose another folder.")


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
