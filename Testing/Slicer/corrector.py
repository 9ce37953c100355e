"""Somebody who corrects slices in the Segment Editor, before a worker that answers at once."""

import json
from pathlib import Path

import numpy as np
import slicer

from InContextSegLib.progress import exhausted
from InContextSegLib.worker.protocol import request_of
from InContextSegSlicer.scene import bridge
from InContextSegSlicer.worker import shared as sharedworker
from Testing.Slicer.harness import app
from Testing.Slicer.quickworker import QuickWorker, namesOf

MODULE = Path(__file__).resolve().parents[2] / "InContextSeg" / "SegmentEditorInContextSeg.py"
FIELDS = {"id", "do", "lane", "target", "axis", "index", "prompts", "task", "label", "previous", "model", "window"}
FADING, STOP = 0.1, 0.55  # how much less sure a slice is than the one before it, and where that is too little
RADIUS = 2.2  # voxels of the disc that a click gets
FIELDS_AHEAD = FIELDS - {"prompts", "previous"}
AXES = {"axial": 2, "coronal": 1, "sagittal": 0}


class DiscWorker(QuickWorker):
    """Answers a click with a disc round it, less of it the farther from its middle.

    Attributes:
        corrected, carried: the requests so far.
        ahead: those for slices to be computed ahead.
    """

    def __init__(self, folder):
        super().__init__(folder)
        self.corrected, self.carried, self.ahead = [], [], []

    def write(self, line):
        """As a worker does: what is computed ahead makes way for whatever is asked."""
        if json.loads(line)["do"] != "cancel":
            for each in [each for each in self._waiting if each["do"] == "neighbours"]:
                self._waiting.remove(each)
                self._send(id=each["id"], **{"is": "cancelled"})
        super().write(line)

    def _answer(self, message):
        if message["do"] == "neighbours":
            return self._near(message)
        if self.fail is None and message["do"] == "correct":
            return {"is": "done", "seconds": 0.01, **self._slice(message)}
        if self.fail is None and message["do"] == "propagate":
            return {"is": "done", "seconds": 0.01, **self._carried(message)}
        return super()._answer(message)

    def _near(self, message):
        assert set(message) == FIELDS_AHEAD | {"device"}, set(message) ^ (FIELDS_AHEAD | {"device"})
        json.dumps(message)
        self.ahead.append(message)
        if self.fail is not None:
            return {"is": "failed", "kind": self.fail[0], "message": self.fail[1]}
        self._folder.read(message["target"]["name"])
        self._examples(message)
        return {"is": "done", "seconds": 0.01, "ready": [message["index"]]}

    def _examples(self, message):
        """The examples of a request, whose labels have to be there to be read."""
        request = request_of(message)
        for each in request.task.examples if request.task else ():
            for name in namesOf(each.labels):
                self._folder.read(name)
        return request.task.examples if request.task else ()

    def _slice(self, message):
        assert set(message) == FIELDS | {"device"}, set(message) ^ (FIELDS | {"device"})
        json.dumps(message)
        self.corrected.append(message)
        if message["previous"] is not None:
            self._folder.read(message["previous"])
        affine = np.array(message["target"]["affine"])
        shape = self._folder.read(message["target"]["name"]).shape[:3]
        along = closest(affine, message["axis"])
        indices = np.stack(np.indices(shape), axis=-1).astype(float)
        probability = np.zeros(shape)
        prompts = message["prompts"]
        for sign in (True, False):
            for position in [position for position, positive in prompts["points"] if positive is sign]:
                at = indexIn(affine, position)
                assert abs(at[along] - message["index"]) < 1e-3, (at, message["index"])
                near = np.clip(1.5 - np.linalg.norm(indices - at, axis=-1) / (2 * RADIUS), 0, 1)
                near[near < 0.5] = 0
                probability = np.maximum(probability, near) if sign else np.where(near > 0.5, 0, probability)
        for corners in prompts["boxes"]:
            ends = np.sort([indexIn(affine, corner) for corner in corners], axis=0)
            probability[((indices >= ends[0] - 1e-6) & (indices <= ends[1] + 1e-6)).all(axis=-1)] = 1
        for name, corner, positive in prompts["scribbles"]:
            mask = self._folder.read(name)
            window = tuple(slice(low, low + length) for low, length in zip(corner, mask.shape, strict=True))
            probability[window][mask > 0] = float(positive)
        examples = self._examples(message)
        block = np.rint(255 * probability).astype(np.uint8).take([message["index"]], along)
        corner = [message["index"] if axis == along else 0 for axis in range(3)]
        found = {"array": self._folder.write(block), "corner_kji": corner}
        logits = self._folder.write(np.zeros((4, 4), np.float16))
        return {"probability": found, "logits": logits, "context": len(examples)}

    def _carried(self, message):
        """What is drawn in the applied slices, at all others, less sure the farther from them."""
        request = request_of(message)
        self.carried.append(request)
        target = self._folder.read(request.target.name)
        along = closest(np.array(message["target"]["affine"]), request.axis)
        drawn = np.zeros(target.shape, bool)
        for each in request.task.examples:
            if each.image == request.target:
                for index, name in each.labels.slices:
                    np.moveaxis(drawn, along, 0)[index] = self._folder.read(name).take(0, along) == request.label
        layers = np.moveaxis(drawn, along, 0)
        applied = [index for index in range(len(layers)) if layers[index].any()]
        start = sorted(request.start or applied)
        assert set(start) <= set(applied), (start, applied)
        first, last = request.slice_range or (0, len(layers) - 1)
        sure = {}
        for index in range(first, last + 1):
            nearest = min(start, key=lambda each, index=index: abs(each - index))
            confidence = 1 - FADING * abs(nearest - index)
            if index not in applied and confidence >= STOP:
                sure[index] = confidence
                layers[index] = layers[nearest]
        low, high = (min(sure), max(sure)) if sure else (0, 0)
        block = drawn.astype(np.uint8).take(range(low, high + 1), along)
        for index in set(range(low, high + 1)) - set(sure):
            np.moveaxis(block, along, 0)[index - low] = 0
        corner = [low if axis == along else 0 for axis in range(3)]
        uncertainty = np.full(block.shape, 30, np.uint8)
        blocks = ({"array": self._folder.write(each), "corner_kji": corner} for each in (block, uncertainty))
        stopped = {"before": "unsure" if first < min(start) - 4 else "range", "after": "range"}
        found = dict(zip(("block", "uncertainty"), blocks, strict=True))
        return found | {
            "axis": request.axis,
            "array_axis": along,
            "slices": sorted(sure),
            "confidence": [sure[index] for index in sorted(sure)],
            "reached": [low, high] if sure else None,
            "stopped": stopped,
        }


def indexIn(affine, position):
    """(k, j, i) of a position, by an evaluation of its own."""
    return (np.linalg.inv(affine) @ [*position, 1])[2::-1]


def closest(affine, axis):
    """The array axis closest to an anatomical one, when all three are shared out as well as possible."""
    steps = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    orders = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    best = max(orders, key=lambda order: sum(abs(steps[world, column]) for world, column in enumerate(order)))
    return 2 - best[AXES[axis]]


class Corrector:
    """One person before the Segment Editor and its slice views.

    Args:
        monkeypatch: of the test.
        volume, segmentation: what is edited, from the first segment on.
    """

    def __init__(self, monkeypatch, volume, segmentation, views=("Red", "Yellow", "Green"), worker=DiscWorker):
        if worker is not None:
            monkeypatch.setattr(sharedworker, "QProcessTransport", worker)
        app.load_module(MODULE)
        if not slicer.qSlicerSegmentEditorEffectFactory.instance().effects:
            slicer.modules.SegmentEditorInContextSegInstance.registerEffect()
        self.volume, self.segmentation = volume, segmentation
        self.views = {name: slicer.app.layoutManager().sliceWidget(name) for name in views}
        self.editor = slicer.qMRMLSegmentEditorWidget()
        self.editor.setMRMLScene(slicer.mrmlScene)
        self.editor.setViews(self.views.values())
        self.reopen(volume, segmentation)
        self.effect = self.editor.activeEffect().self()

    def reopen(self, volume, segmentation):
        """Begin anew, as after a scene was closed."""
        self.node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
        self.node.SetOverwriteMode(self.node.OverwriteNone)
        self.editor.setMRMLSegmentEditorNode(self.node)
        self.work(volume, segmentation)
        self.editor.setActiveEffectByName("In-Context")

    def work(self, volume, segmentation):
        """Edit another volume and segmentation."""
        self.volume, self.segmentation = volume, segmentation
        self.editor.setSegmentationNode(segmentation)
        self.editor.setSourceVolumeNode(volume)
        self.choose(segmentation.GetSegmentation().GetNthSegmentID(0))

    def choose(self, segment):
        self.editor.setCurrentSegmentID(segment)

    @property
    def correction(self):
        return self.effect.correction

    @property
    def options(self):
        return self.effect.options

    @property
    def worker(self):
        return self.correction.client._transport

    def look(self, name="Red", index=None, axis="axial"):
        """Turn a view to the volume's own axial, coronal or sagittal slices, and show one of them."""
        widget = self.views[name]
        widget.mrmlSliceNode().SetOrientation(axis.capitalize())
        widget.showVolume(self.volume)
        widget.mrmlSliceNode().RotateToVolumePlane(self.volume)
        widget.fitSliceToBackground()
        along = self.along(axis)
        if index is not None:
            assert bridge.jumpTo(widget.mrmlSliceNode(), self.volume, along, index)
        return widget

    def along(self, axis):
        return closest(bridge.geometryOf(self.volume).affine, axis)

    def click(self, voxelKji, name="Red", **keys):
        """Click on a voxel, where the view shows it."""
        self.views[name].click(*self.pixel(voxelKji, name), **keys)

    def pixel(self, voxelKji, name="Red"):
        from InContextSegSlicer.effect.prompting import worldOf

        return self.views[name].xyOfRas(worldOf(voxelKji, self.volume))

    def settle(self):
        """Until nothing is awaited."""
        assert app.pump(30, until=lambda: not self.correction.working), self.correction.message

    def applied(self):
        """Press Enter over the view in use, once the answer is there."""
        self.settle()
        self.views["Red"].key("Return")
        self.settle()

    def shown(self):
        """(k, j, i) bool: what the preview shows, on the volume's grid."""
        node = self.correction.preview.node
        if node is None:
            return np.zeros(bridge.arrayOf(self.volume).shape[:3], bool)
        return exhausted(bridge.labelsOnGrid(node, dict.fromkeys(bridge.segmentNames(node), 1), self.volume)) > 0

    def drawn(self, segment=None):
        """(k, j, i) bool: a segment on the volume's grid."""
        wanted = segment or self.segmentation.GetSegmentation().GetNthSegmentID(0)
        return exhausted(bridge.labelsOnGrid(self.segmentation, {wanted: 1}, self.volume)) > 0
