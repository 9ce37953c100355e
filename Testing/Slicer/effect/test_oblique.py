"""The effect in views that are turned against the slices of the volume: what they show is a plane through it."""

from itertools import pairwise

import numpy as np
import pytest
import slicer
from scipy.ndimage import binary_erosion

from InContextSegSlicer.effect import correction
from InContextSegSlicer.effect.prompting import worldOf
from InContextSegSlicer.scene.plane import KEPT, LARGEST
from Testing.Slicer.corrector import Corrector
from Testing.Slicer.effect.test_effect import SHAPE, volumeOf
from Testing.Slicer.harness import app
from Testing.Slicer.patients import (
    GEOMETRIES,
    addSegmentation,
    addVolume,
    affineOf,
    affineOfVolume,
    fromWorld,
    linear,
    put,
    toWorld,
    turned,
    voxels,
)

MIDDLE = (10, 13, 16)
ANGLES = {"tilted": (37, 0, 0), "askew": (-28, 33, 12), "diagonal": (45, 0, 0)}


@pytest.fixture
def corrector(scene, monkeypatch):
    return Corrector(monkeypatch, *volumeOf(scene, "oblique"))


def turn(corrector, degrees=ANGLES["askew"], voxel=MIDDLE, name="Red", aside=0.0):
    """Let a view show the plane through a voxel that is turned by these degrees from axial, so far aside of it."""
    widget = corrector.views[name]
    node = widget.mrmlSliceNode()
    node.SetOrientation("Axial")
    widget.showVolume(corrector.volume)
    toRas = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())
    toRas[:3, :3] = turned(*degrees) @ toRas[:3, :3]
    toRas[:3, 3] = worldOf(voxel, corrector.volume) + aside * toRas[:3, 2]
    node.GetSliceToRAS().DeepCopy(toRas.ravel())
    node.UpdateMatrices()
    return widget


def scroll(widget, millimetres):
    node = widget.mrmlSliceNode()
    node.SetSliceOffset(node.GetSliceOffset() + millimetres)


def asked(corrector):
    """The affine of what the worker was shown last, and its pixels (rows, columns)."""
    request = corrector.worker.corrected[-1]
    return np.array(request["target"]["affine"]), corrector.worker._folder.read(request["target"]["name"])[0]


def centres(corrector):
    """(k, j, i, 3) where the centres of all voxels lie in the world, by an evaluation of its own."""
    ijk = np.moveaxis(np.indices(SHAPE), 0, -1).reshape(-1, 3)[:, ::-1]
    return toWorld(corrector.volume, affineOfVolume(corrector.volume), ijk).reshape(*SHAPE, 3)


def answered(corrector):
    """(rows, columns) what the answer says at the threshold."""
    return corrector.correction.answer.probability[0] >= 127.5


