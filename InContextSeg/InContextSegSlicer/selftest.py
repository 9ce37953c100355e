"""The test that runs inside Slicer: what no test outside can prove."""

import logging
import time

import numpy as np
import slicer

from InContextSegLib.progress import exhausted
from InContextSegLib.volumes.overlap import dice
from InContextSegSlicer.scene import bridge

SHAPE_KJI = (12, 64, 64)
SPACING_MM = (1.0, 1.0, 4.0)
TIMEOUT_S = 300
LEAST_DICE = 0.7


def run(test) -> None:
    """Segment an invented ball with the real panel and the real worker, and take it back.

    Args:
        test: the running `ScriptedLoadableModuleTest`.
    """
    widget = slicer.modules.incontextseg.widgetRepresentation().self()
    panel = widget.panel
    if not panel.ready:
        test.delayDisplay("The packages are not installed yet, so only the panel was opened.")
        return
    teacher, labelled = _ball("Teacher", (6, 30, 28), 9)
    target, truth = _ball("Target", (5, 34, 33), 11)
    panel.parameters.target, panel.parameters.preset = target, "fast"
    panel.teaching.add(teacher, labelled)
    panel.onSegment()
    end = time.monotonic() + TIMEOUT_S
    while panel.controller.working and time.monotonic() < end:
        slicer.app.processEvents()
    output = panel.parameters.output
    test.assertIsNotNone(output, panel.controller.message)
    found, wanted = (_mask(node, target) for node in (output, truth))
    score = dice(found, wanted)
    logging.info("Dice %.3f", score)
    test.assertGreater(score, LEAST_DICE)
    panel.controller.undo()
    test.assertFalse(_mask(output, target).any())
    test.delayDisplay("Test passed")


def _ball(name: str, centreKji, radius: float):
    """A volume with a bright ball, and its segmentation."""
    k, j, i = np.indices(SHAPE_KJI)
    distance = np.sqrt(((k - centreKji[0]) * 3) ** 2 + (j - centreKji[1]) ** 2 + (i - centreKji[2]) ** 2)
    generator = np.random.default_rng(len(name))
    inside = distance < radius
    array = (100 + 120 * inside + generator.normal(0, 12, SHAPE_KJI)).astype(np.int16)
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    volume.SetSpacing(*SPACING_MM)
    slicer.util.updateVolumeFromArray(volume, array)
    segmentation = bridge.ensureSegmentation(slicer.mrmlScene, volume, f"{name} labels")
    identifier = bridge.ensureSegment(segmentation, "ball")
    writer = bridge.SegmentWriter(slicer.mrmlScene, slicer.vtkMRMLSegmentEditorNode())
    exhausted(writer.write(volume, segmentation, inside.astype(np.uint8), (0, 0, 0), {1: identifier}, "nothing"))
    return volume, segmentation


def _mask(segmentation, volume) -> np.ndarray:
    names = dict.fromkeys(bridge.segmentNames(segmentation), 1)
    return exhausted(bridge.labelsOnGrid(segmentation, names, volume)) > 0
