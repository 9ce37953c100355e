"""Three hundred actions by chance: nothing raises, nothing grows without end, and the panel works afterwards."""

import os
import random

import numpy as np
import pytest
import slicer

from InContextSegSlicer.scene import bridge
from InContextSegSlicer.scene.examples import ExampleRow
from Testing.Slicer.harness import app
from Testing.Slicer.impatient import Impatient, labelsOf, regionAt, sheared, volumeOf

qt = app.qt
ACTIONS = 300
SEEDS = [int(seed) for seed in os.environ.get("INCONTEXTSEG_SEEDS", "1 2").split()]
BUTTONS = (
    "addButton", "useSliceButton", "removeButton", "previewButton", "checkButton", "segmentButton",
    "segmentButton", "cancelButton", "nextSliceButton", "acceptButton", "undoButton", "redoButton",
)  # fmt: skip
CHOICES = {"presetBox": 3, "axisBox": 4, "existingBox": 3, "modelBox": 2, "deviceBox": 2}
BOXES = ("rangeBox", "windowBox", "adaptBox", "uncertaintyBox")
SELECTORS = ("target", "output", "region", "exampleVolume", "exampleSegmentation")
MOST_NODES = 24  # of volumes, segmentations and regions


class Whim:
    """Does what occurs to it."""

    def __init__(self, doctor, seed):
        self.doctor, self.random, self.log = doctor, random.Random(seed), []

    def act(self):
        """One action."""
        names = sorted(name for name in vars(Whim) if name.startswith("do"))
        name = self.random.choices(names, [WEIGHTS.get(name, 1) for name in names])[0]
        self.log.append(name)
        getattr(self, name)()
        app.pump(self.random.choice((0, 0, 0.01, 0.05)))

    def nodes(self, kind=None):
        kinds = [kind] if kind else ["vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLMarkupsROINode"]
        return [node for each in kinds for node in slicer.util.getNodesByClass(each)]

    def doPress(self):
        name = self.random.choice(BUTTONS)
        self.log[-1] += f" {name}"
        if getattr(self.doctor.ui, name).enabled:
            getattr(self.doctor.ui, name).click()

    def doChoose(self):
        name = self.random.choice(list(CHOICES))
        getattr(self.doctor.ui, name).setCurrentIndex(self.random.randrange(CHOICES[name]))

    def doTickBox(self):
        getattr(self.doctor.ui, self.random.choice(BOXES)).click()

    def doType(self):
        name = self.random.choice(("firstSliceBox", "lastSliceBox", "adaptSecondsBox", "windowLowBox"))
        getattr(self.doctor.ui, name).setValue(self.random.randrange(-5, 30))

    def doSelect(self):
        box = getattr(self.doctor.ui, f"{self.random.choice(SELECTORS)}Selector")
        box.setCurrentNode(self.random.choice([None, *box.nodes()]))

    def doTickOrTypeIntoATable(self):
        table = self.random.choice((self.doctor.ui.examplesTable, self.doctor.ui.segmentsTable))
        if table.rowCount:
            row = self.random.randrange(table.rowCount)
            item, text = table.item(row, 0), self.random.choice(("", "ball", "every 2", "1 ball", "ü, x"))
            if item.flags() & qt.Qt.ItemIsUserCheckable:
                item.setCheckState(self.random.choice((qt.Qt.Checked, qt.Qt.Unchecked)))
            cell = table.item(row, self.random.choice((1, 2)))
            if cell.flags() & qt.Qt.ItemIsEditable:
                cell.setText(text)
            table.selectRow(min(row, table.rowCount - 1))

    def doScroll(self):
        target = self.doctor.panel.parameters and self.doctor.panel.parameters.target
        if target is not None and target.GetImageData() is not None:
            self.doctor.view("Red").mrmlSliceNode().JumpSlice(*self.random.choices(range(20), k=3))

    def doAddPatient(self):
        if len(self.nodes()) < MOST_NODES:
            shape = self.random.choice(((8, 14, 12), (8, 14, 12), (6, 11, 10), (1, 14, 12)))
            volume = volumeOf(f"Volume {self.random.randrange(5)}", shape)
            if shape[0] > 5:
                labelsOf(volume, *self.random.choice((("ball",), ("ball", "box"), ("ball", "ball"))))
            if self.random.random() < 0.1:
                sheared()

    def doAddFiles(self):
        if self.doctor.panel.examples is not None:
            path = f"{self.random.randrange(3)}.nii.gz"
            self.doctor.panel.examples.add(ExampleRow(imagePath=path, labelsPath=path, names=((1, "ball"),)))

    def doAddRegion(self):
        if len(self.nodes()) < MOST_NODES:
            regionAt(*self.random.choices(range(0, 40), k=3))

    def doDelete(self):
        nodes = self.nodes()
        if nodes:
            slicer.mrmlScene.RemoveNode(self.random.choice(nodes))

    def doDeleteParameters(self):
        slicer.mrmlScene.RemoveNode(self.doctor.panel.parameters.parameterNode)

    def doRename(self):
        segmentations = self.nodes("vtkMRMLSegmentationNode")
        if segmentations:
            segmentation = self.random.choice(segmentations).GetSegmentation()
            for number in range(segmentation.GetNumberOfSegments()):
                segmentation.GetNthSegment(number).SetName(self.random.choice(("ball", "Ball", "box", "ü", "")))

    def doRemoveSegment(self):
        segmentations = self.nodes("vtkMRMLSegmentationNode")
        if segmentations:
            segmentation = self.random.choice(segmentations).GetSegmentation()
            if segmentation.GetNumberOfSegments():
                segmentation.RemoveSegment(segmentation.GetNthSegmentID(0))

    def doMoveUnderTransform(self):
        transform = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLinearTransformNode")
        transform = transform or slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.diag([1, -1, 1, 1.0])))
        for node in self.random.choices(self.nodes() or [transform], k=1):
            if node is not transform:
                node.SetAndObserveTransformNodeID(self.random.choice((None, transform.GetID())))

    def doClearScene(self):
        slicer.mrmlScene.Clear(0)

    def doLeaveAndEnter(self):
        self.doctor.widget.exit()
        app.pump(0.02)
        self.doctor.widget.enter()

    def doTroubleTheWorker(self):
        worker = self.doctor.worker
        if worker is not None:
            worker.hold = self.random.random() < 0.4
            worker.fail = self.random.choice((None, None, None, ("Bug", "It broke."), ("OutOfMemory", "No room.")))
            worker.dead = worker.dead or self.random.random() < 0.1


