"""How long the window's own thread is held by each action in the panel, on a volume of 512 x 512 x 200 voxels.

    python -m Testing.Benchmarks.panel_time

Every piece of work that Qt or VTK would call is timed alone: slots, and ticks of the timer. The worker computes
meanwhile on the same cores, so a piece may be held up by it; both its time and its time on a core are printed.
"""

import logging
import os
import statistics
import sys
import time
from collections import defaultdict
from functools import wraps
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from Testing.Slicer.harness import app

SHAPE = (200, 512, 512)
SPACING = (0.7, 0.7, 1.5)


class Stopwatch:
    """Times calls of methods under the name of the action that goes on."""

    def __init__(self):
        self.action, self.times, self.busy = "", defaultdict(list), defaultdict(list)

    def watch(self, owner, name):
        method = getattr(owner, name)

        @wraps(method)
        def timed(*args, **kwargs):
            return self._note(lambda: method(*args, **kwargs))

        setattr(owner, name, timed)

    def during(self, action, call):
        self.action = action
        self._note(call)

    def _note(self, call):
        before, busy = time.perf_counter(), time.thread_time()
        try:
            return call()
        finally:
            self.times[self.action].append(time.perf_counter() - before)
            self.busy[self.action].append(time.thread_time() - busy)


def organ(centre, radius):
    k, j, i = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return ((k - centre[0]) * 2) ** 2 + (j - centre[1]) ** 2 + (i - centre[2]) ** 2 < radius**2


def patient(scene, name, number):
    import slicer  # noqa: PLC0415

    from InContextSegLib.progress import exhausted  # noqa: PLC0415
    from InContextSegSlicer.scene import bridge  # noqa: PLC0415 - after the harness

    inside = organ((100, 250 + 8 * number, 240), 110 + 5 * number)
    generator = np.random.default_rng(number)
    noise = generator.integers(-25, 25, SHAPE, dtype=np.int16)
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    volume.SetSpacing(*SPACING)
    slicer.util.updateVolumeFromArray(volume, noise + np.int16(40) + np.int16(60) * inside)
    volume.CreateDefaultDisplayNodes()
    segmentation = bridge.ensureSegmentation(scene, volume, f"{name} labels")
    identifier = bridge.ensureSegment(segmentation, "organ")
    writer = bridge.SegmentWriter(scene, slicer.vtkMRMLSegmentEditorNode())
    exhausted(writer.write(volume, segmentation, inside.astype(np.uint8), (0, 0, 0), {1: identifier}, "nothing"))
    return volume, segmentation


def main():
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "InContextSeg"))
    app.start()
    import slicer  # noqa: PLC0415

    from Testing.Slicer.radiologist import Radiologist  # noqa: PLC0415

    scene = slicer.mrmlScene
    teacher = patient(scene, "Teacher", 0)
    target, labels = patient(scene, "Target", 1)
    doctor = Radiologist()
    watch = Stopwatch()
    watch.watch(doctor.panel, "tick")
    doctor.panel.parameters.preset = "fast"

    def settle():
        app.pump(900, until=lambda: not doctor.panel.busy)
        app.pump(0.3)

    def action(name, call):
        before = time.perf_counter()
        watch.during(name, call)
        settle()
        logging.info("%s: %.1f s with the worker; %s", name, time.perf_counter() - before, doctor.status)

    action("choose the volume", lambda: doctor.ui.targetSelector.setCurrentNode(target))
    doctor.view("Red").showVolume(target)
    doctor.ui.exampleVolumeSelector.setCurrentNode(teacher[0])
    doctor.ui.exampleSegmentationSelector.setCurrentNode(teacher[1])
    action("add an example", doctor.ui.addButton.click)
    doctor.scroll(target, 100)
    action("preview on", doctor.ui.previewButton.click)
    for index in range(101, 111):
        action("scroll with the preview", lambda index=index: doctor.panel.views.jump(target, "axial", index))
    action("preview off", doctor.ui.previewButton.click)
    action("segment", doctor.ui.segmentButton.click)
    action("show the uncertainty", doctor.ui.uncertaintyBox.click)
    action("undo", doctor.ui.undoButton.click)
    action("redo", doctor.ui.redoButton.click)
    action("go to the next slice", doctor.ui.nextSliceButton.click)
    action("accept a slice", doctor.ui.acceptButton.click)
    action("segment again", doctor.ui.segmentButton.click)
    action("add the target's own labels", lambda: doctor.panel.teaching.add(target, labels))
    print(doctor.status)
    print("| action | pieces | median, ms | longest, ms | longest on a core, ms |\n|---|---|---|---|---|")
    for name, times in watch.times.items():
        if name:
            longest = f"{1e3 * max(times):.0f} | {1e3 * max(watch.busy[name]):.0f}"
            print(f"| {name} | {len(times)} | {1e3 * statistics.median(times):.1f} | {longest} |")
    doctor.close()


if __name__ == "__main__":
    main()
