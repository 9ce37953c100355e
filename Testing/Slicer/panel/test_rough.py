"""The panel treated roughly: things deleted behind its back, odd volumes and names, workers that fail."""

import re
import time

import numpy as np
import pytest
import slicer

from InContextSegLib.errors import InputError, OutputError
from InContextSegLib.progress import exhausted
from InContextSegSlicer.scene import bridge
from Testing.Slicer.harness import app
from Testing.Slicer.impatient import Impatient, labelsOf, regionAt, sheared, volumeOf
from Testing.Slicer.radiologist import mask


@pytest.fixture
def doctor(scene, monkeypatch):
    doctor = Impatient(monkeypatch)
    yield doctor
    doctor.close()


def test_chosen_examples_are_taken_off_the_list(doctor):
    doctor.ready()
    doctor.ui.examplesTable.selectRow(0)
    doctor.press("removeButton")
    assert doctor.panel.examples.rows() == ()


@pytest.mark.parametrize("table", ["examplesTable", "segmentsTable"])
def test_an_item_that_was_changed_is_not_replaced_while_qt_still_works_with_it(doctor, table):
    doctor.ready()
    item = getattr(doctor.ui, table).item(0, 0)
    item.setCheckState(app.qt.Qt.Unchecked)
    assert item.text()
    assert getattr(doctor.ui, table).item(0, 0).checkState() == app.qt.Qt.Unchecked


def test_a_region_outside_the_volume_is_said_and_the_panel_goes_on(doctor):
    doctor.ready()
    region = regionAt(500, 24, 3)
    doctor.set(region=region)
    doctor.segment()
    assert "'Region' lies outside the volume 'Target'" in doctor.status
    doctor.set(region=None)
    doctor.segment()
    assert doctor.status.startswith("Done")


@pytest.mark.parametrize("name", ["segmentButton", "checkButton", "previewButton", "useSliceButton", "acceptButton"])
def test_a_sheared_target_is_refused_in_a_sentence(doctor, name):
    doctor.ready()
    target = sheared("Sheared")
    doctor.set(output=labelsOf(target))
    doctor.choose(target)
    doctor.press(name)
    doctor.settle()
    assert "are not perpendicular" in doctor.status
    assert not doctor.ui.previewButton.checked


@pytest.mark.parametrize("name", ["segmentButton", "checkButton", "previewButton", "useSliceButton", "acceptButton"])
def test_a_target_without_an_image_is_refused_in_a_sentence(doctor, scene, name):
    labels, _target = doctor.ready()
    doctor.ui.targetSelector.setCurrentNode(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty"))
    doctor.set(region=regionAt(0, 0, 0), output=labels)
    doctor.press(name)
    doctor.settle()
    said = ("No volume to segment", "holds no image", "not a segmentation of 'Empty'")
    assert any(sentence in doctor.status for sentence in said)
    assert not doctor.ui.previewButton.checked


@pytest.mark.parametrize("make", [sheared, lambda: slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "No")])
def test_an_example_that_cannot_be_used_is_refused_in_a_sentence(doctor, make):
    doctor.ready()
    doctor.teach(make(), labelsOf(volumeOf("Other")))
    doctor.segment()
    assert "are not perpendicular" in doctor.status or "holds no image" in doctor.status


def test_examples_that_show_nothing_are_called_so(doctor):
    teacher = volumeOf("Teacher")
    doctor.teach(teacher, bridge.ensureSegmentation(slicer.mrmlScene, teacher, "Labels"))
    doctor.choose(volumeOf("Target"))
    doctor.press("segmentButton")
    assert "The examples show no segments" in doctor.status


def test_a_target_that_goes_away_ends_the_preview(doctor, scene):
    _labels, target = doctor.ready()
    doctor.press("previewButton")
    assert doctor.previewed()
    scene.RemoveNode(target)
    app.pump(0.5)
    assert doctor.controller.preview.node is None and not doctor.ui.previewButton.checked
    assert "No volume to segment" in doctor.status


def test_a_range_the_wrong_way_round_is_refused(doctor):
    doctor.ready()
    doctor.set(useRange=True, firstSlice=5, lastSlice=2)
    doctor.press("segmentButton")
    assert "Slices 5 to 2 were asked for" in doctor.status


@pytest.mark.parametrize("name", ["adaptSecondsBox", "firstSliceBox", "lastSliceBox"])
def test_a_number_that_makes_no_sense_cannot_be_typed(doctor, name):
    doctor.ready()
    doctor.set(adapt=True, useRange=True)
    getattr(doctor.ui, name).setValue(-7)
    assert getattr(doctor.ui, name).value >= 0
    doctor.segment()
    assert doctor.status.startswith("Done")


def test_choices_of_another_version_give_way_to_the_usual_ones_and_that_is_said(doctor):
    doctor.ready()
    doctor.widget.exit()
    node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScriptedModuleNode")
    for name in ("model", "preset"):
        node.SetParameter(name, "of tomorrow")
    doctor.widget.enter()
    assert "model 'of tomorrow'" in doctor.status and "preset 'of tomorrow'" in doctor.status
    assert (doctor.panel.parameters.model, doctor.panel.parameters.preset) == ("default", "normal")
    doctor.segment()
    assert doctor.status.startswith("Done")


