"""The tab for many volumes: what comes on the list, what is asked of the worker, and what a person sees of it."""

import gc
import json
import time
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import qt
import slicer
import slicer.util

from InContextSegLib.errors import InputError
from InContextSegLib.jobs.cases import Case, CaseStatus
from InContextSegLib.volumes.files import write_volume
from InContextSegLib.volumes.geometry import Geometry, Volume
from InContextSegSlicer.panel.batchtab import BatchTab, statusText, timeText
from Testing.Slicer.harness import app

TASK = {"examples": [], "labels": [[1, "liver"], [2, "spleen"]], "settings": {}}


class Worker:
    """Stands in for what the panel offers the tab; answers when the test says so."""

    def __init__(self):
        self.asked, self.cancelled, self.opened, self.task = [], [], [], TASK

    def taskOf(self):
        if isinstance(self.task, Exception):
            raise self.task
        return self.task

    def ask(self, do, payload, onProgress, onDone, onFailed):
        self.asked.append((do, payload))
        self.onProgress, self.onDone, self.onFailed = onProgress, onDone, onFailed
        return 41 + len(self.asked)

    @property
    def cases(self):
        return [Case(Path(case["image"]), Path(case["output"])) for case in self.asked[-1][1]["cases"]]

    def tell(self, case, status, done=0, total=1, **others):
        self.onProgress(done, total, json.dumps(CaseStatus(case, status, **others).to_mapping()))

    def finish(self, *statuses):
        cases = self.cases
        self.onDone(
            {"cases": [CaseStatus(case, *each).to_mapping() for case, each in zip(cases, statuses, strict=True)]}
        )


@pytest.fixture
def worker():
    return Worker()


@pytest.fixture
def tab(scene, worker):
    parent = qt.QWidget()
    parent.setLayout(qt.QVBoxLayout())
    tab = BatchTab(
        parent,
        worker.taskOf,
        worker.ask,
        worker.cancelled.append,
        lambda image, result: worker.opened.append((image, result)),
        lambda: {"liver": ((0.9, 0.5, 0.3), "a~b")},
    )
    tab.parent = parent
    parent.resize(420, 520)
    parent.show()
    yield tab
    parent.deleteLater()


@pytest.fixture
def folder(tmp_path):
    """Three volumes and something else."""
    folder = tmp_path / "volumes"
    folder.mkdir()
    for name in ("a.nii.gz", "b.nii.gz", "c ü.nrrd"):
        write_volume(folder / name, Volume(np.zeros((3, 4, 5), np.int16), Geometry((3, 4, 5), np.eye(4))))
    (folder / "notes.txt").write_text("x")
    return folder


def settle(tab):
    assert app.pump(until=lambda: not len(tab._queue))


def cells(tab, column):
    table = tab.ui.batchTable
    items = [table.item(row, column) for row in range(table.rowCount)]
    return [item.text() if item else "" for item in items]


def tips(tab):
    return [tab.ui.batchTable.item(row, 1).toolTip() for row in range(tab.ui.batchTable.rowCount)]


def message(tab):
    return tab.ui.batchMessageLabel.text


def listed(tab, folder):
    tab.add([str(folder)])
    settle(tab)


def started(tab, folder, output):
    listed(tab, folder)
    tab.ui.batchFolderEdit.currentPath = str(output)
    tab.ui.batchRunButton.click()
    settle(tab)


# The list


def test_a_folder_file_and_table_come_on_the_list_each_volume_once(tab, folder, tmp_path):
    (tmp_path / "more.csv").write_text("image,name\nvolumes/a.nii.gz,\nelsewhere/d.nii,first\n", encoding="utf-8")
    app.answers.give("QFileDialog.getExistingDirectory", str(folder))
    app.answers.give("QFileDialog.getOpenFileNames", [str(folder / "a.nii.gz")])
    app.answers.give("QFileDialog.getOpenFileName", str(tmp_path / "more.csv"))
    for button in ("Folder", "Files", "List"):
        getattr(tab.ui, f"batchAdd{button}Button").click()
        settle(tab)
    assert cells(tab, 0) == ["a.nii.gz", "b.nii.gz", "c ü.nrrd", "d.nii"]
    assert tab.ui.batchTable.item(0, 0).toolTip() == str(folder / "a.nii.gz")


