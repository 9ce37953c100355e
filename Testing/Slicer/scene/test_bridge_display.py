"""What is shown is where it should be: the uncertainty, pictures of slices, the slice that a view displays."""

import numpy as np
import pytest
import slicer

from InContextSegLib.errors import InputError
from InContextSegLib.progress import exhausted
from InContextSegSlicer.scene import bridge
from Testing.Slicer.patients import (
    GEOMETRIES,
    SHAPE,
    addSegmentation,
    addVolume,
    affineOf,
    affineOfVolume,
    ball,
    draw,
    put,
    somewhere,
    toWorld,
    warpGrid,
)


def sliceAlong(scene, volume, arrayAxis):
    """A view whose plane runs along the volume's slices, through the world's origin."""
    view = scene.AddNewNodeByClass("vtkMRMLSliceNode")
    middle = (np.array(SHAPE[::-1]) - 1) / 2
    corners = np.stack([middle, *(middle + np.eye(3)[axis] for axis in range(3) if axis != 2 - arrayAxis)])
    origin, first, second = toWorld(volume, affineOfVolume(volume), corners)
    normal = np.cross(first - origin, second - origin)
    view.SetSliceToRASByNTP(
        *(normal / np.linalg.norm(normal)), *((first - origin) / np.linalg.norm(first - origin)), 0, 0, 0, 0
    )
    return view


@pytest.mark.parametrize("where", ["nowhere", "moved", "warped"])
@pytest.mark.parametrize("arrayAxis", [0, 1, 2])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_view_shows_the_slice_it_was_sent_to(scene, geometry, arrayAxis, where):
    volume = addVolume(scene, np.zeros(SHAPE, np.int16), affineOf(GEOMETRIES[geometry]))
    put(volume, somewhere(scene, where))
    view = sliceAlong(scene, volume, arrayAxis)
    for index in (0, 7, SHAPE[arrayAxis] - 1):
        assert bridge.jumpTo(view, volume, arrayAxis, index)
        if where == "warped":
            # A plane meets a bent slice in one place: the middle of the volume's own slice.
            assert abs((bridge.displayedIndex(view, volume, arrayAxis) or 0) - index) <= 1
        else:
            assert bridge.displayedIndex(view, volume, arrayAxis) == index
    middle = (np.array(SHAPE[::-1]) - 1) / 2
    middle[2 - arrayAxis] = index
    toRas = view.GetSliceToRAS()
    plane = np.array([[toRas.GetElement(row, column) for column in range(4)] for row in range(3)])
    there = toWorld(volume, affineOfVolume(volume), middle[None])[0]
    assert abs((there - plane[:, 3]) @ plane[:, 2]) < 1e-6


def test_a_view_across_or_outside_shows_none(scene):
    volume = addVolume(scene, np.zeros(SHAPE, np.int16), affineOf(np.eye(3)))
    view = sliceAlong(scene, volume, 0)
    before = view.GetSliceOffset()
    assert not bridge.jumpTo(view, volume, 1, 3)
    assert view.GetSliceOffset() == before
    assert bridge.displayedIndex(view, volume, 1) is None
    bridge.jumpTo(view, volume, 0, 0)
    for beyond, index in ((-0.4, 0), (-0.6, None), (SHAPE[0] - 0.6, SHAPE[0] - 1), (SHAPE[0] - 0.4, None)):
        view.SetSliceOffset(31 + beyond)
        assert bridge.displayedIndex(view, volume, 0) == index


@pytest.mark.parametrize(("degrees", "index"), [(4, 10), (6, None)])
def test_a_view_may_be_turned_a_little(scene, degrees, index):
    volume = addVolume(scene, np.zeros(SHAPE, np.int16), affineOf(np.eye(3), (-15.5, -12.5, -10)))
    view = scene.AddNewNodeByClass("vtkMRMLSliceNode")
    angle = np.radians(degrees)
    view.SetSliceToRASByNTP(0, -np.sin(angle), np.cos(angle), 1, 0, 0, 0, 0, 0, 0)
    assert bridge.displayedIndex(view, volume, 0) == index


def test_an_uncertainty_lies_where_its_block_does(scene):
    volume = addVolume(scene, np.zeros(SHAPE, np.int16), affineOf(GEOMETRIES["oblique"]), "MRT")
    volume.SetAndObserveTransformNodeID(warpGrid(scene).GetID())
    spread = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    shown = exhausted(bridge.showUncertainty(scene, volume, spread, (6, 7, 8)))
    assert np.array_equal(bridge.arrayOf(shown), spread)
    assert shown.GetTransformNodeID() == volume.GetTransformNodeID()
    corner = affineOfVolume(shown) @ (1, 2, 3, 1)
    assert np.allclose(corner, affineOfVolume(volume) @ (9, 9, 9, 1))
    display = shown.GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0, 100)
    assert display.GetApplyThreshold()
    assert 0 < display.GetLowerThreshold() < 50
    assert display.GetColorNode() is not None
    again = exhausted(bridge.showUncertainty(scene, volume, spread.astype(bool), (0, 0, 0), shown))
    assert again is shown
    assert np.array_equal(bridge.arrayOf(shown), spread > 0)


@pytest.mark.parametrize("kind", [bool, np.int64, np.float16, np.float64, np.float32, np.uint16])
def test_an_uncertainty_may_be_of_any_number_type(scene, kind):
    volume = addVolume(scene, np.zeros(SHAPE, np.int16))
    spread = np.arange(60).reshape(3, 4, 5).astype(kind)
    assert np.array_equal(bridge.arrayOf(exhausted(bridge.showUncertainty(scene, volume, spread, (0, 0, 0)))), spread)


