"""What the segments of a segmentation are made of: labelmaps that several may share, surfaces, and room for more."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from itertools import groupby
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from InContextSegLib.errors import InputError
from InContextSegSlicer.scene.grid_mapping import (
    Box,
    Grid,
    Passage,
    QueuedTask,
    Raster,
    arrayOfMatrix,
    boxOfExtent,
    extentOf,
    inPieces,
    intersection,
    matrixOfArray,
    sampled,
    union,
)

LABELMAP = "Binary labelmap"
SURFACE = "Closed surface"
_NOTHING: Box = (np.zeros(3, int), np.zeros(3, int))
_SURFACE_POINTS = 50_000
_ATTEMPTS = 3


def segmentOf(segmentationNode: Any, segmentID: str) -> Any:
    """The segment of this identifier.

    Raises:
        InputError: if the segmentation was closed or has no such segment.
    """
    segment = segmentationNode.GetSegmentation().GetSegment(segmentID)
    if segment is None or segmentationNode.GetScene() is None:
        what = "was closed" if segment is not None else f"has no segment {segmentID!r}"
        raise InputError(f"The segmentation {segmentationNode.GetName()!r} {what}; open it and start again.")
    return segment


def labelmapOf(segment: Any) -> Any:
    """The vtkOrientedImageData that holds a segment, perhaps with others; None where there is none."""
    return segment.GetRepresentation(LABELMAP)


def isEmpty(labelmap: Any) -> bool:
    """Whether a labelmap, or the lack of one, holds no voxel at all."""
    return labelmap is None or labelmap.IsEmpty() or labelmap.GetPointData().GetScalars() is None


def gridOf(labelmap: Any, segmentationNode: Any) -> Grid:
    """The grid of a labelmap, under the transform of its segmentation."""
    matrix = vtk.vtkMatrix4x4()
    labelmap.GetImageToWorldMatrix(matrix)
    return Grid(arrayOfMatrix(matrix), segmentationNode.GetParentTransformNode())


def rasterOf(labelmap: Any) -> Raster:
    """A labelmap's own memory: writing to the array writes to every segment that shares it."""
    low, high = boxOfExtent(labelmap.GetExtent())
    array = vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(tuple(high - low))
    return Raster(array, tuple(low.tolist()))


class Layers:
    """Which labelmap and which label every segment has right now; good until somebody else gets to act."""

    def __init__(self, segmentationNode: Any):
        if segmentationNode.GetScene() is None:
            raise InputError(f"The segmentation {segmentationNode.GetName()!r} was closed; open it and start again.")
        segmentation = segmentationNode.GetSegmentation()
        self._name = segmentationNode.GetName()
        self._places: dict[str, tuple[Any, int]] = {}
        self._owners: dict[Any, dict[int, str]] = defaultdict(dict)
        for segmentID in segmentation.GetSegmentIDs():
            segment = segmentation.GetSegment(segmentID)
            labelmap, label = labelmapOf(segment), segment.GetLabelValue()
            self._places[segmentID] = labelmap, label
            self._owners[labelmap][label] = segmentID

    def __contains__(self, segmentID: str) -> bool:
        return segmentID in self._places

    def __getitem__(self, segmentID: str) -> tuple[Any, int]:
        """Labelmap and label of a segment."""
        if segmentID not in self._places:
            raise InputError(f"The segmentation {self._name!r} has no segment {segmentID!r}; open it and start again.")
        return self._places[segmentID]

    def sharing(self, labelmap: Any) -> dict[int, str]:
        """Which label of a labelmap is which segment."""
        return self._owners[labelmap]


