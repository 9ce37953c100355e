"""Corrects one slice at a time: asks for what marks and examples say, shows it, applies it, and lets it teach."""

from collections.abc import Callable, Generator, Mapping

import numpy as np
import slicer
from slicer.i18n import tr as _

from InContextSegLib.config import to_mapping
from InContextSegLib.errors import InputError
from InContextSegLib.worker.client import WorkerClient
from InContextSegSlicer.effect.context import Context
from InContextSegSlicer.effect.lookahead import LookAhead
from InContextSegSlicer.effect.prompting import Mark, Place, Position, Step, saidOn
from InContextSegSlicer.effect.propagation import Nodes, Propagation, Wish, nodesOf
from InContextSegSlicer.effect.session import Answer, Session
from InContextSegSlicer.panel.keeping import saved
from InContextSegSlicer.panel.outcome import waitingText
from InContextSegSlicer.panel.preview import SlicePreview
from InContextSegSlicer.scene import bridge, grid
from InContextSegSlicer.scene.handover import Handover
from InContextSegSlicer.scene.plane import Cuts, stateOf, written
from InContextSegSlicer.scene.voxelsets import cropped
from InContextSegSlicer.worker.task_queue import TaskQueue

LANE = "correct"
CANCELLED = "Cancelled"
PLACES_KEPT = 20
STEPS_KEPT = 100
DRAWN_LOGIT = 6.0  # of a voxel that is drawn


