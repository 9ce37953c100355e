"""The store of slices: cut once, cut again when it must be, never trusted blindly, and never in the way."""

import errno
import logging
import os
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from InContextSegLib.errors import Cancelled, InputError, OutputError
from InContextSegLib.examples.saved import KEY
from InContextSegLib.examples.support import LabelledVolume, SupportSet
from InContextSegLib.progress import Report
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.training.site import cutting, store
from InContextSegLib.training.site.slicefile import LEVELS
from InContextSegLib.training.site.store import SliceStore, StoreSettings, forget
from InContextSegLib.training.site.surveying import survey
from InContextSegLib.volumes.files import read_volume, write_volume
from InContextSegLib.volumes.geometry import Kind, Volume
from InContextSegLib.volumes.segnrrd import Segment
from Testing.Library.site_data import SIZE, folders, grid, labels_of, picture, set_of, site_of, stored, volume

NAMES = {"1": "liver", "2": "tumour"}
DAY_S = 24 * 3600


@pytest.fixture
def cuts(monkeypatch):
    """Names of the images that are cut, in order."""
    found, cut = [], cutting._cut

    def counted(case, recipe):
        found.append(case.image.rpartition("/")[2])
        return cut(case, recipe)

    monkeypatch.setattr(cutting, "_cut", counted)
    return found


@pytest.fixture
def folder(tmp_path):
    for n in range(4):
        volume(tmp_path / "a", f"case{n}", seed=n)
    return tmp_path


def every_slice(opened, task):
    return {
        patient: opened.read(task, slices)
        for side in ("train", "validation")
        for patient, slices in opened.slices(task, side).items()
    }


def files_in(folder):
    return sorted((folder / "store").iterdir())


def test_slices_are_those_of_a_support_set_to_half_a_grey_level(folder):
    opened = stored(folder, set_of(names=NAMES, window=[0, 200]))
    found = every_slice(opened, "a/liver")
    assert len(found) == 4
    for stem, (images, masks) in found.items():
        pair = LabelledVolume(
            read_volume(folder / "a" / "images" / f"{stem}.nii.gz"),
            read_volume(folder / "a" / "labels" / f"{stem}.nii.gz", Kind.LABELS),
            stem,
        )
        support = SupportSet.from_volumes([pair], "axial", SIZE, intensities=Intensities((0, 200)))
        shown = [example for example in support.examples if (example.labels == 1).any()]
        assert len(shown) == len(images) == 6
        for example, image, mask in zip(shown, images, masks, strict=True):
            assert abs(example.image - image).max() <= 0.5 / LEVELS + 1e-6
            np.testing.assert_array_equal(example.labels == 1, mask)


def test_slices_that_show_a_task_and_those_that_do_not_are_listed_without_reading_voxels(folder):
    opened = stored(folder, set_of(names=NAMES))
    opened.close()
    shown, clear = (opened.slices("a/tumour", "train", shown=shown) for shown in (True, False))
    assert not opened._mapped
    for patient, slices in shown.items():
        assert slices[:, 1].tolist() == [4, 5]
        assert clear[patient][:, 1].tolist() == [0, 1, 2, 3, 6, 7, 8, 9]
        assert opened.read("a/tumour", slices)[1].any(axis=(1, 2)).all()
        assert not opened.read("a/tumour", clear[patient])[1].any()


def test_a_case_that_never_shows_a_label_does_not_tell_that_it_is_absent(folder):
    volume(folder / "a", "case4", labels=np.where(labels_of() == 2, 0, labels_of()))
    opened = stored(folder, set_of(names=NAMES))
    told = {patient for side in ("train", "validation") for patient in opened.slices("a/tumour", side, shown=False)}
    assert told == {f"case{n}" for n in range(4)}
    assert "case4" in every_slice(opened, "a/liver")


def test_a_second_opening_cuts_nothing(folder, cuts):
    before = every_slice(stored(folder, set_of(names=NAMES)), "a/liver")
    assert cuts == [f"case{n}.nii.gz" for n in range(4)]
    after = every_slice(stored(folder, set_of(names=NAMES)), "a/liver")
    assert len(cuts) == 4
    for patient, pair in before.items():
        for first, second in zip(pair, after[patient], strict=True):
            np.testing.assert_array_equal(first, second)


