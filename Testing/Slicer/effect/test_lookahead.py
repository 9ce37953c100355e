"""What the effect does while nobody waits, and what it hands over when a slice was applied."""

import numpy as np
import pytest

from InContextSegSlicer.scene import bridge
from InContextSegSlicer.scene.labelmaps import labelmapOf
from Testing.Slicer.corrector import Corrector
from Testing.Slicer.harness import app
from Testing.Slicer.patients import addSegmentation, addVolume, affineOf, draw

SHAPE = (20, 26, 32)
AFFINE = affineOf(np.diag([0.8, 0.8, 2.5]))


@pytest.fixture
def corrector(scene, monkeypatch):
    volume = addVolume(scene, np.random.default_rng(0).integers(0, 400, SHAPE).astype(np.int16), AFFINE)
    volume.CreateDefaultDisplayNodes()
    segmentation = addSegmentation(scene, volume, "Drawn", ("organ", "neighbour"))
    corrector = Corrector(monkeypatch, volume, segmentation)
    corrector.look("Red", 8)
    return corrector


def ahead(corrector):
    """Indices of the slices that were asked for ahead."""
    app.pump(0.3)
    return [message["index"] for message in corrector.worker.ahead]


def clicked(corrector, index, column=12):
    corrector.look("Red", index)
    corrector.click((index, 12, column))
    corrector.settle()


def taught(message):
    """The arrays of the applied slices in a request, by their indices."""
    (example,) = message["task"]["examples"]
    return dict(example["labels"]["slices"])


def test_what_is_shown_is_computed_ahead_once_and_for_the_next_slice_anew(corrector):
    clicked(corrector, 8)
    assert ahead(corrector) == [8]
    for index in (9, 8, 9):
        corrector.look("Red", index)
        app.pump(0.15)
    assert ahead(corrector) == [8, 9]
    corrector.options.threshold.value = 0.7
    corrector.click((9, 12, 20))
    corrector.settle()
    assert ahead(corrector) == [8, 9]


def test_nobody_waits_for_what_is_computed_ahead(corrector):
    clicked(corrector, 8)
    ahead(corrector)
    corrector.worker.hold = True
    corrector.look("Red", 9)
    app.pump(0.3)
    assert corrector.worker.asked[-1] == "neighbours"
    assert not corrector.correction.working and not corrector.correction.restless
    assert corrector.effect._timer.interval > 50


def test_a_click_takes_its_place_and_then_it_is_asked_for_again(corrector):
    clicked(corrector, 8)
    ahead(corrector)
    corrector.worker.hold = True
    corrector.look("Red", 9)
    app.pump(0.3)
    corrector.click((9, 12, 12))
    assert app.pump(5, until=lambda: corrector.worker.asked[-1] == "correct")
    corrector.worker.hold = False
    corrector.settle()
    assert corrector.shown()[9, 12, 12]
    assert ahead(corrector) == [8, 9]
    assert corrector.worker.asked.count("neighbours") == 3, "once given up"


def test_trouble_ahead_is_left_to_the_click_that_meets_it(corrector):
    clicked(corrector, 8)
    ahead(corrector)
    corrector.worker.fail = ("OutOfMemory", "No room; choose the processor.")
    corrector.look("Red", 9)
    assert ahead(corrector) == [8, 9]
    assert corrector.options.status.text == ""
    corrector.correction.setThreshold(0.6)
    assert ahead(corrector) == [8, 9], "not asked for the same again"
    corrector.click((9, 12, 12))
    corrector.settle()
    assert corrector.options.status.text == "No room; choose the processor."


def test_a_new_worker_is_asked_for_what_the_dead_one_knew(corrector):
    clicked(corrector, 8)
    assert ahead(corrector) == [8]
    before = corrector.worker
    before.dead = True
    for column in (14, 16):
        corrector.click((8, 12, column))
        corrector.settle()
    assert corrector.worker is not before
    assert ahead(corrector) == [8]


