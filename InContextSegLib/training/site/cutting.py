"""A case cut into slices once: made when it is not there, was cut from other files or in another way, or is damaged."""

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from InContextSegLib.errors import InputError, OutputError
from InContextSegLib.examples.discriminant import colour_mix
from InContextSegLib.examples.saved import parts_of
from InContextSegLib.examples.support import Example, LabelledVolume, picture_of, slices_of
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.training.site.datasets import DataSet
from InContextSegLib.training.site.slicefile import (
    ENDING,
    LEVELS,
    VERSION,
    DamagedError,
    SliceFile,
    Slices,
    checked,
    write_slices,
)
from InContextSegLib.training.site.splits import TRAIN
from InContextSegLib.training.site.survey import SurveyedCase
from InContextSegLib.volumes.colour import LUMINANCE, ColourMix
from InContextSegLib.volumes.files import read_colours, read_labels, read_volume
from InContextSegLib.volumes.geometry import Kind

log = logging.getLogger(__name__)

_MIX_CASES = 16  # coloured pictures that say which colours to look at
_HASHED_BYTES = 1 << 20

Recipe = dict[str, Any]  # all that decides how a case is cut, besides its files


def mix_of_set(each: DataSet, cases: Sequence[SurveyedCase]) -> ColourMix:
    """How the colours of a data set become grey; some of the cases to learn from say it where nobody else does."""
    if isinstance(each.colour, tuple):
        return ColourMix(each.colour, "asked for")
    if each.colour == "luminance":
        return LUMINANCE
    if each.intensities.window is not None:
        return replace(LUMINANCE, why="luminance, as a window of grey values came")
    learners = [case for case in cases if (case.data_set, case.side) == (each.name, TRAIN)]
    examples = []
    for case in learners[:: max(1, -(-len(learners) // _MIX_CASES))]:
        try:
            colours = read_colours(case.image)
            if colours is None:
                return replace(LUMINANCE, why="luminance, as an example is no colour picture")
            examples.append((colours, _wanted(each, read_volume(case.labels, Kind.LABELS).array)))
        except InputError:
            continue  # what cannot be read is said, and left out, where it is cut
    return colour_mix(examples, (), each.intensities, lambda labels: labels, lambda colours: colours)


def _wanted(each: DataSet, labels: np.ndarray) -> np.ndarray:
    """Labels with what is no task as 0."""
    if each.takes_any:
        return (labels > 0).astype(np.uint8)
    return labels * np.isin(labels, list(each.named)) if each.names else labels


def recipe_of(case: SurveyedCase, each: DataSet, mix: ColourMix, size: int) -> Recipe:
    """How a case is cut."""
    window = each.intensities.window
    return {
        "version": VERSION,
        "size": size,
        "axis": case.axis,
        "window": list(window) if window else None,
        "colour": list(mix.weights),
    }


def file_name(case: SurveyedCase, recipe: Recipe) -> str:
    """The file for a case cut in this way; the same when its image or labels have changed."""
    about = json.dumps([case.image, case.labels, recipe], sort_keys=True)
    return hashlib.sha256(about.encode()).hexdigest()[:40] + ENDING


def kept(path: Path, case: SurveyedCase, recipe: Recipe) -> SliceFile:
    """The slices of a case: from its file if that is whole and still holds, else cut now and kept there.

    Raises:
        InputError: if the case cannot be cut.
        OutputError: if its slices cannot be written.
    """
    return _current(path, case, recipe) or _made(path, case, recipe)


def touch(path: Path) -> None:
    """Note that a file was used now; where that cannot be noted it serves all the same."""
    with suppress(OSError):
        path.touch()


@dataclass(frozen=True)
class _Source:
    """What a file was when it was cut."""

    size_bytes: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "_Source":
        size_bytes, mtime_ns = _stat(path)
        return cls(size_bytes, mtime_ns, _sha256(path))

    def is_still(self, path: Path) -> bool:
        """Whether a file is the same; one that was only copied or touched is."""
        size_bytes, mtime_ns = _stat(path)
        if size_bytes != self.size_bytes:
            return False
        return mtime_ns == self.mtime_ns or _sha256(path) == self.sha256


def _current(path: Path, case: SurveyedCase, recipe: Recipe) -> SliceFile | None:
    """The slices of a case as they are in the store, if they are whole and cut from these files in this way."""
    if not path.is_file():
        return None
    try:
        file = checked(path)
        same = file.about["recipe"] == recipe and all(
            _Source(**file.about[name]).is_still(Path(source))
            for name, source in (("image", case.image), ("labels", case.labels))
        )
    except DamagedError as error:
        log.warning("%s It is made anew.", error)
        return None
    except (KeyError, TypeError, OSError):
        return None
    if same:
        touch(path)
    return file if same else None


def _made(path: Path, case: SurveyedCase, recipe: Recipe) -> SliceFile:
    """Cut a case, and keep its slices."""
    try:
        sources = {"image": _Source.of(Path(case.image)), "labels": _Source.of(Path(case.labels))}
    except OSError as error:
        raise InputError(f"{case.image} or {case.labels} cannot be read ({error.strerror or error}).") from error
    examples = _cut(case, recipe)
    labels = np.stack([each.labels for each in examples])
    if labels.max() <= np.iinfo(np.uint8).max:
        labels = labels.astype(np.uint8)
    images = np.stack([np.rint(each.image * LEVELS).astype(np.uint8) for each in examples])
    positions = np.array([np.nan if each.position is None else each.position for each in examples])
    about = {name: asdict(source) for name, source in sources.items()} | {
        "recipe": recipe,
        "showing": _showing(labels),
        "told": {str(number): sorted(each.known) for number, each in enumerate(examples) if each.known is not None},
    }
    try:
        write_slices(path, Slices(images, labels, positions), about)
    except OutputError as error:
        raise OutputError(
            f"{str(error).rstrip('.')}; make room there, or name another folder for the slices."
        ) from error
    return checked(path)


def _cut(case: SurveyedCase, recipe: Recipe) -> list[Example]:
    """The slices of a case that teach, as `SupportSet.from_volumes` chooses them, or the picture."""
    image = read_volume(case.image, mix=ColourMix(tuple(recipe["colour"]), "stored"))
    whole = LabelledVolume(image, read_labels(case.labels, image.geometry), Path(case.image).name)
    window, size = recipe["window"], recipe["size"]
    scale = Intensities(tuple(window) if window else None).of(image.array)
    parts = parts_of(whole, Path(case.labels))
    if image.geometry.shape[0] == 1:
        return [picture_of(parts[0], size, scale)]
    examples = [one for part in parts for one in slices_of(part, case.axis, size, scale)]
    if not examples:
        raise InputError(f"{case.labels} marks no slice that teaches; label one.")
    return examples


def _showing(labels: np.ndarray) -> dict[str, list[int]]:
    found: dict[int, list[int]] = {}
    for number, picture in enumerate(labels):
        for value in (np.flatnonzero(np.bincount(picture.ravel())[1:]) + 1).tolist():
            found.setdefault(value, []).append(number)
    return {str(value): numbers for value, numbers in sorted(found.items())}


def _stat(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds, of a folder those of the files in it."""
    stats = [each.stat() for each in _files(path)]
    return sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for each in _files(path):
        digest.update(each.name.encode() if path.is_dir() else b"")
        with each.open("rb") as file:
            while part := file.read(_HASHED_BYTES):
                digest.update(part)
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    """A file, or the files of a folder with a DICOM series; a chosen series stands behind '#'."""
    if not path.exists() and "#" in path.name:
        path = Path(str(path).rpartition("#")[0])
    return sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
