"""Many volumes: one bad case stops no other, a killed batch goes on, nothing of anybody else's is overwritten."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from InContextSegLib.errors import Cancelled, InputError
from InContextSegLib.jobs.batch import Result, Way, _found, run_batch
from InContextSegLib.jobs.cases import Case, cases_of, listed_in
from InContextSegLib.jobs.records import TABLE, fingerprint_of, note_failure, write_table
from InContextSegLib.progress import Report
from InContextSegLib.volumes.files import read_segments, read_volume, write_volume
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume
from InContextSegLib.volumes.segnrrd import Segment

REPOSITORY = Path(__file__).resolve().parents[3]
SEGMENTS = (Segment(1, "bright"),)
OBLIQUE = np.array([[0.0, -2, 0.5, 10], [1, 0, 0, 20], [0, 0.5, 2, 30], [0, 0, 0, 1]])


def bright(path, report):
    """What a network would do, in a moment: voxels above 50 are label 1."""
    volume = read_volume(path)
    report.step(0, 1, "looking")
    if "poison" in path.name:
        raise RuntimeError("the middle of the network\nand a page of more")
    mask = Volume((volume.array > 50).astype(np.uint8), volume.geometry, Kind.LABELS)
    millilitres = round(float(mask.array.sum()) / 1000, 3)
    amount = {"value": 1, "millilitres": millilitres, "expected_dice": 0.678, "verdict": "look at it", "why": []}
    return Result(mask, SEGMENTS, {"labels": {"bright": amount}, "provenance": {}})


def never(path, report):
    raise AssertionError(f"{path} was to be skipped")


def way(task="task", segment=bright, **others):
    return Way(task, segment, **others)


@pytest.fixture
def cases(tmp_path):
    """Three volumes in a folder, results in another."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, name in enumerate("abc"):
        array = np.random.default_rng(number).integers(0, 100, (3, 4, 5)).astype(np.int16)
        write_volume(folder / f"{name}.nrrd", Volume(array, Geometry(array.shape, OBLIQUE)))
    return cases_of(listed_in(folder), tmp_path / "out", ".seg.nrrd")


def settled(cases, how=None, report=None, **others):
    statuses = list(run_batch(cases, how or way(), report or Report(), **others))
    return [status.status for status in statuses if status.status != "running"]


def outcome(cases, how=None, **others):
    """The last status of every case."""
    return [each for each in run_batch(cases, how or way(), Report(), **others) if each.settled]


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def table(folder):
    with (folder / TABLE).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_every_case_is_segmented_where_it_lies_and_recorded(cases):
    statuses = [(status.case, status.status) for status in run_batch(cases, way(), Report())]
    assert statuses == [(case, status) for case in cases for status in ("running", "done")]
    for case in cases:
        image, mask = read_volume(case.image), read_volume(case.output, Kind.LABELS)
        assert mask.geometry.matches(image.geometry, 1e-6)
        np.testing.assert_array_equal(mask.array, image.array > 50)
        assert [segment.name for segment in read_segments(case.output)] == ["bright"]
        record = json.loads(case.record.read_text(encoding="utf-8"))
        assert record["batch"] == {
            "task": "task",
            "target": fingerprint_of(case.image),
            "status": "done",
            "output": fingerprint_of(case.output),
        }
        assert record["files"]["mask"]["sha256"] == record["batch"]["output"]
    folder = cases[0].output.parent
    assert left(folder) == sorted([TABLE, *(f"{name}.{end}" for name in "abc" for end in ("json", "seg.nrrd"))])


def test_the_table_holds_a_row_for_each_case(cases):
    outcome(cases)
    rows = table(cases[0].output.parent)
    assert [row["output"] for row in rows] == [case.output.name for case in cases]
    assert {row["status"] for row in rows} == {"done"}
    assert all(float(row["ml bright"]) > 0 for row in rows)
    assert {(row["verdict"], row["expected Dice bright"]) for row in rows} == {("look at it", "0.68")}


def test_a_row_says_which_labels_are_worst(cases):
    def judged(path, report):
        found = bright(path, report)
        amounts = {
            name: {"millilitres": 1.0, "expected_dice": 0.6, "verdict": verdict}
            for name, verdict in (("liver", "good"), ("spleen", "do not use"), ("left kidney", "do not use"))
        }
        return Result(found.mask, found.segments, {"labels": amounts | {"untold": {"millilitres": 1.0}}})

    outcome(cases, way(segment=judged))
    (row,) = {(row["verdict"], row.get("expected Dice untold", "")) for row in table(cases[0].output.parent)}
    assert row == ("do not use: spleen, left kidney", "")


@pytest.mark.parametrize(
    ("verdicts", "told"),
    [
        ({"liver": "good"}, "good"),
        ({"liver": "good", "spleen": None}, "good: liver"),
        ({"liver": "good", "spleen": "look at it"}, "look at it: spleen"),
        ({"liver": None}, ""),
    ],
)
def test_a_verdict_says_which_labels_it_is_about(verdicts, told):
    amounts = {name: {"millilitres": 0.0} | ({"verdict": each} if each else {}) for name, each in verdicts.items()}
    assert _found({"labels": amounts})["verdict"] == told


