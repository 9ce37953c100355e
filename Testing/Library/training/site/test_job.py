"""A training on a site's data becomes a model of one's own, with a card that names facts and nobody."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image

from InContextSegLib.cli.main import main
from InContextSegLib.errors import Cancelled, InputError
from InContextSegLib.models.catalog import find, list_entries
from InContextSegLib.models.loading import Model, load_model
from InContextSegLib.models.own import card_of
from InContextSegLib.models.sricl import SRICL
from InContextSegLib.models.weights import load_weights
from InContextSegLib.progress import Report
from InContextSegLib.training.averaged import Settings
from InContextSegLib.training.runfolder import LOCK
from InContextSegLib.training.site import job as sitejob
from InContextSegLib.training.site import store
from InContextSegLib.training.site import train as site_module
from InContextSegLib.training.site.card import card_of as written_card
from InContextSegLib.training.site.card import description_of
from InContextSegLib.training.site.job import SiteJob, keep_run, run_site, start_of
from InContextSegLib.training.site.train import SiteTraining, Where
from Testing.Library.site_data import set_of, site_of, volume

FEW = Settings(steps=2, validate_every=1, warmup_steps=1)
NARROW = {"widths": (8, 8, 16, 16), "decoder_width": 16, "channels": 16, "attention_width": 16}
PATIENTS = [f"smith{number}" for number in range(4)]


@pytest.fixture
def site(tmp_path):
    for number, name in enumerate(PATIENTS):
        volume(tmp_path / "a", name, seed=number)
    (tmp_path / "a" / "images" / "jones.nii.gz").write_bytes(b"damaged")
    (tmp_path / "a" / "labels" / "jones.nii.gz").write_bytes(b"damaged")
    return site_of(tmp_path, set_of("a", {1: "organ", 2: "spot"}, window=[0, 200]), validation_share=0.25)


@pytest.fixture
def job(site, tmp_path):
    settings = SiteTraining(size=32, references=2, queries=1, validated=2, draws=1, training=FEW)
    return SiteJob(site, settings, Where(tmp_path / "run", tmp_path / "store"), "ours", device="cpu")


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """New networks are small here."""

    class Narrow(SRICL):
        def __init__(self, **arguments):
            super().__init__(**(arguments or NARROW))

    monkeypatch.setattr(site_module, "SRICL", Narrow)


def test_a_finished_run_is_a_model_that_is_found(job, tmp_path, own_models):
    record = run_site(job, Report())
    entry = find("ours")
    assert record["model"] == {"name": "ours", "folder": str(own_models / "ours")}
    assert entry.weights.sha256 == record["weights_sha256"] and entry.arguments == NARROW
    assert (entry.model, entry.capability.input_size, entry.capability.support) == ("sricl", 32, "required")
    assert not entry.capability.any_view and not load_model(Model("ours"))[0].any_view
    assert entry.description.startswith(
        "SR-ICL trained on 'clinic': 2 tasks, 3 patients. Dice on 1 validation patient: "
    )
    assert entry.licence == "your own, unstated" and entry.capability.prompts == ()
    with Image.open(own_models / "ours" / "curves.png") as picture:
        assert picture.size == (880, 770)


def test_what_is_kept_with_a_model_names_no_patient_no_file_and_no_folder(job, tmp_path, own_models):
    record = run_site(job, Report())
    assert any("jones" in problem for problem in record["problems"])
    for path in (own_models / "ours").glob("*.*"):
        content = path.read_bytes()
        for name in (*PATIENTS, "jones", ".nii", str(tmp_path), "store"):
            assert name.encode() not in content, (path.name, name)


def test_the_card_says_what_was_measured_on_whom_and_what_is_not_known(job):
    record = run_site(job, Report())
    card = card_of(find("ours"))
    organ = record["dice"]["a/organ"]
    assert f"| a/organ | 3, 18 | 1, 6 | {organ['dice']:.3f} | {organ['iou']:.3f} |" in card
    assert "| a | 4 | axial | 0 to 200 |" in card and record["weights_sha256"] in card
    for said in ("3 patients to learn from, 1 other to validate", "The same patients chose the best step", "unstated"):
        assert said in card
    assert "The survey of the data named 1 problem;" in card and "It began with weights by chance" in card
    assert "nan" not in card and "None" not in card


def test_a_bar_or_a_line_in_a_name_does_not_break_the_tables_of_the_card(job):
    record = run_site(replace(job, name=""), Report())
    for each in ("tasks", "dice"):
        record[each] = {name.replace("organ", "left | right\norgan"): found for name, found in record[each].items()}
    assert "| a/left \\| right organ | 3, " in written_card("ours", record)


def test_without_patients_to_validate_with_nothing_is_claimed(job):
    record = run_site(replace(job, name=""), Report())
    unknown = record | {
        "mean_dice": math.nan,
        "dice": {name: {"dice": math.nan, "iou": math.nan} for name in record["dice"]},
    }
    assert "How good it is is not known" in description_of(unknown)
    card = written_card("ours", unknown)
    assert "| not known | not known |" in card and "averaged weights of the last step" in card and "nan" not in card


def test_a_run_that_was_finished_before_becomes_a_model_without_the_data(job, tmp_path, monkeypatch):
    run_site(replace(job, name=""), Report())
    assert [each.name for each in list_entries()] == ["default", "universeg", "universeg-v1"]
    monkeypatch.setattr(site_module, "survey", lambda *_: pytest.fail("surveyed again"))
    monkeypatch.setattr(site_module.SliceStore, "open", lambda *_: pytest.fail("read again"))
    record = run_site(job, Report())
    assert find("ours").weights.sha256 == record["weights_sha256"]


def test_a_finished_run_becomes_a_model_wherever_its_folder_is_now(job, tmp_path):
    run_site(replace(job, name=""), Report())
    (tmp_path / "run").rename(tmp_path / "moved")
    record = run_site(replace(job, where=Where(tmp_path / "moved", tmp_path / "store")), Report())
    assert record["weights"] == str(tmp_path / "moved" / "weights.safetensors")
    assert record["model"]["name"] == find("ours").name


def test_a_name_that_is_taken_is_refused_before_anything_is_read(job, tmp_path):
    with pytest.raises(InputError, match="belongs to a model that comes with the software"):
        run_site(replace(job, name="default"), Report())
    assert not (tmp_path / "run").exists()
    run_site(job, Report())
    elsewhere = replace(job, where=Where(tmp_path / "other", tmp_path / "store"))
    with pytest.raises(InputError, match='You have a model "ours" already'):
        run_site(elsewhere, Report())
    assert not (tmp_path / "other").exists()
    longer = replace(job.settings, training=replace(FEW, steps=3))
    record = run_site(replace(elsewhere, replacing=True, settings=longer), Report())
    assert find("ours").weights.sha256 == record["weights_sha256"]


def test_a_cancelled_run_is_no_model_yet(job):
    report = Report(lambda done, total, message: report.cancel() if message.startswith("loss") else None)
    with pytest.raises(Cancelled):
        run_site(job, report)
    assert [each.name for each in list_entries()] == ["default", "universeg", "universeg-v1"]
    assert run_site(job, Report())["model"]["name"] == "ours"


def test_a_model_of_ones_own_is_trained_further_and_says_from_what(job, tmp_path):
    first = run_site(job, Report())
    further = replace(
        job, settings=replace(job.settings, model="ours"), where=Where(tmp_path / "more", tmp_path / "store")
    )
    record = run_site(replace(further, name="more"), Report())
    assert record["began_from"]["weights_sha256"] == first["weights_sha256"]
    entry = find("more")
    assert "begun from 'ours'" in entry.description and "under the terms of 'ours'" in entry.licence
    assert f"the weights of the model `ours`, sha256 `{first['weights_sha256']}`" in card_of(entry)
    # What it began with has changed since: the run is another one now.
    run_site(
        replace(job, settings=replace(job.settings, weak="box"), where=Where(tmp_path / "box"), replacing=True),
        Report(),
    )
    with pytest.raises(InputError, match="holds a run that began with another model"):
        run_site(replace(further, name="more", replacing=True), Report())


def test_what_to_begin_with_is_a_model_of_the_catalogue():
    assert start_of("sricl") is None
    start = start_of("universeg")
    assert (start.entry, start.licence, start.network.promptable) == ("universeg", "Apache-2.0", True)
    assert start.size == 128
    assert start.weights_sha256 == find("universeg").weights.sha256
    with pytest.raises(InputError, match='There is no model "nothing" in the catalogue; choose one of default'):
        start_of("nothing")


def test_a_network_that_cannot_be_built_by_name_becomes_no_model(job, tmp_path):
    record = run_site(replace(job, name=""), Report())
    with pytest.raises(InputError, match="has a backbone of its own, and cannot be built by the name 'ours'"):
        keep_run(tmp_path / "run", record | {"network": {"model": None}}, "ours")


def test_a_network_that_takes_prompts_keeps_taking_them_but_that_is_not_promised(job, monkeypatch):
    chosen = replace(job.settings, model="universeg", training=replace(FEW, steps=1))
    run_site(replace(job, settings=chosen), Report())
    entry = find("ours")
    assert entry.capability.prompts == ("click", "box", "scribble") and entry.capability.support == "optional"
    assert "Clicks, boxes and scribbles, and answers without examples, were not trained" in card_of(entry)
    assert "(Apache-2.0), from which it began" in entry.licence


def test_the_commands_train_a_model_use_it_tell_of_it_and_remove_it(job, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(store, "cache_folder", lambda: tmp_path / "cache")
    words = ["train-site", str(tmp_path / "site.toml"), "--output", str(tmp_path / "run"), "--device", "cpu"]
    for each in ("size=32", "references=2", "queries=1", "validated=2", "draws=1", "training.steps=1"):
        words += ["--set", each]
    assert main([*words, "--name", "ours"]) == 0
    assert "Model: ours in " in capsys.readouterr().out
    assert main([*words, "--name", "ours"]) == 2
    assert 'You have a model "ours" already' in capsys.readouterr().err
    assert main([*words, "--name", "ours", "--replace"]) == 0
    asked = ["segment", "--image", str(tmp_path / "a/images/smith3.nii.gz"), "--device", "cpu", "--model", "ours"]
    asked += ["--support", str(tmp_path / "a/images/smith0.nii.gz"), str(tmp_path / "a/labels/smith0.nii.gz")]
    assert main([*asked, "--output", str(tmp_path / "found.nii.gz")]) == 0
    told = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["provenance"]["model"]
    assert told == {"entry": "ours", "weights_sha256": find("ours").weights.sha256}
    capsys.readouterr()
    assert main(["weights", "info", "ours"]) == 0
    assert "# Model card: `ours`" in capsys.readouterr().out
    assert main(["weights", "remove", "ours"]) == 0
    assert main(["weights", "info", "ours"]) == 2
    assert 'There is no model "ours"' in capsys.readouterr().err


def test_models_are_listed_with_where_they_are(job, own_models, capsys):
    run_site(job, Report())
    capsys.readouterr()
    assert main(["weights", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("default (Apache-2.0): ") and lines[0].endswith("[comes with the software]")
    assert lines[1].startswith("universeg (") and lines[2].endswith("[not downloaded]")
    assert lines[3].startswith("ours (your own, unstated): SR-ICL trained on")
    assert lines[3].endswith(f"[{own_models / 'ours'}]")
    assert main(["weights", "info", "ours", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["takes"], told["input_size"], told["own"]) == ("labelled examples", 32, True)
    assert told["card"].startswith("# Model card: `ours`")


def test_of_several_processes_only_the_first_speaks(job, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sitejob, "run_site", lambda *_: {})
    words = ["train-site", str(tmp_path / "site.toml"), "--output", str(tmp_path / "run")]
    assert main(words) == main([*words, "--json"]) == 0
    assert capsys.readouterr().out == ""


def test_part_of_the_change_stays_where_a_model_is_trained_further(job):
    before = start_of("universeg").network.state_dict()
    weights = {}
    for change in (1.0, 0.25):
        chosen = replace(job.settings, model="universeg", change=change, training=replace(FEW, steps=1))
        # The second call only judges other weights of the same run.
        record = run_site(replace(job, settings=chosen, name=f"ours-{change}"), Report())
        weights[change] = load_weights(record["weights"])
    assert ("25% is kept" in card_of(find("ours-0.25"))) and ("is kept, so that" not in card_of(find("ours-1.0")))
    moved = [name for name in before if not torch.equal(before[name], weights[1.0][name])]
    assert moved
    for name in moved:
        torch.testing.assert_close(weights[0.25][name], 0.75 * before[name] + 0.25 * weights[1.0][name])


@pytest.mark.parametrize("change", [0, -0.5, 1.5, math.nan])
def test_a_change_that_makes_no_sense_is_refused(change):
    with pytest.raises(InputError, match=r"^change: asked for a number above 0, up to 1"):
        SiteTraining(change=change)


def test_a_folder_in_which_another_process_trains_is_refused_and_left_alone(job):
    code = f"""
import time
from InContextSegLib.training.site.job import alone_in
from pathlib import Path
with alone_in(Path({str(job.where.run)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=r"^Another process trains in .*run; wait for its end"):
            run_site(job, Report())
        assert [path.name for path in job.where.run.iterdir()] == [LOCK]
        other.kill()
    assert run_site(job, Report())["model"]["name"] == "ours"