class Correction:
    """One slice before a person; the slices before it are remembered until they are applied.

    `tick` is called by a timer. At most one request is on its way; when its answer comes, the newest step is asked.
    Whoever shows it sets `changed`.
    """

    def __init__(self, client: WorkerClient, handover: Handover, scene: slicer.vtkMRMLScene):
        self.client, self.handover, self.scene = client, handover, scene
        self.preview, self.context, self.cuts = SlicePreview(scene), Context(scene, handover), Cuts(client)
        self.propagation = Propagation(client, handover, self.context, scene)
        self.place: Place | None = None
        self.message = ""
        self.threshold = 0.5
        self.replaceSlice = False
        self.changed: Callable[[], None] = lambda: None
        self._queue, self._saving = TaskQueue(), TaskQueue()
        self.ahead = LookAhead(client, self.context, handover, self._queue)
        self._sessions: dict[Place, Session] = {}
        self._asking: object | None = None  # stands for the question whose answer is awaited

    @property
    def working(self) -> bool:
        """Whether an answer is awaited."""
        return self._asking is not None or self.propagation.working or bool(self._saving)

    @property
    def restless(self) -> bool:
        """Whether the next tick has something to do."""
        return self.working or len(self._queue) > 0

    @property
    def nodes(self) -> Nodes | None:
        """Volume and segmentation of the slice, while they and the segment are there."""
        return nodesOf(self.scene, self.place)

    @property
    def session(self) -> Session | None:
        return self._sessions.get(self.place)

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Those on the slice that is shown."""
        return self.session.history.now.marks if self.session else ()

    @property
    def answer(self) -> Answer | None:
        """To the marks as they stand now; None while it is awaited."""
        answer = self.session.answers.get(self.session.history.now) if self.session else None
        return None if answer is not None and self._outdated() else answer

    def tick(self) -> None:
        """Do what is due: a few milliseconds."""
        self.check()  # a segment goes without any node
        self.client.poll()  # also for what nobody waits for any more: its arrays have to go
        for each in (self._queue, self._saving, self.propagation):
            each.tick()
        if self.session and self.session.answers and not self.working and self._outdated():
            self._follow()

    def see(self, place: Place | None) -> None:
        """Work on another slice or segment, or on none."""
        for gone in [each for each in self._sessions if nodesOf(self.scene, each) is None]:
            self._drop(gone)  # another segment may get its ID
        place = next((each for each in self._sessions if place is not None and place.isLike(each)), place)
        if place == self.place and self.nodes is not None:
            return
        self._queue.drop()
        self.ahead.drop()
        self._asking = None  # its answer is not waited for any more
        self.place, self.message = place, ""
        if self.nodes is None:
            self._drop(place)
            self.place = None
        elif place not in self._sessions:
            self._sessions[place] = Session()
            while len(self._sessions) > PLACES_KEPT:
                unmarked = (each for each, session in self._sessions.items() if not session.history.canUndo)
                self._drop(next((each for each in unmarked if each != place), next(iter(self._sessions))))
        self._follow()

    def look(self) -> None:
        """Something changed that decides what is shown: the examples, for one."""
        self._follow()

    def anew(self) -> None:
        """Ask everything again, as when another network was chosen; what was said stays."""
        self._asking = None
        for session in self._sessions.values():
            session.forget(self.client)
        self._follow()

    def check(self) -> None:
        """Something left the scene: if it was the slice's, nothing is shown any more, and nothing is carried on."""
        self.propagation.check()
        if self.place is not None and self.nodes is None:
            self.see(None)

    def add(self, mark: Mark) -> None:
        """One more mark on the slice."""
        self._go(lambda now: now.adding(mark))

    def removeNearest(self, position: Position) -> None:
        """Take the mark away that is nearest to a position."""
        self._go(lambda now: now if (n := now.nearest(position)) is None else now.without(n))

    def move(self, number: int, shift: Position) -> None:
        """Put a mark elsewhere, by its number and millimetres."""
        self._go(lambda now: now.moving(number, shift) if number < len(now.marks) else now)

    def clear(self) -> None:
        """Take all marks of the slice away; `undo` brings them back."""
        self._go(lambda now: Step() if now.marks else now)

    def undo(self) -> None:
        """Go back to the marks before."""
        if self.session:
            self.session.history.undo()
            self._follow()

    def redo(self) -> None:
        """Go forth again."""
        if self.session:
            self.session.history.redo()
            self._follow()

    def setThreshold(self, threshold: float) -> None:
        """From which probability on a voxel belongs to the structure; nobody is asked for that."""
        self.threshold = threshold
        self._follow()

    def apply(self, editor: slicer.vtkMRMLSegmentEditorNode, saveState: Callable[[], None]) -> bool:
        """Write what is shown into the segment, by the rules of an editor, and let the slice teach.

        Args:
            saveState: called once before anything changes.
        """
        nodes, answer, place = self.nodes, self.answer, self.place
        if nodes is None or answer is None:
            waiting = _("The answer is on its way; apply it when it is shown.")
            self._say(waiting if self._asking else _("Nothing is shown that could be applied; click on the structure."))
            return False
        if self.propagation.working:
            self._say(_("A propagation is under way; apply when it is done, or cancel it."))
            return False
        volume, segmentation = nodes
        block = self._mask(answer)
        writer = bridge.SegmentWriter(self.scene, editor, byHand=True)
        existing, region = "all" if self.replaceSlice else "nothing", bridge.Region()
        if place.plane is None:
            if self.replaceSlice:
                region = bridge.Region(grid.slab(volume, place.axis, place.index, place.index))
            block, corner = cropped(block, answer.cornerKji)
            pieces = writer.write(volume, segmentation, block, corner, {1: place.segment}, existing, region)
            along = grid.arrayAxis(volume, place.axis)
            changed = self.handover.changing(segmentation, place.segment, volume, along, place.index)
        else:
            changed = None
            cut = self.cuts.known(place.plane, volume)
            pieces = written(writer, cut, volume, (segmentation, place.segment), block, existing)
        saveState()
        try:
            self.propagation.replaced(Wish(place, None, self.threshold, editor, saveState))
            # At once: a slice takes milliseconds, and nobody may draw between the state of undo and what it is for.
            for _piece in pieces:
                pass
        except InputError as error:
            self._say(str(error))
            return False
        if changed is not None:
            changed()
        taught = self._taught(volume, segmentation, place) if block.any() else ""
        self._drop(place)
        self.place = None
        self.see(place)
        self._say(taught)
        return True

    def saveExamples(self, folder: str) -> None:
        """Keep the examples of the segment in a folder that holds none yet."""
        nodes, place = self.nodes, self.place
        if nodes is None:
            return

        def asking() -> Generator:
            request = yield from self.context.saving(*nodes, place, folder)
            self.client.ask(
                "save_examples",
                request,
                on_done=lambda answer: self._say(saved(answer)),
                on_failed=lambda _kind, message: self._say(message),
            )

        self._saving.add(asking(), lambda _done: None, self._notSaved)
        self._say(_("The examples are being saved."))

    def _taught(self, volume, segmentation, place: Place) -> str:
        if place.plane is None:
            return self.context.teach(volume, segmentation, place.segment, place.axis, place.index)
        return _(
            "It was applied, but does not teach, as this view is turned against the slices of '{volume}'; slices that "
            "teach are shown after 'Rotate to volume plane' in the menu of the view."
        ).format(volume=volume.GetName())

    def leave(self) -> None:
        """Show nothing any longer; what was said is kept."""
        self.propagation.cancel()
        self.see(None)

    def reset(self) -> None:
        """Forget everything, as when a scene is closed."""
        self.leave()
        for place in list(self._sessions):
            self._drop(place)
        self.context.reset()
        self.cuts.reset()

    def _outdated(self) -> bool:
        """Whether the volume was moved or changed since it was asked about, or the plane has to be cut anew."""
        if self.nodes is None:
            return False
        if self.place.plane is not None:
            return self.cuts.known(self.place.plane, self.nodes[0]) is None
        return bool(self.session.answers) and self.session.source != stateOf(self.nodes[0])

    def _go(self, change: Callable[[Step], Step]) -> None:
        if self.session is None:
            return
        history = self.session.history
        step = change(history.now)
        if step is not history.now:
            history.add(step)
            while len(history.steps) > STEPS_KEPT:
                history.steps.pop(0)
                history.at -= 1
            self.session.forget(self.client, keep=set(history.steps))
        self._follow()

    def _follow(self) -> None:
        """Show what is known of the marks as they stand, and ask for what is not."""
        nodes = self.nodes
        if self.session and self._outdated():
            self.session.forget(self.client)
        answer = self.answer if nodes is not None else None
        if answer is not None:
            self._show(answer, *nodes)
        else:
            if not self.marks:
                self.preview.clear()
            if nodes is not None and self._asking is None and (self.marks or self._proposing(*nodes)):
                self._ask(self.session, self.session.history.now, *nodes)
        if nodes is not None and not self.working and self.place.plane is None:
            self.ahead.wish(*nodes, self.place, lambda: not self.working)
        self.changed()

    def _proposing(self, volume, segmentation) -> bool:
        """Whether examples are asked before anything is marked; not where they were asked by a propagation."""
        return not self._carried and self.context.speaks(volume, segmentation, self.place)

    @property
    def _carried(self) -> bool:
        """Whether the slice was carried on to, and waits to be accepted."""
        return self.propagation.waits(self.place)

    def _show(self, answer: Answer, volume, segmentation) -> None:
        segment = segmentation.GetSegmentation().GetSegment(self.place.segment)
        looks = {1: (segment.GetName(), segment.GetColor())}
        plane = self.place.plane
        shown = volume if plane is None else self.cuts.known(plane, volume).node
        self.preview.showLabels(shown, looks, self._mask(answer), answer.cornerKji)

    def _mask(self, answer: Answer) -> np.ndarray:
        return (answer.probability >= self.threshold * 255).astype(np.uint8)

    def _ask(self, session: Session, step: Step, volume, segmentation) -> None:
        session.source = stateOf(volume)
        asked = self._asking = object()  # not the step, which is asked again after somebody looked elsewhere meanwhile
        lent: list[str] = []  # names of arrays that the request needs, and nobody after it

        def clean() -> None:
            while lent:
                self.client.forget(lent.pop())

        def done(answer: Mapping) -> None:
            clean()
            self._answered(session, step, answer, self._asking is asked)

        def failed(kind: str, message: str) -> None:
            clean()
            self._failed(session, kind, message, self._asking is asked)

        def asking() -> Generator:
            try:
                fields = yield from self._request(session, step, volume, segmentation, lent)
            except BaseException:  # a newer slice is wanted, too
                clean()
                raise
            if session.history.now is not step:  # there is more to say by now
                clean()
                self._asking = None
                self._follow()
            elif fields is None:
                self._asking = None
            else:
                if self.client.occupied:
                    self._say(waitingText(self.client.occupied))
                self.client.ask("correct", fields, lane=LANE, on_done=done, on_failed=failed)

        self._queue.add(asking(), lambda _done: self.changed(), self._broken)

    def _request(self, session: Session, step: Step, volume, segmentation, lent: list[str]) -> Generator:
        """A queued task: the fields of the request; None where there is nothing to ask."""
        place = self.place
        task = yield from self.context.task(volume, segmentation, place)
        if not step.marks and task is None:
            return None
        if place.plane is None:
            target, sliced = (yield from self.handover.volume(volume)), volume
        else:
            cut = yield from self.cuts.cut(place.plane, volume)
            target, sliced = cut.target, cut.node
        previous = session.previous(step)
        if previous is None and self._carried:
            along = grid.arrayAxis(volume, place.axis)
            drawn = yield from bridge.labelsOnSlices(segmentation, {place.segment: 1}, volume, along, [place.index])
            previous = yield from self.client.publishing(((2.0 * drawn - 1) * DRAWN_LOGIT).astype(np.float16))
            lent.append(previous)
        said, scribbles = saidOn(step.marks, sliced, place.axis, place.index), []
        for each in said.scribbles:
            name = yield from self.client.publishing(each.mask)
            lent.append(name)
            scribbles.append((name, each.cornerKji, each.positive))
        return {
            "target": to_mapping(target),
            "axis": place.axis,
            "index": place.index,
            "prompts": {"points": said.points, "boxes": said.boxes, "scribbles": scribbles},
            "task": to_mapping(task) if task is not None else None,
            "label": 1,
            "previous": previous,
            **self.context.choices,
        }

    def _answered(self, session: Session, step: Step, answer: Mapping, wanted: bool) -> None:
        block = answer["probability"]
        if not wanted:
            self.client.forget(block["array"])
            self.client.forget(answer["logits"])
            return
        probability = np.array(self.client.fetch(block["array"]))
        self.client.forget(block["array"])
        found = Answer(probability, tuple(block["corner_kji"]), answer["logits"], answer["context"])
        session.answers[step] = found
        self._asking, self.message = None, ""
        self._follow()

    def _failed(self, session: Session, kind: str, message: str, wanted: bool) -> None:
        if kind != CANCELLED:  # whatever it was, the next request does not depend on what this one did
            session.startAnew(self.client)
            self.ahead.forget()
        if wanted:
            self._asking = None
            if kind != CANCELLED:
                self.preview.clear()
                self._say(message)

    def _broken(self, error: Exception) -> None:
        self._asking = None
        self.preview.clear()
        self._notSaved(error)

    def _notSaved(self, error: Exception) -> None:
        self._say(str(error))
        if not isinstance(error, (InputError, OSError)):
            raise error

    def _say(self, message: str) -> None:
        self.message = message
        self.changed()

    def _drop(self, place: Place | None) -> None:
        session = self._sessions.pop(place, None)
        if session is not None:
            session.forget(self.client)
