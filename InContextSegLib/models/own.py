"""A user's own models: a folder each, with entry, weights, model card and figures, whole or not there at all."""

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePath

from InContextSegLib.config import from_mapping, to_mapping
from InContextSegLib.errors import InputError, OutputError, WeightsError
from InContextSegLib.models.entry import CatalogEntry
from InContextSegLib.volumes.files import json_text, make_folder, reason_of, whole_file, write_text

ENTRY, WEIGHTS, CARD = "entry.json", "weights.safetensors", "card.md"
NEW_NETWORKS = ("sricl",)  # words of a training for a network without weights, which no model may be called
BEFORE = ".before-"  # a model that is being replaced; where its place is empty, that is as far as it came
UNFINISHED, UNFINISHED_SECONDS = ".keeping-", 86_400  # younger ones may be somebody else's who is at it
PLAIN = re.compile("[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
OF_WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)

log = logging.getLogger(__name__)
_said: set[str] = set()


@dataclass(frozen=True)
class _Kept:
    """An entry, and the names of the files beside it that were written with it."""

    entry: CatalogEntry
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.files:
            if PurePath(name).name != name:
                raise ValueError(f'files must be plain file names, not "{name}".')


def models_folder(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Where a user's models are kept: INCONTEXTSEG_MODELS if set, else the platform's place for a user's data.

    Raises:
        InputError: if neither that nor a home folder is known.
    """
    if environ.get("INCONTEXTSEG_MODELS"):
        return Path(environ["INCONTEXTSEG_MODELS"]).absolute()
    try:
        if platform == "darwin":
            return Path.home() / "Library" / "Application Support" / "InContextSeg" / "Models"
        if platform == "win32":
            local = environ.get("LOCALAPPDATA")
            return (Path(local) if local else Path.home() / "AppData" / "Local") / "InContextSeg" / "Models"
        xdg = environ.get("XDG_DATA_HOME", "")
        # The XDG specification asks to ignore a relative path.
        return (Path(xdg) if xdg.startswith("/") else Path.home() / ".local" / "share") / "incontextseg" / "models"
    except RuntimeError as error:
        raise InputError("No folder for your own models is known; name one in INCONTEXTSEG_MODELS.") from error


def own_entries(taken: Collection[str]) -> tuple[CatalogEntry, ...]:
    """The user's models as they are now, by name; one that is damaged is left out, and the log says why.

    Args:
        taken: names of other models, which come first.
    """
    try:
        folder = models_folder()
        places = dict(_places(folder))
    except InputError:
        return ()
    except OSError as error:
        _warn(f"Your own models in {folder} cannot be listed ({reason_of(error)}); they are left out.")
        return ()
    found, others = [], {name.casefold() for name in taken}
    for name, place in sorted(places.items()):
        try:
            if name.casefold() in others:
                raise InputError("a model that comes with the software has that name; rename its folder")
            found.append(replace(_read(place).entry, name=name))
        except (InputError, OSError) as error:
            _warn(f'Your model "{name}" in {place} is left out: {error}')
    return tuple(found)


def check_name(name: str, taken: Collection[str], replacing: bool = False) -> None:
    """See whether a new model may be called so.

    Args:
        taken: names of models that come with the software.
        replacing: whether it may take the place of one of the user's own.

    Raises:
        InputError: if not.
    """
    if not PLAIN.fullmatch(name) or OF_WINDOWS.fullmatch(name):
        raise InputError(
            f'A model cannot be called "{name}"; use up to 64 letters without accents, digits, dots, dashes and '
            "underscores, a letter or digit first and last."
        )
    if name.casefold() in {each.casefold() for each in (*taken, *NEW_NETWORKS)}:
        raise InputError(f'The name "{name}" belongs to a model that comes with the software; choose another one.')
    same = [each for each in _names() if each.casefold() == name.casefold()]
    if same and same != [name]:
        raise InputError(f'You have a model "{same[0]}", which differs from "{name}" in capitals only; choose another.')
    if same and not replacing:
        raise InputError(f'You have a model "{name}" already; choose another name, or ask to replace it.')
    place = models_folder() / name
    if place.exists() and not place.is_dir():
        raise InputError(f'A model cannot be called "{name}", as {place} is a file; choose another name, or move it.')


def keep(entry: CatalogEntry, beside: Mapping[str, str | Path], replacing: bool = False) -> CatalogEntry:
    """Make a model one of the user's own, whole or not at all; an earlier one stays until the new one is complete.

    Files that a user put beside an earlier one stay.

    Args:
        entry: its name passed `check_name`; its weights are copied from their `path`.
        beside: what else to keep, by file name: a text, or the path of a file.

    Returns:
        the entry, with the weights where they are now.

    Raises:
        InputError: if there is one of that name, and it is not to be replaced.
        WeightsError: if the weights are not what the entry says.
        OutputError: if something cannot be written; nothing has changed then.
    """
    check_name(entry.name, (), replacing)
    folder = models_folder()
    make_folder(folder)
    place = folder / entry.name
    aside = folder / f"{UNFINISHED}{secrets.token_hex(8)}"
    try:
        _forget_unfinished(folder)
        aside.mkdir()
        _copy(Path(entry.weights.path), aside / WEIGHTS)
        with (aside / WEIGHTS).open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == entry.weights.sha256
        if not same:
            raise WeightsError(f"The weights {entry.weights.path} are not those of {entry.name}; train again.")
        for name, content in beside.items():
            (write_text if isinstance(content, str) else _copy_to)(aside / name, content)
        mapping = to_mapping(_Kept(entry, tuple(beside)))
        del mapping["entry"]["weights"]["path"]
        write_text(aside / ENTRY, json_text(mapping, indent=2) + "\n")
        _put(aside, place)
    except OSError as error:
        raise OutputError(f"{place} cannot be written ({reason_of(error)}).") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return _read(place).entry


def remove_own(entry: CatalogEntry) -> bool:
    """Delete a user's model, all that was written with it and nothing else; whether there was anything to delete.

    Raises:
        OutputError: if something cannot be deleted.
    """
    place = Path(entry.weights.path).parent
    there = [each for each in (place, place.with_name(BEFORE + place.name)) if (each / ENTRY).is_file()]
    try:
        for each in there:
            _clear(each)
    except OSError as error:
        raise OutputError(f"{place} cannot be removed ({reason_of(error)}).") from error
    return bool(there)


def card_of(entry: CatalogEntry) -> str:
    """The model card of a user's model; empty where there is none."""
    try:
        return Path(entry.weights.path).with_name(CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _names() -> list[str]:
    """Of all folders with an entry, damaged or not."""
    try:
        return [name for name, _ in _places(models_folder())]
    except OSError as error:
        raise OutputError(f"Your own models cannot be listed ({reason_of(error)}).") from error


def _places(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names and folders of models; where one is being replaced that is the earlier until the new one is there."""
    if not folder.exists():
        return
    kept = {each.name: each for each in folder.iterdir() if (each / ENTRY).is_file()}
    for name, place in kept.items():
        if name.startswith(BEFORE) and name.removeprefix(BEFORE) not in kept:
            yield name.removeprefix(BEFORE), place
        elif not name.startswith("."):
            yield name, place


def _read(place: Path) -> _Kept:
    """Raises: InputError: if it is damaged, in words that go on after a colon."""
    if not (place / WEIGHTS).is_file():
        raise InputError(f"its file {WEIGHTS} is missing; train it again, or remove the folder.")
    return _kept(place)


def _kept(place: Path) -> _Kept:
    found = (place / ENTRY).stat()
    return _parsed(place, (found.st_mtime_ns, found.st_size, found.st_ino))


@lru_cache(maxsize=256)  # a panel lists models every second
def _parsed(place: Path, _stamp: tuple[int, ...]) -> _Kept:
    try:
        mapping = json.loads((place / ENTRY).read_text(encoding="utf-8"))
        mapping["entry"]["weights"]["path"] = str(place / WEIGHTS)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"its file {ENTRY} is damaged; train it again, or remove the folder.") from error
    return from_mapping(_Kept, mapping, ENTRY)


def _put(aside: Path, place: Path) -> None:
    """Let a complete folder take its place; what a user put into the earlier one comes with it."""
    before = place.with_name(BEFORE + place.name)
    if before.exists():  # somebody replaced it before, and was stopped
        if (place / ENTRY).is_file():
            _carry(before, place)
        else:
            before.rename(place)
    if not place.exists():
        aside.rename(place)
        return
    place.rename(before)
    try:
        aside.rename(place)
    except OSError:
        before.rename(place)
        raise
    with suppress(OSError):  # the model is there; what is left of the earlier one goes the next time
        _carry(before, place)


def _carry(before: Path, place: Path) -> None:
    """Delete what was written with a model, and bring what a user put beside it to the one in its place."""
    _clear(before)
    for each in before.iterdir() if before.exists() else ():
        new = place / each.name
        while new.exists():
            new = new.with_name(f"earlier-{new.name}")
        each.rename(new)
    if before.exists():
        before.rmdir()


def _clear(place: Path) -> None:
    """Delete what was written with a model, its entry first, and the folder if nothing else is in it.

    Without an entry nothing there is known to be ours.
    """
    if (place / ENTRY).is_file():
        written: tuple[str, ...] = ()
        with suppress(InputError, FileNotFoundError):
            written = _kept(place).files
        for name in (ENTRY, WEIGHTS, *written):
            (place / name).unlink(missing_ok=True)
    if not any(place.iterdir()):
        place.rmdir()


def _copy(source: Path, target: Path) -> None:
    with whole_file(target) as temporary:
        shutil.copyfile(source, temporary)


def _copy_to(target: Path, source: Path) -> None:
    _copy(source, target)


def _forget_unfinished(folder: Path) -> None:
    """Delete what a process that was killed while it kept a model has left."""
    for each in folder.glob(f"{UNFINISHED}*"):
        if time.time() - each.stat().st_mtime > UNFINISHED_SECONDS:
            shutil.rmtree(each, ignore_errors=True)


def _warn(sentence: str) -> None:
    """Say something once, however often models are listed."""
    if sentence not in _said:
        _said.add(sentence)
        log.warning("%s", sentence)
