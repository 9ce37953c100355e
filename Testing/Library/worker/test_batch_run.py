"""A batch asked of a worker: what it tells, and how it goes on where the worker dies."""

import csv
import json
from pathlib import Path

import pytest

from InContextSegLib.jobs.cases import Case, CaseStatus
from InContextSegLib.worker.batch_run import BatchRun


class Worker:
    """Answers when it is told to."""

    def __init__(self):
        self.asked = []

    def ask(self, do, payload, on_progress, on_done, on_failed):
        self.asked.append((do, payload))
        self.on_progress, self.on_done, self.on_failed = on_progress, on_done, on_failed
        return len(self.asked)

    def tells(self, case, status, done=0, total=1, **others):
        self.on_progress(done, total, json.dumps(CaseStatus(case, status, **others).to_mapping()))

    @property
    def outputs(self):
        return [Path(case["output"]).name for case in self.asked[-1][1]["cases"]]


@pytest.fixture
def cases(tmp_path):
    return [Case(tmp_path / f"{name}.nii", tmp_path / "out" / f"{name}.nii.gz") for name in "abc"]


@pytest.fixture
def worker():
    return Worker()


@pytest.fixture
def run(worker, cases):
    cases[0].output.parent.mkdir()
    ended = []
    run = BatchRun(
        worker.ask, {"task": {"a": 1}, "overwrite": True}, cases, lambda place: None, lambda *end: ended.append(end)
    )
    run.ends = ended
    run.start()
    return run


def states(run):
    return [status.status for status in run.statuses]


def test_all_cases_are_asked_for_at_once_and_followed(run, worker, cases):
    assert worker.asked[0][0] == "batch"
    assert worker.asked[0][1]["overwrite"] is True
    assert worker.outputs == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    worker.tells(cases[0], "running", 1, 4, message="axial")
    assert (states(run), run.share) == (["running", "waiting", "waiting"], 0.25)
    worker.tells(cases[0], "done", seconds=2.0)
    worker.tells(cases[1], "running", 1, 2)
    assert (states(run), run.share) == (["done", "running", "waiting"], 0.5)
    assert run.seconds_left == pytest.approx(3.0)
    worker.on_done({"cases": [CaseStatus(case, "done").to_mapping() for case in cases]})
    assert (states(run), run.ends, run.number) == (["done"] * 3, [("", "")], None)


def test_the_time_left_is_unknown_at_first(run, worker, cases):
    assert run.seconds_left is None
    worker.tells(cases[0], "skipped", seconds=2.0)
    assert run.seconds_left is None
    worker.tells(cases[1], "running", 1, 2)
    assert 0 <= run.seconds_left < 1


def test_a_worker_that_dies_is_asked_for_what_is_left_and_a_case_gets_a_second_chance(run, worker, cases):
    worker.tells(cases[0], "done")
    worker.tells(cases[1], "running")
    worker.on_failed("WorkerDied", "It ended.")
    assert worker.outputs == ["b.nii.gz", "c.nii.gz"]
    worker.tells(cases[1], "done")
    worker.tells(cases[2], "running")
    worker.on_failed("WorkerDied", "It ended.")
    assert worker.outputs == ["c.nii.gz"]
    assert run.ends == []


def test_after_the_second_death_the_case_has_failed_and_the_rest_goes_on(run, worker, cases):
    for _ in range(2):
        worker.tells(cases[0], "running")
        worker.on_failed("WorkerDied", "It said: segmentation fault.")
    assert states(run) == ["failed", "waiting", "waiting"]
    assert worker.outputs == ["b.nii.gz", "c.nii.gz"]
    record = json.loads(cases[0].record.read_text(encoding="utf-8"))
    assert record["batch"]["message"] == run.statuses[0].message
    assert run.statuses[0].message.startswith("The worker process died twice with this case. It said")
    with (cases[0].output.parent / "batch.csv").open(encoding="utf-8-sig") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["failed", "waiting", "waiting"]


def test_when_the_last_case_kills_the_worker_twice_the_batch_is_over(run, worker, cases):
    for case in cases[:2]:
        worker.tells(case, "done")
    for _ in range(2):
        worker.tells(cases[2], "running")
        worker.on_failed("WorkerDied", "It ended.")
    assert (states(run), run.ends) == (["done", "done", "failed"], [("", "")])
    assert len(worker.asked) == 2


def test_a_worker_that_dies_before_the_first_case_twice_ends_the_batch(run, worker):
    worker.on_failed("WorkerDied", "It could not start.")
    assert (len(worker.asked), run.ends) == (2, [])
    worker.on_failed("WorkerDied", "It could not start.")
    assert run.ends == [("WorkerDied", "It could not start.")]


@pytest.mark.parametrize("kind", ["Cancelled", "InputError"])
def test_what_fails_the_whole_batch_ends_it_and_the_running_case_waits_again(run, worker, cases, kind):
    worker.tells(cases[0], "running")
    worker.on_failed(kind, "Because.")
    assert (states(run), run.ends) == (["waiting"] * 3, [(kind, "Because.")])


def test_other_words_of_progress_are_passed_over(run, worker):
    worker.on_progress(0, 1, "starting")
    worker.on_progress(0, 1, '{"image": "x", "output": "y", "status": "done"}')
    worker.on_progress(0, 1, "3")
    assert states(run) == ["waiting"] * 3
