"""One DICOM series out of a folder."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation uses this name

from InContextSegLib.errors import InputError
from InContextSegLib.volumes.files import read_colours, read_volume
from InContextSegLib.volumes.geometry import Kind

UID = "1.2.826.0.1.3680043.2.1125.7"


def pixels(count=4):
    return np.arange(count * 30, dtype=np.int16).reshape(count, 5, 6)


def write_series(folder, array, series="1", positions_mm=None, turned=(), **tags):
    """Write one file per slice; rows run to the front-left, 0.5 x 0.8 mm pixels."""
    folder.mkdir(exist_ok=True)
    across, down = np.array([0.6, 0.8, 0.0]), np.array([-0.8, 0.6, 0.0])
    if positions_mm is None:
        positions_mm = [(10, -20, 30 + 2.5 * n) for n in range(len(array))]
    for number, (plane, position) in enumerate(zip(array, positions_mm, strict=True)):
        cosines = (*down, *across) if number in turned else (*across, *down)
        image = sitk.GetImageFromArray(plane)
        image.SetSpacing((0.5, 0.8))
        entries = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"{UID}.{series}.{number + 1}",
            "0008|0060": "CT",
            "0008|103e": f"Series {series}",
            "0020|000d": UID,
            "0020|000e": f"{UID}.{series}",
            "0020|0013": str(number + 1),
            "0020|0032": "\\".join(str(x) for x in position) if position else "",
            "0020|0037": "\\".join(str(x) for x in cosines),
            "0028|1052": "-1024",
            "0028|1053": "1",
            **tags,
        }
        for key, value in entries.items():
            if value:
                image.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        # Names against the order of the slices: only the positions may decide.
        writer.SetFileName(str(folder / f"{series}_{99 - number}.dcm"))
        writer.Execute(image)
    return folder


@pytest.fixture
def silent_terminal(capfd):
    capfd.readouterr()
    yield
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("silent_terminal")
def test_a_folder_with_one_series_is_stacked_by_position_and_rescaled(tmp_path):
    volume = read_volume(write_series(tmp_path / "Sérié", pixels()))
    np.testing.assert_array_equal(volume.array, pixels())
    np.testing.assert_allclose(volume.geometry.spacing_mm, (2.5, 0.8, 0.5))
    np.testing.assert_allclose(volume.geometry.to_world((0, 0, 0)), (-10, 20, 30))
    np.testing.assert_allclose(volume.geometry.to_world((3, 0, 2)), (-10 - 0.6, 20 - 0.8, 37.5))


def test_two_series_in_one_folder_are_listed_and_one_can_be_picked(tmp_path):
    write_series(tmp_path / "study", pixels(), "1")
    write_series(tmp_path / "study", pixels(3) + 7, "2")
    listing = rf"{UID}\.1 \(CT, Series 1, 4 files\); {UID}\.2 \(CT, Series 2, 3 files\)"
    with pytest.raises(
        InputError, match=rf"holds 2 DICOM series; pick one by writing .*study#SERIES_UID: {listing}\.$"
    ):
        read_volume(tmp_path / "study")
    np.testing.assert_array_equal(read_volume(f"{tmp_path}/study#{UID}.2").array, pixels(3) + 7)
    with pytest.raises(InputError, match=rf"holds no DICOM series 9\.9; it holds {listing}\.$"):
        read_volume(f"{tmp_path}/study#9.9")


def test_contours_beside_an_image_do_not_count_as_a_series(tmp_path):
    write_series(tmp_path / "study", pixels(), "1")
    write_series(tmp_path / "study", pixels(1), "2", **{"0008|0060": "RTSTRUCT"})
    assert read_volume(tmp_path / "study").array.shape == (4, 5, 6)


def test_an_empty_folder_is_refused_without_a_word_on_the_terminal(tmp_path, capfd):
    with pytest.raises(InputError, match=r"holds no DICOM images \(subfolders are not searched\)\.$"):
        read_volume(tmp_path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["1_99.dcm", "IM0001"])
def test_one_file_is_one_slice_with_or_without_an_ending(tmp_path, name):
    write_series(tmp_path / "study", pixels(1))
    (tmp_path / "study" / "1_99.dcm").rename(tmp_path / "study" / name)
    volume = read_volume(tmp_path / "study" / name)
    np.testing.assert_array_equal(volume.array, pixels(1))
    np.testing.assert_allclose(volume.geometry.to_world((0, 0, 0)), (-10, 20, 30))
    np.testing.assert_array_equal(read_volume(tmp_path / "study").array, pixels(1))


def test_colours_become_luminance_and_are_refused_as_labels(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(tmp_path / "us.dcm"))
    expected = colours @ np.array([0.2126, 0.7152, 0.0722])
    np.testing.assert_allclose(read_volume(tmp_path / "us.dcm").array[0], expected, rtol=1e-5)
    with pytest.raises(InputError, match="labels must be an index image"):
        read_volume(tmp_path / "us.dcm", Kind.LABELS)
    np.testing.assert_array_equal(read_colours(tmp_path / "us.dcm"), colours[np.newaxis])


def test_a_missing_slice_is_refused_with_the_gaps(tmp_path):
    positions = [(10, -20, z) for z in (0, 2.5, 7.5, 10)]
    write_series(tmp_path / "study", pixels(), positions_mm=positions)
    with pytest.raises(InputError, match=r"gaps of 2\.5 to 5 mm between its slices: some are missing"):
        read_volume(tmp_path / "study")


def test_positions_rounded_by_the_scanner_are_accepted(tmp_path):
    positions = [(10, -20, z) for z in (0, 2.51, 4.99, 7.5)]
    write_series(tmp_path / "study", pixels(), positions_mm=positions)
    np.testing.assert_allclose(read_volume(tmp_path / "study").geometry.spacing_mm[0], 2.5, atol=0.02)


def test_several_images_at_one_position_are_refused(tmp_path):
    positions = [(10, -20, z) for z in (0, 0, 2.5, 2.5)]
    write_series(tmp_path / "study", pixels(), positions_mm=positions)
    with pytest.raises(InputError, match=r"several images at one position \(time points or echoes\)"):
        read_volume(tmp_path / "study")


def test_a_tilted_gantry_is_refused(tmp_path):
    positions = [(10, -20 + 0.7 * n, 2.5 * n) for n in range(4)]
    write_series(tmp_path / "study", pixels(), positions_mm=positions)
    with pytest.raises(InputError, match=r"is sheared \(tilted gantry\)"):
        read_volume(tmp_path / "study")


def test_slices_of_different_orientation_are_refused(tmp_path):
    write_series(tmp_path / "study", pixels(), turned=(2,))
    with pytest.raises(InputError, match="slices of different orientation"):
        read_volume(tmp_path / "study")


def hide(path, tag, replacement):
    """Give an element another number, so that the file no longer has it."""
    content = path.read_bytes()
    assert content.count(tag) == 1
    path.write_bytes(content.replace(tag, replacement))


def test_slices_without_a_position_are_refused(tmp_path):
    for path in write_series(tmp_path / "study", pixels()).iterdir():
        hide(path, b"\x20\x00\x32\x00", b"\x20\x00\x33\x00")
    with pytest.raises(InputError, match=r"does not say where its slices lie \(ImagePositionPatient\)"):
        read_volume(tmp_path / "study")


def test_a_file_without_pixels_among_the_slices_counts_as_missing(tmp_path):
    write_series(tmp_path / "study", pixels())
    hide(tmp_path / "study" / "1_98.dcm", b"\x28\x00\x10\x00", b"\x28\x00\x0f\x00")
    with pytest.raises(InputError, match="some are missing"):
        read_volume(tmp_path / "study")


def test_slices_of_different_size_are_refused_in_one_sentence(tmp_path):
    write_series(tmp_path / "study", pixels(2), positions_mm=[(10, -20, 0), (10, -20, 2.5)])
    larger = np.zeros((1, 9, 9), np.int16)
    write_series(tmp_path / "more", larger, positions_mm=[(10, -20, 5)])
    (tmp_path / "more" / "1_99.dcm").rename(tmp_path / "study" / "third.dcm")
    with pytest.raises(InputError, match=r"^[^\n]*cannot be read: a file is damaged[^\n]*differs in size[^\n]*$"):
        read_volume(tmp_path / "study")
