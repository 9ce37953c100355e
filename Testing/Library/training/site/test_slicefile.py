"""A file of slices: what was written comes back, and a changed byte anywhere is noticed."""

import errno
import os

import numpy as np
import pytest

from InContextSegLib.errors import OutputError
from InContextSegLib.training.site.slicefile import DamagedError, Slices, checked, write_slices


def slices(label_type=np.uint8, count=3, size=17):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, size, size)).astype(np.uint8)
    labels = generator.integers(0, np.iinfo(label_type).max, (count, size, size)).astype(label_type)
    return Slices(images, labels, np.array([0.25, np.nan, 0.75])[:count])


@pytest.mark.parametrize("label_type", [np.uint8, np.uint16])
def test_what_was_written_comes_back(tmp_path, label_type):
    written = slices(label_type)
    write_slices(tmp_path / "a.slices", written, {"who": "Ärztin"})
    file = checked(tmp_path / "a.slices")
    found = file.mapped()
    assert (file.about, file.count, file.size) == ({"who": "Ärztin"}, 3, 17)
    np.testing.assert_array_equal(found.images, written.images)
    np.testing.assert_array_equal(found.labels, written.labels)
    np.testing.assert_array_equal(found.positions, written.positions)
    assert found.labels.dtype == label_type and not found.images.flags.writeable


def test_a_changed_byte_anywhere_is_noticed(tmp_path):
    path = tmp_path / "a.slices"
    write_slices(path, slices(), {})
    content = path.read_bytes()
    for place in (0, 9, 20, 60, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DamagedError, match="is damaged"):
            checked(path)


@pytest.mark.parametrize("left", [0, 30, 500, -1])
def test_a_file_that_is_cut_short_is_noticed(tmp_path, left):
    path = tmp_path / "a.slices"
    write_slices(path, slices(), {})
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(DamagedError, match="is damaged, or no file of slices"):
        checked(path)


def test_a_file_that_is_not_there_or_was_exchanged_is_noticed(tmp_path):
    path = tmp_path / "a.slices"
    with pytest.raises(DamagedError, match="is damaged"):
        checked(path)
    write_slices(path, slices(), {})
    file = checked(path)
    write_slices(path, slices(count=2), {})
    with pytest.raises(DamagedError, match="has changed; open the store again"):
        file.mapped()
    path.unlink()
    with pytest.raises(DamagedError, match="is gone; open the store again"):
        file.mapped()


def test_on_a_full_disk_nothing_is_left(tmp_path, monkeypatch):
    def full(_handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="could not be written: the disk is full"):
        write_slices(tmp_path / "a.slices", slices(), {})
    assert not list(tmp_path.iterdir())
