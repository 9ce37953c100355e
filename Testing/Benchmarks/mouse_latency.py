"""How long a person waits in the Segment Editor, from the mouse to the screen, on slices of 512 x 512 voxels.

`python -m Testing.Benchmarks.mouse_latency` sends mouse events and keys to the effect in an offscreen slice view,
before a real worker process, and prints the median and range of what passes until the preview or the segment has
changed: in all, and of the window's own thread its longest piece of work (an event, or a round of events and timers)
and their sum. Drawing the view is measured apart, as it is done in software here. Other segments are there, and the
panel, which is left. On two cores the worker computes with two threads, unless OMP_NUM_THREADS says otherwise.
"""

import argparse
import logging
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the worker sets it for itself

import numpy as np

from InContextSegLib.cli.phantom import phantom
from Testing.Slicer.harness import app

SHAPE, SPACING_MM = (120, 256, 256), (1.5, 1.4, 1.4)  # of the phantom, whose rows and columns are doubled
LABEL, FIRST, APPLIED = 1, 5, (20, 40, 60, 80)
LOOK_S = 0.5  # until somebody who scrolled to a slice clicks
LIMIT_S, APART_MM = 60, 10
ROOT = Path(__file__).resolve().parents[2]


class Bench:
    """One person before one volume."""

    def __init__(self, ahead, rows):
        import slicer  # noqa: PLC0415 - after the harness

        from Testing.Slicer.corrector import Corrector  # noqa: PLC0415

        self.volume, self.segmentation, self.mask = patient(slicer.mrmlScene)
        panel = app.open_panel(app.load_module(ROOT / "InContextSeg" / "InContextSeg.py"))
        panel.exit()
        self.random = np.random.default_rng(2)
        self.corrector = Corrector(None, self.volume, self.segmentation, views=("Red",), worker=None)
        self.view = self.corrector.look("Red", FIRST)
        self.correction = self.corrector.correction
        if not ahead:
            self.correction.ahead.wish = nothing
        self.rows = rows

    def settle(self, seconds=0.0):
        """Until nothing is awaited, and that long."""
        if not app.pump(LIMIT_S, until=lambda: not self.correction.working):
            raise SystemExit(f"No answer came: {self.correction.message}")
        app.pump(seconds)

    def scroll(self, index):
        from InContextSegSlicer.scene import bridge  # noqa: PLC0415

        bridge.jumpTo(self.view.mrmlSliceNode(), self.volume, 0, index)

    def pixel(self, index):
        """Where the view shows a voxel of the structure, or any where there is none, that is not marked yet."""
        from InContextSegSlicer.effect.prompting import worldOf  # noqa: PLC0415

        voxels = np.argwhere(self.mask[index]) if self.mask[index].any() else np.argwhere(self.mask[index] == 0)
        while True:
            voxel = (index, *voxels[self.random.integers(len(voxels))])
            position = worldOf(voxel, self.volume)
            if all(mark.distance(position) > APART_MM for mark in self.correction.marks):
                return self.corrector.pixel(voxel)

    def click(self, name, index):
        """A click, from the release of the button until the preview is there."""
        place, before = self.pixel(index), len(self.correction.marks)
        self.view.mouse("LeftButtonPressEvent", *place)
        self.timed(
            name,
            lambda: self.view.mouse("LeftButtonReleaseEvent", *place),
            lambda: len(self.correction.marks) > before and self.correction.answer is not None,
        )

    def apply(self, name):
        """Enter, until the segment holds what was shown."""
        self.timed(name, lambda: self.view.key("Return"), lambda: self.correction.preview.node is None)

    def timed(self, name, act, done):
        """Act and let Qt work until it is done; note all times."""
        import slicer  # noqa: PLC0415

        began, pieces, busy = time.perf_counter(), [], time.thread_time()
        end = began + LIMIT_S
        work = act
        while True:
            before = time.perf_counter()
            work()
            pieces.append(time.perf_counter() - before)
            if done():
                break
            if time.perf_counter() > end:
                raise SystemExit(f"{name}: nothing came: {self.correction.message}")
            time.sleep(0.001)
            work = slicer.app.processEvents
        took, busy = time.perf_counter() - began, time.thread_time() - busy
        before = time.perf_counter()
        self.view.forceRender()
        drawn = time.perf_counter() - before
        self.rows.setdefault(name, []).append((took, max(pieces), sum(pieces), busy, drawn))
        logging.info("%s: %s", name, " ".join(f"{1000 * each:.0f}" for each in self.rows[name][-1]))


