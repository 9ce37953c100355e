"""Marks, their history, and which slice a view shows."""

import numpy as np
import pytest
import slicer

from InContextSegLib.errors import InputError
from InContextSegSlicer.effect.prompting import (
    BOX,
    POINT,
    SCRIBBLE,
    History,
    Mark,
    Step,
    indexOf,
    placeIn,
    saidOn,
    sliceIn,
    worldOf,
)
from InContextSegSlicer.scene import bridge
from InContextSegSlicer.scene.plane import Plane
from Testing.Slicer.patients import GEOMETRIES, addVolume, affineOf, put, somewhere, turned

SHAPE = (20, 26, 32)
HERE, THERE = Mark(POINT, ((0.0, 0.0, 0.0),)), Mark(POINT, ((10.0, 0.0, 0.0),), False)


def volumeOf(scene, geometry="oblique", where="here"):
    volume = addVolume(scene, np.zeros(SHAPE, np.int16), affineOf(GEOMETRIES[geometry]))
    put(volume, somewhere(scene, where))
    return volume


@pytest.mark.parametrize("where", ["here", "moved", "warped"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_voxel_of_the_world_is_the_same_voxel_for_the_worker(scene, geometry, where):
    volume = volumeOf(scene, geometry, where)
    voxel = (7, 11, 23)
    world = worldOf(voxel, volume)
    np.testing.assert_allclose(indexOf(world, volume), voxel, atol=0.01)
    said = saidOn([Mark(POINT, (world,))], volume, "axial", _alongAxial(volume, voxel))
    np.testing.assert_allclose(bridge.geometryOf(volume).to_index(said.points[0][0]), voxel, atol=0.01)


def _alongAxial(volume, voxel):
    from InContextSegSlicer.scene.grid import arrayAxis

    return voxel[arrayAxis(volume, "axial")]


def test_a_scribble_is_a_line_without_gaps_in_a_tight_crop(scene):
    volume = volumeOf(scene, "anisotropic")
    line = tuple(worldOf(voxel, volume) for voxel in ((5, 3, 4), (5, 9, 16)))
    (strokes,) = saidOn([Mark(SCRIBBLE, line, False)], volume, "axial", 5).scribbles
    assert (strokes.mask.shape, strokes.cornerKji, strokes.positive) == ((1, 7, 13), (5, 3, 4), False)
    assert strokes.mask.any(axis=(0, 1)).all() and strokes.mask.any(axis=(0, 2)).all()


def test_what_reaches_beyond_the_volume_goes_to_its_edge(scene):
    volume = volumeOf(scene, "anisotropic")
    box = Mark(BOX, tuple(worldOf(voxel, volume) for voxel in ((5, -8, 4), (5, 9, 99))))
    (corners,) = saidOn([box], volume, "axial", 5).boxes
    np.testing.assert_allclose(
        bridge.geometryOf(volume).to_index(np.array(corners)), [(5, 0, 4), (5, 9, 31)], atol=1e-6
    )


def test_a_mark_that_is_taken_away_begins_anew_and_one_more_goes_on():
    first = Step().adding(HERE)
    second = first.adding(THERE)
    assert (second.marks, second.follows) == ((HERE, THERE), first)
    assert (second.without(0).marks, second.without(0).follows) == ((THERE,), None)
    assert second.moving(1, (0, 5, 0)).marks[1].positions == ((10.0, 5.0, 0.0),)
    assert second.nearest((9, 0, 0)) == 1
    assert second.nearest((5, 40, 0), within=10) is None and Step().nearest((0, 0, 0)) is None


def test_undo_goes_back_and_a_new_step_forgets_what_was_taken_back():
    history = History()
    for mark in (HERE, THERE):
        history.add(history.now.adding(mark))
    history.undo()
    assert history.now.marks == (HERE,) and history.canRedo
    history.redo()
    assert history.now.marks == (HERE, THERE) and not history.canRedo
    history.undo()
    history.undo()
    history.undo()
    assert not history.canUndo
    history.add(history.now.adding(THERE))
    assert history.now.marks == (THERE,) and not history.canRedo


def test_a_view_beside_the_volume_and_a_position_beside_it_are_refused(scene, sliceView):
    volume = volumeOf(scene, "anisotropic")
    widget = sliceView()
    widget.showVolume(volume)
    node = widget.mrmlSliceNode()
    axis, index = sliceIn(node, volume)
    assert axis == "axial"
    with pytest.raises(InputError, match="outside of 'CT'; click on the image"):
        placeIn(node, volume, position=worldOf((index, 12, 40), volume))
    node.SetSliceOffset(500)
    assert sliceIn(node, volume) is None
    with pytest.raises(InputError, match="shows nothing of 'CT'; scroll to it"):
        placeIn(node, volume)


@pytest.mark.parametrize(("degrees", "slices"), [(0.5, True), (3, False), (40, False)])
def test_a_view_turned_by_less_than_one_sees_shows_a_slice_and_else_a_plane(scene, sliceView, degrees, slices):
    volume = volumeOf(scene, "left-handed")
    widget = sliceView()
    widget.showVolume(volume)
    node = widget.mrmlSliceNode()
    toRas = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())
    toRas[:3, :3] = turned(degrees, degrees / 2, 0) @ toRas[:3, :3]
    toRas[:3, 3] = worldOf((10, 13, 16), volume)
    node.GetSliceToRAS().DeepCopy(toRas.ravel())
    node.UpdateMatrices()
    assert sliceIn(node, volume) == (("axial", 10) if slices else None)
    place = placeIn(node, volume)
    assert (place.plane is None) is slices and place.axis == "axial"


def test_planes_are_the_same_until_they_are_half_a_voxel_apart_anywhere_in_the_volume():
    plane = planeOf((0, 0, 0))
    assert plane.isNear(planeOf((0, 0, 0.4))) and not plane.isNear(planeOf((0, 0, 0.6)))
    assert plane.isNear(planeOf((5, -3, 0), turned(0, 0, 80))), "turned within itself"
    assert plane.isNear(planeOf((0, 0, 0), turned(180, 0, 0))), "seen from behind"
    assert plane.isNear(planeOf((0, 0, 0), turned(0.2, 0, 0))) and not plane.isNear(
        planeOf((0, 0, 0), turned(0.4, 0, 0))
    )


def planeOf(origin, turn=None):
    directions = np.eye(3) if turn is None else turn
    return Plane(origin, tuple(directions[:, 0]), tuple(directions[:, 1]), 1.0, 100.0)
