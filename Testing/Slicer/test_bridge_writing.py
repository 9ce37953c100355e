"""Writing obeys the Segment Editor's rules, replaces no more than it should, and is undone to the last voxel."""

import numpy as np
import pytest
import slicer

from InContextSegLib.errors import InputError
from InContextSegSlicer import bridge
from InContextSegSlicer.voxelsets import MADE_TAG
from Testing.Slicer.patients import (
    SHAPE,
    addEditor,
    addSegmentation,
    addVolume,
    affineOf,
    affineOfVolume,
    ball,
    draw,
    finish,
    linear,
    mask,
    masks,
    oriented,
    segmentEditor,
    turned,
    warpGrid,
)

NODE = slicer.vtkMRMLSegmentationNode
EDITOR = slicer.vtkMRMLSegmentEditorNode
OVERWRITE = {
    "all": EDITOR.OverwriteAllSegments,
    "visible": EDITOR.OverwriteVisibleSegments,
    "none": EDITOR.OverwriteNone,
}
AREAS = {
    "everywhere": NODE.EditAllowedEverywhere,
    "inside all": NODE.EditAllowedInsideAllSegments,
    "inside visible": NODE.EditAllowedInsideVisibleSegments,
    "outside all": NODE.EditAllowedOutsideAllSegments,
    "outside visible": NODE.EditAllowedOutsideVisibleSegments,
    "inside one": NODE.EditAllowedInsideSingleSegment,
}
AFFINE = affineOf(turned(20, -15, 35))


@pytest.fixture
def tinyPieces(monkeypatch):
    """Chores of many steps."""
    for name in ("_FIRST_VOXELS", "_FEWEST_VOXELS"):
        monkeypatch.setattr(f"InContextSegSlicer.lattice.{name}", 300)
    monkeypatch.setattr("InContextSegSlicer.lattice._PIECE_S", 1e-7)


def box(low, high):
    made = np.zeros(SHAPE, bool)
    made[tuple(map(slice, low, high))] = True
    return made


def world(scene, name="Segmentation"):
    """A volume of noise and five segments: A has a stroke, B and C share its labelmap, D lies across, E is empty."""
    values = np.random.default_rng(3).integers(-500, 500, SHAPE).astype(np.int16)
    volume = addVolume(scene, values, AFFINE)
    segmentation = addSegmentation(scene, volume, name, ("A", "B", "C", "D", "E"))
    for segment, drawn in (
        ("A", box((1, 1, 1), (3, 4, 5))),
        ("B", box((0, 6, 3), (20, 13, 12))),
        ("C", box((0, 13, 18), (20, 20, 28))),
        ("D", box((4, 5, 5), (14, 15, 25))),
    ):
        draw(scene, segmentation, segment, drawn, AFFINE)
    segmentation.GetDisplayNode().SetSegmentVisibility("C", False)
    return volume, segmentation


def writerFor(scene, segmentation, volume, overwrite="all", area="everywhere", areaSegment=None, intensities=None):
    editor = addEditor(scene, segmentation, volume)
    editor.SetOverwriteMode(OVERWRITE[overwrite])
    editor.SetMaskMode(AREAS[area])
    editor.SetMaskSegmentID(areaSegment)
    if intensities is not None:
        editor.SourceVolumeIntensityMaskOn()
        editor.SetSourceVolumeIntensityMaskRange(*intensities)
    return bridge.SegmentWriter(scene, editor), editor


def two():
    """Labels 1 and 2, side by side."""
    labels = ball().astype(np.uint8)
    labels[:, :, 17:] *= 2
    return labels