def patient(scene):
    """A phantom in the scene with an empty segment, and where its largest structure is."""
    import slicer  # noqa: PLC0415

    from InContextSegLib.progress import exhausted  # noqa: PLC0415
    from InContextSegSlicer.scene import bridge  # noqa: PLC0415

    image, labels = phantom(0, SHAPE, SPACING_MM)
    large, truth = (each.array.repeat(2, axis=1).repeat(2, axis=2) for each in (image, labels))
    large += np.random.default_rng(0).integers(-8, 9, large.shape, large.dtype)
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    volume.SetSpacing(SPACING_MM[2] / 2, SPACING_MM[1] / 2, SPACING_MM[0])
    volume.SetIJKToRASDirections(-1, 0, 0, 0, -1, 0, 0, 0, 1)
    slicer.util.updateVolumeFromArray(volume, large)
    volume.CreateDefaultDisplayNodes()
    segmentation = bridge.ensureSegmentation(scene, volume, "Segmentation")
    bridge.ensureSegment(segmentation, "organ")
    others = {value: bridge.ensureSegment(segmentation, f"known {value}") for value in (2, 3, 4)}
    writer = bridge.SegmentWriter(scene, slicer.vtkMRMLSegmentEditorNode())
    exhausted(writer.write(volume, segmentation, truth.astype(np.uint8), (0, 0, 0), others, "nothing"))
    return volume, segmentation, truth == LABEL


def walk(bench, times):
    """Slice after slice: apply it, go on, and click at once."""
    bench.scroll(FIRST)
    bench.click("the very first click, the worker starts", FIRST)
    for index in range(FIRST, FIRST + times):
        bench.settle()
        bench.apply("Enter, segment changed")
        bench.scroll(index + 1)
        bench.click("after Enter to the next slice at once: release, preview", index + 1)


def looks(bench, times):
    """Single slices shown long enough to look at them, then clicked three times, and the slices beside them."""
    for index in APPLIED:
        bench.scroll(index)
        bench.click("", index)
        bench.settle()
        bench.apply("")
        bench.settle(LOOK_S)
    # Nobody has seen the even ones, nor the odd ones, which are clicked as neighbours.
    for index in bench.random.permutation([*set(range(0, SHAPE[0], 2)) - {*APPLIED}]).tolist()[:times]:
        bench.scroll(index)
        bench.settle(LOOK_S)
        bench.click("on a slice that was looked at: release, preview", index)
        for _ in range(2):
            bench.settle(0.1)
            bench.click("the next click there: release, preview", index)
        bench.settle(LOOK_S)
        bench.scroll(index + 1)
        bench.click("on its neighbour, at once: release, preview", index + 1)
        bench.settle()


def nothing(*_what):
    """Instead of computing ahead."""


def told(seconds):
    milliseconds = [1000 * each for each in seconds]
    return f"{statistics.median(milliseconds):.0f} [{min(milliseconds):.0f}, {max(milliseconds):.0f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--no-ahead", action="store_true", help="nothing is computed ahead")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    sys.path.insert(0, str(ROOT / "InContextSeg"))
    app.start()
    rows = {}
    for what in (walk, looks):
        what(Bench(not options.no_ahead, rows), options.times)
        app.clean()
    print("| from, to | times | in all | window: longest piece | window: sum | on a core | drawing |")
    print("|---|---|---|---|---|---|---|")
    for name, found in rows.items():
        if name:
            print(f"| {name} | {len(found)} | {' | '.join(map(told, zip(*found, strict=True)))} |")


if __name__ == "__main__":
    main()
