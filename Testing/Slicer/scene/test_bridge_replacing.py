"""A new result replaces what was made, and only that, unless all is to go."""

import numpy as np
import pytest

from InContextSegLib.progress import exhausted
from InContextSegSlicer.scene import bridge
from InContextSegSlicer.scene.voxelsets import MADE_TAG
from Testing.Slicer.fivesegments import AFFINE, box, two, world, writerFor
from Testing.Slicer.patients import (
    SHAPE,
    ball,
    draw,
    linear,
    mask,
    masks,
    warpGrid,
)


def stroke():
    return box((8, 11, 23), (10, 14, 31))


def test_what_was_made_is_replaced_and_what_was_drawn_stays(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    first, second = ball(), ball(centre=(10.0, 10.0, 22.0))
    exhausted(writer.write(volume, segmentation, first, (0, 0, 0), {1: "A"}))
    assert (stroke() & second & ~first).any()
    drawnFirst = box((1, 1, 1), (3, 4, 5))
    draw(scene, segmentation, "A", stroke(), AFFINE)
    exhausted(writer.write(volume, segmentation, second, (0, 0, 0), {1: "A"}))
    byHand = drawnFirst | (stroke() & ~first)
    assert np.array_equal(mask(segmentation, "A"), second | byHand)
    # A stroke that a result covered is still a stroke.
    exhausted(writer.write(volume, segmentation, np.zeros(SHAPE, np.uint8), (0, 0, 0), {1: "A"}))
    assert np.array_equal(mask(segmentation, "A"), byHand)


def test_what_was_drawn_where_something_had_been_made_stays(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    nothing, place = np.zeros(SHAPE, np.uint8), box((8, 10, 14), (11, 13, 18))
    for labels in (ball(), nothing):
        exhausted(writer.write(volume, segmentation, labels, (0, 0, 0), {1: "E"}))
    draw(scene, segmentation, "E", place, AFFINE)
    exhausted(writer.write(volume, segmentation, nothing, (0, 0, 0), {1: "E"}))
    assert np.array_equal(mask(segmentation, "E"), place)


def test_what_was_made_is_not_known_of_a_segment_that_was_moved(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    exhausted(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "E"}))
    segmentation.SetAndObserveTransformNodeID(linear(scene, (0, 0, 0), (5, 0, 0)).GetID())
    segmentation.HardenTransform()
    before = masks(segmentation)
    exhausted(writer.write(volume, segmentation, np.zeros(SHAPE, np.uint8), (0, 0, 0), {1: "E"}))
    assert masks(segmentation) == before


def test_all_of_a_segment_can_be_replaced(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    before = masks(segmentation)
    exhausted(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "A"}, "all"))
    assert np.array_equal(mask(segmentation, "A"), ball())
    exhausted(writer.undo())
    assert masks(segmentation) == before


def test_nothing_can_be_replaced(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    drawn = mask(segmentation, "A")
    first, second = ball(), ball(centre=(10.0, 10.0, 12.0))
    for labels in (first, second):
        exhausted(writer.write(volume, segmentation, labels, (0, 0, 0), {1: "A"}, "nothing"))
    assert np.array_equal(mask(segmentation, "A"), first | second | drawn)
    exhausted(writer.write(volume, segmentation, np.zeros(SHAPE, np.uint8), (0, 0, 0), {1: "A"}))
    assert np.array_equal(mask(segmentation, "A"), drawn)


@pytest.mark.parametrize("replace", ["made", "all"])
def test_outside_the_region_nothing_changes(scene, replace):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    exhausted(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "E"}))
    low, high = (7, 0, 0), (11, *SHAPE[1:])
    again = ball(centre=(9.0, 10.0, 13.0))
    exhausted(writer.write(volume, segmentation, again, (0, 0, 0), {1: "E"}, replace, bridge.Region((low, high))))
    expected = np.where(box(low, high), again, ball())
    assert np.array_equal(mask(segmentation, "E"), expected)
    exhausted(writer.write(volume, segmentation, np.zeros(SHAPE, np.uint8), (0, 0, 0), {1: "E"}))
    assert not mask(segmentation, "E").any()


@pytest.mark.parametrize("moved", [False, True])
def test_parts_of_a_region_can_be_left_out(scene, moved):
    volume, segmentation = world(scene)
    segmentation.SetAndObserveTransformNodeID(warpGrid(scene, 0.0).GetID() if moved else None)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    kept = (((8, 0, 0), (9, *SHAPE[1:])), ((12, 0, 0), (14, *SHAPE[1:])))
    region = bridge.Region(((5, 0, 0), SHAPE), kept)
    exhausted(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "E"}, "made", region))
    allowed = box((5, 0, 0), SHAPE)
    for each in kept:
        allowed &= ~box(*each)
    assert np.array_equal(mask(segmentation, "E"), ball() & allowed)


def test_labels_that_are_not_named_are_not_written_and_several_may_go_to_one_segment(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    labels = two()
    labels[:2] = 7
    written = exhausted(writer.write(volume, segmentation, labels, (0, 0, 0), {1: "E", 2: "E"}))
    expected = (labels == 1) | (labels == 2)
    assert np.array_equal(mask(segmentation, "E"), expected)
    assert written == {"E": int(expected.sum())}


def test_what_was_made_is_known_after_saving_and_loading(scene, tmp_path):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    exhausted(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "A"}))
    before = masks(segmentation)
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "leber.seg.nrrd"))
    assert storage.WriteData(segmentation)
    scene.RemoveNode(segmentation)
    again = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert storage.ReadData(again)
    assert masks(again) == before
    writer, _ = writerFor(scene, again, volume, "none")
    exhausted(writer.write(volume, again, np.zeros(SHAPE, np.uint8), (0, 0, 0), {1: "A"}))
    assert np.array_equal(mask(again, "A"), box((1, 1, 1), (3, 4, 5)))


def test_a_strange_tag_means_that_nothing_was_made(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    for tag in ("?", "QUJD", "e30="):
        segmentation.GetSegmentation().GetSegment("A").SetTag(MADE_TAG, tag)
        exhausted(writer.write(volume, segmentation, np.zeros(SHAPE, np.uint8), (0, 0, 0), {1: "A"}))
        assert np.array_equal(mask(segmentation, "A"), box((1, 1, 1), (3, 4, 5)))


@pytest.mark.parametrize("existing", ["nothing", "all"])
def test_what_is_written_by_hand_counts_as_drawn_and_leaves_other_slices_alone(scene, existing):
    volume, segmentation = world(scene)
    made, editor = writerFor(scene, segmentation, volume, "none")
    whole, drawn = ball(), np.zeros((1, *SHAPE[1:]), np.uint8)
    before = mask(segmentation, "A")
    drawn[0, 2:5, 2:5] = 1
    exhausted(made.write(volume, segmentation, whole, (0, 0, 0), {1: "A"}))
    slab = ((9, 0, 0), (10, *SHAPE[1:]))
    hand = bridge.SegmentWriter(scene, editor, byHand=True)
    exhausted(hand.write(volume, segmentation, drawn, (9, 0, 0), {1: "A"}, existing, bridge.Region(slab)))
    wanted = whole | before
    wanted[9] = (drawn[0] > 0) | (wanted[9] if existing == "nothing" else False)
    np.testing.assert_array_equal(mask(segmentation, "A"), wanted)
    exhausted(made.write(volume, segmentation, np.zeros(SHAPE, np.uint8), (0, 0, 0), {1: "A"}))
    left = before.copy()
    left[9] = (drawn[0] > 0) | (before[9] if existing == "nothing" else False)
    np.testing.assert_array_equal(mask(segmentation, "A"), left)
