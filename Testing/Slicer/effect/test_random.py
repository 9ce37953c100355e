"""Somebody without plan or patience in the Segment Editor: nothing breaks, nothing stays behind."""

import gc
import os
import random
from collections import Counter
from pathlib import Path

import pytest
import slicer

from Testing.Slicer.corrector import Corrector
from Testing.Slicer.effect.test_effect import VIEWS, volumeOf
from Testing.Slicer.harness import app
from Testing.Slicer.patients import turned

GROWTH = 24 << 20  # allocators keep what they once had: 3,500 actions in a row end 20 MB above the first 500, and stay


class Whim:
    """Actions by chance, by their names."""

    WEIGHTS = {"doClick": 12, "doDrag": 5, "doScroll": 6, "doPress": 6, "doKey": 6, "doTool": 3, "doSegment": 3}  # noqa: RUF012
    WEIGHTS |= {"doEditorUndo": 2, "doVolume": 1.5, "doOffAndOn": 1, "doRemoveSegment": 0.6, "doTrouble": 2}
    WEIGHTS |= {"doPropagate": 3, "doJudge": 3}
    WEIGHTS |= {
        "doClose": 0.5,
        "doTurn": 0.7,
        "doTilt": 2,
        "doWait": 3,
        "doThreshold": 2,
        "doMove": 0.7,
        "doRemoveVolume": 0.3,
    }

    def __init__(self, corrector, seed):
        self.corrector, self.random, self.log = corrector, random.Random(seed), []
        self.patients = [(corrector.volume, corrector.segmentation)]

    def act(self):
        (name,) = self.random.choices(list(self.WEIGHTS), self.WEIGHTS.values())
        self.log.append(name)
        getattr(self, name)()

    def view(self):
        return self.corrector.views[self.random.choice(list(self.corrector.views))]

    def pixel(self):
        return self.random.randrange(100, 412), self.random.randrange(100, 412)

    def doClick(self):
        self.view().click(*self.pixel(), control=self.random.random() < 0.3)

    def doDrag(self):
        self.view().drag(*(self.pixel() for _ in range(3)), shift=self.random.random() < 0.2)

    def doScroll(self):
        node = self.view().mrmlSliceNode()
        node.SetSliceOffset(node.GetSliceOffset() + self.random.choice((-3, -1, 1, 3)))

    def doPress(self):
        options = self.corrector.options
        self.random.choice([*options.buttons.values(), options.remove]).click()

    def doPropagate(self):
        carry = self.corrector.options.propagation
        carry.reach.setCurrentIndex(self.random.randrange(5))
        carry.start.click()

    def doJudge(self):
        carry = self.corrector.options.propagation
        for item in (carry.list.item(number) for number in range(carry.list.count)):
            item.setSelected(self.random.random() < 0.3)
        self.random.choice([*carry.buttons.values(), carry.uncertainty]).click()

    def doKey(self):
        self.view().key(self.random.choice(("Return", "Return", "Escape", "Delete", "a")))

    def doTool(self):
        options = self.corrector.options
        self.random.choice([*options.tools.values(), *options.polarity.values(), options.replace]).click()

    def doThreshold(self):
        self.corrector.options.threshold.value = self.random.uniform(0.02, 0.98)

    def doSegment(self):
        segmentation = self.corrector.segmentation.GetSegmentation()
        if segmentation.GetNumberOfSegments() < 2:
            segmentation.AddEmptySegment()
        self.corrector.choose(self.random.choice(segmentation.GetSegmentIDs()))

    def doEditorUndo(self):
        self.random.choice((self.corrector.editor.undo, self.corrector.editor.redo))()

    def doVolume(self):
        if len(self.patients) < 3:
            geometry = self.random.choice(("oblique", "left-handed", "permuted"))
            self.patients.append(volumeOf(slicer.mrmlScene, geometry, self.random.choice(("here", "moved", "warped"))))
        self.corrector.work(*self.random.choice(self.patients))
        for axis, name in VIEWS.items():
            self.corrector.look(name, axis=axis)

    def doOffAndOn(self):
        self.corrector.editor.setActiveEffectByName("")
        self.view().click(*self.pixel())
        self.corrector.editor.setActiveEffectByName("In-Context")

    def doRemoveSegment(self):
        segmentation = self.corrector.segmentation.GetSegmentation()
        if segmentation.GetNumberOfSegments() > 1:
            segmentation.RemoveSegment(segmentation.GetNthSegmentID(0))
            self.doSegment()

    def doTrouble(self):
        worker = self.corrector.worker
        if worker is not None:
            worker.hold = self.random.random() < 0.4
            worker.fail = self.random.choice((None, None, None, ("Bug", "It broke."), ("OutOfMemory", "No room.")))
            worker.dead = worker.dead or self.random.random() < 0.1

    def doTurn(self):
        node = self.view().mrmlSliceNode()
        node.SetOrientation(self.random.choice(("Axial", "Sagittal", "Coronal")))

    def doTilt(self):
        node = self.view().mrmlSliceNode()
        toRas = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())
        toRas[:3, :3] = turned(*(self.random.choice((-40, -3, 0, 25)) for _ in range(3))) @ toRas[:3, :3]
        node.GetSliceToRAS().DeepCopy(toRas.ravel())
        node.UpdateMatrices()

    def doMove(self):
        transform = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLinearTransformNode")
        transform = transform or slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        node = self.random.choice((self.corrector.volume, self.corrector.segmentation))
        node.SetAndObserveTransformNodeID(self.random.choice((None, transform.GetID())))

    def doRemoveVolume(self):
        slicer.mrmlScene.RemoveNode(self.corrector.volume)
        self._start()

    def doClose(self):
        slicer.mrmlScene.Clear(0)
        self._start()

    def _start(self):
        app.pump(0.01)
        self.patients = [volumeOf(slicer.mrmlScene)]
        self.corrector.reopen(*self.patients[0])
        for axis, name in VIEWS.items():
            self.corrector.look(name, axis=axis)

    def doWait(self):
        app.pump(0.03)