def test_a_dialog_that_is_closed_adds_nothing(tab):
    app.answers.give("QFileDialog.getExistingDirectory", "")
    app.answers.give("QFileDialog.getOpenFileNames", [])
    app.answers.give("QFileDialog.getOpenFileName", "")
    for button in ("Folder", "Files", "List"):
        getattr(tab.ui, f"batchAdd{button}Button").click()
    settle(tab)
    assert cells(tab, 0) == []
    assert not tab.ui.batchRunButton.enabled


def test_files_and_folders_can_be_dropped(tab, folder):
    assert app.drop(tab.ui.batchTable.viewport(), folder / "a.nii.gz", folder)
    settle(tab)
    assert cells(tab, 0) == ["a.nii.gz", "b.nii.gz", "c ü.nrrd"]


def test_what_cannot_be_added_is_told(tab, tmp_path):
    (tmp_path / "list.csv").write_text("path\n", encoding="utf-8")
    tab.add([str(tmp_path / "list.csv")])
    settle(tab)
    assert "has no column 'image'" in message(tab)
    (tmp_path / "empty").mkdir()
    tab.add([str(tmp_path / "empty")])
    settle(tab)
    assert message(tab).endswith("empty holds no volume.")


def stored(name, path):
    node = slicer.util.addVolumeFromArray(np.zeros((3, 4, 5), np.int16), name=name)
    if path is not None:
        storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
        storage.SetFileName(str(path))
        assert storage.WriteData(node)
        node.SetAndObserveStorageNodeID(storage.GetID())
    return node


def test_volumes_of_the_scene_are_added_if_a_file_holds_them(tab, tmp_path):
    stored("saved", tmp_path / "saved.nrrd")
    stored("never", None)
    changed = stored("changed", tmp_path / "changed.nrrd")
    slicer.util.arrayFromVolume(changed)[0, 0, 0] = 7
    slicer.util.arrayFromVolumeModified(changed)
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    tab.ui.batchAddSceneButton.click()
    settle(tab)
    assert cells(tab, 0) == ["saved.nrrd"]
    assert message(tab) == "Not added, as no file holds them as they are: never, changed; save them first."


def test_an_empty_scene_is_told(tab):
    tab.ui.batchAddSceneButton.click()
    settle(tab)
    assert message(tab) == "The scene holds no volume."


def test_rows_are_removed_and_the_list_is_emptied(tab, folder):
    listed(tab, folder)
    tab.ui.batchTable.selectRow(1)
    tab.ui.batchRemoveButton.click()
    settle(tab)
    assert cells(tab, 0) == ["a.nii.gz", "c ü.nrrd"]
    tab.ui.batchClearButton.click()
    assert cells(tab, 0) == []
    assert (folder / "b.nii.gz").exists()


# Running


def test_the_worker_is_asked_for_every_volume_with_the_looks_of_the_segments(tab, worker, folder, tmp_path):
    tab.ui.batchOverwriteBox.checked = True
    started(tab, folder, tmp_path / "out")
    ((do, payload),) = worker.asked
    assert do == "batch"
    assert [Path(case["output"]).name for case in payload["cases"]] == ["a.seg.nrrd", "b.seg.nrrd", "c ü.seg.nrrd"]
    assert payload["task"] == TASK
    assert payload["overwrite"] is True
    assert payload["looks"] == [{"value": 1, "colour": [0.9, 0.5, 0.3], "tags": "TerminologyEntry:a~b|"}]
    assert tab.ui.batchTable.item(0, 0).toolTip() == f"{folder / 'a.nii.gz'}\n→ {tmp_path / 'out' / 'a.seg.nrrd'}"
    assert not tab.ui.batchRunButton.enabled
    assert tab.ui.batchCancelButton.enabled


def test_the_task_may_come_in_steps(tab, worker, folder, tmp_path):
    def steps():
        for _ in range(5):
            yield
        return TASK

    worker.task = steps()
    started(tab, folder, tmp_path / "out")
    assert worker.asked[0][1]["task"] == TASK


def test_the_format_can_be_chosen(tab, worker, folder, tmp_path):
    tab.ui.batchFormatBox.setCurrentIndex(1)
    started(tab, folder, tmp_path / "out")
    assert worker.cases[0].output == tmp_path / "out" / "a.nii.gz"


