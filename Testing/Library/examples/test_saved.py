"""A folder of labelled examples that say which of their slices teach."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from InContextSegLib.cli import arguments
from InContextSegLib.cli.batch import task_of
from InContextSegLib.errors import Cancelled, InputError, OutputError
from InContextSegLib.examples.saved import KEY, Kept, Taught, save, taught_in
from InContextSegLib.examples.support import LabelledVolume, SupportSet
from InContextSegLib.inference.settings import InferenceSettings
from InContextSegLib.jobs.task import Brief, Source, cut, drawn_axis, read_pairs
from InContextSegLib.progress import Report
from InContextSegLib.volumes.files import read_segments, read_volume, write_volume
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume
from InContextSegLib.volumes.segnrrd import Segment
from InContextSegLib.worker.answers import ANSWERS
from InContextSegLib.worker.cache import WorkerCache
from InContextSegLib.worker.protocol import ArrayRef, Describe, ExampleRef, FileRef, Look, SaveExamples, TaskSpec
from InContextSegLib.worker.shared_arrays import SharedFolder

SHAPE = (9, 20, 24)
AFFINE = np.array([[0, -0.8, 0.1, 7], [0.9, 0, 0, -3], [0, 0.1, 2.5, 11], [0, 0, 0, 1.0]])
AFFINE[:3, :3] = np.linalg.qr(AFFINE[:3, :3])[0] * (0.9, 0.8, 2.5)


def pair(slices=(3, 4, 5), axis="axial", seed=0):
    geometry = Geometry(SHAPE, AFFINE)
    image = np.random.default_rng(seed).integers(-900, 900, SHAPE).astype(np.int16)
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:6, 5:12, 6:14] = 1
    labels[4, 14:17, 2:5] = 2
    return LabelledVolume(
        Volume(image, geometry, Kind.INTENSITY),
        Volume(labels, geometry, Kind.LABELS),
        "patient",
        slices=slices,
        axis=axis,
    )


def kept(name="Patient 1", axis="axial", **changes):
    segments = (Segment(1, "liver", (0.8, 0.4, 0.3)), Segment(2, "Tümor"))
    return Kept(name, pair(axis=axis, **changes), axis, segments)


def test_what_is_saved_comes_back_with_geometry_names_and_the_slices_that_teach(tmp_path):
    one = kept()
    (labels,) = save(tmp_path / "set", [one], Report())
    assert taught_in(labels) == Taught((3, 4, 5), "axial")
    assert [(each.value, each.name) for each in read_segments(labels)] == [(1, "liver"), (2, "Tümor")]
    (found,) = read_pairs(Source(tmp_path / "set" / "images", tmp_path / "set" / "labels"))
    assert found.image.geometry.matches(one.pair.image.geometry)
    np.testing.assert_array_equal(found.image.array, one.pair.image.array)
    np.testing.assert_array_equal(found.labels.array, one.pair.labels.array)
    assert (found.slices, found.axis) == ((3, 4, 5), "axial")
    again = SupportSet.from_volumes([found], "axial", 32)
    assert again.fingerprint == SupportSet.from_volumes([one.pair], "axial", 32).fingerprint
    assert len(again) == 3, "neighbouring slices are no finished volume"


def test_the_axis_is_known_and_another_one_is_refused(tmp_path):
    save(tmp_path, [kept(axis="coronal")], Report())
    pairs = read_pairs(Source(tmp_path / "images", tmp_path / "labels"))
    assert drawn_axis(pairs) == "coronal"
    with pytest.raises(InputError, match=r"teaches by single coronal slices, but the volume is to be cut along axial"):
        cut(pairs, ["axial"], 32, Brief())


@pytest.mark.parametrize(("slices", "wanted"), [("all", Taught("all")), (2, Taught(2)), ("auto", None), (None, None)])
def test_other_choices_of_slices_are_kept_as_well(tmp_path, slices, wanted):
    (labels,) = save(tmp_path, [kept(slices=slices)], Report())
    assert taught_in(labels) == wanted


def test_files_get_names_that_every_system_takes_each_once(tmp_path):
    names = ["CT: Müller/2", "ct müller/2", "...", "", "a" * 300, "𠀀" * 90, "CT.seg"]
    found = [path.name for path in save(tmp_path, [kept(name) for name in names], Report())]
    stems = "CT_Müller_2", "ct_müller_2-2", "example", "example-2", "a" * 160, "𠀀" * 40, "CT_seg"
    assert found == [f"{stem}.seg.nrrd" for stem in stems]
    assert len(read_pairs(Source(tmp_path / "images", tmp_path / "labels"))) == len(names)
    about = json.loads((tmp_path / "examples.json").read_text(encoding="utf-8"))
    assert [each["name"] for each in about["examples"]] == names
    assert about["examples"][0]["slices"] == [3, 4, 5] and about["examples"][0]["segments"] == {"liver": 1, "Tümor": 2}


@pytest.mark.parametrize("there", ["images", "labels", "examples.json"])
def test_a_folder_that_holds_examples_is_left_alone(tmp_path, there):
    (tmp_path / there).mkdir()
    with pytest.raises(InputError, match=f"holds {there} already"):
        save(tmp_path, [kept()], Report())
    assert [path.name for path in tmp_path.iterdir()] == [there]


def test_cancelled_half_way_nothing_is_left(tmp_path):
    report = Report(lambda *_what: report.cancel() if any(tmp_path.glob(".incontextseg-*/labels/*")) else None)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(Cancelled):
        save(tmp_path, [kept("a"), kept("b")], report)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_disk_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_what):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OutputError, match="the disk is full"):
        save(tmp_path, [kept("a"), Kept("b", pair(), "axial", (), tmp_path / "b.nii.gz")], Report())
    assert not list(tmp_path.iterdir())


SENSELESS = ("{", "7", '{"axis": "axial"}', '{"axis": "oblique", "slices": [1]}', '{"slices": [1]}', '{"slices": 0}')
SENSELESS += (
    '{"axis": "axial", "slices": [1], "told": {"2": [1]}}',
    '{"axis": "axial", "slices": [1], "told": {"1": []}}',
)
SENSELESS += ('{"axis": "axial", "slices": [1], "told": 3}', '{"axis": "axial", "slices": [1], "told": {"1": [true]}}')
SENSELESS += ('{"axis": "axial", "slices": [-1]}', '{"slices": true}')


@pytest.mark.parametrize("text", SENSELESS)
def test_a_header_that_makes_no_sense_is_refused_by_name(tmp_path, text):
    path = tmp_path / "x.seg.nrrd"
    write_volume(path, pair().labels, (), {KEY: text})
    with pytest.raises(InputError, match=r"x\.seg\.nrrd is damaged"):
        taught_in(path)


def test_a_worker_keeps_the_examples_of_a_task_and_describes_them_again(tmp_path):
    shared = SharedFolder.make(tmp_path)
    cache = WorkerCache(shared, ANSWERS)
    one = pair()
    geometry = one.image.geometry
    image = ArrayRef.of(shared.write(one.image.array), geometry)
    labels = ArrayRef.of(shared.write(one.labels.array), geometry, Kind.LABELS)
    file, mask = tmp_path / "other.nii.gz", tmp_path / "other_labels.nii.gz"
    write_volume(file, one.image)
    write_volume(mask, Volume(one.labels.array * 3, geometry, Kind.LABELS))
    examples = (
        ExampleRef(image, labels, "Example1", (3, 4, 5)),
        ExampleRef(FileRef(str(file), Kind.INTENSITY), FileRef(str(mask), Kind.LABELS), "Example2", None, ((3, 1),)),
    )
    task = TaskSpec(examples, ((1, "liver"), (2, "tumour")))
    folder = tmp_path / "set"
    task = replace(task, settings=replace(task.settings, axes=("axial",)))
    looks = (Look(1, (0.1, 0.2, 0.3), "TerminologyEntry:x|"),)
    request = SaveExamples(task, str(folder), (("Example1", "CT 1"), ("Example2", "MR")), looks)
    answer = cache.answer(request, Report())
    assert [path.rsplit("/", 1)[-1] for path in answer["labels"]] == ["CT_1.seg.nrrd", "MR.seg.nrrd"]
    assert (folder / "images" / "MR.nii.gz").read_bytes() == file.read_bytes(), "a file is copied as it is"
    liver, _tumour = read_segments(folder / "labels" / "CT_1.seg.nrrd")
    assert (liver.name, liver.tags) == ("liver", "TerminologyEntry:x|")
    np.testing.assert_allclose(liver.colour, (0.1, 0.2, 0.3))
    found = cache.answer(Describe(str(folder / "images"), str(folder / "labels")), Report())["pairs"]
    assert [(each["labels"], each["slices"], each["axis"]) for each in found] == [
        ([(1, "liver"), (2, "tumour")], (3, 4, 5), "axial"),
        ([(1, "liver")], "auto", ""),
    ]
    np.testing.assert_array_equal(
        read_volume(folder / "labels" / "MR.seg.nrrd", Kind.LABELS).array == 1, one.labels.array == 1
    )


def test_slices_that_tell_of_some_labels_only_still_do_when_they_are_saved_and_read(tmp_path):
    shared = SharedFolder.make(tmp_path)
    cache, whole = WorkerCache(shared, ANSWERS), pair()
    geometry = whole.image.geometry
    image = ArrayRef.of(shared.write(whole.image.array), geometry)

    def part(slices, *values):
        array = np.zeros_like(whole.labels.array)
        array[list(slices)] = np.where(np.isin(whole.labels.array, values), whole.labels.array, 0)[list(slices)]
        labels = ArrayRef.of(shared.write(array), geometry, Kind.LABELS)
        return ExampleRef(image, labels, "Example1", slices, known=values if values != (1, 2, 3) else None)

    examples = part((1, 3), 1), part((4,), 1, 2, 3), part((5,), 3)
    other = replace(examples[0], source="Example2", slices=4, known=None)
    task = TaskSpec((*examples, other), ((1, "liver"), (2, "tumour"), (3, "cyst")))
    task = replace(task, settings=replace(task.settings, axes=("axial",)))
    answer = cache.answer(SaveExamples(task, str(tmp_path / "set"), (("Example1", "CT"),)), Report())
    assert len(answer["labels"]) == 2, "one volume stays one"
    found = {(each.slices, each.known) for each in read_pairs(Source(tmp_path / "set/images", tmp_path / "set/labels"))}
    assert found == {((1, 3), frozenset({1})), ((4,), None), ((5,), frozenset({3})), (4, None)}
    described, _other = cache.answer(Describe(str(tmp_path / "set/images"), str(tmp_path / "set/labels")), Report())[
        "pairs"
    ]
    assert described["told"] == ((1, (1,)), (3, (1,)), (5, (3,)))
    assert described["labels"] == [(1, "liver"), (2, "tumour"), (3, "cyst")], "a label that is absent is told of too"
    labels = read_volume(answer["labels"][0], Kind.LABELS).array
    expected = np.zeros_like(whole.labels.array)
    expected[3], expected[4] = whole.labels.array[3] == 1, whole.labels.array[4]
    np.testing.assert_array_equal(labels, expected)


def test_a_colour_image_of_the_scene_is_refused(tmp_path):
    shared = SharedFolder.make(tmp_path)
    cache = WorkerCache(shared, ANSWERS)
    geometry = Geometry((1, 8, 8), np.eye(4))
    image = ArrayRef.of(shared.write(np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)), geometry)
    labels = ArrayRef.of(shared.write(np.ones((1, 8, 8), np.uint8)), geometry, Kind.LABELS)
    task = TaskSpec((ExampleRef(image, labels, "Example1"),), ((1, "cell"),))
    with pytest.raises(InputError, match="smear is in colour"):
        cache.answer(SaveExamples(task, str(tmp_path / "set"), (("Example1", "smear"),)), Report())
    assert not (tmp_path / "set").exists()


def test_a_batch_heeds_what_saved_labels_say(tmp_path):
    (labels,) = save(tmp_path / "set", [kept(axis="coronal")], Report())
    words = ["batch", "--images", str(tmp_path), "--output-dir", str(tmp_path / "out")]
    words += ["--support", str(tmp_path / "set" / "images"), str(tmp_path / "set" / "labels")]
    options = arguments.parser().parse_args(words)
    task = task_of(options, InferenceSettings())
    assert task.settings.axes == ("coronal",)
    assert [(each.labels.path, each.slices, each.known) for each in task.examples] == [(str(labels), (3, 4, 5), None)]
    with pytest.raises(InputError, match="teach by single coronal slices, but the volumes are to be cut along axial"):
        task_of(options, InferenceSettings(axes=("axial",)))
