"""The folder of a run knows what is trained there, refuses another run, and gives its log as it grows."""

import json
from dataclasses import replace

import pytest

from InContextSegLib.config import to_mapping
from InContextSegLib.errors import InputError
from InContextSegLib.training import runfolder
from InContextSegLib.training.runfolder import LogTail, delete, is_run, kept_settings, open_run
from InContextSegLib.training.site.datasets import DataSet, Site, read_site
from InContextSegLib.training.site.train import SiteTraining


@pytest.fixture
def site(tmp_path):
    return Site("clinic", (DataSet("a", images=str(tmp_path / "a/images"), labels=str(tmp_path / "a/labels")),))


def settings(**training):
    usual = SiteTraining()
    return to_mapping(replace(usual, training=replace(usual.training, **training)))


def test_a_damaged_note_of_what_a_run_began_with_is_said_to_be(tmp_path):
    assert runfolder.begun_with(tmp_path) is None
    (tmp_path / "begun.json").write_text('{"size": ')
    with pytest.raises(InputError, match=r"begun\.json is damaged or cannot be read .*choose another folder"):
        runfolder.begun_with(tmp_path)


def test_a_run_is_begun_once_and_goes_on_with_the_same_data_and_settings(site, tmp_path):
    run = tmp_path / "run"
    assert not is_run(run) and kept_settings(run) is None
    open_run(run, site, settings())
    assert is_run(run) and read_site(run / "site.toml") == site and kept_settings(run) == settings()
    (run / "checkpoint.pt").touch()
    open_run(run, site, settings(steps=99, patience=3))
    assert kept_settings(run)["training"]["steps"] == 99
    with pytest.raises(InputError, match=r"a run with training\.learning_rate 0\.0001, but 0\.01 is asked for"):
        open_run(run, site, settings(learning_rate=0.01))
    with pytest.raises(InputError, match="holds a run on other data sets, or on another split"):
        open_run(run, replace(site, seed=1), settings())
    assert kept_settings(run)["training"]["steps"] == 99


def test_a_run_that_has_learnt_nothing_yet_gives_way_to_another(site, tmp_path):
    open_run(tmp_path, site, settings())
    (tmp_path / "survey.json").write_text("{}", encoding="utf-8")
    open_run(tmp_path, site, settings(learning_rate=0.01))
    assert (tmp_path / "survey.json").exists() and kept_settings(tmp_path)["training"]["learning_rate"] == 0.01
    open_run(tmp_path, replace(site, seed=1), settings())
    assert read_site(tmp_path / "site.toml").seed == 1 and not (tmp_path / "survey.json").exists()


def test_a_damaged_note_of_a_run_is_named(site, tmp_path):
    open_run(tmp_path, site, settings())
    (tmp_path / "settings.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"settings\.json is damaged or cannot be read"):
        kept_settings(tmp_path)


def test_what_the_run_wrote_is_deleted_and_nothing_else(site, tmp_path):
    open_run(tmp_path / "run", site, settings())
    (tmp_path / "run" / "mine.txt").write_text("x", encoding="utf-8")
    delete(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]
    (tmp_path / "run" / "mine.txt").unlink()
    open_run(tmp_path / "run", site, settings())
    delete(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_log_is_read_as_it_grows_and_a_line_that_is_not_whole_is_left_for_later(tmp_path, monkeypatch):
    monkeypatch.setattr(runfolder, "_CHUNK_BYTES", 64)
    path = tmp_path / "log.jsonl"
    tail = LogTail(path)
    assert list(tail.read()) == []
    lines = [json.dumps({"step": number, "loss": 0.5}) + "\n" for number in range(1, 30)]
    path.write_text("".join(lines[:20]) + lines[20][:9], encoding="utf-8")
    pieces = list(tail.read())
    assert [record["step"] for piece in pieces for record in piece] == list(range(1, 21)) and len(pieces) > 3
    with path.open("a", encoding="utf-8") as log:
        log.write(lines[20][9:] + "no JSON\n[1]\n" + "".join(lines[21:]))
    assert [record["step"] for piece in tail.read() for record in piece] == list(range(21, 30))
