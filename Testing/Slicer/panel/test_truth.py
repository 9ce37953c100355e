"""What the panel shows is so: status, buttons, expectations, overlays; and it belongs to what is chosen now."""

import numpy as np
import pytest

from InContextSegLib.errors import OutputError
from Testing.Slicer.harness import app
from Testing.Slicer.impatient import Impatient, labelsOf, volumeOf


@pytest.fixture
def doctor(scene, monkeypatch):
    doctor = Impatient(monkeypatch)
    yield doctor
    doctor.close()


def test_no_patient_is_shown_with_the_picture_of_another(doctor, scene):
    doctor.ready()
    assert not doctor.ui.examplesTable.item(0, 0).icon().isNull()
    scene.Clear(0)
    other = volumeOf("Other")  # under the identifier that "Teacher" had
    segmentation = labelsOf(other)
    doctor.widget._timer.stop()
    doctor.panel.teaching.add(other, segmentation)
    assert doctor.ui.examplesTable.item(0, 0).icon().isNull()


def test_an_example_without_a_picture_does_not_take_the_others_theirs(doctor, scene):
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
    doctor.teach(empty, labelsOf(volumeOf("Drawn")))
    doctor.ready()
    assert doctor.ui.examplesTable.item(0, 0).icon().isNull()
    assert not doctor.ui.examplesTable.item(1, 0).icon().isNull()


def test_an_example_that_is_gone_cannot_be_ticked(doctor, scene):
    doctor.ready()
    scene.RemoveNode(scene.GetFirstNodeByName("Teacher"))
    app.pump(0.1)
    item = doctor.ui.examplesTable.item(0, 0)
    assert item.text() == "(removed volume)"
    assert not item.flags() & app.qt.Qt.ItemIsUserCheckable


@pytest.mark.parametrize(("fail", "status"), [(None, "Done in"), (("Bug", "It broke."), "It broke.")])
def test_how_work_ended_is_shown_whatever_was_said_before_it(doctor, fail, status):
    _labels, target = doctor.ready()
    doctor.segment()
    doctor.scroll(target, 3)
    doctor.press("acceptButton")
    assert doctor.status == "Axial slice 3 teaches now."
    doctor.worker.fail = fail
    doctor.segment()
    assert doctor.status.startswith(status)


def test_a_preview_that_is_switched_off_while_it_is_computed_does_not_come(doctor):
    _labels, target = doctor.ready()
    doctor.press("previewButton")
    assert doctor.previewed()
    doctor.worker.hold = True
    doctor.scroll(target, 3)
    doctor.asked("preview", times=2)
    doctor.press("previewButton")
    doctor.worker.hold = False
    doctor.settle()
    assert doctor.controller.preview.node is None


def test_a_preview_that_is_switched_off_before_it_is_asked_for_keeps_nobody_waiting(doctor):
    doctor.ready()
    doctor.press("previewButton")
    assert doctor.previewed()
    doctor.controller.showPreview(doctor.panel.order(), "axial", 2)
    doctor.press("previewButton")
    assert not doctor.panel.busy


def test_cancelling_a_preview_ends_it(doctor):
    doctor.ready()
    doctor.worker.hold = True
    doctor.press("previewButton")
    doctor.asked("prepare")
    doctor.press("cancelButton")
    doctor.worker.hold = False
    app.pump(0.3)
    assert not doctor.ui.previewButton.checked
    assert "preview" not in doctor.worker.asked


def test_a_result_takes_the_place_of_the_preview(doctor):
    doctor.ready()
    doctor.press("previewButton")
    assert doctor.previewed()
    doctor.segment()
    assert doctor.controller.preview.node is None and not doctor.ui.previewButton.checked


@pytest.mark.parametrize("do", ["segment", "preview"])
def test_a_new_scene_has_nothing_of_what_was_computed_for_the_last_one(doctor, scene, do):
    _labels, target = doctor.ready()
    if do == "preview":
        doctor.press("previewButton")
        assert doctor.previewed()
    doctor.worker.hold = True
    if do == "preview":
        doctor.scroll(target, 3)
    else:
        doctor.press("segmentButton")
    doctor.asked(do, times=2 if do == "preview" else 1)
    scene.Clear(0)
    assert not doctor.panel.busy and doctor.status == ""
    volumeOf("Fresh")  # under an identifier that the last scene had, too
    doctor.worker.hold = False
    app.pump(0.3)
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
    assert doctor.status == ""