@pytest.mark.parametrize("intensities", [None, (-200, 130)])
@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize("overwrite", OVERWRITE)
def test_what_is_written_is_what_the_segment_editor_would_write(scene, overwrite, area, intensities):
    volume, ours = world(scene)
    _, theirs = world(scene, "Theirs")
    areaSegment = "B" if area == "inside one" else None
    writer, _ = writerFor(scene, ours, volume, overwrite, area, areaSegment, intensities)
    before = masks(ours)
    finish(writer.write(volume, ours, two(), (0, 0, 0), {1: "A", 2: "E"}, "nothing"))

    _, editor = writerFor(scene, theirs, volume, overwrite, area, areaSegment, intensities)
    logic = segmentEditor(scene, editor)
    for value, segment in ((1, "A"), (2, "E")):
        editor.SetSelectedSegmentID(segment)
        logic.ModifySegmentByLabelmap(
            theirs, segment, oriented(two() == value, AFFINE), logic.ModificationModeAdd, True, False
        )
    after = masks(ours)
    assert after == masks(theirs)
    finish(writer.undo())
    assert masks(ours) == before
    finish(writer.redo())
    assert masks(ours) == after


def test_neighbours_that_share_a_labelmap_keep_every_voxel(scene):
    volume, segmentation = world(scene)
    before = masks(segmentation)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    finish(writer.write(volume, segmentation, two(), (0, 0, 0), {1: "A", 2: "E"}))
    assert {name: masks(segmentation)[name] for name in "BCD"} == {name: before[name] for name in "BCD"}


def test_outside_the_editable_area_nothing_is_taken_away_either(scene):
    volume, segmentation = world(scene)
    writer, editor = writerFor(scene, segmentation, volume, "none")
    finish(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "E"}))
    editor.SetMaskMode(AREAS["inside one"])
    editor.SetMaskSegmentID("D")
    finish(writer.write(volume, segmentation, np.zeros(SHAPE, np.uint8), (0, 0, 0), {1: "E"}))
    assert np.array_equal(mask(segmentation, "E"), ball() & ~mask(segmentation, "D"))


def test_the_editable_intensities_hold_voxel_by_voxel(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none", intensities=(0, 250))
    finish(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "E"}))
    values = bridge.arrayOf(volume)
    assert np.array_equal(mask(segmentation, "E"), ball() & (values >= 0) & (values <= 250))


def stroke():
    return box((8, 11, 15), (10, 14, 31))


def test_what_was_made_is_replaced_and_what_was_drawn_stays(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    first, second = ball(), ball(centre=(10.0, 10.0, 12.0))
    finish(writer.write(volume, segmentation, first, (0, 0, 0), {1: "A"}))
    drawnFirst = box((1, 1, 1), (3, 4, 5))
    draw(scene, segmentation, "A", stroke(), AFFINE)
    finish(writer.write(volume, segmentation, second, (0, 0, 0), {1: "A"}))
    byHand = drawnFirst | (stroke() & ~first)
    assert np.array_equal(mask(segmentation, "A"), second | byHand)
    # A stroke that a result covered is still a stroke.
    finish(writer.write(volume, segmentation, np.zeros(SHAPE, np.uint8), (0, 0, 0), {1: "A"}))
    assert np.array_equal(mask(segmentation, "A"), byHand)


def test_all_of_a_segment_can_be_replaced(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    before = masks(segmentation)
    finish(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "A"}, "all"))
    assert np.array_equal(mask(segmentation, "A"), ball())
    finish(writer.undo())
    assert masks(segmentation) == before


def test_nothing_can_be_replaced(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    drawn = mask(segmentation, "A")
    first, second = ball(), ball(centre=(10.0, 10.0, 12.0))
    for labels in (first, second):
        finish(writer.write(volume, segmentation, labels, (0, 0, 0), {1: "A"}, "nothing"))
    assert np.array_equal(mask(segmentation, "A"), first | second | drawn)
    finish(writer.write(volume, segmentation, np.zeros(SHAPE, np.uint8), (0, 0, 0), {1: "A"}))
    assert np.array_equal(mask(segmentation, "A"), drawn)


@pytest.mark.parametrize("replace", ["made", "all"])
def test_outside_the_region_nothing_changes(scene, replace):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    finish(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "E"}))
    low, high = (7, 0, 0), (11, *SHAPE[1:])
    again = ball(centre=(9.0, 10.0, 13.0))
    finish(writer.write(volume, segmentation, again, (0, 0, 0), {1: "E"}, replace, bridge.Region((low, high))))
    expected = np.where(box(low, high), again, ball())
    assert np.array_equal(mask(segmentation, "E"), expected)
    finish(writer.write(volume, segmentation, np.zeros(SHAPE, np.uint8), (0, 0, 0), {1: "E"}))
    assert not mask(segmentation, "E").any()


