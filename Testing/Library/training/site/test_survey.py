"""What a survey finds in a site's data, good and bad, before anything is trained."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from InContextSegLib.cli.main import main
from InContextSegLib.errors import Cancelled, InputError
from InContextSegLib.progress import Report
from InContextSegLib.training.site.datasets import read_site
from InContextSegLib.training.site.survey import Survey, text_of
from InContextSegLib.training.site.surveying import survey
from InContextSegLib.volumes.files import write_volume
from InContextSegLib.volumes.geometry import Kind, Volume
from InContextSegLib.volumes.segnrrd import Segment
from Testing.Library.site_data import (
    SHAPE,
    folders,
    grid,
    labels_of,
    picture,
    set_of,
    site_of,
    surveyed,
    volume,
    written,
)

ROOT = Path(__file__).resolve().parents[4]
NAMES = {"1": "liver", "2": "tumour"}


def volumes(data, count=4):
    for n in range(count):
        volume(data, f"case{n}", seed=n)


def problems_of(found):
    return {(each.file, each.kind): each for each in found.problems}


def only_problem(found, file, kind):
    assert list(problems_of(found)) == [(file, kind)], text_of(found)
    sentence = found.problems[0].sentence
    assert sentence.endswith(".") and "\n" not in sentence and ". " not in sentence
    return found.problems[0]


def truncated(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_pictures_without_a_spacing_are_not_said_to_have_one(tmp_path):
    for n in range(3):
        picture(tmp_path / "a", f"p{n}", seed=n)
    found = surveyed(tmp_path, set_of(names={"1": "cell"}))
    assert found.sets[0].between_mm is None and found.sets[0].within_mm is None
    assert "| a | 3 of 3 | 3 | 3 | – | –, – |" in text_of(found)


def test_patients_slices_spacing_and_labels_are_counted(tmp_path):
    volumes(tmp_path / "a", 3)
    volume(tmp_path / "a", "case3", geometry=grid(spacing_mm=(5.0, 0.5, 0.5)))
    found = surveyed(tmp_path, set_of(names=NAMES), validation_share=0.25)
    (one,) = found.sets
    assert (one.axis, one.found, one.usable, one.patients, one.slices) == ("axial", 4, 4, 4, 40)
    assert one.between_mm == (3.0, 5.0) and one.within_mm == (0.5, 1.0)
    liver, tumour = found.tasks
    assert (liver.name, liver.value, tumour.name) == ("a/liver", 1, "a/tumour")
    assert (liver.train.patients, liver.train.slices, liver.validation.patients) == (3, 18, 1)
    assert (tumour.train.slices, tumour.validation.slices) == (6, 2)
    assert not found.problems and found.usable
    assert all(case.showing == {"1": 6, "2": 2} for case in found.cases)


def test_a_survey_travels_as_json(tmp_path):
    volumes(tmp_path / "a", 2)
    picture(tmp_path / "a", "odd", values=(9,))
    found = surveyed(tmp_path, set_of(names=NAMES))
    assert found.problems
    assert Survey.from_mapping(json.loads(json.dumps(found.to_mapping()))) == found


def test_most_volumes_say_along_which_axis_all_are_cut(tmp_path):
    for n, spacing_mm in enumerate([(1.0, 4.0, 1.0), (1.0, 4.0, 1.0), (4.0, 1.0, 1.0)]):
        volume(tmp_path / "a", f"case{n}", geometry=grid(spacing_mm=spacing_mm))
    found = surveyed(tmp_path, set_of(names=NAMES))
    assert {case.axis for case in found.cases} == {"coronal"} == {found.sets[0].axis}
    assert found.cases[0].showing == {"1": 8, "2": 4}
    asked = surveyed(tmp_path, set_of(names=NAMES, axis="sagittal"))
    assert {case.axis for case in asked.cases} == {"sagittal"}


def test_a_patient_in_two_data_sets_is_on_one_side_and_never_split(tmp_path):
    for n in range(10):
        for slice_ in range(3):
            picture(tmp_path / "a", f"p{n}_{slice_}")
        picture(tmp_path / "b", f"p{n}_x", values=(1, 2))
    sets = [set_of(names={"1": "cell"}, patient="^(p\\d)_"), set_of("b", NAMES, patient="^(p\\d)_")]
    for seed in range(5):
        found = surveyed(tmp_path, *sets, seed=seed)
        sides = {}
        for case in found.cases:
            sides.setdefault(case.patient, set()).add(case.side)
        assert len(sides) == 10 and all(len(side) == 1 for side in sides.values())
        assert {task.validation.patients for task in found.tasks} == {2}


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_file_that_cannot_be_read_is_named_and_the_others_stay(tmp_path, kind):
    volumes(tmp_path / "a")
    truncated(tmp_path / "a" / kind / "case2.nii.gz")
    found = surveyed(tmp_path, set_of(names=NAMES))
    # A header is all that is read of an image, so that one without voxels is noticed when it is cut.
    if kind == "images":
        (tmp_path / "a" / kind / "case2.nii.gz").write_bytes(b"nothing")
        found = surveyed(tmp_path, set_of(names=NAMES))
    problem = only_problem(found, "case2.nii.gz", "unreadable")
    assert problem.left_out and f"{tmp_path / 'a' / kind / 'case2.nii.gz'} is" in problem.sentence
    assert len(found.cases) == 3


def test_a_picture_that_is_cut_short_is_named(tmp_path):
    for n in range(3):
        picture(tmp_path / "a", f"c{n}")
    truncated(tmp_path / "a" / "images" / "c1.png")
    found = surveyed(tmp_path, set_of(names={"1": "cell"}))
    assert "is damaged" in only_problem(found, "c1.png", "unreadable").sentence


def test_labels_that_a_table_names_and_nobody_has_are_named(tmp_path):
    volumes(tmp_path / "a", 3)
    rows = [f"a/images/case{n}.nii.gz,a/labels/case{n}.nii.gz" for n in range(4)]
    volume(tmp_path / "a", "case3")
    (tmp_path / "a" / "labels" / "case3.nii.gz").unlink()
    (tmp_path / "t.csv").write_text("\n".join(["image,labels", *rows]), encoding="utf-8")
    found = surveyed(tmp_path, {"name": "a", "table": "t.csv", "names": NAMES})
    assert "does not exist" in only_problem(found, "case3.nii.gz", "unreadable").sentence


@pytest.mark.parametrize(
    "geometry",
    [grid((10, 20, 25)), grid(spacing_mm=(3.0, 1.0, 1.2)), grid(at_mm=7.0)],
    ids=["size", "spacing", "place"],
)
def test_labels_on_another_grid_are_named(tmp_path, geometry):
    volumes(tmp_path / "a")
    _, labels = folders(tmp_path / "a")
    write_volume(labels / "case1.nii.gz", Volume(labels_of(geometry.shape), geometry, Kind.LABELS))
    found = surveyed(tmp_path, set_of(names=NAMES))
    problem = only_problem(found, "case1.nii.gz", "geometry")
    assert problem.left_out and "resample the labels onto the image" in problem.sentence
    assert len(found.cases) == 3


def test_labels_of_another_size_than_their_picture_are_named(tmp_path):
    for n in range(3):
        picture(tmp_path / "a", f"c{n}")
    Image.fromarray(np.ones((20, 23), np.uint8)).save(tmp_path / "a" / "labels" / "c0.png")
    found = surveyed(tmp_path, set_of(names={"1": "cell"}))
    assert "23 x 20 x 1 voxels" in only_problem(found, "c0.png", "geometry").sentence


def test_empty_labels_are_named(tmp_path):
    volumes(tmp_path / "a")
    volume(tmp_path / "a", "case1", labels=np.zeros(SHAPE, np.uint8))
    found = surveyed(tmp_path, set_of(names=NAMES))
    assert "case1.nii.gz holds no label at all" in only_problem(found, "case1.nii.gz", "empty").sentence


def test_values_that_nobody_named_are_named(tmp_path):
    for n, values in enumerate([(1,), (1, 2), (1, 2, 7), (255,)]):
        picture(tmp_path / "a", f"c{n}", values)
    found = surveyed(tmp_path, set_of(names=NAMES))
    extra, other = problems_of(found)[("c2.png", "values")], problems_of(found)[("c3.png", "values")]
    assert not extra.left_out and "also holds the label values 7" in extra.sentence
    assert other.left_out and "values 255, but 'names' has 1, 2" in other.sentence
    assert [Path(case.image).name for case in found.cases] == ["c0.png", "c1.png", "c2.png"]


def test_without_names_values_that_differ_from_most_cases_are_named(tmp_path):
    for n, values in enumerate([(1, 2), (1, 2), (1, 2), (1,), (255,)]):
        picture(tmp_path / "a", f"c{n}", values)
    found = surveyed(tmp_path, set_of())
    assert [task.name for task in found.tasks] == ["a/label 1", "a/label 2"]
    fewer, other = problems_of(found)[("c3.png", "values")], problems_of(found)[("c4.png", "values")]
    assert not fewer.left_out and "values 1, most cases 1, 2" in fewer.sentence
    assert other.left_out and "values 255, but most cases have 1, 2" in other.sentence


def segmentation(data, stem, names):
    _, labels = folders(data)
    volume(data, stem)
    (labels / f"{stem}.nii.gz").unlink()
    segments = [Segment(value, name) for value, name in enumerate(names, 1)]
    write_volume(labels / f"{stem}.seg.nrrd", Volume(labels_of(), grid(), Kind.LABELS), segments)


def test_segmentations_name_their_labels_and_one_that_swaps_them_is_left_out(tmp_path):
    for n in range(3):
        segmentation(tmp_path / "a", f"case{n}", ["liver", "tumour"])
    segmentation(tmp_path / "a", "case3", ["tumour", "liver"])
    for names in (None, {"1": "Liver", "2": "tumour"}):
        found = surveyed(tmp_path, set_of(names=names))
        assert [task.label.lower() for task in found.tasks] == ["liver", "tumour"]
        problem = only_problem(found, "case3.nii.gz", "values")
        assert problem.left_out and "case3.seg.nrrd calls label 1 'tumour'" in problem.sentence
        assert len(found.cases) == 3


def test_a_site_may_give_labels_names_of_its_own(tmp_path):
    for n in range(3):
        segmentation(tmp_path / "a", f"case{n}", ["Segment_1", "Segment_2"])
    assert not surveyed(tmp_path, set_of(names=NAMES)).problems
    segmentation(tmp_path / "a", "case3", ["Segment_2", "Segment_1"])
    found = surveyed(tmp_path, set_of(names=NAMES))
    assert "'Segment_2', but" in only_problem(found, "case3.nii.gz", "values").sentence


def test_any_value_is_one_task(tmp_path):
    for n in range(4):
        picture(tmp_path / "a", f"c{n}", values=(3 + n, 80 + n))
    found = surveyed(tmp_path, set_of(names={"any": "nucleus"}))
    (task,) = found.tasks
    assert (task.name, task.value, task.train.cases + task.validation.cases) == ("a/nucleus", None, 4)
    assert not found.problems


def test_a_task_that_nothing_shows_is_an_error_that_names_it(tmp_path):
    for n in range(4):
        picture(tmp_path / "a", f"c{n}")
    found = surveyed(tmp_path, set_of(names={"1": "cell", "2": "ghost"}))
    problem = only_problem(found, "", "empty task")
    assert "No usable case shows a/ghost" in problem.sentence
    assert found.usable and found.tasks[1].empty
    with pytest.raises(InputError, match="There is no usable case to learn a/ghost from"):
        found.require_tasks()


def test_a_site_without_any_task_says_why(tmp_path):
    found = surveyed(tmp_path, set_of())
    assert not found.usable
    with pytest.raises(InputError, match=r"'clinic' has no task to train: The folder .*a/images cannot be read"):
        found.require_tasks()
    picture(tmp_path / "a", "c0", values=())
    with pytest.raises(InputError, match=r"has no task to train: c0.png holds no label at all"):
        surveyed(tmp_path, set_of()).require_tasks()


def test_too_few_patients_for_a_split_are_said(tmp_path):
    for n in range(3):
        picture(tmp_path / "a", f"ann_{n}")
    found = surveyed(tmp_path, set_of(names={"1": "cell"}, patient="^(.*)_"))
    problem = only_problem(found, "", "few patients")
    assert "A single patient shows a/cell" in problem.sentence and not problem.left_out
    assert found.usable
    found.require_tasks()


def table(folder, *sides):
    rows = [f"a/images/p{n}.png,a/labels/p{n}.png,{patient},{side}" for n, (patient, side) in enumerate(sides)]
    for n in range(len(sides)):
        picture(folder / "a", f"p{n}")
    (folder / "t.csv").write_text("\n".join(["image,labels,patient,split", *rows]), encoding="utf-8")
    return {"name": "a", "table": "t.csv", "names": {"1": "cell"}}


def test_a_table_may_choose_the_sides(tmp_path):
    found = surveyed(tmp_path, table(tmp_path, ("a", "train"), ("b", "validation"), ("c", "validation"), ("d", "")))
    assert {case.patient: case.side for case in found.cases} == {
        "a": "train", "b": "validation", "c": "validation", "d": "train"
    }  # fmt: skip


def test_a_patient_on_both_sides_is_left_out_by_name(tmp_path):
    rows = [("a", "train"), ("a", "validation"), ("b", ""), ("c", "")]
    found = surveyed(tmp_path, table(tmp_path, *rows))
    assert list(problems_of(found)) == [("p0.png", "patient"), ("p1.png", "patient")]
    assert "'a', who is on both sides" in found.problems[0].sentence
    assert {case.patient for case in found.cases} == {"b", "c"}


def test_when_all_patients_are_put_on_one_side_that_is_said(tmp_path):
    both = table(tmp_path, ("a", "validation"), ("b", "validation"))
    found = surveyed(tmp_path, both)
    assert "All who show a/cell are on one side, so there is nobody to learn it from" in found.problems[0].sentence
    assert not found.usable
    with pytest.raises(InputError, match="no usable case to learn a/cell from"):
        found.require_tasks()


def test_a_survey_can_be_cancelled(tmp_path):
    volumes(tmp_path / "a", 2)
    report = Report()
    report.cancel()
    with pytest.raises(Cancelled):
        survey(site_of(tmp_path, set_of()), report)


def test_the_command_prints_tables_and_problems(tmp_path, capfd):
    volumes(tmp_path / "a")
    truncated(tmp_path / "a" / "labels" / "case2.nii.gz")
    path = written(tmp_path / "site.toml", set_of(names=NAMES))
    assert main(["datasets", str(path)]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "| a | 3 of 4 | 3 | 30 | axial | 3, 1 |" in out
    assert "| a/liver | 2, 2, 12 | 1, 1, 6 |" in out
    assert "1 problem.\na: " in out and "case2.nii.gz is damaged" in out
    assert main(["datasets", str(path), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["cases"][0]["patient"] == "case0"


def test_the_command_ends_with_2_where_nothing_is_usable(tmp_path, capfd):
    path = written(tmp_path / "site.toml", set_of(images="${INCONTEXTSEG_DATA}/none", names=NAMES))
    assert main(["datasets", str(path), "--data", str(tmp_path)]) == 2
    assert f"The folder {tmp_path / 'none'} cannot be read" in capfd.readouterr().out


def test_the_development_data_is_surveyed_within_a_minute(data_folder):
    began = time.monotonic()
    found = survey(read_site(ROOT / "Resources" / "Studies" / "site.toml", data_folder), Report())
    assert time.monotonic() - began < 60
    ready = [task for task in found.tasks if task.train.patients and task.validation.patients]
    assert len(ready) >= 6
    assert {each.name: (each.usable, each.patients) for each in found.sets}["kidney_t2_mr"] == (25, 21)
    sides = {}
    for case in found.cases:
        sides.setdefault(case.patient, set()).add(case.side)
    assert all(len(side) == 1 for side in sides.values())
    found.require_tasks()
