"""NIfTI-1 files: what ITK would hide, and where their voxels lie."""

import gzip
import logging
import struct

import nibabel
import numpy as np
import pytest

from InContextSegLib.errors import InputError
from InContextSegLib.volumes.files import read_volume


def save(path, array=None, affine=None, image_type=nibabel.Nifti1Image):
    array = np.random.default_rng(0).normal(size=(30, 20, 10)).astype(np.float32) if array is None else array
    image = image_type(array, np.eye(4) if affine is None else affine)
    nibabel.save(image, path)
    return image


def sheared(amount):
    affine = np.diag([1.0, 1.5, 3.0, 1.0])
    affine[0, 1] = amount
    return affine


@pytest.mark.parametrize("amount", [0.0002, 0.003, 0.05, 0.7])
def test_sheared_axes_are_refused_in_one_sentence(tmp_path, amount):
    save(tmp_path / "case.nii.gz", affine=sheared(amount))
    with pytest.raises(InputError, match=r"^[^\n]*case\.nii\.gz has sheared axes[^\n]*resample it[^\n]*$"):
        read_volume(tmp_path / "case.nii.gz")


def test_sheared_axes_are_refused_even_when_a_proper_qform_is_there_too(tmp_path):
    image = save(tmp_path / "case.nii", affine=sheared(0.2))
    image.set_qform(np.diag([1, 1.5, 3, 1]), 1)
    nibabel.save(image, tmp_path / "case.nii")
    with pytest.raises(InputError, match="has sheared axes"):
        read_volume(tmp_path / "case.nii")


def test_the_rounding_of_a_header_is_no_shear(tmp_path):
    save(tmp_path / "case.nii.gz", affine=sheared(1e-5))
    assert read_volume(tmp_path / "case.nii.gz").geometry.shear < 1e-4


def test_two_positions_that_disagree_are_reported_and_the_one_of_the_viewers_is_used(tmp_path, caplog):
    image = save(tmp_path / "case.nii.gz")
    image.set_qform(np.eye(4), 1)
    moved = np.eye(4)
    moved[:3, 3] = 5
    image.set_sform(moved, 4)
    nibabel.save(image, tmp_path / "case.nii.gz")
    with caplog.at_level(logging.WARNING):
        volume = read_volume(tmp_path / "case.nii.gz")
    assert "gives two positions that disagree" in caplog.text
    assert volume.geometry.affine[:3, 3].tolist() == [0, 0, 0]


def test_one_position_is_not_reported(tmp_path, caplog):
    save(tmp_path / "case.nii.gz", affine=np.diag([-0.7, 0.7, 3, 1]))
    with caplog.at_level(logging.WARNING):
        read_volume(tmp_path / "case.nii.gz")
    assert caplog.text == ""


@pytest.mark.parametrize("share", [0.5, 0.97, 0.9999])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_a_cut_off_file_is_refused_instead_of_filled_with_zeros(tmp_path, ending, share):
    path = tmp_path / f"case{ending}"
    save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=rf"case{ending} is damaged or incomplete: voxels are missing or changed"):
        read_volume(path)


def test_a_changed_byte_in_a_compressed_file_is_noticed(tmp_path):
    path = tmp_path / "case.nii.gz"
    save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged or incomplete"):
        read_volume(path)


def test_a_file_cut_off_in_its_header_is_refused(tmp_path):
    path = tmp_path / "case.nii.gz"
    save(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="is damaged or incomplete"):
        read_volume(path)


@pytest.mark.parametrize(
    "content", [b"hello, this is no image", b"", gzip.compress(b"hello, this is no image", mtime=0)]
)
def test_a_text_under_the_name_of_an_image_is_refused(tmp_path, content):
    (tmp_path / "notes.nii.gz").write_bytes(content)
    with pytest.raises(InputError, match=r"notes\.nii\.gz is not a NIfTI image, although its name says so\.$"):
        read_volume(tmp_path / "notes.nii.gz")


def test_nonsense_in_the_header_is_refused(tmp_path):
    path = tmp_path / "case.nii"
    save(path)
    content = bytearray(path.read_bytes())
    content[40:42] = (0).to_bytes(2, "little")
    path.write_bytes(content)
    with pytest.raises(InputError, match="its header makes no sense"):
        read_volume(path)


