"""What a site trains on: data sets with named labels, and which files belong together, as a TOML file states it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from InContextSegLib.config import from_mapping, read_toml
from InContextSegLib.errors import InputError
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.training.site.splits import SIDES, Side
from InContextSegLib.volumes.files import READABLE, ending_of
from InContextSegLib.volumes.tables import rows_in

ANY = "any"
DATA_FOLDER = "INCONTEXTSEG_DATA"
_PLACEHOLDER = f"${{{DATA_FOLDER}}}"
_LARGEST_LABEL = 2**16 - 1


@dataclass(frozen=True)
class DataSet:
    """One labelled data set; every label of it is a task of its own, called "name/label".

    Attributes:
        images, labels: folders with files of the same stems.
        table: instead of these a CSV file with the columns image, labels and perhaps patient, split.
        names: of the labels by their value; "any" stands for every value above 0, and then alone; empty: every value
            that is found is a label, named as a segmentation names it, or "label 3".
        axis: along which volumes are cut; "auto": across the slices of most of them.
        patient: a regular expression whose first group finds the patient in the stem of an image; empty, or where it
            finds nothing: the stem.
        window: grey values to look at: a name ("percentiles", "ct-soft", ...), or two numbers.
        colour: how colours become grey: as the training cases' labels ask, by luminance, or three weights.
    """

    name: str
    images: str = ""
    labels: str = ""
    table: str = ""
    names: dict[str, str] = field(default_factory=dict)
    axis: Literal["auto", "axial", "coronal", "sagittal"] = "auto"
    patient: str = ""
    window: str | tuple[float, float] = "percentiles"
    colour: Literal["auto", "luminance"] | tuple[float, float, float] = "auto"

    def __post_init__(self):
        if not self.name or "/" in self.name:
            raise InputError(f"name: asked for a name without '/', got '{self.name}'.")
        if bool(self.table) == bool(self.images or self.labels) or bool(self.images) != bool(self.labels):
            raise InputError("images, labels, table: asked for the folders images and labels, or for a table.")
        self._check_names()
        try:
            groups = re.compile(self.patient).groups
        except re.error as error:
            raise InputError(f"patient: '{self.patient}' is no regular expression ({error}).") from error
        if self.patient and not groups:
            raise InputError(f"patient: '{self.patient}' needs a group in brackets that finds the patient.")
        _ = self.intensities

    def _check_names(self) -> None:
        for value, name in self.names.items():
            if value != ANY and not (value.isdecimal() and 0 < int(value) <= _LARGEST_LABEL):
                raise InputError(
                    f"names: asked for label values from 1 to {_LARGEST_LABEL}, or '{ANY}', got '{value}'."
                )
            if not name or "/" in name:
                raise InputError(f"names: asked for names without '/', got '{name}' for label {value}.")
        if ANY in self.names and len(self.names) > 1:
            raise InputError(f"names: '{ANY}' stands for every value above 0, so there can be no other beside it.")
        if len({int(value) for value in self.names if value != ANY}) < len(self.names) - (ANY in self.names):
            raise InputError("names: asked for one name for each label value, got two for one.")
        if len(set(self.names.values())) < len(self.names):
            raise InputError("names: asked for a name of its own for each label, got one twice.")

    @property
    def intensities(self) -> Intensities:
        """How a volume becomes [0, 1]."""
        return Intensities.named(self.window) if isinstance(self.window, str) else Intensities(self.window)

    @property
    def takes_any(self) -> bool:
        """Whether every value above 0 is the one label."""
        return ANY in self.names

    @property
    def named(self) -> dict[int, str]:
        """Names of the labels by value; nothing for "any"."""
        return {} if self.takes_any else {int(value): name for value, name in self.names.items()}

    def patient_of(self, image: Path) -> str | None:
        """Whose image a file is, by its name; None where the pattern finds nothing."""
        if not self.patient:
            return stem_of(image)
        match = re.search(self.patient, stem_of(image))
        return match.group(1) if match else None


@dataclass(frozen=True)
class Site:
    """The data sets of a site, and how its patients are divided: a share of them, drawn by `seed`, validates."""

    name: str
    datasets: tuple[DataSet, ...]
    validation_share: float = 0.2
    seed: int = 42

    def __post_init__(self):
        if not self.datasets:
            raise InputError("datasets: asked for at least one data set, got none; add a [[datasets]] table.")
        names = [each.name for each in self.datasets]
        if len(set(names)) < len(names):
            raise InputError(f"datasets: asked for a name of its own for each, got {', '.join(names)}.")
        if not 0 < self.validation_share < 1:
            raise InputError(f"validation_share: asked for a number between 0 and 1, got {self.validation_share}.")


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file, a task or a data set, and whether that leaves it out of training.

    Attributes:
        kind: "unreadable", "no labels", "no image", "two files", "geometry", "values", "empty", "patient",
            "empty task", "few patients" or "no data".
        file: its name, empty where no single file is meant.
    """

    data_set: str
    file: str
    kind: str
    sentence: str
    left_out: bool = True


