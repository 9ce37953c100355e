"""Slices: reading order, letterbox, sampling and the way back, on grids stored in every way."""

from itertools import permutations, product

import numpy as np
import pytest

from InContextSegLib.errors import InputError
from InContextSegLib.slices.intensities import WINDOWS, Intensities, Scale
from InContextSegLib.slices.plan import AXES, SlicePlan, same_grid, stored_axis
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume, reorder

ORIENTATIONS = [
    (order, flips) for order in permutations(range(3)) for flips in product((False, True), repeat=3)
]  # all 48
UNIT = Scale(0, 1)


def reading_grid(shape, spacing_kji=(1.0, 1.0, 1.0)):
    """A grid stored in reading order: k to superior, j to posterior, i to the patient's left."""
    k_mm, j_mm, i_mm = spacing_kji
    affine = np.array([[-i_mm, 0, 0, 90], [0, -j_mm, 0, 70], [0, 0, k_mm, -30], [0, 0, 0, 1]], dtype=float)
    return Geometry(shape, affine)


def turned(geometry, degrees_xyz):
    """The grid rotated in the patient's space."""
    rotation = np.eye(4)
    for axis, angle in enumerate(np.deg2rad(degrees_xyz)):
        first, second = [n for n in range(3) if n != axis]
        step = np.eye(4)
        step[[first, second], [first, second]] = np.cos(angle)
        step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ step
    return Geometry(geometry.shape, rotation @ geometry.affine)


def grids():
    plain = reading_grid((14, 60, 44), (3.0, 0.9, 1.3))
    return {
        "anisotropic": plain,
        "oblique": turned(plain, (14, -9, 21)),
        "left-handed": plain.reordered((0, 1, 2), (False, False, True)),
        "flipped": plain.reordered((0, 1, 2), (True, True, False)),
        "oblique and permuted": turned(plain, (-8, 17, 5)).reordered((2, 0, 1), (True, False, True)),
    }


