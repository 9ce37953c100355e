"""Carries a segment on from its applied slices, and keeps what came of it marked until somebody accepts it."""

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import slicer
from slicer.i18n import tr as _

from InContextSegLib.errors import InputError
from InContextSegLib.progress import exhausted
from InContextSegLib.worker.client import WorkerClient
from InContextSegLib.worker.protocol import BEGUN, Propagate
from InContextSegSlicer.effect.context import Context
from InContextSegSlicer.effect.prompting import Place
from InContextSegSlicer.scene import bridge, grid
from InContextSegSlicer.scene.handover import Handover
from InContextSegSlicer.scene.slicemarks import PROPAGATED, SliceMarks, mark, marksIn
from InContextSegSlicer.worker.task_queue import TaskQueue

CANCELLED = "Cancelled"
NOTHING = np.zeros((1, 1, 1), np.uint8)
Nodes = tuple[slicer.vtkMRMLScalarVolumeNode, slicer.vtkMRMLSegmentationNode]


@dataclass(frozen=True, eq=False)
class Wish:
    """What is to be carried on, and how it is written.

    Attributes:
        place: the segment, and the slice that is displayed.
        reach: slices to go either way from the applied slice that is nearest to the displayed one; None: from all
            applied slices as far as it is sure.
        threshold: probability from which a voxel belongs to the structure.
        editor: whose masking holds.
        saveState: called once before anything changes.
    """

    place: Place
    reach: int | None
    threshold: float
    editor: slicer.vtkMRMLSegmentEditorNode
    saveState: Callable[[], None]


