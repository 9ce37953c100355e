"""The examples that a slice under correction is shown: the panel's own list, to which every applied slice comes."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import slicer
from slicer.i18n import tr as _

from InContextSegLib.errors import InputError
from InContextSegLib.models.catalog import find
from InContextSegLib.models.entry import Capability
from InContextSegLib.worker.protocol import SaveExamples, TaskSpec
from InContextSegSlicer.effect.prompting import Place
from InContextSegSlicer.panel.keeping import savingExamples
from InContextSegSlicer.panel.order import Order, Wanted, namesIn, settingsOf, spokenIn, taskOf
from InContextSegSlicer.panel.parameters import InContextSegParameterNode, parameterNode
from InContextSegSlicer.scene import bridge, grid
from InContextSegSlicer.scene.examples import ExampleList, ExampleRow
from InContextSegSlicer.scene.handover import Handover
from InContextSegSlicer.scene.labelmaps import labelmapOf, segmentOf
from InContextSegSlicer.scene.reading import gridOfVolume
from InContextSegSlicer.scene.slicemarks import APPLIED, SliceMarks, appliedByName, mark, marksIn


@dataclass
class Context:
    """Examples of one segment, as rows and as a task."""

    scene: slicer.vtkMRMLScene
    handover: Handover
    _known: tuple[tuple, TaskSpec] | None = None

    @property
    def examples(self) -> ExampleList:
        return ExampleList(parameterNode(self.scene))

    @property
    def choices(self) -> Mapping[str, Any]:
        """What the panel says of the network and its window."""
        chosen = InContextSegParameterNode(parameterNode(self.scene))
        window = (chosen.windowLow, chosen.windowHigh) if chosen.useWindow else None
        return {"model": chosen.model, "device": chosen.device, "window": window}

    @property
    def capability(self) -> Capability | None:
        """What the chosen network takes; None where the catalogue knows none of that name."""
        try:
            return find(self.choices["model"]).capability
        except InputError:
            return None

    @property
    def learns(self) -> bool:
        """Whether the chosen network looks at examples."""
        return self.capability is not None and self.capability.support != "unused"

    def rows(self, volume, segmentation, place: Place) -> tuple[ExampleRow, ...]:
        """The rows that show the segment, and can be cut along the axis of the slice, with the slices that tell it."""
        name = segmentOf(segmentation, place.segment).GetName()
        usable = (
            _telling(row, name)
            for row in self.examples.rows()
            if row.enabled and row.complete and row.axis in ("", place.axis) and name in namesIn(row)
        )
        return tuple(row for row in usable if row.slices != ())

    def speaks(self, volume, segmentation, place: Place) -> bool:
        """Whether examples say something about a slice before anything is marked there; not where it is one itself."""
        rows = self.rows(volume, segmentation, place)
        own = (row.slices for row in rows if (row.volume, row.segmentation) == (volume, segmentation) and row.axis)
        apart = place.plane is not None or all(place.index not in slices for slices in own)
        return self.learns and bool(rows) and apart

    def task(self, volume, segmentation, place: Place) -> Generator[None, None, TaskSpec | None]:
        """A queued task: hand the examples over, unless they are as they were; None where there is none."""
        self._followUndo()
        while self.learns and (rows := self.rows(volume, segmentation, place)):
            key = self.key(volume, segmentation, place)
            if self._known is not None and self._known[0] == key:
                return self._known[1]
            name = segmentOf(segmentation, place.segment).GetName()
            task = yield from taskOf(self._order(volume, rows, name, place.axis), self.handover)
            yield from self._untaught(rows, task)
            if self.rows(volume, segmentation, place) == rows:
                self._known = key, task
        return None

    def key(self, volume, segmentation, place: Place) -> tuple:
        """The same as long as the task is, for all slices along an axis."""
        name = segmentOf(segmentation, place.segment).GetName()
        rows = self.rows(volume, segmentation, place)
        return name, place.axis, tuple(self.choices.items()), tuple((row, *_timesOf(row, name)) for row in rows)

    def saving(self, volume, segmentation, place: Place, folder: str) -> Generator[None, None, SaveExamples]:
        """A queued task: ask to keep the examples of the segment in a folder that holds none yet.

        Raises:
            InputError: if there are none.
        """
        name = segmentOf(segmentation, place.segment).GetName()
        order = self._order(volume, self.rows(volume, segmentation, place), name, place.axis)
        return (yield from savingExamples(order, folder, self.handover))

    def _order(self, volume, rows: tuple[ExampleRow, ...], name: str, axis: str) -> Order:
        return Order(volume, None, rows, (Wanted(name, name),), settingsOf("normal", axis, 0.0), **self.choices)

    def teach(self, volume, segmentation, identifier: str, axis: str, *indices: int) -> str:
        """Let slices teach where a segment is: the row of volume and segmentation gets them, or is made.

        Returns:
            why not, in a sentence; empty where they teach.
        """
        known = next((r for r in self.examples.rows() if (r.volume, r.segmentation) == (volume, segmentation)), None)
        if known is not None and not known.axis:
            return ""  # all that is drawn there teaches already
        if known is not None and known.axis != axis:
            return _(
                "The slice was applied, but does not teach: in this volume {axis} slices do; remove them from the "
                "examples to work in this view."
            ).format(axis=known.axis)
        row = known or ExampleRow(volume=volume, segmentation=segmentation, slices=(), axis=axis)
        parts = set(row.applied).union(*appliedByName(row).values())
        # What a person chose as a whole goes on speaking of all segments.
        applied = {index for index in indices if index not in row.slices or index in parts}
        slices, applied = tuple(sorted({*row.slices, *indices})), tuple(sorted({*row.applied, *applied}))
        if known is None:
            self.examples.add(replace(row, slices=slices, applied=applied))
        elif (slices, applied) != (known.slices, known.applied):
            self.examples.change(known.key, slices=slices, applied=applied)
        segment = segmentation.GetSegmentation().GetSegment(identifier)
        marks = SliceMarks(axis, dict.fromkeys(sorted(set(indices) & set(applied)), 1.0))
        if marks.confidence:
            mark(segment, volume, APPLIED, marksIn(segment, volume, APPLIED).joined(marks))
        if not row.enabled:
            return _("The slice was applied, but does not teach: in the module the examples of this volume are off.")
        return ""

    def reset(self) -> None:
        """Forget what was handed over, as when a scene is closed; the rows are the scene's."""
        self._known = None

    def _followUndo(self) -> None:
        """A slice that was applied and taken back teaches no more, and does again where that is made undone."""
        for row in self.examples.rows():
            if row.applied and row.axis and row.complete:
                told = set().union(*appliedByName(row).values())
                slices = tuple(sorted((set(row.slices) - set(row.applied)) | (told & set(row.applied))))
                self._keep(row, slices, row.applied)

    def _untaught(self, rows: tuple[ExampleRow, ...], task: TaskSpec) -> Generator[None, None, None]:
        """A slice that was applied and wiped teaches no more, else it would say that there is nothing."""
        for row, example in zip(rows, task.examples, strict=True):
            if row.fromFiles or not row.axis:
                continue
            shown = dict(example.labels.slices)
            bare = [index for index in row.slices if index not in shown and index in row.applied]
            ids, along = dict.fromkeys(bridge.segmentNames(row.segmentation), 1), grid.arrayAxis(row.volume, row.axis)
            drawn = yield from bridge.labelsOnSlices(row.segmentation, ids, row.volume, along, bare)
            wiped = {index for number, index in enumerate(bare) if not drawn.take(number, along).any()}
            for known in self.examples.rows() if wiped else ():
                if known.key == row.key:
                    slices, applied = (
                        tuple(index for index in each if index not in wiped) for each in (known.slices, known.applied)
                    )
                    self._keep(known, slices, applied)

    def _keep(self, row: ExampleRow, slices: tuple[int, ...], applied: tuple[int, ...]) -> None:
        """Let a row have these slices alone; without any it goes."""
        if not slices:
            self.examples.remove([row.key])
        elif (slices, applied) != (row.slices, row.applied):
            self.examples.change(row.key, slices=slices, applied=applied)


def _telling(row: ExampleRow, name: str) -> ExampleRow:
    """The row with those of its slices that say where the segment of that name is."""
    if not row.axis:
        return row
    spoken = spokenIn(row, (name,))
    return replace(row, slices=tuple(index for index in row.slices if spoken[index]))


def _timesOf(row: ExampleRow, name: str) -> tuple:
    """Where the image of a row lies, and when it and the labels changed last."""
    if row.fromFiles:
        return ()
    segmentation = row.segmentation.GetSegmentation()
    parents = (node.GetParentTransformNode() for node in (row.volume, row.segmentation))
    times = [gridOfVolume(row.volume).affine.tobytes(), row.volume.GetImageData().GetMTime()]
    times += [*(each.GetTransformToWorldMTime() for each in parents if each)]
    for number in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(number)
        if segment.GetName() == name:
            labelmap = labelmapOf(segment)
            times += [segment.GetMTime(), labelmap.GetMTime() if labelmap is not None else 0]
    return tuple(times)
