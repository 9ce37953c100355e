"""What happens when: hands orders to the worker, follows their progress, and writes what comes back into the scene."""

import logging
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import slicer
from slicer.i18n import tr as _

from InContextSegLib.errors import InputError
from InContextSegLib.worker.client import WorkerClient
from InContextSegLib.worker.protocol import BEGUN, Prepare, Preview, Segment
from InContextSegSlicer.panel.destination import ensureLike, regionOf
from InContextSegSlicer.panel.keeping import saved, savingExamples
from InContextSegSlicer.panel.order import Order, taskOf
from InContextSegSlicer.panel.outcome import Outcome, Progress, summary, waitingText
from InContextSegSlicer.panel.preview import SlicePreview, removeShown
from InContextSegSlicer.scene import bridge
from InContextSegSlicer.scene.handover import Handover
from InContextSegSlicer.worker.task_queue import TaskQueue, said

IDLE, BUSY, FAILED = "idle", "busy", "failed"
CANCELLED = "Cancelled"
Block = tuple[np.ndarray, tuple[int, ...]]  # (k, j, i), and where its first voxel lies in the volume
log = logging.getLogger(__name__)


class Controller:
    """One worker, one thing at a time, besides the preview, of which the latest wins.

    `tick` is called by a timer; nothing else takes long. Whoever shows the controller sets `changed`, called whenever
    something is worth showing, and `made`, called with a segmentation that was made for a result.

    Args:
        client: to the worker.
        scene: whose nodes are read and written.
        editorNode: whose overwrite mode, mask and intensity range hold.
    """

    def __init__(
        self,
        client: WorkerClient,
        scene: slicer.vtkMRMLScene,
        editorNode: slicer.vtkMRMLSegmentEditorNode,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.client, self.scene = client, scene
        self.handover, self.writer = Handover(client), bridge.SegmentWriter(scene, editorNode)
        self.release: Callable[[], None] = client.close
        self.preview = SlicePreview(scene)
        self.queue, self._previewQueue = TaskQueue(clock), TaskQueue(clock)
        self.state, self.message = IDLE, ""
        self.progress: Progress | None = None
        self.outcome = Outcome()
        self.changed: Callable[[], None] = lambda: None
        self.made: Callable[[slicer.vtkMRMLSegmentationNode], None] = lambda _output: None
        self._clock, self._alongside, self._closed = clock, 0, False
        self._request: int | None = None
        self._previewing: int | None = None

    def tick(self) -> None:
        """Do what is due: a few milliseconds."""
        self.client.poll()
        self.queue.tick()
        if not self.queue:
            self._previewQueue.tick()

    @property
    def working(self) -> bool:
        """Whether ticks should follow quickly."""
        return bool(self.queue) or bool(self._previewQueue) or self.state == BUSY or self._previewing is not None

    def uncertaintyOf(self, volume: slicer.vtkMRMLScalarVolumeNode | None) -> slicer.vtkMRMLScalarVolumeNode | None:
        """How unsure the last result for a volume is, as a volume of the scene; None where that is not known."""
        return bridge.uncertaintyOf(self.scene, volume)

    def prepare(self, order: Order) -> None:
        """Let the examples predict one another (and the network learn from them, if asked): what is to be expected."""

        def asking():
            task = yield from taskOf(order, self.handover)
            target = yield from self.handover.volume(order.target)
            self._ask("prepare", Prepare(task, target), lambda answer: self._prepared(order, answer))

        self._begin(asking(), _("Looking at the examples"))

    def segment(self, order: Order) -> None:
        """Segment the target and write the segments into the scene."""

        def asking():
            task = yield from taskOf(order, self.handover)
            target = yield from self.handover.volume(order.target)
            values = {name: value for value, name in task.labels}
            request = Segment(task, target, order.box, order.sliceRange)
            self._ask("segment", request, lambda answer: self._segmented(order, values, answer))

        self._begin(asking(), _("Handing over the volumes"))

    def saveExamples(self, order: Order, folder: str) -> None:
        """Keep the examples in a folder that holds none yet."""

        def asking():
            request = yield from savingExamples(order, folder, self.handover)
            self._ask("save_examples", request, lambda answer: self._end(IDLE, saved(answer)))

        self._begin(asking(), _("Saving the examples"))

    def ask(self, do: str, payload, onDone: Callable, message: str) -> None:
        """Any other request that keeps the worker busy."""

        def asking():
            yield
            self._ask(do, payload, lambda answer: self._finish(lambda: onDone(answer)))

        self._begin(asking(), message)

    def askAlongside(self, do: str, payload, on_progress=None, on_done=None, on_failed=None) -> int:
        """A request that leaves the panel free for others; the worker takes them in turn."""

        def ended(callback, *what):
            self._alongside -= 1
            if callback is not None and not self._closed:
                callback(*what)

        self._alongside += 1
        done, failed = partial(ended, on_done), partial(ended, on_failed)
        return self.client.ask(do, payload, on_progress=on_progress, on_done=done, on_failed=failed)

    def cancel(self) -> None:
        """Stop what is going on; what was there before stays as it was."""
        if self.state != BUSY:
            return
        self.queue.drop()
        if self._request is not None:
            self.client.cancel(self._request)
        else:
            self._end(IDLE, _("Cancelled; nothing was changed."))

    def showPreview(self, order: Order, axis: str, index: int) -> None:
        """Show what the network makes of one slice; a newer slice takes the place of an older one."""

        def asking():
            task = yield from taskOf(order, self.handover)
            target = yield from self.handover.volume(order.target)
            names = dict(task.labels)

            def wanted():
                return self._previewing == number

            number = self.client.ask(
                "preview",
                Preview(task, target, index, axis),
                lane="preview",
                on_progress=_while(wanted, self._previewProgress),
                on_done=_while(wanted, lambda answer: self._previewed(order, names, answer)),
                on_failed=_while(wanted, self._previewFailed),
            )
            self._previewing = number

        if self.client.occupied:
            self.message = _("Preview: {message}").format(message=waitingText(self.client.occupied))
            self.changed()
        self._previewQueue.drop()
        self._previewQueue.add(asking(), lambda _done: None, lambda error: self._previewFailed(None, said(error)))

    def hidePreview(self) -> None:
        """Take the preview away, and one that is on its way as well."""
        self._previewQueue.drop()
        if self._previewing is not None:
            self.client.cancel(self._previewing)
            self._previewing = None
            self.message = ""
        self.preview.clear()

    def undo(self) -> None:
        """Take the last result back."""
        self._begin(self._moved(self.writer.undo()), _("Taking the result back"))

    def redo(self) -> None:
        """Bring back what was taken back."""
        self._begin(self._moved(self.writer.redo()), _("Bringing the result back"))

    def _moved(self, work: Generator) -> Generator:
        yield from work
        self._end(IDLE, "")

    def reset(self) -> None:
        """Forget everything about a scene that is being closed; the worker lives on."""
        self._giveUp()
        if not self._alongside:  # a batch goes on with what it was given
            self.handover.forgetAll()
        self.writer.forget()
        self.outcome = Outcome()
        self._end(IDLE, "")

    def close(self) -> None:
        """End the worker, unless somebody else needs it, and leave nothing behind."""
        self._giveUp()
        # Whoever else uses the worker still hears its answers, and the widgets are gone.
        self._closed, self._request, self.changed = True, None, lambda: None
        self.release()

    def _giveUp(self) -> None:
        self.queue.drop()
        if self._request is not None:
            self.client.cancel(self._request)
        self.hidePreview()

    def _begin(self, work: Generator, message: str) -> None:
        if self.state == BUSY:
            return
        self.state, self.message = BUSY, ""
        self.progress = Progress(message, since=self._clock())
        self._request = None
        self.queue.add(work, lambda _done: None, lambda error: self._end(FAILED, said(error)))
        self.changed()

    def _ask(self, do: str, payload, onDone: Callable) -> None:
        def wanted():
            return self._request == number

        if self.client.occupied and self.progress is not None:
            self.progress = replace(self.progress, message=waitingText(self.client.occupied))
            self.changed()

        def done(answer):
            try:
                onDone(answer)
            except (InputError, OSError) as error:
                self._end(FAILED, said(error))

        number = self.client.ask(
            do,
            payload,
            on_progress=_while(wanted, self._progressed),
            on_done=_while(wanted, done),
            on_failed=_while(wanted, self._failed),
        )
        self._request = number

    def _progressed(self, done: int, total: int, message: str) -> None:
        if message == BEGUN:
            return  # what is shown already says more
        before = self.progress
        if before is None or message != before.message or total != before.total:
            before = Progress(message, since=self._clock(), stepsSince=done)
        self.progress = replace(before, done=done, total=total, message=message)
        self.changed()

    def _failed(self, kind: str, message: str) -> None:
        if kind == CANCELLED:
            self._end(IDLE, _("Cancelled; nothing was changed."))
        else:
            log.error("%s: %s", kind, message)
            self._end(FAILED, message)

    def _end(self, state: str, message: str) -> None:
        self.state, self.message, self.progress, self._request = state, message, None, None
        self.changed()

    def _finish(self, last: Callable[[], None]) -> None:
        self._end(IDLE, "")
        last()

    def _prepared(self, order: Order, answer: Mapping) -> None:
        self.outcome = _outcome(order, answer)
        self._end(IDLE, _("The examples were compared in {seconds:.0f} s.").format(seconds=answer["seconds"]))

    def _segmented(self, order: Order, values: Mapping[str, int], answer: Mapping) -> None:
        self._request = None
        self.progress = Progress(_("Writing the segments"), since=self._clock())
        block, spread = self._taken(answer["block"]), self._taken(answer["uncertainty"])

        def written(output):
            self.outcome = _outcome(order, answer)
            if order.output is None:
                self.made(output)
            self._end(IDLE, summary(answer))
            self.queue.add(
                self._showUncertainty(order.target, spread),
                lambda _node: self.changed(),
                lambda error: log.warning("The uncertainty is not shown: %s", error),
            )

        self.hidePreview()
        work = self._write(order, values, answer, block)
        self.queue.add(work, written, lambda error: self._end(FAILED, said(error)))
        self.changed()

    def _taken(self, block: Mapping | None) -> Block | None:
        """An array of an answer, which is the controller's alone from now on."""
        if block is None:
            return None
        array = self.client.fetch(block["array"])
        self.client.forget(block["array"])  # what is mapped stays readable
        return array, tuple(block["corner_kji"])

    def _write(self, order: Order, values: Mapping[str, int], answer: Mapping, block: Block) -> Generator:
        """Write the segments; what was made for them goes again where that comes to nothing."""
        for node in (order.target, order.output):
            if node is not None and node.GetScene() is None:
                raise InputError(
                    _(
                        "'{name}' was removed meanwhile, so nothing was written; choose another and segment again."
                    ).format(name=node.GetName())
                )
        output = order.output
        if output is None:
            output = bridge.ensureSegmentation(self.scene, order.target, f"{order.target.GetName()} segmentation")
        before = set(bridge.segmentNames(output))
        try:
            into = {}
            for wanted in order.wanted:
                if wanted.enabled:
                    into[wanted.name] = ensureLike(order, output, wanted.name, wanted.into)
                    yield
            ids = {values[name]: identifier for name, identifier in into.items()}
            region = regionOf(order, output, answer, into)
            yield from self.writer.write(order.target, output, *block, ids, order.existing, region)
        except BaseException:  # it was cancelled, for one
            for identifier in set(bridge.segmentNames(output)) - before:
                output.GetSegmentation().RemoveSegment(identifier)
            if order.output is None and not before:
                removeShown(self.scene, output)
            raise
        return output

    def _showUncertainty(self, target: slicer.vtkMRMLScalarVolumeNode, spread: Block | None) -> Generator:
        yield
        known = self.uncertaintyOf(target)
        if spread is None:
            # That of an earlier result would be taken for this one's.
            removeShown(self.scene, known)
        else:
            yield from bridge.showUncertainty(self.scene, target, *spread, known)

    def _previewed(self, order: Order, names: Mapping[int, str], answer: Mapping) -> None:
        self._previewing, self.message = None, ""
        self._taken(answer["uncertainty"])
        self.preview.show(order, names, *self._taken(answer["block"]))
        self.changed()

    def _previewProgress(self, done: int, total: int, message: str) -> None:
        if self.state != BUSY:
            self.message = _("Preview: {message}").format(message=message)
            self.changed()

    def _previewFailed(self, kind: str | None, message: str) -> None:
        self._previewing = None
        if kind == CANCELLED:
            return
        self.preview.clear()
        self.message = message
        self.changed()


def _outcome(order: Order, answer: Mapping) -> Outcome:
    return Outcome(
        of=order.key,
        target=order.target.GetID(),
        expected={name: record | _judged(answer, name) for name, record in answer["expected"].items()},
        suspects=tuple(answer["label_check"]),
        axis=answer["axis"],
        nextSlice=answer.get("next_slice"),  # where the examples were only compared there is none
    )


def _judged(answer: Mapping, name: str) -> dict:
    """What is to be said of a segment of this very result; where the examples were only compared there is none."""
    amount = answer.get("labels", {}).get(name)
    amount = amount if isinstance(amount, Mapping) else {}
    return {key: amount[key] for key in ("expected_dice", "verdict", "why") if key in amount}


def _while(wanted: Callable[[], bool], callback: Callable) -> Callable:
    """The callback, as long as somebody waits for it."""
    return lambda *what: callback(*what) if wanted() else None
