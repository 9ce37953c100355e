"""What a person says about one structure on one slice, in world millimetres, and which slice a view shows."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from InContextSegLib.errors import InputError
from InContextSegLib.slices.plan import SlicePlan
from InContextSegLib.volumes.geometry import AXES
from InContextSegSlicer.scene import bridge
from InContextSegSlicer.scene.grid_mapping import Grid, Passage, arrayOfMatrix
from InContextSegSlicer.scene.plane import Plane, planeIn
from InContextSegSlicer.scene.reading import gridOfVolume, isSheared

POINT, BOX, SCRIBBLE = "point", "box", "scribble"
# A view may show a plane between two slices, and be turned by so little that nobody sees it: in slices.
OFF_THE_SLICE = 0.75
_EDGE_POINTS = 5
_WORLD = Grid(np.eye(4))
Position = tuple[float, float, float]  # RAS mm of the world, where views show it


@dataclass(frozen=True)
class Place:
    """One segment on one slice of one volume, or on a plane through it, by IDs, so that it outlives what it names.

    Attributes:
        axis: "axial", "coronal" or "sagittal", what comes closest on a plane.
        index: of the slice along the array axis that lies closest; 0 on a plane.
        plane: where the view is turned against the slices; None: it is one of them.
    """

    volume: str
    segmentation: str
    segment: str
    axis: str
    index: int
    plane: Plane | None = None

    def isLike(self, other: "Place") -> bool:
        """Whether both are the same, but for a little that nobody sees."""
        if self.plane is None or other.plane is None:
            return self == other
        return replace(self, axis=other.axis, plane=other.plane) == other and self.plane.isNear(other.plane)


@dataclass(frozen=True)
class Mark:
    """A click (one position), a box (two opposite corners) or a scribble (a line)."""

    kind: str
    positions: tuple[Position, ...]
    positive: bool = True

    def moved(self, shift: Sequence[float]) -> "Mark":
        """The same, that many millimetres away."""
        return replace(self, positions=tuple(tuple(np.add(each, shift).tolist()) for each in self.positions))

    def distance(self, position: Position) -> float:
        """Millimetres from a position to the nearest position of the mark."""
        return float(np.linalg.norm(np.subtract(self.positions, position), axis=1).min())


@dataclass(frozen=True, eq=False)
class Step:
    """All marks on a slice at one moment.

    Attributes:
        follows: the step whose answer the network corrects; None where it has to start anew, as after a mark that led
            to that answer was taken away.
    """

    marks: tuple[Mark, ...] = ()
    follows: "Step | None" = None

    def adding(self, mark: Mark) -> "Step":
        """These marks and one more."""
        return Step((*self.marks, mark), self)

    def without(self, number: int) -> "Step":
        """All marks but one."""
        return Step(self.marks[:number] + self.marks[number + 1 :])

    def moving(self, number: int, shift: Sequence[float]) -> "Step":
        """One mark elsewhere."""
        return Step((*self.marks[:number], self.marks[number].moved(shift), *self.marks[number + 1 :]))

    def nearest(self, position: Position, within: float = np.inf) -> int | None:
        """The number of the mark nearest to a position; None where there is none so near."""
        distances = [mark.distance(position) for mark in self.marks]
        number = int(np.argmin(distances)) if distances else None
        return number if number is not None and distances[number] <= within else None


@dataclass
class History:
    """The steps on one slice: undo is to go back to an earlier value."""

    steps: list[Step] = field(default_factory=lambda: [Step()])
    at: int = 0

    @property
    def now(self) -> Step:
        return self.steps[self.at]

    @property
    def canUndo(self) -> bool:
        return self.at > 0

    @property
    def canRedo(self) -> bool:
        return self.at + 1 < len(self.steps)

    def add(self, step: Step) -> None:
        """Go on from here; what was taken back before is gone."""
        self.steps[self.at + 1 :] = [step]
        self.at += 1

    def undo(self) -> None:
        self.at = max(self.at - 1, 0)

    def redo(self) -> None:
        self.at = min(self.at + 1, len(self.steps) - 1)


def placeIn(
    sliceNode: slicer.vtkMRMLSliceNode,
    volume: slicer.vtkMRMLScalarVolumeNode,
    where: tuple[str, str] = ("", ""),
    position: Position | None = None,
) -> Place:
    """The slice of a volume that a view shows, or the plane through it, under any transforms.

    Args:
        where: IDs of segmentation and segment.
        position: in the view; refused beside the volume.

    Raises:
        InputError: if the view shows nothing of the volume, or the position lies outside of it.
    """
    if position is not None:
        indexKji = indexOf(position, volume)
        if (indexKji < -0.5).any() or (indexKji > np.array(bridge.arrayOf(volume).shape[:3]) - 0.5).any():
            raise InputError(_("That is outside of '{volume}'; click on the image.").format(volume=volume.GetName()))
    found = sliceIn(sliceNode, volume)
    if found is not None:
        return Place(volume.GetID(), *where, *found)
    plane = planeIn(sliceNode, volume)
    return Place(volume.GetID(), *where, plane.axis, 0, plane)


def sliceIn(sliceNode: slicer.vtkMRMLSliceNode, volume: slicer.vtkMRMLScalarVolumeNode) -> tuple[str, int] | None:
    """Axis and index of the slice of a volume that a view shows; None where it shows none, or not all of it.

    A volume with oblique axes has no slices that could be handed over.
    """
    if isSheared(volume):
        return None
    geometry = bridge.geometryOf(volume)
    for axis in AXES:
        along = SlicePlan.of(geometry, axis).array_axis
        index = bridge.displayedIndex(sliceNode, volume, along)
        if index is not None:
            return (axis, index) if _isOn(sliceNode, volume, along, index) else None
    return None


def _isOn(sliceNode: Any, volume: Any, along: int, index: int) -> bool:
    """Whether a slice lies in the plane of a view from edge to edge."""
    shape, toRas = bridge.arrayOf(volume).shape[2::-1], arrayOfMatrix(sliceNode.GetSliceToRAS())
    ends = [np.linspace(0, length - 1, _EDGE_POINTS) for length in shape]
    ends[2 - along] = np.array([index])
    points = np.stack(np.meshgrid(*ends), axis=-1).reshape(-1, 3)
    toWorld, step = Passage(gridOfVolume(volume), _WORLD), np.eye(3)[2 - along]
    here, beside = (toWorld.points(each) @ toRas[:3, 2] for each in (points, points + step))
    return bool((np.abs(here - toRas[:3, 3] @ toRas[:3, 2]) <= OFF_THE_SLICE * np.abs(beside - here)).all())


def indexOf(position: Position, volume: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    """(3,) fractional (k, j, i) of a position of the world, under any transform of the volume."""
    return Passage(_WORLD, gridOfVolume(volume)).points(np.array([position], float))[0][::-1]


def worldOf(indexKji: Sequence[float], volume: slicer.vtkMRMLScalarVolumeNode) -> Position:
    """The position in the world of a fractional index (k, j, i)."""
    return tuple(Passage(gridOfVolume(volume), _WORLD).points(np.array([indexKji[::-1]], float))[0].tolist())


def outline(mark: Mark, volume: slicer.vtkMRMLScalarVolumeNode, place: Place) -> tuple[Position, ...]:
    """What is to be drawn of a mark: a box as its four corners along the grid of its slice, the rest as it is."""
    if mark.kind != BOX:
        return mark.positions
    if place.plane is not None:
        return place.plane.corners(mark.positions[0], mark.positions[-1])
    along = SlicePlan.of(bridge.geometryOf(volume), place.axis).array_axis
    first, second = (axis for axis in range(3) if axis != along)
    low, high = (indexOf(each, volume) for each in (mark.positions[0], mark.positions[-1]))
    corners = [low.copy() for _corner in range(4)]
    for number, moved in enumerate(((), (first,), (first, second), (second,))):
        for each in moved:
            corners[number][each] = high[each]
    return tuple(worldOf(each, volume) for each in corners)


@dataclass(frozen=True)
class Strokes:
    """A scribble as painted voxels: a crop (k, j, i) of a mask, and the index of its first voxel."""

    mask: np.ndarray
    cornerKji: tuple[int, int, int]
    positive: bool


@dataclass(frozen=True)
class Said:
    """Marks as the worker takes them: positions in the frame of `bridge.geometryOf`, exactly on the slice."""

    points: tuple[tuple[Position, bool], ...] = ()
    boxes: tuple[tuple[Position, Position], ...] = ()
    scribbles: tuple[Strokes, ...] = ()


def saidOn(marks: Sequence[Mark], volume: slicer.vtkMRMLScalarVolumeNode, axis: str, index: int) -> Said:
    """Marks of the world as positions on a slice of the volume; what lies beside the volume goes to its edge."""
    geometry = bridge.geometryOf(volume)
    along, last = SlicePlan.of(geometry, axis).array_axis, np.array(geometry.shape) - 1
    passage = Passage(_WORLD, gridOfVolume(volume))
    points, boxes, scribbles = [], [], []
    for mark in marks:
        indices = passage.points(np.array(mark.positions, float))[:, ::-1]
        indices[:, along] = index
        indices = np.clip(indices, 0, last)
        positions = [tuple(each) for each in geometry.to_world(indices).tolist()]
        if mark.kind == POINT:
            points.append((positions[0], mark.positive))
        elif mark.kind == BOX:
            boxes.append((positions[0], positions[-1]))
        else:
            scribbles.append(_strokes(indices, mark.positive))
    return Said(tuple(points), tuple(boxes), tuple(scribbles))


def _strokes(line: np.ndarray, positive: bool) -> Strokes:
    """The voxels a line passes through."""
    painted = [np.rint(line[:1])]
    for start, end in pairwise(line):
        count = int(np.ceil(np.abs(end - start).max() * 2)) + 1
        painted.append(np.rint(np.linspace(start, end, count + 1)))
    voxels = np.unique(np.concatenate(painted).astype(int), axis=0)
    low = voxels.min(axis=0)
    mask = np.zeros(voxels.max(axis=0) - low + 1, np.uint8)
    mask[tuple((voxels - low).T)] = 1
    return Strokes(mask, tuple(low.tolist()), positive)