def test_one_who_begins_in_the_middle_makes_the_same_store_in_another_order(folder, cuts):
    site = site_of(folder, set_of(names=NAMES))
    found = survey(site, Report())
    opened = [
        SliceStore.open(site, found, StoreSettings(SIZE, folder / name), Report(), begin)
        for name, begin in (("first", 0.0), ("middle", 0.5))
    ]
    assert cuts == [f"case{n}.nii.gz" for n in (0, 1, 2, 3, 2, 3, 0, 1)]
    assert [each.case for each in opened[0].cases] == [each.case for each in opened[1].cases]


def test_names_and_splits_may_change_without_cutting_again(folder, cuts):
    stored(folder, set_of(names=NAMES))
    stored(folder, set_of(names={"any": "both"}), seed=1, validation_share=0.5)
    assert len(cuts) == 4


def test_a_touched_file_is_not_cut_again_and_a_changed_one_is(folder, cuts):
    stored(folder, set_of(names=NAMES))
    os.utime(folder / "a" / "images" / "case1.nii.gz", (1, 1))
    stored(folder, set_of(names=NAMES))
    assert len(cuts) == 4
    labels = np.where(labels_of() == 2, 0, labels_of())
    for n in (2, 3):
        write_volume(folder / "a" / "labels" / f"case{n}.nii.gz", Volume(labels, grid(), Kind.LABELS))
    opened = stored(folder, set_of(names=NAMES))
    assert cuts[4:] == ["case2.nii.gz", "case3.nii.gz"]
    assert len(files_in(folder)) == 4
    assert sorted(every_slice(opened, "a/tumour")) == ["case0", "case1"]


@pytest.mark.parametrize(
    "other",
    [{"window": [0, 50]}, {"axis": "coronal"}, {"colour": [0, 0, 1]}, {"size": 24}],
    ids=str,
)
def test_another_way_of_cutting_is_another_file(folder, cuts, other):
    stored(folder, set_of(names=NAMES))
    size = other.get("size", SIZE)
    opened = stored(folder, set_of(names=NAMES, **{key: other[key] for key in other if key != "size"}), size=size)
    assert opened.size == size
    assert len(cuts) == 8 and len(files_in(folder)) == 8
    stored(folder, set_of(names=NAMES))
    assert len(cuts) == 8


@pytest.mark.parametrize("damage", [b"", b"no slices", None])
def test_a_damaged_file_is_made_again_and_said_to_be(folder, cuts, caplog, damage):
    whole = stored(folder, set_of(names=NAMES))
    path = whole.cases[1].file.path
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 4]) + content[-8:] if damage is None else damage)
    again = stored(folder, set_of(names=NAMES))
    assert cuts[4:] == ["case1.nii.gz"]
    assert "is damaged" in caplog.text and "It is made anew." in caplog.text
    assert path.read_bytes() == content
    assert len(again.cases) == 4


def test_a_volume_that_lacks_voxels_is_named_and_left_out(folder, caplog):
    path = folder / "a" / "images" / "case2.nii.gz"
    path.write_bytes(path.read_bytes()[:-400])
    opened = stored(folder, set_of(names=NAMES))
    (problem,) = opened.problems
    assert (problem.file, problem.kind, problem.left_out) == ("case2.nii.gz", "unreadable", True)
    assert "case2.nii.gz is damaged" in problem.sentence and problem.sentence in caplog.text
    assert len(opened.cases) == 3 and len(files_in(folder)) == 3


def test_a_file_that_vanishes_after_the_survey_is_named(folder):
    site = site_of(folder, set_of(names=NAMES))
    found = survey(site, Report())
    (folder / "a" / "labels" / "case0.nii.gz").unlink()
    opened = SliceStore.open(site, found, StoreSettings(SIZE, folder / "store"), Report())
    assert "case0.nii.gz cannot be read (No such file or directory)" in opened.problems[0].sentence