def test_the_table_is_complete_after_every_case(cases):
    folder = cases[0].output.parent
    for number, _ in enumerate(status for status in run_batch(cases, way(), Report()) if status.settled):
        states = [row["status"] for row in table(folder)]
        assert states == ["done"] * (number + 1) + ["waiting"] * (2 - number)


def test_the_table_keeps_the_rows_of_earlier_batches(cases):
    outcome(cases[:2])
    outcome(cases[2:])
    assert [row["status"] for row in table(cases[0].output.parent)] == ["done"] * 3


def test_what_is_done_is_skipped_with_what_is_known_of_it(cases):
    first = outcome(cases)
    again = outcome(cases, way(segment=never))
    assert [status.status for status in again] == ["skipped"] * 3
    for what in ("millilitres", "expected", "verdict"):
        assert [getattr(status, what) for status in again] == [getattr(status, what) for status in first]
    assert [row["status"] for row in table(cases[0].output.parent)] == ["done"] * 3


def test_a_bad_case_stops_no_other_and_is_tried_again(cases):
    cases[1].image.write_bytes(cases[1].image.read_bytes()[:200])
    statuses = outcome(cases)
    assert [status.status for status in statuses] == ["done", "failed", "done"]
    assert "b.nrrd is damaged, incomplete" in statuses[1].message
    assert not cases[1].output.exists()
    record = json.loads(cases[1].record.read_text(encoding="utf-8"))
    assert record["batch"]["status"] == "failed"
    assert record["batch"]["message"] == statuses[1].message
    write_volume(cases[1].image, read_volume(cases[0].image))
    assert settled(cases) == ["skipped", "done", "skipped"]


def test_a_missing_image_and_an_error_nobody_expected_are_told_in_one_sentence(cases):
    poison = Case(cases[0].image.with_name("poison.nrrd"), cases[0].output.with_name("poison.seg.nrrd"))
    write_volume(poison.image, read_volume(cases[0].image))
    missing = Case(Path("missing.nrrd"), cases[0].output.with_name("missing.seg.nrrd"))
    messages = [status.message for status in outcome((poison, missing))]
    assert messages == ["unexpected error (RuntimeError: the middle of the network)", "missing.nrrd does not exist."]


@pytest.mark.parametrize("change", ["task", "target"])
def test_a_result_of_another_task_or_image_is_replaced_only_if_allowed(cases, change):
    outcome(cases[:1])
    before = cases[0].output.read_bytes()
    how = way("other") if change == "task" else way()
    if change == "target":
        write_volume(cases[0].image, read_volume(cases[1].image))
    (status,) = outcome(cases[:1], how)
    assert "exists already from other examples, settings or another image" in status.message
    assert cases[0].output.read_bytes() == before
    assert settled(cases[:1], how, overwrite=True) == ["done"]
    assert settled(cases[:1], how, overwrite=True) == ["skipped"]


def test_a_file_that_no_batch_wrote_is_replaced_only_if_allowed(cases):
    cases[0].output.parent.mkdir()
    cases[0].output.write_text("mine")
    (status,) = outcome(cases[:1])
    assert status.message.endswith("a.seg.nrrd exists already; choose another folder or allow overwriting it.")
    assert (cases[0].output.read_text(), left(cases[0].output.parent)) == ("mine", ["a.seg.nrrd", TABLE])
    assert settled(cases[:1], overwrite=True) == ["done"]


def test_a_result_that_was_corrected_by_hand_is_never_replaced(cases):
    outcome(cases)
    corrected = read_volume(cases[0].output, Kind.LABELS)
    write_volume(cases[0].output, Volume(np.zeros_like(corrected.array), corrected.geometry, Kind.LABELS))
    before = cases[0].output.read_bytes()
    for overwrite in (False, True):
        statuses = outcome(cases, overwrite=overwrite)
        assert [status.status for status in statuses] == ["failed", "skipped", "skipped"]
        assert "was changed since the batch wrote it, perhaps corrected by hand" in statuses[0].message
    assert cases[0].output.read_bytes() == before


def test_a_file_in_the_place_of_the_record_is_left_alone(cases):
    cases[0].output.parent.mkdir()
    cases[0].record.write_text('{"EchoTime": 0.03}')
    (status,) = outcome(cases[:1], overwrite=True)
    assert "a.json exists already and is no record of a batch" in status.message
    assert cases[0].record.read_text() == '{"EchoTime": 0.03}'


def test_a_file_in_the_place_of_the_table_is_left_alone(cases):
    cases[0].output.parent.mkdir()
    (cases[0].output.parent / TABLE).write_text("image,name\na,b\n")
    with pytest.raises(InputError, match=r"batch\.csv exists already and is no table of a batch"):
        settled(cases)
    with pytest.raises(InputError, match="is no table of a batch"):
        write_table(cases[0].output.parent, [])


