"""Volumes, transforms and segments to try the bridge with, and where voxels lie by an evaluation of its own."""

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

SHAPE = (20, 26, 32)
LABELMAP = "Binary labelmap"


def turned(x, y, z):
    """(3, 3) a rotation by degrees about three axes, one after the other."""
    transform = vtk.vtkTransform()
    transform.RotateX(x)
    transform.RotateY(y)
    transform.RotateZ(z)
    return np.array([[transform.GetMatrix().GetElement(r, c) for c in range(3)] for r in range(3)])


GEOMETRIES = {
    "oblique": turned(20, -15, 35) @ np.diag([1.1, 1.1, 1.3]),
    "left-handed": np.diag([1.0, 1.0, -1.2]),
    "anisotropic": np.diag([-0.8, -0.8, 3.0]),
    "permuted": np.array([[0, 0, 1.2], [1.0, 0, 0], [0, 0.9, 0]]),
}


def affineOf(directions, origin=(-12.0, 7.5, 31.0)):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions, origin
    return affine


def matrixOf(affine):
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(affine, float).ravel())
    return matrix


def addVolume(scene, array, affine=None, name="CT"):
    """A volume node that holds an array (k, j, i) or (k, j, i, 3)."""
    colour = array.ndim == 4
    node = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode" if colour else "vtkMRMLScalarVolumeNode", name)
    image = vtk.vtkImageData()
    image.SetDimensions(*array.shape[2::-1])
    flat = np.ascontiguousarray(array).reshape((-1, 3) if colour else -1)
    image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(matrixOf(np.eye(4) if affine is None else affine))
    return node


def addSegmentation(scene, volume=None, name="Segmentation", segments=()):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    if volume is not None:
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for segment in segments:
        node.GetSegmentation().AddEmptySegment(segment, segment)
    return node


def oriented(mask, affine, corner=(0, 0, 0)):
    """A labelmap image of a mask (k, j, i) whose first voxel has the index `corner`."""
    image = slicer.vtkOrientedImageData()
    (k, j, i), (depth, height, width) = corner, mask.shape
    image.SetExtent(i, i + width - 1, j, j + height - 1, k, k + depth - 1)
    image.SetGeometryFromImageToWorldMatrix(matrixOf(affine))
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(mask, np.uint8).ravel(), deep=True))
    return image


def addEditor(scene, segmentation, volume=None):
    editor = scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    editor.SetAndObserveSegmentationNode(segmentation)
    editor.SetAndObserveSourceVolumeNode(volume)
    return editor


def segmentEditor(scene, editor):
    """Slicer's own logic, to draw as a user does and to compare with."""
    logic = slicer.vtkSlicerSegmentEditorLogic()
    logic.SetMRMLScene(scene)
    logic.SetSegmentEditorNode(editor)
    return logic


def draw(scene, segmentation, segment, mask, affine, remove=False, editor=None):
    """What a user draws: by Slicer's own call, on a grid of the segmentation's frame."""
    own = editor or slicer.vtkMRMLSegmentEditorNode()
    if editor is None:
        own.SetOverwriteMode(own.OverwriteNone)
    logic = segmentEditor(scene, own)
    own.SetSelectedSegmentID(segment)
    mode = logic.ModificationModeRemove if remove else logic.ModificationModeAdd
    logic.ModifySegmentByLabelmap(segmentation, segment, oriented(mask, affine), mode, True, False)


def linear(scene, degrees, shift, scale=1.0):
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turned(*degrees) * scale, shift
    node.SetMatrixTransformToParent(matrixOf(affine))
    return node


def put(node, transform):
    """Under a transform node, or under none."""
    node.SetAndObserveTransformNodeID(transform.GetID() if transform is not None else None)


def somewhere(scene, where):
    """A transform node, or None."""
    if where == "moved":
        return linear(scene, (15, 5, 40), (30, -20, 9))
    return warpGrid(scene, 2.0) if where == "warped" else None


