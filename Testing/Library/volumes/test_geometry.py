"""Where a voxel lies: geometry, reading order and resampling."""

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation uses this name

from InContextSegLib.errors import InputError
from InContextSegLib.volumes.geometry import (
    Geometry,
    Kind,
    Volume,
    itk_geometry,
    itk_image,
    picture_geometry,
    reorder,
    resample,
)

ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))


def rotation(degrees, axis=(1.0, 2.0, 3.0)):
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def grid(shape=(4, 5, 6), spacing_ijk=(1.0, 1.0, 1.0), degrees=0.0, matrix=None, origin_mm=(0.0, 0.0, 0.0)):
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees) @ (np.eye(3) if matrix is None else matrix) * spacing_ijk
    affine[:3, 3] = origin_mm
    return Geometry(shape, affine)


def signed_permutation(axes, signs):
    matrix = np.zeros((3, 3))
    matrix[list(axes), range(3)] = signs
    return matrix


def in_reading_order(volume):
    order = volume.geometry.anatomical_order()
    return Volume(reorder(volume.array, *order), volume.geometry.reordered(*order))


def test_the_affine_takes_column_row_slice_to_ras_while_indices_are_slice_row_column():
    geometry = grid(spacing_ijk=(1, 2, 3), origin_mm=(10, 20, 30))
    assert geometry.to_world((1, 1, 1)).tolist() == [11, 22, 33]
    assert geometry.to_world((2, 0, 0)).tolist() == [10, 20, 36]
    assert geometry.spacing_mm == (3, 2, 1)


@pytest.mark.parametrize("degrees", [0, 7, 33, 90])
def test_to_index_undoes_to_world(degrees):
    geometry = grid(spacing_ijk=(0.4, 0.7, 5), degrees=degrees, origin_mm=(-120, 33, 1500))
    index = np.random.default_rng(0).uniform(-10, 300, (3, 7, 3))
    np.testing.assert_allclose(geometry.to_index(geometry.to_world(index)), index, atol=1e-9)