class Reading:
    """Chosen segments as labels of any grid: where several lie on one voxel, the one named first has it."""

    def __init__(self, segmentationNode: Any, values: Mapping[str, int], grid: Grid):
        largest = max(values.values(), default=0)
        if min(values.values(), default=1) < 1 or largest > np.iinfo(np.uint16).max:
            raise InputError(f"Segments become labels from 1 to 65535, but {dict(values)} came; number them anew.")
        self.dtype = np.uint8 if largest <= np.iinfo(np.uint8).max else np.uint16
        self._node, self._values, self._grid = segmentationNode, dict(values), grid
        self._surfaces: dict[str, Any] = {}

    def prepare(self) -> QueuedTask:
        """Bring surfaces to the grid; has to be done before the first reading."""
        for labelmap, members in self._layers():
            for segmentID in members if labelmap is None else ():
                self._surfaces[segmentID] = yield from self._surfaceIn(segmentID)

    def reach(self) -> QueuedTask:
        """Find the box outside of which there is nothing."""
        box = _NOTHING
        for labelmap, members in self._layers():
            if labelmap is None:
                for segmentID in members:
                    box = union(box, _boundsOf(self._surfaces[segmentID]))
            elif not isEmpty(labelmap):
                passage = Passage(gridOf(labelmap, self._node), self._grid)
                box = union(box, (yield from passage.reach(*boxOfExtent(labelmap.GetExtent()))))
        return box

    def __call__(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Labels (k, j, i) of a box, uint8 where that is enough, else uint16."""
        labels = np.zeros(tuple(np.asarray(high) - low), dtype=self.dtype)
        empty = True
        for labelmap, members in self._layers():
            if labelmap is None:
                for segmentID in members:
                    inside = _rasterised(self._surfaces.get(segmentID), low, high)
                    np.copyto(labels, self._values[segmentID], where=inside & (labels == 0))
                empty = False
            elif not isEmpty(labelmap):
                passage = Passage(self._grid, gridOf(labelmap, self._node))
                found = sampled(rasterOf(labelmap), passage, low, high)
                np.copyto(labels, self._renamed(found, members), where=True if empty else labels == 0)
                empty = False
        return labels

    def _layers(self) -> Iterator[tuple[Any, dict[str, int]]]:
        """Labelmaps with the segments wanted of them and their labels, in the order the segments were named."""
        layers = Layers(self._node)
        for labelmap, run in groupby(self._values, key=lambda segmentID: layers[segmentID][0]):
            yield labelmap, {segmentID: layers[segmentID][1] for segmentID in run}

    def _renamed(self, found: np.ndarray, members: dict[str, int]) -> np.ndarray:
        labels = {label: self._values[segmentID] for segmentID, label in members.items()}
        if len(labels) == 1:  # several times as fast
            ((label, value),) = labels.items()
            return (found == label) * self.dtype(value)
        table = np.zeros(max(labels) + 2, dtype=self.dtype)  # the last entry stands for everything beyond
        for label, value in labels.items():
            table[label] = value
        return table.take(found if found.dtype.kind in "iu" else found.astype(np.int64), mode="clip")

    def _surfaceIn(self, segmentID: str) -> QueuedTask:
        """The segment's surface with its points in indices of the grid."""
        surface = segmentOf(self._node, segmentID).GetRepresentation(SURFACE)
        if surface is None or surface.GetNumberOfPoints() == 0:
            return None
        passage = Passage(Grid(np.eye(4), self._node.GetParentTransformNode()), self._grid)
        points, parts = vtk_to_numpy(surface.GetPoints().GetData()), []
        for start in range(0, len(points), _SURFACE_POINTS):
            parts.append(passage.points(points[start : start + _SURFACE_POINTS]))
            yield
        moved = vtk.vtkPolyData()
        moved.ShallowCopy(surface)
        moved.SetPoints(vtk.vtkPoints())
        moved.GetPoints().SetData(numpy_to_vtk(np.concatenate(parts), deep=True))
        return moved


def makeRoom(segmentationNode: Any, labelmap: Any, box: Box, grid: Grid) -> QueuedTask:
    """Let a labelmap reach over a box; what it holds stays. An empty one takes `grid`."""

    def copying(grown):
        empty = isEmpty(labelmap)
        old = Raster(np.zeros((0, 0, 0), np.uint8)) if empty else rasterOf(labelmap)
        low, high = box if empty else union(box, old.box)
        grown.SetGeometryFromImageToWorldMatrix(matrixOfArray(grid.affine))
        grown.SetExtent(*extentOf(low, high))
        largest = max(Layers(segmentationNode).sharing(labelmap), default=1)
        kind = vtk.VTK_SHORT if largest > np.iinfo(np.uint8).max else vtk.VTK_UNSIGNED_CHAR
        grown.AllocateScalars(kind if empty else labelmap.GetScalarType(), 1)
        yield from _copied(rasterOf(grown), old, lambda piece: piece)

    grown, _ = yield from _whileUnchanged(labelmap, copying)
    with keepingSurfaces(segmentationNode):
        labelmap.ShallowCopy(grown)


def giveOwnLabelmap(segmentationNode: Any, segmentID: str) -> QueuedTask:
    """Move a segment out of a labelmap that it shares, so that it may lie over its neighbours."""
    segment = segmentOf(segmentationNode, segmentID)
    labelmap, label = labelmapOf(segment), segment.GetLabelValue()

    def copying(own):
        # No more than it holds: the Segment Editor copies all of a labelmap for every state of undo.
        source, held = rasterOf(labelmap), []

        def look(low, high):
            if (source.array[tuple(map(slice, low - source.box[0], high - source.box[0]))] == label).any():
                held.append((low, high))

        yield from inPieces(*source.box, look)
        if held:
            own.CopyDirections(labelmap)
            own.SetOrigin(labelmap.GetOrigin())
            own.SetSpacing(labelmap.GetSpacing())
            own.SetExtent(*extentOf(*reduce(union, held)))
            own.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
            yield from _copied(rasterOf(own), source, lambda piece: piece == label)
        return held

    own, touched = yield from _whileUnchanged(labelmap, copying)
    segment = segmentOf(segmentationNode, segmentID)
    if labelmapOf(segment) is not labelmap or segment.GetLabelValue() != label:
        return  # somebody moved it meanwhile; whoever asked looks again
    # At once, since the label is free for another segment as soon as this one has left.
    old = rasterOf(labelmap)
    for low, high in touched:
        window = old.array[tuple(map(slice, low - old.box[0], high - old.box[0]))]
        window[window == label] = 0
    with keepingSurfaces(segmentationNode):
        segment.AddRepresentation(LABELMAP, own)
        segment.SetLabelValue(1)


def _whileUnchanged(labelmap: Any, copying: Callable[[Any], QueuedTask]) -> QueuedTask:
    """Let a new image be filled from a labelmap, again where somebody drew meanwhile, and the last time at once."""
    for attempt in range(_ATTEMPTS):
        image, unchanged = slicer.vtkOrientedImageData(), labelmap.GetMTime()
        work = copying(image)
        while True:
            try:
                next(work)
            except StopIteration as end:
                found = end.value
                break
            if attempt < _ATTEMPTS - 1:
                yield
        if labelmap.GetMTime() == unchanged:
            break
    return image, found


@contextmanager
def keepingSurfaces(segmentationNode: Any) -> Iterator[None]:
    """Keep the surfaces shown in 3D, which go when a labelmap says that it was modified."""
    segmentation = segmentationNode.GetSegmentation()
    kept = {}
    for segmentID in segmentation.GetSegmentIDs():
        surface = segmentation.GetSegment(segmentID).GetRepresentation(SURFACE)
        if surface is not None:
            kept[segmentID] = surface
    yield
    for segmentID, surface in kept.items():
        segment = segmentation.GetSegment(segmentID)
        if segment is not None and segment.GetRepresentation(SURFACE) is None:
            segment.AddRepresentation(SURFACE, surface)


def announce(segmentationNode: Any, labelmaps: list[Any], segmentIDs: list[str]) -> QueuedTask:
    """Tell everybody that labelmaps hold something else; surfaces of changed segments are made anew, one by one."""
    with keepingSurfaces(segmentationNode):
        for labelmap in labelmaps:
            if not isEmpty(labelmap):
                labelmap.GetPointData().GetScalars().Modified()
            labelmap.Modified()
    yield
    segmentation = segmentationNode.GetSegmentation()
    for segmentID in segmentIDs:
        segment = segmentation.GetSegment(segmentID)
        if segment is not None and segment.GetRepresentation(SURFACE) is not None:
            segment.RemoveRepresentation(SURFACE)
            segmentation.CreateRepresentation(SURFACE, False)
            yield
    for segmentID in segmentIDs:
        if segmentation.GetSegment(segmentID) is not None:
            # Views do not look at a labelmap that was modified, before something else happens to its segment.
            segmentation.InvokeEvent(slicer.vtkSegmentation.SegmentModified, segmentID)


def _copied(new: Raster, old: Raster, change) -> QueuedTask:
    """Fill `new` with `change` of what `old` holds there, else 0."""

    def work(low, high):
        window = new.array[tuple(map(slice, low - new.box[0], high - new.box[0]))]
        window[...] = 0
        first, last = intersection((low, high), old.box)
        if np.all(first < last):
            piece = change(old.array[tuple(map(slice, first - old.box[0], last - old.box[0]))])
            window[tuple(map(slice, first - low, last - low))] = piece

    yield from inPieces(*new.box, work)


def _boundsOf(surface: Any) -> Box:
    """The box of voxels whose centres may lie in a surface given in indices."""
    if surface is None:
        return _NOTHING
    ends = np.array(surface.GetBounds()).reshape(3, 2)[::-1]
    return np.floor(ends[:, 0]).astype(int), np.ceil(ends[:, 1]).astype(int) + 1


def _rasterised(surface: Any, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which voxels of a box have their centre in a surface given in indices: bool."""
    first, last = intersection((low, high), _boundsOf(surface))
    inside = np.zeros(tuple(np.asarray(high) - low), dtype=bool)
    if np.any(first >= last):
        return inside
    stencil, image = vtk.vtkPolyDataToImageStencil(), vtk.vtkImageStencilToImage()
    stencil.SetInputData(surface)
    stencil.SetOutputOrigin(0, 0, 0)
    stencil.SetOutputSpacing(1, 1, 1)
    stencil.SetOutputWholeExtent(*extentOf(first, last))
    image.SetInputConnection(stencil.GetOutputPort())
    image.SetOutputScalarTypeToUnsignedChar()
    image.SetInsideValue(1)
    image.SetOutsideValue(0)
    image.Update()
    found = vtk_to_numpy(image.GetOutput().GetPointData().GetScalars()).reshape(tuple(last - first))
    inside[tuple(map(slice, first - low, last - low))] = found
    return inside
