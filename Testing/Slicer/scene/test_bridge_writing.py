"""Writing obeys the Segment Editor's rules, whatever it writes into."""

import numpy as np
import pytest
import slicer
from scipy import ndimage
from vtk.util.numpy_support import vtk_to_numpy

from InContextSegLib.errors import InputError
from InContextSegLib.progress import exhausted
from InContextSegSlicer.scene import bridge
from Testing.Slicer.fivesegments import AFFINE, AREAS, OVERWRITE, box, two, world, writerFor
from Testing.Slicer.patients import (
    SHAPE,
    addEditor,
    addSegmentation,
    addVolume,
    affineOfVolume,
    ball,
    draw,
    mask,
    masks,
    oriented,
    segmentEditor,
    warpGrid,
)


@pytest.mark.parametrize("intensities", [None, (-200, 130)])
@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize("overwrite", OVERWRITE)
def test_what_is_written_is_what_the_segment_editor_would_write(scene, overwrite, area, intensities):
    volume, ours = world(scene)
    _, theirs = world(scene, "Theirs")
    for each in (ours, theirs):
        draw(scene, each, "A", box((7, 9, 11), (11, 14, 19)), AFFINE)
    areaSegment = "B" if area == "inside one" else None
    writer, _ = writerFor(scene, ours, volume, overwrite, area, areaSegment, intensities)
    before = masks(ours)
    exhausted(writer.write(volume, ours, two(), (0, 0, 0), {1: "A", 2: "E"}, "nothing"))

    _, editor = writerFor(scene, theirs, volume, overwrite, area, areaSegment, intensities)
    logic = segmentEditor(scene, editor)
    for value, segment in ((1, "A"), (2, "E")):
        editor.SetSelectedSegmentID(segment)
        logic.ModifySegmentByLabelmap(
            theirs, segment, oriented(two() == value, AFFINE), logic.ModificationModeAdd, True, False
        )
    after = masks(ours)
    assert after == masks(theirs)
    exhausted(writer.undo())
    assert masks(ours) == before
    exhausted(writer.redo())
    assert masks(ours) == after


def test_neighbours_that_share_a_labelmap_keep_every_voxel(scene):
    volume, segmentation = world(scene)
    before = masks(segmentation)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    exhausted(writer.write(volume, segmentation, two(), (0, 0, 0), {1: "A", 2: "E"}))
    assert {name: masks(segmentation)[name] for name in "BCD"} == {name: before[name] for name in "BCD"}


def test_outside_the_editable_area_nothing_is_taken_away_either(scene):
    volume, segmentation = world(scene)
    writer, editor = writerFor(scene, segmentation, volume, "none")
    exhausted(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "E"}))
    editor.SetMaskMode(AREAS["inside one"])
    editor.SetMaskSegmentID("D")
    exhausted(writer.write(volume, segmentation, np.zeros(SHAPE, np.uint8), (0, 0, 0), {1: "E"}))
    assert np.array_equal(mask(segmentation, "E"), ball() & ~mask(segmentation, "D"))


def test_the_editable_intensities_hold_voxel_by_voxel(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none", intensities=(0, 250))
    exhausted(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "E"}))
    values = bridge.arrayOf(volume)
    assert np.array_equal(mask(segmentation, "E"), ball() & (values >= 0) & (values <= 250))


def test_outside_all_segments_does_not_mean_outside_the_segment_itself(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none", "outside all")
    occupied = mask(segmentation, "B") | mask(segmentation, "C") | mask(segmentation, "D")
    exhausted(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "A"}, "all"))
    assert np.array_equal(mask(segmentation, "A"), ball() & ~occupied)


def test_a_segment_that_gets_a_labelmap_of_its_own_leaves_nothing_in_the_old_one(scene):
    volume, segmentation = world(scene)
    inner = segmentation.GetSegmentation()
    for segment in ("A", "C"):
        assert inner.GetLayerIndex(segment) == inner.GetLayerIndex("B")
        drawn = mask(segmentation, segment)
        writer, _ = writerFor(scene, segmentation, volume, "none")
        exhausted(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: segment}))
        assert inner.GetLayerIndex(segment) != inner.GetLayerIndex("B")
        assert np.array_equal(mask(segmentation, segment), ball() | drawn)
    old = inner.GetSegment("B").GetRepresentation("Binary labelmap")
    living = {inner.GetSegment(s).GetLabelValue() for s in inner.GetSegmentIDsForDataObject(old, "Binary labelmap")}
    assert set(np.unique(vtk_to_numpy(old.GetPointData().GetScalars())).tolist()) <= {0, *living}


