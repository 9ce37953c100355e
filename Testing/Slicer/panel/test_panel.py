"""The panel on small invented volumes, with the real worker behind it."""

import os
import signal

import numpy as np
import pytest
import slicer

from InContextSegLib.progress import exhausted
from InContextSegLib.volumes.files import write_volume
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume
from InContextSegLib.volumes.overlap import dice
from InContextSegSlicer.install.environment import SlicerEnvironment
from InContextSegSlicer.scene import bridge
from InContextSegSlicer.worker.shared import SharedWorker
from Testing.Slicer.harness import app
from Testing.Slicer.radiologist import Radiologist, mask

SHAPE = (10, 48, 48)
SPACING = (1.0, 1.0, 3.0)
BALLS = ((5, 24, 22), 10), ((4, 26, 27), 11), ((5, 22, 25), 12)


def ball(centre, radius):
    k, j, i = np.indices(SHAPE)
    return np.hypot(np.hypot((k - centre[0]) * 3, j - centre[1]), i - centre[2]) < radius


def patient(scene, name, number, affine=None):
    """A volume with a bright ball, and its segmentation."""
    inside = ball(*BALLS[number])
    noise = np.random.default_rng(number).normal(0, 10, SHAPE)
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(volume, (80 + 120 * inside + noise).astype(np.int16))
    matrix = np.diag([*SPACING, 1.0]) if affine is None else affine
    volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    volume.CreateDefaultDisplayNodes()
    segmentation = bridge.ensureSegmentation(scene, volume, f"{name} labels")
    identifier = bridge.ensureSegment(segmentation, "ball", colour=(0.9, 0.2, 0.1))
    writer = bridge.SegmentWriter(scene, slicer.vtkMRMLSegmentEditorNode())
    exhausted(writer.write(volume, segmentation, inside.astype(np.uint8), (0, 0, 0), {1: identifier}, "nothing"))
    return volume, segmentation, inside


@pytest.fixture
def ownWorker(monkeypatch):
    """Nobody has a worker before the test."""
    monkeypatch.setattr(SharedWorker, "users", [])


@pytest.fixture
def doctor(scene, standingWorker):
    doctor = Radiologist()
    doctor.hurry()
    yield doctor
    doctor.close()


@pytest.fixture
def ready(doctor, scene):
    """A panel with one patient as the example and another as the target: doctor, target, its truth."""
    doctor.teach(*patient(scene, "Teacher", 0)[:2])
    target, _labels, truth = patient(scene, "Target", 1)
    doctor.choose(target)
    return doctor, target, truth


def test_with_nothing_installed_the_panel_opens_explains_and_starts_no_worker(scene, ownWorker, monkeypatch):
    monkeypatch.setattr(SlicerEnvironment, "versions", lambda self: {"numpy": "2.4.6"})
    doctor = Radiologist()
    doctor.picture("nothing_installed", view=None)
    assert not doctor.ui.installFrame.isHidden()
    assert "PyTorch" in doctor.panel.install.ui.headlineLabel.text
    for name in ("segmentButton", "checkButton", "previewButton", "addFilesButton"):
        assert not getattr(doctor.ui, name).enabled
    assert doctor.ui.addButton.enabled, "examples can be chosen meanwhile"
    assert doctor.controller.client.state == "stopped"
    doctor.close()


def test_what_is_missing_is_said_in_a_sentence(doctor, scene):
    doctor.press("segmentButton")
    assert "No volume to segment is chosen" in doctor.status
    volume, _labels, _inside = patient(scene, "Target", 0)
    doctor.choose(volume)
    doctor.press("segmentButton")
    assert "no labelled examples" in doctor.status
    doctor.press("addButton")
    assert doctor.status == "" or "Choose a labelled volume" in doctor.status
    doctor.teach(*patient(scene, "Teacher", 1)[:2])
    doctor.ui.segmentsTable.item(0, 0).setCheckState(app.qt.Qt.Unchecked)
    doctor.press("segmentButton")
    assert "No segment is ticked" in doctor.status
    doctor.press("acceptButton")
    assert "Choose the volume at the top, and the segmentation" in doctor.status


