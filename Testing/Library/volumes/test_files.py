"""Volumes in and out of files: geometry, number types, refusals, and files that appear whole or not at all."""

import errno
import logging
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation uses this name

from InContextSegLib.errors import InputError
from InContextSegLib.volumes.files import read_volume, write_volume
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume, reorder

OBLIQUE = np.array([[0.8, -0.5, 0.3], [0.6, 0.7, -0.4], [0.0, 0.5, 0.9]])
DATA = Path(os.environ.get("INCONTEXTSEG_DATA", Path(__file__).parents[4] / "shared" / "data"))
VOLUME_ENDINGS = [".nii.gz", ".nii", ".nrrd", ".mha"]


def oblique_geometry(shape=(4, 5, 6), left_handed=False):
    rotation, _ = np.linalg.qr(OBLIQUE)
    rotation *= np.sign(np.linalg.det(rotation)) * (-1 if left_handed else 1)
    affine = np.eye(4)
    affine[:3, :3] = rotation * [0.7, 1.3, 4.1]
    affine[:3, 3] = [-101.5, 88.25, -1203.75]
    return Geometry(shape, affine)


def example(dtype=np.int16, left_handed=False, shape=(4, 5, 6)):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    return Volume(array, oblique_geometry(shape, left_handed))


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def silent_terminal(capfd):
    yield
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("silent_terminal")
@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("ending", VOLUME_ENDINGS)
def test_an_oblique_anisotropic_volume_returns_from_its_file_as_it_was(tmp_path, ending, left_handed):
    volume = example(left_handed=left_handed)
    path = tmp_path / f"case{ending}"
    write_volume(path, volume)
    back = read_volume(path)
    np.testing.assert_array_equal(back.array, volume.array)
    assert back.array.dtype == np.int16
    assert back.geometry.matches(volume.geometry, 1e-3)
    assert (np.linalg.det(back.geometry.affine) < 0) == left_handed
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_nibabel_sees_a_written_volume_at_the_same_place(tmp_path, ending, left_handed):
    volume = example(left_handed=left_handed)
    write_volume(tmp_path / f"case{ending}", volume)
    theirs = nibabel.load(tmp_path / f"case{ending}")
    np.testing.assert_allclose(theirs.affine, volume.geometry.affine, atol=1e-4)
    np.testing.assert_allclose(theirs.get_qform(), volume.geometry.affine, atol=1e-3)
    np.testing.assert_array_equal(np.asanyarray(theirs.dataobj).T, volume.array)


@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("ending", VOLUME_ENDINGS)
def test_simpleitk_sees_a_written_volume_at_the_same_place(tmp_path, ending, left_handed):
    volume = example(left_handed=left_handed)
    write_volume(tmp_path / f"case{ending}", volume)
    image = sitk.ReadImage(str(tmp_path / f"case{ending}"))
    right, anterior, superior = volume.geometry.to_world((3, 4, 5))
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((5, 4, 3)), (-right, -anterior, superior), atol=5e-4)
    assert image.GetPixel(5, 4, 3) == volume.array[3, 4, 5]


@pytest.mark.usefixtures("silent_terminal")
@pytest.mark.parametrize("left_handed", [False, True])
def test_a_volume_written_by_nibabel_is_read_at_the_same_place(tmp_path, left_handed):
    volume = example(left_handed=left_handed)
    nibabel.save(nibabel.Nifti1Image(volume.array.T, volume.geometry.affine), tmp_path / "case.nii.gz")
    back = read_volume(tmp_path / "case.nii.gz")
    np.testing.assert_allclose(back.geometry.affine, volume.geometry.affine, atol=1e-4)
    np.testing.assert_array_equal(back.array, volume.array)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "i4", "u4", "i8", "f4"])
def test_integers_and_float32_keep_their_type_through_a_file(tmp_path, ending, dtype):
    write_volume(tmp_path / f"case{ending}", example(np.dtype(dtype)))
    back = read_volume(tmp_path / f"case{ending}")
    assert back.array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(back.array, example(np.dtype(dtype)).array)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_half_and_double_precision_are_read_back_as_float32(tmp_path, dtype):
    write_volume(tmp_path / "case.nii.gz", example(dtype))
    assert read_volume(tmp_path / "case.nii.gz").array.dtype == np.float32


def test_a_view_in_reading_order_is_written_like_any_other_volume(tmp_path):
    drawn = example(left_handed=True)
    order = drawn.geometry.anatomical_order()
    shown = Volume(reorder(drawn.array, *order), drawn.geometry.reordered(*order))
    write_volume(tmp_path / "case.nrrd", shown)
    back = read_volume(tmp_path / "case.nrrd")
    np.testing.assert_array_equal(back.array, shown.array)
    assert back.geometry.matches(shown.geometry)


def test_a_mask_in_booleans_is_written_as_uint8(tmp_path):
    mask = Volume(example().array > 60, oblique_geometry(), Kind.LABELS)
    write_volume(tmp_path / "mask.nii.gz", mask)
    back = read_volume(tmp_path / "mask.nii.gz", Kind.LABELS)
    assert back.array.dtype == np.uint8
    np.testing.assert_array_equal(back.array, mask.array)


