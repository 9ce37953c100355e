"""Segmentation files by their header: which segments, with which values, and what makes no sense."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation uses this name

from InContextSegLib.errors import InputError, OutputError
from InContextSegLib.volumes.colour import palette
from InContextSegLib.volumes.files import read_labels, read_segments, read_volume, write_volume
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume, laid_onto
from InContextSegLib.volumes.segnrrd import Segment, header_of

SHAPE = (3, 4, 5)


def labels(value=2, geometry=None):
    array = np.zeros(SHAPE, np.uint8)
    array[1, 1:3, 2:5] = value
    return Volume(array, geometry or Geometry(SHAPE, np.diag([-1.0, -2.0, 3.0, 1.0])), Kind.LABELS)


def layered(path, *layers, **keys):
    """A file with several layers, (k, j, i) each, and the keys of its header."""
    image = sitk.GetImageFromArray(np.stack(layers, axis=-1).astype(np.uint8), isVector=True)
    for key, text in keys.items():
        image.SetMetaData(key, text)
    sitk.WriteImage(image, str(path))
    return path


def layer(*place):
    array = np.zeros(SHAPE, np.uint8)
    array[place] = 1
    return array


def test_segments_come_back_as_they_were_written(tmp_path):
    segments = (Segment(2, "a := b\nnew ß", (0.5, 0.25, 0.125), "Key:value|"), Segment(9, "absent", (0.0, 0.0, 1.0)))
    write_volume(tmp_path / "case.SEG.nrrd", labels(), segments)
    assert read_segments(tmp_path / "case.SEG.nrrd") == segments
    back = read_volume(tmp_path / "case.SEG.nrrd", Kind.LABELS)
    np.testing.assert_array_equal(back.array, labels().array)
    assert back.geometry.matches(labels().geometry, 1e-9)
    assert [entry.name for entry in tmp_path.iterdir()] == ["case.SEG.nrrd"]


def test_a_value_that_no_segment_names_is_a_segment_too(tmp_path):
    write_volume(tmp_path / "case.seg.nrrd", labels(5), [Segment(2, "two")])
    assert [(segment.value, segment.name) for segment in read_segments(tmp_path / "case.seg.nrrd")] == [
        (2, "two"),
        (5, "label 5"),
    ]


def test_the_header_tells_where_every_segment_lies_and_has_a_colour_for_each():
    header = header_of(labels().array, [Segment(2, "here"), Segment(3, "nowhere")])
    assert (header["Segment0_Extent"], header["Segment1_Extent"]) == ("2 4 1 2 1 1", "0 -1 0 -1 0 -1")
    assert [float(part) for part in header["Segment1_Color"].split()] == pytest.approx(palette(1), abs=1e-5)
    assert palette(0) == palette(7)


def test_other_files_name_no_segments(tmp_path):
    write_volume(tmp_path / "case.nrrd", labels(), [Segment(2, "two")])
    assert read_segments(tmp_path / "case.nrrd") == ()


def test_intensities_are_no_segmentation(tmp_path):
    volume = Volume(np.zeros(SHAPE), labels().geometry)
    with pytest.raises(InputError, match="it would hold segments, but the volume holds intensities"):
        write_volume(tmp_path / "case.seg.nrrd", volume)


def test_a_segmentation_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"case\.seg\.nrrd could not be written"):
        write_volume(tmp_path / "file" / "case.seg.nrrd", labels())
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_layers_that_do_not_overlap_become_one_label_map(tmp_path):
    path = layered(
        tmp_path / "case.seg.nrrd", layer(0), layer(1), Segment0_Name="a", Segment1_Name="b", Segment1_LabelValue="1"
    )
    assert [(segment.value, segment.name) for segment in read_segments(path)] == [(1, "a"), (2, "b")]
    np.testing.assert_array_equal(read_volume(path, Kind.LABELS).array, layer(0) + 2 * layer(1))


def test_layers_keep_values_that_are_different(tmp_path):
    keys = {"Segment0_Layer": "0", "Segment0_LabelValue": "4", "Segment1_Layer": "1", "Segment1_LabelValue": "1"}
    path = layered(tmp_path / "case.seg.nrrd", 4 * layer(0), layer(1), **keys)
    np.testing.assert_array_equal(read_volume(path, Kind.LABELS).array, 4 * layer(0) + layer(1))


def test_segments_that_overlap_are_refused(tmp_path):
    path = layered(tmp_path / "case.seg.nrrd", layer(slice(0, 2)), layer(1), Segment0_Name="a", Segment1_Name="b")
    with pytest.raises(InputError, match=r"segments that overlap \('a' and 'b'; 20 voxels\), but a voxel"):
        read_volume(path, Kind.LABELS)


def test_layers_without_segments_are_no_labels(tmp_path):
    with pytest.raises(InputError, match="holds 2 values per voxel, but one is needed"):
        read_volume(layered(tmp_path / "case.seg.nrrd", layer(0), layer(1)), Kind.LABELS)


@pytest.mark.parametrize(
    "keys",
    [
        {"Segment0_LabelValue": "one"},
        {"Segment0_LabelValue": "0"},
        {"Segment0_Layer": "2"},
        {"Segment0_Color": "0.1 red 0.2"},
        {"Segment0_Color": "0.1 0.2"},
    ],
)
def test_a_header_without_sense_is_refused(tmp_path, keys):
    path = layered(tmp_path / "case.seg.nrrd", layer(0), layer(1), Segment0_Name="liver", **keys)
    with pytest.raises(InputError, match="what its header says about the segment 'liver' makes no sense"):
        read_segments(path)


def test_two_segments_that_are_the_same_are_refused(tmp_path):
    path = layered(tmp_path / "case.seg.nrrd", layer(0), layer(1), Segment0_Layer="1", Segment1_Layer="1")
    with pytest.raises(InputError, match="two of its segments have the same value in the same layer"):
        read_volume(path, Kind.LABELS)


def test_a_missing_or_damaged_segmentation_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"case\.seg\.nrrd does not exist"):
        read_segments(tmp_path / "case.seg.nrrd")
    (tmp_path / "case.seg.nrrd").write_text("hello")
    for read in (read_segments, read_volume):
        with pytest.raises(InputError, match=r"case\.seg\.nrrd is damaged, incomplete or not the kind"):
            read(tmp_path / "case.seg.nrrd")


# Part of a grid


def test_a_part_is_laid_onto_the_whole_grid_whatever_the_order_of_its_axes():
    whole = labels()
    affine = whole.geometry.affine.copy()
    affine[:3, 3] = whole.geometry.to_world((1, 1, 2))
    part = Volume(whole.array[1:, 1:3, 2:], Geometry((2, 2, 3), affine), Kind.LABELS)
    turned = Volume(
        np.flip(part.array.transpose(2, 0, 1), 1),
        part.geometry.reordered((2, 0, 1), (False, True, False)),
        Kind.LABELS,
    )
    for each in (part, turned, whole):
        np.testing.assert_array_equal(laid_onto(each, whole.geometry).array, whole.array)


def test_labels_that_reach_beyond_the_image_are_cut_at_its_border(tmp_path):
    write_volume(tmp_path / "case.seg.nrrd", labels())
    smaller = Geometry((3, 4, 3), labels().geometry.affine)
    np.testing.assert_array_equal(read_labels(tmp_path / "case.seg.nrrd", smaller).array, labels().array[..., :3])


@pytest.mark.parametrize("change", [np.diag([1.0, 1.0, 1.1, 1.0]), np.diag([2.0, 1.0, 1.0, 1.0])])
def test_other_voxels_are_not_the_same_grid(change):
    other = Geometry(SHAPE, labels().geometry.affine @ change)
    assert laid_onto(labels(), other).geometry.matches(labels().geometry)


def test_only_segmentations_are_laid_onto_the_grid(tmp_path):
    write_volume(tmp_path / "case.nrrd", labels())
    wider = Geometry((3, 4, 9), labels().geometry.affine)
    assert read_labels(tmp_path / "case.nrrd", wider).array.shape == SHAPE
