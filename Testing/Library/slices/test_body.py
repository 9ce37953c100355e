"""The body in its scan, and a field of view that shows what is wanted of several bodies at one scale."""

import numpy as np
import pytest

from InContextSegLib.examples.support import Label, LabelledVolume, field_of
from InContextSegLib.slices.body import body_of, planned
from InContextSegLib.slices.boxes import slab
from InContextSegLib.slices.intensities import Intensities, Scale
from InContextSegLib.slices.plan import SlicePlan
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume

HU = Intensities((-160, 240))
SCALE = Scale(-160, 240)
ORGAN, OTHER = 1, 2


def scan(spacing_mm=1.0, pixels=120, middle_mm=(0.0, 0.0), table=True, flips=(False, False, False), tilt=0):
    """An oval body of 80 x 60 mm with an organ on its left and another in front, air round it and a table below."""
    affine = np.diag([-spacing_mm, -spacing_mm, 4.0, 1.0])
    affine[:2, 3] = np.array([pixels, pixels]) * spacing_mm / 2
    if tilt:
        angle = np.deg2rad(tilt)
        turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
        affine[:3] = turn @ affine[:3]
    geometry = Geometry((6, pixels, pixels), affine)
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1)
    right, front = np.moveaxis(geometry.to_world(index)[..., :2], -1, 0) - np.reshape(middle_mm, (2, 1, 1, 1))
    array = np.full(geometry.shape, -1000, np.int16)
    array[(right / 40) ** 2 + (front / 30) ** 2 < 1] = 40
    labels = np.zeros(geometry.shape, np.uint8)
    labels[((right + 18) / 9) ** 2 + (front / 6) ** 2 < 1] = ORGAN
    labels[(right / 5) ** 2 + ((front - 22) / 4) ** 2 < 1] = OTHER
    array[labels > 0] = 150
    if table:
        array[(np.abs(front + 34) < 1) & (np.abs(right) < 50)] = 200
    permutation = (0, 1, 2)
    turned = tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)
    geometry = geometry.reordered(permutation, flips)
    return Volume(array[turned], geometry), Volume(labels[turned], geometry, Kind.LABELS)


def labelled(*pairs):
    return [LabelledVolume(*pair, f"case{number}") for number, pair in enumerate(pairs)]


SCANS = (
    scan(),
    scan(0.8, 150, (6.0, -4.0), table=False, flips=(True, False, True)),
    scan(1.5, 128, (-20.0, 15.0)),
)


@pytest.mark.parametrize("pair", SCANS)
def test_the_box_round_the_body_leaves_out_air_and_table(pair):
    volume, _ = pair
    low, high = body_of(volume, SCALE)
    edges = [(high[side] - low[side]) * volume.geometry.spacing_mm[side] for side in (1, 2)]
    assert edges[0] == pytest.approx(60, abs=8)
    assert edges[1] == pytest.approx(80, abs=8)


def test_what_has_no_background_and_what_is_nothing_else_is_all_body():
    geometry = Geometry((4, 20, 20), np.eye(4))
    for grey in (100, -1000):
        volume = Volume(np.full(geometry.shape, grey, np.int16), geometry)
        assert body_of(volume, SCALE) == ((0, 0, 0), geometry.shape)


def test_scans_of_other_fields_of_view_places_and_storage_show_the_organs_alike():
    field = field_of(labelled(*SCANS), "axial", HU)
    pictures = []
    for volume, labels in SCANS:
        plan = planned(volume, SCALE, "axial", 64, field)
        pictures.append(plan.extract_labels(labels)[3])
        assert plan.pixel_mm == pytest.approx(field.edge_mm / 64, rel=0.03)
    for other in pictures[1:]:
        for value in (ORGAN, OTHER):
            first, second = pictures[0] == value, other == value
            # A pixel and a half to either side: the box round the body is found in steps of some voxels.
            middles = [np.argwhere(mask).mean(axis=0) for mask in (first, second)]
            assert np.abs(middles[0] - middles[1]).max() < 4
            assert first.sum() == pytest.approx(second.sum(), rel=0.15)


def test_in_whole_slices_the_same_organ_has_other_sizes():
    sizes = [(planned(v, SCALE, "axial", 64).extract_labels(labels)[3] == ORGAN).sum() for v, labels in SCANS]
    assert max(sizes) > 2 * min(sizes)


@pytest.mark.parametrize("away", range(len(SCANS)))
def test_the_field_shows_all_that_is_labelled_in_a_volume_it_was_not_made_from(away):
    others = [pair for number, pair in enumerate(SCANS) if number != away]
    volume, labels = SCANS[away]
    low, high = planned(volume, SCALE, "axial", 64, field_of(labelled(*others), "axial", HU)).box
    shown = labels.array[tuple(map(slice, low, high))]
    assert (shown > 0).sum() == (labels.array > 0).sum()


def test_labels_that_are_not_asked_for_do_not_widen_the_field():
    pairs = labelled(*SCANS)
    both = field_of(pairs, "axial", HU)
    one = field_of(pairs, "axial", HU, [Label(ORGAN, "organ")])
    assert one.edge_mm < both.edge_mm
    assert one.offset_mm[0] == pytest.approx(-18, abs=4)  # RAS: to the patient's left


