"""A batch from the panel to the files with the real worker, and a finished case opened again."""

import json

import numpy as np
import pytest
import slicer

from InContextSegLib.volumes.files import read_segments, read_volume, write_volume
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume
from InContextSegSlicer.scene import bridge
from Testing.Slicer.harness import app
from Testing.Slicer.patients import GEOMETRIES, affineOf
from Testing.Slicer.radiologist import TIMEOUT_S, Radiologist, load

pytestmark = pytest.mark.timeout(300)
LIVER = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure~"
    "SCT^10200004^Liver~^^~Anatomic codes - DICOM master list~^^~^^"
)
SHAPE = (12, 24, 24)
INSIDE = (slice(3, 9), slice(6, 16), slice(8, 20))


def patient(path, number, directions):
    """A noisy volume with a bright block, in a file; the block."""
    generator = np.random.default_rng(number)
    array = generator.integers(10, 60, SHAPE).astype(np.int16)
    array[INSIDE] += 200
    write_volume(path, Volume(array, Geometry(SHAPE, affineOf(directions))))
    block = np.zeros(SHAPE, np.uint8)
    block[INSIDE] = 1
    return block


@pytest.fixture
def doctor(scene, tmp_path):
    """Before the panel, with one labelled volume as the example; three others are files."""
    (tmp_path / "scans").mkdir()
    block = patient(tmp_path / "example.nrrd", 0, GEOMETRIES["anisotropic"])
    for number, name in enumerate(("oblique", "left-handed", "permuted"), start=1):
        patient(tmp_path / "scans" / f"{name}.nrrd", number, GEOMETRIES[name])
    doctor = Radiologist()
    volume = load("example", tmp_path / "example.nrrd")
    labels = slicer.util.addVolumeFromArray(block, nodeClassName="vtkMRMLLabelMapVolumeNode")
    labels.CopyOrientation(volume)
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labels, segmentation)
    segment = segmentation.GetSegmentation().GetNthSegment(0)
    segment.SetName("liver")
    segment.SetColor(0.9, 0.4, 0.2)
    segment.SetTerminology(LIVER)
    doctor.teach(volume, segmentation)
    doctor.ui.presetBox.setCurrentIndex(doctor.ui.presetBox.findData("fast"))
    yield doctor
    doctor.close()


def run(doctor, folder, output):
    """Segment a folder in the tab; what it says at the end."""
    tab = doctor.panel.batch
    doctor.ui.tabs.setCurrentIndex(1)
    tab.add([str(folder)])
    assert app.pump(TIMEOUT_S, until=lambda: not tab.busy)
    tab.ui.batchFolderEdit.currentPath = str(output)
    tab.ui.batchRunButton.click()
    assert app.pump(TIMEOUT_S, until=lambda: not tab.busy), tab.statuses
    return tab.ui.batchMessageLabel.text


@pytest.mark.slow
def test_a_folder_is_segmented_with_the_looks_of_the_example_and_reviewed(doctor, tmp_path):
    assert run(doctor, tmp_path / "scans", tmp_path / "out") == "3 done, 0 were done before, 0 failed."
    doctor.picture("batch", view=None)
    for path in (tmp_path / "scans").iterdir():
        image = read_volume(path)
        result = tmp_path / "out" / f"{path.stem}.seg.nrrd"
        mask = read_volume(result, Kind.LABELS)
        assert mask.geometry.matches(image.geometry, 1e-6)
        (segment,) = read_segments(result)
        assert (segment.name, segment.value) == ("liver", 1)
        assert segment.colour == pytest.approx((0.9, 0.4, 0.2), abs=1e-5)
        assert "SCT^10200004^Liver" in segment.tags
    tab = doctor.panel.batch
    tab.ui.batchTable.selectRow(1)
    tab.ui.batchReviewButton.click()
    node = slicer.util.getFirstNodeByClassByName("vtkMRMLSegmentationNode", "oblique")
    assert node is not None, [each.GetName() for each in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")]
    (identifier,) = bridge.segmentNames(node)
    assert bridge.segmentNames(node)[identifier] == "liver"
    assert bridge.terminologyOf(node, identifier) == LIVER


@pytest.mark.slow
def test_the_same_batch_again_keeps_what_is_done(doctor, tmp_path):
    run(doctor, tmp_path / "scans", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.seg.nrrd")}
    doctor.panel.batch.ui.batchClearButton.click()
    patient(tmp_path / "scans" / "new.nrrd", 9, GEOMETRIES["oblique"])
    assert run(doctor, tmp_path / "scans", tmp_path / "out") == "1 done, 3 were done before, 0 failed."
    assert all((tmp_path / "out" / name).read_bytes() == content for name, content in before.items())
    record = json.loads((tmp_path / "out" / "new.json").read_text(encoding="utf-8"))
    assert record["batch"]["status"] == "done"


@pytest.mark.slow
def test_cancelling_in_the_middle_leaves_whole_files_and_the_panel_usable(doctor, tmp_path):
    tab = doctor.panel.batch
    tab.add([str(tmp_path / "scans")])
    assert app.pump(TIMEOUT_S, until=lambda: not tab.busy)
    tab.ui.batchFolderEdit.currentPath = str(tmp_path / "out")
    tab.ui.batchRunButton.click()
    assert app.pump(TIMEOUT_S, until=lambda: any(status.status == "running" for status in tab.statuses))
    tab.ui.batchCancelButton.click()
    assert app.pump(TIMEOUT_S, until=lambda: not tab.busy)
    assert tab.ui.batchMessageLabel.text.startswith("Cancelled.")
    left = [path.name for path in (tmp_path / "out").iterdir()] if (tmp_path / "out").exists() else []
    assert [name for name in left if name.startswith(".")] == []
    tab.ui.batchRunButton.click()
    assert app.pump(TIMEOUT_S, until=lambda: not tab.busy)
    assert {status.status for status in tab.statuses} <= {"done", "skipped"}
