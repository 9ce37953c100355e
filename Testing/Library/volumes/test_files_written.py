"""Files appear whole or not at all, and only where the format can hold the volume."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation uses this name

from InContextSegLib.errors import InputError, OutputError
from InContextSegLib.volumes.files import ending_of, read_volume, whole_file, write_text, write_volume
from InContextSegLib.volumes.geometry import Geometry, Volume, picture_geometry


def example(dtype=np.int16, shape=(4, 5, 6)):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    return Volume(array, Geometry(shape, np.diag([0.7, 1.3, 4.1, 1.0])))


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def silent_terminal(capfd):
    yield
    assert capfd.readouterr() == ("", "")


def test_an_earlier_file_is_replaced(tmp_path):
    write_text(tmp_path / "record.json", "old")
    write_text(tmp_path / "record.json", "new\nß")
    assert (tmp_path / "record.json").read_bytes() == "new\nß".encode()
    assert names(tmp_path) == ["record.json"]


def test_a_new_file_gets_the_permissions_of_any_other_new_file(tmp_path):
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_symbolic_link_stays_one_and_its_target_is_replaced(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "record.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "store" / "record.json")
    write_text(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "store" / "record.json").read_text() == "new"


@pytest.mark.parametrize(("number", "reason"), [(errno.ENOSPC, "the disk is full"), (errno.EIO, "Input/output error")])
@pytest.mark.parametrize("name", ["case.nii.gz", "case.nrrd"])
def test_when_the_disk_fills_up_the_earlier_file_survives_and_nothing_else_is_left(
    tmp_path, monkeypatch, name, number, reason
):
    write_volume(tmp_path / name, example())
    before = (tmp_path / name).read_bytes()

    def full(_handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=rf"{name} could not be written: {reason}\.$"):
        write_volume(tmp_path / name, example(np.float32))
    assert (tmp_path / name).read_bytes() == before
    assert names(tmp_path) == [name]


@pytest.mark.parametrize(("free", "reason"), [(0, "the disk is full"), (1 << 40, "the file came out incomplete")])
def test_a_writer_that_loses_bytes_without_a_word_is_noticed(tmp_path, monkeypatch, free, reason):
    genuine = sitk.WriteImage

    def lossy(image, name, *arguments):
        genuine(image, name, *arguments)
        content = Path(name).read_bytes()
        Path(name).write_bytes(content[: len(content) // 2])

    monkeypatch.setattr(sitk, "WriteImage", lossy)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: shutil._ntuple_diskusage(1 << 40, 0, free))
    for ending in (".nii.gz", ".nii"):
        with pytest.raises(OutputError, match=rf"could not be written: {reason}"):
            write_volume(tmp_path / f"case{ending}", example())
    assert names(tmp_path) == []


def test_a_writer_that_fails_leaves_one_sentence_and_no_file(tmp_path, monkeypatch):
    def broken(*_arguments):
        raise RuntimeError("Exception thrown in\nmany\nlines")

    monkeypatch.setattr(sitk, "WriteImage", broken)
    with pytest.raises(
        OutputError, match=r"^[^\n]*case\.nrrd could not be written: the file came out incomplete[^\n]*$"
    ):
        write_volume(tmp_path / "case.nrrd", example())
    assert names(tmp_path) == []


def test_an_interruption_leaves_the_earlier_file(tmp_path):
    write_text(tmp_path / "record.json", "old")
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "record.json") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "record.json").read_text() == "old"
    assert names(tmp_path) == ["record.json"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OutputError, match=r"the folder .*results does not exist; create it first\.$"):
        write_volume(tmp_path / "results" / "case.nii.gz", example())


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_one_may_not_write_to_is_an_output_error(tmp_path, monkeypatch, number):
    def refuse(*_arguments, **_keywords):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OutputError, match=r"case\.nii\.gz could not be written: permission is missing\.$"):
        write_volume(tmp_path / "case.nii.gz", example())


def test_a_folder_in_the_place_of_the_file_is_an_output_error(tmp_path):
    (tmp_path / "case.nii.gz").mkdir()
    with pytest.raises(OutputError, match=r"case\.nii\.gz could not be written: "):
        write_volume(tmp_path / "case.nii.gz", example())
    assert names(tmp_path) == ["case.nii.gz"]


# What no format can hold


@pytest.mark.parametrize("name", ["case.xyz", "case", "case.jpg", "case.seg.nhdr"])
def test_writing_to_an_unknown_ending_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"its ending is unknown; use one of \.nii\.gz"):
        write_volume(tmp_path / name, example())


def test_writing_sheared_axes_is_refused(tmp_path):
    affine = np.eye(4)
    affine[0, 1] = 0.1
    with pytest.raises(InputError, match="the axes of the volume are sheared"):
        write_volume(tmp_path / "case.nrrd", Volume(np.zeros((4, 5, 6)), Geometry((4, 5, 6), affine)))


def test_writing_several_slices_as_a_picture_is_refused(tmp_path):
    with pytest.raises(InputError, match="a picture holds one slice, but the volume has 4"):
        write_volume(tmp_path / "case.png", example(np.uint8))


def test_writing_fractions_as_png_is_refused(tmp_path):
    with pytest.raises(InputError, match="PNG holds uint8 or uint16, but the volume is float32"):
        write_volume(tmp_path / "case.png", example(np.float32, shape=(1, 5, 6)))


@pytest.mark.usefixtures("silent_terminal")
@pytest.mark.parametrize(
    ("name", "dtype"), [("a.png", "u1"), ("a.png", "u2"), ("a.tif", "u1"), ("a.tiff", "u2"), ("a.tif", "f4")]
)
def test_one_slice_returns_from_a_picture_with_its_pixel_size(tmp_path, name, dtype):
    array = np.arange(30, dtype=dtype).reshape(1, 5, 6)
    volume = Volume(array, picture_geometry((1, 5, 6), (0.4, 0.55)))
    write_volume(tmp_path / name, volume)
    back = read_volume(tmp_path / name)
    np.testing.assert_array_equal(back.array, array)
    assert back.geometry.matches(volume.geometry)


@pytest.mark.parametrize(
    ("name", "ending"), [("a.b.NII.GZ", ".nii.gz"), ("x.seg.nrrd", ".seg.nrrd"), ("r.json", ".json"), ("r", "")]
)
def test_double_endings_are_taken_whole(name, ending):
    assert ending_of(name) == ending
