"""Volumes and segments are read as they are, and what cannot be read is said in one sentence."""

import numpy as np
import pytest
import slicer
import vtk

from InContextSegLib.errors import InputError
from InContextSegLib.progress import exhausted
from InContextSegSlicer.scene import bridge
from Testing.Slicer.patients import (
    GEOMETRIES,
    SHAPE,
    addSegmentation,
    addVolume,
    affineOf,
    ball,
    draw,
    linear,
    matrixOf,
    oriented,
    put,
    somewhere,
    turned,
    warpGrid,
)

AFFINE = affineOf(GEOMETRIES["oblique"])


def test_an_array_is_the_volumes_own_memory(scene):
    volume = addVolume(scene, np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    array = bridge.arrayOf(volume)
    assert array.shape == (2, 3, 4)
    array[1, 2, 3] = -7
    assert volume.GetImageData().GetScalarComponentAsDouble(3, 2, 1, 0) == -7


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int32, np.int64, np.float32, np.float64])
def test_a_volume_may_hold_any_number_type(scene, kind):
    values = np.arange(24).reshape(2, 3, 4).astype(kind)
    assert np.array_equal(bridge.arrayOf(addVolume(scene, values)), values)
    assert bridge.arrayOf(addVolume(scene, values)).dtype == kind


def test_bits_become_bytes(scene):
    volume = addVolume(scene, np.zeros((1, 1, 8), np.uint8))
    bits = vtk.vtkBitArray()
    for bit in (1, 0, 1, 1, 0, 0, 0, 1):
        bits.InsertNextValue(bit)
    volume.GetImageData().GetPointData().SetScalars(bits)
    array = bridge.arrayOf(volume)
    assert array.dtype == np.uint8
    assert array.ravel().tolist() == [1, 0, 1, 1, 0, 0, 0, 1]


def test_colour_has_a_fourth_axis(scene):
    values = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    volume = addVolume(scene, values)
    assert np.array_equal(bridge.arrayOf(volume), values)
    assert bridge.geometryOf(volume).shape == (2, 3, 4)


def test_a_volume_without_an_image_is_refused(scene):
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Nichts")
    with pytest.raises(InputError, match="'Nichts' holds no image"):
        bridge.arrayOf(empty)
    with pytest.raises(InputError, match="'Nichts' holds no image"):
        bridge.geometryOf(empty)


def test_two_numbers_for_a_voxel_are_refused(scene):
    volume = addVolume(scene, np.zeros((2, 2, 2), np.uint8), name="Phase")
    volume.GetImageData().AllocateScalars(vtk.VTK_SHORT, 2)
    with pytest.raises(InputError, match="'Phase' holds 2 numbers"):
        bridge.arrayOf(volume)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_geometry_is_of_the_world_under_linear_transforms(scene, geometry):
    affine = affineOf(GEOMETRIES[geometry])
    volume = addVolume(scene, np.zeros(SHAPE, np.uint8), affine)
    assert np.allclose(bridge.geometryOf(volume).affine, affine)
    outer, inner = linear(scene, (10, 20, -5), (4, -9, 13)), linear(scene, (0, 5, 0), (1, 2, 3))
    inner.SetAndObserveTransformNodeID(outer.GetID())
    volume.SetAndObserveTransformNodeID(inner.GetID())
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = turned(10, 20, -5), (4, -9, 13)
    first = np.eye(4)
    first[:3, :3], first[:3, 3] = turned(0, 5, 0), (1, 2, 3)
    assert np.allclose(bridge.geometryOf(volume).affine, world @ first @ affine)


