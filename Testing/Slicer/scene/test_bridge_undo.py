"""A write is undone to the last voxel, and one that fails leaves nothing behind."""

import numpy as np
import pytest
import slicer

from InContextSegLib.errors import InputError
from InContextSegLib.progress import exhausted
from InContextSegSlicer.scene import bridge
from InContextSegSlicer.scene.voxelsets import MADE_TAG
from Testing.Slicer.fivesegments import AFFINE, box, tinyPieces, two, world, writerFor
from Testing.Slicer.patients import (
    SHAPE,
    ball,
    draw,
    linear,
    mask,
    masks,
    segmentEditor,
)


def test_what_was_erased_may_come_back_and_undo_takes_it_away_again(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    exhausted(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "E"}))
    draw(scene, segmentation, "E", box((4, 8, 10), (9, 14, 16)), AFFINE, remove=True)
    before = masks(segmentation)
    for labels in (ball(), ball(centre=(10.0, 10.0, 22.0))):
        exhausted(writer.write(volume, segmentation, labels, (0, 0, 0), {1: "E"}))
        assert np.array_equal(mask(segmentation, "E"), labels)
        exhausted(writer.undo())
        assert masks(segmentation) == before


def test_undo_knows_again_what_had_been_made_before(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    for labels in (ball(), ball(centre=(10.0, 10.0, 22.0))):
        exhausted(writer.write(volume, segmentation, labels, (0, 0, 0), {1: "A"}))
    exhausted(writer.undo())
    exhausted(writer.write(volume, segmentation, np.zeros(SHAPE, np.uint8), (0, 0, 0), {1: "A"}))
    assert np.array_equal(mask(segmentation, "A"), box((1, 1, 1), (3, 4, 5)))


def test_undo_goes_back_write_by_write_and_leaves_what_was_drawn_since(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume)
    states = [masks(segmentation)]
    for step in range(3):
        labels = ball(centre=(9.0, 12.0, 12.0 + 3 * step))
        exhausted(writer.write(volume, segmentation, labels, (0, 0, 0), {1: "A"}))
        states.append(masks(segmentation))
    for state in reversed(states[:-1]):
        assert writer.canUndo
        exhausted(writer.undo())
        assert masks(segmentation) == state
    assert not writer.canUndo
    for state in states[1:]:
        assert writer.canRedo
        exhausted(writer.redo())
        assert masks(segmentation) == state
    assert not writer.canRedo
    drawn = box((17, 22, 1), (19, 25, 4))
    draw(scene, segmentation, "A", drawn, AFFINE)
    exhausted(writer.undo())
    assert masks(segmentation)["A"] == states[2]["A"] | {tuple(v[::-1]) for v in np.argwhere(drawn).tolist()}
    exhausted(writer.write(volume, segmentation, labels, (0, 0, 0), {1: "A"}))
    assert not writer.canRedo
    writer.forget()
    assert not writer.canUndo


def test_undo_does_not_take_voxels_from_whoever_got_them_since(scene):
    volume, segmentation = world(scene)
    writer, editor = writerFor(scene, segmentation, volume)
    exhausted(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "A"}))
    drawn = box((4, 8, 8), (13, 15, 14))
    draw(scene, segmentation, "E", drawn, AFFINE, editor=editor)
    exhausted(writer.undo())
    assert np.array_equal(mask(segmentation, "E"), drawn)


def test_undo_works_without_a_segment_that_was_removed_since(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume)
    before = masks(segmentation)
    exhausted(writer.write(volume, segmentation, two(), (0, 0, 0), {1: "A", 2: "E"}))
    segmentation.GetSegmentation().RemoveSegment("E")
    exhausted(writer.undo())
    assert masks(segmentation)["A"] == before["A"]
    assert masks(segmentation)["D"] == before["D"]


def test_undo_of_a_segment_that_was_resampled_since_is_refused(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume)
    exhausted(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "A"}))
    segmentation.SetAndObserveTransformNodeID(linear(scene, (0, 0, 0), (5, 0, 0)).GetID())
    segmentation.HardenTransform()
    before = masks(segmentation)
    with pytest.raises(InputError, match="was resampled or transformed since"):
        exhausted(writer.undo())
    assert masks(segmentation) == before