def test_an_output_that_is_an_input_is_refused_before_the_first_case(cases):
    case = Case(cases[0].image, cases[0].output.with_name("x.nrrd"))
    with pytest.raises(InputError, match=r"The output .*x\.nrrd is also an input"):
        settled([case], way(inputs=frozenset({case.output})))
    with pytest.raises(InputError, match=r"The output .*a\.nrrd is also an input"):
        settled([Case(case.image, case.image)])


def test_outputs_in_several_folders_are_refused(cases):
    with pytest.raises(InputError, match="need one folder, but 2 came"):
        settled([cases[0], Case(cases[1].image, cases[1].image.with_name("x.nii"))])


def test_cancelling_between_and_within_cases_leaves_what_is_done_and_nothing_else(cases):
    report = Report(lambda done, total, message: report.cancel() if message == "looking" else None)

    def slow(path, report):
        report.step(0, 2, "looking")
        report.step(1, 2, "never comes")

    with pytest.raises(Cancelled):
        settled(cases, way(segment=slow), report)
    assert left(cases[0].output.parent) == []
    between = Report()
    with pytest.raises(Cancelled):
        for status in run_batch(cases, way(), between):
            if status.status == "done":
                between.cancel()
    assert left(cases[0].output.parent) == ["a.json", "a.seg.nrrd", TABLE]
    assert settled(cases) == ["skipped", "done", "done"]


def test_a_result_that_the_format_cannot_hold_fails_its_case_alone(cases):
    sheared = Geometry((3, 4, 5), np.eye(4) + np.diag([0.3, 0, 0], 1))
    others = [Case(case.image, case.output.with_suffix(".nii")) for case in cases[:1]]
    mask = Volume(np.zeros((3, 4, 5), np.uint8), sheared, Kind.LABELS)
    (status,) = outcome(others, way(segment=lambda *_: Result(mask, (), {})))
    assert "sheared" in status.message
    assert not others[0].output.exists()


def test_a_failure_is_not_noted_beside_a_result(cases):
    outcome(cases)
    before = cases[0].record.read_bytes()
    note_failure(cases[0], "task", "no")
    assert cases[0].record.read_bytes() == before


def test_a_folder_of_files_and_a_series_in_it_have_one_fingerprint(cases):
    folder = cases[0].image.parent
    whole = fingerprint_of(folder)
    assert fingerprint_of(Path(f"{folder}#1.2.3")) == whole
    cases[0].image.unlink()
    assert fingerprint_of(folder) != whole


def test_an_image_that_cannot_be_read_is_told(cases):
    with pytest.raises(InputError, match=r"a\.nrrd/inside cannot be read \(Not a directory\)"):
        fingerprint_of(cases[0].image / "inside")


# Killed


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from Testing.Library.jobs import test_batch
from InContextSegLib.jobs.batch import run_batch
from InContextSegLib.jobs.cases import cases_of, listed_in
from InContextSegLib.progress import Report

def allowed(path, report):
    sys.stdin.readline()
    return test_batch.bright(path, report)

cases = cases_of(listed_in(Path(sys.argv[1])), Path(sys.argv[2]), ".seg.nrrd")
for status in run_batch(cases, test_batch.way(segment=allowed), Report()):
    print(status.status, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_batch_that_is_killed_at_any_moment_goes_on_where_it_stopped(cases, generator):
    images, out = cases[0].image.parent, cases[0].output.parent
    for number in range(20):
        write_volume(images / f"more{number}.nrrd", read_volume(cases[number % 3].image))
    cases = cases_of(listed_in(images), out, ".seg.nrrd")
    words = [sys.executable, "-c", KILLED, images, out, REPOSITORY]
    for _ in range(4):
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        process.stdin.write("go on\n" * 5)  # so that some are left, however long the kill takes to come
        process.stdin.flush()
        assert "done\n" in iter(process.stdout.readline, "")
        time.sleep(generator.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for name in left(out) if out.exists() else ():
            if not name.startswith(".") and name.endswith(".seg.nrrd"):
                read_volume(out / name, Kind.LABELS)  # each is whole
    statuses = [status.status for status in outcome(cases)]
    assert set(statuses) == {"skipped", "done"}
    for case in cases:
        np.testing.assert_array_equal(read_volume(case.output, Kind.LABELS).array, read_volume(case.image).array > 50)


@pytest.mark.parametrize("after", ["the record begun", "the output"])
def test_a_batch_killed_while_it_writes_may_write_again(cases, monkeypatch, after):
    from InContextSegLib.jobs import batch  # noqa: PLC0415

    killed = "write_volume" if after == "the record begun" else "sha256_of"
    with monkeypatch.context() as patch:
        patch.setattr(batch, killed, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            settled(cases)
    assert cases[0].output.exists() == (after == "the output")
    assert settled(cases) == ["done"] * 3
