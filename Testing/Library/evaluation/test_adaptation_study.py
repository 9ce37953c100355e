"""Studies of adapting: Dice before and after, what was expected, and the patients kept apart."""

import json

import numpy as np
import pytest
from PIL import Image

from InContextSegLib.errors import Cancelled, InputError
from InContextSegLib.evaluation import adaptation_study as module
from InContextSegLib.evaluation.adaptation_study import run_adaptation_study, slices_of
from InContextSegLib.evaluation.study import DataSet, Run, Study
from InContextSegLib.examples.support import LabelledVolume
from InContextSegLib.models.loading import Model
from InContextSegLib.progress import Report
from Testing.Library.evaluation.test_study import GROUPS, pictures, volumes
from Testing.Library.fake_segmenter import SIZE, Brush, Learner, Threshold, scan

sessions = module._sessions
FILES = ["adaptation.json", "cases.jsonl", "expected.png", "table.md"]


@pytest.fixture(autouse=True)
def network(monkeypatch):
    return use(monkeypatch, Learner(0.6))


def use(monkeypatch, network):
    monkeypatch.setattr(module, "load_model", lambda model: (network, {"entry": "fake"}, SIZE))
    return network


def run_in(folder, *sets, supports=(4,), report=None, **others):
    study = Study("tiny", supports, sets)
    return run_adaptation_study(study, Run(folder, folder / "out", Model(), **others), report or Report(), 1.0)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "out" / "cases.jsonl").read_text(encoding="utf-8").splitlines()]


def test_pictures_are_scored_plain_before_and_after(tmp_path):
    pictures(tmp_path, "a")
    result, table = run_in(tmp_path, DataSet("a", {"cube": 1}, groups=GROUPS))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert all({"plain", "before", "after"} <= set(line) for line in lines_of(tmp_path))
    (row,) = result["summaries"]
    assert row["gain"]["mean"] == pytest.approx(row["after"]["mean"] - row["before"]["mean"])
    (expectation,) = result["expectations"]
    assert expectation["actual"] == pytest.approx(np.mean([line["after"] for line in lines_of(tmp_path)]))
    assert "| a | cube |" in table and "Adapting took" in table


def test_of_volumes_slices_are_taken_and_patients_kept_apart(tmp_path, monkeypatch):
    volumes(tmp_path, "v")
    seen = []
    monkeypatch.setattr(module, "_sessions", lambda task, *rest: seen.append(task) or sessions(task, *rest))
    run_in(tmp_path, DataSet("v", {"cube": 1}, groups=GROUPS))
    (task,) = seen
    learners, testers = {pair.source for pair in task.support}, {name for name, _ in task.tests}
    assert learners and testers and not learners & testers
    assert {line["case"] for line in lines_of(tmp_path)} == testers
    assert len(task.support) == 4


def test_slices_are_pictures_with_the_spacing_they_had(tmp_path):
    image, labels = scan(0)
    pair = LabelledVolume(image, labels, "case")
    slices = slices_of(pair, 2)
    assert [each.source for each in slices] == ["case", "case"]
    for each in slices:
        assert each.image.geometry.shape[0] == 1 and each.labels.array.any()
        np.testing.assert_allclose(each.image.geometry.spacing_mm[1:], image.geometry.spacing_mm[1:])


def test_where_fewer_examples_have_shown_all_there_are_nothing_is_repeated(tmp_path):
    pictures(tmp_path, "a")
    run_in(tmp_path, DataSet("a", {"cube": 1}, groups=GROUPS), supports=(50, 60))
    assert {line["supports"] for line in lines_of(tmp_path)} == {50}


def test_own_slices_are_left_out_and_alone_they_are_refused(tmp_path):
    with pytest.raises(InputError, match="examples of other patients"):
        run_in(tmp_path, DataSet("v", {"cube": 1}, scheme="own-slices"))


def test_several_draws_are_refused(tmp_path):
    with pytest.raises(InputError, match="draws: adapting is measured with 1 draw of examples, but 2 were asked for"):
        run_in(tmp_path, DataSet("a", {"cube": 1}, groups=GROUPS), draws=2)


def test_a_cancelled_study_writes_nothing(tmp_path):
    pictures(tmp_path, "a")
    report = Report(lambda done, total, message: report.cancel())
    with pytest.raises(Cancelled, match="Cancelled"):
        run_in(tmp_path, DataSet("a", {"cube": 1}, groups=GROUPS), report=report)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("network", [Threshold(), Brush()])
def test_a_network_that_cannot_learn_is_measured_as_it_is(tmp_path, monkeypatch, network):
    use(monkeypatch, network)
    pictures(tmp_path, "a")
    result, table = run_in(tmp_path, DataSet("a", {"cube": 1}, groups=GROUPS), calibrate=False)
    assert result["adaptations"][0]["helped"] is False and "| kept |" in table
    assert result["means"][0]["gain"]["mean"] == 0


def test_the_picture_is_drawn(tmp_path):
    pictures(tmp_path, "a")
    run_in(tmp_path, DataSet("a", {"cube": 1}, groups=GROUPS))
    with Image.open(tmp_path / "out" / "expected.png") as picture:
        assert min(picture.size) > 300
