"""Training on a site's own data, from its files to weights and what they are worth."""

import json
import math
from dataclasses import replace

import pytest
import torch

from InContextSegLib.cli import main
from InContextSegLib.errors import Cancelled, InputError
from InContextSegLib.models.sricl import SRICL
from InContextSegLib.models.universeg import UniverSeg
from InContextSegLib.models.weights import load_weights
from InContextSegLib.progress import Report
from InContextSegLib.training import store
from InContextSegLib.training.averaged import Settings
from InContextSegLib.training.site import SiteTraining, Where, train_on_site
from Testing.Library.site_data import set_of, site_of, volume

CPU = torch.device("cpu")


def small():
    torch.manual_seed(0)
    return SRICL(widths=(8, 8, 16, 16), decoder_width=16, channels=16, attention_width=16)


def settings(**changes):
    few = Settings(steps=4, validate_every=2, checkpoint_every=2, warmup_steps=1, learning_rate=1e-3)
    return SiteTraining(size=32, references=3, queries=2, validated=3, draws=2, training=replace(few, **changes))


@pytest.fixture
def site(tmp_path):
    for number in range(4):
        volume(tmp_path / "a", f"patient{number}", seed=number)
    return site_of(tmp_path, set_of("a", {1: "organ", 2: "spot"}), validation_share=0.25)


def where(tmp_path, name="run"):
    return Where(tmp_path / name, tmp_path / "store")


def test_a_site_becomes_weights_with_a_record_of_what_they_are_worth(site, tmp_path):
    record = train_on_site(site, settings(), where(tmp_path), small(), CPU, Report())
    state = load_weights(tmp_path / "run" / "weights.safetensors", record["weights_sha256"])
    assert SRICL.fitting(state).load_state_dict(state)
    told = json.loads((tmp_path / "run" / "training.json").read_text(encoding="utf-8"))
    assert told["dice"].keys() == record["dice"].keys() and len(told["dice"]) >= 2
    for scores in record["dice"].values():
        assert math.isnan(scores["dice"]) or (0 <= scores["iou"] <= scores["dice"] <= 1 and len(scores["by_draw"]) == 2)
    assert told["settings"]["training"]["steps"] == told["steps"] == 4


def test_the_same_seed_gives_the_same_weights_and_a_cancelled_run_goes_on_to_them(site, tmp_path):
    whole = train_on_site(site, settings(), where(tmp_path, "whole"), small(), CPU, Report())
    report = Report(lambda done, total, message: report.cancel() if message.startswith("loss") and done == 2 else None)
    with pytest.raises(Cancelled):
        train_on_site(site, settings(), where(tmp_path, "parts"), small(), CPU, report)
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
    again = train_on_site(site, settings(), where(tmp_path, "parts"), small(), CPU, Report())
    assert again["weights_sha256"] == whole["weights_sha256"] and again["dice"] == whole["dice"]


@pytest.mark.parametrize("weak", ["box", "points", "contour", "scribble"])
def test_references_may_be_drawn_hastily(site, tmp_path, weak):
    record = train_on_site(site, replace(settings(steps=1), weak=weak), where(tmp_path), small(), CPU, Report())
    assert record["steps"] == 1


def test_an_in_context_network_is_trained_further_by_the_same_loop(site, tmp_path):
    torch.manual_seed(0)
    network = UniverSeg((8, 8, 8))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    chosen = replace(settings(loss="dice-cross-entropy"), model="default")
    record = train_on_site(site, chosen, where(tmp_path), network, CPU, Report())
    state = load_weights(tmp_path / "run" / "weights.safetensors", record["weights_sha256"])
    assert any(not torch.equal(value, before[name]) for name, value in state.items())


def test_nonsense_is_refused_by_name():
    with pytest.raises(InputError, match="queries: asked for at least 1, got 0"):
        SiteTraining(queries=0)
    with pytest.raises(InputError, match="weak: asked for one of full, box"):
        SiteTraining(weak="circle")
    with pytest.raises(InputError, match="only the model sricl learns from references drawn as box"):
        SiteTraining(model="default", weak="box")


@pytest.mark.slow
def test_the_command_trains_and_its_weights_segment(site, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(store, "cache_folder", lambda: tmp_path / "cache")
    words = ["train-site", str(tmp_path / "site.toml"), "--output", str(tmp_path / "run"), "--device", "cpu"]
    for each in ("model=default", "size=32", "references=2", "queries=1", "validated=2", "draws=1"):
        words += ["--set", each]
    words += ["--set", "training.loss=dice-cross-entropy", "--set", "training.steps=1"]
    assert main(words) == 0
    assert "| a/organ | 0." in capsys.readouterr().out
    words = ["segment", "--image", str(tmp_path / "a/images/patient3.nii.gz"), "--device", "cpu"]
    words += ["--support", str(tmp_path / "a/images"), str(tmp_path / "a/labels"), "--no-rehearsal"]
    words += ["--weights", str(tmp_path / "run/weights.safetensors"), "--output", str(tmp_path / "found.nii.gz")]
    assert main(words) == 0
    assert (tmp_path / "found.nii.gz").exists()
    assert main(["train-site", str(tmp_path / "site.toml"), "--output", str(tmp_path / "x"), "--set", "steps=1"]) == 2