@dataclass(frozen=True)
class Listed:
    """An image, its labels and whose they are; on which side, where a table says so."""

    image: Path
    labels: Path
    patient: str
    side: Side | None = None


def read_site(path: str | Path, data: Path | None = None, environ: Mapping[str, str] = os.environ) -> Site:
    """A site as its file states it, with absolute paths.

    Paths begin at the folder of the file; "${INCONTEXTSEG_DATA}" in front stands for a folder that differs from
    computer to computer.

    Args:
        data: that folder; None: as the environment variable of that name says.

    Raises:
        InputError: if the file cannot be read, a key or value makes no sense, or that folder is asked for and unknown.
    """
    path = Path(path)
    site = from_mapping(Site, read_toml(path), str(path))
    known = str(data) if data else environ.get(DATA_FOLDER, "")

    def absolute(text: str) -> str:
        if not text.startswith(_PLACEHOLDER):
            return str((path.absolute().parent / Path(text).expanduser()).resolve()) if text else ""
        if not known:
            raise InputError(f"{path} has data in {_PLACEHOLDER}, but no such folder is set; name it with --data.")
        return str(Path(known).absolute() / text.removeprefix(_PLACEHOLDER).lstrip("/\\"))

    datasets = [
        replace(each, images=absolute(each.images), labels=absolute(each.labels), table=absolute(each.table))
        for each in site.datasets
    ]
    return replace(site, datasets=tuple(datasets))


def listed_in(each: DataSet) -> tuple[list[Listed], list[Problem]]:
    """The images of a data set with their labels, sorted or as the table has them, and what has no partner."""
    try:
        pairs, problems = _rows(each) if each.table else _pairs(each)
    except InputError as error:
        return [], [Problem(each.name, "", "no data", str(error))]
    found = []
    for image, labels, patient, side in pairs:
        known = patient or each.patient_of(image)
        if known is None:
            sentence = f"{image.name}: the pattern '{each.patient}' finds no patient in its name, so it counts as one."
            problems.append(Problem(each.name, image.name, "patient", sentence, left_out=False))
        found.append(Listed(image, labels, known or stem_of(image), side))
    return found, problems


def stem_of(path: Path) -> str:
    """The name of a file without its ending, a double one such as .nii.gz taken whole."""
    ending = ending_of(path)
    return path.name[: -len(ending)] if ending else path.name


_Row = tuple[Path, Path, str, Side | None]


def _pairs(each: DataSet) -> tuple[list[_Row], list[Problem]]:
    """Files of two folders that agree in their stem."""
    problems, found = [], []
    for folder in (Path(each.images), Path(each.labels)):
        by_stem = _by_stem(folder)
        for paths in by_stem.values():
            if len(paths) > 1:
                names = " and ".join(path.name for path in paths)
                sentence = f"{names} in {folder} share a stem, so it is not plain which is meant; keep one of them."
                problems.append(Problem(each.name, paths[0].name, "two files", sentence))
        found.append(by_stem)
    images, labels = found
    for held, other, kind, folder in (
        (images, labels, "no labels", each.labels),
        (labels, images, "no image", each.images),
    ):
        for stem in sorted(held.keys() - other.keys()):
            name = held[stem][0].name
            sentence = f"{name} has no partner of the same stem in {folder}, so it is left out; add or rename it."
            problems.append(Problem(each.name, name, kind, sentence))
    both = sorted(stem for stem in images.keys() & labels.keys() if len(images[stem]) == len(labels[stem]) == 1)
    if not images:
        raise InputError(f"Images were expected in the folder {each.images}, but it holds none.")
    return [(images[stem][0], labels[stem][0], "", None) for stem in both], problems


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read ({error.strerror or error}).") from error
    found: dict[str, list[Path]] = {}
    for path in inside:
        if ending_of(path) in READABLE and not path.name.startswith(".") and path.is_file():
            found.setdefault(stem_of(path), []).append(path)
    return found


def _rows(each: DataSet) -> tuple[list[_Row], list[Problem]]:
    """The rows of a table; paths begin at its folder."""
    table = Path(each.table)
    rows, problems = [], []
    for row in rows_in(table, ["image", "labels"], "image,labels,patient,split"):
        image, side = table.parent / row["image"], row.get("split", "").lower()
        if not row["labels"]:
            sentence = f"{image.name} has no labels in {table.name}, so it is left out; name their file there."
            problems.append(Problem(each.name, image.name, "no labels", sentence))
        elif side and side not in SIDES:
            sentence = f"{image.name} is on the side '{side}' in {table.name}; write {' or '.join(SIDES)}, or nothing."
            problems.append(Problem(each.name, image.name, "patient", sentence))
        else:
            rows.append((image, table.parent / row["labels"], row.get("patient", ""), side or None))
    if not rows and not problems:
        raise InputError(f"{table} names no image; write one in each row below 'image'.")
    return rows, problems