@dataclass
class Propagation:
    """At most one at a time; `tick` is called by a timer, and `changed` whenever something is worth showing.

    Attributes:
        message: what came of the last one.
        progress: how far this one is: steps done, steps in all, and in words.
    """

    client: WorkerClient
    handover: Handover
    context: Context
    scene: slicer.vtkMRMLScene
    message: str = ""
    progress: tuple[int, int, str] | None = None
    changed: Callable[[], None] = lambda: None
    _queue: TaskQueue = field(default_factory=TaskQueue)
    _place: Place | None = None
    _request: int | None = None

    @property
    def working(self) -> bool:
        return self.progress is not None

    def tick(self) -> None:
        """Do what is due: a few milliseconds."""
        self._queue.tick()

    def marked(self, place: Place | None) -> SliceMarks:
        """Slices of the segment that nobody has accepted yet."""
        nodes = self._nodes(place)
        if nodes is None:
            return SliceMarks()
        return marksIn(nodes[1].GetSegmentation().GetSegment(place.segment), nodes[0], PROPAGATED)

    def waits(self, place: Place) -> bool:
        """Whether the slice of a place was carried on to, and nobody has accepted it."""
        marked = self.marked(place)
        return place.plane is None and place.axis == marked.axis and place.index in marked.confidence

    def start(self, wish: Wish) -> None:
        """Carry the segment on."""
        if self.working:
            return

        def asking() -> Generator:
            volume, segmentation = self._there(wish.place)
            if wish.place.plane is not None:
                raise InputError(
                    _(
                        "This view is turned against the slices of '{volume}', along which a segment is propagated; "
                        "turn it back by 'Rotate to volume plane' in the menu of the view."
                    ).format(volume=volume.GetName())
                )
            waiting = self.marked(wish.place).axis
            if waiting not in ("", wish.place.axis):
                raise InputError(
                    _("{axis} slices of this segment wait to be accepted; accept or discard them first.").format(
                        axis=waiting.capitalize()
                    )
                )
            yield from self._namedSlices(volume, segmentation, wish.place)
            taught = self._taught(volume, segmentation, wish.place)
            task = yield from self.context.task(volume, segmentation, wish.place)
            if not taught or task is None:
                raise InputError(
                    _("No {axis} slice of '{volume}' was applied in this segment; apply one first.").format(
                        axis=wish.place.axis, volume=volume.GetName()
                    )
                )
            target = yield from self.handover.volume(volume)
            start = limits = None
            if wish.reach:
                nearest = yield from self._nearest(volume, segmentation, wish.place, taught)
                last = grid.countAlong(volume, wish.place.axis) - 1
                start, limits = (nearest,), (max(nearest - wish.reach, 0), min(nearest + wish.reach, last))
            request = Propagate(target, wish.place.axis, task, 1, start, limits, wish.threshold)

            def wanted() -> bool:
                return self._request == number

            number = self.client.ask(
                "propagate",
                request,
                on_progress=lambda *what: self._progressed(*what) if wanted() else None,
                on_done=lambda answer: self._answered(wish, limits, answer, wanted()),
                on_failed=lambda kind, message: self._failed(kind, message) if wanted() else None,
            )
            self._request = number

        self._begin(wish.place, asking(), lambda _done: None, _("Handing over the examples"))

    def check(self) -> None:
        """Something left the scene: what was to be carried on, perhaps."""
        if self.working and self._nodes(self._place) is None:
            self._stop(_("The volume or the segment was removed meanwhile, so nothing was carried on."))

    def cancel(self) -> None:
        """Stop; what is not written yet is not written."""
        if self.working:
            self._stop(_("The propagation was cancelled."))

    def _stop(self, message: str) -> None:
        self._queue.drop()
        if self._request is not None:
            self.client.cancel(self._request)
        self._end(message)

    def accept(self, place: Place, indices: Iterable[int]) -> None:
        """Let slices that were carried on teach, as those that were drawn; nobody is told any more to look at them."""
        nodes, marked = self._nodes(place), self.marked(place)
        those = tuple(sorted(set(indices) & set(marked.confidence)))
        if nodes is None or not those or self.working:
            return
        trouble = self.context.teach(*nodes, place.segment, marked.axis, *those)
        self._settle(place, those)
        self._end(trouble or _("{count} slices were accepted, and teach now.").format(count=len(those)))

    def discard(self, wish: Wish, indices: Iterable[int]) -> None:
        """Take out of the segment what was carried on to slices, not what was drawn there."""
        nodes, marked = self._nodes(wish.place), self.marked(wish.place)
        those = set(indices) & set(marked.confidence)
        if nodes is None or not those or self.working:
            return
        wish.saveState()

        def done(_written) -> None:
            self._end(_("{count} slices were discarded.").format(count=len(those)))

        self._begin(wish.place, self._cleared(*nodes, wish, marked, those), done, _("Discarding slices"))

    def replaced(self, wish: Wish) -> None:
        """Take out at once what was carried on to the slice of a place, because something better is to be written."""
        if self.waits(wish.place):
            marked = self.marked(wish.place)
            exhausted(self._cleared(*self._nodes(wish.place), wish, marked, {wish.place.index}))

    def _cleared(self, volume, segmentation, wish: Wish, marked: SliceMarks, those: set[int]) -> Generator:
        writer, region = bridge.SegmentWriter(self.scene, wish.editor), _only(volume, marked.axis, those)
        yield from writer.write(volume, segmentation, NOTHING, (0, 0, 0), {1: wish.place.segment}, "made", region)
        self._settle(wish.place, those)

    def _settle(self, place: Place, indices: Iterable[int]) -> None:
        """Slices are not marked any more, as somebody saw to them."""
        nodes = self._nodes(place)
        if nodes is not None:
            segment = nodes[1].GetSegmentation().GetSegment(place.segment)
            mark(segment, nodes[0], PROPAGATED, self.marked(place).without(indices))

    def _namedSlices(self, volume, segmentation, place: Place) -> Generator:
        """Where all that is drawn in this volume teaches, let from now on those slices teach that are drawn now.

        Else what is carried on would teach unseen.
        """
        for row in self.context.rows(volume, segmentation, place):
            if (row.volume, row.segmentation) == (volume, segmentation) and not row.axis:
                drawn = yield from grid.drawnSlices(volume, segmentation, place.axis)
                self.context.examples.change(row.key, slices=drawn, axis=place.axis)

    def _taught(self, volume, segmentation, place: Place) -> tuple[int, ...]:
        rows = self.context.rows(volume, segmentation, place)
        own = (row.slices for row in rows if (row.volume, row.segmentation) == (volume, segmentation) and row.axis)
        return next(own, ())

    def _nearest(self, volume, segmentation, place: Place, taught: tuple[int, ...]) -> Generator:
        """The slice that teaches and shows the segment, or else only teaches, nearest to the displayed one."""
        along = grid.arrayAxis(volume, place.axis)
        drawn = yield from bridge.labelsOnSlices(segmentation, {place.segment: 1}, volume, along, taught)
        showing = [index for number, index in enumerate(taught) if drawn.take(number, along).any()]
        return min(showing or taught, key=lambda index: abs(index - place.index))

    def _answered(self, wish: Wish, limits: tuple[int, int] | None, answer: Mapping, wanted: bool) -> None:
        blocks = [(self.client.fetch(each["array"]), tuple(each["corner_kji"])) for each in self._blocks(answer)]
        for each in self._blocks(answer):
            self.client.forget(each["array"])  # what is mapped stays readable
        if not wanted:
            return
        self._request = None

        def writing() -> Generator:
            nodes = self._there(wish.place)
            if answer["slices"]:
                yield from self._written(*nodes, wish, limits, answer, blocks[0])
                known = bridge.uncertaintyOf(self.scene, nodes[0])
                yield from bridge.showUncertainty(self.scene, nodes[0], *blocks[1], known)

        def done(_written) -> None:
            self._end(outcome(answer, bool(limits)))

        self._begin(wish.place, writing(), done, _("Writing the slices"))

    def _written(self, volume, segmentation, wish: Wish, limits, answer: Mapping, block: tuple) -> Generator:
        place, axis = wish.place, answer["axis"]
        segment = segmentation.GetSegmentation().GetSegment(place.segment)
        before = marksIn(segment, volume, PROPAGATED)
        first, last = limits or (0, grid.countAlong(volume, axis) - 1)
        found = SliceMarks(axis, dict(zip(answer["slices"], answer["confidence"], strict=True)))
        outdated = {index for index in before.confidence if before.axis == axis and first <= index <= last}
        changing = {*found.confidence, *outdated}.difference(self._taught(volume, segmentation, place))
        if not changing:
            return
        wish.saveState()
        writer, region = bridge.SegmentWriter(self.scene, wish.editor), _only(volume, axis, changing)
        yield from writer.write(volume, segmentation, *block, {1: place.segment}, "made", region)
        mark(segment, volume, PROPAGATED, before.without(range(first, last + 1)).joined(found))

    def _blocks(self, answer: Mapping) -> tuple[Mapping, Mapping]:
        return answer["block"], answer["uncertainty"]

    def _progressed(self, done: int, total: int, message: str) -> None:
        if message != BEGUN:
            self.progress = (done, total, message)
            self.changed()

    def _failed(self, kind: str, message: str) -> None:
        self._end(_("The propagation was cancelled.") if kind == CANCELLED else message)

    def _begin(self, place: Place, work: Generator, onDone: Callable, message: str) -> None:
        self.progress, self.message, self._request, self._place = (0, 0, message), "", None, place
        self._queue.add(work, onDone, self._broken)
        self.changed()

    def _broken(self, error: Exception) -> None:
        self._end(str(error))
        if not isinstance(error, (InputError, OSError)):
            raise error

    def _end(self, message: str) -> None:
        self.progress, self.message, self._request = None, message, None
        self.changed()

    def _there(self, place: Place) -> Nodes:
        nodes = self._nodes(place)
        if nodes is None:
            raise InputError(_("The volume or the segment was removed meanwhile, so nothing was carried on."))
        return nodes

    def _nodes(self, place: Place | None) -> Nodes | None:
        return nodesOf(self.scene, place)