@pytest.mark.usefixtures("silent_terminal")
def test_names_with_accents_other_scripts_and_great_length_work(tmp_path):
    path = tmp_path / "Ünï cødé" / ("very long " * 15) / "影像.nii.gz"
    path.parent.mkdir(parents=True)
    write_volume(path, example())
    write_volume(path.with_name("影像.nrrd"), example())
    write_volume(path.with_name("X" * 240 + ".NII.GZ"), example())
    for each in path.parent.iterdir():
        np.testing.assert_array_equal(read_volume(str(each)).array, example().array)


def test_header_and_data_in_two_files_are_read(tmp_path):
    image = sitk.GetImageFromArray(example().array)
    for name in ("case.mhd", "case.nhdr"):
        sitk.WriteImage(image, str(tmp_path / name))
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, example().array)


def test_a_single_layer_segmentation_of_slicer_is_read_as_labels(tmp_path):
    image = sitk.GetImageFromArray(np.eye(4, dtype=np.uint8)[np.newaxis].repeat(3, 0) * 2)
    image.SetMetaData("Segment0_LabelValue", "2")
    sitk.WriteImage(image, str(tmp_path / "case.seg.nrrd"))
    assert set(np.unique(read_volume(tmp_path / "case.seg.nrrd", Kind.LABELS).array)) == {0, 2}


# What is refused when reading


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"case\.nii\.gz does not exist\.$"):
        read_volume(tmp_path / "case.nii.gz")


def test_an_unknown_ending_names_the_known_ones(tmp_path):
    (tmp_path / "case.xyz").write_text("hello")
    with pytest.raises(InputError, match=r"case\.xyz is of an unknown type; known endings are \.nii\.gz \.nii"):
        read_volume(tmp_path / "case.xyz")


def test_a_series_asked_for_in_something_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"asks for a DICOM series, but .*case is not a folder"):
        read_volume(f"{tmp_path}/case#1.2.3")


def test_a_hash_sign_in_a_file_name_is_part_of_the_name(tmp_path):
    write_volume(tmp_path / "case #3.nii.gz", example())
    assert read_volume(tmp_path / "case #3.nii.gz").array.shape == (4, 5, 6)


@pytest.mark.parametrize("name", ["case.nrrd", "case.mha", "case.dcm"])
def test_a_text_under_an_image_name_is_refused_in_one_sentence(tmp_path, name):
    (tmp_path / name).write_text("hello\n" * 200)
    with pytest.raises(InputError, match=r"^[^\n]* is damaged, incomplete or not the kind of image its name says\.$"):
        read_volume(tmp_path / name)


@pytest.mark.parametrize("share", [0.5, 0.98])
@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_a_cut_off_file_is_refused(tmp_path, ending, share):
    array = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    path = tmp_path / f"case{ending}"
    write_volume(path, Volume(array, oblique_geometry(array.shape)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match="damaged, incomplete or not the kind"):
        read_volume(path)


def test_a_file_that_may_not_be_opened_is_refused_with_the_reason(tmp_path, monkeypatch):
    write_volume(tmp_path / "case.nii", example())

    def refuse(*_args, **_keywords):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"case\.nii cannot be read: permission is missing\.$"):
        read_volume(tmp_path / "case.nii")


def test_a_fourth_dimension_is_refused_with_its_sizes(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 5, 4, 3), np.float32), np.eye(4)), tmp_path / "time.nii.gz")
    with pytest.raises(InputError, match=r"4 dimensions \(6 x 5 x 4 x 3\), but an image with three is needed"):
        read_volume(tmp_path / "time.nii.gz")


@pytest.mark.parametrize("trailing", [(1,), (1, 1)])
def test_a_trailing_dimension_of_one_is_dropped_in_nifti(tmp_path, trailing):
    volume = example()
    array = volume.array.T.reshape((6, 5, 4, *trailing))
    nibabel.save(nibabel.Nifti1Image(array, volume.geometry.affine), tmp_path / "case.nii.gz")
    back = read_volume(tmp_path / "case.nii.gz")
    np.testing.assert_array_equal(back.array, volume.array)
    assert back.geometry.matches(volume.geometry)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_a_trailing_dimension_of_one_is_dropped_in_other_formats(tmp_path, ending):
    image = sitk.JoinSeries([sitk.GetImageFromArray(example().array)])
    image.SetSpacing((1, 2, 3, 4))
    assert image.GetDimension() == 4
    sitk.WriteImage(image, str(tmp_path / f"case{ending}"))
    back = read_volume(tmp_path / f"case{ending}")
    np.testing.assert_array_equal(back.array, example().array)
    assert back.geometry.spacing_mm == (3, 2, 1)


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii.gz"])
def test_several_values_per_voxel_are_refused(tmp_path, ending):
    image = sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.float32), isVector=True)
    sitk.WriteImage(image, str(tmp_path / f"field{ending}"))
    with pytest.raises(InputError, match=r"3 values per voxel|5 dimensions \(6 x 5 x 4 x 1 x 3\)"):
        read_volume(tmp_path / f"field{ending}")


