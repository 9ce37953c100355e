"""The tab for many volumes: a list of them, where the results go, and what became of each."""

import time
from collections.abc import Callable, Generator, Iterable, Mapping
from inspect import isgenerator
from pathlib import Path

import ctk
import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from InContextSegLib.errors import InputError, OutputError, sentence_of
from InContextSegLib.jobs.cases import CaseStatus, Listed, images_in, naming, rows_of
from InContextSegLib.worker.batch_run import BatchRun
from InContextSegSlicer.panel.segmenttable import verdictText
from InContextSegSlicer.widgets.filedrop import FileDrop
from InContextSegSlicer.widgets.items import barText
from InContextSegSlicer.worker.task_queue import TaskQueue

UI = Path(__file__).resolve().parents[2] / "Resources" / "UI" / "InContextSegBatch.ui"
VOLUME, STATUS = range(2)
TICK_MS = 15
ROWS_AT_ONCE = 20
ROW_PX, STATUS_PX = 22, 170
SHOWN_EVERY_S = 0.1


class BatchTab:
    """Lists volumes, asks the worker for all of them, and follows each.

    Args:
        parent: the widget to fill.
        taskOf: gives the task of the panel, a `TaskSpec` or its mapping, at once or in steps; or says by an
            `InputError` what is missing.
        ask: asks the worker: what, with which payload, and whom to tell of progress, the end and failure.
        cancel: stops a request, by the number that `ask` gave.
        openCase: loads an image file and its result for review.
        looksOf: gives {name of a segment: (colour, terminology entry)} for the results, as far as they are known.
    """

    def __init__(
        self,
        parent: qt.QWidget,
        taskOf: Callable,
        ask: Callable[..., int],
        cancel: Callable[[int], None],
        openCase: Callable[[str, str], None],
        looksOf: Callable[[], Mapping[str, tuple]] = dict,
    ):
        self._taskOf, self._ask, self._cancel = taskOf, ask, cancel
        self._openCase, self._looksOf = openCase, looksOf
        self._listed: list[Listed] = []
        self._run: BatchRun | None = None
        self._running = False
        self._shownAt = 0.0
        self._queue = TaskQueue()
        widget = slicer.util.loadUI(str(UI))
        parent.layout().addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        self._prepareWidgets()
        self._connect()
        # One that rests while there is nothing to do.
        self._timer = qt.QTimer(widget)
        self._timer.setInterval(TICK_MS)
        self._timer.connect("timeout()", self._tick)
        self._drop = FileDrop(self.ui.batchTable.viewport(), self.add)
        self.refresh()

    @property
    def busy(self) -> bool:
        """Whether a batch runs or the list is being filled."""
        return self._running or len(self._queue) > 0

    @property
    def statuses(self) -> list[CaseStatus]:
        """Of the last batch, case by case; empty before the first and after a change of the list."""
        return self._run.statuses if self._run is not None else []

    def add(self, paths: Iterable[str]) -> None:
        """Add files, the volumes of folders, and those that tables name."""
        if self._running:
            self.say(_("Volumes can be added when the batch has ended."))
            return
        self.say("")
        self._begin(self._adding([Path(path) for path in paths]), self._say)

    def say(self, sentence: str) -> None:
        """Show a sentence until the next thing happens."""
        self.ui.batchMessageLabel.setText(sentence)

    def refresh(self) -> None:
        """Show what can be done now."""
        ui, busy = self.ui, self.busy
        for name in ("AddScene", "AddFiles", "AddFolder", "AddList", "Remove", "Clear"):
            getattr(ui, f"batch{name}Button").setEnabled(not busy)
        for name in ("batchFolderEdit", "batchFormatBox", "batchOverwriteBox"):
            getattr(ui, name).setEnabled(not busy)
        ui.batchRunButton.setEnabled(not busy and bool(self._listed))
        ui.batchCancelButton.setEnabled(busy)
        ui.batchReviewButton.setEnabled(self._finishedRow() is not None)
        ui.batchProgressBar.setVisible(self._running)
        if self._running and self._run is not None:
            self._showProgress(self._run)

    def _prepareWidgets(self) -> None:
        table = self.ui.batchTable
        table.setColumnCount(2)
        table.setHorizontalHeaderLabels([_("Volume"), _("Status")])
        table.verticalHeader().setVisible(False)
        table.verticalHeader().setDefaultSectionSize(ROW_PX)
        table.horizontalHeader().setSectionResizeMode(VOLUME, qt.QHeaderView.Stretch)
        table.setColumnWidth(STATUS, STATUS_PX)
        self.ui.batchFolderEdit.filters = ctk.ctkPathLineEdit.Dirs
        self.ui.batchFormatBox.addItem(_("Segmentation (.seg.nrrd)"), ".seg.nrrd")
        self.ui.batchFormatBox.addItem(_("Label map (.nii.gz)"), ".nii.gz")

    def _connect(self) -> None:
        slots = {
            "batchAddSceneButton": self.onAddScene,
            "batchAddFilesButton": self.onAddFiles,
            "batchAddFolderButton": self.onAddFolder,
            "batchAddListButton": self.onAddList,
            "batchRemoveButton": self.onRemove,
            "batchClearButton": self.onClear,
            "batchRunButton": self.onRun,
            "batchCancelButton": self.onCancel,
            "batchReviewButton": self.onReview,
        }
        for name, slot in slots.items():
            getattr(self.ui, name).connect("clicked()", slot)
        self.ui.batchTable.connect("itemSelectionChanged()", self.refresh)
        self.ui.batchTable.connect("cellDoubleClicked(int,int)", self.onDoubleClick)

    # What a person does

    def onAddScene(self) -> None:
        paths, unsaved = savedVolumes(slicer.mrmlScene)
        self.add(paths)
        if unsaved:
            names = ", ".join(unsaved)
            self.say(_("Not added, as no file holds them as they are: {names}; save them first.").format(names=names))
        elif not paths:
            self.say(_("The scene holds no volume."))

    def onAddFiles(self) -> None:
        self.add(qt.QFileDialog.getOpenFileNames(self._window, _("Volumes to segment")) or ())

    def onAddFolder(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self._window, _("Folder of volumes to segment"))
        self.add([folder] if folder else [])

    def onAddList(self) -> None:
        path = qt.QFileDialog.getOpenFileName(self._window, _("Table of volumes"), "", _("Tables (*.csv)"))
        self.add([path] if path else [])

    def onRemove(self) -> None:
        self._begin(self._removing(self._selectedRows()), self._say)

    def onClear(self) -> None:
        self._listed.clear()
        self.ui.batchTable.setRowCount(0)
        self._run = None
        self.say("")
        self.refresh()

    def onRun(self) -> None:
        folder = self.ui.batchFolderEdit.currentPath.strip()
        if not folder:
            self.say(_("Choose a folder for the results."))
            return
        self.ui.batchFolderEdit.addCurrentPathToHistory()
        self.say("")
        self._begin(self._starting(Path(folder)), self._startFailed)

    def onCancel(self) -> None:
        self._queue.drop()
        if self._run is not None and self._run.number is not None:
            self.say(_("Stopping…"))
            self._cancel(self._run.number)
        else:
            self._running = False
            self.say(_("Cancelled."))
        self.refresh()

    def onReview(self) -> None:
        row = self._finishedRow()
        if row is None:
            self.say(_("This case is not finished yet."))
            return
        case = self.statuses[row].case
        try:
            self._openCase(str(case.image), str(case.output))
        except (InputError, OutputError) as error:
            self._say(error)

    def onDoubleClick(self, row: int, column: int) -> None:
        self.onReview()

    # What takes time

    def _begin(self, work: Generator, failed: Callable[[Exception], None]) -> None:
        self._queue.add(work, lambda _done: None, failed)
        self._timer.start()
        self.refresh()

    def _tick(self) -> None:
        self._queue.tick()
        if not self._queue:
            self._timer.stop()
            self.refresh()

    def _adding(self, paths: list[Path]) -> Generator[None, None, None]:
        """A queued task: find the volumes, then show them."""
        found: list[Listed] = []
        for path in paths:
            yield
            if path.is_dir():
                images = []
                for image in images_in(path):
                    if image is not None:
                        images.append(Listed(image))
                    yield
                if not images:
                    self.say(_("The folder {path} holds no volume.").format(path=path))
                found += sorted(images, key=lambda each: each.image)
            else:
                found += rows_of(path) if path.suffix.lower() == ".csv" else [Listed(path)]
        known = set(self._listed)
        new = [each for each in dict.fromkeys(found) if each not in known]
        if new:
            yield from self._forgetting()
        for number, each in enumerate(new):
            self._append(each)
            if number % ROWS_AT_ONCE == 0:
                yield

    def _removing(self, rows: set[int]) -> Generator[None, None, None]:
        """A queued task: take rows off the list, from the last to the first."""
        yield from self._forgetting()
        self.ui.batchTable.clearSelection()
        for number, row in enumerate(sorted(rows, reverse=True)):
            del self._listed[row]
            self.ui.batchTable.removeRow(row)
            if number % ROWS_AT_ONCE == 0:
                yield

    def _forgetting(self) -> Generator[None, None, None]:
        """A queued task: what is known of the last batch belongs to other rows once the list changes."""
        known, self._run = len(self.statuses), None
        for row in range(known):
            self._put(row, STATUS, "")
            if row % ROWS_AT_ONCE == 0:
                yield

    def _append(self, listed: Listed) -> None:
        row = len(self._listed)
        self._listed.append(listed)
        self.ui.batchTable.setRowCount(row + 1)
        self._put(row, VOLUME, listed.image.name, str(listed.image))

    def _starting(self, folder: Path) -> Generator[None, None, None]:
        """A queued task: hand over the examples, name the results, ask the worker."""
        self._running = True
        task = self._taskOf()
        if isgenerator(task):
            task = yield from task
        task = task.to_mapping() if hasattr(task, "to_mapping") else dict(task)
        yield
        cases = yield from naming(self._listed, folder, self.ui.batchFormatBox.currentData)
        for row, case in enumerate(cases):
            self._put(row, VOLUME, case.image.name, f"{case.image}\n→ {case.output}")
            self._put(row, STATUS, _("waiting"))
            if row % ROWS_AT_ONCE == 0:
                yield
        yield
        looks = self._looksOf()
        request = {
            "task": task,
            "overwrite": bool(self.ui.batchOverwriteBox.checked),
            "looks": [_look(value, *looks[name]) for value, name in task["labels"] if name in looks],
        }
        self._run = BatchRun(self._ask, request, cases, self._told, self._ended)
        yield
        self._run.start()

    def _startFailed(self, error: Exception) -> None:
        self._running = False
        self._say(error)

    # What the worker tells

    def _told(self, row: int) -> None:
        status = self._run.statuses[row]
        text, tip = statusText(status, self._run.share)
        self._put(row, STATUS, text, tip)
        # What is done already comes in by the hundreds.
        if time.monotonic() > self._shownAt + SHOWN_EVERY_S:
            self._shownAt = time.monotonic()
            self.refresh()

    def _ended(self, kind: str, message: str) -> None:
        self._running = False
        counted = {name: sum(each.status == name for each in self.statuses) for name in ("done", "skipped", "failed")}
        text = _("{done} done, {skipped} were done before, {failed} failed.").format(**counted)
        if kind == "Cancelled":
            text = _("Cancelled.") + " " + text
        elif kind:
            text = f"{message} {text}"
        self.say(text)
        for row, status in enumerate(self.statuses):
            if not status.settled:
                self._put(row, STATUS, _("waiting"))
        self.refresh()

    def _showProgress(self, run: BatchRun) -> None:
        settled = sum(status.settled for status in run.statuses)
        bar = self.ui.batchProgressBar
        bar.setRange(0, 100 * len(run.statuses))
        bar.setValue(round(100 * (settled + run.share)))
        running = next((each.message for each in run.statuses if each.status == "running"), "")
        parts = [_("{settled} of {total}").format(settled=settled, total=len(run.statuses)), running]
        if run.seconds_left is not None:
            parts.append(timeText(run.seconds_left))
        bar.setFormat(barText(", ".join(part for part in parts if part)))

    # Small things

    @property
    def _window(self) -> qt.QWidget:
        return self.ui.batchTable.window()

    def _say(self, error: Exception) -> None:
        self.say(sentence_of(error))
        self.refresh()

    def _put(self, row: int, column: int, text: str, tip: str = "") -> None:
        item = self.ui.batchTable.item(row, column)
        if item is None:
            item = qt.QTableWidgetItem()
            self.ui.batchTable.setItem(row, column, item)
        item.setText(text)
        item.setToolTip(tip)

    def _selectedRows(self) -> set[int]:
        return {index.row() for index in self.ui.batchTable.selectionModel().selectedRows()}

    def _finishedRow(self) -> int | None:
        """The selected row, if there is one and its result is there."""
        rows = sorted(self._selectedRows())
        finished = [
            row for row in rows if row < len(self.statuses) and self.statuses[row].status in ("done", "skipped")
        ]
        return finished[0] if len(rows) == 1 and finished else None