def expected(corrector, mask):
    """(k, j, i): the voxels that the plane passes through and whose nearest pixel is in a mask; no warp."""
    affine, _ = asked(corrector)
    world = centres(corrector)
    edges = [world[1, 0, 0] - world[0, 0, 0], world[0, 1, 0] - world[0, 0, 0], world[0, 0, 1] - world[0, 0, 0]]
    normal = affine[:3, 2] / np.linalg.norm(affine[:3, 2])
    above = (world - affine[:3, 3]) @ normal
    pixels = np.rint((world - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T)[..., 1::-1].astype(int)
    there = ((pixels >= 0) & (pixels < mask.shape)).all(axis=-1)
    found = mask[tuple(np.moveaxis(np.clip(pixels, 0, np.array(mask.shape) - 1), -1, 0))]
    return found & there & (np.abs(above) < sum(abs(edge @ normal) for edge in edges) / 2 - 1e-6)


def pixelsOf(corrector, mask):
    """(n, 3) where the pixels of a mask lie in the world."""
    affine, _ = asked(corrector)
    rows, columns = np.nonzero(mask)
    return np.stack([columns, rows, 0 * rows, 1 + 0 * rows], axis=1) @ affine.T[:, :3]


def voxelsAt(corrector, positions):
    from InContextSegSlicer.effect.prompting import indexOf

    return np.rint([indexOf(each, corrector.volume) for each in positions]).astype(int)


def cells(corrector, name):
    """How much is drawn over a view."""
    view = corrector.effect._views.get(corrector.views[name])
    return view._mapper.GetInput().GetNumberOfCells() if view is not None else 0


@pytest.mark.parametrize("degrees", ANGLES.values(), ids=ANGLES)
@pytest.mark.parametrize("where", ["here", "moved"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_click_is_prompted_where_it_was_and_its_mask_is_written_where_it_is_shown(
    scene, monkeypatch, geometry, where, degrees
):
    corrector = Corrector(monkeypatch, *volumeOf(scene, geometry, where))
    turn(corrector, degrees)
    corrector.click(MIDDLE)
    corrector.settle()
    affine, picture = asked(corrector)
    (point, positive) = corrector.worker.corrected[-1]["prompts"]["points"][0]
    assert positive and np.linalg.norm(np.subtract(point, worldOf(MIDDLE, corrector.volume))) < 0.5
    assert abs((np.linalg.inv(affine) @ [*point, 1])[2]) < 1e-3
    _assertShows(corrector, affine, picture)
    wanted = expected(corrector, answered(corrector))
    assert wanted[MIDDLE] and corrector.shown()[MIDDLE]
    corrector.applied()
    np.testing.assert_array_equal(corrector.drawn(), wanted)
    assert not corrector.shown().any()
    assert "does not teach" in corrector.options.status.text
    assert corrector.correction.context.examples.rows() == ()


def _assertShows(corrector, affine, picture):
    """The picture that the worker gets is the volume at these places, between voxels linearly."""
    from scipy.ndimage import map_coordinates

    from InContextSegSlicer.effect.prompting import indexOf

    values = slicer.util.arrayFromVolume(corrector.volume)
    rows, columns = np.array(picture.shape) // 2
    for row, column in [(rows, columns), (rows - 4, columns + 3), (rows + 5, columns - 2)]:
        index = indexOf((affine @ [column, row, 0, 1])[:3], corrector.volume)
        if (index > 0).all() and (index < np.array(values.shape) - 1).all():
            wanted = map_coordinates(values.astype(float), index[:, None], order=1)[0]
            assert abs(picture[row, column] - wanted) < 2


@pytest.mark.parametrize("geometry", ["oblique", "left-handed"])
def test_under_a_warp_every_pixel_shown_lies_in_a_voxel_that_is_written(scene, monkeypatch, geometry):
    corrector = Corrector(monkeypatch, *volumeOf(scene, geometry, "warped"))
    turn(corrector)
    corrector.click(MIDDLE)
    corrector.settle()
    mask = answered(corrector)
    inner = voxelsAt(corrector, pixelsOf(corrector, binary_erosion(mask, iterations=2)))
    outer = voxelsAt(corrector, pixelsOf(corrector, mask))
    corrector.applied()
    drawn = corrector.drawn()
    assert len(inner) > 10 and drawn[tuple(inner.T)].all()
    affine, _ = asked(corrector)
    normal = affine[:3, 2] / np.linalg.norm(affine[:3, 2])
    above = np.abs((centres(corrector)[drawn] - affine[:3, 3]) @ normal)
    assert above.max() < 1.3 * np.sqrt(3) / 2, "nothing is written that lies aside of the plane by more than a voxel"
    assert drawn.sum() < 3 * len(np.unique(outer, axis=0))


@pytest.mark.parametrize("where", ["here", "moved"])
def test_what_was_applied_is_shown_without_holes_by_the_same_view(scene, monkeypatch, where):
    corrector = Corrector(monkeypatch, *volumeOf(scene, "anisotropic", where))
    turn(corrector)
    corrector.options.tools["box"].click()
    corners = [worldOf(MIDDLE, corrector.volume) + shift for shift in _inPlane(corrector, (-6, -6), (6, 6))]
    corrector.views["Red"].drag(*(corrector.views["Red"].xyOfRas(corner) for corner in corners))
    corrector.settle()
    inner = pixelsOf(corrector, binary_erosion(answered(corrector), iterations=4))
    corrector.segmentation.GetSegmentation().GetSegment("organ").SetColor(1, 0, 0)
    corrector.applied()
    assert len(inner) > 20 and corrector.drawn()[tuple(voxelsAt(corrector, inner).T)].all()
    rows, columns = np.rint([corrector.views["Red"].xyOfRas(each)[::-1] for each in inner]).astype(int).T
    coloured = np.ptp(corrector.views["Red"].image().astype(int), axis=-1) > 30
    window = coloured[::-1][rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert window.size > 900 and window.all()


def _inPlane(corrector, *shifts):
    toRas = slicer.util.arrayFromVTKMatrix(corrector.views["Red"].mrmlSliceNode().GetSliceToRAS())
    return [across * toRas[:3, 0] + up * toRas[:3, 1] for across, up in shifts]


def test_a_box_lies_as_it_was_dragged_and_a_scribble_leaves_no_gap(corrector):
    widget = turn(corrector)
    corrector.options.tools["box"].click()
    corners = [worldOf(MIDDLE, corrector.volume) + shift for shift in _inPlane(corrector, (-5, -3), (4, 6))]
    widget.drag(*(widget.xyOfRas(corner) for corner in corners))
    corrector.settle()
    affine, _ = asked(corrector)
    box = answered(corrector)
    ends = [(np.linalg.inv(affine) @ [*corner, 1])[1::-1] for corner in corners]
    low, high = np.argwhere(box).min(axis=0), np.argwhere(box).max(axis=0)
    np.testing.assert_allclose([low, high], np.sort(ends, axis=0), atol=1)
    assert box[low[0] : high[0] + 1, low[1] : high[1] + 1].all()
    widget.key("Escape")
    corrector.options.tools["scribble"].click()
    line = [worldOf(MIDDLE, corrector.volume) + shift for shift in _inPlane(corrector, (-6, 0), (0, 1), (6, 0))]
    widget.drag(*(widget.xyOfRas(each) for each in line))
    corrector.settle()
    drawn = answered(corrector)
    columns = np.flatnonzero(drawn.any(axis=0))
    assert len(columns) > 8 and (np.diff(columns) == 1).all() and drawn.sum() < 2.5 * len(columns)


def test_every_apply_is_one_state_of_undo_voxel_by_voxel(corrector):
    states = [corrector.drawn()]
    for aside in (0, 4, 0):
        widget = turn(corrector, aside=aside)
        widget.click(256 + 20 * len(states), 256)
        corrector.applied()
        states.append(corrector.drawn())
    assert all((after & ~before).any() for before, after in pairwise(states))
    for state in reversed(states[:-1]):
        corrector.editor.undo()
        np.testing.assert_array_equal(corrector.drawn(), state)
    for state in states[1:]:
        corrector.editor.redo()
        np.testing.assert_array_equal(corrector.drawn(), state)


@pytest.mark.parametrize("mode", ["OverwriteNone", "OverwriteAllSegments"])
def test_a_neighbour_keeps_its_voxels_unless_it_may_be_overwritten(corrector, mode):
    corrector.node.SetOverwriteMode(getattr(corrector.node, mode))
    corrector.choose("neighbour")
    corrector.look("Red", 10)
    corrector.click(MIDDLE)
    corrector.applied()
    neighbour = corrector.drawn("neighbour")
    corrector.choose("organ")
    turn(corrector)
    corrector.click(MIDDLE)
    corrector.settle()
    wanted = expected(corrector, answered(corrector))
    corrector.applied()
    np.testing.assert_array_equal(corrector.drawn("organ"), wanted)
    assert (neighbour & wanted).any()
    left = neighbour if mode == "OverwriteNone" else neighbour & ~wanted
    np.testing.assert_array_equal(corrector.drawn("neighbour"), left)


def test_the_editable_range_of_intensities_holds(corrector):
    corrector.node.SourceVolumeIntensityMaskOn()
    corrector.node.SetSourceVolumeIntensityMaskRange(100, 300)
    turn(corrector)
    corrector.click(MIDDLE)
    corrector.settle()
    values = slicer.util.arrayFromVolume(corrector.volume)
    wanted = expected(corrector, answered(corrector)) & (values >= 100) & (values <= 300)
    corrector.applied()
    assert wanted.any()
    np.testing.assert_array_equal(corrector.drawn(), wanted)


def test_what_the_segment_has_on_the_plane_is_replaced_and_nothing_beside_it(corrector):
    corrector.look("Red", 10)
    corrector.click((10, 8, 10))
    corrector.applied()
    widget = turn(corrector)
    widget.click(230, 256)
    corrector.applied()
    before = corrector.drawn()
    corrector.options.replace.click()
    widget.click(300, 256)
    corrector.settle()
    mask = answered(corrector)
    wanted, plane = expected(corrector, mask), expected(corrector, np.ones_like(mask))
    corrector.applied()
    assert (before & plane).any() and (before & ~plane).any()
    np.testing.assert_array_equal(corrector.drawn(), (before & ~plane) | wanted)


def test_a_segmentation_under_another_transform_gets_the_voxels_at_the_same_place(scene, monkeypatch):
    volume, segmentation = volumeOf(scene, "left-handed", "moved")
    put(segmentation, None)
    corrector = Corrector(monkeypatch, volume, segmentation)
    turn(corrector)
    corrector.click(MIDDLE)
    corrector.settle()
    inner = pixelsOf(corrector, binary_erosion(answered(corrector), iterations=2))
    corrector.applied()
    ijk, affine = voxels(segmentation, "organ")
    nearest = np.rint(fromWorld(segmentation, affine, inner)).astype(int)
    assert len(inner) and {tuple(each) for each in nearest.tolist()} <= {tuple(each) for each in ijk.tolist()}


def test_scrolling_away_and_back_finds_the_marks_again_and_other_planes_show_none(corrector):
    widget = turn(corrector)
    turn(corrector, name="Yellow")
    corrector.click(MIDDLE)
    corrector.settle()
    shown, count = corrector.shown(), len(corrector.worker.corrected)
    assert shown.any() and cells(corrector, "Red")
    scroll(widget, 3)
    assert not corrector.correction.marks and not corrector.shown().any() and not cells(corrector, "Red")
    scroll(widget, -2.7)
    corrector.settle()
    assert len(corrector.correction.marks) == 1 and cells(corrector, "Red")
    np.testing.assert_array_equal(corrector.shown(), shown)
    assert len(corrector.worker.corrected) == count, "the answer was still there"
    corrector.views["Yellow"].click(*corrector.pixel((10, 13, 19), "Yellow"))
    assert len(corrector.correction.marks) == 2, "another view of the same plane works on it, too"
    assert cells(corrector, "Red") and cells(corrector, "Red") == cells(corrector, "Yellow")
    turn(corrector, (37, 0, 0), name="Yellow")
    assert not cells(corrector, "Yellow")


def test_marks_outlive_a_long_way_and_only_a_few_cuts_are_kept(corrector, monkeypatch):
    monkeypatch.setattr(correction, "PLACES_KEPT", 8)
    turn(corrector)
    corrector.click(MIDDLE)
    corrector.settle()
    places = set()
    for number in range(8 + 5):
        turn(corrector, (2 * number, 5, 0))
        places.add(corrector.correction.place)
    assert len(places) == 8 + 5 and len(corrector.correction._sessions) == 8
    for aside in (2, 4, 6, -2, -4):
        turn(corrector, aside=aside).click(256, 256)
        corrector.settle()
    cuts = corrector.correction.cuts._kept
    assert len(cuts) == KEPT
    turn(corrector)
    corrector.settle()
    assert len(corrector.correction.marks) == 1 and corrector.shown()[MIDDLE], "it was cut and asked for again"
    folder = {path.name for path in corrector.correction.client.folder.glob("*.npy")}
    answers = [a.logits for s in corrector.correction._sessions.values() for a in s.answers.values()]
    assert folder == {cut.array for cut in cuts.values()} | set(answers)


def test_where_the_volume_is_moved_or_changed_the_plane_is_cut_and_asked_for_anew(corrector, scene):
    turn(corrector)
    corrector.click(MIDDLE)
    corrector.settle()
    _, before = asked(corrector)
    transform = linear(scene, (0, 0, 0), (3, 2, 1))
    put(corrector.volume, transform)
    put(corrector.segmentation, transform)
    app.pump(5, until=lambda: len(corrector.worker.corrected) == 2)
    corrector.settle()
    _, moved = asked(corrector)
    assert not np.array_equal(before, moved)
    assert corrector.worker.corrected[-1]["previous"] is None
    wanted = expected(corrector, answered(corrector))
    corrector.applied()
    np.testing.assert_array_equal(corrector.drawn(), wanted)
    slicer.util.arrayFromVolume(corrector.volume)[:] = 7
    slicer.util.arrayFromVolumeModified(corrector.volume)
    corrector.click(MIDDLE)
    corrector.settle()
    assert set(np.unique(asked(corrector)[1])) == {7}


def test_examples_of_the_volumes_own_slices_speak_on_a_plane(corrector):
    corrector.look("Red", 10)
    corrector.click(MIDDLE)
    corrector.applied()
    turn(corrector, (20, 0, 0))
    corrector.settle()
    request = corrector.worker.corrected[-1]
    assert request["axis"] == "axial" and not request["prompts"]["points"]
    assert len(request["task"]["examples"]) == 1


def test_a_sheared_volume_is_cut_whatever_the_view(scene, monkeypatch):
    sheared = np.array([[1.0, 0.213, 0], [0, 1.0, 0.087], [0, 0, 1.2]])
    volume = addVolume(scene, np.random.default_rng(0).integers(0, 400, SHAPE).astype(np.int16), affineOf(sheared))
    volume.CreateDefaultDisplayNodes()
    segmentation = addSegmentation(scene, volume, "Drawn", ("organ",))
    corrector = Corrector(monkeypatch, volume, segmentation)
    turn(corrector, (0, 0, 0))
    corrector.click(MIDDLE)
    corrector.settle()
    wanted = expected(corrector, answered(corrector))
    corrector.applied()
    assert wanted[MIDDLE]
    np.testing.assert_array_equal(corrector.drawn(), wanted)


def test_colours_are_cut_as_colours(scene, monkeypatch):
    colours = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3)).astype(np.uint8)
    volume = addVolume(scene, colours, affineOf(GEOMETRIES["oblique"]))
    corrector = Corrector(monkeypatch, volume, addSegmentation(scene, volume, "Drawn", ("organ",)))
    turn(corrector)
    corrector.click(MIDDLE)
    corrector.settle()
    _, picture = asked(corrector)
    assert picture.shape[2] == 3 and not np.array_equal(picture[..., 0], picture[..., 1])
    assert corrector.shown()[MIDDLE]


def test_a_view_beside_the_volume_is_refused_and_so_is_a_click_beside_it(corrector):
    widget = turn(corrector)
    widget.click(3, 3)
    assert corrector.options.status.text == "That is outside of 'CT'; click on the image."
    scroll(widget, 300)
    assert corrector.options.status.text == "This view shows nothing of 'CT'; scroll to it."
    assert corrector.worker is None


def test_a_large_volume_is_cut_no_finer_than_the_largest_cut(scene, monkeypatch):
    volume = addVolume(scene, np.zeros((4, 4, 2 * LARGEST), np.int16), affineOf(np.diag([0.5, 3.0, 3.0])))
    volume.CreateDefaultDisplayNodes()
    corrector = Corrector(monkeypatch, volume, addSegmentation(scene, volume, "Drawn", ("organ",)))
    widget = turn(corrector, (37, 0, 0), (2, 2, LARGEST))
    widget.click(*corrector.pixel((2, 2, LARGEST)))
    corrector.settle()
    affine, picture = asked(corrector)
    assert max(picture.shape) == LARGEST
    np.testing.assert_allclose(np.linalg.norm(affine[:3, 0]), 1.0, rtol=1e-3)


def test_closing_the_scene_leaves_nothing_and_the_effect_goes_on(corrector, scene):
    turn(corrector)
    corrector.click(MIDDLE)
    corrector.settle()
    count = scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    assert count == 1, "what is cut out is not in the scene"
    scene.Clear(0)
    app.pump(0.1)
    assert corrector.correction.place is None and not corrector.correction.cuts._kept
    assert not list(corrector.correction.client.folder.glob("*.npy"))
    corrector.reopen(*volumeOf(scene))
    turn(corrector)
    corrector.click(MIDDLE)
    corrector.settle()
    assert corrector.shown()[MIDDLE]
