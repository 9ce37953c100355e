"""From the example in the scene to the mask in the scene, whatever the volumes' directions, transforms and kinds."""

import numpy as np
import pytest
import slicer
import vtk

from InContextSegLib.progress import exhausted
from InContextSegLib.volumes.overlap import dice
from InContextSegSlicer.scene import bridge
from Testing.Slicer.panel.test_panel import SHAPE, SPACING, ball, patient
from Testing.Slicer.radiologist import Radiologist, mask


def rotated(degrees, axis):
    transform = vtk.vtkTransform()
    transform.RotateWXYZ(degrees, *axis)
    return slicer.util.arrayFromVTKMatrix(transform.GetMatrix())


SCALE = np.diag([*SPACING, 1.0])
AFFINES = {
    "axial": SCALE,
    "left-handed": np.diag([-1.0, 1, 1, 1]) @ SCALE,
    "coronal": np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]]) @ SCALE,
    "sagittal": np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]) @ SCALE,
    "oblique": rotated(25, (1, 2, 0.5)) @ SCALE,
}


@pytest.fixture
def doctor(scene, standingWorker):
    doctor = Radiologist()
    doctor.hurry()
    yield doctor
    doctor.close()


def linear(scene):
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Linear")
    matrix = rotated(20, (0, 1, 1))
    matrix[:3, 3] = (12, -7, 5)
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


def bent(scene):
    spline = vtk.vtkThinPlateSplineTransform()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for corner in np.ndindex(2, 2, 2):
        point = np.array(corner) * (48.0, 48.0, 30.0)
        source.InsertNextPoint(*point)
        moved = np.array((3 * corner[1], -2 * corner[0], 4 * corner[2]))
        target.InsertNextPoint(*(point + moved))
    spline.SetBasisToR()
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Bent")
    node.SetAndObserveTransformToParent(spline)
    return node


@pytest.mark.parametrize("directions", AFFINES)
def test_a_preview_and_a_result_lie_where_the_ball_is(doctor, scene, directions):
    doctor.teach(*patient(scene, "Teacher", 0, AFFINES[directions])[:2])
    target, _labels, truth = patient(scene, "Target", 1, AFFINES[directions])
    doctor.choose(target)
    doctor.press("previewButton")
    axis = doctor.panel.axisName()
    for view in ("Red", "Green", "Yellow"):
        doctor.view(view).showVolume(target)
        doctor.view(view).mrmlSliceNode().RotateToVolumePlane(target)
    doctor.panel.views.jump(target, axis, 4)
    assert doctor.previewed(), doctor.status
    shown = mask(doctor.controller.preview.node, target)
    assert dice(shown[4], truth[4]) > 0.7
    assert not np.delete(shown, 4, axis=0).any()
    doctor.press("segmentButton")
    doctor.wait()
    assert dice(mask(doctor.output, target), truth) > 0.7, doctor.status


@pytest.mark.parametrize("transforms", ["volume", "segmentation", "both", "bent"])
def test_transforms_of_examples_and_target_are_followed(doctor, scene, transforms):
    teacher, labels, _inside = patient(scene, "Teacher", 0)
    target, _labels, truth = patient(scene, "Target", 1)
    one = bent(scene) if transforms == "bent" else linear(scene)
    if transforms == "volume":
        for node in (teacher, labels, target):
            node.SetAndObserveTransformNodeID(one.GetID())
    elif transforms == "segmentation":
        under(labels, one)
    elif transforms == "both":
        other = bent(scene)
        for node in (teacher, target):
            node.SetAndObserveTransformNodeID(other.GetID())
        labels.SetAndObserveTransformNodeID(other.GetID())
    else:
        for node in (teacher, labels, target):
            node.SetAndObserveTransformNodeID(one.GetID())
    doctor.teach(teacher, labels)
    doctor.choose(target)
    doctor.press("segmentButton")
    doctor.wait()
    assert doctor.output.GetTransformNodeID() == target.GetTransformNodeID()
    assert dice(mask(doctor.output, target), truth) > 0.7, doctor.status


def under(segmentation, transform):
    """Move a segmentation under a transform that takes it to where it was: its voxels go the other way first."""
    inverse = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformFromParent(inverse)
    apply = vtk.vtkTransform()
    apply.SetMatrix(inverse)
    segmentation.ApplyTransform(apply)
    segmentation.SetAndObserveTransformNodeID(transform.GetID())


def test_a_single_picture_and_a_colour_picture_are_segmented(doctor, scene):
    inside = ball((5, 24, 22), 12)[5:6]
    pictures = []
    for number, kind in enumerate(("vtkMRMLVectorVolumeNode", "vtkMRMLVectorVolumeNode")):
        shifted = np.roll(inside, 5 * number, axis=2)
        volume = scene.AddNewNodeByClass(kind, f"Picture {number}")
        noise = np.random.default_rng(number).normal(0, 8, (*shifted.shape, 3))
        colours = np.where(shifted[..., None], (180, 60, 120), (90, 150, 120)) + noise
        slicer.util.updateVolumeFromArray(volume, np.clip(colours, 0, 255).astype(np.uint8))
        volume.CreateDefaultDisplayNodes()
        pictures.append((volume, shifted))
    teacher, drawn = pictures[0]
    labels = bridge.ensureSegmentation(scene, teacher, "Labels")
    identifier = bridge.ensureSegment(labels, "nucleus")
    writer = bridge.SegmentWriter(scene, slicer.vtkMRMLSegmentEditorNode())
    exhausted(writer.write(teacher, labels, drawn.astype(np.uint8), (0, 0, 0), {1: identifier}, "nothing"))
    doctor.teach(teacher, labels)
    target, truth = pictures[1]
    doctor.choose(target)
    doctor.press("segmentButton")
    doctor.wait()
    assert dice(mask(doctor.output, target), truth) > 0.7, doctor.status
    assert SHAPE[1:] == truth.shape[1:]