def test_neighbours_on_another_grid_are_overwritten_as_well(scene):
    volume, segmentation = world(scene)
    finer = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    shape = tuple(2 * length for length in SHAPE)
    fine = np.zeros(shape, bool)
    fine[10:30, 10:40, 20:50] = True
    segment = segmentation.AddSegmentFromBinaryLabelmapRepresentation(oriented(fine, finer), "fine")
    writer, _ = writerFor(scene, segmentation, volume)
    before = masks(segmentation)
    exhausted(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "E"}))
    assert np.array_equal(mask(segmentation, "E"), ball())
    # Half of the fine centres lie exactly between coarse ones, where either may count.
    twice, left = ball().repeat(2, 0).repeat(2, 1).repeat(2, 2), mask(segmentation, segment, shape)
    assert not (left & ndimage.binary_erosion(twice, np.ones((3, 3, 3)))).any()
    around = ndimage.binary_dilation(twice, np.ones((3, 3, 3)))
    assert np.array_equal(left | around, fine | around)
    exhausted(writer.undo())
    assert masks(segmentation) == before


def test_three_hundred_labels_are_written_and_read(scene):
    shape = (12, 40, 40)
    volume = addVolume(scene, np.zeros(shape, np.int16), AFFINE)
    segmentation = addSegmentation(scene, volume)
    labels = np.zeros(shape, np.uint16)
    for value in range(1, 301):
        k, j, i = np.unravel_index(value - 1, (3, 10, 10))
        labels[4 * k : 4 * k + 3, 4 * j : 4 * j + 3, 4 * i : 4 * i + 3] = value
    ids = {value: bridge.ensureSegment(segmentation, f"Wirbel {value} é") for value in range(1, 301)}
    writer, _ = writerFor(scene, segmentation, volume, "none")
    written = exhausted(writer.write(volume, segmentation, labels, (0, 0, 0), ids))
    assert set(written.values()) == {27}
    found = exhausted(bridge.labelsOnGrid(segmentation, {segment: value for value, segment in ids.items()}, volume))
    assert found.dtype == np.uint16
    assert np.array_equal(found, labels)
    exhausted(writer.undo())
    assert not exhausted(bridge.labelsOnGrid(segmentation, {ids[300]: 1}, volume)).any()


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.uint16, np.int16])
def test_labels_may_be_of_any_whole_type(scene, kind):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    exhausted(writer.write(volume, segmentation, ball().astype(kind), (0, 0, 0), {1: "E"}))
    assert np.array_equal(mask(segmentation, "E"), ball())


def test_read_only_memory_can_be_written_from(scene, tmp_path):
    volume, segmentation = world(scene)
    segmentation.SetAndObserveTransformNodeID(warpGrid(scene, 0.0).GetID())
    np.save(tmp_path / "labels.npy", ball().astype(np.uint8))
    writer, _ = writerFor(scene, segmentation, volume, "none")
    exhausted(writer.write(volume, segmentation, np.load(tmp_path / "labels.npy", mmap_mode="r"), (0, 0, 0), {1: "E"}))
    assert np.array_equal(mask(segmentation, "E"), ball())


def test_labels_beyond_the_volume_are_left_out(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    labels = np.ones((8, 8, 8), np.uint8)
    assert exhausted(writer.write(volume, segmentation, labels, (-3, -2, 28), {1: "E"})) == {"E": 5 * 6 * 4}
    assert np.array_equal(mask(segmentation, "E"), box((0, 0, 28), (5, 6, 32)))
    assert exhausted(writer.write(volume, segmentation, labels, (40, 0, 0), {1: "E"})) == {"E": 0}
    assert not mask(segmentation, "E").any()


def test_a_segmentation_without_a_reference_takes_the_volumes_grid(scene):
    volume, _ = world(scene)
    segmentation = addSegmentation(scene, segments=("A",))
    writer, _ = writerFor(scene, segmentation, volume)
    exhausted(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "A"}))
    assert np.array_equal(exhausted(bridge.labelsOnGrid(segmentation, {"A": 1}, volume)) == 1, ball())
    assert np.allclose(affineOfVolume(volume), AFFINE)


