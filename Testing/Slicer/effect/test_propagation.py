"""Carrying a segment on in the Segment Editor: what came of it is marked until somebody accepts it."""

import numpy as np
import pytest
import slicer

from InContextSegLib.progress import exhausted
from InContextSegSlicer.effect.propagation import outcome
from InContextSegSlicer.panel.preview import _labelmap
from InContextSegSlicer.scene import bridge
from InContextSegSlicer.scene.slicemarks import PROPAGATED, SliceMarks, mark, marksIn
from Testing.Slicer.corrector import Corrector
from Testing.Slicer.effect.test_effect import volumeOf
from Testing.Slicer.effect.test_oblique import turn
from Testing.Slicer.harness import app


@pytest.fixture
def corrector(scene, monkeypatch, strictErrors):
    found = Corrector(monkeypatch, *volumeOf(scene))
    yield found
    assert not strictErrors.seen, strictErrors.report()


def apply(corrector, index=8, column=12):
    corrector.look("Red", index)
    corrector.click((index, 12, column))
    corrector.applied()


def propagate(corrector, reach=None):
    carry = corrector.options.propagation
    if reach is not None:
        carry.reach.setCurrentIndex(carry.reach.findData(reach))
    carry.start.click()
    corrector.settle()


def marked(corrector):
    return corrector.correction.propagation.marked(corrector.effect.segmentPlace())


def teaching(corrector):
    (row,) = corrector.correction.context.examples.rows()
    return row.slices


def press(corrector, name, *indices):
    carry = corrector.options.propagation
    for item in (carry.list.item(number) for number in range(carry.list.count)):
        item.setSelected(item.data(256) in indices)
    carry.buttons[name].click()
    corrector.settle()


def test_a_segment_is_carried_to_the_slices_beside_and_these_are_marked_and_do_not_teach(corrector):
    apply(corrector)
    disc = corrector.drawn()[8]
    propagate(corrector, reach=1)
    drawn = corrector.drawn()
    for index in (7, 8, 9):
        np.testing.assert_array_equal(drawn[index], disc)
    assert drawn.any(axis=(1, 2)).sum() == 3
    assert marked(corrector) == SliceMarks("axial", {7: 0.9, 9: 0.9})
    assert teaching(corrector) == (8,)
    assert "2 axial slices, 7 to 9" in corrector.options.propagation.status.text
    request = corrector.worker.carried[-1]
    assert (request.start, request.slice_range) == ((8,), (7, 9))


def test_it_starts_at_the_nearest_applied_slice_that_shows_the_segment(corrector):
    apply(corrector)
    segment = corrector.segmentation.GetSegmentation().GetNthSegmentID(0)
    corrector.correction.context.teach(corrector.volume, corrector.segmentation, segment, "axial", 11)
    assert teaching(corrector) == (8, 11)
    corrector.look("Red", 12)
    propagate(corrector, reach=1)
    assert corrector.worker.carried[-1].start == (8,)


def test_from_all_applied_slices_it_goes_as_far_as_it_is_sure(corrector):
    apply(corrector, 4)
    apply(corrector, 14)
    propagate(corrector, reach=0)
    assert set(marked(corrector).confidence) == {0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17, 18}
    assert corrector.worker.carried[-1].start is None
    assert not corrector.drawn()[9].any(), "it was unsure there"


def test_the_list_has_the_least_sure_first_and_leads_to_the_slice(corrector):
    apply(corrector)
    propagate(corrector, reach=5)
    carry = corrector.options.propagation
    items = [carry.list.item(number) for number in range(carry.list.count)]
    assert [item.data(256) for item in items] == [4, 12, 5, 11, 6, 10, 7, 9]
    assert items[0].text() == "axial 4: 60 % sure"
    carry.list.itemClicked.emit(items[0])
    assert bridge.displayedIndex(corrector.views["Red"].mrmlSliceNode(), corrector.volume, 0) == 4
    assert told(corrector) == "Propagated, 60 % sure; not accepted"
    corrector.look("Red", 8)
    app.pump(0.3)
    assert told(corrector) == ""


def told(corrector):
    (text,) = [actor for actor in corrector.effect._views[corrector.views["Red"]].actors if actor.IsA("vtkTextActor")]
    return text.GetInput() if text.GetVisibility() else ""


def test_accepted_slices_teach_and_are_marked_no_longer(corrector):
    apply(corrector)
    propagate(corrector, reach=5)
    press(corrector, "accept", 7, 9)
    assert teaching(corrector) == (7, 8, 9)
    assert sorted(marked(corrector).confidence) == [4, 5, 6, 10, 11, 12]
    corrector.look("Red", 10)
    press(corrector, "accept")
    assert teaching(corrector) == (7, 8, 9, 10), "without a choice it is the displayed one"
    corrector.options.propagation.buttons["acceptAll"].click()
    corrector.settle()
    assert teaching(corrector) == tuple(range(4, 13))
    assert not marked(corrector).confidence and corrector.options.propagation.list.count == 0


