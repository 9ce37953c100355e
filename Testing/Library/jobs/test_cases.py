"""Which volumes a batch segments, and what their results are called."""

from pathlib import Path

import pytest

from InContextSegLib.errors import InputError
from InContextSegLib.jobs.cases import Case, CaseStatus, Listed, cases_of, images_in, listed_in, rows_of, stem_of


def touched(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def outputs(listed, ending=".nii.gz", folder=Path("out")):
    return [case.output.name for case in cases_of(listed, folder, ending)]


def test_a_folder_is_its_images_in_order(tmp_path):
    names = ("b.nii.gz", "a.mha", "c.PNG", "notes.txt", ".hidden.nii", "mask.seg.nrrd", "sub/d.nii.gz")
    touched(tmp_path, *names)
    assert [each.image.name for each in listed_in(tmp_path)] == ["a.mha", "b.nii.gz", "c.PNG"]
    assert outputs(listed_in(tmp_path), ".seg.nrrd") == ["a.seg.nrrd", "b.seg.nrrd", "c.seg.nrrd"]


def test_looking_through_a_folder_can_pause_at_each_thing_in_it(tmp_path):
    touched(tmp_path, *(f"{number}.txt" for number in range(5)), "a.nii")
    assert len(list(images_in(tmp_path))) == 6


def test_a_folder_with_dicom_files_is_one_image_and_so_is_each_subfolder_with_some(tmp_path):
    touched(tmp_path, "patient1/1.dcm", "patient1/2.dcm", "patient2/1.IMA", "empty/readme.txt")
    assert [each.image.name for each in listed_in(tmp_path)] == ["patient1", "patient2"]
    assert [each.image for each in listed_in(tmp_path / "patient1")] == [tmp_path / "patient1"]


def test_a_file_is_itself(tmp_path):
    assert listed_in(tmp_path / "a.nii") == [Listed(tmp_path / "a.nii")]


def test_a_folder_without_images_is_refused(tmp_path):
    touched(tmp_path, "notes.txt")
    with pytest.raises(InputError, match="holds no image"):
        listed_in(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        list(images_in(tmp_path / "missing"))


# Tables


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_names_images_and_what_to_call_the_results(tmp_path, separator):
    rows = [
        ("Image", "name", "age"),
        ("a.nii", "first", "3"),
        ("sub/b.nii", "", "4"),
        ("", "", ""),
        ("/c.nii", "x.mha", ""),
    ]
    (tmp_path / "list.csv").write_text("\n".join(separator.join(row) for row in rows), encoding="utf-8-sig")
    listed = rows_of(tmp_path / "list.csv")
    assert [each.image for each in listed] == [tmp_path / "a.nii", tmp_path / "sub/b.nii", Path("/c.nii")]
    assert outputs(listed_in(tmp_path / "list.csv")) == ["first.nii.gz", "b.nii.gz", "x.mha"]


def test_the_column_output_names_results_too(tmp_path):
    (tmp_path / "list.CSV").write_text('image,output\n"a, b.nii",first\n', encoding="utf-8")
    assert listed_in(tmp_path / "list.CSV") == [Listed(tmp_path / "a, b.nii", "first")]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"path\na.nii\n", "has no column 'image'"),
        (b"", "has no column 'image'"),
        (b"image\n\n", "names no image"),
        (b"image\n\xe4.nii\n", "is not UTF-8 text"),
        (b"image,name\na.nii,../b\n", r"wants the output '../b', but a plain file name is needed"),
        (b"image,name\na.nii,c\\b\n", "a plain file name is needed"),
    ],
)
def test_a_table_without_sense_is_refused(tmp_path, content, sentence):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        rows_of(tmp_path / "list.csv")


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InputError, match=r"list\.csv cannot be read"):
        rows_of(tmp_path / "list.csv")


# Names


def test_images_of_one_name_get_as_many_folders_in_front_as_tell_them_apart():
    paths = ("p1/mr.nii.gz", "p2/mr.nii.gz", "p2/ct.nii.gz", "x/a/Scan.nii", "y/a/scan.nii")
    assert outputs([Listed(Path("/data", path)) for path in paths]) == [
        "p1_mr.nii.gz",
        "p2_mr.nii.gz",
        "ct.nii.gz",
        "x_a_Scan.nii.gz",
        "y_a_scan.nii.gz",
    ]


@pytest.mark.parametrize(
    "other", [Listed(Path("/data/a.mha")), Listed(Path("/data/b.nii"), "A"), Listed(Path("c.nii"), "a.mha")]
)
def test_two_results_of_one_name_are_refused(other):
    with pytest.raises(InputError, match="would both be written to"):
        cases_of([Listed(Path("/data/a.nii")), other], Path("out"), ".nii.gz")


def test_what_is_named_twice_counts_once():
    assert outputs([Listed(Path("a.nii")), Listed(Path("a.nii"))]) == ["a.nii.gz"]


def test_a_batch_without_images_or_of_an_unknown_format_is_refused():
    with pytest.raises(InputError, match="There is no image to segment"):
        cases_of([], Path("out"), ".nii.gz")
    with pytest.raises(InputError, match=r"written as one of \.nii\.gz, .*but '\.png' was asked for"):
        cases_of([Listed(Path("a.nii"))], Path("out"), ".png")


def test_results_among_the_images_are_refused_unless_they_cannot_be_taken_for_images(tmp_path):
    listed = [Listed(tmp_path / "a.mha")]
    with pytest.raises(InputError, match=r"would lie among the images .* choose another folder"):
        cases_of(listed, tmp_path, ".nii.gz")
    assert outputs(listed, ".seg.nrrd", tmp_path) == ["a.seg.nrrd"]


def test_the_record_lies_beside_the_result():
    assert Case(Path("a.nii"), Path("out/a.b.seg.nrrd")).record == Path("out/a.b.json")
    assert stem_of(Path("folder")) == "folder"


def test_a_status_travels():
    status = CaseStatus(Case(Path("a.nii"), Path("out/a.nii.gz")), "done", "", 1.5, {"liver": 2.0})
    assert CaseStatus.from_mapping(status.to_mapping()) == status
    assert status.settled
    assert not CaseStatus(status.case).settled