def test_what_is_missing_is_told_and_nothing_is_asked(tab, worker, folder, tmp_path):
    listed(tab, folder)
    tab.ui.batchRunButton.click()
    assert message(tab) == "Choose a folder for the results."
    worker.task = InputError("There are no labelled examples yet.")
    started(tab, folder, tmp_path / "out")
    assert message(tab) == "There are no labelled examples yet."
    worker.task = TASK
    tab.ui.batchFormatBox.setCurrentIndex(1)
    tab.ui.batchFolderEdit.currentPath = str(folder)
    tab.ui.batchRunButton.click()
    settle(tab)
    assert "would lie among the images" in message(tab)
    assert worker.asked == []
    assert tab.ui.batchRunButton.enabled


def test_every_case_shows_how_far_it_is(tab, worker, folder, tmp_path):
    started(tab, folder, tmp_path / "out")
    first, second, third = worker.cases
    worker.tell(first, "running", 37, 100, message="axial, draw 1 of 2")
    assert cells(tab, 1) == ["37 %", "waiting", "waiting"]
    worker.tell(first, "done", seconds=12.4, millilitres={"liver": 1203.25}, verdict="look at it: liver")
    worker.tell(second, "failed", message="b.nii.gz is damaged.")
    worker.tell(third, "running", 1, 2)
    tab.refresh()
    assert cells(tab, 1) == ["✓ done in 12 s – look at it: liver", "✗ failed", "50 %"]
    assert tips(tab)[:2] == ["liver: 1203.2 ml", "b.nii.gz is damaged."]
    assert tab.ui.batchProgressBar.value == 250
    assert tab.ui.batchProgressBar.text == "2 of 3, about 6 s left"
    worker.finish(("done",), ("failed", "b.nii.gz is damaged."), ("skipped",))
    assert cells(tab, 1)[2] == "✓ done before"
    assert message(tab) == "1 done, 1 were done before, 1 failed."
    assert tab.ui.batchRunButton.enabled
    assert not tab.ui.batchProgressBar.visible


def test_cancelling_stops_the_request_and_what_is_done_stays(tab, worker, folder, tmp_path):
    started(tab, folder, tmp_path / "out")
    worker.tell(worker.cases[0], "done")
    worker.tell(worker.cases[1], "running")
    tab.ui.batchCancelButton.click()
    assert worker.cancelled == [42]
    worker.onFailed("Cancelled", "It was cancelled.")
    assert message(tab) == "Cancelled. 1 done, 0 were done before, 0 failed."
    assert cells(tab, 1) == ["✓ done in 0 s", "waiting", "waiting"]
    tab.ui.batchRunButton.click()
    settle(tab)
    assert len(worker.cases) == 3, "the worker knows what is done"


def test_cancelling_before_the_worker_is_asked_asks_nothing(tab, worker, folder, tmp_path):
    def endless():
        while True:
            yield

    worker.task = endless()
    listed(tab, folder)
    tab.ui.batchFolderEdit.currentPath = str(tmp_path / "out")
    tab.ui.batchRunButton.click()
    app.pump(0.1)
    tab.ui.batchCancelButton.click()
    settle(tab)
    assert (worker.asked, worker.cancelled, message(tab)) == ([], [], "Cancelled.")
    assert tab.ui.batchRunButton.enabled


def test_a_worker_that_died_goes_on_with_the_rest(tab, worker, folder, tmp_path):
    (tmp_path / "out").mkdir()
    started(tab, folder, tmp_path / "out")
    for _ in range(2):
        worker.tell(worker.cases[0], "running")
        worker.onFailed("WorkerDied", "The worker process ended.")
    assert cells(tab, 1) == ["✗ failed", "waiting", "waiting"]
    assert tips(tab)[0].startswith("The worker process died twice with this case")
    assert len(worker.cases) == 2
    worker.onFailed("InputError", "The weights are gone.")
    assert message(tab) == "The weights are gone. 0 done, 0 were done before, 1 failed."


def test_dropping_while_a_batch_runs_is_refused(tab, worker, folder, tmp_path):
    started(tab, folder, tmp_path / "out")
    app.drop(tab.ui.batchTable.viewport(), tmp_path / "d.nii")
    assert message(tab) == "Volumes can be added when the batch has ended."
    assert len(cells(tab, 0)) == 3


def test_adding_after_a_batch_forgets_what_is_shown_of_it(tab, worker, folder, tmp_path):
    started(tab, folder, tmp_path / "out")
    worker.finish(("done",), ("done",), ("done",))
    tab.add([str(tmp_path / "d.nii")])
    settle(tab)
    assert cells(tab, 1) == ["", "", "", ""]


