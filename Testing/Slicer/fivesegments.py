"""A patient with five segments, to write into by every rule of the Segment Editor."""

import numpy as np
import slicer

from InContextSegSlicer.scene import bridge
from Testing.Slicer.patients import SHAPE, addEditor, addSegmentation, addVolume, affineOf, ball, draw, turned

NODE = slicer.vtkMRMLSegmentationNode
EDITOR = slicer.vtkMRMLSegmentEditorNode
OVERWRITE = {
    "all": EDITOR.OverwriteAllSegments,
    "visible": EDITOR.OverwriteVisibleSegments,
    "none": EDITOR.OverwriteNone,
}
AREAS = {
    "everywhere": NODE.EditAllowedEverywhere,
    "inside all": NODE.EditAllowedInsideAllSegments,
    "inside visible": NODE.EditAllowedInsideVisibleSegments,
    "outside all": NODE.EditAllowedOutsideAllSegments,
    "outside visible": NODE.EditAllowedOutsideVisibleSegments,
    "inside one": NODE.EditAllowedInsideSingleSegment,
}
AFFINE = affineOf(turned(20, -15, 35))


def tinyPieces(monkeypatch):
    """Queued tasks of many steps."""
    for name in ("_FIRST_VOXELS", "_FEWEST_VOXELS"):
        monkeypatch.setattr(f"InContextSegSlicer.scene.grid_mapping.{name}", 300)
    monkeypatch.setattr("InContextSegSlicer.scene.grid_mapping._PIECE_S", 1e-7)


def box(low, high):
    made = np.zeros(SHAPE, bool)
    made[tuple(map(slice, low, high))] = True
    return made


def world(scene, name="Segmentation"):
    """A volume of noise and five segments: A has a stroke, B and C share its labelmap, D lies across, E is empty."""
    values = np.random.default_rng(3).integers(-500, 500, SHAPE).astype(np.int16)
    volume = addVolume(scene, values, AFFINE)
    segmentation = addSegmentation(scene, volume, name, ("A", "B", "C", "D", "E"))
    for segment, drawn in (
        ("A", box((1, 1, 1), (3, 4, 5))),
        ("B", box((0, 6, 3), (20, 13, 12))),
        ("C", box((0, 13, 18), (20, 20, 28))),
        ("D", box((4, 5, 5), (14, 15, 25))),
    ):
        draw(scene, segmentation, segment, drawn, AFFINE)
    segmentation.GetDisplayNode().SetSegmentVisibility("C", False)
    return volume, segmentation


def writerFor(scene, segmentation, volume, overwrite="all", area="everywhere", areaSegment=None, intensities=None):
    editor = addEditor(scene, segmentation, volume)
    editor.SetOverwriteMode(OVERWRITE[overwrite])
    editor.SetMaskMode(AREAS[area])
    editor.SetMaskSegmentID(areaSegment)
    if intensities is not None:
        editor.SourceVolumeIntensityMaskOn()
        editor.SetSourceVolumeIntensityMaskRange(*intensities)
    return bridge.SegmentWriter(scene, editor), editor


def two():
    """Labels 1 and 2, side by side."""
    labels = ball().astype(np.uint8)
    labels[:, :, 17:] *= 2
    return labels
