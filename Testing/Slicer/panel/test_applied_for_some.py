"""Slices that were applied for one segment say nothing of the others: in the panel, its tasks, results and table."""

from dataclasses import replace

import numpy as np
import pytest
import slicer
import vtk

from InContextSegLib.cli.phantom import KIDNEYS, LIVER, phantom
from InContextSegLib.errors import InputError
from InContextSegLib.progress import exhausted
from InContextSegLib.volumes.overlap import dice
from InContextSegSlicer.panel.destination import regionOf
from InContextSegSlicer.panel.exampletable import partText
from InContextSegSlicer.panel.order import Order, Wanted, spokenIn, taskOf
from InContextSegSlicer.scene import bridge
from InContextSegSlicer.scene.examples import ExampleRow
from InContextSegSlicer.scene.slicemarks import APPLIED, SliceMarks, mark
from Testing.Slicer.corrector import Corrector
from Testing.Slicer.effect.test_effect import volumeOf as effectVolume
from Testing.Slicer.effect.test_propagation import apply as applySlice
from Testing.Slicer.fivesegments import box, world, writerFor
from Testing.Slicer.harness import app
from Testing.Slicer.impatient import Impatient, volumeOf
from Testing.Slicer.patients import SHAPE, addSegmentation, addVolume, affineOf, draw, turned
from Testing.Slicer.patients import mask as maskOf
from Testing.Slicer.radiologist import Radiologist, mask

ANSWER = {"axis": "axial", "given": []}
NAMES = ("liver", "kidneys")


@pytest.fixture
def doctor(scene, monkeypatch):
    doctor = Impatient(monkeypatch)
    yield doctor
    doctor.close()


def apply(volume, segmentation, **slices):
    """Mark slices as applied for the segments of these names."""
    every = segmentation.GetSegmentation()
    for name, indices in slices.items():
        segment = every.GetSegment(every.GetSegmentIdBySegmentName(name))
        mark(segment, volume, APPLIED, SliceMarks("axial", dict.fromkeys(indices, 1.0)))


def patient(slices, *names, **applied):
    """A volume with a segmentation whose segments reach through all slices, and its row."""
    volume = volumeOf("Volume")
    segmentation = bridge.ensureSegmentation(slicer.mrmlScene, volume, "Drawn")
    writer = bridge.SegmentWriter(slicer.mrmlScene, slicer.vtkMRMLSegmentEditorNode(), byHand=True)
    for number, name in enumerate(names):
        identifier = segmentation.GetSegmentation().AddEmptySegment("", name)
        block = np.ones((8, 4, 3), np.uint8)
        exhausted(writer.write(volume, segmentation, block, (0, 2, 4 * number), {1: identifier}, "nothing"))
    apply(volume, segmentation, **applied)
    return ExampleRow("Example1", volume, segmentation, slices=tuple(slices), axis="axial")


def order(*rows, names=("A", "B"), **others):
    return Order(rows[0].volume, rows[0].segmentation, rows, tuple(Wanted(name, name) for name in names), **others)


def test_a_row_becomes_an_example_for_every_set_of_segments_that_its_slices_speak_of(doctor):
    row = patient((1, 2, 3, 4, 5), "A", "B", "C", A=(1, 3, 5), B=(2, 3), C=(4,))
    task = exhausted(taskOf(order(row), doctor.controller.handover))
    assert [(each.slices, each.known, each.source) for each in task.examples] == [
        ((1, 5), (1,), "Example1"),
        ((2,), (2,), "Example1"),
        ((3,), None, "Example1"),
    ]
    fetch = doctor.controller.client.fetch
    held = [
        {int(value) for _index, name in each.labels.slices for value in np.unique(fetch(name))}
        for each in task.examples
    ]
    assert held == [{0, 1}, {0, 2}, {0, 1, 2}]


def test_a_slice_that_a_person_chose_as_a_whole_speaks_of_all(doctor):
    row = patient((1, 6), "A", "B", A=(1,))
    task = exhausted(taskOf(order(row), doctor.controller.handover))
    assert [(each.slices, each.known) for each in task.examples] == [((1,), (1,)), ((6,), None)]
    task = exhausted(taskOf(order(patient((1, 6), "A", "B")), doctor.controller.handover))
    assert [(each.slices, each.known) for each in task.examples] == [((1, 6), None)]