def test_labels_that_are_emptied_after_the_survey_are_named(folder):
    site = site_of(folder, set_of(names=NAMES))
    found = survey(site, Report())
    empty = Volume(np.zeros_like(labels_of()), grid(), Kind.LABELS)
    write_volume(folder / "a" / "labels" / "case0.nii.gz", empty)
    opened = SliceStore.open(site, found, StoreSettings(SIZE, folder / "store"), Report())
    assert "case0.nii.gz marks no slice that teaches" in opened.problems[0].sentence
    assert len(opened.cases) == 3


def test_a_task_that_loses_its_last_case_is_an_error_that_names_it(folder):
    for n in range(4):
        path = folder / "a" / "images" / f"case{n}.nii.gz"
        path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(InputError, match=r"No slice to learn a/liver from is left \(.*case0.nii.gz is damaged"):
        stored(folder, set_of(names=NAMES))


def test_a_label_too_small_for_the_slices_is_an_error_that_names_it(tmp_path):
    images, labels = folders(tmp_path / "a")
    mask = np.zeros((400, 400), np.uint8)
    mask[10, 10] = 1
    for n in range(3):
        Image.fromarray(np.random.default_rng(n).integers(0, 255, mask.shape).astype(np.uint8)).save(
            images / f"{n}.png"
        )
        Image.fromarray(mask).save(labels / f"{n}.png")
    with pytest.raises(InputError, match="a/dot from is left: it is too small to be seen in 16 pixels"):
        stored(tmp_path, set_of(names={"1": "dot"}))


def test_an_empty_task_is_refused_before_anything_is_cut(folder, cuts):
    with pytest.raises(InputError, match="no usable case to learn a/ghost from"):
        stored(folder, set_of(names=NAMES | {"9": "ghost"}))
    assert not cuts and not (folder / "store").exists()


@pytest.mark.parametrize("inside", ["a/images", "a/labels/deeper"])
def test_a_store_among_the_images_is_refused(folder, inside):
    site = site_of(folder, set_of(names=NAMES))
    with pytest.raises(InputError, match=r"would lie among the images in .*; choose a folder elsewhere"):
        SliceStore.open(site, survey(site, Report()), StoreSettings(SIZE, folder / inside), Report())
    assert not (folder / "a" / "labels" / "deeper").exists()


def test_without_a_folder_the_store_lies_in_the_cache(folder, monkeypatch):
    monkeypatch.setenv("INCONTEXTSEG_CACHE", str(folder / "cache"))
    monkeypatch.setattr(store, "cache_folder", lambda: folder / "cache")
    site = site_of(folder, set_of(names=NAMES))
    SliceStore.open(site, survey(site, Report()), StoreSettings(SIZE), Report())
    assert len(list((folder / "cache" / "slices").iterdir())) == 4


def test_a_full_disk_is_one_sentence_and_what_was_cut_before_is_kept(folder, cuts, monkeypatch):
    fsync, left = os.fsync, [5]  # of a file and of its folder: room for two cases

    def full(handle):
        left[0] -= 1
        if left[0] < 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"the disk is full; make room there, or name another folder .*\.$"):
            stored(folder, set_of(names=NAMES))
    assert len(files_in(folder)) == 2
    del cuts[:]
    assert len(stored(folder, set_of(names=NAMES)).cases) == 4
    assert cuts == ["case2.nii.gz", "case3.nii.gz"]


def test_cutting_can_be_cancelled_and_goes_on_later(folder, cuts):
    site = site_of(folder, set_of(names=NAMES))
    found = survey(site, Report())

    def show(done, total, message):
        if done == 2:
            report.cancel()

    report = Report(show)
    with pytest.raises(Cancelled):
        SliceStore.open(site, found, StoreSettings(SIZE, folder / "store"), report)
    SliceStore.open(site, found, StoreSettings(SIZE, folder / "store"), Report())
    assert sorted(cuts) == [f"case{n}.nii.gz" for n in range(4)]


