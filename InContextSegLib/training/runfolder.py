"""The folder of a run on a site's data: which files hold what, whether it is the run that is meant, and its log.

Everything a run needs to go on is there, so it can be begun in one program and resumed in another.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from InContextSegLib.errors import InputError
from InContextSegLib.training.site.datasets import Site, read_site
from InContextSegLib.training.site.file import write_site
from InContextSegLib.volumes.files import json_text, make_folder, write_text

SITE, SETTINGS, SURVEY = "site.toml", "settings.json", "survey.json"
LOG, CHECKPOINT, EXAMPLES = "log.jsonl", "checkpoint.pt", "examples.png"
WEIGHTS, RECORD, BEGUN, CURVES = "weights.safetensors", "training.json", "begun.json", "curves.png"
LOCK = ".lock"  # held while somebody trains; left there, as removing it could take it from another
WRITTEN = (SITE, SETTINGS, BEGUN, SURVEY, LOG, CHECKPOINT, EXAMPLES, WEIGHTS, CURVES, RECORD)
# How long a run goes on and how it is watched may change on the way; the rest decides what is learnt.
MAY_CHANGE = {"validated", "draws", "change", "training.steps", "training.patience", "training.checkpointing"}
MAY_CHANGE |= {"training.checkpoint_every", "training.validate_every"}
_CHUNK_BYTES = 1 << 14


def open_run(folder: Path, site: Site, settings: Mapping[str, Any], write: bool = True) -> None:
    """Note in the folder what is trained on and how; of a run that was begun there, see that it is the same.

    One that came to no checkpoint, as where the data were found wanting, gives way to any other.

    Args:
        settings: all of `SiteTraining`, as a mapping.
        write: only one of several processes does.

    Raises:
        InputError: if the folder holds a run on other data, or with settings that may not change on the way.
        OutputError: if it cannot be written to.
    """
    make_folder(folder)
    site = resolved(site)
    learnt = has_learnt(folder)
    if (folder / SITE).exists() and read_site(folder / SITE) != site:
        if learnt:
            raise InputError(f"{folder} holds a run on other data sets, or on another split; choose another folder.")
        # Whichever process sees it, before the new site is written: none must take the patients of the old one.
        (folder / SURVEY).unlink(missing_ok=True)
    before = kept_settings(folder) if learnt else None
    if before is not None:
        known, wanted = _flat(before), _flat(settings)
        changed = sorted(name for name in known.keys() | wanted.keys() if known.get(name) != wanted.get(name))
        for name in changed:
            if name not in MAY_CHANGE:
                raise InputError(
                    f"{folder} holds a run with {name} {known.get(name)}, but {wanted.get(name)} is asked for; choose "
                    "another folder, or what the run was begun with."
                )
    if write:
        write_site(folder / SITE, site)
        write_text(folder / SETTINGS, json_text(dict(settings), indent=2) + "\n")


def resolved(site: Site) -> Site:
    """The site with the paths that its file would be read with."""

    def whole(text: str) -> str:
        return str(Path(text).expanduser().resolve()) if text else ""

    sets = [
        replace(each, images=whole(each.images), labels=whole(each.labels), table=whole(each.table))
        for each in site.datasets
    ]
    return replace(site, datasets=tuple(sets))


def kept_settings(folder: Path) -> dict[str, Any] | None:
    """The settings of the run in a folder; None where there is none, or it is older than this file.

    Raises:
        InputError: if the file cannot be read.
    """
    return _read(folder / SETTINGS)


def record_of(folder: Path) -> dict[str, Any] | None:
    """What came of a finished run; None of any other.

    Raises:
        InputError: if the file cannot be read.
    """
    return _read(folder / RECORD)


def begun_with(folder: Path) -> dict[str, Any] | None:
    """What the run in a folder began with; None where there is none.

    Raises:
        InputError: if the file cannot be read.
    """
    return _read(folder / BEGUN)


def survey_of(folder: Path) -> dict[str, Any] | None:
    """What was found when the run began, as `Survey.from_mapping` takes it; None: it was not looked yet.

    Raises:
        InputError: if the file cannot be read.
    """
    return _read(folder / SURVEY)


def has_learnt(folder: Path) -> bool:
    """Whether a run there came as far as a checkpoint, or weights of whatever run would be lost."""
    return any((folder / name).exists() for name in (CHECKPOINT, RECORD, WEIGHTS))


def is_run(folder: Path) -> bool:
    """Whether a run was begun there."""
    return (folder / SITE).is_file() and (folder / SETTINGS).is_file()


def holds_any(folder: Path) -> bool:
    """Whether a run has written anything there, or something has such a name."""
    return any((folder / name).exists() for name in WRITTEN)


def delete(folder: Path) -> None:
    """Remove what a run wrote, and the folder if nothing else is in it.

    Raises:
        OutputError: if a file cannot be removed.
    """
    for name in (*WRITTEN, LOCK):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


class LogTail:
    """Reads the lines of a log as they come, also of one that grows."""

    def __init__(self, path: Path):
        self.path = path
        self._offset, self._rest = 0, b""

    def read(self) -> Iterator[list[dict[str, Any]]]:
        """The new lines, in lists short enough for a window's own thread; what is cut off is left for the next time."""
        while True:
            try:
                with self.path.open("rb") as log:
                    log.seek(self._offset)
                    chunk = log.read(_CHUNK_BYTES)
            except OSError:
                return
            if not chunk:
                return
            self._offset += len(chunk)
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            yield [record for line in lines if (record := _record(line)) is not None]


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
        return record if isinstance(record["step"], int) else None
    except (ValueError, KeyError, TypeError):
        return None


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is damaged or cannot be read ({error}); choose another folder for the run."
        ) from error


def _flat(mapping: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{path}{name}.")
        else:
            found[f"{path}{name}"] = list(value) if isinstance(value, tuple) else value
    return found