def test_a_slice_that_a_person_accepts_in_the_panel_speaks_of_all_from_then_on(doctor):
    row = patient((1, 2), "A", "B", A=(1, 2))
    doctor.panel.parameters.target, doctor.panel.parameters.output = row.volume, row.segmentation
    doctor.panel.examples.add(row)
    view = slicer.app.layoutManager().sliceWidget("Red")
    view.showVolume(row.volume)
    view.mrmlSliceNode().RotateToVolumePlane(row.volume)
    assert bridge.jumpTo(view.mrmlSliceNode(), row.volume, 0, 2)
    doctor.ui.acceptButton.click()
    (row,) = doctor.panel.examples.rows()
    task = exhausted(taskOf(order(row), doctor.controller.handover))
    assert [(each.slices, each.known) for each in task.examples] == [((1,), (1,)), ((2,), None)]


def test_a_slice_that_was_applied_says_nothing_of_a_segment_of_another_patient(doctor):
    rows = patient((1, 6), "A", A=(1,)), replace(patient((2, 5), "B", B=(2, 5)), key="Example2")
    task = exhausted(taskOf(order(*rows), doctor.controller.handover))
    assert [(each.slices, each.known) for each in task.examples] == [((1,), (1,)), ((6,), None), ((2, 5), (2,))]


def test_a_file_says_too_of_which_labels_its_slices_tell(doctor):
    names = (3, "A"), (7, "B")
    row = ExampleRow("Example1", imagePath="a", labelsPath="b", slices=(1, 2, 4), axis="axial", names=names)
    row = replace(row, told=((1, (3,)), (4, (7,))))
    doctor.panel.examples.add(row)
    assert doctor.panel.examples.rows() == (row,), "as the scene keeps it"
    task = exhausted(taskOf(order(row), doctor.controller.handover))
    assert [(each.slices, each.values, each.known) for each in task.examples] == [
        ((1,), ((3, 1),), (1,)),
        ((2,), ((3, 1), (7, 2)), None),
        ((4,), ((7, 2),), (2,)),
    ]
    assert partText(row) == ["1: A only", "4: B only"]


def test_where_no_slice_speaks_of_what_is_wanted_it_is_refused(doctor):
    row = patient((1, 6), "A", "B", B=(1, 6))
    with pytest.raises(InputError, match="No example shows A; add one that does, or tick other segments"):
        exhausted(taskOf(order(row, names=("A",)), doctor.controller.handover))


def test_what_was_applied_stays_and_the_others_may_change_there(scene):
    row = patient((1, 2, 3, 4), "A", "B", "C", A=(1, 3), B=(2, 3), C=(4,))
    ids = {name: identifier for identifier, name in bridge.segmentNames(row.segmentation).items()}
    region = regionOf(order(row), row.segmentation, ANSWER | {"given": [1, 2, 3]}, {name: ids[name] for name in "AB"})

    def slab(index):
        return ((index, 0, 0), (index + 1, 14, 12))

    assert region.outside == (slab(3),)
    assert region.kept == {ids["A"]: (slab(1),), ids["B"]: (slab(2),), ids["C"]: (slab(4),)}


def test_a_result_that_goes_into_another_segment_leaves_the_applied_one_alone_too(scene):
    row = patient((1, 2), "A", "B", "A found", A=(1,), B=(2,))
    ids = {name: identifier for identifier, name in bridge.segmentNames(row.segmentation).items()}
    region = regionOf(order(row), row.segmentation, ANSWER, {"A": ids["A found"], "B": ids["B"]})
    assert set(region.kept) == {ids["A"], ids["A found"], ids["B"]}
    assert region.kept[ids["A"]] == region.kept[ids["A found"]] != region.kept[ids["B"]]