def test_discarded_slices_lose_what_was_carried_on_and_keep_what_was_drawn(corrector):
    apply(corrector)
    propagate(corrector, reach=5)
    before = corrector.drawn()
    by_hand = np.zeros_like(before)
    by_hand[5, 20:22, 3:5] = True
    paint(corrector, by_hand)
    press(corrector, "discard", 5, 6)
    after = corrector.drawn()
    np.testing.assert_array_equal(after[5], by_hand[5])
    assert not after[6].any()
    for index in (4, 7, 8, 9):
        np.testing.assert_array_equal(after[index], before[index])
    assert sorted(marked(corrector).confidence) == [4, 7, 9, 10, 11, 12]
    corrector.editor.undo()
    np.testing.assert_array_equal(corrector.drawn(), before | by_hand)
    assert sorted(marked(corrector).confidence) == [4, 5, 6, 7, 9, 10, 11, 12]


def paint(corrector, mask):
    """As the Segment Editor's own tools do."""
    logic, segment = corrector.editor.logic, corrector.segmentation.GetSegmentation().GetNthSegmentID(0)
    corrector.editor.saveStateForUndo()
    modifier = _labelmap(corrector.volume, mask.astype(np.uint8), (0, 0, 0))
    logic.UpdateMaskLabelmap()
    logic.ModifySegmentByLabelmap(corrector.segmentation, segment, modifier, logic.ModificationModeAdd, True, False)


def test_a_propagation_is_one_state_of_undo_and_the_marks_go_with_it(corrector):
    apply(corrector)
    before = corrector.drawn()
    propagate(corrector, reach=5)
    after = corrector.drawn()
    corrector.editor.undo()
    np.testing.assert_array_equal(corrector.drawn(), before)
    assert not marked(corrector).confidence
    app.pump(0.3)
    assert corrector.options.propagation.list.count == 0
    corrector.editor.redo()
    np.testing.assert_array_equal(corrector.drawn(), after)
    assert sorted(marked(corrector).confidence) == [4, 5, 6, 7, 9, 10, 11, 12]


def test_a_click_on_a_slice_that_was_carried_on_goes_on_from_what_is_there_and_replaces_it(corrector):
    apply(corrector)
    propagate(corrector, reach=5)
    corrector.look("Red", 10)
    corrector.settle()
    asked = len(corrector.worker.corrected)
    corrector.click((10, 12, 20))
    corrector.settle()
    request = corrector.worker.corrected[-1]
    assert len(corrector.worker.corrected) == asked + 1, "nothing is proposed on a slice that has an answer"
    assert request["previous"] is not None and request["index"] == 10
    wanted = corrector.shown()[10]
    corrector.applied()
    np.testing.assert_array_equal(corrector.drawn()[10], wanted)
    assert 10 not in marked(corrector).confidence and teaching(corrector) == (8, 10)


def test_carrying_on_again_leaves_applied_accepted_and_painted_slices_as_they_are(corrector):
    apply(corrector)
    propagate(corrector, reach=5)
    press(corrector, "accept", 9)
    by_hand = np.zeros(corrector.drawn().shape, bool)
    by_hand[11, 2:4, 2:4] = True
    paint(corrector, by_hand)
    apply(corrector, 10, 20)
    before = corrector.drawn()
    propagate(corrector, reach=0)
    after = corrector.drawn()
    for index in (8, 9, 10):
        np.testing.assert_array_equal(after[index], before[index])
    assert after[11, 2:4, 2:4].all()
    np.testing.assert_array_equal(after[12], before[10], "what was carried on before is carried on anew")
    assert not set(marked(corrector).confidence) & {8, 9, 10}


def test_without_an_applied_slice_it_says_what_to_do(corrector):
    corrector.look("Red", 8)
    corrector.click((8, 12, 12))
    corrector.settle()
    propagate(corrector)
    assert corrector.options.propagation.status.text.startswith("No axial slice of 'CT' was applied in this segment")
    assert not corrector.drawn().any()


def test_where_all_that_is_drawn_teaches_it_is_the_slices_drawn_before(corrector):
    apply(corrector)
    examples = corrector.correction.context.examples
    (row,) = examples.rows()
    examples.change(row.key, slices="auto", axis="")
    propagate(corrector, reach=1)
    (row,) = examples.rows()
    assert (row.slices, row.axis) == ((8,), "axial")
    assert sorted(marked(corrector).confidence) == [7, 9]