def ramp(geometry):
    """A volume that rises linearly in the patient's space, and the scale that spans it."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij"), axis=-1)
    array = (geometry.to_world(index) @ [0.3, -0.5, 0.7]).astype(np.float32)
    return Volume(array, geometry, Kind.INTENSITY), Scale(float(array.min()), float(array.max()))


def away_from_the_edge(plan):
    """Index box without the rim, within two pixels (or one voxel) of the faces of a slice, where values are kept."""
    low, high = (np.array(end) for end in plan.box)
    margin = np.ceil(np.maximum(1, 2 * plan.pixel_mm / np.array(plan.geometry.spacing_mm))).astype(int)
    margin[plan.array_axis] = 0
    assert np.all(low + margin < high - margin)
    return tuple(slice(a, b) for a, b in zip(low + margin, high - margin, strict=True))


def box_of(plan_or_box):
    return tuple(slice(a, b) for a, b in zip(*plan_or_box, strict=True))


@pytest.mark.parametrize("size", [24, 100], ids=["down", "up"])
@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("name", grids())
def test_restore_is_the_inverse_of_extract(name, axis, boxed, size):
    geometry = grids()[name]
    box = tuple(np.array([(n // 10, n - n // 12) for n in geometry.shape]).T.tolist()) if boxed else None
    volume, scale = ramp(geometry)
    plan = SlicePlan.of(geometry, axis, size, box)

    restored = plan.restore(plan.extract(volume, scale))

    assert restored.dtype == np.float32
    expected = scale.apply(volume.array)
    inside = away_from_the_edge(plan)
    np.testing.assert_allclose(restored[inside], expected[inside], atol=1e-4)
    # In the rim a value is kept instead of continued, so it is off by the rise over two pixels at most.
    whole = box_of(plan.box)
    rise = 2 * max(plan.pixel_mm, *geometry.spacing_mm) * np.linalg.norm([0.3, -0.5, 0.7]) / (scale.high - scale.low)
    assert np.abs(restored[whole] - expected[whole]).max() < 2 * rise
    outside = np.ones(geometry.shape, dtype=bool)
    outside[whole] = False
    assert not restored[outside].any()


def test_downsampled_pixels_of_a_ramp_are_exact_up_to_the_edge():
    geometry = reading_grid((1, 64, 64))
    volume, scale = ramp(geometry)
    plan = SlicePlan.of(geometry, "axial", 16)
    rows, columns = np.meshgrid(np.arange(16), np.arange(16), indexing="ij")
    positions_mm = geometry.to_world(plan.locate(np.stack([np.zeros_like(rows), rows, columns], axis=-1)))

    picture = plan.extract(volume, scale)[0]

    expected = (positions_mm @ [0.3, -0.5, 0.7] - scale.low) / (scale.high - scale.low)
    np.testing.assert_allclose(picture, expected, atol=1e-5)


@pytest.mark.parametrize("axis", AXES)
def test_a_volume_of_one_slice_can_be_cut_along_every_axis(axis):
    geometry = reading_grid((1, 40, 30))
    plan = SlicePlan.of(geometry, axis, 16)
    maps = np.ones((plan.count, 16, 16), dtype=np.float32)

    assert plan.count == {"axial": 1, "coronal": 40, "sagittal": 30}[axis]
    assert plan.coverage.any()
    np.testing.assert_array_equal(plan.restore(maps * plan.coverage), np.ones(geometry.shape, np.float32))
    labels = Volume(np.full(geometry.shape, 7, np.uint8), geometry, Kind.LABELS)
    np.testing.assert_array_equal(plan.extract_labels(labels), 7 * np.broadcast_to(plan.coverage, maps.shape))


def test_a_single_voxel_survives_the_round_trip():
    geometry = reading_grid((1, 1, 1))
    plan = SlicePlan.of(geometry, "coronal", 5)
    volume = Volume(np.full((1, 1, 1), 0.25, np.float32), geometry, Kind.INTENSITY)
    np.testing.assert_array_equal(plan.restore(plan.extract(volume, UNIT)), volume.array)


@pytest.mark.parametrize("axis", AXES)
def test_a_scene_looks_alike_in_all_48_storage_orders(axis):
    rng = np.random.default_rng(3)
    geometry = turned(reading_grid((9, 22, 17), (2.5, 0.8, 1.1)), (7, -11, 4))
    image, labels = rng.random(geometry.shape, np.float32), rng.integers(0, 5, geometry.shape).astype(np.uint8)
    plan = SlicePlan.of(geometry, axis, 20)
    pictures = plan.extract(Volume(image, geometry, Kind.INTENSITY), Intensities().of(image))
    masks = plan.extract_labels(Volume(labels, geometry, Kind.LABELS))
    maps = rng.random(pictures.shape, np.float32)
    restored = plan.restore(maps)

    for order, flips in ORIENTATIONS:
        grid = geometry.reordered(order, flips)
        other = SlicePlan.of(grid, axis, 20)
        stored = reorder(image, order, flips)
        volume = Volume(stored, grid, Kind.INTENSITY)
        np.testing.assert_allclose(other.extract(volume, Intensities().of(stored)), pictures, atol=1e-6)
        stored_labels = Volume(reorder(labels, order, flips), grid, Kind.LABELS)
        np.testing.assert_array_equal(other.extract_labels(stored_labels), masks)
        np.testing.assert_allclose(other.restore(maps), reorder(restored, order, flips), atol=1e-6)
        np.testing.assert_allclose(other.positions, plan.positions)


@pytest.mark.parametrize(
    ("axis", "direction", "expected"),
    [
        ("axial", "superior", ("number", "high")),
        ("axial", "anterior", ("row", "low")),
        ("axial", "left", ("column", "high")),
        ("coronal", "anterior", ("number", "low")),
        ("coronal", "superior", ("row", "low")),
        ("coronal", "left", ("column", "high")),
        ("sagittal", "left", ("number", "high")),
        ("sagittal", "superior", ("row", "low")),
        ("sagittal", "anterior", ("column", "low")),
    ],
)
def test_patients_are_shown_upright(axis, direction, expected):
    geometry = reading_grid((21, 21, 21)).reordered((1, 2, 0), (True, False, True))
    centre_mm = geometry.to_world(np.array([10, 10, 10]))
    step_mm = {"superior": (0, 0, 8), "anterior": (0, 8, 0), "left": (-8, 0, 0)}[direction]
    index = tuple(np.rint(geometry.to_index(centre_mm + step_mm)).astype(int))
    array = np.zeros(geometry.shape, np.float32)
    array[index] = 1

    pictures = SlicePlan.of(geometry, axis, 21).extract(Volume(array, geometry, Kind.INTENSITY), UNIT)

    found = dict(zip(("number", "row", "column"), np.unravel_index(pictures.argmax(), pictures.shape), strict=True))
    where, end = expected
    assert found.pop(where) == (18 if end == "high" else 2)
    assert set(found.values()) == {10}


def test_a_circle_stays_a_circle_when_pixels_are_not_square():
    geometry = reading_grid((1, 60, 160), (5.0, 2.0, 0.5))
    plan = SlicePlan.of(geometry, "axial", 128)
    centre_mm = geometry.to_world(np.array([0, 29.5, 79.5]))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij"), axis=-1)
    disc = np.linalg.norm(geometry.to_world(index) - centre_mm, axis=-1) < 30

    (picture,) = plan.extract_labels(Volume(disc.astype(np.uint8), geometry, Kind.LABELS))

    height, width = (np.flatnonzero(picture.any(axis=axis)).size for axis in (1, 0))
    assert height == pytest.approx(60 / plan.pixel_mm, abs=2 / plan.pixel_mm)
    assert width == pytest.approx(60 / plan.pixel_mm, abs=2 / plan.pixel_mm)


def test_the_shorter_side_is_centred_between_zeros():
    geometry = reading_grid((1, 20, 40))
    plan = SlicePlan.of(geometry, "axial", 40)
    (picture,) = plan.extract(Volume(np.ones(geometry.shape, np.float32), geometry, Kind.INTENSITY), UNIT)

    expected = np.zeros((40, 40), bool)
    expected[10:30] = True
    np.testing.assert_array_equal(picture, expected)
    np.testing.assert_array_equal(plan.coverage, expected)


def test_pixels_equal_voxels_when_the_sizes_agree():
    geometry = reading_grid((2, 16, 16), (4.0, 0.7, 0.7))
    array = np.random.default_rng(0).random(geometry.shape, np.float32)
    plan = SlicePlan.of(geometry, "axial", 16)
    pictures = plan.extract(Volume(array, geometry, Kind.INTENSITY), UNIT)
    np.testing.assert_allclose(pictures, array, atol=1e-6)
    np.testing.assert_allclose(plan.restore(pictures), array, atol=1e-6)


def test_padding_is_not_mixed_into_what_is_restored():
    geometry = reading_grid((1, 13, 37))
    plan = SlicePlan.of(geometry, "axial", 24)
    maps = np.where(plan.coverage, np.float32(1), np.float32(-100))[None]
    np.testing.assert_allclose(plan.restore(maps), 1, atol=1e-6)


def test_a_restored_probability_stays_in_the_range_of_the_map():
    rng = np.random.default_rng(1)
    for size in (8, 100):
        plan = SlicePlan.of(reading_grid((3, 31, 17), (1.0, 0.9, 1.4)), "axial", size)
        restored = plan.restore(rng.integers(0, 2, (3, size, size)).astype(np.float16))
        assert restored.min() >= 0
        assert restored.max() <= 1


def test_a_checkerboard_turns_grey_at_a_quarter_of_the_size():
    geometry = reading_grid((1, 64, 64))
    board = (np.indices(geometry.shape).sum(axis=0) % 2).astype(np.float32)
    (picture,) = SlicePlan.of(geometry, "axial", 16).extract(Volume(board, geometry, Kind.INTENSITY), UNIT)
    assert np.abs(picture - 0.5).max() < 0.05


def test_stripes_that_fall_between_the_samples_turn_grey():
    geometry = reading_grid((1, 63, 63))
    stripes = np.zeros(geometry.shape, np.float32)
    stripes[:, ::3] = 1
    (picture,) = SlicePlan.of(geometry, "axial", 21).extract(Volume(stripes, geometry, Kind.INTENSITY), UNIT)
    assert np.all((picture[1:-1] > 0.1) & (picture[1:-1] < 0.5))


def test_labels_never_mix():
    rng = np.random.default_rng(5)
    geometry = reading_grid((4, 33, 47), (2.0, 1.1, 0.6))
    labels = Volume(rng.choice(np.array([0, 3, 40000], np.uint16), geometry.shape), geometry, Kind.LABELS)
    for axis, size in product(AXES, (7, 64)):
        pictures = SlicePlan.of(geometry, axis, size).extract_labels(labels)
        assert pictures.dtype == np.uint16
        assert set(np.unique(pictures)) <= {0, 3, 40000}


@pytest.mark.parametrize("name", grids())
@pytest.mark.parametrize("axis", AXES)
def test_place_finds_the_pixel_that_shows_a_voxel(name, axis):
    geometry = grids()[name]
    box = ((1, 1, 1), tuple(n - 2 for n in geometry.shape))
    plan = SlicePlan.of(geometry, axis, 200, box)
    index = tuple(n // 3 for n in geometry.shape)
    array = np.zeros(geometry.shape, np.float32)
    array[index] = 1

    pictures = plan.extract(Volume(array, geometry, Kind.INTENSITY), UNIT)

    brightest = np.array(np.unravel_index(pictures.argmax(), pictures.shape))
    place = plan.place(np.array(index))
    assert place[0] == brightest[0]
    assert np.abs(place - brightest).max() <= 1
    assert plan.slice_index(int(place[0])) == index[plan.array_axis]


@pytest.mark.parametrize("name", grids())
@pytest.mark.parametrize("axis", AXES)
def test_locate_is_the_inverse_of_place(name, axis):
    geometry = grids()[name]
    plan = SlicePlan.of(geometry, axis, 31, ((2, 3, 1), (9, 12, 11)))
    index = np.random.default_rng(2).uniform(0, 10, (5, 4, 3))
    np.testing.assert_allclose(plan.locate(plan.place(index)), index, atol=1e-9)


def test_positions_run_from_inferior_to_superior_however_the_volume_is_stored():
    geometry = reading_grid((10, 8, 6), (2.0, 1.0, 1.0))
    upside_down = geometry.reordered((0, 1, 2), (True, False, False))
    for grid, expected in ((geometry, [3, 4, 5]), (upside_down, [5, 4, 3])):
        plan = SlicePlan.of(grid, "axial", 8, ((3, 0, 0), (6, 8, 6)))
        assert [plan.slice_index(n) for n in range(plan.count)] == expected
        assert [plan.number(index) for index in expected] == [0, 1, 2]
    np.testing.assert_allclose(SlicePlan.of(upside_down).positions, np.arange(0.05, 1, 0.1))
    np.testing.assert_allclose(plan.positions, [0.45, 0.55, 0.65])
    np.testing.assert_allclose(SlicePlan.of(reading_grid((1, 8, 6))).positions, [0.5])


def test_array_axis_and_stored_axis_follow_the_storage():
    geometry = reading_grid((5, 6, 7))
    assert [SlicePlan.of(geometry, axis).array_axis for axis in AXES] == [0, 1, 2]
    assert stored_axis(geometry) == "axial"
    assert stored_axis(geometry.reordered((1, 0, 2), (False, True, False))) == "coronal"
    assert stored_axis(geometry.reordered((2, 0, 1), (False, True, False))) == "sagittal"


def test_chosen_slices_come_in_the_order_asked_for_and_go_back_to_their_place():
    geometry = reading_grid((30, 6, 6))
    array = np.broadcast_to(np.arange(30, dtype=np.float32)[:, None, None] / 30, geometry.shape)
    plan = SlicePlan.of(geometry, "axial", 6)
    numbers = [21, 3, 4]
    pictures = plan.extract(Volume(array, geometry, Kind.INTENSITY), UNIT, numbers)
    np.testing.assert_allclose(pictures[:, 0, 0] * 30, numbers, atol=1e-5)

    restored = plan.restore(pictures, numbers)
    np.testing.assert_allclose(restored[numbers], array[numbers], atol=1e-6)
    assert np.flatnonzero(restored.any(axis=(1, 2))).tolist() == [3, 4, 21]
    assert plan.extract(Volume(array, geometry, Kind.INTENSITY), UNIT, []).shape == (0, 6, 6)
    assert not plan.restore(np.zeros((0, 6, 6)), []).any()


def test_small_unsigned_numbers_do_not_wrap_round():
    geometry = reading_grid((256, 2, 2))
    array = np.broadcast_to(np.arange(256, dtype=np.float32)[:, None, None] / 255, geometry.shape)
    numbers = np.array([255, 0], np.uint8)
    pictures = SlicePlan.of(geometry, "axial", 2).extract(Volume(array, geometry, Kind.INTENSITY), UNIT, numbers)
    np.testing.assert_allclose(pictures[:, 0, 0], [1, 0])


def test_whole_numbers_and_floats_are_cut_alike_and_the_volume_is_left_alone():
    geometry = reading_grid((4, 20, 20))
    array = np.random.default_rng(4).integers(-500, 500, geometry.shape).astype(np.int16)
    plan, scale = SlicePlan.of(geometry, "coronal", 16), Intensities.named("ct-soft").of(array)
    before = array.copy()
    pictures = plan.extract(Volume(array, geometry, Kind.INTENSITY), scale)
    as_float = plan.extract(Volume(array.astype(np.float32), geometry, Kind.INTENSITY), scale)
    assert pictures.dtype == np.float32
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    np.testing.assert_array_equal(pictures, as_float)
    np.testing.assert_array_equal(array, before)


def test_one_bad_voxel_does_not_spoil_its_slice():
    geometry = reading_grid((1, 9, 9))
    array = np.full(geometry.shape, 0.5, np.float32)
    array[0, 4, 4] = np.nan
    (picture,) = SlicePlan.of(geometry, "axial", 9).extract(Volume(array, geometry, Kind.INTENSITY), UNIT)
    assert picture[4, 4] == 0
    assert np.count_nonzero(np.isclose(picture, 0.5)) == 80


def test_a_window_clips_to_its_ends():
    scale = Intensities.named("ct-soft").of(np.zeros(3))
    assert (scale.low, scale.high) == WINDOWS["ct-soft"]
    np.testing.assert_allclose(scale.apply(np.array([-1000, -160, 40, 240, 3000])), [0, 0, 0.5, 1, 1])


def test_percentiles_leave_out_zeros_and_outliers():
    array = np.concatenate([np.zeros(5000), np.arange(1, 1001), [1e6]]).astype(np.float32)
    scale = Intensities.named("percentiles").of(array)
    np.testing.assert_allclose([scale.low, scale.high], np.percentile(array[array != 0], [0.5, 99.5]))
    assert scale.high < 1001
    with_gaps = np.concatenate([array, [np.nan, np.inf]]).astype(np.float32)
    assert Intensities().of(with_gaps) == scale


@pytest.mark.parametrize("value", [0, 7, -3.5, 1e30])
def test_a_constant_image_becomes_zeros(value):
    array = np.full((2, 3, 4), value, np.float32)
    scaled = Intensities().of(array).apply(array)
    assert scaled.dtype == np.float32
    assert not scaled.any()


def test_a_drawing_in_one_grey_is_not_mistaken_for_a_constant_image():
    drawing = np.zeros((1, 5, 5), np.uint8)
    drawing[0, 2] = 200
    np.testing.assert_array_equal(Intensities().of(drawing).apply(drawing), drawing > 0)


def test_grids_that_differ_by_rounding_are_the_same():
    geometry = reading_grid((5, 6, 7))
    shifted = geometry.affine.copy()
    shifted[0, 3] += 0.05
    assert same_grid(geometry, Geometry(geometry.shape, shifted))
    shifted[0, 3] += 0.5
    assert not same_grid(geometry, Geometry(geometry.shape, shifted))


@pytest.mark.parametrize(
    ("box", "match"),
    [
        (((0, 0, 0), (0, 8, 8)), "at least one voxel"),
        (((2, 5, 2), (6, 4, 6)), "at least one voxel"),
        (((-1, 0, 0), (4, 8, 8)), "inside the volume"),
        (((0, 0, 0), (8, 8, 9)), "inside the volume"),
        (((0, 0), (8, 8)), "two corners"),
    ],
)
def test_a_box_that_does_not_fit_is_refused(box, match):
    with pytest.raises(InputError, match=match):
        SlicePlan.of(reading_grid((8, 8, 8)), "axial", 16, box)


def test_requests_that_make_no_sense_are_refused_by_name():
    geometry = reading_grid((4, 8, 8))
    plan = SlicePlan.of(geometry, "axial", 8)
    volume = Volume(np.zeros(geometry.shape, np.float32), geometry, Kind.INTENSITY)
    elsewhere = Volume(volume.array, reading_grid((4, 8, 8), (2.0, 1.0, 1.0)), Kind.INTENSITY)
    with pytest.raises(InputError, match="no slice axis 'oblique'"):
        SlicePlan.of(geometry, "oblique")
    for size in (0, True):  # a fraction is refused by the type already
        with pytest.raises(InputError, match="picture size"):
            SlicePlan.of(geometry, "axial", size)
    with pytest.raises(InputError, match="lies elsewhere"):
        plan.extract(elsewhere, UNIT)
    with pytest.raises(InputError, match="volume of intensities"):
        plan.extract_labels(volume)
    for numbers in ([4], [-1]):  # fractions are refused by the type already
        with pytest.raises(InputError, match="whole numbers from 0 to 3"):
            plan.extract(volume, UNIT, numbers)
    with pytest.raises(InputError, match=r"must have shape \(4, 8, 8\)"):
        plan.restore(np.zeros((3, 8, 8)))
    with pytest.raises(InputError, match="no axial slice 4; choose an index from 0 to 3"):
        plan.number(4)
    with pytest.raises(InputError, match="no intensities named 'mri'"):
        Intensities.named("mri")
    for window in ((3, 3), (5, 1), (0, np.inf)):
        with pytest.raises(InputError, match="window needs two finite numbers"):
            Intensities(window)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("box", [None, ((1, 2, 1), (5, 6, 4))])
def test_a_slice_alone_lies_where_it_lies_in_the_whole(axis, box, generator):
    geometry = Geometry((6, 7, 5), np.array([[0, -2, 0.1, 3], [1.5, 0, 0, 4], [0, 0.1, -1, 5], [0, 0, 0, 1.0]]))
    plan = SlicePlan.of(geometry, axis, 16, box)
    maps = generator.random((1, 16, 16), dtype=np.float32)
    for number in range(plan.count):
        alone, index = plan.part(number, number + 1), plan.slice_index(number)
        whole = np.take(plan.restore(maps, [number]), [index], plan.array_axis)
        np.testing.assert_allclose(alone.restore(maps), whole, atol=1e-6)
        corner = np.zeros(3)
        corner[plan.array_axis] = index
        np.testing.assert_allclose(alone.geometry.to_world(np.zeros(3)), geometry.to_world(corner), atol=1e-9)
        assert SlicePlan.of(geometry, axis, 16).slice_index(plan.first + number) == index
