"""Training on a site's own data, from its files to weights and what they are worth."""

import json
import math
from dataclasses import replace

import pytest
import torch

from InContextSegLib.cli.main import main
from InContextSegLib.errors import Cancelled, InputError
from InContextSegLib.models.sricl import SRICL
from InContextSegLib.models.universeg import UniverSeg
from InContextSegLib.models.weights import load_weights
from InContextSegLib.progress import Report
from InContextSegLib.training.averaged import Settings
from InContextSegLib.training.site import store
from InContextSegLib.training.site import train as site_module
from InContextSegLib.training.site.train import SiteTraining, Start, Where, suited, train_on_site
from Testing.Library.site_data import set_of, site_of, volume

CPU = torch.device("cpu")


def small():
    torch.manual_seed(0)
    return Start(SRICL(widths=(8, 8, 16, 16), decoder_width=16, channels=16, attention_width=16))


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


def test_after_a_beginning_that_came_to_nothing_the_folder_takes_what_was_mended(site, tmp_path):
    lost = replace(site, datasets=(replace(site.datasets[0], images=str(tmp_path / "mistyped")),))
    with pytest.raises(InputError, match="no usable case"):
        train_on_site(lost, replace(settings(), size=64), where(tmp_path), small(), CPU, Report())
    assert train_on_site(site, settings(), where(tmp_path), small(), CPU, Report())["steps"] == 4


@pytest.mark.parametrize("weak", ["box", "points", "contour", "scribble"])
def test_references_may_be_drawn_hastily(site, tmp_path, weak):
    record = train_on_site(site, replace(settings(steps=1), weak=weak), where(tmp_path), small(), CPU, Report())
    assert record["steps"] == 1


def tuned(**others):
    torch.manual_seed(0)
    return Start(UniverSeg((8, 8, 8)), "default", "0" * 64, "Apache-2.0", **others)


def test_an_in_context_network_is_trained_further_by_the_same_loop(site, tmp_path):
    start = tuned()
    before = {name: value.clone() for name, value in start.network.state_dict().items()}
    record = train_on_site(site, replace(settings(), model="default"), where(tmp_path), start, CPU, Report())
    state = load_weights(tmp_path / "run" / "weights.safetensors", record["weights_sha256"])
    assert any(not torch.equal(value, before[name]) for name, value in state.items())
    assert record["began_from"] == {"entry": "default", "weights_sha256": "0" * 64, "licence": "Apache-2.0"}
    assert record["settings"]["training"]["loss"] == "dice-cross-entropy"


def test_nonsense_is_refused_by_name():
    with pytest.raises(InputError, match="queries: asked for 1 to 1000, got 0"):
        SiteTraining(queries=0)
    with pytest.raises(InputError, match="queries: asked for 1 to 1000, got 100000"):
        SiteTraining(queries=100_000)
    with pytest.raises(InputError, match="weak: asked for one of full, box"):
        SiteTraining(weak="circle")
    for size in (-5, 0):
        with pytest.raises(InputError, match="size: asked for slices of at least 16 pixels"):
            SiteTraining(size=size)


@pytest.mark.parametrize(
    ("changes", "start", "why"),
    [
        ({"training": Settings(loss="dice")}, small, "The loss 'dice' does not fit the network SRICL"),
        (
            {"model": "default", "training": Settings(loss="sricl")},
            tuned,
            "The loss 'sricl' does not fit the network",
        ),
        ({"model": "default", "weak": "box"}, tuned, "only an SR-ICL network learns from references drawn as box"),
        ({"size": 100}, small, "size: An SR-ICL network takes images whose sides are multiples of 32"),
        (
            {"model": "default", "size": 30},
            tuned,
            "size: A UniverSeg of depth 3 takes images whose sides are multiples",
        ),
    ],
)
def test_what_does_not_suit_the_network_is_refused_before_anything_is_read(site, tmp_path, changes, start, why):
    with pytest.raises(InputError, match=why):
        train_on_site(site, replace(settings(), **changes), where(tmp_path), start(), CPU, Report())
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_trained_further_at_another_size_than_its_own_is_said(caplog):
    suited(replace(settings(), model="default"), tuned(size=64))
    assert "made for pictures of 64 pixels, and is trained further at 32; size=64 keeps them" in caplog.text


def test_another_network_than_the_settings_name_is_a_bug_of_the_caller(site, tmp_path):
    with pytest.raises(ValueError, match="model: the settings name sricl, but default came"):
        train_on_site(site, settings(), where(tmp_path), tuned(), CPU, Report())


def test_a_run_does_not_go_on_from_other_weights_or_at_another_size(site, tmp_path):
    chosen = replace(settings(), model="default")
    train_on_site(site, chosen, where(tmp_path), tuned(), CPU, Report())
    other = replace(tuned(), weights_sha256="1" * 64)
    with pytest.raises(InputError, match=r"holds a run that began with another model: .*choose another folder"):
        train_on_site(site, chosen, where(tmp_path), other, CPU, Report())
    with pytest.raises(InputError, match="holds a run that began with another size: "):
        train_on_site(site, replace(chosen, size=64), where(tmp_path), tuned(), CPU, Report())


def test_a_finished_run_is_not_judged_again_unless_its_weights_changed(site, tmp_path, monkeypatch):
    record = train_on_site(site, settings(), where(tmp_path), small(), CPU, Report())
    judged = site_module.judged
    monkeypatch.setattr(site_module, "judged", lambda *_: pytest.fail("judged again"))
    assert train_on_site(site, settings(), where(tmp_path), small(), CPU, Report()) == json.loads(json.dumps(record))
    monkeypatch.setattr(site_module, "judged", judged)
    longer = train_on_site(site, settings(steps=6), where(tmp_path), small(), CPU, Report())
    assert longer["steps"] == 6
    (tmp_path / "run" / "weights.safetensors").write_bytes(b"else")
    again = train_on_site(site, settings(steps=6), where(tmp_path), small(), CPU, Report())
    assert again["weights_sha256"] == longer["weights_sha256"]


def test_numbers_alone_are_noted_of_the_patients(site, tmp_path):
    record = train_on_site(site, settings(), where(tmp_path), small(), CPU, Report())
    assert record["patients"] == {"train": 3, "validation": 1}
    assert record["tasks"]["a/organ"] == {
        "train": {"patients": 3, "cases": 3, "slices": 18},
        "validation": {"patients": 1, "cases": 1, "slices": 6},
    }
    assert record["data_sets"] == {"a": {"axis": "axial", "window": "percentiles", "cases": 4}}
    assert (tmp_path / "run" / "curves.png").stat().st_size > 10_000


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
    words += ["--support", str(tmp_path / "a/images"), str(tmp_path / "a/labels"), "--no-calibration"]
    words += ["--weights", str(tmp_path / "run/weights.safetensors"), "--output", str(tmp_path / "found.nii.gz")]
    assert main(words) == 0
    assert (tmp_path / "found.nii.gz").exists()
    assert main(["train-site", str(tmp_path / "site.toml"), "--output", str(tmp_path / "x"), "--set", "steps=1"]) == 2