def test_a_result_goes_where_it_was_told_and_keeps_colour_and_name(ready):
    doctor, target, truth = ready
    doctor.ui.segmentsTable.item(0, 1).setText("Kugel")
    doctor.press("segmentButton")
    doctor.wait()
    assert dice(mask(doctor.output, target, "Kugel"), truth) > 0.7, doctor.status
    segmentation = doctor.output.GetSegmentation()
    made = segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName("Kugel"))
    assert made.GetColor() == pytest.approx((0.9, 0.2, 0.1))


def test_what_the_user_drew_in_the_output_survives_a_second_result(ready, scene):
    doctor, target, _truth = ready
    doctor.press("segmentButton")
    doctor.wait()
    identifier = doctor.output.GetSegmentation().GetSegmentIdBySegmentName("ball")
    stroke = np.ones((1, 3, 3), np.uint8)
    writer = bridge.SegmentWriter(scene, slicer.vtkMRMLSegmentEditorNode())
    exhausted(writer.write(target, doctor.output, stroke, (0, 1, 1), {1: identifier}, "nothing"))
    forget_made(doctor.output, identifier, target)
    doctor.press("segmentButton")
    doctor.wait()
    assert mask(doctor.output, target, "ball")[0, 1:4, 1:4].all()


def forget_made(segmentation, identifier, volume):
    """A stroke of the Segment Editor carries no mark; here it was written by the same hand as results."""
    from InContextSegSlicer.scene.voxelsets import MADE_TAG

    segment = segmentation.GetSegmentation().GetSegment(identifier)
    segment.RemoveTag(MADE_TAG)


def test_slices_drawn_in_the_target_itself_teach_and_stay(doctor, scene):
    target, labels, truth = patient(scene, "Target", 1)
    doctor.choose(target)
    doctor.panel.parameters.output = labels
    identifier = labels.GetSegmentation().GetNthSegmentID(0)
    writer = bridge.SegmentWriter(scene, slicer.vtkMRMLSegmentEditorNode())
    drawn = truth.astype(np.uint8)
    drawn[[0, 1, 2, 4, 5, 7, 8, 9]] = 0
    exhausted(writer.write(target, labels, drawn, (0, 0, 0), {1: identifier}, "all"))
    forget_made(labels, identifier, target)
    doctor.teach(target, labels)
    (row,) = doctor.panel.examples.rows()
    assert (row.slices, row.axis) == ((3, 6), "axial")
    doctor.press("segmentButton")
    doctor.wait()
    found = mask(labels, target, "ball")
    assert np.array_equal(found[[3, 6]], truth[[3, 6]]), doctor.status
    assert found[[4, 5]].any()


def test_a_region_of_interest_bounds_the_result(ready, scene):
    doctor, target, truth = ready
    region = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Region")
    region.SetXYZ(24, 24, 3.0)
    region.SetRadiusXYZ(30, 30, 7.0)
    doctor.panel.parameters.region = region
    doctor.press("segmentButton")
    doctor.wait()
    found = mask(doctor.output, target)
    assert not found[4:].any(), doctor.status
    assert found[:4].any() or not truth[:4].any()


def test_files_teach_without_being_loaded(doctor, scene, tmp_path):
    inside = ball(*BALLS[0])
    geometry = Geometry(SHAPE, np.diag([*SPACING, 1.0]))
    noise = np.random.default_rng(0).normal(0, 10, SHAPE)
    image, labels = tmp_path / "Bild ü.nii.gz", tmp_path / "labels.nii.gz"
    write_volume(image, Volume((80 + 120 * inside + noise).astype(np.int16), geometry, Kind.INTENSITY))
    write_volume(labels, Volume(3 * inside.astype(np.uint8), geometry, Kind.LABELS))
    app.answers.give("QFileDialog.getOpenFileName", str(image))
    app.answers.give("QFileDialog.getOpenFileName", str(labels))
    doctor.press("addFilesButton")
    doctor.wait()
    assert doctor.ui.examplesTable.item(0, 1).text() == "3 label 3", doctor.status
    doctor.ui.examplesTable.item(0, 1).setText("3 ball")
    target, _labels, truth = patient(scene, "Target", 1)
    doctor.choose(target)
    doctor.press("segmentButton")
    doctor.wait()
    assert dice(mask(doctor.output, target, "ball"), truth) > 0.7, doctor.status
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1, "only the target"