# Review


def test_a_finished_case_is_opened_by_a_double_click_or_the_button(tab, worker, folder, tmp_path):
    started(tab, folder, tmp_path / "out")
    case = worker.cases[1]
    worker.tell(case, "done")
    tab.ui.batchTable.selectRow(1)
    tab.ui.batchTable.cellDoubleClicked.emit(1, 0)
    tab.ui.batchReviewButton.click()
    assert worker.opened == [(str(case.image), str(case.output))] * 2
    tab.ui.batchTable.selectRow(0)
    assert not tab.ui.batchReviewButton.enabled
    tab.ui.batchTable.cellDoubleClicked.emit(0, 0)
    assert len(worker.opened) == 2
    assert message(tab) == "This case is not finished yet."


def test_a_case_that_cannot_be_opened_is_told(tab, worker, folder, tmp_path):
    def fail(image, result):
        raise InputError("It is gone.")

    tab._openCase = fail
    started(tab, folder, tmp_path / "out")
    worker.tell(worker.cases[0], "skipped")
    tab.ui.batchTable.selectRow(0)
    tab.ui.batchReviewButton.click()
    assert message(tab) == "It is gone."


# Words and time


def test_the_time_left_is_told_no_more_precisely_than_anybody_knows():
    assert [timeText(seconds) for seconds in (0.1, 45, 600, 7200)] == [
        "about 1 s left",
        "about 45 s left",
        "about 10 min left",
        "about 2.0 h left",
    ]


def test_a_waiting_case_says_so():
    assert statusText(CaseStatus(Case(Path("a"), Path("b"))), 0.0) == ("waiting", "")


def longest(call):
    """Seconds of work, as other processes may hold up a test at any time."""
    before = time.thread_time()
    call()
    return time.thread_time() - before


def slowness():
    """How many times as long as the computer that the 50 ms are meant for, 10 ms, this one takes when it is busiest."""
    return max(1.0, *(longest(lambda: sum(n * n for n in range(200_000))) / 0.010 for _ in range(12)))


@pytest.fixture
def swept():
    """What all tests before have left is not collected while one is timed, and no types are checked, as in Slicer."""
    gc.collect()
    gc.disable()
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    gc.enable()


@pytest.mark.usefixtures("swept")
def test_no_slot_takes_longer_than_50_ms_with_2000_volumes(tab, worker, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(2000):
        (folder / f"volume{number:04}.nii.gz").write_bytes(b"")
    limit = 0.05 * slowness()
    # A slot that takes long does so each time; what another process causes does not come back three times.
    slow = None
    for again in range(3):
        worst = longest_slots(tab, worker, folder, tmp_path / f"out{again}")
        slow = {name for name, seconds in worst.items() if seconds > limit and (slow is None or name in slow)}
        if not slow:
            break
    assert slow == set()


def longest_slots(tab, worker, folder, out):
    """Seconds of the longest piece of work in the window's thread, by what was done with 2,000 volumes."""
    worst = {}

    def timed(name, call):
        worst[name] = max(longest(call), worst.get(name, 0))
        while len(tab._queue):
            worst[f"{name}, a tick"] = max(longest(tab._tick), worst.get(f"{name}, a tick", 0))

    timed("add", lambda: tab.add([str(folder)]))
    assert len(cells(tab, 0)) == 2000
    tab.ui.batchFolderEdit.currentPath = str(out)
    timed("run", tab.ui.batchRunButton.click)
    for case in worker.cases[:50]:
        timed("told", lambda case=case: worker.tell(case, "skipped"))
    timed("ended", lambda: worker.onFailed("Cancelled", ""))
    tab.ui.batchTable.selectAll()
    timed("remove", tab.ui.batchRemoveButton.click)
    assert cells(tab, 0) == []
    return worst


def test_a_picture_of_it(tab, worker, folder, tmp_path):
    started(tab, folder, tmp_path / "out")
    first, second, third = worker.cases
    worker.tell(first, "done", seconds=12.4)
    worker.tell(second, "failed", message="b.nii.gz is damaged.")
    worker.tell(third, "running", 1, 2, message="axial, draw 1 of 2")
    tab.refresh()
    assert app.screenshot(tab.parent, tmp_path / "tab.png").stat().st_size > 5000
