"""What was learnt, in files: read back as it was, bound to its examples, kept within a budget."""

import math
import os
from dataclasses import replace

import pytest
import torch

from InContextSegLib.adaptation.adapt import adapt
from InContextSegLib.adaptation.cache import key_of, load_adaptation, remembered, save_adaptation
from InContextSegLib.errors import WeightsError
from InContextSegLib.inference.prior import Calibration
from InContextSegLib.inference.settings import AdaptSettings, InferenceSettings
from InContextSegLib.models.weights import save_weights
from InContextSegLib.progress import Report
from Testing.Library.fake_segmenter import Learner, Spoilt, square, squares

CPU = torch.device("cpu")
SUPPORT = squares(6)


def learnt(network=None, support=SUPPORT):
    settings = AdaptSettings(15, 0, 40)
    return adapt(network or Learner(), CPU, Calibration(support, 4, {1: 0.0}), settings, Report())


def cut(size):
    return SUPPORT


def test_an_adaptation_is_read_as_it_was_written(tmp_path):
    told = learnt()
    save_adaptation(tmp_path / "a.safetensors", "key", told)
    again = load_adaptation(tmp_path / "a.safetensors", "key", cut)
    assert again.helped and (again.before, again.after) == (told.before, told.after)
    assert torch.equal(again.differences["level"], told.differences["level"])
    assert (again.calibration.shown, again.calibration.shifts) == (told.calibration.shown, told.calibration.shifts)
    assert [each.unit for each in again.trials] == [each.unit for each in told.trials]
    assert torch.equal(again.applied(Learner()).level, told.applied(Learner()).level)


def test_one_that_did_not_help_is_remembered_too(tmp_path):
    save_adaptation(tmp_path / "a.safetensors", "key", learnt(Spoilt()))
    again, network = load_adaptation(tmp_path / "a.safetensors", "key", cut), Spoilt()
    assert not again.helped and again.applied(network) is network


def test_no_name_of_an_example_is_in_the_file(tmp_path):
    save_adaptation(tmp_path / "a.safetensors", "key", learnt())
    assert b"picture" not in (tmp_path / "a.safetensors").read_bytes()


def test_the_file_of_other_examples_is_refused(tmp_path):
    save_adaptation(tmp_path / "a.safetensors", "key", learnt())
    with pytest.raises(WeightsError, match="learnt from other examples"):
        load_adaptation(tmp_path / "a.safetensors", "another key", cut)


def test_any_other_file_is_refused(tmp_path):
    save_weights(tmp_path / "a.safetensors", {"level": torch.zeros(1)}, {"about": "nothing"})
    with pytest.raises(WeightsError, match="holds no adaptation"):
        load_adaptation(tmp_path / "a.safetensors", "key", cut)


def test_the_key_depends_on_all_that_matters_and_on_nothing_else():
    def key(support=SUPPORT, sizes=(32,), sha256="a", **settings):
        return key_of(support, sizes, sha256, InferenceSettings(adapt_seconds=15, **settings))

    first = key()
    assert key(draws=4, threshold=0.3) == first
    renamed = [square(n, source=f"elsewhere/{n}") for n in range(6)]
    assert key(type(SUPPORT)(tuple(renamed), SUPPORT.labels, "axial", 32)) == first
    together = [square(n, source="elsewhere/" + "ab"[n % 2]) for n in range(6)]
    others = [
        key(type(SUPPORT)(tuple(together), SUPPORT.labels, "axial", 32)),
        key(squares(5)),
        key(sizes=(32, 64)),
        key(sha256="b"),
        key(seed=1),
        key(supports=3),
        key(calibrate=True),
    ]
    assert len({first, *others}) == 8


def test_what_was_learnt_once_is_not_learnt_again(tmp_path):
    calls = []

    def now():
        calls.append(1)
        return learnt()

    first, again = (remembered(tmp_path / "kept", "key", cut, now) for _ in range(2))
    assert len(calls) == 1 and first.after == again.after


def test_a_damaged_file_is_said_and_made_anew(tmp_path, caplog):
    (tmp_path / "key.safetensors").write_bytes(b"nonsense")
    told = remembered(tmp_path, "key", cut, learnt)
    assert told.helped and "adapts again" in caplog.text
    assert load_adaptation(tmp_path / "key.safetensors", "key", cut).helped


def test_a_folder_that_cannot_be_written_costs_only_the_memory(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    assert remembered(tmp_path / "file", "key", cut, learnt).helped
    assert "is not kept" in caplog.text


def test_the_files_unused_for_longest_go_and_no_file_of_anybody_else(tmp_path):
    told, keys = learnt(), [letter * 64 for letter in "abc"]
    for age, key in enumerate(keys):
        save_adaptation(tmp_path / f"{key}.safetensors", key, told)
        os.utime(tmp_path / f"{key}.safetensors", (1e9 - age, 1e9 - age))
    save_adaptation(tmp_path / "mine.safetensors", "mine", told)
    os.utime(tmp_path / "mine.safetensors", (1e8, 1e8))
    size = (tmp_path / f"{keys[0]}.safetensors").stat().st_size
    remembered(tmp_path, "d" * 64, cut, lambda: told, budget_bytes=math.ceil(2.5 * size))
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a" * 64, "d" * 64, "mine"]


def test_what_had_too_little_time_is_not_kept(tmp_path):
    told = replace(learnt(Spoilt()), cut_short=True)
    remembered(tmp_path, "key", cut, lambda: told)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_touched_serves_all_the_same(tmp_path, monkeypatch):
    save_adaptation(tmp_path / "key.safetensors", "key", learnt())

    def refuse(path):
        raise PermissionError("read only")

    monkeypatch.setattr(type(tmp_path), "touch", refuse)
    assert remembered(tmp_path, "key", cut, lambda: pytest.fail("adapted again")).helped