def test_the_geometry_is_the_volumes_own_under_a_warp_or_a_shear(scene):
    volume = addVolume(scene, np.zeros(SHAPE, np.uint8), AFFINE)
    volume.SetAndObserveTransformNodeID(warpGrid(scene).GetID())
    assert np.allclose(bridge.geometryOf(volume).affine, AFFINE)
    shear = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    shear.SetMatrixTransformToParent(matrixOf([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    volume.SetAndObserveTransformNodeID(shear.GetID())
    assert np.allclose(bridge.geometryOf(volume).affine, AFFINE)


def test_a_sheared_volume_is_refused(scene):
    volume = addVolume(scene, np.zeros(SHAPE, np.uint8), affineOf([[1, 0, 0.2], [0, 1, 0], [0, 0, 1]]), "Kippung")
    with pytest.raises(InputError, match="'Kippung' are not perpendicular"):
        bridge.geometryOf(volume)


def test_the_segment_named_first_has_the_voxels_that_several_share(scene):
    volume = addVolume(scene, np.zeros(SHAPE, np.uint8), AFFINE)
    segmentation = addSegmentation(scene, volume, segments="ABC")
    drawn = {"A": np.s_[:, 2:9], "B": np.s_[:, 12:20], "C": np.s_[5:12, 5:15]}
    for segment, where in drawn.items():
        mask = np.zeros(SHAPE, bool)
        mask[where] = True
        draw(scene, segmentation, segment, mask, AFFINE)
    for order in ("ABC", "CAB", "BCA", "ACB"):
        expected = np.zeros(SHAPE, np.uint8)
        for segment in reversed(order):
            expected[drawn[segment]] = ord(segment)
        found = exhausted(bridge.labelsOnGrid(segmentation, {segment: ord(segment) for segment in order}, volume))
        assert np.array_equal(found, expected)
        assert found.dtype == np.uint8
    for axis, indices in enumerate(((4, 2), (3,), (9, 0, 8))):
        part = exhausted(
            bridge.labelsOnSlices(segmentation, {segment: ord(segment) for segment in "ACB"}, volume, axis, indices)
        )
        assert np.array_equal(part, expected.take(indices, axis))
    with pytest.raises(InputError, match=r"Slice 99 of the volume 'CT' was asked for, but it has \d+ slices"):
        exhausted(bridge.labelsOnSlices(segmentation, {"A": 1}, volume, 0, (3, 99)))


@pytest.mark.parametrize("kind", [vtk.VTK_UNSIGNED_CHAR, vtk.VTK_SHORT, vtk.VTK_FLOAT, vtk.VTK_INT])
def test_labelmaps_of_any_number_type_are_read(scene, kind):
    volume = addVolume(scene, np.zeros(SHAPE, np.uint8), AFFINE)
    segmentation = addSegmentation(scene, volume)
    image, cast = oriented(ball(), AFFINE), vtk.vtkImageCast()
    cast.SetInputData(image)
    cast.SetOutputScalarType(kind)
    cast.Update()
    image.GetPointData().SetScalars(cast.GetOutput().GetPointData().GetScalars())
    segment = segmentation.AddSegmentFromBinaryLabelmapRepresentation(image, "A")
    assert np.array_equal(exhausted(bridge.labelsOnGrid(segmentation, {segment: 9}, volume)), 9 * ball())


def test_nothing_is_read_from_nothing(scene):
    volume = addVolume(scene, np.zeros(SHAPE, np.uint8), AFFINE)
    assert not exhausted(bridge.labelsOnGrid(addSegmentation(scene), {}, volume)).any()
    assert not exhausted(bridge.labelsOnGrid(addSegmentation(scene, segments="A"), {"A": 1}, volume)).any()


@pytest.mark.parametrize("where", ["nowhere", "moved", "warped"])
def test_a_segment_that_is_only_a_surface_is_read_and_stays_one(scene, where):
    volume = addVolume(scene, np.zeros(SHAPE, np.uint8), AFFINE)
    sphere = vtk.vtkSphereSource()
    radius, centre = 6.0, np.array((10.0, 12.0, 9.0))
    middle = AFFINE[:3, :3] @ centre + AFFINE[:3, 3]
    sphere.SetCenter(*middle)
    sphere.SetRadius(radius)
    sphere.SetThetaResolution(60)
    sphere.SetPhiResolution(60)
    sphere.Update()
    segmentation = addSegmentation(scene)
    segmentation.GetSegmentation().SetSourceRepresentationName("Closed surface")
    segment = segmentation.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "Kugel")
    transform = somewhere(scene, where)
    put(volume, transform)
    put(segmentation, transform)
    found = exhausted(bridge.labelsOnGrid(segmentation, {segment: 3}, volume))
    kji = np.argwhere(np.ones(SHAPE))
    distance = np.linalg.norm(kji[:, ::-1] @ AFFINE[:3, :3].T + AFFINE[:3, 3] - middle, axis=1).reshape(SHAPE)
    assert (found[distance < radius - 0.1] == 3).all()
    assert not found[distance > radius + 0.1].any()
    assert not segmentation.GetSegmentation().ContainsRepresentation("Binary labelmap")


def test_a_single_slice_is_a_volume_too(scene):
    volume = addVolume(scene, np.zeros((1, 30, 40), np.uint8), AFFINE)
    segmentation = bridge.ensureSegmentation(scene, volume, "Fläche")
    segment = bridge.ensureSegment(segmentation, "Läsion")
    mask = np.zeros((1, 30, 40), bool)
    mask[0, 5:12, 8:30] = True
    writer = bridge.SegmentWriter(scene, slicer.vtkMRMLSegmentEditorNode())
    exhausted(writer.write(volume, segmentation, mask[:, 5:12, 8:30], (0, 5, 8), {1: segment}))
    assert np.array_equal(exhausted(bridge.labelsOnGrid(segmentation, {segment: 1}, volume)) == 1, mask)


def test_a_colour_volume_can_be_segmented(scene):
    volume = addVolume(scene, np.zeros((*SHAPE, 3), np.uint8), AFFINE)
    volume.GetImageData().GetPointData().GetScalars().Fill(10)
    segmentation = bridge.ensureSegmentation(scene, volume, "Kerne")
    segment = bridge.ensureSegment(segmentation, "Kern")
    editor = slicer.vtkMRMLSegmentEditorNode()
    editor.SourceVolumeIntensityMaskOn()
    editor.SetSourceVolumeIntensityMaskRange(0, 20)
    exhausted(bridge.SegmentWriter(scene, editor).write(volume, segmentation, ball(), (0, 0, 0), {1: segment}))
    assert np.array_equal(exhausted(bridge.labelsOnGrid(segmentation, {segment: 1}, volume)) == 1, ball())


@pytest.mark.parametrize("values", [{"A": 0}, {"A": 70000}])
def test_values_that_are_no_labels_are_refused(scene, values):
    volume = addVolume(scene, np.zeros(SHAPE, np.uint8))
    with pytest.raises(InputError, match="become labels from 1 to 65535"):
        exhausted(bridge.labelsOnGrid(addSegmentation(scene, segments="A"), values, volume))


def test_a_missing_segment_is_said(scene):
    volume = addVolume(scene, np.zeros(SHAPE, np.uint8))
    with pytest.raises(InputError, match="'Leber' has no segment 'Z'"):
        exhausted(bridge.labelsOnGrid(addSegmentation(scene, name="Leber", segments="A"), {"Z": 1}, volume))


def test_a_segmentation_is_made_once_for_a_volume_under_its_transform(scene):
    volume = addVolume(scene, np.zeros(SHAPE, np.uint8), AFFINE)
    volume.SetAndObserveTransformNodeID(linear(scene, (10, 0, 0), (5, 5, 5)).GetID())
    made = bridge.ensureSegmentation(scene, volume, "Ergebnis")
    assert made.GetTransformNodeID() == volume.GetTransformNodeID()
    assert bridge.ensureSegmentation(scene, volume, "Ergebnis") is made
    other = addVolume(scene, np.zeros(SHAPE, np.uint8), AFFINE)
    assert bridge.ensureSegmentation(scene, other, "Ergebnis") is not made
    segment = bridge.ensureSegment(made, "A")
    writer = bridge.SegmentWriter(scene, slicer.vtkMRMLSegmentEditorNode())
    exhausted(writer.write(volume, made, ball(), (0, 0, 0), {1: segment}))
    assert np.array_equal(exhausted(bridge.labelsOnGrid(made, {segment: 1}, volume)) == 1, ball())


def test_a_segment_is_made_once_and_looks_as_asked(scene):
    segmentation = addSegmentation(scene)
    first = bridge.ensureSegment(segmentation, "Größe", (0.1, 0.5, 0.9), "Category~Type")
    assert bridge.ensureSegment(segmentation, "Größe") == first
    assert bridge.segmentNames(segmentation) == {first: "Größe"}
    assert segmentation.GetSegmentation().GetSegment(first).GetColor() == pytest.approx((0.1, 0.5, 0.9))
    assert bridge.terminologyOf(segmentation, first) == "Category~Type"
    target = addSegmentation(scene, name="Ziel", segments=("a", "b"))
    target.GetSegmentation().GetSegment("a").RemoveTag(slicer.vtkSegment.GetTerminologyEntryTagName())
    assert bridge.terminologyOf(target, "a") == ""
    bridge.copySegmentLook(segmentation, first, target, "a")
    bridge.copySegmentLook(segmentation, first, target, "b", name="anders")
    assert bridge.segmentNames(target) == {"a": "Größe", "b": "anders"}
    for segment in "ab":
        assert target.GetSegmentation().GetSegment(segment).GetColor() == pytest.approx((0.1, 0.5, 0.9))
        assert bridge.terminologyOf(target, segment) == "Category~Type"
