"""What a radiologist does in the panel, in words a test can use; each step may leave a picture of what was seen."""

import os
from pathlib import Path

import numpy as np
import slicer

from InContextSegLib.progress import exhausted
from InContextSegSlicer.scene import bridge
from Testing.Slicer.harness import app

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 180


class Radiologist:
    """One person before one panel.

    Args:
        pictures: a folder for pictures of every step; None: INCONTEXTSEG_SCREENSHOTS, and without that none are taken.
    """

    def __init__(self, pictures: Path | None = None):
        self.widget = app.open_panel(app.load_module(ROOT / "InContextSeg" / "InContextSeg.py"), size=(560, 1000))
        wanted = pictures or os.environ.get("INCONTEXTSEG_SCREENSHOTS")
        self._pictures = Path(wanted) if wanted else None
        self._taken = 0

    @property
    def panel(self):
        return self.widget.panel

    @property
    def ui(self):
        return self.widget.ui

    @property
    def controller(self):
        return self.panel.controller

    @property
    def status(self) -> str:
        return self.ui.statusLabel.text

    @property
    def output(self):
        return self.panel.parameters.output

    def hurry(self) -> None:
        """Choose the small network and the fast preset: where it is not what is tested, a few seconds do."""
        self.panel.parameters.model, self.panel.parameters.preset = "universeg", "fast"

    def close(self) -> None:
        """Close the panel, if it is open."""
        if self.widget is not None:
            app.close_panel(self.widget)
            self.widget = None

    def press(self, name: str) -> None:
        """Press a button, which must be there to be pressed."""
        button = getattr(self.ui, name)
        assert button.enabled, f"{name} cannot be pressed: {self.status}"
        button.click()

    def wait(self) -> None:
        """Until the work is done."""
        controller = self.controller
        assert app.pump(TIMEOUT_S, until=lambda: controller.state != "busy" and not controller.queue), self.status

    def teach(self, volume, segmentation) -> None:
        """Add an example from the scene."""
        self.ui.exampleVolumeSelector.setCurrentNode(volume)
        self.ui.exampleSegmentationSelector.setCurrentNode(segmentation)
        self.press("addButton")
        assert app.pump(TIMEOUT_S, until=lambda: not self.panel.busy)

    def choose(self, volume) -> None:
        """Choose what is to be segmented, and look at it."""
        self.ui.targetSelector.setCurrentNode(volume)
        self.view("Red").showVolume(volume)

    def view(self, name: str):
        return slicer.app.layoutManager().sliceWidget(name)

    def scroll(self, volume, index: int, axis: int = 0, view: str = "Red") -> None:
        """Show a slice."""
        bridge.jumpTo(self.view(view).mrmlSliceNode(), volume, axis, index)
        app.pump(0.05)

    def previewed(self) -> bool:
        """Whether a preview is on show, after waiting for it."""
        return app.pump(TIMEOUT_S, until=lambda: self.controller.preview.node is not None)

    def picture(self, name: str, view: str | None = "Red") -> None:
        """Keep what is seen now: the panel, and a slice view beside it."""
        if self._pictures is None:
            return
        self._taken += 1
        self._pictures.mkdir(parents=True, exist_ok=True)
        app.screenshot(self.widget.parent, self._pictures / f"{self._taken:02d}_{name}.png")
        if view is not None:
            save(self.view(view).image(), self._pictures / f"{self._taken:02d}_{name}_{view}.png")


def load(name: str, path: Path):
    """A volume of the scene from a file."""
    node = slicer.util.loadVolume(str(path), {"name": name})
    node.SetName(name)
    return node


def loadLabels(name: str, path: Path, volume, *names: str):
    """A segmentation of a volume from a label file, its segments called by names."""
    labelmap = slicer.util.loadLabelVolume(str(path))
    segmentation = scene().AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labelmap, segmentation)
    scene().RemoveNode(labelmap)
    inner = segmentation.GetSegmentation()
    for number, each in enumerate(names):
        inner.GetNthSegment(number).SetName(each)
    return segmentation


def mask(segmentation, volume, *names: str) -> np.ndarray:
    """(k, j, i) bool: where the segments of these names are, or any segment where none is named."""
    wanted = {key: 1 for key, name in bridge.segmentNames(segmentation).items() if not names or name in names}
    return exhausted(bridge.labelsOnGrid(segmentation, wanted, volume)) > 0


def scene():
    return slicer.mrmlScene


def save(picture: np.ndarray, path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(picture[..., :3])).save(path)
