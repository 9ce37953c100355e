"""The shared folder: arrays appear whole or not at all, nothing outside can be named, and nothing is left behind."""

import os
import shutil
import stat
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from InContextSegLib.errors import InputError, OutputError
from InContextSegLib.progress import exhausted
from InContextSegLib.worker import shared_arrays
from InContextSegLib.worker.shared_arrays import SharedFolder, new_name


@pytest.fixture
def folder(tmp_path):
    return SharedFolder.make(tmp_path)


def names(folder):
    return sorted(path.name for path in folder.path.iterdir())


def test_only_this_user_may_enter_and_the_name_tells_whose_it_is(folder):
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert folder.path.name.startswith(f"incontextseg-{os.getpid()}-")


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.int16).reshape(2, 3, 4),
        np.arange(24, dtype=np.float32).reshape(2, 3, 4)[::-1, :, ::2],
        np.asfortranarray(np.arange(24, dtype=np.uint8).reshape(2, 3, 4)),
        np.ones((1, 2, 2), bool),
        np.zeros((0, 3), np.uint16),
        np.arange(3, dtype=">i4"),
    ],
)
def test_an_array_of_any_layout_comes_out_as_it_went_in(folder, array):
    back = folder.read(folder.write(array))
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype


def test_a_large_array_is_written_in_pieces_and_appears_when_all_of_it_is_there(folder, monkeypatch):
    monkeypatch.setattr(shared_arrays, "_CHUNK_BYTES", 1000)
    name, array = new_name(), np.arange(4000, dtype=np.int16)
    pieces = folder.writing(name, array)
    for _ in range(7):
        next(pieces)
        assert name not in names(folder)
    exhausted(pieces)
    assert names(folder) == [name]
    np.testing.assert_array_equal(folder.read(name), array)


def test_a_writing_that_is_given_up_leaves_nothing(folder, monkeypatch):
    monkeypatch.setattr(shared_arrays, "_CHUNK_BYTES", 1000)
    pieces = folder.writing(new_name(), np.arange(4000))
    next(pieces)
    pieces.close()
    assert names(folder) == []


def test_what_is_no_number_is_not_handed_over(folder):
    with pytest.raises(InputError, match="the array holds object"):
        folder.write(np.array([{}], object))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a.txt", "", "A B.npy", "a.npy/../b.npy"])
def test_nothing_outside_the_folder_can_be_named(folder, name):
    with pytest.raises(InputError, match="The name of a handed over array was expected"):
        folder.read(name)


def test_an_array_that_is_gone_or_damaged_is_said(folder):
    with pytest.raises(InputError, match=r"ab.npy is not in the shared folder"):
        folder.read("ab.npy")
    (folder.path / "cd.npy").write_bytes(b"no array")
    with pytest.raises(InputError, match=r"cd.npy in the shared folder holds no array"):
        folder.read("cd.npy")


def test_a_full_disk_is_noticed_before_and_while_writing(folder, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shared_arrays.shutil, "disk_usage", lambda path: usage(1 << 20))
    with pytest.raises(OutputError, match=r"of 2 MB cannot be written to .*: the disk is nearly full; make room"):
        folder.write(np.zeros(2 << 20, np.uint8))
    monkeypatch.setattr(shared_arrays.shutil, "disk_usage", lambda path: usage(1 << 40))
    monkeypatch.setattr(shared_arrays.np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(OutputError, match=r"cannot be written to .*: the disk is full"):
        folder.write(np.zeros(4))
    assert names(folder) == []


def full(*_):
    raise OSError(28, "No space left on device")


def test_a_folder_that_is_gone_is_said(folder):
    shutil.rmtree(folder.path)
    with pytest.raises(OutputError, match=r"An array cannot be written to .*: No such file or directory\."):
        folder.write(np.zeros(4))
    with pytest.raises(OutputError, match="Nothing can be written to"):
        folder.new_turn()
    assert folder.turn == ""


def test_a_place_where_no_folder_can_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"A folder for the worker's data cannot be made in .*file: .*TMPDIR"):
        SharedFolder.make(tmp_path / "file")


def test_what_cannot_be_deleted_yet_is_deleted_later(folder, monkeypatch):
    name = folder.write(np.zeros(3))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", denied)  # as on Windows while it is mapped
        folder.delete(name)
        assert names(folder) == [name]
    folder.delete()
    assert names(folder) == []
    folder.delete(name)


def denied(*_, **__):
    raise PermissionError(13, "in use")


def test_what_a_dead_worker_left_is_swept_and_what_is_wanted_stays(folder):
    kept, left = folder.write(np.zeros(3)), folder.write(np.ones(3))
    folder.new_turn()
    for name in ("12.part", kept.replace("npy", "part")):
        (folder.path / name).touch()
    folder.keep_only({kept})
    assert left not in names(folder)
    assert set(names(folder)) == {kept, kept.replace("npy", "part"), "turn"}


def test_every_turn_is_another(folder):
    assert folder.turn == ""
    folder.new_turn()
    first = folder.turn
    folder.new_turn()
    assert len({"", first, folder.turn}) == 3


def test_folders_of_dead_processes_are_removed_and_those_of_the_living_stay(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    for name in (f"incontextseg-{ended.pid}-ab", f"incontextseg-{os.getpid()}-cd", "incontextseg-notes", "other"):
        (tmp_path / name).mkdir()
    SharedFolder.make(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert f"incontextseg-{ended.pid}-ab" not in left
    assert {f"incontextseg-{os.getpid()}-cd", "incontextseg-notes", "other"} <= left


def test_a_folder_is_removed_with_all_that_is_in_it(folder):
    folder.write(np.zeros(3))
    folder.new_turn()
    folder.remove()
    assert list(folder.path.parent.iterdir()) == []
    folder.remove()