def test_a_failure_is_forgotten_with_its_scene(doctor, scene):
    doctor.ready()
    doctor.worker.fail = "Bug", "It broke."
    doctor.segment()
    assert doctor.status == "It broke."
    scene.Clear(0)
    assert doctor.status == ""


def test_expectations_and_doubts_are_those_of_the_present_examples(doctor):
    doctor.ready()
    doctor.press("checkButton")
    doctor.wait()
    dice, agreement = doctor.ui.segmentsTable.item(0, 2), doctor.ui.examplesTable.item(0, 3)
    assert (dice.text(), agreement.text()) == ("0.80 ± 0.10", "⚠ disagrees")
    other = volumeOf("Other")
    doctor.teach(other, labelsOf(other))
    assert (dice.text(), agreement.text()) == ("", "")
    doctor.ui.examplesTable.selectRow(1)
    doctor.press("removeButton")
    assert (dice.text(), agreement.text()) == ("0.80 ± 0.10", "⚠ disagrees")
    doctor.set(preset="fast")
    assert (dice.text(), agreement.text()) == ("", "")


def test_of_a_result_its_verdict_is_shown_and_what_speaks_against_it(doctor):
    doctor.ready()
    doctor.segment()
    dice = doctor.ui.segmentsTable.item(0, 2)
    assert (dice.text(), dice.toolTip()) == ("0.63, look at it", "too small")


def test_the_slice_worth_labelling_is_one_of_the_volume_to_segment(doctor, scene):
    _labels, target = doctor.ready()
    doctor.segment()
    doctor.scroll(target, 3)
    doctor.press("acceptButton")
    assert doctor.ui.nextSliceButton.enabled, "what teaches does not matter to it"
    doctor.choose(volumeOf("Other"))
    assert not doctor.ui.nextSliceButton.enabled
    doctor.choose(target)
    assert doctor.ui.nextSliceButton.enabled
    scene.RemoveNode(target)
    app.pump(0.1)
    assert not doctor.ui.nextSliceButton.enabled