def warpGrid(scene, amplitude=3.0):
    """A displacement field of several millimetres, smooth, that bends lines."""
    field = vtk.vtkImageData()
    field.SetDimensions(17, 17, 17)
    field.SetOrigin(-120, -120, -120)
    field.SetSpacing(15, 15, 15)
    k, j, i = np.indices((17, 17, 17)) * 15.0 - 120
    moved = amplitude * np.stack([np.sin(j / 18), np.cos(k / 21 + 0.4), np.sin((i + j) / 24)], axis=-1)
    field.GetPointData().SetScalars(numpy_to_vtk(moved.reshape(-1, 3), deep=True))
    transform = slicer.vtkOrientedGridTransform()
    transform.SetInterpolationModeToCubic()
    transform.SetDisplacementGridData(field)
    node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    node.SetAndObserveTransformToParent(transform)
    return node


def warpSpline(scene):
    """A thin-plate spline through a dozen landmarks."""
    generator = np.random.default_rng(5)
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for point in generator.uniform(-60, 60, (12, 3)):
        source.InsertNextPoint(*point)
        target.InsertNextPoint(*(point + generator.uniform(-3, 3, 3)))
    transform = vtk.vtkThinPlateSplineTransform()
    transform.SetBasisToR()
    transform.SetSourceLandmarks(source)
    transform.SetTargetLandmarks(target)
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode")
    node.SetAndObserveTransformToParent(transform)
    return node


def ball(shape=SHAPE, centre=(9.0, 12.0, 17.0), radii=(5.5, 7.0, 9.0)):
    """A mask that looks different from every side: an ellipsoid with a bump."""
    index = np.indices(shape)
    distance = sum(((index[n] - centre[n]) / radii[n]) ** 2 for n in range(3))
    bump = sum((index[n] - centre[n] - (2, 4, 7)[n]) ** 2 for n in range(3)) < 9
    return (distance < 1) | bump


def toWorld(node, affine, ijk):
    """World positions (n, 3) of indices (n, 3), by the node's own transform, point by point."""
    points = np.asarray(ijk, float) @ affine[:3, :3].T + affine[:3, 3]
    return _through(node, points, back=False)


def fromWorld(node, affine, points):
    """The inverse of `toWorld`."""
    return (_through(node, points, back=True) - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T


def _through(node, points, back):
    parent = node.GetParentTransformNode()
    if parent is None:
        return points
    general = vtk.vtkGeneralTransform()
    (parent.GetTransformFromWorld if back else parent.GetTransformToWorld)(general)
    return np.array([general.TransformPoint(point) for point in points])


def affineOfVolume(volume):
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])


def voxels(segmentation, segment):
    """((n, 3) indices (i, j, k), affine) of a segment's voxels as Slicer itself hands them out."""
    image = slicer.vtkOrientedImageData()
    segmentation.GetBinaryLabelmapRepresentation(segment, image)
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    affine = np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])
    if image.IsEmpty():
        return np.zeros((0, 3), int), affine
    extent = image.GetExtent()
    array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    return np.argwhere(array)[:, ::-1] + [extent[0], extent[2], extent[4]], affine


def mask(segmentation, segment, shape=SHAPE):
    """(k, j, i) bool: a segment on its own grid, from index 0 on; voxels beyond the shape make it fail."""
    ijk, _ = voxels(segmentation, segment)
    found = np.zeros(shape, bool)
    if len(ijk):
        assert ijk.min() >= 0
        found[tuple(ijk[:, ::-1].T)] = True
    return found


def masks(segmentation):
    """Every segment of a segmentation, as a set of voxels."""
    segmentation.GetSegmentation()
    return {
        segment: {tuple(voxel) for voxel in voxels(segmentation, segment)[0].tolist()}
        for segment in segmentation.GetSegmentation().GetSegmentIDs()
    }