@pytest.mark.parametrize("moment", ["starting", "handing over", "computing"])
def test_a_killed_worker_is_reported_changes_nothing_and_the_next_one_works(ownWorker, ready, moment):
    doctor, target, truth = ready
    client = doctor.controller.client
    assert app.pump(60, until=lambda: client.state == "ready" or moment == "starting")
    doctor.press("segmentButton")
    if moment == "computing":
        assert app.pump(60, until=lambda: doctor.controller.progress.total > 0)
    os.kill(client._transport.pid, signal.SIGKILL)
    doctor.wait()
    if doctor.controller.state == "failed":
        assert "worker process" in doctor.status
        assert doctor.output is None
        doctor.press("segmentButton")
        doctor.wait()
    assert dice(mask(doctor.output, target), truth) > 0.7, doctor.status


def test_a_scene_closed_while_the_worker_computes_leaves_a_panel_that_works(ready, scene):
    doctor, _target, _truth = ready
    doctor.press("segmentButton")
    assert app.pump(60, until=lambda: doctor.controller.progress.total > 0)
    scene.Clear()
    doctor.wait()
    doctor.teach(*patient(scene, "Teacher", 0)[:2])
    target, _labels, truth = patient(scene, "Target", 1)
    doctor.choose(target)
    doctor.hurry()
    doctor.press("segmentButton")
    doctor.wait()
    assert dice(mask(doctor.output, target), truth) > 0.7, doctor.status


def test_a_preview_that_is_taken_away_while_it_is_computed_never_appears(ready):
    doctor, target, _truth = ready
    doctor.scroll(target, 4)
    doctor.press("previewButton")
    assert app.pump(60, until=lambda: doctor.controller._previewing is not None)
    doctor.press("previewButton")
    assert app.pump(10, until=lambda: not doctor.panel.busy), "nothing is waited for any more"
    app.pump(1)
    assert doctor.controller.preview.node is None


def test_saved_examples_do_in_another_scene_what_they_did_in_this_one(ready, scene, tmp_path):
    doctor, target, truth = ready
    key = doctor.panel.examples.rows()[0].key
    doctor.panel.examples.change(key, slices=(3, 4, 5, 6), axis="axial")
    doctor.press("segmentButton")
    doctor.wait()
    before = mask(doctor.output, target)
    app.answers.give("QFileDialog.getExistingDirectory", str(tmp_path))
    doctor.press("saveExamplesButton")
    doctor.wait()
    assert doctor.status.startswith(f"The examples were saved in {tmp_path}")
    app.answers.give("QFileDialog.getExistingDirectory", str(tmp_path))
    doctor.press("saveExamplesButton")
    assert "holds examples already" in doctor.status
    scene.Clear(0)
    app.pump(0.2)
    target, _labels, truth = patient(scene, "Target", 1)
    doctor.hurry()
    doctor.choose(target)
    app.answers.give("QFileDialog.getExistingDirectory", str(tmp_path))
    doctor.press("addFolderButton")
    doctor.wait()
    (row,) = doctor.panel.examples.rows()
    assert (row.slices, row.axis, row.names) == ((3, 4, 5, 6), "axial", ((1, "ball"),))
    doctor.press("segmentButton")
    doctor.wait()
    np.testing.assert_array_equal(mask(doctor.output, target), before)
    assert dice(before, truth) > 0.5
