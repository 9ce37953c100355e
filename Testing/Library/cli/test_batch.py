"""A batch from the words of the command line to the files, with the real network in a real worker process."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from InContextSegLib.cli import batch as batchcommand
from InContextSegLib.cli.arguments import parser
from InContextSegLib.cli.main import main
from InContextSegLib.errors import Cancelled, InputError, OutputError, WeightsError
from InContextSegLib.examples.support import Label
from InContextSegLib.inference.settings import AGREEING, InferenceSettings
from InContextSegLib.jobs import segment as jobs
from InContextSegLib.jobs.cases import Case
from InContextSegLib.jobs.segment import SegmentJob, Source
from InContextSegLib.models.loading import Model
from InContextSegLib.progress import Report
from InContextSegLib.volumes.files import read_segments, read_volume, write_volume
from InContextSegLib.volumes.geometry import Kind, Volume
from InContextSegLib.volumes.overlap import dice
from InContextSegLib.volumes.segnrrd import Segment
from InContextSegLib.worker import answers
from InContextSegLib.worker import cache as cache_module
from InContextSegLib.worker.answers import ANSWERS
from InContextSegLib.worker.batch_run import BatchRun
from InContextSegLib.worker.cache import WorkerCache
from InContextSegLib.worker.client import WorkerClient
from InContextSegLib.worker.protocol import ArrayRef, Batch, CaseRef, ExampleRef, FileRef, Look, TaskSpec
from InContextSegLib.worker.shared_arrays import SharedFolder
from InContextSegLib.worker.transport import SubprocessTransport
from Testing.Library.fake_segmenter import Threshold, grid, saved, scan, use

ROOT = Path(__file__).resolve().parents[3]
SMALL = "universeg"  # the model that is quick; which one it is makes no difference here
QUICK = ("--supports", "2", "--draws", "1", "--no-calibration", "--device", "cpu", "--json", "--quiet")
QUICK += ("--model", SMALL)


@pytest.fixture
def folder(tmp_path):
    """Two labelled cases ("images", "labels") and three targets ("scans"), one oblique and left-handed."""
    for name in ("images", "labels", "scans"):
        (tmp_path / name).mkdir()
    for number in range(2):
        image, labels = saved(tmp_path / "images", f"case{number}", *scan(number))
        labels.rename(tmp_path / "labels" / f"case{number}.nii.gz")
        assert image.exists()
    for number, geometry in enumerate((grid(), grid(turned=True, left_handed=True), grid(spacing_mm=(1, 1, 3)))):
        write_volume(tmp_path / "scans" / f"scan{number}.nii.gz", scan(number + 2, geometry=geometry)[0])
    return tmp_path


def words(folder, *more):
    where = ("--images", folder / "scans", "--support", folder / "images", folder / "labels")
    return [str(word) for word in ("batch", *where, "--output-dir", folder / "out", *QUICK, *more)]


def said(capsys):
    return json.loads(capsys.readouterr().out)


def masks(folder, ending=".nii.gz"):
    return [read_volume(folder / "out" / f"scan{number}{ending}", Kind.LABELS) for number in range(3)]


def task_of(folder, image=None, **others):
    examples = tuple(
        ExampleRef(
            image or FileRef(str(folder / "images" / name), Kind.INTENSITY),
            FileRef(str(folder / "labels" / name), Kind.LABELS),
            name,
        )
        for name in ("case0.nii.gz", "case1.nii.gz")
    )
    settings = InferenceSettings(supports=2, draws=1)
    return TaskSpec(
        **(
            {"examples": examples, "labels": ((1, "cube"),), "settings": settings, "device": "cpu", "model": SMALL}
            | others
        )
    )


# In one process, with a network whose answers one can see


@pytest.fixture
def cache(tmp_path, monkeypatch):
    use(monkeypatch, Threshold())
    shared = SharedFolder.make(tmp_path)
    yield WorkerCache(shared, ANSWERS)
    shared.remove()


def request_in(folder, task=None, ending=".seg.nrrd", **others):
    cases = tuple(
        CaseRef(str(path), str(folder / "out" / path.name.replace(".nii.gz", ending)))
        for path in sorted((folder / "scans").iterdir())
    )
    return Batch(task or task_of(folder), cases, **others)


def states(answer):
    return [case["status"] for case in answer["cases"]]


def test_every_scan_gets_its_label_map_where_it_lies_in_the_looks_asked_for(folder, cache):
    looks = (Look(1, (0.25, 0.5, 0.75), "Key:value|"),)
    news = []
    report = Report(lambda done, total, message: news.append((total, json.loads(message)["status"])))
    answer = cache.answer(request_in(folder, looks=looks), report)
    assert states(answer) == ["done"] * 3
    assert [status for total, status in news if total == 0] == ["running", "done"] * 3
    assert any(total > 1 and status == "running" for total, status in news)
    for number, mask in enumerate(masks(folder, ".seg.nrrd")):
        image = read_volume(folder / "scans" / f"scan{number}.nii.gz")
        assert mask.geometry.matches(image.geometry, 1e-4)
        # The third is coarse in the plane of its slices.
        assert (mask.array == (image.array > 150)).mean() > (0.95 if number < 2 else 0.85)
        (segment,) = read_segments(folder / "out" / f"scan{number}.seg.nrrd")
        assert segment == Segment(1, "cube", (0.25, 0.5, 0.75), "Key:value|")
    record = json.loads((folder / "out" / "scan0.json").read_text(encoding="utf-8"))
    assert record["provenance"]["support"]["axial"]["fingerprint"]
    assert record["provenance"]["model"]["weights_sha256"]
    assert record["provenance"]["incontextseg"]


def test_the_examples_are_conditioned_once_for_all_scans_cut_alike(folder, cache, monkeypatch):
    opened = []
    monkeypatch.setattr(
        cache_module, "open_session", lambda *every, real=cache_module.open_session: opened.append(1) or real(*every)
    )
    cache.answer(request_in(folder), Report())
    assert len(opened) == 2, "the third scan is sliced along another axis"


def test_examples_count_by_what_is_in_them(folder, cache):
    assert states(cache.answer(request_in(folder), Report())) == ["done"] * 3
    assert states(cache.answer(request_in(folder), Report())) == ["skipped"] * 3
    image, labels = (folder / name / "case1.nii.gz" for name in ("images", "labels"))
    changed = read_volume(labels, Kind.LABELS)
    write_volume(labels, Volume(np.where(changed.array, 2, 0).astype(np.uint8), changed.geometry, Kind.LABELS))
    assert states(cache.answer(request_in(folder), Report())) == ["failed"] * 3
    assert states(cache.answer(request_in(folder, overwrite=True), Report())) == ["done"] * 3
    assert image.exists()


def test_examples_handed_over_as_arrays_are_known_again_under_other_names(folder, cache):
    def task():
        image = read_volume(folder / "images" / "case0.nii.gz")
        return task_of(folder, ArrayRef.of(cache.shared.write(image.array), image.geometry))

    assert states(cache.answer(request_in(folder, task()), Report())) == ["done"] * 3
    assert states(cache.answer(request_in(folder, task()), Report())) == ["skipped"] * 3


def test_an_example_is_never_written_to(folder, cache):
    request = Batch(
        task_of(folder), (CaseRef(str(folder / "scans/scan0.nii.gz"), str(folder / "labels/case0.nii.gz")),)
    )
    with pytest.raises(InputError, match=r"The output .*case0\.nii\.gz is also an input"):
        cache.answer(request, Report())


def test_want_of_memory_fails_one_case(folder, cache, monkeypatch):
    def starved(self, *every, real=answers.Session.segment, **named):
        if len(every[0].array) != 6:
            raise RuntimeError("CUDA out of memory. Tried to allocate a page of words")
        return real(self, *every, **named)

    write_volume(folder / "scans" / "scan1.nii.gz", scan(5, geometry=grid((8, 24, 24)))[0])
    monkeypatch.setattr(answers.Session, "segment", starved)
    answer = cache.answer(request_in(folder), Report())
    assert states(answer) == ["done", "failed", "done"]
    assert answer["cases"][1]["message"].startswith("There is not enough memory for this: choose fewer")


def test_another_error_inside_the_network_is_not_taken_for_that(folder, cache, monkeypatch):
    monkeypatch.setattr(answers.Session, "segment", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("shapes")))
    answer = cache.answer(request_in(folder), Report())
    assert answer["cases"][0]["message"] == "unexpected error (RuntimeError: shapes)"


def test_weights_that_are_missing_end_the_batch(folder, cache, monkeypatch):
    def missing(*_):
        raise WeightsError("The weights are gone.")

    monkeypatch.setattr(cache_module, "open_session", missing)
    with pytest.raises(WeightsError, match="The weights are gone"):
        cache.answer(request_in(folder), Report())


def test_a_segmentation_cropped_by_slicer_is_an_example(folder, cache):
    for number in range(2):
        labels = read_volume(folder / "labels" / f"case{number}.nii.gz", Kind.LABELS)
        low = [int(found.min()) for found in np.nonzero(labels.array)]
        high = [int(found.max()) + 1 for found in np.nonzero(labels.array)]
        affine = labels.geometry.affine.copy()
        affine[:3, 3] = labels.geometry.to_world(low)
        part = labels.array[tuple(map(slice, low, high))]
        cropped = Volume(part, type(labels.geometry)(part.shape, affine), Kind.LABELS)
        write_volume(folder / "labels" / f"case{number}.seg.nrrd", cropped)
    examples = tuple(
        ExampleRef(each.image, FileRef(each.labels.path.replace(".nii.gz", ".seg.nrrd"), Kind.LABELS), each.source)
        for each in task_of(folder).examples
    )
    assert states(cache.answer(request_in(folder, task_of(folder, examples=examples)), Report())) == ["done"] * 3


# With a worker process and the real network


def test_the_command_segments_a_folder_and_goes_on_where_it_was_stopped(folder, capsys):
    assert main(words(folder)) == 0
    told = said(capsys)
    assert (told["done"], told["skipped"], told["failed"]) == (3, 0, 0)
    for number, mask in enumerate(masks(folder)):
        geometry = read_volume(folder / "scans" / f"scan{number}.nii.gz").geometry
        assert mask.geometry.matches(geometry, 1e-4)
    write_volume(folder / "scans" / "scan3.nii.gz", scan(9)[0])
    assert main(words(folder)) == 0
    assert (told := said(capsys))["skipped"] == 3
    assert told["done"] == 1


def test_the_command_gives_what_segment_gives_voxel_for_voxel(folder, capsys):
    assert main(words(folder)) == 0
    said(capsys)
    for number, mask in enumerate(masks(folder)):
        job = SegmentJob(
            image=folder / "scans" / f"scan{number}.nii.gz",
            sources=(Source(folder / "images", folder / "labels"),),
            output=folder / f"alone{number}.nii.gz",
            settings=InferenceSettings(supports=2, draws=1, **AGREEING),
            model=Model(SMALL),
            device="cpu",
        )
        jobs.run(job, Report())
        np.testing.assert_array_equal(read_volume(job.output, Kind.LABELS).array, mask.array)


def test_a_damaged_scan_is_told_and_the_exit_code_says_that_something_is_missing(folder, capsys):
    (folder / "scans" / "scan1.nii.gz").write_bytes(b"no scan")
    text = [word for word in words(folder) if word != "--json"]
    assert main(text) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{folder / 'scans' / 'scan1.nii.gz'} is not a NIfTI image, although its name says so."
    assert lines[1] == "2 done, 0 were done before, 1 failed."
    assert lines[2] == f"table: {folder / 'out' / 'batch.csv'}"


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--support-slices", "2,3"), "Slice indices can be named for a single volume only, but 2 volumes came"),
        (("--labels", "7"), "Label 7 .* is in none of the examples"),
        (("--device", "cuda:77"), "torch finds 0 CUDA GPUs here|torch finds"),
    ],
)
def test_what_cannot_be_done_for_any_scan_is_told(folder, capsys, more, sentence):
    assert main(words(folder, *more)) == 2
    captured = capsys.readouterr()
    assert re.search(sentence, captured.err + captured.out)


def test_examples_without_labels_are_refused(folder, capsys):
    for path in (folder / "labels").iterdir():
        empty = read_volume(path, Kind.LABELS)
        write_volume(path, Volume(np.zeros_like(empty.array), empty.geometry, Kind.LABELS))
    assert main(words(folder)) == 2
    assert "The label maps of the examples are empty" in capsys.readouterr().err


def test_names_of_segments_and_choices_of_the_command_reach_the_task(folder):
    for path in list((folder / "labels").iterdir()):
        labels = read_volume(path, Kind.LABELS)
        write_volume(path.with_name(path.name.replace(".nii.gz", ".seg.nrrd")), labels, [Segment(1, "cube")])
        path.unlink()
    options = parser().parse_args(
        words(folder, "--colour=0,1,0", "--window", "ct-soft", "--support-slices", "every:2", "--model", "default")
    )
    task = batchcommand.task_of(options, InferenceSettings())
    assert task.labels == ((1, "cube"),)
    assert (task.colour, task.window, task.device) == ((0.0, 1.0, 0.0), (-160, 240), "cpu")
    assert {example.slices for example in task.examples} == {2}
    assert TaskSpec.from_mapping(task.to_mapping()) == task


def test_cancelling_stops_the_worker_and_keeps_what_is_done(folder):
    report = Report()
    cases = [Case(path, folder / "out" / path.name) for path in sorted((folder / "scans").iterdir())]

    def show(done, total, message):
        if done == 1:
            report.cancel()

    report = Report(show)
    with pytest.raises(Cancelled):
        batchcommand.run_in_worker(task_of(folder), cases, report, overwrite=False)
    assert cases[0].output.exists()
    assert [path.name for path in (folder / "out").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("kind", "raised"), [("OutputError", OutputError), ("WeightsError", WeightsError), ("Bug", RuntimeError)]
)
def test_what_ends_the_whole_batch_is_raised(folder, monkeypatch, kind, raised):
    class Failing:
        def __init__(self, *_):
            self.failed = []

        def ask(self, do, payload, *, on_failed, **_):
            self.failed.append(on_failed)
            return 1

        def poll(self):
            self.failed.pop()(kind, "It ended.")

        def close(self):
            pass

    monkeypatch.setattr(batchcommand, "WorkerClient", Failing)
    cases = [Case(folder / "scans" / "scan0.nii.gz", folder / "out" / "scan0.nii.gz")]
    with pytest.raises(raised, match="It ended"):
        batchcommand.run_in_worker(task_of(folder), cases, Report(), overwrite=False)


class Noted(SubprocessTransport):
    """A worker whose process a test can end."""

    last = None

    def start(self):
        super().start()
        Noted.last = self


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_case_that_brings_the_worker_down_twice_has_failed_and_the_rest_is_done(folder):
    cases = [Case(path, folder / "out" / path.name) for path in sorted((folder / "scans").iterdir())]
    client = WorkerClient(Noted)
    ends, deaths = [], []

    def ask(do, payload, on_progress, on_done, on_failed):
        return client.ask(do, payload, on_progress=on_progress, on_done=on_done, on_failed=on_failed)

    def told(place):
        if place == 1 and run.statuses[1].status == "running" and Noted.last.pid not in deaths:
            deaths.append(Noted.last.pid)
            os.kill(Noted.last.pid, signal.SIGKILL)

    run = BatchRun(ask, {"task": task_of(folder).to_mapping()}, cases, told, lambda *end: ends.append(end))
    try:
        run.start()
        deadline = time.monotonic() + 120
        while not ends and time.monotonic() < deadline:
            client.poll()
            time.sleep(0.002)
    finally:
        client.close()
    assert ends == [("", "")]
    assert len(deaths) == 2
    assert [status.status for status in run.statuses] == ["done", "failed", "done"]
    assert not cases[1].output.exists()
    assert [path.name for path in (folder / "out").iterdir() if path.suffix == ".part"] == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_command_that_is_killed_leaves_whole_files_and_goes_on(folder, capsys):
    for number in range(3, 12):
        write_volume(folder / "scans" / f"scan{number}.nii.gz", scan(number)[0])
    process = subprocess.Popen([sys.executable, "-m", "InContextSegLib", *words(folder)], cwd=ROOT)
    table = folder / "out" / "batch.csv"
    deadline = time.monotonic() + 120
    while not table.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # The worker hears that nobody is there any more.
    time.sleep(1)
    for path in (folder / "out").glob("scan*.nii.gz"):
        read_volume(path, Kind.LABELS)
    assert main(words(folder)) == 0
    told = said(capsys)
    assert told["skipped"] >= 1
    assert told["done"] + told["skipped"] == 12


# Real scans


@pytest.mark.slow
def test_hippocampi_come_out_as_segment_gives_them_and_much_like_the_experts_drew_them(data_folder, tmp_path, capsys):
    data = data_folder / "msd_hippocampus"
    names = [path.name for path in sorted((data / "images").iterdir())]
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for name in names[:3]:
            (tmp_path / kind / name).write_bytes((data / kind / name).read_bytes())
    targets = [data / "images" / name for name in names[3:6]]
    where = ("--support", tmp_path / "images", tmp_path / "labels", "--labels", "1=anterior", "2=posterior")
    how = ("--supports", "8", "--draws", "1", "--no-calibration", "--device", "cpu", "--json", "--quiet")
    out = ("--output-dir", tmp_path / "out", "--format", ".seg.nrrd")
    assert main([str(word) for word in ("batch", "--images", *targets, *where, *out, *how)]) == 0
    assert said(capsys)["done"] == 3
    found = []
    for path in targets:
        mask = read_volume(tmp_path / "out" / path.name.replace(".nii.gz", ".seg.nrrd"), Kind.LABELS)
        truth = read_volume(data / "labels" / path.name, Kind.LABELS)
        assert mask.geometry.matches(truth.geometry, 1e-3)
        found += [dice(mask.array == value, truth.array == value) for value in (1, 2)]
    assert np.mean(found) > 0.6
    job = SegmentJob(
        image=targets[0],
        sources=(Source(tmp_path / "images", tmp_path / "labels"),),
        output=tmp_path / "alone.nii.gz",
        settings=InferenceSettings(supports=8, draws=1, **AGREEING),
        labels=(Label(1, "anterior"), Label(2, "posterior")),
        device="cpu",
    )
    jobs.run(job, Report())
    batch = read_volume(tmp_path / "out" / names[3].replace(".nii.gz", ".seg.nrrd"), Kind.LABELS)
    np.testing.assert_array_equal(read_volume(job.output, Kind.LABELS).array, batch.array)
