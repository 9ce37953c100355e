"""Segmentation files: what the library writes is what 3D Slicer shows, and the other way round."""

import numpy as np
import pytest

from InContextSegLib.errors import InputError
from InContextSegLib.volumes.files import read_labels, read_segments, read_volume, write_volume
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume
from InContextSegLib.volumes.segnrrd import Segment

LIVER = (
    "TerminologyEntry:Segmentation category and type~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^~~^^~^^|"
)
SEGMENTS = (
    Segment(3, "Leber; links = groß", (0.25, 0.5, 0.75), LIVER),
    Segment(300, "tumour", (1.0, 0.0, 0.5)),
    Segment(7, "nowhere"),
)
SHAPE = (5, 6, 7)


def oblique(left_handed=False):
    a, b = np.radians([23, -11])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    turned = about_z @ about_x @ np.diag([-1.0, -1.0, -1.0 if left_handed else 1.0])
    affine = np.eye(4)
    affine[:3, :3] = turned @ np.diag([0.7123456789, 1.3, 4.1])
    affine[:3, 3] = (-101.123456789, 57.3, 1030.77)
    return Geometry(SHAPE, affine)


def labelled(geometry):
    array = np.zeros(SHAPE, np.uint16)
    array[1:4, 2:5, 1:3], array[2, 3, 5], array[0, 0, 6] = 3, 300, 300
    return Volume(array, geometry, Kind.LABELS)


def places(array, affine, value):
    """The voxels of a value as points in the world, in an order that does not depend on how they are stored."""
    points = Geometry(array.shape, affine).to_world(np.argwhere(array == value))
    return points[np.lexsort(np.round(points, 3).T)]


def loaded(scene, path):
    import slicer

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    return node, slicer


def shown(node, slicer, segment_id):
    """The voxels of a segment (k, j, i) and where they lie, as Slicer holds them."""
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    image = slicer.vtkOrientedImageData()
    node.GetBinaryLabelmapRepresentation(segment_id, image)
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    affine = np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
    low = np.array(image.GetExtent()[::2])
    affine[:3, 3] += affine[:3, :3] @ low
    scalars = image.GetPointData().GetScalars()
    if scalars is None:
        return np.zeros((1, 1, 1)), affine
    return vtk_to_numpy(scalars).reshape(image.GetDimensions()[::-1]), affine


@pytest.mark.parametrize("left_handed", [False, True])
def test_slicer_loads_segments_with_names_colours_and_place(scene, tmp_path, left_handed):
    volume = labelled(oblique(left_handed))
    write_volume(tmp_path / "case.seg.nrrd", volume, SEGMENTS)
    node, slicer = loaded(scene, tmp_path / "case.seg.nrrd")
    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == 3
    for number, segment in enumerate(SEGMENTS):
        found = segmentation.GetNthSegment(number)
        assert (found.GetName(), found.GetLabelValue()) == (segment.name, segment.value)
        if segment.colour:
            np.testing.assert_allclose(found.GetColor(), segment.colour, atol=1e-6)
        array, affine = shown(node, slicer, segmentation.GetNthSegmentID(number))
        expected = places(volume.array, volume.geometry.affine, segment.value)
        points = places((array > 0).astype(int), affine, 1)
        assert points.shape == expected.shape
        np.testing.assert_allclose(points, expected, atol=1e-6)
    assert "10200004^Liver" in _terminology(slicer, segmentation.GetNthSegment(0))


def _terminology(slicer, segment):
    import vtk

    text = vtk.reference("")
    segment.GetTag("TerminologyEntry", text)
    return str(text)


def drawn(scene, geometry, parts):
    """A segmentation made in Slicer; `parts` by name, each (k, j, i) bool; overlapping ones get layers of their own."""
    import slicer
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    for name, inside in parts.items():
        image = slicer.vtkOrientedImageData()
        k, j, i = inside.shape
        image.SetExtent(0, i - 1, 0, j - 1, 0, k - 1)
        matrix = vtk.vtkMatrix4x4()
        matrix.DeepCopy(geometry.affine.ravel().tolist())
        image.SetGeometryFromImageToWorldMatrix(matrix)
        image.GetPointData().SetScalars(
            numpy_to_vtk(inside.astype(np.uint8).ravel(), deep=True, array_type=vtk.VTK_UNSIGNED_CHAR)
        )
        segment = node.GetSegmentation().AddEmptySegment("", name, (0.1, 0.2, 0.9))
        logic.SetBinaryLabelmapToSegment(image, node, segment, logic.MODE_REPLACE)
    return node


def saved(scene, node, path):
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(path))
    assert storage.WriteData(node)
    return path


def block(*place):
    inside = np.zeros(SHAPE, bool)
    inside[place] = True
    return inside


LEFT, RIGHT = block(slice(1, 3), slice(1, 4), slice(0, 2)), block(slice(2, 4), slice(1, 4), slice(4, 7))


@pytest.mark.parametrize("shared", [False, True])
def test_what_slicer_saved_is_read_with_its_names_on_the_grid_of_the_image(scene, tmp_path, shared):
    geometry = oblique(left_handed=True)
    node = drawn(scene, geometry, {"left": LEFT, "right": RIGHT})
    if shared:
        node.GetSegmentation().CollapseBinaryLabelmaps(True)
    path = saved(scene, node, tmp_path / "drawn.seg.nrrd")
    assert read_volume(path, Kind.LABELS).geometry.shape != SHAPE, "Slicer saves the part that is not empty"
    values = {segment.name: segment.value for segment in read_segments(path)}
    assert [*values] == ["left", "right"]
    labels = read_labels(path, geometry)
    np.testing.assert_array_equal(labels.array == values["left"], LEFT)
    np.testing.assert_array_equal(labels.array == values["right"], RIGHT)
    assert read_segments(path)[0].colour == pytest.approx((0.1, 0.2, 0.9))
    assert "Tissue" in read_segments(path)[0].tags


def test_segments_that_overlap_are_refused(scene, tmp_path):
    node = drawn(scene, oblique(), {"organ": block(slice(0, 4)), "tumour": LEFT})
    path = saved(scene, node, tmp_path / "drawn.seg.nrrd")
    assert [segment.name for segment in read_segments(path)] == ["organ", "tumour"]
    with pytest.raises(InputError, match=r"segments that overlap \('organ' and 'tumour'; 12 voxels\)"):
        read_volume(path, Kind.LABELS)


def test_a_segmentation_on_another_grid_is_not_moved(scene, tmp_path):
    path = saved(scene, drawn(scene, oblique(), {"left": LEFT}), tmp_path / "drawn.seg.nrrd")
    shifted = oblique().affine.copy()
    shifted[:3, 3] += shifted[:3, 0] / 2
    assert read_labels(path, Geometry(SHAPE, shifted)).geometry.matches(read_volume(path, Kind.LABELS).geometry)


def test_tags_and_values_survive_a_way_through_slicer(scene, tmp_path):
    volume = labelled(oblique())
    write_volume(tmp_path / "ours.seg.nrrd", volume, SEGMENTS)
    node, _ = loaded(scene, tmp_path / "ours.seg.nrrd")
    path = saved(scene, node, tmp_path / "theirs.seg.nrrd")
    back = read_labels(path, volume.geometry)
    segments = {segment.name: segment for segment in read_segments(path)}
    assert "10200004^Liver" in segments["Leber; links = groß"].tags
    for segment in SEGMENTS:
        np.testing.assert_array_equal(back.array == segments[segment.name].value, volume.array == segment.value)
