"""Studies: patients are never split, own slices do not count, and a row without enough images is a dash."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from InContextSegLib.config import from_mapping, read_toml
from InContextSegLib.errors import Cancelled, InputError, OutputError
from InContextSegLib.evaluation import study as study_module
from InContextSegLib.evaluation.study import DataSet, Run, Study, chosen_sets, own_slices, run_study
from InContextSegLib.models.loading import Model
from InContextSegLib.progress import Report
from InContextSegLib.volumes.colour import LUMINANCE
from InContextSegLib.volumes.files import write_volume
from InContextSegLib.volumes.geometry import Kind, Volume
from Testing.Library.fake_segmenter import SIZE, Echo, Threshold, grid, scan

ROOT = Path(__file__).resolve().parents[3]
GROUPS = "^([^_]+)_"


@pytest.fixture(autouse=True)
def network(monkeypatch):
    network = Threshold()
    monkeypatch.setattr(study_module, "load_model", lambda model: (network, {"entry": "fake"}, SIZE))
    return network


def pictures(data, name, patients=5, of_each=2):
    for kind in ("images", "labels"):
        (data / name / kind).mkdir(parents=True)
    for patient in range(patients):
        for n in range(of_each):
            image, labels = scan(10 * patient + n)
            picture = np.clip(image.array[3], 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(data / name / "images" / f"p{patient}_{n}.png")
            Image.fromarray(labels.array[3].astype(np.uint8)).save(data / name / "labels" / f"p{patient}_{n}.png")


def volumes(data, name, count=3, geometry=None):
    for kind in ("images", "labels"):
        (data / name / kind).mkdir(parents=True)
    for n in range(count):
        for kind, volume in zip(("images", "labels"), scan(n, geometry=geometry), strict=True):
            write_volume(data / name / kind / f"case{n}.nii.gz", volume)


def study_of(*sets, supports=(2,)):
    return Study("tiny", supports, sets)


def run_in(folder, study, **others):
    return run_study(study, Run(folder, folder / "out", Model(), **others), Report())


def seen_cases(each, study, folder, count=2):
    return list(study_module.cases(each, study, Run(folder, folder, Model()), count, study.supports))


def test_a_patient_is_never_among_both_examples_and_tests(tmp_path):
    pictures(tmp_path, "a", patients=6)
    each = DataSet("a", {"cube": 1}, groups=GROUPS)
    cases = seen_cases(each, study_of(each), tmp_path, 4)
    assert cases
    for case in cases:
        learnt = {pair.source.split("_")[0] for pair in case.support}
        assert case.name.split("_")[0] not in learnt
        assert len(case.support) == 4


def test_pictures_of_one_patient_do_not_calibrate_one_another(tmp_path):
    pictures(tmp_path, "a", patients=6)
    each = DataSet("a", {"cube": 1}, groups=GROUPS)
    (case, *_) = seen_cases(each, study_of(each), tmp_path, 8)
    origins = {pair.source for pair in case.support}
    assert origins < {f"p{n}" for n in range(6)} and len(origins) < len(case.support)


def test_tables_cases_and_record_are_written(tmp_path):
    pictures(tmp_path, "a")
    result, table = run_in(tmp_path, study_of(DataSet("a", {"cube": 1}, groups=GROUPS), supports=(1, 2)))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cases.jsonl", "study.json", "table.md"]
    assert (tmp_path / "out" / "table.md").read_text(encoding="utf-8") == table
    cases = [json.loads(line) for line in (tmp_path / "out" / "cases.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {case["supports"] for case in cases} == {1, 2}
    assert all(case["dice"] > 0.8 for case in cases)
    assert json.loads((tmp_path / "out" / "study.json").read_text(encoding="utf-8"))["summaries"] == result["summaries"]
    assert "| a | cube | 4 | " in table


def test_where_there_are_too_few_images_the_table_says_so_or_has_a_dash(tmp_path):
    pictures(tmp_path, "a", patients=3)
    pictures(tmp_path, "single", patients=1)
    sets = [DataSet(name, {"cube": 1}, groups=GROUPS) for name in ("a", "single")]
    _, table = run_in(tmp_path, study_of(*sets, supports=(2, 64, 128)))
    rows = {line.split(" | ")[0]: line.split(" | ") for line in table.splitlines()}
    assert rows["| a"][4].endswith("(all 4 there are)")
    assert rows["| a"][5] == "–"
    assert rows["| single"][2:] == ["0", "–", "–", "–", "– |"]


def test_undefined_scores_are_null_in_the_files(tmp_path):
    pictures(tmp_path, "a")
    for path in (tmp_path / "a" / "images").iterdir():
        Image.fromarray(np.zeros((24, 24), np.uint8)).save(path)
    result, table = run_in(tmp_path, study_of(DataSet("a", {"cube": 1}, groups=GROUPS)))
    for name in ("cases.jsonl", "study.json"):
        assert "NaN" not in (tmp_path / "out" / name).read_text(encoding="utf-8")
    assert result["summaries"][0]["dice"]["mean"] == 0
    assert "nan" not in table


def test_leave_one_out_learns_from_all_other_patients(tmp_path):
    volumes(tmp_path, "a")
    each = DataSet("a", {"cube": 1}, scheme="leave-one-out")
    cases = seen_cases(each, study_of(each), tmp_path)
    assert [sorted(pair.source for pair in case.support) for case in cases] == [
        [f"case{other}.nii.gz" for other in range(3) if other != n] for n in range(3)
    ]
    assert len((run_in(tmp_path, study_of(each))[0])["summaries"]) == 1


def hues(data, name, count=4):
    """Pictures of a square that only its hue tells from its surroundings, in two halves of different label values."""
    for kind in ("images", "labels"):
        (data / name / kind).mkdir(parents=True)
    labels = np.zeros((SIZE, SIZE), np.uint8)
    labels[4:10, 4:12], labels[10:16, 4:12] = 1, 2
    for n in range(count):
        colours = np.where(labels[..., None] > 0, (193.0, 72.4, 100.0), (100.0, 100.0, 100.0))
        colours += np.random.default_rng(n).normal(0, 3, colours.shape)
        Image.fromarray(colours.astype(np.uint8)).save(data / name / "images" / f"{n}.png")
        Image.fromarray(labels).save(data / name / "labels" / f"{n}.png")


@pytest.mark.parametrize("scheme", ["split", "leave-one-out"])
def test_colours_are_mixed_as_the_examples_ask_and_every_case_says_how(tmp_path, scheme):
    hues(tmp_path, "a")
    study = study_of(DataSet("a", {"square": "any"}, scheme=scheme))
    result, _ = run_in(tmp_path, study)
    assert result["colour"] == "auto"
    assert result["summaries"][0]["dice"]["mean"] > 0.9
    cases = [json.loads(line) for line in (tmp_path / "out" / "cases.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all("better than luminance" in case["colour"]["why"] for case in cases)
    assert len({tuple(case["colour"]["weights_rgb"]) for case in cases}) == (1 if scheme == "split" else 4)
    plain, _ = run_in(tmp_path, study, colour=LUMINANCE)
    assert plain["colour"] == {"weights_rgb": [0.2126, 0.7152, 0.0722], "why": "luminance"}
    assert plain["summaries"][0]["dice"]["mean"] < 0.7


def test_every_case_says_what_the_calibration_found(tmp_path):
    pictures(tmp_path, "a")
    study = study_of(DataSet("a", {"cube": 1}, groups=GROUPS), supports=(4,))
    for calibrate in (True, False):
        run_in(tmp_path, study, calibrate=calibrate)
        lines = (tmp_path / "out" / "cases.jsonl").read_text(encoding="utf-8").splitlines()
        told = [json.loads(line)["calibration"] for line in lines]
        assert all(each["dice"]["1"] > 0.9 for each in told) if calibrate else told == [None] * len(told)


def test_the_truth_of_other_slices_does_not_choose_the_colours(tmp_path):
    hues(tmp_path, "a")
    each = DataSet("a", {"square": "any"}, scheme="own-slices")
    cases = seen_cases(each, study_of(each), tmp_path)
    assert {case.mix.why for case in cases} == {"luminance, as the labels of the other slices are the truth"}


def test_one_grey_test_picture_makes_it_luminance_for_the_set(tmp_path):
    hues(tmp_path, "a")
    each = DataSet("a", {"square": "any"})
    (case, _) = seen_cases(each, study_of(each), tmp_path)
    path = tmp_path / "a" / "images" / case.name
    Image.open(path).convert("L").save(path)
    cases = seen_cases(each, study_of(each), tmp_path)
    assert {each.mix.why for each in cases} == {"luminance, as a target is no colour picture"}


def test_a_patient_without_others_or_labels_is_left_out_and_said_to_be(tmp_path, caplog):
    volumes(tmp_path, "a", count=1)
    for scheme in ("leave-one-out", "own-slices"):
        each = DataSet("a", {"cube": 1}, scheme=scheme)
        if scheme == "own-slices":
            empty = Volume(np.zeros((6, 24, 24), np.uint8), grid(), Kind.LABELS)
            write_volume(tmp_path / "a" / "labels" / "case0.nii.gz", empty)
        caplog.clear()
        assert seen_cases(each, study_of(each), tmp_path) == []
        assert "case0.nii.gz is left out" in caplog.text


def test_own_slices_do_not_count_in_the_scores(tmp_path, monkeypatch):
    network = Echo()
    monkeypatch.setattr(study_module, "load_model", lambda model: (network, {"entry": "fake"}, SIZE))
    volumes(tmp_path, "a", count=1, geometry=grid((24, 24, 24), (3.0, 1.0, 1.0)))
    shapes = []
    evaluate = study_module.evaluate_labels
    monkeypatch.setattr(
        study_module,
        "evaluate_labels",
        lambda guess, truth, *rest: (shapes.append((guess.shape, truth.shape)), evaluate(guess, truth, *rest))[1],
    )
    run_in(tmp_path, study_of(DataSet("a", {"cube": 1}, scheme="own-slices"), supports=(5,)))
    assert shapes == [((19, 24, 24), (19, 24, 24))]


def test_own_slices_lie_evenly_within_what_is_labelled():
    labels = scan(0, geometry=grid((24, 24, 24)))[1]
    slices = own_slices(labels, "axial")
    assert len(slices) == 5
    assert (min(slices), max(slices)) == (4, 19)
    assert own_slices(scan(0, geometry=grid((1, 24, 24)))[1], "axial") == (0,)


def test_any_label_is_every_value_above_zero(tmp_path):
    pictures(tmp_path, "a")
    for path in (tmp_path / "a" / "labels").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) * 255).save(path)
    result, _ = run_in(tmp_path, study_of(DataSet("a", {"cube": "any"}, groups=GROUPS)))
    assert result["summaries"][0]["dice"]["mean"] > 0.8


def test_a_set_the_study_does_not_have_is_refused():
    study = study_of(DataSet("a", {"x": 1}), DataSet("b", {"x": 1}))
    with pytest.raises(InputError, match="The study 'tiny' has no set 'c'; it has a, b"):
        chosen_sets(study, ["a", "c"])
    assert [each.name for each in chosen_sets(study, ["b"]).sets] == ["b"]
    assert chosen_sets(study, None) == study


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: DataSet("a", {"x": 1}, groups="("), "is no regular expression"),
        (lambda: DataSet("a", {"x": 1}, groups="^case"), "needs a group in brackets"),
        (lambda: DataSet("a", {"x": 1}, tests=0), "tests: asked for at least 1"),
        (lambda: study_of(supports=()), "supports: asked for numbers"),
        (lambda: Study("s", (1,), (), contexts=(0, -1)), "contexts: asked for numbers of examples from 0 up"),
        (lambda: Study("s", (1,), (), contexts=()), "contexts: asked for numbers"),
        (lambda: Study("s", (1,), (), support_share=1.0), "support_share: asked for a number between 0 and 1"),
        (lambda: Run(Path(), Path(), Model(), draws=0), "draws: asked for at least 1"),
        (lambda: Run(Path(), Path(), Model(), seed=-1), "seed: asked for a whole number"),
    ],
)
def test_numbers_and_patterns_without_sense_are_refused(wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        wrong()


def test_a_folder_for_results_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="could not be made"):
        run_in(tmp_path, study_of(DataSet("a", {"x": 1})))


def test_a_cancelled_study_writes_nothing(tmp_path):
    pictures(tmp_path, "a")
    report = Report()
    report.cancel()
    with pytest.raises(Cancelled, match="Cancelled"):
        run_study(study_of(DataSet("a", {"cube": 1})), Run(tmp_path, tmp_path / "out", Model()), report)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_study_that_is_cancelled_stops_within_a_case_too(tmp_path, network, monkeypatch):
    pictures(tmp_path, "a")
    report, segment = Report(), network.segment
    monkeypatch.setattr(network, "segment", lambda *what: report.cancel() or segment(*what))
    with pytest.raises(Cancelled, match="Cancelled"):
        run_study(study_of(DataSet("a", {"cube": 1}, groups=GROUPS)), Run(tmp_path, tmp_path / "out", Model()), report)
    assert network.calls == 1


def test_the_development_study_can_be_read():
    path = ROOT / "Resources" / "Studies" / "development.toml"
    study = from_mapping(Study, read_toml(path), path.name)
    assert study.supports == (4, 16, 64)
    assert len({each.name for each in study.sets}) == len(study.sets)