@pytest.mark.parametrize("what", ["button", "segmentation", "off", "close"])
def test_a_propagation_can_be_cancelled_and_writes_nothing(corrector, scene, what):
    apply(corrector)
    before = corrector.drawn()
    corrector.worker.hold = True
    carry = corrector.options.propagation
    carry.start.click()
    assert app.pump(5, until=lambda: "propagate" in corrector.worker.asked)
    assert carry.start.text == "Cancel"
    segmentation = corrector.segmentation
    if what == "button":
        carry.start.click()
    elif what == "segmentation":
        corrector.work(*volumeOf(scene))
    elif what == "off":
        corrector.editor.setActiveEffectByName("")
    else:
        scene.Clear(0)
    worker = corrector.worker
    worker.hold = False
    app.pump(0.2)
    assert not corrector.correction.propagation.working
    assert worker.asked[-1] == "cancel" or "cancel" in worker.asked
    if what != "close":
        corrector.segmentation = segmentation
        shown = exhausted(bridge.labelsOnGrid(segmentation, {"organ": 1}, corrector.volume))
        np.testing.assert_array_equal(shown > 0, before)


def test_a_worker_that_refuses_is_heard(corrector):
    apply(corrector)
    corrector.worker.fail = ("OutOfMemory", "No room; choose the processor.")
    propagate(corrector)
    assert corrector.options.propagation.status.text == "No room; choose the processor."
    corrector.worker.fail = None
    propagate(corrector, reach=1)
    assert sorted(marked(corrector).confidence) == [7, 9]


def test_the_uncertainty_is_laid_over_the_views_and_goes_with_the_effect(corrector, scene):
    apply(corrector)
    propagate(corrector, reach=5)
    corrector.options.propagation.uncertainty.click()
    node = bridge.uncertaintyOf(scene, corrector.volume)
    composite = corrector.views["Red"].sliceLogic().GetSliceCompositeNode()
    assert node is not None and composite.GetForegroundVolumeID() == node.GetID()
    corrector.editor.setActiveEffectByName("")
    assert composite.GetForegroundVolumeID() != node.GetID()


def test_masking_holds_for_what_is_carried_on(corrector):
    corrector.choose("neighbour")
    apply(corrector, 9)
    neighbour = corrector.drawn("neighbour")
    corrector.choose("organ")
    corrector.node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments)
    apply(corrector, 8, 14)
    propagate(corrector, reach=1)
    disc = corrector.drawn("organ")
    assert disc[7].any() and disc[9].any()
    assert not (disc & neighbour).any()
    np.testing.assert_array_equal(corrector.drawn("neighbour"), neighbour)


def test_a_slice_that_was_applied_for_another_segment_says_nothing_of_this_one(corrector):
    corrector.choose("neighbour")
    apply(corrector, 9)
    corrector.choose("organ")
    corrector.look("Red", 10)
    corrector.settle()
    assert not corrector.shown().any() and corrector.options.examples.count == 0
    apply(corrector, 8, 14)
    corrector.look("Red", 10)
    corrector.settle()
    (example,) = corrector.worker.corrected[-1]["task"]["examples"]
    assert example["slices"] == [8]
    assert teaching(corrector) == (8, 9)
    examples = corrector.correction.context.examples
    examples.change(examples.rows()[0].key, slices=(8, 9, 15))
    corrector.look("Red", 11)
    corrector.settle()
    (example,) = corrector.worker.corrected[-1]["task"]["examples"]
    assert example["slices"] == [8, 15], "a slice chosen in the panel speaks of all segments"


def test_slices_along_another_axis_are_settled_first(corrector):
    apply(corrector)
    propagate(corrector, reach=1)
    corrector.correction.context.examples.remove([corrector.correction.context.examples.rows()[0].key])
    corrector.look("Green", 12, "coronal")
    corrector.click((8, 12, 12), "Green")
    corrector.settle()
    corrector.views["Green"].key("Return")
    corrector.settle()
    propagate(corrector, reach=1)
    assert corrector.options.propagation.status.text.startswith("Axial slices of this segment wait to be accepted")


def test_a_turned_view_is_asked_to_turn_back(corrector):
    apply(corrector)
    turn(corrector, voxel=(8, 12, 12))
    corrector.click((8, 12, 12))
    corrector.settle()
    assert corrector.correction.place.plane is not None
    propagate(corrector)
    assert corrector.options.propagation.status.text.startswith("This view is turned against the slices of 'CT'")
    assert not marked(corrector).confidence