def test_there_is_no_field_where_slices_show_little_else_and_where_nothing_is_labelled():
    volume, labels = SCANS[0]
    everything = Volume((volume.array > -500).astype(np.uint8), volume.geometry, Kind.LABELS)
    assert field_of(labelled((volume, everything)), "axial", HU) is None
    nothing = Volume(np.zeros_like(labels.array), volume.geometry, Kind.LABELS)
    assert field_of(labelled((volume, nothing)), "axial", HU) is None


def test_there_is_no_field_for_slices_of_the_target_alone():
    own = LabelledVolume(*SCANS[0], "target", may_be_finished=False)
    assert field_of([own], "axial", HU) is None
    assert field_of([own, *labelled(SCANS[1])], "axial", HU) is not None


def test_there_is_no_field_for_other_slices_than_axial_ones_and_for_oblique_ones():
    for axis in ("coronal", "sagittal"):
        assert field_of(labelled(*SCANS), axis, HU) is None
    assert field_of(labelled(*SCANS, scan(tilt=25)), "axial", HU) is None
    oblique = scan(tilt=25)[0]
    plan = planned(oblique, SCALE, "axial", 64, field_of(labelled(*SCANS), "axial", HU))
    assert plan.box == ((0, 0, 0), oblique.geometry.shape)


def test_there_is_no_field_where_one_made_without_a_volume_would_cut_off_its_label():
    volume, labels = SCANS[0]
    far = np.zeros_like(labels.array)
    far[2:4, 58:62, 20:24] = ORGAN
    stray = Volume(far, volume.geometry, Kind.LABELS)
    asked = [Label(ORGAN, "organ")]
    assert field_of(labelled(*SCANS[1:], (volume, labels)), "axial", HU, asked) is not None
    assert field_of(labelled(*SCANS[1:], (volume, stray)), "axial", HU, asked) is None


def test_both_legs_are_the_body_whichever_is_larger():
    geometry = Geometry((6, 100, 100), np.diag([-1.0, -1.0, 4.0, 1.0]))
    rows, columns = np.mgrid[:100, :100]
    for left, right in ((14, 16), (16, 14)):
        array = np.full(geometry.shape, -1000, np.int16)
        array[:, (rows - 50) ** 2 + (columns - 25) ** 2 < left**2] = 40
        array[:, (rows - 50) ** 2 + (columns - 75) ** 2 < right**2] = 40
        low, high = body_of(Volume(array, geometry), SCALE)
        assert low[2] <= 25 - left < low[2] + 6
        assert high[2] - 6 <= 75 + right <= high[2]


def test_of_a_part_of_a_body_whole_slices_are_shown_at_the_scale_of_the_field():
    volume, labels = SCANS[0]
    part = tuple(
        Volume(each.array[:, 40:80, 65:95], Geometry((6, 40, 30), volume.geometry.affine), each.kind)
        for each in (volume, labels)
    )
    field = field_of(labelled(*SCANS), "axial", HU)
    plan = planned(part[0], SCALE, "axial", 64, field)
    assert plan.box == ((0, 0, 0), (6, 40, 30))
    assert plan.pixel_mm == pytest.approx(field.edge_mm / 64)


@pytest.mark.parametrize("far", [((2, 0, 0), (5, 10, 10)), ((2, 100, 60), (5, 128, 70))])
def test_the_field_is_moved_to_show_a_box_and_a_range_of_slices_keeps_it(far):
    volume, _ = SCANS[2]
    field = field_of(labelled(*SCANS), "axial", HU)
    whole = planned(volume, SCALE, "axial", 64, field)
    run = planned(volume, SCALE, "axial", 64, field, slab(volume.geometry, "axial", (2, 4)))
    assert run.window == whole.window
    assert run.count == 3
    moved = planned(volume, SCALE, "axial", 64, field, far)
    assert moved.pixel_mm == whole.pixel_mm
    assert moved.count == 3
    assert all(low <= first for low, first in zip(moved.box[0], far[0], strict=True))
    assert all(last <= high for last, high in zip(far[1], moved.box[1], strict=True))


def test_a_single_slice_is_shown_whole():
    volume, _ = SCANS[0]
    slice_of_it = Volume(volume.array[:1], Geometry((1, *volume.array.shape[1:]), volume.geometry.affine))
    plan = planned(slice_of_it, SCALE, "axial", 64, field_of(labelled(*SCANS), "axial", HU))
    assert plan.box == ((0, 0, 0), slice_of_it.geometry.shape)


@pytest.mark.parametrize("pair", SCANS)
def test_maps_of_a_field_come_back_to_the_voxels_they_were_cut_from(pair):
    volume, labels = pair
    field = field_of(labelled(*SCANS), "axial", HU, [Label(ORGAN, "organ")])
    plan = planned(volume, SCALE, "axial", 128, field)
    assert plan.box != SlicePlan.of(volume.geometry).box
    back = plan.restore(plan.extract_labels(labels) == ORGAN) >= 0.5
    truth = labels.array == ORGAN
    assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) > 0.95