@pytest.mark.parametrize("moved", [False, True])
def test_parts_of_a_region_can_be_left_out(scene, moved):
    volume, segmentation = world(scene)
    segmentation.SetAndObserveTransformNodeID(warpGrid(scene, 0.0).GetID() if moved else None)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    kept = (((8, 0, 0), (9, *SHAPE[1:])), ((12, 0, 0), (14, *SHAPE[1:])))
    region = bridge.Region(((5, 0, 0), SHAPE), kept)
    finish(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "E"}, "made", region))
    allowed = box((5, 0, 0), SHAPE)
    for each in kept:
        allowed &= ~box(*each)
    assert np.array_equal(mask(segmentation, "E"), ball() & allowed)


def test_labels_that_are_not_named_are_not_written_and_several_may_go_to_one_segment(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    labels = two()
    labels[:2] = 7
    written = finish(writer.write(volume, segmentation, labels, (0, 0, 0), {1: "E", 2: "E"}))
    expected = (labels == 1) | (labels == 2)
    assert np.array_equal(mask(segmentation, "E"), expected)
    assert written == {"E": int(expected.sum())}


def test_what_was_made_is_known_after_saving_and_loading(scene, tmp_path):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    finish(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "A"}))
    before = masks(segmentation)
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "leber.seg.nrrd"))
    assert storage.WriteData(segmentation)
    scene.RemoveNode(segmentation)
    again = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert storage.ReadData(again)
    assert masks(again) == before
    writer, _ = writerFor(scene, again, volume, "none")
    finish(writer.write(volume, again, np.zeros(SHAPE, np.uint8), (0, 0, 0), {1: "A"}))
    assert np.array_equal(mask(again, "A"), box((1, 1, 1), (3, 4, 5)))


def test_a_strange_tag_means_that_nothing_was_made(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    for tag in ("?", "QUJD", "e30="):
        segmentation.GetSegmentation().GetSegment("A").SetTag(MADE_TAG, tag)
        finish(writer.write(volume, segmentation, np.zeros(SHAPE, np.uint8), (0, 0, 0), {1: "A"}))
        assert np.array_equal(mask(segmentation, "A"), box((1, 1, 1), (3, 4, 5)))


def test_undo_goes_back_write_by_write_and_leaves_what_was_drawn_since(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume)
    states = [masks(segmentation)]
    for step in range(3):
        labels = ball(centre=(9.0, 12.0, 12.0 + 3 * step))
        finish(writer.write(volume, segmentation, labels, (0, 0, 0), {1: "A"}))
        states.append(masks(segmentation))
    for state in reversed(states[:-1]):
        assert writer.canUndo
        finish(writer.undo())
        assert masks(segmentation) == state
    assert not writer.canUndo
    for state in states[1:]:
        assert writer.canRedo
        finish(writer.redo())
        assert masks(segmentation) == state
    assert not writer.canRedo
    drawn = box((17, 22, 1), (19, 25, 4))
    draw(scene, segmentation, "A", drawn, AFFINE)
    finish(writer.undo())
    assert masks(segmentation)["A"] == states[2]["A"] | {tuple(v[::-1]) for v in np.argwhere(drawn).tolist()}
    finish(writer.write(volume, segmentation, labels, (0, 0, 0), {1: "A"}))
    assert not writer.canRedo
    writer.forget()
    assert not writer.canUndo


def test_undo_does_not_take_voxels_from_whoever_got_them_since(scene):
    volume, segmentation = world(scene)
    writer, editor = writerFor(scene, segmentation, volume)
    finish(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "A"}))
    drawn = box((4, 8, 8), (13, 15, 14))
    draw(scene, segmentation, "E", drawn, AFFINE, editor=editor)
    finish(writer.undo())
    assert np.array_equal(mask(segmentation, "E"), drawn)


