"""Whole segmentations of colour pictures: one mix of colours for examples and target, and a record of it."""

import numpy as np
import pytest
from PIL import Image

from InContextSegLib.examples.support import Label
from InContextSegLib.inference.settings import InferenceSettings
from InContextSegLib.jobs.segment import SegmentJob, Source, run
from InContextSegLib.progress import Report
from InContextSegLib.volumes.colour import LUMINANCE, ColourMix
from Testing.Library.fake_segmenter import Threshold, use


@pytest.fixture(autouse=True)
def network(monkeypatch):
    return use(monkeypatch, Threshold())


@pytest.fixture
def hues(tmp_path):
    """Three pictures of a square that only its hue tells from its surroundings, and the labels of two of them."""
    labels = np.zeros((24, 24), np.uint8)
    labels[8:16, 8:16] = 1
    for name in ("images", "labels", "out"):
        (tmp_path / name).mkdir()
    for seed, name in enumerate(("images/a", "images/b", "target")):
        colours = np.where(labels[..., None] == 1, (193.0, 72.4, 100.0), (100.0, 100.0, 100.0))
        colours += np.random.default_rng(seed).normal(0, 3, colours.shape)
        Image.fromarray(colours.astype(np.uint8)).save(tmp_path / f"{name}.png")
    for name in ("a", "b"):
        Image.fromarray(labels).save(tmp_path / "labels" / f"{name}.png")
    return labels


def hue_job(folder, output="out/mask.png", **others):
    source = Source(folder / "images", folder / "labels")
    settings = InferenceSettings(supports=2, draws=1)
    return SegmentJob(folder / "target.png", (source,), folder / output, settings=settings, **others)


def test_a_structure_of_another_hue_is_found_and_the_mix_is_recorded(tmp_path, hues):
    record = run(hue_job(tmp_path), Report())
    assert (np.asarray(Image.open(tmp_path / "out" / "mask.png")) == hues).mean() > 0.98
    red, green, blue = record["colour"]["weights_rgb"]
    assert red * green < 0
    assert abs(red) + abs(green) + abs(blue) == pytest.approx(1, abs=1e-3)
    assert "better than luminance" in record["colour"]["why"]


def test_the_mix_of_a_record_asked_for_gives_the_same_result_and_luminance_another(tmp_path, hues):
    found = run(hue_job(tmp_path), Report())
    weights = tuple(found["colour"]["weights_rgb"])
    again = run(hue_job(tmp_path, "out/again.png", colour=ColourMix(weights, "asked for")), Report())
    plain = run(hue_job(tmp_path, "out/plain.png", colour=LUMINANCE), Report())
    prints = [each["provenance"]["support"]["axial"]["fingerprint"] for each in (found, again, plain)]
    assert prints[0] == prints[1] != prints[2]
    assert again["files"]["mask"]["sha256"] == found["files"]["mask"]["sha256"]
    assert plain["colour"] == {"weights_rgb": [0.2126, 0.7152, 0.0722], "why": "luminance"}


def test_labels_that_are_not_asked_for_count_as_background_of_the_colours(tmp_path, hues):
    for name in ("a", "b"):
        labels = hues.copy()
        labels[:, :4] = 2
        Image.fromarray(labels).save(tmp_path / "labels" / f"{name}.png")
    asked = run(hue_job(tmp_path, "out/asked.png", labels=(Label(1, "square"),)), Report())
    both = run(hue_job(tmp_path, "out/both.png"), Report())
    assert asked["colour"] != both["colour"]


def test_grey_examples_or_a_grey_target_leave_it_at_luminance_and_say_so(tmp_path, hues):
    Image.open(tmp_path / "target.png").convert("L").save(tmp_path / "target.png")
    assert run(hue_job(tmp_path), Report())["colour"]["why"] == "luminance, as a target is no colour picture"
    for path in (tmp_path / "images").iterdir():
        Image.open(path).convert("L").save(path)
    record = run(hue_job(tmp_path, overwrite=True), Report())
    assert record["colour"]["why"] == "luminance, as an example is no colour picture"