def test_widgets_do_not_change_the_scene_while_another_module_is_shown(doctor):
    doctor.ready()
    doctor.widget.exit()
    doctor.ui.adaptBox.setChecked(True)
    assert not doctor.panel.parameters.adapt
    doctor.widget.enter()
    assert not doctor.ui.adaptBox.checked


def test_a_result_that_comes_while_another_module_is_shown_is_there_afterwards(doctor, scene):
    doctor.ready()
    doctor.set(showUncertainty=True)
    doctor.worker.hold = True
    doctor.press("segmentButton")
    doctor.asked("segment")
    doctor.widget.exit()
    doctor.worker.hold = False
    doctor.wait()
    composite = doctor.view("Red").sliceLogic().GetSliceCompositeNode()
    assert composite.GetForegroundVolumeID(), "for those who correct in the Segment Editor"
    doctor.widget.enter()
    assert doctor.output is not None
    assert doctor.ui.outputSelector.currentNode() is doctor.output


def test_the_panel_works_after_its_parameters_were_deleted(doctor, scene):
    doctor.ready()
    scene.RemoveNode(doctor.panel.parameters.parameterNode)
    app.pump(0.3)
    assert doctor.panel.parameters.parameterNode.GetScene() is scene
    doctor.ready()
    doctor.segment()
    assert doctor.status.startswith("Done")


@pytest.mark.parametrize("moment", ["handing over", "computing", "writing"])
@pytest.mark.parametrize("what", ["Target", "Target labels", "Teacher labels"])
def test_what_is_removed_while_it_is_used_leads_to_a_sentence_and_no_more(doctor, scene, what, moment):
    _labels, target = doctor.ready()
    own = labelsOf(target, "mine")
    doctor.set(output=own)
    doctor.worker.hold = moment != "writing"
    if moment == "writing":
        doctor.writing()
    else:
        doctor.press("segmentButton")
    if moment == "computing":
        doctor.asked("segment")
    scene.RemoveNode(scene.GetFirstNodeByName(what))
    doctor.worker.hold = False
    doctor.goOn()
    if doctor.status.startswith("Done"):
        assert moment != "handing over" and what != "Target labels"
    else:
        assert re.search("was removed meanwhile|is no longer in the scene|was closed; open it", doctor.status)
        assert list(bridge.segmentNames(own).values()) == ["mine"]
    doctor.ready()
    doctor.set(output=None)
    doctor.segment()
    assert doctor.status.startswith("Done")


def test_cancelling_while_segments_are_written_leaves_nothing_behind(doctor, scene):
    doctor.ready()
    nodes = scene.GetNumberOfNodes()
    doctor.writing()
    doctor.press("cancelButton")
    doctor.goOn()
    assert doctor.status == "Cancelled; nothing was changed."
    assert doctor.output is None and scene.GetNumberOfNodes() == nodes
    arrays = {path.name for path in doctor.controller.client.folder.glob("*.npy")}
    assert arrays == {name for name, _bytes in doctor.controller.handover._kept.values()}, "what was handed over"


def test_an_answer_whose_array_is_gone_is_a_failure(doctor):
    doctor.ready()
    doctor.worker.hold = True
    doctor.press("segmentButton")
    doctor.asked("segment")
    doctor.controller.client.fetch = lambda name: (_ for _ in ()).throw(InputError("The array is gone."))
    doctor.worker.hold = False
    doctor.wait()
    assert doctor.status == "The array is gone."


def test_a_segment_that_is_there_already_keeps_its_looks(doctor):
    _labels, target = doctor.ready()
    own = labelsOf(target, "ball")
    segment = own.GetSegmentation().GetNthSegment(0)
    segment.SetColor(0.1, 0.2, 0.3)
    doctor.set(output=own)
    doctor.segment()
    assert doctor.status.startswith("Done")
    assert segment.GetColor() == pytest.approx((0.1, 0.2, 0.3))


def test_the_next_patients_result_does_not_replace_the_last_ones(doctor):
    _labels, target = doctor.ready()
    doctor.segment()
    first, found = doctor.output, mask(doctor.output, target)
    doctor.set(useRange=True, firstSlice=5, lastSlice=7)
    doctor.choose(volumeOf("Next", (3, 14, 12)))
    assert doctor.output is None and not doctor.panel.parameters.useRange
    doctor.segment()
    assert doctor.output.GetName() == "Next segmentation"
    assert np.array_equal(mask(first, target), found)


def test_a_segmentation_chosen_for_another_volume_is_used(doctor):
    doctor.ready()
    doctor.segment()
    own = doctor.output
    doctor.choose(volumeOf("The same patient in another sequence"))
    doctor.set(output=own)
    doctor.segment()
    assert doctor.output is own and doctor.status.startswith("Done")