def test_undo_works_without_a_segment_that_was_removed_since(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume)
    before = masks(segmentation)
    finish(writer.write(volume, segmentation, two(), (0, 0, 0), {1: "A", 2: "E"}))
    segmentation.GetSegmentation().RemoveSegment("E")
    finish(writer.undo())
    assert masks(segmentation)["A"] == before["A"]
    assert masks(segmentation)["D"] == before["D"]


def test_undo_of_a_segment_that_was_resampled_since_is_refused(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume)
    finish(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "A"}))
    segmentation.SetAndObserveTransformNodeID(linear(scene, (0, 0, 0), (5, 0, 0)).GetID())
    segmentation.HardenTransform()
    before = masks(segmentation)
    with pytest.raises(InputError, match="was resampled or transformed since"):
        finish(writer.undo())
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
    finish(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "A"}))
    history.RestorePreviousState()
    assert masks(segmentation) == before


@pytest.mark.parametrize("after", range(0, 40, 3))
def test_a_write_that_is_dropped_half_way_leaves_nothing_behind(scene, after, tinyPieces):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    before, tags = masks(segmentation), _tags(segmentation)
    chore = writer.write(volume, segmentation, two(), (0, 0, 0), {1: "A", 2: "E"}, "all")
    for _ in range(after):
        next(chore)
    chore.close()
    assert masks(segmentation) == before
    assert _tags(segmentation) == tags
    assert not writer.canUndo


def _tags(segmentation):
    segments = (segmentation.GetSegmentation().GetSegment(segment) for segment in "ABCDE")
    return [segment.HasTag(MADE_TAG) for segment in segments]


@pytest.mark.parametrize("closed", ["scene", "segmentation", "segment"])
def test_what_is_closed_between_two_steps_is_said(scene, closed, tinyPieces):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    before = masks(segmentation)
    chore = writer.write(volume, segmentation, two(), (0, 0, 0), {1: "A", 2: "E"})
    for _ in range(6):
        next(chore)
    {
        "scene": lambda: scene.Clear(1),
        "segmentation": lambda: scene.RemoveNode(segmentation),
        "segment": lambda: segmentation.GetSegmentation().RemoveSegment("E"),
    }[closed]()
    expected = "has no segment 'E'" if closed == "segment" else "was closed"
    with pytest.raises(InputError, match=expected):
        finish(chore)
    if closed == "segment":
        assert masks(segmentation)["A"] == before["A"]
    assert not writer.canUndo


def test_reading_says_when_the_segmentation_is_closed_between_two_steps(scene, tinyPieces):
    volume, segmentation = world(scene)
    chore = bridge.labelsOnGrid(segmentation, {"B": 1}, volume)
    next(chore)
    scene.RemoveNode(segmentation)
    with pytest.raises(InputError, match="was closed"):
        finish(chore)


def test_a_user_may_draw_between_two_steps(scene, tinyPieces):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    chore = writer.write(volume, segmentation, two(), (0, 0, 0), {1: "A", 2: "E"})
    drawn = np.zeros(SHAPE, bool)
    for place in range(16):
        for _ in range(4):
            next(chore, None)
        more = box((place, 21, 2 * place), (place + 1, 25, 2 * place + 1))
        draw(scene, segmentation, "B", more, AFFINE)
        drawn |= more
    finish(chore)
    assert np.array_equal(mask(segmentation, "A"), (two() == 1) | box((1, 1, 1), (3, 4, 5)))
    assert np.array_equal(mask(segmentation, "E"), two() == 2)
    assert np.array_equal(mask(segmentation, "B"), box((0, 6, 3), (20, 13, 12)) | drawn)


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
    written = finish(writer.write(volume, segmentation, labels, (0, 0, 0), ids))
    assert set(written.values()) == {27}
    found = finish(bridge.labelsOnGrid(segmentation, {segment: value for value, segment in ids.items()}, volume))
    assert found.dtype == np.uint16
    assert np.array_equal(found, labels)
    finish(writer.undo())
    assert not finish(bridge.labelsOnGrid(segmentation, {ids[300]: 1}, volume)).any()


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.uint16, np.int16])
def test_labels_may_be_of_any_whole_type(scene, kind):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    finish(writer.write(volume, segmentation, ball().astype(kind), (0, 0, 0), {1: "E"}))
    assert np.array_equal(mask(segmentation, "E"), ball())


