"""Segmentations that adapt first: what is learnt once serves again, and what is to be expected is said."""

import re

import numpy as np
import pytest

from InContextSegLib.cli.main import _ranges, main
from InContextSegLib.inference.settings import ADAPT_SECONDS, PRESETS, InferenceSettings
from InContextSegLib.jobs.segment import SegmentJob, Source, run
from InContextSegLib.progress import Report
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.volumes.files import read_volume
from InContextSegLib.volumes.geometry import Kind, Volume
from Testing.Library.fake_segmenter import SIZE, Learner, grid, saved, use
from Testing.Library.work_clock import WorkClock

WINDOW = (0.0, 100.0)  # 62 becomes 0.62, what a `Learner` just misses


class Counting(Learner):
    """Counts what it was trained for: answers with gradients. A step or two teach it all there is."""

    STEEPNESS = 4000

    def __init__(self):
        super().__init__(0.6207)

    def segment(self, embedding, context):
        logits = super().segment(embedding, context)
        type(self).trained += logits.requires_grad and not embedding.images.is_inference()
        return logits


def faint(seed, slices=1):
    """Pictures of a faint square somewhere, and where it is."""
    generator, geometry = np.random.default_rng(seed), grid((slices, SIZE, SIZE), (3.0, 1.0, 1.0))
    image, labels = np.zeros(geometry.shape, np.float32), np.zeros(geometry.shape, np.uint8)
    row, column = generator.integers(3, 16, 2)
    place = (..., slice(row, row + 12), slice(column, column + 12))
    image[place], labels[place] = 62, 1
    return Volume(image, geometry, Kind.INTENSITY), Volume(labels, geometry, Kind.LABELS)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Five labelled pictures (a folder of images and one of labels), a target, and a network that just misses it."""
    for name in ("images", "labels", "out"):
        (tmp_path / name).mkdir()
    for seed in range(5):
        image, labels = saved(tmp_path, f"p{seed}", *faint(seed))
        image.rename(tmp_path / "images" / image.name)
        labels.rename(tmp_path / "labels" / image.name)
    saved(tmp_path, "target", *faint(9))
    Counting.trained = 0
    WorkClock(monkeypatch)  # as many steps as are planned, however busy the computer is
    use(monkeypatch, Counting())
    return tmp_path


def job(folder, output="mask", **others):
    settings = {"supports": 4, "draws": 1, "adapt_seconds": 2.0} | others
    return SegmentJob(
        folder / "target.nii.gz",
        (Source(folder / "images", folder / "labels"),),
        folder / "out" / f"{output}.nii.gz",
        settings=InferenceSettings(**settings),
        intensities=Intensities(WINDOW),
        cache=folder / "kept",
    )


def test_what_the_network_learnt_finds_what_it_missed(folder):
    missed = run(job(folder, "before", adapt_seconds=0.0), Report())
    found = run(job(folder, "after"), Report())
    assert missed["labels"]["label 1"]["voxels"] == 0 and missed["expected"] == {}
    assert found["labels"]["label 1"]["voxels"] == pytest.approx(144, abs=6)
    expected = found["expected"]["label 1"]
    assert expected["dice"] > 0.9 > expected["without_adapting"]["dice"]
    about = found["provenance"]["model"]["adaptation"]
    assert about["helped"] and (folder / "kept" / f"{about['key']}.safetensors").is_file()
    assert found["provenance"]["settings"]["adapt_seconds"] == 2.0


def test_a_second_target_of_the_same_examples_needs_no_training(folder):
    first = run(job(folder, "one"), Report())
    trained = Counting.trained
    second = run(job(folder, "two", draws=2), Report())
    assert Counting.trained == trained
    assert second["expected"] == first["expected"]
    mask = [read_volume(folder / "out" / f"{name}.nii.gz", Kind.LABELS).array for name in ("one", "two")]
    np.testing.assert_array_equal(*mask)


def test_a_calibration_alone_says_what_to_expect_too(folder):
    record = run(job(folder, adapt_seconds=0.0, calibrate=True), Report())
    assert record["expected"]["label 1"]["units"] == 5
    assert "without_adapting" not in record["expected"]["label 1"]
    assert not (folder / "kept").exists()


def test_slices_that_look_like_no_example_are_named(folder):
    image, labels = faint(3, slices=6)
    array = image.array.copy()
    array[4:] = 100 * np.linspace(0, 1, SIZE, dtype=np.float32)
    saved(folder, "target", Volume(array, image.geometry, Kind.INTENSITY), labels)
    assert run(job(folder), Report())["unlike_slices"] == [4, 5]


def words(folder, *more):
    examples = [str(folder / "images"), str(folder / "labels")]
    return [
        "segment", "--image", str(folder / "target.nii.gz"), "--support", *examples, "--window", "0", "100",
        "--output", str(folder / "out" / "mask.nii.gz"), "--supports", "4", "--quiet", *more,
    ]  # fmt: skip


def test_the_command_line_says_what_to_expect(folder, monkeypatch, capsys):
    monkeypatch.setenv("INCONTEXTSEG_CACHE", str(folder / "kept"))
    assert main(words(folder, "--preset", "fast", "--adapt", "2")) == 0
    text = capsys.readouterr().out
    assert re.search(
        r"By the examples: Dice of label 1 \d\.\d\d ± 0\.0\d from 5 pictures, slices or volumes left out in turn", text
    )
    assert re.search(r"\(0\.\d\d without adapting\)", text)
    assert "Adapted: examples it had not learnt from were segmented better" in text
    assert len(list((folder / "kept" / "adapted").iterdir())) == 1


def test_off_and_the_other_presets_do_not_adapt(folder, monkeypatch, capsys):
    monkeypatch.setenv("INCONTEXTSEG_CACHE", str(folder / "kept"))
    assert main(words(folder, "--preset", "best", "--adapt", "off")) == 0
    assert Counting.trained == 0 and "By the examples" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["soon", "0.5", "nan"])
def test_a_time_that_is_none_is_refused(folder, word, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words(folder, "--adapt", word))
    assert "auto, off or seconds from 1 to 86400" in capsys.readouterr().err


def test_the_preset_best_adapts_by_default():
    assert PRESETS["best"]["adapt_seconds"] == ADAPT_SECONDS
    assert "adapt_seconds" not in PRESETS["normal"]


def test_neighbouring_slices_are_named_as_a_range():
    assert _ranges([3, 4, 5, 9]) == "3-5, 9"