def _look(value: int, colour: Iterable[float], terminology: str) -> dict:
    tags = f"TerminologyEntry:{terminology}|" if terminology else ""
    return {"value": value, "colour": list(colour), "tags": tags}


def savedVolumes(scene: slicer.vtkMRMLScene) -> tuple[list[str], list[str]]:
    """The files of the scene's volumes, and the names of volumes that no file holds as they are."""
    paths, unsaved = [], []
    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode", scene):
        if node.IsA("vtkMRMLLabelMapVolumeNode") or node.GetHideFromEditors():
            continue
        storage = node.GetStorageNode()
        path = Path(storage.GetFullNameFromFileName() or "") if storage is not None else Path()
        if not path.is_file() or node.GetModifiedSinceRead():
            unsaved.append(node.GetName())
        else:
            # Several files are a DICOM series, whose folder counts.
            paths.append(str(path.parent if storage.GetNumberOfFileNames() > 1 else path))
    return paths, unsaved


def statusText(status: CaseStatus, share: float) -> tuple[str, str]:
    """What the table says of a case, and the tool tip to it."""
    if status.status == "running":
        return f"{round(100 * share)} %", status.message
    if status.status == "failed":
        return "✗ " + _("failed"), status.message
    if status.status == "waiting":
        return _("waiting"), ""
    amounts = "\n".join(f"{name}: {amount:.1f} ml" for name, amount in status.millilitres.items())
    done = (
        _("done before") if status.status == "skipped" else _("done in {seconds:.0f} s").format(seconds=status.seconds)
    )
    verdict = f" – {verdictText(status.verdict)}" if status.verdict else ""
    return f"✓ {done}{verdict}", amounts


def timeText(seconds: float) -> str:
    """How long the rest takes, no more precise than anybody knows."""
    if seconds < 90:
        return _("about {seconds} s left").format(seconds=max(1, round(seconds)))
    if seconds < 90 * 60:
        return _("about {minutes} min left").format(minutes=round(seconds / 60))
    return _("about {hours:.1f} h left").format(hours=seconds / 3600)