def test_read_only_memory_can_be_written_from(scene, tmp_path):
    volume, segmentation = world(scene)
    segmentation.SetAndObserveTransformNodeID(warpGrid(scene, 0.0).GetID())
    np.save(tmp_path / "labels.npy", ball().astype(np.uint8))
    writer, _ = writerFor(scene, segmentation, volume, "none")
    finish(writer.write(volume, segmentation, np.load(tmp_path / "labels.npy", mmap_mode="r"), (0, 0, 0), {1: "E"}))
    assert np.array_equal(mask(segmentation, "E"), ball())


def test_labels_beyond_the_volume_are_left_out(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    labels = np.ones((8, 8, 8), np.uint8)
    assert finish(writer.write(volume, segmentation, labels, (-3, -2, 28), {1: "E"})) == {"E": 5 * 6 * 4}
    assert np.array_equal(mask(segmentation, "E"), box((0, 0, 28), (5, 6, 32)))
    assert finish(writer.write(volume, segmentation, labels, (40, 0, 0), {1: "E"})) == {"E": 0}
    assert not mask(segmentation, "E").any()


def test_a_segmentation_without_a_reference_takes_the_volumes_grid(scene):
    volume, _ = world(scene)
    segmentation = addSegmentation(scene, segments=("A",))
    writer, _ = writerFor(scene, segmentation, volume)
    finish(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "A"}))
    assert np.array_equal(finish(bridge.labelsOnGrid(segmentation, {"A": 1}, volume)) == 1, ball())
    assert np.allclose(affineOfVolume(volume), AFFINE)


def test_surfaces_shown_in_3d_follow(scene):
    volume, segmentation = world(scene)
    segmentation.CreateClosedSurfaceRepresentation()
    inner = segmentation.GetSegmentation()
    surfaces = {name: inner.GetSegment(name).GetRepresentation("Closed surface") for name in "ABCDE"}
    writer, _ = writerFor(scene, segmentation, volume, "none")
    finish(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "A"}))
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
        finish(writer.write(volume, segmentation, labels, (0, 0, 0), {1: "A", 2: "E"}))
        assert heard


def test_a_segment_that_was_not_begun_is_in_progress_afterwards(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, "none")
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    segment = segmentation.GetSegmentation().GetSegment("E")
    logic.SetSegmentStatus(segment, logic.NotStarted)
    finish(writer.write(volume, segmentation, ball(), (0, 0, 0), {1: "E"}))
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
        finish(writer.write(volume, segmentation, **asked))
    assert masks(segmentation) == before


def test_a_segmentation_that_was_closed_is_refused(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume)
    scene.RemoveNode(segmentation)
    with pytest.raises(InputError, match="'Segmentation' was closed"):
        finish(writer.write(volume, segmentation, two(), (0, 0, 0), {1: "A"}))


def test_an_editable_area_inside_a_missing_segment_is_refused(scene):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, area="inside one", areaSegment="gone")
    with pytest.raises(InputError, match="has no segment 'gone'; choose the editable area"):
        finish(writer.write(volume, segmentation, two(), (0, 0, 0), {1: "A"}))


def test_a_segmentation_kept_as_surfaces_is_refused(scene):
    volume, segmentation = world(scene)
    segmentation.CreateClosedSurfaceRepresentation()
    segmentation.GetSegmentation().SetSourceRepresentationName("Closed surface")
    writer, _ = writerFor(scene, segmentation, volume)
    with pytest.raises(InputError, match="is kept as 'Closed surface', which cannot be written to"):
        finish(writer.write(volume, segmentation, two(), (0, 0, 0), {1: "A"}))
