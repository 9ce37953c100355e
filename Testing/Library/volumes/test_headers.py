"""The grid of an image from its header: the same that reading the image gives."""

import numpy as np
import pytest
from PIL import Image

from InContextSegLib.errors import InputError
from InContextSegLib.volumes import headers
from InContextSegLib.volumes.files import read_volume, write_volume
from InContextSegLib.volumes.geometry import Geometry, Volume
from InContextSegLib.volumes.headers import read_grid

AFFINE = np.array([[0, -0.8, 0, 7], [0.9, 0, 0, -3], [0, 0, 2.5, 11], [0, 0, 0, 1.0]])


def image():
    return Volume(np.random.default_rng(0).integers(0, 99, (5, 6, 7)).astype(np.int16), Geometry((5, 6, 7), AFFINE))


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_the_voxels_are_not_read_where_a_header_tells_the_grid(tmp_path, ending, monkeypatch):
    path = tmp_path / f"a{ending}"
    write_volume(path, image())
    whole = read_volume(path).geometry
    monkeypatch.setattr(headers, "read_volume", None)
    assert read_grid(path).matches(whole)


def test_of_pictures_the_whole_file_is_read(tmp_path):
    Image.fromarray(np.zeros((6, 7), np.uint8)).save(tmp_path / "a.png")
    assert read_grid(str(tmp_path / "a.png")).shape == (1, 6, 7)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(InputError, match="is damaged"):
        read_grid(tmp_path / "a.png")


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_what_is_wrong_with_a_file_is_said_as_when_it_is_read(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    with pytest.raises(InputError, match="does not exist"):
        read_grid(path)
    path.write_bytes(b"nothing of that kind")
    with pytest.raises(InputError, match=r"is not a NIfTI|is damaged"):
        read_grid(path)
