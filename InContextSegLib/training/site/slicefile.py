"""One case cut into slices, as a file that is mapped into memory and can tell whether it is whole."""

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from InContextSegLib.errors import InputError
from InContextSegLib.volumes.files import whole_file

ENDING = ".slices"
VERSION = 1
# Of grey in a stored image; 0 and 255 are the ends of [0, 1]. Half the size of float16 and read three times as fast; on
# the development data the Dice of the default weights changes by 0.0003 in the mean (float16: below 0.0001).
LEVELS = 255

_MAGIC = b"ICSSLICE"
_PRELUDE = struct.Struct("<8sI32s")  # magic, bytes of the header, sha256 of all that follows
_ALIGNMENT = 64
_CHUNK_BYTES = 1 << 20


class DamagedError(InputError):
    """A slice file is cut short, changed, or none at all."""


@dataclass(frozen=True, eq=False)
class Slices:
    """The slices of one case.

    Attributes:
        images: (n, size, size) uint8; divided by `LEVELS` they lie in [0, 1].
        labels: (n, size, size) uint8 or uint16.
        positions: (n,) float64 along the slice axis in [0, 1]; NaN for a picture.
    """

    images: np.ndarray
    labels: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class SliceFile:
    """A slice file that was found whole; `about` is what its writer said of it."""

    path: Path
    about: dict[str, Any]
    start: int
    count: int
    size: int
    label_type: str

    def mapped(self) -> Slices:
        """The slices, read from the disk where they are touched; as long as they are kept, so is one file handle.

        Raises:
            DamagedError: if the file is gone or was exchanged since it was checked.
        """
        try:
            content = np.memmap(self.path, np.uint8, "r")
        except (OSError, ValueError) as error:
            raise DamagedError(f"{self.path} is gone; open the store again, and it is made anew.") from error
        if len(content) != self.start + sum(self._lengths):
            raise DamagedError(f"{self.path} has changed; open the store again, and it is made anew.")
        images, labels, positions = np.split(content[self.start :], np.cumsum(self._lengths)[:-1])
        shape, pixels = (self.count, self.size, self.size), self.count * self.size**2
        labels = labels.view(self.label_type)
        return Slices(images[:pixels].reshape(shape), labels[:pixels].reshape(shape), positions.view("<f8"))

    @property
    def _lengths(self) -> tuple[int, int, int]:
        """Bytes of images, labels and positions; the first two are whole cache lines, so that all lie straight."""
        pixels = self.count * self.size**2
        return _rounded(pixels), _rounded(pixels * np.dtype(self.label_type).itemsize), self.count * 8


def write_slices(path: Path, slices: Slices, about: dict[str, Any]) -> None:
    """Write a slice file, whole or not at all.

    Raises:
        OutputError: if it cannot be written; an earlier file of that name is then untouched.
    """
    label_type = "<u1" if slices.labels.dtype == np.uint8 else "<u2"
    count, size = slices.images.shape[:2]
    header = {"version": VERSION, "count": count, "size": size, "label_type": label_type, "about": about}
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (_rounded(_PRELUDE.size + len(text)) - _PRELUDE.size - len(text))
    parts = [text]
    for array, kind in ((slices.images, "<u1"), (slices.labels, label_type), (slices.positions, "<f8")):
        content = np.ascontiguousarray(array, kind).tobytes()
        parts.append(content + bytes(_rounded(len(content)) - len(content) if kind != "<f8" else 0))
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    with whole_file(path) as aside, aside.open("wb") as file:
        file.write(_PRELUDE.pack(_MAGIC, len(text), digest.digest()))
        for part in parts:
            file.write(part)


def checked(path: Path) -> SliceFile:
    """Read a slice file from end to end, and return it if it is what was written.

    Raises:
        DamagedError: if it is not, or cannot be read, or is of another version.
    """
    try:
        with path.open("rb") as file:
            magic, length, sha256 = _PRELUDE.unpack(file.read(_PRELUDE.size))
            if magic != _MAGIC:
                raise ValueError("no slice file")
            text = file.read(length)
            digest, total = hashlib.sha256(text), _PRELUDE.size + len(text)
            while part := file.read(_CHUNK_BYTES):
                digest.update(part)
                total += len(part)
        header = json.loads(text)
        if digest.digest() != sha256 or header["version"] != VERSION:
            raise ValueError("changed")
        about, numbers = header["about"], (header["count"], header["size"], header["label_type"])
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise DamagedError(f"{path} is damaged, or no file of slices of this version.") from error
    return SliceFile(path, about, _PRELUDE.size + length, *numbers)


def _rounded(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT
