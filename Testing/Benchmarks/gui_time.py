"""How long the window's thread is held up by what the bridge does to a large scan.

From the root of the repository: `PYTHONPATH=InContextSeg python -m Testing.Benchmarks.gui_time`
"""

import argparse
import time
from collections.abc import Callable, Generator

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from InContextSegSlicer.scene import bridge

SHAPE = (200, 512, 512)
REPEATS = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    scene = start()
    print(f"{' x '.join(map(str, SHAPE[::-1]))} voxels, least of {options.repeats} runs\n")
    print(f"| {'action':56} | longest step | total |\n|{'-' * 58}|---|---|")
    for action, (longest, total) in measure(scene, options.repeats).items():
        print(f"| {action:56} | {1000 * longest:6.1f} ms | {1000 * total:7.0f} ms |", flush=True)


def start():
    """A scene with Slicer's colours, without a window."""
    scene = slicer.mrmlScene = slicer.vtkMRMLScene()
    colours = slicer.vtkMRMLColorLogic()
    colours.SetMRMLScene(scene)
    colours.AddDefaultColorNodes()
    return scene


def measure(scene, repeats: int = REPEATS) -> dict[str, tuple[float, float]]:
    """Longest step and total, in seconds, of every action; of the run whose longest step was shortest."""
    runs = []
    for _ in range(repeats):
        scene.Clear(0)
        runs.append(dict(actions(scene)))
    return {action: min(run[action] for run in runs) for action in runs[0]}


def actions(scene) -> Generator[tuple[str, tuple[float, float]], None, None]:
    """Do everything once in an empty scene; yields what was done, longest step and total in seconds."""
    volume, segmentation = patient(scene)
    three = {"A": 1, "B": 2, "C": 3}
    yield "arrayOf and geometryOf", timed(lambda: (bridge.arrayOf(volume), bridge.geometryOf(volume)))
    yield "labelsOnGrid of 3 segments", timed(bridge.labelsOnGrid(segmentation, three, volume))
    view = scene.AddNewNodeByClass("vtkMRMLSliceNode")
    yield "jumpTo", timed(lambda: bridge.jumpTo(view, volume, 0, 90))
    yield "displayedIndex", timed(lambda: bridge.displayedIndex(view, volume, 0))
    for name, axis in (("axial", 0), ("sagittal", 2)):
        picture = lambda axis=axis: bridge.thumbnail(volume, segmentation, list("ABC"), axis, 100, 96)  # noqa: E731
        yield f"thumbnail, {name}, with 3 segments", timed(picture)
    for size, block, corner in (("an organ", organ(), (60, 150, 120)), ("the largest", largest(), (0, 60, 60))):
        yield from written(scene, volume, segmentation, (size, block, corner))
    yield from moved(scene, volume, segmentation)


def written(scene, volume, segmentation, result):
    """Write a result into D by every kind of rule, and take it back."""
    size, block, corner = result
    editor = slicer.vtkMRMLSegmentEditorNode()
    writer = bridge.SegmentWriter(scene, editor)

    def writing(labels):
        return writer.write(volume, segmentation, labels, corner, {1: "D"})

    editor.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedOutsideVisibleSegments)
    editor.SourceVolumeIntensityMaskOn()
    editor.SetSourceVolumeIntensityMaskRange(-500, 500)
    yield f"write {size}, masked", timed(writing(block))
    timed(writer.undo())
    editor.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere)
    editor.SourceVolumeIntensityMaskOff()
    yield f"write {size}, overwriting neighbours", timed(writing(block))
    yield f"write {size} again, changed", timed(writing(block[::-1, ::-1]))
    yield f"undo {size}", timed(writer.undo())
    yield f"redo {size}", timed(writer.redo())
    timed(writer.undo())
    timed(writer.undo())
    timed(writer.write(volume, segmentation, np.ones((2, 9, 9), np.uint8), (9, 205, 9), {1: "D"}))
    editor.SetOverwriteMode(editor.OverwriteNone)
    yield f"write {size} over neighbours", timed(writing(block))
    timed(writer.undo())
    timed(writer.undo())
    yield f"showUncertainty of {size}", timed(bridge.showUncertainty(scene, volume, block * 50, corner))


def moved(scene, volume, segmentation):
    """The same under a transform, which asks for every voxel's place."""
    writer = bridge.SegmentWriter(scene, slicer.vtkMRMLSegmentEditorNode())
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 3.3)
    matrix.SetElement(0, 1, 0.05)
    matrix.SetElement(1, 0, -0.05)
    node.SetMatrixTransformToParent(matrix)
    segmentation.SetAndObserveTransformNodeID(node.GetID())
    yield (
        "write an organ, rotated segmentation",
        timed(writer.write(volume, segmentation, organ(), (60, 150, 120), {1: "D"})),
    )
    yield (
        "labelsOnGrid of 3, rotated segmentation",
        timed(bridge.labelsOnGrid(segmentation, {"A": 1, "B": 2, "C": 3}, volume)),
    )
    segmentation.SetAndObserveTransformNodeID(warp(scene).GetID())
    yield (
        "write an organ, warped segmentation",
        timed(writer.write(volume, segmentation, organ(), (60, 150, 120), {1: "D"})),
    )
    volume.SetAndObserveTransformNodeID(segmentation.GetTransformNodeID())
    segmentation.SetAndObserveTransformNodeID(None)
    yield "write an organ, warped volume", timed(writer.write(volume, segmentation, organ(), (60, 150, 120), {1: "D"}))
    yield (
        "thumbnail, axial, warped volume",
        timed(lambda: bridge.thumbnail(volume, segmentation, list("ABC"), 0, 100, 96)),
    )


def timed(work: Generator | Callable) -> tuple[float, float]:
    """Longest step and total of a queued task; of a plain call the same twice."""
    if callable(work):
        begun = time.perf_counter()
        work()
        took = time.perf_counter() - begun
        return took, took
    steps = []
    while True:
        begun = time.perf_counter()
        try:
            next(work)
        except StopIteration:
            break
        finally:
            steps.append(time.perf_counter() - begun)
    return max(steps), sum(steps)


def patient(scene):
    """A scan with segments A, B, C that fill one labelmap of the scan's size, and an empty D."""
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    image = vtk.vtkImageData()
    image.SetDimensions(*SHAPE[::-1])
    image.AllocateScalars(vtk.VTK_SHORT, 1)
    values = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(SHAPE)
    values[...] = np.random.default_rng(1).integers(-1000, 1000, SHAPE[1:], dtype=np.int16)
    volume.SetAndObserveImageData(image)
    volume.SetSpacing(0.8, 0.8, 1.5)
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    labelmap = slicer.vtkOrientedImageData()
    labelmap.SetExtent(0, SHAPE[2] - 1, 0, SHAPE[1] - 1, 0, SHAPE[0] - 1)
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    labelmap.SetGeometryFromImageToWorldMatrix(matrix)
    labelmap.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    labels = vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(SHAPE)
    labels[...] = 0
    labels[:, :200, :] = 1
    labels[20:150, 220:400, 30:200] = 2
    labels[:, 420:, 300:] = 3
    for label, name in enumerate("ABC", start=1):
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.AddRepresentation("Binary labelmap", labelmap)
        segment.SetLabelValue(label)
        segmentation.GetSegmentation().AddSegment(segment, name)
    segmentation.GetSegmentation().AddEmptySegment("D", "D")
    return volume, segmentation


def organ() -> np.ndarray:
    return blob((120, 180, 200))


def largest() -> np.ndarray:
    return blob((200, 400, 400))


def blob(shape: tuple[int, int, int]) -> np.ndarray:
    """A lumpy ball that fills a block."""
    k, j, i = (np.linspace(-1, 1, length, dtype=np.float32) for length in shape)
    lumps = 0.1 * np.sin(9 * k)[:, None, None] * np.cos(8 * j)[:, None] * np.sin(7 * i)
    return (k[:, None, None] ** 2 + j[:, None] ** 2 + i**2 + lumps < 0.9).astype(np.uint8)


def warp(scene):
    """A displacement field of some millimetres."""
    field = vtk.vtkImageData()
    field.SetDimensions(30, 30, 30)
    field.SetOrigin(-100, -100, -100)
    field.SetSpacing(25, 25, 25)
    k, j, i = np.indices((30, 30, 30)) * 25.0
    moved = 4 * np.stack([np.sin(j / 40), np.cos(k / 45), np.sin((i + j) / 60)], axis=-1)
    field.GetPointData().SetScalars(numpy_to_vtk(moved.reshape(-1, 3), deep=True))
    transform = slicer.vtkOrientedGridTransform()
    transform.SetDisplacementGridData(field)
    node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    node.SetAndObserveTransformToParent(transform)
    return node


if __name__ == "__main__":
    main()