def test_colours_are_mixed_as_the_labels_ask_unless_somebody_says_how(tmp_path):
    images, labels = folders(tmp_path / "a")
    mask = np.zeros((20, 20), np.uint8)
    mask[4:12, 4:12] = 3
    for n in range(4):
        colours = np.where(mask[..., None] > 0, (193.0, 72.4, 100.0), (100.0, 100.0, 100.0))
        colours += np.random.default_rng(n).normal(0, 3, colours.shape)
        Image.fromarray(colours.astype(np.uint8)).save(images / f"{n}.png")
        Image.fromarray(mask).save(labels / f"{n}.png")
    contrast = {}
    for colour in ("auto", "luminance"):
        for names in ({"3": "square"}, {"any": "square"}, None):
            opened = stored(tmp_path, set_of(names=names, colour=colour))
            task = next(iter(opened.tasks))
            pictures, masks = next(iter(every_slice(opened, task).values()))
            inside = masks > 0
            contrast[colour] = abs(pictures[inside].mean() - pictures[~inside & (pictures > 0)].mean())
    assert contrast["auto"] > 0.5
    assert contrast["luminance"] < 0.2


def test_slices_that_are_silent_about_a_label_are_no_example_of_its_absence(tmp_path):
    for n in range(3):
        volume(tmp_path / "a", f"case{n}")
    about = '{"axis": "axial", "slices": [4, 5, 6], "told": {"5": [1]}}'
    labels = tmp_path / "a" / "labels" / "case0.nii.gz"
    labels.unlink()
    segments = [Segment(1, "liver"), Segment(2, "tumour")]
    mask = Volume(labels_of(), grid(), Kind.LABELS)
    write_volume(labels.with_name("case0.seg.nrrd"), mask, segments, {KEY: about})
    opened = stored(tmp_path, set_of(names=NAMES), validation_share=0.01)
    (each,) = [each for each in opened.cases if "case0" in each.case.image]
    assert each.file.count == 3
    names = {
        value: [(number in each.seen(value), number in each.unseen(value)) for number in range(3)] for value in (1, 2)
    }
    assert sorted(names[1]) == [(True, False)] * 3
    # Slice 4 shows label 2, slice 6 shows that there is none, slice 5 does not tell.
    assert sorted(names[2]) == [(False, False), (False, True), (True, False)]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [({"size": 8}, "at least 16 pixels, got 8"), ({"budget_bytes": 0}, "budget_bytes: asked for")],
)
def test_settings_without_sense_are_refused(wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        StoreSettings(**wrong)


def old_file(path, size_bytes, days):
    path.write_bytes(bytes(size_bytes))
    os.utime(path, (time.time() - days * DAY_S,) * 2)
    return path


def test_what_nobody_used_for_longest_goes_until_the_budget_is_kept(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    files = {days: old_file(tmp_path / f"{days}.slices", 100, days) for days in (0, 2, 3, 4, 5)}
    other = old_file(tmp_path / "notes.txt", 1000, 9)
    left_over = old_file(tmp_path / ".incontextseg-1.slices", 10, 2)
    writing_now = old_file(tmp_path / ".incontextseg-2.slices", 10, 0)
    assert forget(tmp_path, [files[5]], 330) == [files[4], files[3], left_over]
    assert "3 files that nobody used were removed" in caplog.text
    assert sorted(tmp_path.iterdir()) == sorted([writing_now, files[0], files[2], files[5], other])
    assert forget(tmp_path, [files[5]], 1) == [files[2]], "what is used, or was used today, stays over any budget"


def open_handles():
    return len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0


@pytest.mark.slow
def test_hundreds_of_cases_hold_few_files_and_little_memory(tmp_path):
    for n in range(500):
        picture(tmp_path / "a", f"p{n:04}", values=(1 + n % 2,), seed=n)
    opened = stored(tmp_path, set_of(names={"any": "cell"}))
    assert len(opened.cases) == 500
    slices = np.concatenate(list(opened.slices("a/cell", "train").values()))
    assert len(slices) == 400
    handles = open_handles()
    for place in range(0, 400, 16):
        opened.read("a/cell", slices[place : place + 16])
    held = open_handles()
    assert len(opened._mapped) == 32 >= held - handles
    tracemalloc.start()
    try:
        for place in range(0, 400, 16):
            opened.read("a/cell", slices[place : place + 16])
        grown, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 200_000 and peak < 400_000
    opened.close()
    assert not opened._mapped
