"""A radiologist's whole session on real volumes, from an empty scene to a reloaded one."""

import numpy as np
import pytest
import slicer

from InContextSegSlicer import bridge
from Testing.Slicer.harness import app
from Testing.Slicer.radiologist import Radiologist, dice, finish, load, loadLabels, mask

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def sarcoma(scene, data_folder):
    """Three patients with a sarcoma: name, volume, segmentation."""
    folder = data_folder / "ibsi_sts"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    patients = {}
    for case in ("STS_003", "STS_018", "STS_050"):
        volume = load(case, folder / "images_mr_t1" / f"{case}.nii.gz")
        labels = folder / "labels_mr_t1" / f"{case}.nii.gz"
        patients[case] = volume, loadLabels(f"{case} truth", labels, volume, "sarcoma")
    return patients


def test_a_radiologists_whole_session(sarcoma, tmp_path):
    doctor = Radiologist()
    doctor.picture("opened", view=None)
    target, truth = sarcoma["STS_050"]
    truth.GetDisplayNode().SetVisibility(False)
    for case in ("STS_003", "STS_018"):
        doctor.teach(*sarcoma[case])
        sarcoma[case][1].GetDisplayNode().SetVisibility(False)
    doctor.choose(target)
    doctor.picture("examples")

    # Preview, and scroll: it follows.
    doctor.scroll(target, 25)
    doctor.press("previewButton")
    assert doctor.previewed(), doctor.status
    doctor.picture("preview")
    assert "sarcoma" in doctor.controller.outcome.expected
    assert doctor.output is None, "a preview makes nothing that stays"
    doctor.scroll(target, 30)
    app.pump(60, until=lambda: not doctor.controller.preview.pending and not doctor.panel.busy)
    doctor.press("previewButton")
    assert doctor.controller.preview.node is None

    # Segment, and change one's mind.
    doctor.press("segmentButton")
    app.pump(60, until=lambda: doctor.controller.progress and doctor.controller.progress.done > 0)
    doctor.picture("segmenting")
    doctor.press("cancelButton")
    doctor.wait()
    assert "Cancelled" in doctor.status
    assert doctor.output is None

    # Segment to the end.
    doctor.press("segmentButton")
    doctor.wait()
    doctor.picture("segmented")
    assert doctor.output is not None, doctor.status
    first = mask(doctor.output, target, "sarcoma")
    assert dice(first, mask(truth, target)) > 0.5

    doctor.press("undoButton")
    doctor.wait()
    assert not mask(doctor.output, target).any()
    doctor.press("redoButton")
    doctor.wait()
    assert np.array_equal(mask(doctor.output, target, "sarcoma"), first)

    # Correct a slice, accept it, and segment again: it stays as it was drawn.
    doctor.press("nextSliceButton")
    corrected = doctor.panel.views.displayed(target, doctor.controller.outcome.axis)
    assert corrected == doctor.controller.outcome.nextSlice
    draw(doctor.output, target, mask(truth, target), corrected)
    doctor.press("acceptButton")
    doctor.picture("accepted")
    doctor.press("segmentButton")
    doctor.wait()
    again = mask(doctor.output, target, "sarcoma")
    assert np.array_equal(again[corrected], mask(truth, target)[corrected])
    assert dice(again, mask(truth, target)) > 0.5

    # Save, close, reload, go on.
    path = tmp_path / "Sitzung ü.mrb"
    assert slicer.util.saveScene(str(path))
    slicer.mrmlScene.Clear()
    app.pump(0.2)
    assert doctor.panel.parameters.target is None
    doctor.picture("closed", view=None)
    slicer.util.loadScene(str(path))
    app.pump(0.2)
    assert doctor.panel.parameters.target.GetName() == "STS_050"
    rows = doctor.panel.examples.rows()
    assert [row.volume.GetName() for row in rows] == ["STS_003", "STS_018", "STS_050"]
    assert rows[2].slices == (corrected,)
    target = doctor.panel.parameters.target
    assert np.array_equal(mask(doctor.output, target, "sarcoma"), again)
    doctor.view("Red").showVolume(target)
    doctor.press("segmentButton")
    doctor.wait()
    doctor.picture("continued")
    assert np.array_equal(mask(doctor.output, target, "sarcoma")[corrected], again[corrected])
    folder = doctor.controller.client.folder
    assert folder.is_dir()
    doctor.close()
    assert not folder.exists()


def draw(segmentation, volume, truth, index):
    """Draw the truth on one slice, as the Segment Editor would."""
    (identifier,) = bridge.segmentNames(segmentation)
    writer = bridge.SegmentWriter(slicer.mrmlScene, slicer.vtkMRMLSegmentEditorNode())
    block = truth[index : index + 1].astype(np.uint8)
    finish(writer.write(volume, segmentation, block, (index, 0, 0), {1: identifier}, "all"))
