"""The effect of the Segment Editor, driven by the mouse in real slice views of volumes that lie at all angles."""

import sys
import weakref
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import slicer

from InContextSegLib.models import catalog
from InContextSegSlicer.effect.prompting import indexOf
from InContextSegSlicer.panel.parameters import InContextSegParameterNode, parameterNode
from Testing.Slicer.corrector import Corrector
from Testing.Slicer.harness import app
from Testing.Slicer.patients import GEOMETRIES, addSegmentation, addVolume, affineOf, put, somewhere

SHAPE = (20, 26, 32)
VIEWS = {"axial": "Red", "sagittal": "Yellow", "coronal": "Green"}


def volumeOf(scene, geometry="anisotropic", where="here", shape=SHAPE):
    values = np.random.default_rng(0).integers(0, 400, shape).astype(np.int16)
    volume = addVolume(scene, values, affineOf(GEOMETRIES[geometry]))
    volume.CreateDefaultDisplayNodes()
    transform = somewhere(scene, where)
    put(volume, transform)
    segmentation = addSegmentation(scene, None, "Drawn", ("organ", "neighbour"))
    put(segmentation, transform)
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    return volume, segmentation


@pytest.fixture
def corrector(scene, monkeypatch):
    return Corrector(monkeypatch, *volumeOf(scene))


def test_slicer_loads_the_effect_without_harm_to_the_package(corrector):
    assert hasattr(sys.modules["InContextSegSlicer"], "__path__")
    assert sys.modules["SegmentEditorInContextSegLib"].SegmentEditorEffect is type(corrector.effect)


def test_an_effect_that_went_is_held_by_nothing_and_holds_no_views(scene, monkeypatch):
    corrector = Corrector(monkeypatch, *volumeOf(scene))
    corrector.look("Red", 8)
    corrector.click((8, 12, 12))
    corrector.settle()
    gone = [weakref.ref(each) for each in (corrector.effect, corrector.editor, corrector.views["Red"])]
    del corrector
    app.clean()
    app.let_go()
    assert [each() for each in gone] == [None, None, None]


