"""A training as the module follows it: looks at the data, asks the worker, and reads the log of the run."""

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from slicer.i18n import tr as _

from InContextSegLib.config import to_mapping
from InContextSegLib.training import runfolder
from InContextSegLib.training.runfolder import LogTail
from InContextSegLib.training.site.datasets import Site
from InContextSegLib.worker.client import WorkerClient
from InContextSegLib.worker.protocol import BEGUN, SaveExamples
from InContextSegLib.worker.site_requests import LookAtSite, TrainingStatus, TrainOnSite
from InContextSegSlicer.scene.handover import Handover
from InContextSegSlicer.training.plots import TrainingPlots
from InContextSegSlicer.worker.task_queue import TaskQueue, said

IDLE, LOOKING, WRITING, WAITING, TRAINING, STOPPING = "idle", "looking", "writing", "waiting", "training", "stopping"
PAUSED, FAILED, DONE = "paused", "failed", "done"
ACTIVE = (WAITING, TRAINING, STOPPING)
BUSY = (LOOKING, WRITING, *ACTIVE)
# A step of many tasks on a processor, a validation and the checkpoint may take minutes; killed, it would lose steps.
PAUSE_S = 900.0
LAST_STEPS = 25
log = logging.getLogger(__name__)


class TrainingController:
    """One run at a time; the folder of the run says how far it is, so that nothing here has to be kept.

    Attributes:
        found: what the last look told; foundFor: the key of the data sets it was about.
        folder: of the run that is shown; None: none is.
        request: the last one, as it was asked.
        record: what came of the run, where it is finished.
        owned: whether what the folder holds is surely this run, so that it may be deleted with it.
        changed: called whenever something is worth showing.
    """

    def __init__(
        self,
        client: WorkerClient,
        handover: Handover,
        plots: TrainingPlots,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.client, self.handover, self.plots = client, handover, plots
        self.release: Callable[[], None] = client.close
        self.changed: Callable[[], None] = lambda: None
        self.queue = TaskQueue(clock)
        self.found: Mapping[str, Any] | None = None
        self.foundFor = ""
        self._number: int | None = None
        self._tail: LogTail | None = None
        self.request: TrainOnSite | None = None
        self._deleting = self._reading = self._again = False
        self._stale = self.closed = self.owned = False
        self._show(None)
        self.state, self.message = IDLE, ""

    @property
    def busy(self) -> bool:
        """Whether something goes on that must not be disturbed."""
        return self.state in BUSY

    @property
    def working(self) -> bool:
        """Whether ticks should follow quickly."""
        return self.busy or bool(self.queue)

    def tick(self) -> None:
        """Do what is due: a few milliseconds."""
        self.client.poll()
        self.queue.tick()

    @property
    def resumable(self) -> bool:
        """Whether there is a run to go on with."""
        begun = self.state == FAILED and runfolder.is_run(self.folder)
        return begun or self.state in (PAUSED, DONE)

    @property
    def deletable(self) -> bool:
        """Whether cancelling may delete what is in the folder."""
        return self.owned and self.state in (*ACTIVE, PAUSED, FAILED)

    @property
    def secondsLeft(self) -> float | None:
        """What the rest of the steps takes, if they go on as the last ones did; None where nothing tells yet."""
        if not self.seconds or not self.total or self.state not in ACTIVE:
            return None
        return median(self.seconds) * max(self.total - self.step, 0)

    def look(self, site: Site) -> None:
        """Find out what there is to train on."""
        self._begin(LOOKING, _("Looking at the data"))
        key = keyOf(site)

        def done(answer: Mapping[str, Any]) -> None:
            self.found, self.foundFor = answer, key
            self._end(IDLE, _("Looked at in {seconds:.0f} s.").format(seconds=answer["seconds"]))

        self._ask("survey", LookAtSite(site), done, lambda _kind, message: self._end(IDLE, message))

    def write(self, work: Generator[None, None, SaveExamples], done: Callable[[str], None]) -> None:
        """Have volumes of the scene written as files; then `done` with their folder."""
        self._begin(WRITING, _("Writing the volumes of the scene"))

        def asking(request: SaveExamples) -> None:
            def written(_answer: Mapping[str, Any]) -> None:
                self._end(IDLE, "")
                done(request.folder)

            self._ask("save_examples", request, written, lambda _kind, message: self._end(IDLE, message))

        self.queue.add(work, asking, lambda error: self._end(IDLE, said(error)))

    def start(self, request: TrainOnSite) -> None:
        """Train, or go on with the run in that folder."""
        folder = Path(request.run)
        # Another run may be there, with which the worker will refuse to go on.
        self.owned = not runfolder.holds_any(folder) or (self.owned and self.folder == folder)
        self._show(folder)
        self._read()
        self._stale = True
        self._begin(WAITING, _("The worker is asked"))
        self.request, self.record, self._deleting = request, None, False
        self.client.occupied = _("the training in In-Context Segmentation Training (it can be paused there)")
        self._ask("train", request, self._trained, self._stopped)

    def pause(self) -> None:
        """Stop after the step that is being computed; what was done is kept."""
        if self.state not in (WAITING, TRAINING):
            return
        self.state = STOPPING
        self.client.cancel(self._number, grace_s=PAUSE_S)
        self.changed()

    def cancel(self, delete: bool) -> None:
        """Stop, and perhaps delete what the run has written, if that is surely this one."""
        delete = delete and self.owned
        if self.state == STOPPING:
            self._deleting = delete
        elif self.state in ACTIVE:
            self._deleting = delete
            self.pause()
        elif self.state in (LOOKING, WRITING):
            self.queue.drop()
            if self._number is not None:
                self.client.cancel(self._number)
            else:
                self._end(IDLE, _("Cancelled."))
        elif delete and self.folder is not None:
            self._delete()

    def open(self, folder: Path) -> None:
        """Show a run that was begun elsewhere, or in an earlier session.

        Raises:
            InputError: if what the folder holds cannot be read.
        """
        record, survey = runfolder.record_of(folder), runfolder.survey_of(folder)
        settings = runfolder.kept_settings(folder) or {}
        key = keyOf(runfolder.read_site(folder / runfolder.SITE)) if survey is not None else ""
        self._show(folder)
        self.owned = True
        self.record, self.total = record, settings.get("training", {}).get("steps", 0)
        if survey is not None:
            self.found, self.foundFor = survey, key
        self.state = DONE if record else PAUSED if runfolder.is_run(folder) else IDLE
        self.message = ""
        self._read()

    def leave(self) -> None:
        """Show no run any more."""
        self._show(None)
        self.state, self.message = IDLE, ""

    def sceneClosed(self) -> None:
        """The curves went with the scene; they come again as the log is read anew."""
        record, total = self.record, self.total
        self._show(self.folder)
        self.record, self.total = record, total
        self._read()

    def close(self) -> None:
        """End the worker, unless somebody else needs it; a run can be resumed."""
        self.queue.drop()
        if self._number is not None:
            self.client.cancel(self._number, grace_s=PAUSE_S)
        self.client.occupied = ""
        # Whoever else uses the worker still hears its answers, and the widgets are gone.
        self.closed, self._number, self.changed = True, None, lambda: None
        self.release()

    # How far the run is

    def _show(self, folder: Path | None) -> None:
        """Begin to follow the log of a folder from its start."""
        self.folder = folder
        self.step, self.total, self.done, self.of = 0, 0, 0, 0
        self.message, self.loss, self.dice = "", None, {}
        self.bestDice: float | None = None
        self.seconds: deque[float] = deque(maxlen=LAST_STEPS)
        self.record: Mapping[str, Any] | None = None
        self.pictured = 0
        self._tail = LogTail(folder / runfolder.LOG) if folder is not None else None
        if self.plots is not None:
            self.plots.forget()

    def _read(self) -> None:
        """Read on in the log, in pieces."""
        self._again = self._reading
        if self._tail is None or self._reading:
            return
        self._reading = True

        def done(_end: None) -> None:
            self._reading = False
            if self._again:
                self._read()
            self.changed()

        def failed(error: Exception) -> None:
            self._reading = False
            self.message = said(error)
            self.changed()

        self.queue.add(self._reads(self._tail), done, failed)

    def _reads(self, tail: LogTail) -> Generator[None, None, None]:
        for records in tail.read():
            if tail is not self._tail:
                return
            for record in records:
                self.step, self.loss = record["step"], record["loss"]
                self.seconds.append(record.get("seconds", 0.0))
                if record.get("validation"):
                    self.dice = record["validation"]
                    mean = sum(self.dice.values()) / len(self.dice)
                    self.bestDice = mean if self.bestDice is None else max(mean, self.bestDice)
                    self.pictured = record["step"]
            yield
            if self.plots.chart is not None and not self.plots.complete:
                self.sceneClosed()  # somebody has deleted the curves
                return
            new = self.plots.chart is None
            yield from self.plots.adding(records)
            if new:  # once, as a person may look at another chart later
                self.plots.show(change=False)

    # What the worker tells

    def _ask(self, do: str, payload: Any, onDone: Callable, onFailed: Callable[[str, str], None]) -> None:
        def wanted() -> bool:
            return self._number == number

        try:
            number = self.client.ask(
                do,
                payload,
                on_progress=lambda *what: self._progressed(*what) if wanted() else None,
                on_done=lambda answer: onDone(answer) if wanted() else None,
                on_failed=lambda kind, message: onFailed(kind, message) if wanted() else None,
            )
        except OSError as error:  # no folder can be made for the worker
            onFailed("OutputError", str(error))
            return
        self._number = number
        self.changed()

    def _progressed(self, done: int, total: int, message: str) -> None:
        if message == BEGUN:
            if self.state == WAITING:
                self.state = TRAINING
            self.changed()
            return
        line = None
        if self.state in ACTIVE:
            told = TrainingStatus.of(message)
            message, line = told.status, told.line
        self.done, self.of, self.message = done, total, message
        if line is not None:
            if self._stale:  # the first step; by now the log holds no line that is done again
                self._show(self.folder)
                self.done, self.of, self.message = done, total, message
            self._stale, self.total, self.owned = False, total, True
            self._read()
        self.changed()

    def _trained(self, answer: Mapping[str, Any]) -> None:
        self.record, self.owned = answer, True
        self._read()
        self._finish(DONE, _("The training is finished."))

    def _stopped(self, kind: str, message: str) -> None:
        if kind == "Cancelled" and self._deleting:
            self._delete()
            return
        self._read()
        if kind == "Cancelled":
            self._finish(PAUSED, _("Paused; Resume goes on from there."))
        else:
            if kind == "InputError":
                self.owned = False  # refused, perhaps for what is in the folder
            else:
                log.error("%s: %s", kind, message)
            kept = kind != "InputError" and (self.folder / runfolder.CHECKPOINT).is_file()
            more = _("What was done is kept; Resume goes on from the last checkpoint.") if kept else ""
            self._finish(FAILED, f"{message} {more}".strip())

    def _delete(self) -> None:
        folder = self.folder
        try:
            runfolder.delete(folder)
            message = _("Cancelled; what the run had written to {folder} is deleted.").format(folder=folder)
        except OSError as error:
            message = _("Not everything in {folder} could be deleted: {error}").format(folder=folder, error=error)
        self.queue.drop()
        self._reading = False
        self._show(None)
        self._finish(IDLE, message)

    def _begin(self, state: str, words: str) -> None:
        self.state, self.message, self._number = state, "", None
        self.done, self.of, self.message = 0, 0, words
        self.changed()

    def _finish(self, state: str, message: str) -> None:
        self.client.occupied = ""
        self._end(state, message)

    def _end(self, state: str, message: str) -> None:
        self.state, self.message, self._number = state, message, None
        self.changed()


def keyOf(site: Site) -> str:
    """The same for equal data sets and an equal split."""
    return json.dumps(to_mapping(runfolder.resolved(site)) | {"name": ""}, sort_keys=True)
