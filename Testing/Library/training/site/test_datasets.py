"""A site's data sets: what its file may say, and which files belong together."""

import pytest

from InContextSegLib.errors import InputError
from InContextSegLib.slices.intensities import WINDOWS
from InContextSegLib.training.site.datasets import DataSet, Site, listed_in, read_site
from Testing.Library.site_data import picture, set_of, site_of, written


def a_set(**changes):
    return DataSet(**{"name": "a", "images": "i", "labels": "l"} | changes)


def table(folder, *rows, header="image,labels,patient,split"):
    (folder / "cases.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return site_of(folder, {"name": "a", "table": "cases.csv"}).datasets[0]


def test_paths_begin_at_the_folder_of_the_file(tmp_path):
    site = site_of(tmp_path, set_of(), {"name": "b", "table": "lists/b.csv"})
    assert site.datasets[0].images == str(tmp_path / "a" / "images")
    assert site.datasets[1].table == str(tmp_path / "lists" / "b.csv")


def test_the_folder_that_differs_between_computers_is_named_outside_of_the_file(tmp_path):
    path = written(tmp_path / "site.toml", set_of(images="${INCONTEXTSEG_DATA}/a", labels="${INCONTEXTSEG_DATA}/b"))
    by_option = read_site(path, data=tmp_path / "x", environ={"INCONTEXTSEG_DATA": "/elsewhere"}).datasets[0]
    by_environment = read_site(path, environ={"INCONTEXTSEG_DATA": str(tmp_path)}).datasets[0]
    assert (by_option.images, by_option.labels) == (str(tmp_path / "x" / "a"), str(tmp_path / "x" / "b"))
    assert by_environment.images == str(tmp_path / "a")
    with pytest.raises(InputError, match="no such folder is set; name it with --data"):
        read_site(path, environ={})


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: a_set(name=""), "asked for a name without '/'"),
        (lambda: a_set(name="a/b"), "asked for a name without '/', got 'a/b'"),
        (lambda: a_set(labels=""), "asked for the folders images and labels, or for a table"),
        (lambda: a_set(table="t.csv"), "or for a table"),
        (lambda: DataSet("a"), "or for a table"),
        (lambda: a_set(names={"0": "x"}), "label values from 1 to 65535, or 'any', got '0'"),
        (lambda: a_set(names={"one": "x"}), "got 'one'"),
        (lambda: a_set(names={"65536": "x"}), "got '65536'"),
        (lambda: a_set(names={"1": ""}), "names without '/', got '' for label 1"),
        (lambda: a_set(names={"1": "l/r"}), "got 'l/r' for label 1"),
        (lambda: a_set(names={"any": "x", "1": "y"}), "'any' stands for every value above 0"),
        (lambda: a_set(names={"1": "x", "01": "y"}), "one name for each label value"),
        (lambda: a_set(names={"1": "x", "2": "x"}), "a name of its own for each label"),
        (lambda: a_set(patient="("), "is no regular expression"),
        (lambda: a_set(patient="^p"), "needs a group in brackets"),
        (lambda: a_set(window="ct-hard"), "There are no intensities named 'ct-hard'"),
        (lambda: a_set(window=(5.0, 1.0)), "two finite numbers, low below high"),
        (lambda: Site("s", ()), "asked for at least one data set"),
        (lambda: Site("s", (a_set(), a_set())), "a name of its own for each, got a, a"),
        (lambda: Site("s", (a_set(),), validation_share=1.0), "validation_share: asked for a number between 0 and 1"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        wrong()


def test_a_key_that_is_not_known_is_refused_with_its_place(tmp_path):
    with pytest.raises(
        InputError, match=r"site.toml: datasets\[0\].patients: this key is unknown; did you mean patient"
    ):
        site_of(tmp_path, set_of(patients="(x)"))


def test_a_window_may_be_a_name_or_two_numbers(tmp_path):
    named, numbers = site_of(tmp_path, set_of(window="ct-soft"), set_of("b", window=[0, 80])).datasets
    assert named.intensities.window == WINDOWS["ct-soft"]
    assert numbers.intensities.window == (0, 80)


def test_the_patient_is_found_in_the_name_and_else_is_the_name(tmp_path):
    for stem in ("p1_3", "p1_4", "p2_1", "odd"):
        picture(tmp_path / "a", stem)
    listed, problems = listed_in(site_of(tmp_path, set_of(patient="^(p\\d)_")).datasets[0])
    assert [(each.image.name, each.patient) for each in listed] == [
        ("odd.png", "odd"), ("p1_3.png", "p1"), ("p1_4.png", "p1"), ("p2_1.png", "p2")
    ]  # fmt: skip
    assert [(each.kind, each.left_out) for each in problems] == [("patient", False)]
    assert "odd.png: the pattern" in problems[0].sentence
    listed, problems = listed_in(site_of(tmp_path, set_of()).datasets[0])
    assert [each.patient for each in listed] == ["odd", "p1_3", "p1_4", "p2_1"] and not problems


def test_files_without_a_partner_are_named_and_the_others_stay(tmp_path):
    for stem in ("one", "two", "three", "four"):
        picture(tmp_path / "a", stem)
    (tmp_path / "a" / "images" / "one.png").unlink()
    (tmp_path / "a" / "labels" / "two.png").unlink()
    picture(tmp_path / "b", "three")
    (tmp_path / "b" / "images" / "three.png").rename(tmp_path / "a" / "images" / "three.tif")
    (tmp_path / "a" / "images" / "notes.txt").write_text("no image", encoding="utf-8")
    listed, problems = listed_in(site_of(tmp_path, set_of()).datasets[0])
    assert [each.image.name for each in listed] == ["four.png"]
    assert {each.kind: each.file for each in problems} == {
        "two files": "three.png", "no labels": "two.png", "no image": "one.png"
    }  # fmt: skip
    assert all(each.left_out and each.sentence.endswith(".") for each in problems)


@pytest.mark.parametrize("missing", ["images", "labels"])
def test_a_folder_that_is_not_there_leaves_out_its_data_set_only(tmp_path, missing):
    picture(tmp_path / "a", "one")
    (tmp_path / "a" / missing).rename(tmp_path / "elsewhere")
    listed, problems = listed_in(site_of(tmp_path, set_of()).datasets[0])
    assert not listed
    assert [each.kind for each in problems] == ["no data"]
    assert f"{tmp_path / 'a' / missing} cannot be read (No such file or directory)" in problems[0].sentence


def test_a_folder_without_images_is_said_to_be_empty(tmp_path):
    picture(tmp_path / "a", "one")
    for kind in ("images", "labels"):
        (tmp_path / "a" / kind / "one.png").unlink()
    (problem,) = listed_in(site_of(tmp_path, set_of()).datasets[0])[1]
    assert problem.kind == "no data" and "but it holds none" in problem.sentence


def test_a_table_says_whose_an_image_is_and_on_which_side(tmp_path):
    each = table(tmp_path, "x/1.png,y/1.png,ann,train", "x/2.png , y/2.png,ann,", "x/3.png,y/3.png,,Validation")
    listed, problems = listed_in(each)
    assert not problems
    assert [(one.image, one.labels) for one in listed] == [
        (tmp_path / "x" / f"{n}.png", tmp_path / "y" / f"{n}.png") for n in (1, 2, 3)
    ]
    assert [(one.patient, one.side) for one in listed] == [("ann", "train"), ("ann", None), ("3", "validation")]


def test_rows_that_cannot_be_used_are_named(tmp_path):
    listed, problems = listed_in(table(tmp_path, "1.png,,ann,train", "2.png,l.png,ben,test", "3.png,m.png,cy,"))
    assert [one.image.name for one in listed] == ["3.png"]
    assert [(each.file, each.kind) for each in problems] == [("1.png", "no labels"), ("2.png", "patient")]
    assert "on the side 'test' in cases.csv; write train or validation, or nothing" in problems[1].sentence


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ("image,mask", "has no column 'labels'; its first row should name the columns: image,labels,patient,split"),
        ("file,labels", "has no column 'image'"),
        ("image;labels", "names no image"),
    ],
)
def test_a_table_without_its_columns_or_rows_leaves_out_its_data_set(tmp_path, header, sentence):
    listed, (problem,) = listed_in(table(tmp_path, header=header))
    assert not listed
    assert problem.kind == "no data" and sentence in problem.sentence
