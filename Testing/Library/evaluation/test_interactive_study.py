"""Studies with a simulated user: clicks help, examples save clicks, and the table says what was measured."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from InContextSegLib.errors import Cancelled, InputError
from InContextSegLib.evaluation import interactive_study as module
from InContextSegLib.evaluation.interactive_study import run_interactive_study
from InContextSegLib.evaluation.study import DataSet, Run, Study
from InContextSegLib.models.loading import Model
from InContextSegLib.progress import Report
from InContextSegLib.volumes.colour import LUMINANCE
from Testing.Library.evaluation.test_study import GROUPS, pictures, volumes
from Testing.Library.fake_segmenter import SIZE, Brush, Threshold, grid

FILES = ["cases.jsonl", "curves.png", "interactive.json", "table.md"]


@pytest.fixture(autouse=True)
def network(monkeypatch):
    return use(monkeypatch, Brush())


def use(monkeypatch, network):
    monkeypatch.setattr(module, "load_model", lambda model: (network, {"entry": "fake"}, SIZE))
    return network


def study_of(*sets, contexts=(0, 2)):
    return Study("tiny", (1,), sets, contexts=contexts)


def run_in(folder, study, first="click", **others):
    return run_interactive_study(study, Run(folder, folder / "out", Model(), **others), Report(), first)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "out" / "cases.jsonl").read_text(encoding="utf-8").splitlines()]


def test_clicks_raise_dice_and_examples_save_clicks(tmp_path):
    pictures(tmp_path, "a")
    result, table = run_in(tmp_path, study_of(DataSet("a", {"cube": 1}, groups=GROUPS)))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    alone = [line for line in lines_of(tmp_path) if line["supports"] == 0]
    helped = [line for line in lines_of(tmp_path) if line["supports"] == 2]
    assert len(alone) == len(helped) == 4
    assert all(line["dice"][0] is None and line["dice"][10] > line["dice"][1] for line in alone)
    assert all(line["dice"][0] > 0.85 and line["clicks"] == 0 and line["reached"] for line in helped)
    assert result["means"]["share_of_clicks"]["share"] == 0
    assert "with 2 in context over those without: 0.00 / " in table
    assert "100% fewer, over 4 cases seen both ways" in table


def test_the_record_and_the_table_hold_the_same_figures(tmp_path):
    pictures(tmp_path, "a")
    result, table = run_in(tmp_path, study_of(DataSet("a", {"cube": 1}, groups=GROUPS)))
    assert (tmp_path / "out" / "table.md").read_text(encoding="utf-8") == table
    record = json.loads((tmp_path / "out" / "interactive.json").read_text(encoding="utf-8"))
    assert record["summaries"][0]["clicks"]["mean"] == result["summaries"][0]["clicks"]["mean"]
    row = next(line for line in table.splitlines() if line.startswith("| a | cube | 4 | 0 |"))
    assert row.split(" | ")[4] == "–"
    assert row.split(" | ")[6].startswith(f"{result['summaries'][0]['dice'][2]['mean']:.3f}")


def test_the_same_seed_clicks_the_same(tmp_path):
    pictures(tmp_path, "a")
    study = study_of(DataSet("a", {"cube": 1}, groups=GROUPS), contexts=(0,))
    first, again, other = (run_in(tmp_path, study, seed=seed)[0]["summaries"] for seed in (3, 3, 4))
    assert first[0]["dice"][1] == again[0]["dice"][1] != other[0]["dice"][1]


class Deaf(Brush):
    """Finds nothing, whatever is said."""

    def segment(self, embedding, context, prompts=None):
        return torch.full_like(embedding.images, -6.0)


def test_what_is_never_reached_counts_as_ten_clicks(tmp_path, monkeypatch):
    use(monkeypatch, Deaf())
    pictures(tmp_path, "a", patients=3)
    result, table = run_in(tmp_path, study_of(DataSet("a", {"cube": 1}, groups=GROUPS), contexts=(0,)))
    assert result["summaries"][0]["clicks"]["mean"] == 10
    assert result["summaries"][0]["reached"] == 0
    assert "| 10.0 [10.0, 10.0] | 0% |" in table
    assert result["means"]["share_of_clicks"] is None


def test_of_a_volume_the_slice_with_most_of_the_label_is_taken(tmp_path, network):
    volumes(tmp_path, "a", count=4)
    shapes = []
    wrapped = module.dice
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "dice", lambda guess, truth: shapes.append(truth.shape) or wrapped(guess, truth))
        run_in(tmp_path, study_of(DataSet("a", {"cube": 1}, scheme="leave-one-out")))
    assert set(shapes) == {(1, 24, 24)}
    cases = lines_of(tmp_path)
    assert len(cases) == 8
    assert {case["shown"] for case in cases} == {0, 2}


def test_clicks_hit_their_voxels_in_an_oblique_left_handed_volume(tmp_path):
    volumes(tmp_path, "a", count=2, geometry=grid((20, 26, 30), (0.8, 1.5, 2.0), turned=True, left_handed=True))
    run_in(tmp_path, study_of(DataSet("a", {"cube": 1}, scheme="leave-one-out"), contexts=(0,)))
    for case in lines_of(tmp_path):
        assert all(score > 0 for score in case["dice"][1:])
        assert case["dice"][10] > max(0.7, case["dice"][1])


def test_a_user_may_begin_with_a_box(tmp_path):
    pictures(tmp_path, "a")
    result, _ = run_in(tmp_path, study_of(DataSet("a", {"cube": 1}, groups=GROUPS), contexts=(0,)), first="box")
    assert result["first"] == "box"
    assert result["summaries"][0]["dice"][1]["mean"] > 0.75


def test_labels_that_no_example_shows_are_asked_without_examples(tmp_path, network):
    pictures(tmp_path, "a", patients=2, of_each=1)
    learner = next(iter(module.cases(*_arguments(tmp_path)))).support[0].source + "_0.png"
    (tmp_path / "a" / "labels" / learner).unlink()
    empty = np.zeros((24, 24), np.uint8)
    empty[0, 0] = 2
    Image.fromarray(empty).save(tmp_path / "a" / "labels" / learner)
    run_in(tmp_path, study_of(DataSet("a", {"cube": 1}, groups=GROUPS), contexts=(1,)))
    assert set(network.shown) == {0}
    assert lines_of(tmp_path)[0]["dice"][0] is None


def _arguments(folder):
    each = DataSet("a", {"cube": 1}, groups=GROUPS)
    return each, study_of(each), Run(folder, folder, Model()), 1, (1,)


def test_a_case_without_the_label_is_left_out(tmp_path):
    pictures(tmp_path, "a")
    result, _ = run_in(tmp_path, study_of(DataSet("a", {"cube": 1, "absent": 7}, groups=GROUPS), contexts=(0,)))
    assert [row["label"] for row in result["summaries"]] == ["cube"]


def test_own_slices_are_no_part_of_it(tmp_path):
    pictures(tmp_path, "a")
    own = DataSet("own", {"cube": 1}, images="nowhere", scheme="own-slices")
    result, _ = run_in(tmp_path, study_of(DataSet("a", {"cube": 1}, groups=GROUPS), own, contexts=(0,)))
    assert {row["set"] for row in result["summaries"]} == {"a"}


def test_own_slices_alone_are_refused(tmp_path):
    with pytest.raises(InputError, match="every set asked for is own-slices"):
        run_in(tmp_path, study_of(DataSet("own", {"cube": 1}, scheme="own-slices")))
    assert not (tmp_path / "out").exists()


def test_the_record_says_how_colours_became_grey(tmp_path):
    pictures(tmp_path, "a")
    study = study_of(DataSet("a", {"cube": 1}, groups=GROUPS), contexts=(0,))
    assert run_in(tmp_path, study)[0]["colour"] == "auto"
    assert run_in(tmp_path, study, colour=LUMINANCE)[0]["colour"]["why"] == "luminance"


def test_a_network_without_prompts_is_refused(tmp_path, monkeypatch):
    use(monkeypatch, Threshold())
    pictures(tmp_path, "a")
    with pytest.raises(InputError, match="takes no clicks, boxes or scribbles"):
        run_in(tmp_path, study_of(DataSet("a", {"cube": 1}, groups=GROUPS)))


def test_several_draws_are_refused(tmp_path):
    with pytest.raises(InputError, match="draws: clicks are measured with 1 draw"):
        run_in(tmp_path, study_of(DataSet("a", {"cube": 1})), draws=2)


def test_a_cancelled_study_writes_nothing(tmp_path):
    pictures(tmp_path, "a")
    report = Report()
    report.cancel()
    with pytest.raises(Cancelled, match="Cancelled"):
        run_interactive_study(
            study_of(DataSet("a", {"cube": 1})), Run(tmp_path, tmp_path / "out", Model()), report, "click"
        )
    assert list((tmp_path / "out").iterdir()) == []