def test_surfaces_shown_in_3d_follow(scene):
    volume, segmentation = world(scene)
    segmentation.CreateClosedSurfaceRepresentation()
    inner = segmentation.GetSegmentation()
    surfaces = {name: inner.GetSegment(name).GetRepresentation("Closed surface") for name in "ABCDE"}
    writer, _ = writerFor(scene, segmentation, volume, "none")
    exhausted(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "A"}))
    now = {name: inner.GetSegment(name).GetRepresentation("Closed surface") for name in "ABCDE"}
    assert {name for name in "ABCDE" if now[name] is not surfaces[name]} == {"A"}
    assert now["A"].GetNumberOfPoints() > surfaces["A"].GetNumberOfPoints()


def test_everybody_hears_of_a_write(scene):
    volume, segmentation = world(scene)
    heard = []
    segmentation.AddObserver(slicer.vtkSegmentation.SourceRepresentationModified, lambda *_: heard.append(1))
    writer, _ = writerFor(scene, segmentation, volume, "none")
    for labels in (ball(), two()):
        heard.clear()
        exhausted(writer.write(volume, segmentation, labels, (0, 0, 0), {1: "A", 2: "E"}))
        assert heard


def test_a_segment_that_was_not_begun_is_in_progress_afterwards(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    segment = segmentation.GetSegmentation().GetSegment("E")
    logic.SetSegmentStatus(segment, logic.NotStarted)
    exhausted(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "E"}))
    assert logic.GetSegmentStatus(segment) == logic.InProgress


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"replace": "some"}, "not 'some'"),
        ({"block": np.ones(SHAPE, np.float32)}, "Labels are whole numbers"),
        ({"block": np.ones((3, 3), np.uint8)}, r"of shape \(3, 3\)"),
        ({"block": np.full(SHAPE, -1, np.int16)}, "between 0 and 65535, but -1"),
        ({"ids": {0: "A"}}, "from 1 to 65535, but 0 came"),
        ({"ids": {1: "Z"}}, "has no segment 'Z'"),
    ],
)
def test_what_cannot_be_written_is_refused(scene, change, message):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume)
    before = masks(segmentation)
    asked = {"block": two(), "cornerKji": (0, 0, 0), "ids": {1: "A"}, **change}
    with pytest.raises(InputError, match=message):
        exhausted(writer.write(volume, segmentation, **asked))
    assert masks(segmentation) == before


def test_a_segmentation_that_was_closed_is_refused(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume)
    scene.RemoveNode(segmentation)
    with pytest.raises(InputError, match="'Segmentation' was closed"):
        exhausted(writer.write(volume, segmentation, two(), (0, 0, 0), {1: "A"}))


def test_an_editable_area_inside_a_missing_segment_is_refused(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, area="inside one", areaSegment="gone")
    with pytest.raises(InputError, match="has no segment 'gone'; choose the editable area"):
        exhausted(writer.write(volume, segmentation, two(), (0, 0, 0), {1: "A"}))


def test_a_segmentation_kept_as_surfaces_is_refused(scene):
    volume, segmentation = world(scene)
    segmentation.CreateClosedSurfaceRepresentation()
    segmentation.GetSegmentation().SetSourceRepresentationName("Closed surface")
    writer, _ = writerFor(scene, segmentation, volume)
    with pytest.raises(InputError, match="is kept as 'Closed surface', which cannot be written to"):
        exhausted(writer.write(volume, segmentation, two(), (0, 0, 0), {1: "A"}))


@pytest.mark.parametrize("drawn", [False, True], ids=["into nothing", "into what was drawn"])
@pytest.mark.parametrize("byHand", [False, True], ids=["computed", "by hand"])
def test_views_show_at_once_what_is_written_taken_back_and_done_again(scene, byHand, drawn):
    volume = addVolume(scene, np.zeros(SHAPE, np.int16), AFFINE)
    volume.CreateDefaultDisplayNodes()
    segmentation = addSegmentation(scene, volume, segments=("A",))
    segmentation.GetSegmentation().GetSegment("A").SetColor(1, 0, 0)
    view = slicer.app.layoutManager().sliceWidget("Red")
    view.showVolume(volume)
    if drawn:
        draw(scene, segmentation, "A", box((0, 0, 0), (20, 3, 3)), AFFINE)
    writer = bridge.SegmentWriter(scene, addEditor(scene, segmentation, volume), byHand)
    coloured = [np.ptp(view.image().astype(int), axis=-1) > 30]
    for act in (lambda: writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "A"}), writer.undo, writer.redo):
        exhausted(act())
        coloured.append(np.ptp(view.image().astype(int), axis=-1) > 30)
    before, written, undone, redone = coloured
    assert written.sum() > before.sum() + 100
    np.testing.assert_array_equal(undone, before)
    np.testing.assert_array_equal(redone, written)