def test_a_result_does_not_spoil_the_segmentation_that_teaches(doctor):
    labels, _target = doctor.ready()
    teacher = doctor.scene.GetFirstNodeByName("Teacher")
    before = mask(labels, teacher)
    doctor.set(output=labels)
    doctor.press("segmentButton")
    assert "would go into 'Teacher labels', which teaches what is in 'Teacher'" in doctor.status
    assert np.array_equal(mask(labels, teacher), before)


KINDS = ("InputError", "OutputError", "WeightsError", "OutOfMemory", "Missing", "Bug")


@pytest.mark.parametrize(
    ("button", "kind"),
    [*(("segmentButton", kind) for kind in KINDS), ("checkButton", "Bug"), ("previewButton", "InputError")],
)
def test_an_error_of_the_worker_is_one_sentence_and_the_panel_goes_on(doctor, kind, button):
    doctor.ready()
    doctor.worker.fail = kind, "A sentence about it."
    doctor.press(button)
    app.pump(0.3)
    doctor.settle()
    assert doctor.status == "A sentence about it."
    assert not doctor.ui.previewButton.checked and not doctor.ui.progressBar.isVisible()
    doctor.worker.fail = None
    doctor.segment()
    assert doctor.status.startswith("Done")


def test_a_worker_that_dies_is_one_sentence_and_the_next_one_works(doctor):
    doctor.ready()
    doctor.worker.hold = True
    doctor.press("segmentButton")
    doctor.asked("segment")
    doctor.worker.dead = True
    doctor.wait()
    assert doctor.status.startswith("The worker process ended in the middle of its work")
    doctor.segment()
    assert doctor.status.startswith("Done")


def test_a_full_disk_is_one_sentence(doctor, monkeypatch):
    def full(*_arguments):
        raise OutputError("The disk is full; make room.")

    doctor.ready()
    monkeypatch.setattr("InContextSegLib.worker.shared_arrays.SharedFolder._require_room", full)
    doctor.segment()
    assert doctor.status == "The disk is full; make room."


@pytest.mark.parametrize("names", [("a, b", "ü 'x' \"y\"", "<b>z</b>", "50%"), ("ball", "ball"), ("Ball", "ball")])
def test_segments_may_have_any_names(doctor, names):
    teacher = volumeOf("Teacher")
    doctor.teach(teacher, labelsOf(teacher, *names))
    target = volumeOf("Target")
    doctor.choose(target)
    doctor.segment()
    assert doctor.status.startswith("Done")
    assert list(bridge.segmentNames(doctor.output).values()) == list(dict.fromkeys(names))
    doctor.press("previewButton")
    assert doctor.previewed()


def test_three_hundred_segments_do_not_hold_the_panel_up(doctor):
    teacher = volumeOf("Teacher", (8, 30, 40))
    labels = bridge.ensureSegmentation(slicer.mrmlScene, teacher, "Labels")
    ids = {number: labels.GetSegmentation().AddEmptySegment("", f"s{number}") for number in range(1, 301)}
    block = (np.arange(1200).reshape(2, 20, 30) % 301).astype(np.uint16)
    writer = bridge.SegmentWriter(slicer.mrmlScene, slicer.vtkMRMLSegmentEditorNode())
    exhausted(writer.write(teacher, labels, block, (2, 3, 3), ids))
    doctor.teach(teacher, labels)
    doctor.choose(volumeOf("Target", (8, 30, 40)))
    for what in (doctor.panel.refresh, doctor.panel.modified, doctor.panel._look):
        start = time.perf_counter()
        what()
        assert time.perf_counter() - start < 0.05
    doctor.segment()
    assert doctor.status.endswith("s8 0.9 ml, and 292 more.")


def test_a_row_that_goes_by_its_own_tick_outlives_the_tick(doctor, monkeypatch):
    monkeypatch.setattr("InContextSegSlicer.panel.panel.LOOK_EVERY_S", 1000)
    teacher = volumeOf("Teacher")
    labels = labelsOf(teacher, "ball", "box")
    doctor.teach(teacher, labels)
    labels.GetSegmentation().GetNthSegment(1).SetName("ball")  # which tells nobody
    item = doctor.ui.segmentsTable.item(1, 0)
    item.setCheckState(app.qt.Qt.Unchecked)
    assert item.text() == "box"
    doctor.panel.refresh()
    assert doctor.ui.segmentsTable.rowCount == 1


def test_a_scene_is_saved_closed_and_read_again_while_a_preview_is_on(doctor, scene, tmp_path):
    path = str(tmp_path / "Szene.mrb")
    for _ in range(2):
        if doctor.panel.parameters.target is None:
            doctor.ready()
        doctor.press("previewButton")
        assert doctor.previewed()
        assert slicer.util.saveScene(path)
        scene.Clear(0)
        assert not doctor.ui.previewButton.checked
        slicer.util.loadScene(path)
        app.pump(0.1)
        names = [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")]
        assert names == ["Teacher labels"], "a preview is not saved"
        doctor.view("Red").showVolume(doctor.panel.parameters.target)
    doctor.segment()
    assert doctor.status.startswith("Done")