@pytest.mark.parametrize("block", [np.zeros((3, 3)), np.zeros((0, 3, 3)), np.zeros((1, 1, 1), complex)])
def test_an_uncertainty_that_is_no_block_of_numbers_is_refused(scene, block):
    volume = addVolume(scene, np.zeros(SHAPE, np.int16))
    with pytest.raises(InputError, match="An uncertainty is a block of numbers"):
        exhausted(bridge.showUncertainty(scene, volume, block, (0, 0, 0)))


def test_an_uncertainty_of_a_volume_that_is_closed_meanwhile_is_not_shown(scene):
    volume = addVolume(scene, np.zeros(SHAPE, np.int16))
    task = bridge.showUncertainty(scene, volume, np.zeros(SHAPE, np.uint8), (0, 0, 0))
    next(task)
    scene.RemoveNode(volume)
    with pytest.raises(InputError, match="The volume was closed"):
        exhausted(task)


STORED = {
    "to left, back, head": np.diag([-1.0, -1.0, 1.0]),
    "to right, front, head": np.diag([1.0, 1.0, 1.0]),
    "to right, back, feet": np.diag([1.0, -1.0, -1.0]),
    "front first": np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]]),
}


def marked(scene, directions):
    """A volume with a bright corner: right, in front, at the bottom; and that corner alone as a segment."""
    affine = affineOf(directions)
    values = np.zeros((8, 10, 12), np.int16)
    corner = tuple(
        slice(0, 3)
        if directions[:, 2 - n].sum() * (-1, -1, 1)[abs(directions[:, 2 - n]).argmax()] > 0
        else slice(-3, None)
        for n in range(3)
    )
    values[corner] = 200
    volume = addVolume(scene, values, affine)
    segmentation = addSegmentation(scene, volume, segments=("A",))
    segmentation.GetSegmentation().GetSegment("A").SetColor(1, 0, 0)
    draw(scene, segmentation, "A", values > 0, affine)
    return volume, segmentation, corner


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("arrayAxis", [0, 1, 2])
def test_a_picture_is_turned_as_one_reads_it(scene, stored, arrayAxis):
    directions = STORED[stored]
    volume, segmentation, corner = marked(scene, directions)
    index = np.arange(volume.GetImageData().GetDimensions()[2 - arrayAxis])[corner[arrayAxis]][1]
    picture = bridge.thumbnail(volume, segmentation, ["A"], arrayAxis, int(index), 24)
    assert picture.dtype == np.uint8
    assert max(picture.shape[:2]) == 24
    red = np.argwhere(picture[..., 0].astype(int) - picture[..., 1] > 50)
    # The corner is right, in front and at the bottom of the patient.
    anatomical = int(abs(directions[:, 2 - arrayAxis]).argmax())
    row, column = red.mean(axis=0) / np.array(picture.shape[:2])
    assert row < 0.5 if anatomical == 2 else row > 0.5
    assert column < 0.5
    grey = bridge.thumbnail(volume, None, [], arrayAxis, int(index), 24)
    assert set(map(tuple, np.argwhere(grey[..., 0] > 100))) == set(map(tuple, red))


def test_a_picture_has_the_volumes_proportions_window_and_colours(scene):
    volume = addVolume(scene, np.full((4, 100, 50), 30, np.int16), affineOf(np.diag([-2.0, -0.5, 1.0])))
    volume.CreateDefaultDisplayNodes()
    volume.GetDisplayNode().AutoWindowLevelOff()
    volume.GetDisplayNode().SetWindowLevelMinMax(0, 60)
    picture = bridge.thumbnail(volume, None, [], 0, 2, 80)
    assert picture.shape == (40, 80, 3)
    assert np.unique(picture).tolist() == [127]
    colour = addVolume(scene, np.tile(np.array((10, 200, 90), np.uint8), (1, 8, 8, 1)))
    assert np.unique(bridge.thumbnail(colour, None, [], 0, 0, 8).reshape(-1, 3), axis=0).tolist() == [[10, 200, 90]]


def test_a_picture_survives_what_is_not_a_number(scene):
    values = np.full((1, 8, 8), np.nan, np.float32)
    assert bridge.thumbnail(addVolume(scene, values), None, [], 0, 0, 8).shape == (8, 8, 3)
    values[0, 0] = 5
    assert bridge.thumbnail(addVolume(scene, values), None, [], 0, 0, 8).shape == (8, 8, 3)


def test_a_picture_of_a_warped_segmentation_shows_it_where_it_is_read(scene):
    volume = addVolume(scene, np.zeros(SHAPE, np.int16), affineOf(np.diag([-1.0, -1.0, 1.0])))
    segmentation = addSegmentation(scene, volume, segments=("A",))
    draw(scene, segmentation, "A", ball(), affineOfVolume(volume))
    segmentation.SetAndObserveTransformNodeID(warpGrid(scene).GetID())
    labels = exhausted(bridge.labelsOnGrid(segmentation, {"A": 1}, volume))[9]
    picture = bridge.thumbnail(volume, segmentation, ["A"], 0, 9, SHAPE[2])
    assert np.array_equal(picture.any(axis=2), labels > 0)


@pytest.mark.parametrize("index", [-1, SHAPE[0]])
def test_a_picture_of_a_slice_that_is_not_there_is_refused(scene, index):
    volume = addVolume(scene, np.zeros(SHAPE, np.int16), name="CT")
    with pytest.raises(InputError, match=f"Slice {index} of the volume 'CT' was asked for"):
        bridge.thumbnail(volume, None, [], 0, index, 64)


def test_volumes_without_an_image_show_nothing(scene):
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Nichts")
    view = scene.AddNewNodeByClass("vtkMRMLSliceNode")
    with pytest.raises(InputError, match="holds no image"):
        bridge.displayedIndex(view, volume, 0)
    assert slicer.mrmlScene is scene
