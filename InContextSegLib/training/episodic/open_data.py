"""Labelled open images in memory, from which tasks are drawn: pictures and volumes as a TOML file lists them."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from InContextSegLib.config import from_mapping, read_toml
from InContextSegLib.errors import InputError
from InContextSegLib.examples.pairs import paired_files
from InContextSegLib.volumes.files import ending_of, read_volume
from InContextSegLib.volumes.geometry import Kind, reorder

ANY = "any"
# Windows of CT that a task may be seen in; the first is the soft tissue that most tasks are read in.
CT_WINDOWS = ((-160, 240), (-450, 1050), (-100, 150), (-200, 600))


@dataclass(frozen=True)
class OpenSet:
    """A data set that may be trained on.

    Attributes:
        images, labels: folders with files of the same stems, or single files; relative to the folder of the data.
        values: of the labels; "any": every value above 0 is the one label.
        patient: a regular expression whose first group finds the patient in a stem; empty: the stem.
        weight: how often tasks are drawn from it, relative to the others.
        hounsfield_offset: of CT, what is added to HU in the files; None: no CT.
        licence: and who is to be named, for the model card.
    """

    name: str
    images: str
    labels: str
    values: tuple[int | str, ...]
    licence: str
    patient: str = ""
    weight: float = 1.0
    hounsfield_offset: float | None = None


@dataclass(frozen=True)
class OpenData:
    """All of them."""

    sets: tuple[OpenSet, ...] = field(default=())


@dataclass(frozen=True, eq=False)
class Case:
    """An image and its labels, in memory.

    Attributes:
        image: a picture (1, j, i, c) in [0, 255], or a volume of intensities (k, j, i), HU of CT.
        labels: (k, j, i), of the same grid; a volume runs toward superior, posterior and left.
        unit: whose it is: no patient is segmented with the help of the same patient's examples where there are others.
    """

    image: np.ndarray
    labels: np.ndarray
    spacing_mm: tuple[float, float, float]
    unit: str

    @property
    def flat(self) -> bool:
        """Whether it is a picture."""
        return self.labels.shape[0] == 1


@dataclass(frozen=True, eq=False)
class LoadedSet:
    """A data set with its cases, arrays (k, j, i) in anatomical reading order."""

    about: OpenSet
    cases: tuple[Case, ...]


def read_open_data(path: Path) -> OpenData:
    """The list of open data sets in a TOML file."""
    return from_mapping(OpenData, read_toml(path), str(path))


def load_open_data(data: OpenData, folder: Path) -> list[LoadedSet]:
    """Every case of every set, in memory.

    Raises:
        InputError: if a file is missing or cannot be read.
    """
    return [LoadedSet(each, tuple(_cases(each, folder))) for each in data.sets]


def _cases(each: OpenSet, folder: Path) -> list[Case]:
    images, labels = folder / each.images, folder / each.labels
    pairs = paired_files(images, labels) if images.is_dir() else [(images, labels)]
    found = []
    for image_file, label_file in pairs:
        stem = image_file.name[: -len(ending_of(image_file))]
        match = re.search(each.patient, stem) if each.patient else None
        labels = read_volume(label_file, Kind.LABELS)
        values = labels.array
        if values.max() > np.iinfo(np.uint8).max and ANY not in each.values:
            raise InputError(f"{label_file} has label values above 255, which are not trained on.")
        wanted = (values > 0) if ANY in each.values else np.where(np.isin(values, each.values), values, 0)
        if not wanted.any():
            continue
        if values.shape[0] == 1:
            image, shape = _colour_picture(image_file), wanted.astype(np.uint8)
            if image.shape[1:3] != shape.shape[1:3]:
                raise InputError(f"{image_file} and {label_file} differ in size.")
            found.append(Case(image, shape, (1.0, 1.0, 1.0), match.group(1) if match else stem))
        else:
            volume = read_volume(image_file)
            if volume.geometry.shape != labels.geometry.shape:
                raise InputError(f"{image_file} and {label_file} differ in size.")
            order = volume.geometry.anatomical_order()
            intensities = reorder(volume.array, *order).astype(np.float32) - (each.hounsfield_offset or 0)
            spacing = volume.geometry.reordered(*order).spacing_mm
            array = np.ascontiguousarray(reorder(wanted.astype(np.uint8), *order))
            found.append(Case(intensities.astype(np.float16), array, spacing, match.group(1) if match else stem))
    return found


def _colour_picture(path: Path) -> UInt8[np.ndarray, "1 h w c"]:
    with Image.open(path) as picture:
        mode = "L" if picture.mode in ("L", "1", "I;16", "I") else "RGB"
        array = np.asarray(picture.convert(mode))
    return array[None, ..., None] if array.ndim == 2 else array[None]


def windowed(values: np.ndarray, window: tuple[float, float]) -> Float[np.ndarray, "..."]:
    low, high = window
    return np.clip((values.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