def worked(corrector, whim, count):
    """So many more actions, none of which leaves a complaint."""
    for number in range(count):
        whim.act()
        assert not strictly(corrector), (number, whim.log[-5:], strictly(corrector))


def strictly(corrector):
    """What must never be seen: a lost array is a mistake of ours, whatever the person did."""
    return [
        text for text in (corrector.options.status.text, corrector.correction.message) if "hand it over again" in text
    ]


def calm(corrector):
    """Let everything come to its end."""
    if corrector.worker is not None:
        corrector.worker.hold, corrector.worker.fail = False, None
    corrector.settle()
    app.pump(0.5)


def lost(corrector):
    """Names of arrays that lie in the shared folder though nothing goes back to them."""
    correction = corrector.correction
    kept = {name for name, _bytes in correction.handover._kept.values()}
    kept |= {cut.array for cut in correction.cuts._kept.values()}
    kept |= {answer.logits for session in correction._sessions.values() for answer in session.answers.values()}
    return {path.name for path in correction.client.folder.glob("*.npy")} - kept


def resident():
    """Bytes of memory that this process holds; 0 where the system does not tell."""
    gc.collect()
    told = Path("/proc/self/statm")
    return int(told.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if told.exists() else 0


def afresh(corrector, whim, scene):
    """Close the scene and open another patient; nodes that are left of the first, and the memory that is held."""
    calm(corrector)
    scene.Clear(0)
    app.pump(0.2)
    left = scene.GetNumberOfNodes(), resident()
    whim._start()
    return left


@pytest.mark.parametrize(("seed", "actions"), [pytest.param(1, 1000, marks=pytest.mark.slow), (2, 150), (3, 150)])
def test_a_thousand_actions_by_chance_break_nothing_and_keep_nothing(scene, monkeypatch, strictErrors, seed, actions):
    corrector = Corrector(monkeypatch, *volumeOf(scene))
    for axis, name in VIEWS.items():
        corrector.look(name, axis=axis)
    whim = Whim(corrector, seed)
    worked(corrector, whim, actions // 4)
    nodes, memory = afresh(corrector, whim, scene)
    worked(corrector, whim, actions - actions // 4)
    assert not strictErrors.seen, (whim.log[-5:], strictErrors.report())
    calm(corrector)
    assert not lost(corrector), "only what was handed over, and logits one can go back to, are in the folder"
    nodesAfter, memoryAfter = afresh(corrector, whim, scene)
    assert nodesAfter == nodes
    assert memoryAfter - memory < GROWTH, f"{(memoryAfter - memory) / 1e6:.1f} MB more after {actions} actions"
    assert not strictErrors.seen, strictErrors.report()
    print(f"seed {seed}: {(memoryAfter - memory) / 1e6:+.1f} MB, {nodesAfter} nodes; {Counter(whim.log)}")
    corrector.effect.options.tools["point"].click()
    corrector.look("Red", 8)
    corrector.click((8, 12, 12))
    corrector.settle()
    shown = corrector.shown()
    assert shown[8, 12, 12]
    corrector.applied()
    assert corrector.drawn()[shown].all()