@pytest.mark.parametrize("axis", VIEWS)
@pytest.mark.parametrize("where", ["here", "moved"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_clicked_voxel_is_the_prompted_voxel_and_the_mask_lies_under_it(scene, monkeypatch, geometry, where, axis):
    corrector = Corrector(monkeypatch, *volumeOf(scene, geometry, where))
    voxel = (11, 9, 20)
    along = corrector.along(axis)
    corrector.look(VIEWS[axis], voxel[along], axis)
    corrector.click(voxel, VIEWS[axis])
    corrector.settle()
    (asked,) = corrector.worker.corrected
    assert (asked["axis"], asked["index"]) == (axis, voxel[along])
    shown = corrector.shown()
    assert shown[voxel]
    assert set(np.unique(np.argwhere(shown)[:, along])) == {voxel[along]}
    np.testing.assert_allclose(np.argwhere(shown).mean(axis=0), voxel, atol=0.35)
    corrector.views["Red"].key("Return")
    np.testing.assert_array_equal(corrector.drawn(), shown)
    assert not corrector.shown().any()


@pytest.mark.parametrize("index", [(10, 13, 16), (4, 20, 9)])
def test_under_a_warp_the_clicked_voxel_is_prompted_too(scene, monkeypatch, index):
    corrector = Corrector(monkeypatch, *volumeOf(scene, "left-handed", "warped"))
    corrector.look("Red", index[0])
    x, y = corrector.pixel(index)
    corrector.views["Red"].click(x, y)
    corrector.settle()
    assert corrector.correction.place.plane is not None, "no slice is bent like this view"
    clicked = np.rint(indexOf(corrector.correction.marks[0].positions[0], corrector.volume)).astype(int)
    shown = corrector.shown()
    assert tuple(clicked[1:]) == index[1:] and shown[tuple(clicked)]


def test_a_click_with_ctrl_or_shift_and_the_other_polarity_say_that_it_is_not_here(corrector):
    corrector.look("Red", 8)
    corrector.click((8, 12, 12))
    corrector.settle()
    before = corrector.shown()
    corrector.click((8, 12, 15), control=True)
    corrector.click((8, 15, 12), shift=True)
    corrector.options.polarity["negative"].click()
    corrector.click((8, 9, 12))
    corrector.settle()
    points = corrector.worker.corrected[-1]["prompts"]["points"]
    assert [positive for _position, positive in points] == [True, False, False, False]
    assert corrector.shown().sum() < before.sum()


def test_an_answer_is_handed_back_with_the_next_mark_and_not_after_one_was_taken_away(corrector):
    corrector.look("Red", 8)
    for column in (8, 14, 20):
        corrector.click((8, 12, column))
        corrector.settle()
    previous = [each["previous"] for each in corrector.worker.corrected]
    assert previous[0] is None and None not in previous[1:] and previous[1] != previous[2]
    corrector.views["Red"].mouse("MouseMoveEvent", *corrector.pixel((8, 12, 15)))
    corrector.views["Red"].key("Delete")
    corrector.settle()
    assert corrector.worker.corrected[-1]["previous"] is None
    assert len(corrector.worker.corrected[-1]["prompts"]["points"]) == 2


def test_marks_are_taken_back_and_brought_again_without_asking(corrector):
    corrector.look("Red", 8)
    shown = []
    for column in (8, 20):
        corrector.click((8, 12, column))
        corrector.settle()
        shown.append(corrector.shown())
    asked = len(corrector.worker.corrected)
    corrector.options.buttons["undo"].click()
    np.testing.assert_array_equal(corrector.shown(), shown[0])
    corrector.options.buttons["redo"].click()
    np.testing.assert_array_equal(corrector.shown(), shown[1])
    corrector.views["Red"].key("Escape")
    assert not corrector.shown().any() and not corrector.correction.marks
    corrector.options.buttons["undo"].click()
    np.testing.assert_array_equal(corrector.shown(), shown[1])
    assert len(corrector.worker.corrected) == asked


def test_a_mark_that_is_dragged_is_moved(corrector):
    corrector.look("Red", 8)
    corrector.click((8, 12, 10))
    corrector.settle()
    corrector.views["Red"].drag(*(corrector.pixel((8, 12, column)) for column in (10, 14, 20)))
    corrector.settle()
    assert len(corrector.correction.marks) == 1
    np.testing.assert_allclose(np.argwhere(corrector.shown()).mean(axis=0), (8, 12, 20), atol=0.35)


@pytest.mark.parametrize(("geometry", "where"), [("oblique", "moved"), ("permuted", "here"), ("left-handed", "here")])
def test_a_box_that_is_dragged_holds_the_voxels_between_its_corners(scene, monkeypatch, geometry, where):
    corrector = Corrector(monkeypatch, *volumeOf(scene, geometry, where))
    along = corrector.along("axial")
    first, last = np.array((9, 10, 12)), np.array((13, 15, 18))
    first[along] = last[along] = 9
    corrector.look("Red", 9)
    corrector.options.tools["box"].click()
    corrector.views["Red"].drag(corrector.pixel(first), corrector.pixel((first + last) / 2), corrector.pixel(last))
    corrector.settle()
    found = np.argwhere(corrector.shown())
    np.testing.assert_allclose(found.min(axis=0), first, atol=1)
    np.testing.assert_allclose(found.max(axis=0), last, atol=1)


def test_a_scribble_is_every_voxel_on_its_way(corrector):
    corrector.look("Red", 8)
    corrector.options.tools["scribble"].click()
    corrector.views["Red"].drag(*(corrector.pixel((8, 12, column)) for column in (6, 9, 20)))
    corrector.settle()
    assert corrector.shown()[8, 12, 6:21].all() and corrector.shown().sum() == 15


def test_the_threshold_moves_the_edge_and_asks_nobody(corrector):
    corrector.look("Red", 8)
    corrector.click((8, 12, 12))
    corrector.settle()
    before, asked = corrector.shown().sum(), len(corrector.worker.corrected)
    corrector.options.threshold.value = 0.9
    assert 0 < corrector.shown().sum() < before
    assert len(corrector.worker.corrected) == asked


def test_every_apply_is_one_state_of_undo_voxel_by_voxel(corrector):
    corrector.look("Red", 8)
    states = [corrector.drawn()]
    for column in (8, 14, 20):
        corrector.click((8, 12, column))
        corrector.applied()
        states.append(corrector.drawn())
    assert all((after & ~before).any() for before, after in pairs(states))
    for state in reversed(states[:-1]):
        corrector.editor.undo()
        np.testing.assert_array_equal(corrector.drawn(), state)
    for state in states[1:]:
        corrector.editor.redo()
        np.testing.assert_array_equal(corrector.drawn(), state)


def pairs(values):
    return list(pairwise(values))


@pytest.mark.parametrize("mode", ["OverwriteNone", "OverwriteAllSegments"])
def test_a_neighbour_keeps_its_voxels_unless_it_may_be_overwritten(corrector, mode):
    corrector.node.SetOverwriteMode(getattr(corrector.node, mode))
    corrector.look("Red", 8)
    corrector.choose("neighbour")
    corrector.click((8, 12, 12))
    corrector.applied()
    neighbour = corrector.drawn("neighbour")
    corrector.choose("organ")
    corrector.click((8, 12, 14))
    corrector.settle()
    wanted = corrector.shown()
    corrector.applied()
    np.testing.assert_array_equal(corrector.drawn("organ"), wanted)
    left = neighbour if mode == "OverwriteNone" else neighbour & ~wanted
    np.testing.assert_array_equal(corrector.drawn("neighbour"), left)


def test_the_editable_range_of_intensities_holds(corrector):
    corrector.node.SourceVolumeIntensityMaskOn()
    corrector.node.SetSourceVolumeIntensityMaskRange(100, 300)
    corrector.look("Red", 8)
    corrector.click((8, 12, 12))
    corrector.settle()
    values = slicer.util.arrayFromVolume(corrector.volume)
    wanted = corrector.shown() & (values >= 100) & (values <= 300)
    corrector.applied()
    np.testing.assert_array_equal(corrector.drawn(), wanted)


def test_a_slice_is_added_to_or_replaced_and_other_slices_stay(corrector):
    corrector.look("Red", 8)
    corrector.click((8, 12, 8))
    corrector.applied()
    corrector.look("Red", 9)
    corrector.click((9, 12, 8))
    corrector.applied()
    before = corrector.drawn()
    corrector.click((9, 12, 20))
    corrector.applied()
    assert (corrector.drawn() & before).sum() == before.sum() < corrector.drawn().sum()
    corrector.options.replace.click()
    corrector.click((9, 20, 20))
    corrector.settle()
    shown = corrector.shown()
    corrector.applied()
    np.testing.assert_array_equal(corrector.drawn()[9], shown[9])
    np.testing.assert_array_equal(corrector.drawn()[8], before[8])


def test_an_applied_slice_teaches_can_be_removed_and_goes_when_it_is_taken_back(corrector):
    rows = corrector.correction.context.examples.rows
    corrector.look("Red", 8)
    corrector.click((8, 12, 12))
    corrector.applied()
    (row,) = rows()
    assert (row.volume, row.segmentation, row.slices, row.axis) == (
        corrector.volume,
        corrector.segmentation,
        (8,),
        "axial",
    )
    corrector.look("Red", 10)
    corrector.settle()
    assert corrector.worker.corrected[-1]["index"] == 10, "the examples speak before anything is marked"
    assert len(corrector.worker.corrected[-1]["task"]["examples"]) == 1
    corrector.click((10, 12, 12))
    corrector.applied()
    assert rows()[0].slices == (8, 10)
    corrector.editor.undo()
    corrector.look("Red", 12)
    corrector.settle()
    assert rows()[0].slices == (8,)
    assert corrector.options.examples.count == 1
    corrector.options.examples.item(0).setSelected(True)
    corrector.options.remove.click()
    assert rows() == ()
    corrector.click((12, 12, 12))
    corrector.settle()
    assert corrector.worker.corrected[-1]["task"] is None


def test_on_another_segment_the_polarity_is_positive_again_and_nothing_is_shown(corrector):
    corrector.look("Red", 8)
    corrector.click((8, 12, 12))
    corrector.settle()
    corrector.options.polarity["negative"].click()
    corrector.choose("neighbour")
    assert corrector.options.positive
    assert not corrector.shown().any()
    corrector.choose("organ")
    corrector.settle()
    assert corrector.shown()[8, 12, 12], "what was said there is remembered"


def test_at_most_one_request_is_on_its_way_and_the_newest_is_asked_next(corrector):
    corrector.look("Red", 8)
    corrector.click((8, 12, 8))
    assert app.pump(5, until=lambda: corrector.worker is not None)
    corrector.worker.hold = True
    for column in (12, 16, 20, 24):
        corrector.click((8, 12, column))
    app.pump(0.1)
    corrector.worker.hold = False
    corrector.settle()
    counts = [len(each["prompts"]["points"]) for each in corrector.worker.corrected]
    assert len(counts) <= 3 and counts[-1] == 5


def test_closing_the_scene_leaves_nothing_and_the_effect_goes_on(corrector, scene):
    corrector.look("Red", 8)
    corrector.click((8, 12, 8))
    scene.Clear(0)
    app.pump(0.1)
    assert corrector.correction.place is None
    volume, segmentation = volumeOf(scene)
    corrector.reopen(volume, segmentation)
    corrector.look("Red", 8)
    corrector.click((8, 12, 12))
    corrector.settle()
    assert corrector.shown()[8, 12, 12]


def test_what_a_worker_refuses_is_said_and_a_dead_one_is_replaced(corrector):
    corrector.look("Red", 8)
    corrector.click((8, 12, 8))
    corrector.settle()
    corrector.worker.fail = ("OutOfMemory", "No room; choose the processor.")
    corrector.click((8, 12, 12))
    corrector.settle()
    assert corrector.options.status.text == "No room; choose the processor."
    corrector.worker.dead = True
    corrector.click((8, 12, 16))
    corrector.settle()
    assert corrector.shown()[8, 12, 16]


def catalogOf(monkeypatch, **fields):
    """A catalogue with a model of other capabilities beside the default one; the panel chooses it."""
    real = catalog.list_entries()
    entry = replace(real[0], name="other", capability=replace(real[0].capability, **fields))
    monkeypatch.setattr(catalog, "list_entries", lambda: (*real, entry))
    InContextSegParameterNode(parameterNode(slicer.mrmlScene)).model = "other"


def test_a_tool_that_the_chosen_model_does_not_take_is_off_and_says_why(corrector, monkeypatch):
    options = corrector.options
    corrector.look("Red", 8)
    corrector.click((8, 12, 12))
    corrector.applied()
    assert all(button.enabled for button in options.tools.values()) and not options.limits.text
    catalogOf(monkeypatch, prompts=("box",), support="unused")
    assert app.pump(2, until=lambda: not options.tools["point"].enabled)
    assert options.tools["box"].enabled and options.tool == "box"
    assert not options.tools["scribble"].enabled and not options.polarity["negative"].enabled
    reason = "The model is 'other'. It takes boxes; for the rest choose another in the module In-Context Segmentation."
    assert options.limits.text == options.tools["point"].toolTip == reason
    assert not options.propagation.start.enabled and options.propagation.start.toolTip == reason
    corrector.look("Red", 10)
    corrector.settle()
    asked = len(corrector.worker.corrected)
    corrector.click((10, 12, 12))
    corrector.settle()
    assert len(corrector.worker.corrected) == asked, "a click is no box, and examples are not shown to this model"
    corrector.views["Red"].drag(*(corrector.pixel((10, row, row)) for row in (8, 10, 14)))
    corrector.settle()
    request = corrector.worker.corrected[-1]
    assert (request["model"], request["task"], len(request["prompts"]["boxes"])) == ("other", None, 1)
    assert corrector.shown()[10, 9:14, 9:14].all()
    InContextSegParameterNode(parameterNode(slicer.mrmlScene)).model = "default"
    assert app.pump(2, until=lambda: options.tools["point"].enabled)
    assert not options.limits.text and options.propagation.start.enabled
    corrector.settle()
    request = corrector.worker.corrected[-1]
    assert (request["model"], request["previous"]) == ("default", None), "another model starts from what was said"


def test_a_model_for_scribbles_alone_takes_a_touch_as_one(corrector, monkeypatch):
    catalogOf(monkeypatch, prompts=("scribble",))
    assert app.pump(2, until=lambda: corrector.options.tool == "scribble")
    corrector.look("Red", 8)
    corrector.click((8, 12, 12))
    corrector.settle()
    prompts = corrector.worker.corrected[-1]["prompts"]
    assert not prompts["points"] and len(prompts["scribbles"]) == 1
    assert corrector.shown().sum() == 1 and corrector.shown()[8, 12, 12]


def test_a_model_that_takes_examples_alone_leaves_the_mouse_to_the_views(corrector, monkeypatch):
    corrector.look("Red", 8)
    corrector.click((8, 12, 12))
    corrector.applied()
    catalogOf(monkeypatch, prompts=(), support="required")
    assert app.pump(2, until=lambda: corrector.options.tool is None)
    corrector.look("Red", 10)
    corrector.settle()
    asked = len(corrector.worker.corrected)
    corrector.click((10, 12, 12))
    corrector.views["Red"].drag(*(corrector.pixel((10, row, row)) for row in (8, 10, 14)))
    corrector.settle()
    assert len(corrector.worker.corrected) == asked and not corrector.correction.marks
    assert corrector.worker.corrected[-1]["index"] == 10, "what the examples say is shown, and can be applied"
    assert "takes labelled examples, and needs an example" in corrector.options.limits.text