@pytest.mark.parametrize(("geometry", "where"), [("oblique", "moved"), ("left-handed", "here"), ("permuted", "moved")])
def test_on_volumes_at_all_angles_it_is_the_slices_beside(scene, monkeypatch, geometry, where):
    corrector = Corrector(monkeypatch, *volumeOf(scene, geometry, where))
    along = corrector.along("axial")
    voxel = np.full(3, 12)
    voxel[along] = 9
    corrector.look("Red", 9)
    corrector.click(tuple(voxel))
    corrector.applied()
    propagate(corrector, reach=1)
    drawn = np.moveaxis(corrector.drawn(), along, 0)
    assert [index for index in range(len(drawn)) if drawn[index].any()] == [8, 9, 10]
    np.testing.assert_array_equal(drawn[8], drawn[9])
    np.testing.assert_array_equal(drawn[10], drawn[9])
    assert sorted(marked(corrector).confidence) == [8, 10]


def test_marks_belong_to_the_grids_they_were_made_on_and_a_damaged_one_is_none(scene):
    volume, segmentation = volumeOf(scene)
    other, _segmentation = volumeOf(scene, "oblique")
    segment = segmentation.GetSegmentation().GetSegment("organ")
    slices = SliceMarks("axial", {3: 0.7})
    mark(segment, volume, PROPAGATED, slices)
    assert marksIn(segment, volume, PROPAGATED) == slices
    assert marksIn(segment, other, PROPAGATED) == SliceMarks()
    both = SliceMarks("coronal", {5: 0.8})
    mark(segment, other, PROPAGATED, both)
    assert (marksIn(segment, volume, PROPAGATED), marksIn(segment, other, PROPAGATED)) == (slices, both)
    mark(segment, other, PROPAGATED, SliceMarks())
    damaged = ('[{"axis": "axial"}]', '[{"affine": [1], "axis": "axial", "slices": {}}]', '[{"slices": []}]')
    for text in ("{", "[]", "{}", "[7]", "7", *damaged):
        segment.SetTag("InContextSeg.Propagated", text)
        assert marksIn(segment, volume, PROPAGATED) == SliceMarks()
    mark(segment, volume, PROPAGATED, SliceMarks())
    assert not segment.HasTag("InContextSeg.Propagated")


def test_what_came_of_it_is_a_sentence():
    answer = {"axis": "coronal", "slices": [], "stopped": {"before": "unsure", "after": "ended"}}
    assert outcome(answer, True) == (
        "Nothing was propagated: before the applied slice it was unsure, after it nothing more was found."
    )
    answer |= {"slices": [3, 4], "stopped": {"before": "range", "after": "range"}}
    assert "3 to 4: before them the volume ends, after them the volume ends." in outcome(answer, False)
    assert "no further was asked for" in outcome(answer, True)


@pytest.mark.parametrize("reach", [0, 5])
def test_what_the_panel_found_stays_on_slices_that_were_not_reached(corrector, reach):
    block = np.zeros(corrector.drawn().shape, np.uint8)
    block[:, 20:24, 20:24] = 1
    writer = bridge.SegmentWriter(slicer.mrmlScene, slicer.vtkMRMLSegmentEditorNode())
    exhausted(writer.write(corrector.volume, corrector.segmentation, block, (0, 0, 0), {1: "organ"}))
    apply(corrector)
    propagate(corrector, reach=reach)
    drawn, reached = corrector.drawn(), set(marked(corrector).confidence)
    assert reached and {index for index in range(20) if not drawn[index, 21, 21]} <= reached
    propagate(corrector, reach=reach)
    np.testing.assert_array_equal(corrector.drawn(), drawn)


@pytest.mark.parametrize("when", ["handing over", "asked", "writing"])
@pytest.mark.parametrize("what", ["segment", "segmentation", "volume", "scene"])
def test_what_is_removed_is_carried_on_no_more(corrector, scene, what, when):
    apply(corrector)
    propagation = corrector.correction.propagation

    def remove():
        if what == "segment":
            corrector.segmentation.GetSegmentation().RemoveSegment("organ")
        elif what == "scene":
            scene.Clear(False)
        else:
            scene.RemoveNode(getattr(corrector, what))

    def removeWhenWriting():
        if propagation.progress and "Writing" in propagation.progress[2]:
            propagation.changed = corrector.effect.refresh
            remove()

    corrector.worker.hold = when == "asked"
    if when == "writing":
        propagation.changed = removeWhenWriting
    corrector.options.propagation.start.click()
    if when == "asked":
        app.pump(0.2)
    if when != "writing":
        remove()
    corrector.worker.hold = False
    corrector.settle()
    assert propagation.changed == corrector.effect.refresh
    assert propagation.message in (
        "The volume or the segment was removed meanwhile, so nothing was carried on.",
        "The propagation was cancelled.",
    )