def test_an_affine_cannot_be_changed_afterwards_neither_here_nor_through_the_original():
    affine = np.eye(4)
    geometry = Geometry((1, 2, 3), affine)
    affine[0, 3] = 5
    assert geometry.affine[0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine[0, 3] = 1


@pytest.mark.parametrize("shape", [(1, 2), (0, 2, 3), (1, 2, 3, 4)])
def test_a_shape_that_is_not_three_positive_numbers_is_refused(shape):
    with pytest.raises(InputError, match=r"three positive sizes \(k, j, i\), but got"):
        Geometry(shape, np.eye(4))


@pytest.mark.parametrize("affine", [np.eye(3), np.diag([1, np.nan, 1, 1]), np.diag([1, 1, 1, 2])])
def test_an_affine_of_the_wrong_form_is_refused(affine):
    with pytest.raises(InputError, match=r"finite \(4, 4\) matrix"):
        Geometry((1, 2, 3), affine)


@pytest.mark.parametrize("columns", [[[1, 0, 0], [0, 1, 0], [0, 0, 0]], [[1, 1, 0], [0, 0, 0], [0, 0, 1]]])
def test_an_affine_that_cannot_be_inverted_is_refused(columns):
    affine = np.eye(4)
    affine[:3, :3] = columns
    with pytest.raises(InputError, match="not invertible"):
        Geometry((1, 2, 3), affine)


def test_geometries_match_within_a_tolerance_at_every_corner():
    geometry = grid(shape=(10, 200, 200), spacing_ijk=(0.5, 0.5, 3))
    assert geometry.matches(grid(shape=(10, 200, 200), spacing_ijk=(0.5, 0.5, 3), origin_mm=(5e-4, 0, 0)))
    assert not geometry.matches(grid(shape=(10, 200, 200), spacing_ijk=(0.5, 0.5, 3), origin_mm=(2e-3, 0, 0)))
    assert not geometry.matches(grid(shape=(10, 200, 200), spacing_ijk=(0.5001, 0.5, 3)))
    assert not geometry.matches(grid(shape=(10, 200, 199), spacing_ijk=(0.5, 0.5, 3)))
    assert geometry.matches(grid(shape=(10, 200, 200), spacing_ijk=(0.5, 0.5, 3), origin_mm=(0.1, 0, 0)), 0.2)


def test_a_single_slice_of_another_thickness_does_not_match():
    assert not grid(shape=(1, 4, 4), spacing_ijk=(1, 1, 3)).matches(grid(shape=(1, 4, 4)))


@pytest.mark.parametrize("degrees", [0, 12])
@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_reading_order_of_every_orientation_shows_superior_posterior_left(axes, signs, degrees):
    geometry = grid(
        spacing_ijk=(0.5, 1.0, 2.5), degrees=degrees, matrix=signed_permutation(axes, signs), origin_mm=(3, -40, 7)
    )
    array = np.arange(120, dtype=np.int16).reshape(geometry.shape)
    shown = in_reading_order(Volume(array, geometry))

    cosine_with_reading = np.diag(shown.geometry.directions @ np.array([[0, 0, 1], [0, -1, 0], [-1, 0, 0]]).T)
    assert cosine_with_reading.min() > 0.9
    assert shown.geometry.anatomical_order() == ((0, 1, 2), (False, False, False))
    assert np.shares_memory(shown.array, array)

    index = np.argwhere(shown.array == array[1, 2, 3])[0]
    np.testing.assert_allclose(shown.geometry.to_world(index), geometry.to_world((1, 2, 3)), atol=1e-9)


def test_the_order_is_one_to_one_even_where_two_axes_lean_toward_the_same_direction():
    geometry = grid(degrees=45)
    permutation, _ = geometry.anatomical_order()
    assert sorted(permutation) == [0, 1, 2]


def test_rounding_at_a_tie_of_45_degrees_does_not_change_the_order():
    affine = np.eye(4)
    for tiny in (-1e-7, 0.0, 1e-7):
        affine[:3, :3] = rotation(45 + np.rad2deg(tiny), axis=(1.0, 0.0, 0.0))
        assert Geometry((2, 2, 2), affine).anatomical_order()[0] == (0, 1, 2)


def test_a_volume_shows_its_array_but_lets_nobody_change_it():
    array = np.zeros((4, 5, 6), np.float32)
    volume = Volume(array, grid())
    with pytest.raises(ValueError, match="read-only"):
        volume.array[0, 0, 0] = 1
    array[0, 0, 0] = 2
    assert volume.array[0, 0, 0] == 2


def test_a_boolean_mask_becomes_labels_0_and_1():
    mask = np.zeros((4, 5, 6), bool)
    mask[1, 2, 3] = True
    volume = Volume(mask, grid(), Kind.LABELS)
    assert volume.array.dtype == np.uint8
    assert volume.array.sum() == 1


def test_an_array_of_another_shape_than_its_geometry_is_refused():
    with pytest.raises(InputError, match=r"shape \(4, 5, 7\), but its geometry says \(4, 5, 6\)"):
        Volume(np.zeros((4, 5, 7)), grid())


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.int64])
def test_labels_of_another_type_than_small_unsigned_integers_are_refused(dtype):
    with pytest.raises(InputError, match="Labels must be uint8 or uint16, but the array holds"):
        Volume(np.zeros((4, 5, 6), dtype), grid(), Kind.LABELS)


def test_complex_intensities_are_refused():
    with pytest.raises(InputError, match="real numbers, but the array holds complex64"):
        Volume(np.zeros((4, 5, 6), np.complex64), grid())


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS[::5])
def test_an_itk_image_lies_at_the_same_place_in_lps(axes, signs):
    geometry = grid(
        spacing_ijk=(0.5, 1.0, 2.5), degrees=20, matrix=signed_permutation(axes, signs), origin_mm=(3, -40, 7)
    )
    image = itk_image(np.zeros(geometry.shape, np.uint8), geometry)
    right_left, posterior_anterior, height = geometry.to_world((1, 2, 3))
    np.testing.assert_allclose(
        image.TransformIndexToPhysicalPoint((3, 2, 1)), (-right_left, -posterior_anterior, height), atol=1e-9
    )
    assert itk_geometry(image).matches(geometry, 1e-9)


def test_a_two_dimensional_itk_image_becomes_one_slice_one_millimetre_thick():
    image = sitk.Image(6, 5, sitk.sitkUInt8)
    image.SetSpacing((0.5, 0.25))
    geometry = itk_geometry(image)
    assert geometry.shape == (1, 5, 6)
    assert geometry.spacing_mm == (1, 0.25, 0.5)
    assert geometry.matches(picture_geometry((1, 5, 6), (0.25, 0.5)))


def test_a_picture_is_already_in_reading_order():
    assert picture_geometry((1, 5, 6)).anatomical_order() == ((0, 1, 2), (False, False, False))