def test_an_applied_slice_is_handed_over_at_once_and_alone(corrector):
    clicked(corrector, 8)
    corrector.applied()
    ahead(corrector)
    first = taught(corrector.worker.ahead[-1])
    assert first.keys() == {8}
    labels = np.array(corrector.worker._folder.read(first[8]))
    np.testing.assert_array_equal(labels > 0, corrector.drawn()[8:9])
    arrays = set(corrector.correction.client.folder.glob("*.npy"))
    clicked(corrector, 10, 20)
    corrector.applied()
    ahead(corrector)
    second = taught(corrector.worker.ahead[-1])
    assert second.keys() == {8, 10} and second[8] == first[8]
    added = {path.name for path in set(corrector.correction.client.folder.glob("*.npy")) - arrays}
    assert added == {second[10]}


def test_a_slice_that_was_taken_back_does_not_say_that_there_is_nothing_where_another_segment_is_drawn(
    corrector, scene
):
    mask = np.zeros(SHAPE, bool)
    mask[8, 20:24, 20:24] = True
    draw(scene, corrector.segmentation, "neighbour", mask, AFFINE)
    for index in (4, 8):
        clicked(corrector, index)
        corrector.applied()
    corrector.editor.undo()
    corrector.look("Red", 9)
    corrector.settle()
    (row,) = corrector.correction.context.examples.rows()
    assert row.slices == (4,), "the other one was applied on no slice"
    assert taught(corrector.worker.corrected[-1]).keys() == {4}
    corrector.editor.redo()
    corrector.look("Red", 10)
    corrector.settle()
    (row,) = corrector.correction.context.examples.rows()
    assert row.slices == (4, 8)
    assert taught(corrector.worker.corrected[-1]).keys() == {4, 8}


def test_a_click_at_once_on_the_next_slice_is_the_only_thing_asked(corrector):
    clicked(corrector, 8)
    corrector.applied()
    before = len(corrector.worker.corrected)
    clicked(corrector, 9)
    (asked,) = corrector.worker.corrected[before:]
    assert len(asked["prompts"]["points"]) == 1 and taught(asked).keys() == {8}


def test_a_segment_that_leaves_a_shared_labelmap_holds_no_more_than_its_slices(corrector, scene):
    draw(scene, corrector.segmentation, "neighbour", np.ones(SHAPE, bool), AFFINE)
    corrector.node.SetOverwriteMode(corrector.node.OverwriteNone)
    for index in (8, 9):
        clicked(corrector, index)
        corrector.applied()
    segment = corrector.segmentation.GetSegmentation().GetSegment("organ")
    (low, high), held = extent(labelmapOf(segment)), np.argwhere(corrector.drawn())
    assert (held.min(axis=0) - low <= 1).all() and (high - held.max(axis=0) <= 1).all()


def extent(labelmap):
    ends = np.array(labelmap.GetExtent()).reshape(3, 2)[::-1]
    return ends[:, 0], ends[:, 1]


def test_after_an_apply_only_the_slice_that_changed_is_read_again(corrector, monkeypatch):
    read = []
    real = bridge.labelsOnSlices

    def counted(segmentation, values, volume, axis, indices):
        read.extend(indices)
        return real(segmentation, values, volume, axis, indices)

    monkeypatch.setattr(bridge, "labelsOnSlices", counted)
    for index in (4, 6, 8):
        read.clear()
        corrector.look("Red", index)
        corrector.click((index, 12, 12))
        corrector.applied()
        corrector.look("Red", index + 1)
        corrector.settle()
        assert set(read) <= {index}, read
    labels = corrector.worker.corrected[-1]["task"]["examples"][0]["labels"]
    assert [index for index, _name in labels["slices"]] == [4, 6, 8]
    read.clear()
    corrector.editor.undo()
    corrector.click((9, 12, 16))
    corrector.settle()
    assert set(read) >= {4, 6}, "somebody else changed the segment: all of it is read again"
    assert corrector.worker.corrected[-1]["task"]["examples"][0]["slices"] == [4, 6]
