"""A radiologist without patience, before a panel whose worker answers at once, and small volumes for both."""

import numpy as np
import slicer

from InContextSegLib.progress import exhausted
from InContextSegSlicer.scene import bridge
from InContextSegSlicer.worker import shared as sharedworker
from Testing.Slicer.harness import app
from Testing.Slicer.quickworker import QuickWorker
from Testing.Slicer.radiologist import Radiologist

SHAPE = (8, 14, 12)
SPACING = np.diag([1.0, 1.0, 3.0, 1.0])


class Impatient(Radiologist):
    """One person who does not wait for the panel.

    Args:
        monkeypatch: of the test.
    """

    def __init__(self, monkeypatch):
        monkeypatch.setattr(sharedworker, "QProcessTransport", QuickWorker)
        monkeypatch.setattr("InContextSegSlicer.panel.panel.SETTLED_S", 0.0)
        super().__init__()

    @property
    def worker(self) -> QuickWorker:
        return self.controller.client._transport

    @property
    def scene(self):
        return slicer.mrmlScene

    def settle(self) -> None:
        """Until nothing goes on any more."""
        assert app.pump(20, until=lambda: not self.panel.busy), (self.status, self.controller.progress)

    def set(self, **parameters) -> None:
        """Choose, by the names of the parameter node."""
        for name, value in parameters.items():
            setattr(self.panel.parameters, name, value)
        app.pump(0.05)

    def ready(self):
        """Teach with one patient and choose another: the example's segmentation, the target."""
        teacher = volumeOf("Teacher")
        labels = labelsOf(teacher)
        self.teach(teacher, labels)
        target = volumeOf("Target")
        self.choose(target)
        self.settle()
        return labels, target

    def segment(self) -> None:
        """Press the button and wait for the result."""
        self.press("segmentButton")
        self.wait()

    def asked(self, do: str, times: int = 1) -> None:
        """Until the worker was asked for something that often."""
        assert app.pump(5, until=lambda: self.worker is not None and self.worker.asked.count(do) >= times)

    def writing(self) -> None:
        """Segment up to the first piece of writing, and no further."""
        controller = self.controller
        self.widget._timer.stop()
        self.press("segmentButton")
        while not controller.progress.message.startswith("Writing"):
            controller.client.poll()
            if controller.queue:
                controller.queue._step(controller.queue._waiting[0])
        controller.queue._step(controller.queue._waiting[0])

    def goOn(self) -> None:
        """After `writing`: let time pass again, until all is done."""
        self.widget._timer.start()
        self.settle()


def volumeOf(name, shape=SHAPE, affine=SPACING):
    """A volume of noise."""
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(volume, np.random.default_rng(0).integers(0, 200, shape).astype(np.int16))
    volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
    volume.CreateDefaultDisplayNodes()
    return volume


def sheared(name="Sheared"):
    """A volume as of a tilted gantry."""
    affine = np.eye(4)
    affine[1, 2] = 0.3
    return volumeOf(name, affine=affine)


def labelsOf(volume, *names):
    """A segmentation of a volume: a small box for each name."""
    segmentation = bridge.ensureSegmentation(slicer.mrmlScene, volume, f"{volume.GetName()} labels")
    writer = bridge.SegmentWriter(slicer.mrmlScene, slicer.vtkMRMLSegmentEditorNode())
    for number, name in enumerate(names or ("ball",)):
        identifier = segmentation.GetSegmentation().AddEmptySegment("", name)
        block = np.ones((2, 3, 3), np.uint8)
        corner = (2 + number % 4, 3 + number % 7, 3)
        exhausted(writer.write(volume, segmentation, block, corner, {1: identifier}, "nothing"))
    return segmentation


def regionAt(x, y, z, radius=5.0):
    """A region of interest."""
    region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Region")
    region.SetXYZ(x, y, z)
    region.SetRadiusXYZ(radius, radius, radius)
    return region