@pytest.mark.parametrize("overwrite", ["all", "visible", "none"])
@pytest.mark.parametrize("replace", ["made", "all", "nothing"])
def test_a_kept_segment_neither_gains_nor_gives_voxels_while_others_change(scene, overwrite, replace):
    volume, segmentation = world(scene)
    writer, _ = writerFor(scene, segmentation, volume, overwrite)
    before = {each: maskOf(segmentation, each) for each in "ABCDE"}
    slab, labels = box((6, 0, 0), (9, *SHAPE[1:])), np.zeros(SHAPE, np.uint8)
    labels[4:12, 3:12, 4:20], labels[4:12, 12:18, 4:20] = 1, 2
    region = bridge.Region(None, (), {"B": (((6, 0, 0), (9, *SHAPE[1:])),), "D": (((7, 0, 0), (8, *SHAPE[1:])),)})
    exhausted(writer.write(volume, segmentation, labels, (0, 0, 0), {1: "B", 2: "E"}, replace, region))
    after = {each: maskOf(segmentation, each) for each in "ABCDE"}
    assert np.array_equal(after["B"] & slab, before["B"] & slab)
    assert np.array_equal(after["D"][7], before["D"][7])
    expected = (labels == 2) & ~(before["B"] & slab)
    expected[7] &= ~before["D"][7]
    assert np.array_equal(after["E"], expected) and after["E"][6:9].any()
    assert np.array_equal(after["B"][[5, 9]] & (labels[[5, 9]] == 1), labels[[5, 9]] == 1)
    exhausted(writer.undo())
    assert all(np.array_equal(maskOf(segmentation, each), before[each]) for each in before)


def test_a_kept_segment_on_another_grid_gives_no_voxel_either(scene):
    volume, segmentation = world(scene)
    finer = affineOf(turned(20, -15, 35) @ np.diag([0.7, 0.9, 0.8]))
    drawn = np.zeros(SHAPE, bool)
    drawn[5:15, 5:20, 5:20] = True
    draw(scene, segmentation, "E", drawn, finer)
    before = maskOf(segmentation, "E")
    writer, _ = writerFor(scene, segmentation, volume, "all")
    region = bridge.Region(None, (), {"E": (((0, 0, 0), SHAPE),)})
    exhausted(writer.write(volume, segmentation, np.ones(SHAPE, np.uint8), (0, 0, 0), {1: "A"}, "made", region))
    assert np.array_equal(maskOf(segmentation, "E"), before)
    assert maskOf(segmentation, "A").sum() > before.sum()


def test_the_table_says_which_slices_speak_of_some_segments_only(scene):
    row = patient((1, 2, 3, 4, 6), "A", "B", A=(1, 3, 4), B=(2, 3))
    assert partText(row) == ["1, 4: A only", "2: B only"]
    assert partText(patient((1, 2), "A", "B")) == []
    assert partText(ExampleRow("Example2", imagePath="a", labelsPath="b")) == []


def test_the_tool_tip_follows_what_is_applied(doctor):
    row = patient((1, 2), "A", "B", A=(1,))
    doctor.panel.examples.add(row)
    app.pump(0.3)
    slices = doctor.ui.examplesTable.item(0, 2)
    assert slices.toolTip() == "axial slices, counted from 0\n1: A only"
    apply(row.volume, row.segmentation, B=(1,))
    doctor.panel.refresh()
    assert slices.toolTip() == "axial slices, counted from 0"