def test_a_linear_ramp_over_the_patient_survives_resampling_onto_an_oblique_left_handed_grid():
    geometry = grid(shape=(30, 30, 30), spacing_ijk=(1, 1.5, 2), origin_mm=(-15, -20, -30))
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1)
    ramp = geometry.to_world(index) @ [1.0, 2.0, -0.5]
    target = grid(shape=(8, 9, 10), degrees=25, matrix=np.diag([-1, 1, 1]), origin_mm=(3, -5, -4))
    moved = resample(Volume(ramp.astype(np.float32), geometry), target)
    index = np.stack(np.meshgrid(*map(np.arange, target.shape), indexing="ij"), axis=-1)
    np.testing.assert_allclose(moved.array, target.to_world(index) @ [1.0, 2.0, -0.5], atol=1e-3)
    assert moved.geometry is target
    assert moved.array.dtype == np.float32


def test_resampling_onto_the_own_reading_order_equals_reordering():
    geometry = grid(spacing_ijk=(0.5, 1, 2), degrees=15, matrix=signed_permutation((2, 0, 1), (1, -1, -1)))
    array = np.random.default_rng(0).normal(size=geometry.shape).astype(np.float32)
    volume = Volume(array, geometry)
    shown = in_reading_order(volume)
    np.testing.assert_allclose(resample(volume, shown.geometry).array, shown.array, atol=1e-5)


def test_resampled_labels_are_never_mixed_and_lie_in_background_outside():
    labels = np.zeros((6, 6, 6), np.uint16)
    labels[2:4, 2:4, 2:4] = 7
    labels[4:] = 300
    volume = Volume(labels, grid(shape=(6, 6, 6)), Kind.LABELS)
    moved = resample(volume, grid(shape=(20, 20, 20), spacing_ijk=(0.7,) * 3, degrees=10, origin_mm=(-3, -3, -3)))
    assert set(np.unique(moved.array)) == {0, 7, 300}
    assert moved.array.dtype == np.uint16
    assert moved.array[0, 0, 0] == 0


def test_outside_of_an_image_lies_its_smallest_value():
    volume = Volume(np.full((4, 5, 6), -1000, np.int16) + np.arange(6, dtype=np.int16), grid())
    moved = resample(volume, grid(origin_mm=(100, 0, 0)))
    assert np.unique(moved.array).tolist() == [-1000]


def test_a_coarser_grid_smooths_by_a_quarter_of_the_ratio_along_that_axis_only():
    impulse = np.zeros((41, 41, 41), np.float32)
    impulse[20, 20, 20] = 1
    source = Volume(impulse, grid(shape=(41, 41, 41)))
    coarse = grid(shape=(41, 41, 5), spacing_ijk=(8, 1, 1), origin_mm=(4, 0, 0))
    moved = resample(source, coarse).array
    sigma = 0.25 * 8
    np.testing.assert_allclose(moved[20, 20, 2], 1 / (sigma * np.sqrt(2 * np.pi)), rtol=1e-3)
    assert moved[19, 20, 2] == moved[20, 21, 2] == 0


def test_fine_stripes_fade_instead_of_turning_into_coarse_ones():
    stripes = np.zeros((1, 1, 96), np.float32)
    stripes[..., ::2] = 1
    wide = resample(Volume(stripes, grid(shape=(1, 1, 96))), grid(shape=(1, 1, 16), spacing_ijk=(6, 1, 1)))
    assert np.abs(wide.array[..., 2:-2] - 0.5).max() < 0.01


def test_smoothing_leaves_a_constant_image_as_it_is():
    volume = Volume(np.full((9, 9, 9), 40, np.int16), grid(shape=(9, 9, 9)))
    moved = resample(volume, grid(shape=(3, 3, 3), spacing_ijk=(3, 3, 3), origin_mm=(1, 1, 1)))
    np.testing.assert_allclose(moved.array, 40, rtol=1e-6)


def test_a_finer_grid_is_not_smoothed():
    array = np.random.default_rng(0).normal(size=(5, 5, 5)).astype(np.float32)
    fine = resample(Volume(array, grid(shape=(5, 5, 5))), grid(shape=(9, 9, 9), spacing_ijk=(0.5,) * 3))
    np.testing.assert_allclose(fine.array[::2, ::2, ::2], array, atol=1e-6)


def test_resampling_onto_the_same_grid_changes_no_value():
    array = np.random.default_rng(0).integers(-500, 500, (4, 5, 6)).astype(np.int16)
    moved = resample(Volume(array, grid()), grid())
    np.testing.assert_array_equal(moved.array, array)
    assert moved.array.dtype == np.float32