WEIGHTS = {"doPress": 16, "doSelect": 6, "doTickOrTypeIntoATable": 4, "doAddPatient": 4, "doChoose": 2, "doScroll": 3}
WEIGHTS |= {"doTroubleTheWorker": 3, "doClearScene": 0.3, "doDeleteParameters": 0.3, "doDelete": 1.5}


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_three_hundred_actions_by_chance_leave_a_panel_that_works(scene, monkeypatch, strictErrors, seed):
    doctor = Impatient(monkeypatch)
    whim = Whim(doctor, seed)
    for _ in range(4):
        whim.doAddPatient()
    for number in range(ACTIONS):
        whim.act()
        assert not strictErrors.seen, (number, whim.log[-5:], strictErrors.report())
    if doctor.worker is not None:
        doctor.worker.hold, doctor.worker.fail = False, None
    doctor.settle()
    assert len(whim.nodes()) < 2 * MOST_NODES
    kept = {name for name, _bytes in doctor.controller.handover._kept.values()}
    found = {path.name for path in doctor.controller.client.folder.glob("*.npy")}
    assert found <= kept, "only what was handed over is in the folder"
    scene.Clear(0)
    empty = scene.GetNumberOfNodes()
    doctor.set(preset="fast", axis="auto", useRange=False, region=None, adapt=False, useWindow=False, model="default")
    doctor.ready()
    doctor.segment()
    assert doctor.status.startswith("Done"), doctor.status
    assert bridge.segmentNames(doctor.output)
    assert scene.GetNumberOfNodes() < empty + 20
    doctor.close()