@pytest.mark.parametrize("existing", ["made", "all"])
def test_a_result_of_the_panel_comes_to_slices_that_were_applied_for_another_segment(doctor, existing):
    row = patient((3, 4), "A", "B", A=(3,), B=(4,))
    drawn = {name: mask(row.segmentation, row.volume, name) for name in "AB"}
    doctor.panel.examples.add(row)
    doctor.choose(row.volume)
    doctor.set(output=row.segmentation, existing=existing)
    doctor.segment()
    assert doctor.status.startswith("Done")
    after = {name: mask(row.segmentation, row.volume, name) for name in "AB"}
    found = np.zeros_like(drawn["A"])
    found[2:5, 3:9, 3:9] = True  # the worker finds A there, and B nowhere
    assert np.array_equal(after["A"][3], drawn["A"][3]), "it was applied"
    byHand = drawn["A"][4] if existing == "made" else False
    assert np.array_equal(after["A"][4], (found[4] & ~drawn["B"][4]) | byHand), "only B was applied"
    assert np.array_equal(after["B"][4], drawn["B"][4])
    doctor.press("undoButton")
    doctor.wait()
    assert all(np.array_equal(mask(row.segmentation, row.volume, name), drawn[name]) for name in "AB")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_organ_applied_on_some_slices_is_found_by_the_real_network_where_another_was_applied(scene):
    image, truth = phantom(4, (24, 96, 96), (7.0, 3.6, 3.6), tilt_degrees=0.0)
    volume = addVolume(scene, image.array, image.geometry.affine, "Patient")
    volume.CreateDefaultDisplayNodes()
    segmentation = addSegmentation(scene, volume, "Drawn", NAMES)
    wanted = dict(zip(NAMES, (truth.array == LIVER, truth.array == KIDNEYS), strict=True))
    both = np.flatnonzero(np.all([each.any(axis=(1, 2)) for each in wanted.values()], axis=0)).tolist()
    slices = {"liver": both[::4], "kidneys": both[2::4]}
    for name, indices in slices.items():
        drawn = np.zeros_like(wanted[name])
        drawn[indices] = wanted[name][indices]
        draw(scene, segmentation, name, drawn, image.geometry.affine)
    apply(volume, segmentation, **slices)
    doctor = Radiologist()
    try:
        doctor.choose(volume)
        row = ExampleRow(volume=volume, segmentation=segmentation, slices=tuple(sorted(both[::2])), axis="axial")
        doctor.panel.examples.add(row)
        doctor.panel.parameters.output = segmentation
        doctor.press("segmentButton")
        doctor.wait()
        assert doctor.status.startswith("Done"), doctor.status
    finally:
        doctor.close()
    found = {name: mask(segmentation, volume, name) for name in NAMES}
    for name, other in (("liver", "kidneys"), ("kidneys", "liver")):
        assert np.array_equal(found[name][slices[name]], wanted[name][slices[name]]), "it was drawn there"
        scores = [dice(found[name][index], wanted[name][index]) for index in slices[other]]
        print(name, "on slices of", other, np.round(scores, 3))
        assert np.mean(scores) > 0.6, (name, scores)


@pytest.fixture
def corrector(scene, monkeypatch, strictErrors):
    found = Corrector(monkeypatch, *effectVolume(scene))
    yield found
    assert not strictErrors.seen, strictErrors.report()


def spoken(corrector):
    (row,) = corrector.correction.context.examples.rows()
    return spokenIn(row, ("organ", "neighbour"))


def test_a_slice_that_was_taken_back_teaches_nothing_whoever_asks_and_does_again_when_it_is_brought_back(corrector):
    for index in (8, 10):
        applySlice(corrector, index)
    corrector.editor.setActiveEffectByName("")
    corrector.editor.undo()
    assert spoken(corrector) == {8: ("organ",), 10: ()}
    (row,) = corrector.correction.context.examples.rows()
    assert partText(row) == ["8: organ only", "10: nothing, as it was taken back"]
    task = exhausted(taskOf(order(row, names=("organ", "neighbour")), corrector.correction.handover))
    assert [each.slices for each in task.examples] == [(8,)]
    corrector.editor.redo()
    assert spoken(corrector) == {8: ("organ",), 10: ("organ",)}


def test_a_slice_that_a_person_chose_as_a_whole_speaks_of_all_after_one_segment_was_corrected_there(corrector):
    applySlice(corrector, 8)
    examples = corrector.correction.context.examples
    examples.change(examples.rows()[0].key, slices=(8, 12))
    applySlice(corrector, 12)
    assert spoken(corrector) == {8: ("organ",), 12: ("organ", "neighbour")}


def test_what_was_applied_is_known_after_its_volume_was_hardened_into_another_place(corrector):
    applySlice(corrector, 8)
    transform = vtk.vtkTransform()
    transform.RotateX(20)
    for node in (corrector.volume, corrector.segmentation):
        node.ApplyTransform(transform)
    assert spoken(corrector) == {8: ("organ",)}
    corrector.look("Red", 9)
    corrector.settle()
    (example,) = corrector.worker.corrected[-1]["task"]["examples"]
    assert [index for index, _name in example["labels"]["slices"]] == [8]


def test_the_panel_chooses_a_slice_as_a_whole_that_was_applied_for_one_segment(doctor):
    row = patient((3, 4), "A", "B", A=(3, 4))
    doctor.panel.examples.add(replace(row, applied=(3, 4)))
    doctor.choose(row.volume)
    doctor.set(output=row.segmentation)
    assert doctor.panel.views.jump(row.volume, "axial", 4) is not False
    doctor.press("useSliceButton")
    (row,) = doctor.panel.examples.rows()
    assert (row.slices, row.applied, spokenIn(row, ("A", "B"))) == ((3, 4), (3,), {3: ("A",), 4: ("A", "B")})