def test_nifti_2_is_refused_with_a_way_out(tmp_path):
    save(tmp_path / "case.nii", image_type=nibabel.Nifti2Image)
    with pytest.raises(InputError, match="NIfTI-2 file, which cannot be read; save it as NIfTI-1, NRRD or MHA"):
        read_volume(tmp_path / "case.nii")


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_a_two_dimensional_file_keeps_the_tilt_and_height_of_its_slice(tmp_path, ending):
    sagittal = np.array([[0, 0, 3.0, 40], [2.0, 0, 0, -7], [0, 1.5, 0, 12], [0, 0, 0, 1]])
    array = np.arange(30, dtype=np.int16).reshape(6, 5)
    save(tmp_path / f"slice{ending}", array, sagittal)
    volume = read_volume(tmp_path / f"slice{ending}")
    np.testing.assert_array_equal(volume.array[0], array.T)
    np.testing.assert_allclose(volume.geometry.affine, sagittal, atol=1e-5)


def test_the_other_byte_order_is_read(tmp_path):
    array = np.arange(120, dtype=np.int16).reshape(6, 5, 4)
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.dtype(">i2"))
    nibabel.save(nibabel.Nifti1Image(array.astype(">i2"), np.diag([1, 2, 3, 1]), header), tmp_path / "case.nii.gz")
    volume = read_volume(tmp_path / "case.nii.gz")
    np.testing.assert_array_equal(volume.array, array.T)
    assert volume.geometry.spacing_mm == (3, 2, 1)


def test_a_header_without_any_position_is_read(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((6, 5, 4), np.int16), None)
    image.header["pixdim"][1:4] = [1, 2, 3]
    nibabel.save(image, tmp_path / "case.nii")
    assert read_volume(tmp_path / "case.nii").geometry.spacing_mm == (3, 2, 1)


def test_the_scale_factor_of_the_header_is_applied(tmp_path):
    image = nibabel.Nifti1Image(np.arange(120, dtype=np.int16).reshape(6, 5, 4), np.eye(4))
    image.header.set_slope_inter(0.5, -10)
    nibabel.save(image, tmp_path / "case.nii.gz")
    expected = nibabel.load(tmp_path / "case.nii.gz").get_fdata().T
    np.testing.assert_allclose(read_volume(tmp_path / "case.nii.gz").array, expected, rtol=1e-6)


def changed(path, offset, form, *values):
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, offset, *values)
    path.write_bytes(content)


def test_scaled_integers_are_read_as_floating_point_and_unscaled_ones_as_stored(tmp_path):
    path = tmp_path / "case.nii"
    save(path, np.arange(120, dtype=np.int32).reshape(6, 5, 4))
    assert read_volume(path).array.dtype == np.int32
    changed(path, 112, "<2f", 2.0, -5.0)
    scaled = read_volume(path).array
    assert scaled.dtype == np.float32
    assert scaled[0, 0, :3].tolist() == [-5, 35, 75]
    changed(path, 112, "<2f", float("nan"), 0.0)
    assert read_volume(path).array.dtype == np.int32


def test_nan_is_not_taken_for_zero(tmp_path, caplog):
    array = np.full((6, 5, 4), -900, np.float32)
    array[0] = np.nan
    save(tmp_path / "case.nii.gz", array)
    with caplog.at_level(logging.WARNING):
        assert np.unique(read_volume(tmp_path / "case.nii.gz").array).tolist() == [-900]
    assert "20 voxels that are NaN or infinite" in caplog.text


@pytest.mark.parametrize(("code", "complaint"), [(128, "holds colours"), (2304, "holds colours"), (1536, "code 1536")])
def test_numbers_that_are_no_plain_voxels_are_refused(tmp_path, code, complaint):
    save(tmp_path / "case.nii")
    changed(tmp_path / "case.nii", 70, "<h", code)
    with pytest.raises(InputError, match=complaint):
        read_volume(tmp_path / "case.nii")


def test_a_header_that_promises_far_more_than_the_file_holds_is_refused_without_reserving_memory(tmp_path):
    save(tmp_path / "case.nii")
    changed(tmp_path / "case.nii", 42, "<3h", 32767, 32767, 32767)
    with pytest.raises(InputError, match="damaged or incomplete"):
        read_volume(tmp_path / "case.nii")


def test_axes_of_no_length_are_refused(tmp_path):
    save(tmp_path / "case.nii")
    changed(tmp_path / "case.nii", 280, "<12f", *(0.0,) * 12)
    changed(tmp_path / "case.nii", 80, "<3f", 0.0, 0.0, 0.0)
    with pytest.raises(InputError, match="gives its voxels no usable position"):
        read_volume(tmp_path / "case.nii")
