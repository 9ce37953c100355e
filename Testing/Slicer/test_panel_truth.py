"""What the panel shows is so: status, buttons, expectations, overlays; and it belongs to what is chosen now."""

import pytest

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