def test_the_segment_editors_own_undo_still_works(scene):
    volume, segmentation = world(scene)
    writer, editor = writerFor(scene, segmentation, volume)
    logic = segmentEditor(scene, editor)
    history = slicer.vtkSegmentationHistory()
    history.SetSegmentation(segmentation.GetSegmentation())
    logic.SetSegmentationHistory(history)
    before = masks(segmentation)
    history.SaveState()
    exhausted(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "A"}))
    history.RestorePreviousState()
    assert masks(segmentation) == before


@pytest.mark.parametrize("after", range(0, 40, 3))
def test_a_write_that_is_dropped_half_way_leaves_nothing_behind(scene, after, monkeypatch):
    tinyPieces(monkeypatch)
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    before, tags = masks(segmentation), _tags(segmentation)
    task = writer.write(volume, segmentation, two(), (0, 0, 0), {1: "A", 2: "E"}, "all")
    for _ in range(after):
        next(task)
    task.close()
    assert masks(segmentation) == before
    assert _tags(segmentation) == tags
    assert not writer.canUndo


def _tags(segmentation):
    segments = (segmentation.GetSegmentation().GetSegment(segment) for segment in "ABCDE")
    return [segment.HasTag(MADE_TAG) for segment in segments]


@pytest.mark.parametrize("closed", ["scene", "segmentation", "segment"])
def test_what_is_closed_between_two_steps_is_said(scene, closed, monkeypatch):
    tinyPieces(monkeypatch)
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    before = masks(segmentation)
    task = writer.write(volume, segmentation, two(), (0, 0, 0), {1: "A", 2: "E"})
    for _ in range(6):
        next(task)
    {
        "scene": lambda: scene.Clear(1),
        "segmentation": lambda: scene.RemoveNode(segmentation),
        "segment": lambda: segmentation.GetSegmentation().RemoveSegment("E"),
    }[closed]()
    expected = "has no segment 'E'" if closed == "segment" else "was closed"
    with pytest.raises(InputError, match=expected):
        exhausted(task)
    if closed == "segment":
        assert masks(segmentation)["A"] == before["A"]
    assert not writer.canUndo


def test_reading_says_when_the_segmentation_is_closed_between_two_steps(scene, monkeypatch):
    tinyPieces(monkeypatch)
    volume, segmentation = world(scene)
    task = bridge.labelsOnGrid(segmentation, {"B": 1}, volume)
    next(task)
    scene.RemoveNode(segmentation)
    with pytest.raises(InputError, match="was closed"):
        exhausted(task)


def test_a_user_may_draw_between_two_steps(scene, monkeypatch):
    tinyPieces(monkeypatch)
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    task = writer.write(volume, segmentation, two(), (0, 0, 0), {1: "A", 2: "E"})
    drawn = np.zeros(SHAPE, bool)
    for place in range(16):
        for _ in range(4):
            next(task, None)
        more = box((place, 21, 2 * place), (place + 1, 25, 2 * place + 1))
        draw(scene, segmentation, "B", more, AFFINE)
        drawn |= more
    exhausted(task)
    assert np.array_equal(mask(segmentation, "A"), (two() == 1) | box((1, 1, 1), (3, 4, 5)))
    assert np.array_equal(mask(segmentation, "E"), two() == 2)
    assert np.array_equal(mask(segmentation, "B"), box((0, 6, 3), (20, 13, 12)) | drawn)


def test_a_user_may_draw_while_a_labelmap_is_made_larger(scene, monkeypatch):
    tinyPieces(monkeypatch)
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 21:, :2] = 1
    task = writer.write(volume, segmentation, labels, (0, 0, 0), {1: "A"})
    drawn = box((0, 6, 13), (20, 8, 17))
    for place in np.argwhere(drawn):
        draw(scene, segmentation, "B", box(place, place + 1), AFFINE)
        next(task)
    exhausted(task)
    assert np.array_equal(mask(segmentation, "B"), box((0, 6, 3), (20, 13, 12)) | drawn)
    assert np.array_equal(mask(segmentation, "A"), (labels == 1) | box((1, 1, 1), (3, 4, 5)))
