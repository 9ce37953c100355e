"""What a worker answers about training: what was found, a run with its log, and how it goes on."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from InContextSegLib.config import to_mapping
from InContextSegLib.errors import Cancelled, InputError
from InContextSegLib.models.sricl import SRICL
from InContextSegLib.progress import Report
from InContextSegLib.training.site import store
from InContextSegLib.training.site import train as site_module
from InContextSegLib.worker import site_answers
from InContextSegLib.worker.answers import ANSWERS
from InContextSegLib.worker.cache import WorkerCache
from InContextSegLib.worker.client import WorkerClient
from InContextSegLib.worker.shared_arrays import SharedFolder
from InContextSegLib.worker.site_requests import LookAtSite, TrainingStatus, TrainOnSite
from InContextSegLib.worker.transport import SubprocessTransport
from Testing.Library.site_data import set_of, site_of, volume

ROOT = Path(__file__).resolve().parents[3]
TRAINING = {"steps": 4, "validate_every": 2, "checkpoint_every": 2, "warmup_steps": 1, "learning_rate": 1e-3}
SETTINGS = {"size": 32, "references": 3, "queries": 2, "validated": 3, "draws": 2, "training": TRAINING}


@pytest.fixture
def site(tmp_path):
    for number in range(4):
        volume(tmp_path / "a", f"patient{number}", seed=number)
    return site_of(tmp_path, set_of("a", {1: "organ", 2: "spot"}), validation_share=0.25)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    def small():
        return SRICL(widths=(8, 8, 16, 16), decoder_width=16, channels=16, attention_width=16)

    monkeypatch.setattr(site_module, "SRICL", small)
    monkeypatch.setattr(store, "cache_folder", lambda: tmp_path / "cache")
    return WorkerCache(SharedFolder.make(tmp_path), ANSWERS)


def request(site, run, **settings):
    return TrainOnSite(site, str(run), SETTINGS | settings, "cpu")


def test_what_there_is_to_train_on_is_told_task_by_task_with_what_is_wrong(site, cache, tmp_path):
    (tmp_path / "a/labels/patient2.nii.gz").unlink()
    answer = cache.answer(LookAtSite(site), Report())
    assert answer["usable"] and "cases" not in answer
    assert [task["name"] for task in answer["tasks"]] == ["a/organ", "a/spot"]
    assert [answer["tasks"][0][side]["patients"] for side in ("train", "validation")] == [2, 1]
    assert answer["sets"][0]["between_mm"] == [3.0, 3.0]
    (problem,) = answer["problems"]
    assert problem["left_out"] and "patient2.nii.gz has no partner" in problem["sentence"]


def test_files_are_looked_through_again_only_where_they_changed(site, cache, tmp_path, monkeypatch):
    looked = []
    real = site_answers.survey
    monkeypatch.setattr(site_answers, "survey", lambda *what: looked.append(1) or real(*what))
    cache.answer(LookAtSite(site), Report())
    cache.answer(request(site, tmp_path / "run"), Report())
    assert len(looked) == 1
    volume(tmp_path / "a", "patient9", seed=9)
    assert cache.answer(LookAtSite(site), Report())["sets"][0]["usable"] == 5
    assert len(looked) == 2


def test_a_run_tells_every_line_of_its_log_and_leaves_a_picture_of_examples(site, cache, tmp_path):
    told = []
    answer = cache.answer(
        request(site, tmp_path / "run"), Report(lambda done, total, message: told.append((done, total, message)))
    )
    lines = [TrainingStatus.of(message).line for _done, _total, message in told]
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line for line in lines if line] == log and [line["step"] for line in log] == [1, 2, 3, 4]
    assert all("validation" in line for line in log[1::2]) and "seconds" in log[0]
    assert [(done, total) for (done, total, _), line in zip(told, lines, strict=True) if line][-1] == (4, 4)
    assert any("patient1.nii.gz" in TrainingStatus.of(message).status for _done, _total, message in told)
    with Image.open(tmp_path / "run/examples.png") as picture:
        assert picture.size[0] > 100
    assert answer["dice"].keys() == {"a/organ", "a/spot"} and Path(answer["weights"]).is_file()


def test_a_run_that_is_cancelled_goes_on_to_the_same_weights(site, cache, tmp_path):
    whole = cache.answer(request(site, tmp_path / "whole"), Report())

    def stop(done, total, message):
        if (TrainingStatus.of(message).line or {}).get("step") == 3:
            report.cancel()

    report = Report(stop)
    with pytest.raises(Cancelled):
        cache.answer(request(site, tmp_path / "parts"), report)
    assert torch.load(tmp_path / "parts/checkpoint.pt", weights_only=True)["step"] in (3, 4)
    parts = cache.answer(request(site, tmp_path / "parts"), Report())
    assert parts["weights_sha256"] == whole["weights_sha256"] and parts["dice"] == whole["dice"]


def test_a_step_of_many_tasks_stops_between_two_of_them_and_nothing_is_lost(site, cache, tmp_path, monkeypatch):
    whole = cache.answer(request(site, tmp_path / "whole"), Report())
    report, drawn, real = Report(), [], site_module.SiteTask.batch

    def batch(task, generator):
        drawn.append(task.name)
        if len(drawn) == 5:
            report.cancel()  # in the third step of two tasks, after its first
        return real(task, generator)

    monkeypatch.setattr(site_module.SiteTask, "batch", batch)
    with pytest.raises(Cancelled):
        cache.answer(request(site, tmp_path / "parts"), report)
    assert len(drawn) == 5
    assert torch.load(tmp_path / "parts/checkpoint.pt", weights_only=True)["step"] == 2
    again = cache.answer(request(site, tmp_path / "parts"), Report())
    assert again["weights_sha256"] == whole["weights_sha256"]


def test_a_folder_with_another_run_and_settings_without_sense_are_refused_in_a_sentence(site, cache, tmp_path):
    cache.answer(request(site, tmp_path / "run"), Report())
    with pytest.raises(InputError, match="holds a run that began with another size"):
        cache.answer(request(site, tmp_path / "run", size=64), Report())
    with pytest.raises(InputError, match="holds a run on other data sets"):
        cache.answer(request(replace(site, seed=3), tmp_path / "run"), Report())
    with pytest.raises(InputError, match="settings: queries: asked for 1 to 1000, got 0"):
        cache.answer(request(site, tmp_path / "run", queries=0), Report())
    with pytest.raises(InputError, match="Progress of a training was expected, but 'loss"):
        TrainingStatus.of("loss 0.1")


def test_a_data_set_without_a_label_to_learn_is_refused_before_anything_is_cut(site, cache, tmp_path):
    names = replace(site, datasets=(replace(site.datasets[0], names={"7": "nothing"}),))
    assert not cache.answer(LookAtSite(names), Report())["usable"]
    with pytest.raises(InputError, match="no usable case to learn a/nothing from"):
        cache.answer(request(names, tmp_path / "run"), Report())
    assert not (tmp_path / "cache").exists()


def test_a_worker_trains_with_the_packages_that_slicer_has():
    """A picture or a table drawn with another package would end every training there."""
    absent = ("matplotlib", "tqdm", "nibabel", "skimage", "pandas", "torchvision")
    script = f"import sys; sys.modules.update(dict.fromkeys({absent})); import InContextSegLib.worker.site_answers"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_run_of_the_worker_is_resumed_on_the_command_line(site, tmp_path, monkeypatch):
    monkeypatch.setenv("INCONTEXTSEG_CACHE", str(tmp_path / "cache"))
    client, run = WorkerClient(SubprocessTransport, tmp_path), tmp_path / "run"
    wanted = SETTINGS | {"training": TRAINING | {"steps": 6}, "references": 2, "queries": 1}

    def stop(_done, _total, message):
        if message.startswith("{") and (TrainingStatus.of(message).line or {}).get("step"):
            client.cancel(number, grace_s=300.0)

    number = client.ask("train", to_mapping(TrainOnSite(site, str(run), wanted, "cpu")), on_progress=stop)
    assert client.wait(number, 300)["is"] == "cancelled"
    client.close()
    assert (run / "checkpoint.pt").exists() and not (run / "training.json").exists()
    words = [sys.executable, "-m", "InContextSegLib", "train-site", str(run / "site.toml"), "--output", str(run)]
    done = subprocess.run([*words, "--device", "cpu"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((run / "training.json").read_text(encoding="utf-8"))
    assert record["steps"] == 6 and record["settings"]["size"] == 32