def nodesOf(scene: slicer.vtkMRMLScene, place: Place | None) -> Nodes | None:
    """Volume and segmentation of a place, while they and the segment are there."""
    if place is None:
        return None
    volume, segmentation = (scene.GetNodeByID(each) for each in (place.volume, place.segmentation))
    if volume is None or segmentation is None or volume.GetImageData() is None:
        return None
    return (volume, segmentation) if segmentation.GetSegmentation().GetSegment(place.segment) else None


def _only(volume, axis: str, indices: Iterable[int]) -> bridge.Region:
    """These slices and no others."""
    there = sorted(indices)
    gaps = [(one + 1, other - 1) for one, other in pairwise(there) if other - one > 1]
    return bridge.Region(
        grid.slab(volume, axis, there[0], there[-1]), tuple(grid.slab(volume, axis, *each) for each in gaps)
    )


def outcome(answer: Mapping, limited: bool) -> str:
    """What came of it, in a sentence.

    Args:
        limited: whether it was to go to some slices only.
    """
    why = {
        "unsure": _("it was unsure"),
        "ended": _("nothing more was found"),
        "range": _("no further was asked for") if limited else _("the volume ends"),
    }
    slices, stopped = answer["slices"], answer["stopped"]
    before, after = why[stopped["before"]], why[stopped["after"]]
    if not slices:
        return _("Nothing was propagated: before the applied slice {before}, after it {after}.").format(
            before=before, after=after
        )
    return _(
        "Propagated to {count} {axis} slices, {first} to {last}: before them {before}, after them {after}. Look at "
        "them and accept them, or discard them."
    ).format(count=len(slices), axis=answer["axis"], first=slices[0], last=slices[-1], before=before, after=after)
