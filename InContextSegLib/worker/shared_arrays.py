"""The folder in which a panel and its worker process hand arrays to each other, and which is gone when both are."""

import ctypes
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Collection, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from InContextSegLib.errors import InputError, OutputError
from InContextSegLib.progress import exhausted
from InContextSegLib.volumes.files import reason_of

_CHUNK_BYTES = 2 << 20  # written between two pauses: some milliseconds
_SPARE_BYTES = 64 << 20  # of the disk are left to others
_NAME = re.compile(r"[0-9a-z]+\.npy")
_FOLDER = re.compile(r"incontextseg-(\d+)-\w+")
_TURN = "turn"
_PATIENCE_S = 2.0  # with Windows, which lets go of a dead process's files a little later
_STILL_ACTIVE, _QUERY_LIMITED = 259, 0x1000


class SharedFolder:
    """Arrays as files that never change once they have their names; to be mapped into memory.

    The folder belongs to the panel's process, whose number is in its name. A worker removes it where the panel is gone.
    """

    def __init__(self, path: Path):
        self.path = path
        self._doomed: set[str] = set()  # could not be deleted yet: Windows keeps what somebody has mapped

    @classmethod
    def make(cls, parent: Path | None = None) -> "SharedFolder":
        """A new folder that only this user may enter; those of processes that died are removed on the way.

        Args:
            parent: where; None: where temporary files are.

        Raises:
            OutputError: if it cannot be made.
        """
        parent = Path(parent or tempfile.gettempdir())
        _sweep(parent)
        try:
            return cls(Path(tempfile.mkdtemp(prefix=f"incontextseg-{os.getpid()}-", dir=parent)).resolve())
        except OSError as error:
            raise OutputError(
                f"A folder for the worker's data cannot be made in {parent}: {reason_of(error)}; "
                "make room there or name another one in TMPDIR."
            ) from error

    def write(self, array: np.ndarray) -> str:
        """Hand an array over; its name. Raises: see `writing`."""
        name = new_name()
        exhausted(self.writing(name, array))
        return name

    def writing(self, name: str, array: np.ndarray) -> Generator[None, None, None]:
        """Hand an array over in pieces of some milliseconds; its name appears when all of it is there, or never.

        Raises:
            InputError: if it does not hold plain numbers.
            OutputError: if it cannot be written.
        """
        if array.dtype.kind not in "biuf":
            raise InputError(f"Numbers were to be handed over, but the array holds {array.dtype}.")
        path = self._path_of(name)
        aside = path.with_suffix(".part")
        try:
            self._require_room(array)
            with aside.open("xb") as file:
                np.lib.format.write_array_header_1_0(file, _header(array))
                flags, size = ["external_loop", "buffered", "zerosize_ok"], max(1, _CHUNK_BYTES // array.itemsize)
                for chunk in np.nditer(array, flags=flags, buffersize=size, order="C"):
                    file.write(chunk.tobytes())
                    yield
            aside.replace(path)
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(f"An array cannot be written to {self.path}: {reason_of(error)}.") from error
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)

    def read(self, name: str) -> np.ndarray:
        """Map an array into memory, for reading.

        Raises:
            InputError: if it is not there, or no array.
        """
        path = self._path_of(name)
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise InputError(f"The array {name} is not in the shared folder (any more); hand it over again.") from error
        except (OSError, ValueError) as error:
            raise InputError(f"The file {name} in the shared folder holds no array; hand it over again.") from error

    def delete(self, *names: str) -> None:
        """Delete arrays, those too that could not be deleted earlier."""
        self._doomed.update(names)
        for name in list(self._doomed):
            with suppress(OSError):
                self._path_of(name).unlink(missing_ok=True)
                self._doomed.discard(name)

    def keep_only(self, names: Collection[str]) -> None:
        """Delete what a dead worker left: all but arrays of these names."""
        kept = {name.removesuffix(".npy") for name in names}
        for path in self.path.glob("*.*"):
            if path.stem not in kept:
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def new_turn(self) -> None:
        """Write down that another worker uses the folder from now on: an earlier one must not remove it any more.

        Raises:
            OutputError: if it cannot be written.
        """
        try:
            (self.path / _TURN).write_text(secrets.token_hex(8), encoding="ascii")
        except OSError as error:
            raise OutputError(f"Nothing can be written to {self.path}: {reason_of(error)}.") from error

    @property
    def turn(self) -> str:
        """What is written down about whose turn it is; nothing where the folder is gone."""
        try:
            return (self.path / _TURN).read_text(encoding="ascii")
        except OSError:
            return ""

    def remove(self) -> None:
        """Remove the folder and all that is in it, whoever may still be writing there."""
        path = self.path.with_name(f"{self.path.name}_gone")
        try:
            self.path.rename(path)
        except OSError:
            path = self.path  # Windows, with files that are mapped
        deadline = time.monotonic() + _PATIENCE_S
        while path.exists() and time.monotonic() < deadline:
            shutil.rmtree(path, ignore_errors=True)
            time.sleep(0 if not path.exists() else 0.05)

    def _path_of(self, name: str) -> Path:
        # Nothing outside the folder can be named.
        if not _NAME.fullmatch(name):
            raise InputError(f"The name of a handed over array was expected, such as 1f2e.npy, but {name[:60]!r} came.")
        return self.path / name

    def _require_room(self, array: np.ndarray) -> None:
        if shutil.disk_usage(self.path).free < array.nbytes + _SPARE_BYTES:
            raise OutputError(
                f"An array of {array.nbytes >> 20} MB cannot be written to {self.path}: the disk is nearly full; "
                "make room there or name another folder in TMPDIR."
            )


def new_name() -> str:
    """A name for an array that no other has."""
    return f"{secrets.token_hex(8)}.npy"


def _sweep(parent: Path) -> None:
    """Remove the folders of panels that died together with their workers, in a power cut for one."""
    with suppress(OSError):
        for path in parent.glob("incontextseg-*"):
            owner = _FOLDER.fullmatch(path.name)
            if owner and not _alive(int(owner[1])):
                shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    if os.name == "nt":
        # os.kill would end it.
        kernel, code = ctypes.windll.kernel32, ctypes.c_ulong()
        handle = kernel.OpenProcess(_QUERY_LIMITED, False, pid)
        known = handle and kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.CloseHandle(handle)
        return bool(known) and code.value == _STILL_ACTIVE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _header(array: np.ndarray) -> dict[str, Any]:
    return {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