def test_complex_numbers_are_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 5, 4), np.complex64), np.eye(4)), tmp_path / "k.nii.gz")
    with pytest.raises(InputError, match=r"k\.nii\.gz holds complex numbers; save their magnitude"):
        read_volume(tmp_path / "k.nii.gz")


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_sheared_axes_are_refused_but_rounded_directions_are_not(tmp_path, ending):
    image = sitk.GetImageFromArray(example().array)
    for shear in (0.002, 0.1):
        image.SetDirection((1, shear, 0, 0, 1, 0, 0, 0, 1))
        sitk.WriteImage(image, str(tmp_path / f"{shear}{ending}"))
    rounded = read_volume(tmp_path / f"0.002{ending}")
    with pytest.raises(InputError, match=r"has sheared axes .* resample it to a grid with perpendicular axes\.$"):
        read_volume(tmp_path / f"0.1{ending}")
    write_volume(tmp_path / f"again{ending}", rounded)
    assert read_volume(tmp_path / f"again{ending}").geometry.matches(rounded.geometry)
    with pytest.raises(InputError, match="the axes of the volume are sheared"):
        write_volume(tmp_path / "again.nii.gz", rounded)


# Values


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_voxels_that_are_no_numbers_become_the_smallest_value_and_are_counted_in_a_warning(
    tmp_path, caplog, dtype, ending
):
    array = np.arange(120, dtype=dtype).reshape(4, 5, 6) - 50
    array[0, 0, :3] = [np.nan, np.inf, -np.inf]
    if ending == ".nii.gz":
        nibabel.save(nibabel.Nifti1Image(array.T, np.eye(4)), tmp_path / "case.nii.gz")
    else:
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"case{ending}"))
    with caplog.at_level(logging.WARNING):
        back = read_volume(tmp_path / f"case{ending}")
    assert back.array[0, 0].tolist() == [-47, -47, -47, -47, -46, -45]
    assert "3 voxels that are NaN or infinite were set to the smallest value, -47" in caplog.text


def test_an_image_without_any_finite_number_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.full((6, 5, 4), np.nan), np.eye(4)), tmp_path / "case.nii.gz")
    with pytest.raises(InputError, match="no finite number at all"):
        read_volume(tmp_path / "case.nii.gz")


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.array([0, 1, 2], np.int64), np.uint8),
        (np.array([0, 1, 255], np.float64), np.uint8),
        (np.array([0, 1, 256], np.float32), np.uint16),
        (np.array([0, 1, 65535], np.int32), np.uint16),
        (np.array([0, 1.00001, 2.99999], np.float32), np.uint8),
    ],
)
def test_whole_numbers_of_any_type_become_labels_of_the_smallest_type(tmp_path, values, found):
    nibabel.save(nibabel.Nifti1Image(values.reshape(3, 1, 1), np.eye(4), dtype=values.dtype), tmp_path / "mask.nii.gz")
    back = read_volume(tmp_path / "mask.nii.gz", Kind.LABELS)
    assert back.array.dtype == found
    assert back.array.ravel().tolist() == np.rint(values).tolist()


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (np.array([0, -1, 2], np.int16), "negative numbers, down to -1"),
        (np.array([0, -3, 2], np.float32), "negative numbers, down to -3"),
        (np.array([0, 0.5, 2], np.float32), "fractions, but labels are whole numbers"),
        (np.array([0, np.nan, 2], np.float32), "NaN or infinite"),
        (np.array([0, 70000, 2], np.int32), "70000, but the largest label is 65535"),
    ],
)
def test_anything_but_small_whole_numbers_is_refused_as_labels(tmp_path, values, complaint):
    nibabel.save(nibabel.Nifti1Image(values.reshape(3, 1, 1), np.eye(4)), tmp_path / "mask.nii.gz")
    with pytest.raises(InputError, match=rf"mask\.nii\.gz cannot be labels: it holds {complaint}"):
        read_volume(tmp_path / "mask.nii.gz", Kind.LABELS)


# Real files


@pytest.mark.skipif(not DATA.is_dir(), reason="INCONTEXTSEG_DATA does not name a folder with real images")
@pytest.mark.usefixtures("silent_terminal")
def test_every_real_set_is_read_and_its_labels_lie_on_its_images():
    pairs = 0
    for labels in sorted(DATA.glob("*/labels*")):
        images = labels.with_name(labels.name.replace("labels", "images"))
        for label in sorted(labels.iterdir())[:2]:
            image = next(images.glob(label.name.split(".")[0] + ".*"))
            pairs += _read_pair(image, label)
    for label in sorted(DATA.glob("singles_3d/*_label.nii.gz")):
        pairs += _read_pair(Path(str(label).replace("_label", "_image")), label)
    assert pairs > 0


def _read_pair(image_path, label_path):
    image, labels = read_volume(image_path), read_volume(label_path, Kind.LABELS)
    assert image.geometry.matches(labels.geometry), label_path
    assert labels.array.any(), label_path
    assert image.array.min() < image.array.max(), image_path
    return 1