def test_the_axis_is_that_of_the_volume_to_segment(doctor):
    doctor.ready()
    doctor.press("checkButton")
    doctor.wait()
    coronal = np.array([[1.0, 0, 0, 0], [0, 0, 3, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    doctor.choose(volumeOf("Other", affine=coronal))
    assert doctor.panel.axisName() == "coronal"


def overlay(doctor, view="Red"):
    """What lies over the volume in a view, and how opaque."""
    composite = doctor.view(view).sliceLogic().GetSliceCompositeNode()
    return composite.GetForegroundVolumeID(), pytest.approx(composite.GetForegroundOpacity())


def test_the_overlay_is_the_uncertainty_of_the_volume_to_segment(doctor, scene):
    _labels, target = doctor.ready()
    doctor.set(showUncertainty=True)
    doctor.segment()
    first = doctor.controller.uncertaintyOf(target)
    assert overlay(doctor)[0] == first.GetID()
    other = volumeOf("Other")
    doctor.choose(other)
    app.pump(0.1)
    assert not overlay(doctor)[0] and not doctor.ui.uncertaintyBox.enabled
    doctor.segment()
    assert overlay(doctor)[0] == doctor.controller.uncertaintyOf(other).GetID()
    assert doctor.controller.uncertaintyOf(other).GetName() == "Other uncertainty"
    doctor.choose(target)
    app.pump(0.1)
    assert overlay(doctor)[0] == first.GetID()


def test_an_overlay_of_the_users_comes_back_as_it_was(doctor):
    doctor.ready()
    doctor.segment()
    composite = doctor.view("Red").sliceLogic().GetSliceCompositeNode()
    composite.SetForegroundVolumeID(volumeOf("PET").GetID())
    composite.SetForegroundOpacity(0.3)
    before = overlay(doctor)
    doctor.set(showUncertainty=True)
    assert overlay(doctor) != before
    doctor.set(showUncertainty=False)
    assert overlay(doctor) == before
    doctor.set(showUncertainty=True)
    doctor.scene.RemoveNode(doctor.controller.uncertaintyOf(doctor.panel.parameters.target))
    app.pump(0.1)
    doctor.panel.refresh()
    assert overlay(doctor) == before


def test_a_removed_uncertainty_is_no_error_of_the_next_segmentation(doctor, scene):
    _labels, target = doctor.ready()
    doctor.segment()
    scene.RemoveNode(doctor.controller.uncertaintyOf(target))
    doctor.segment()
    assert doctor.status.startswith("Done")
    assert doctor.controller.uncertaintyOf(target) is not None


def test_previews_leave_nothing_in_the_scene(doctor, scene):
    doctor.ready()
    before = scene.GetNumberOfNodes()
    for _ in range(2):
        doctor.press("previewButton")
        assert doctor.previewed()
        doctor.press("previewButton")
    assert scene.GetNumberOfNodes() == before


def test_both_segmentations_of_a_doubted_patient_are_marked(doctor):
    labels, _target = doctor.ready()
    teacher = doctor.scene.GetFirstNodeByName("Teacher")
    second = doctor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Second reader")
    second.GetSegmentation().DeepCopy(labels.GetSegmentation())
    doctor.teach(teacher, second)
    other = volumeOf("Other")
    doctor.teach(other, labelsOf(other))
    doctor.press("checkButton")
    doctor.wait()
    marks = [doctor.ui.examplesTable.item(row, 3).text() for row in range(3)]
    assert marks == ["⚠ disagrees", "⚠ disagrees", "✓"]


def test_a_preview_says_where_no_view_shows_the_volume(doctor):
    doctor.ready()
    doctor.set(axis="coronal")
    doctor.press("previewButton")
    doctor.asked("prepare")
    app.pump(0.3)
    assert "No coronal view shows a slice of the volume" in doctor.status
    doctor.set(axis="axial")
    assert doctor.previewed()


def test_a_removed_uncertainty_is_noticed(doctor, scene, monkeypatch):
    monkeypatch.setattr("InContextSegSlicer.panel.panel.LOOK_EVERY_S", 0.0)
    _labels, target = doctor.ready()
    doctor.segment()
    assert doctor.ui.uncertaintyBox.enabled
    scene.RemoveNode(doctor.controller.uncertaintyOf(target))
    app.pump(0.3)
    assert not doctor.ui.uncertaintyBox.enabled


def test_the_device_on_show_is_the_chosen_one_after_a_download(doctor):
    doctor.ready()
    doctor.set(device="cpu", model="universeg-v1")
    doctor.press("modelButton")
    doctor.settle()
    assert doctor.ui.deviceBox.itemData(doctor.ui.deviceBox.currentIndex) == "cpu"


def test_markup_in_a_name_is_shown_as_it_is(doctor):
    assert doctor.ui.statusLabel.textFormat == app.qt.Qt.PlainText


def test_a_panel_opens_where_no_folder_can_be_made_for_the_worker(scene, monkeypatch):
    def full(_parent=None):
        raise OutputError("The disk is full; make room.")

    monkeypatch.setattr("InContextSegLib.worker.shared_arrays.SharedFolder.make", full)
    doctor = Impatient(monkeypatch)
    assert doctor.status == "The disk is full; make room."
    doctor.ready()
    doctor.segment()
    assert doctor.status == "The disk is full; make room."
    doctor.close()


def test_a_batch_keeps_its_examples_when_the_scene_is_closed(doctor, scene):
    doctor.ready()
    doctor.segment()
    names = [name for name, _size in doctor.controller.handover._kept.values()]
    doctor.worker.hold = True
    doctor.controller.askAlongside("device", {})
    scene.Clear()
    assert names and all((doctor.controller.client.folder / name).exists() for name in names)
    doctor.worker.hold = False
    app.pump(0.2)
    scene.Clear()
    app.pump(0.2)
    assert not any((doctor.controller.client.folder / name).exists() for name in names)
