"""The effect of the Segment Editor before the real worker and the released network."""

from dataclasses import replace

import numpy as np

from InContextSegLib.files import read_segments
from InContextSegSlicer.examples import ExampleRow
from Testing.Slicer.corrector import Corrector
from Testing.Slicer.harness import app
from Testing.Slicer.patients import addSegmentation, addVolume, affineOf

SHAPE = (6, 96, 96)
TIMEOUT_S = 120


def discOf(scene, seed=0):
    _, rows, columns = np.indices(SHAPE)
    disc = (rows - 40) ** 2 + (columns - 52) ** 2 < 15**2
    noise = np.random.default_rng(seed).normal(0, 8, SHAPE)
    volume = addVolume(scene, (100 * disc + noise).astype(np.int16), affineOf(np.diag([1.0, 1.0, 4.0])))
    return volume, addSegmentation(scene, volume, segments=("disc",)), disc


def until(corrector, condition):
    assert app.pump(TIMEOUT_S, until=condition), corrector.correction.message


def test_saved_examples_help_the_next_patient_in_another_scene(scene, monkeypatch, tmp_path):
    volume, segmentation, disc = discOf(scene)
    segmentation.GetSegmentation().GetSegment("disc").SetColor(0.1, 0.6, 0.9)
    corrector = Corrector(monkeypatch, volume, segmentation, worker=None)
    corrector.look("Red", 2)
    corrector.click((2, 40, 52))
    until(corrector, lambda: not corrector.correction.working)
    corrector.applied()
    corrector.options.propagation.start.click()
    until(corrector, lambda: not corrector.correction.working)
    corrector.options.propagation.buttons["acceptAll"].click()
    app.answers.give("QFileDialog.getExistingDirectory", str(tmp_path))
    corrector.options.save.click()
    until(corrector, lambda: "saved in" in corrector.correction.message)
    labels = segmentFileOf(tmp_path / "labels" / "CT.seg.nrrd")
    assert labels == ("disc", (0.1, 0.6, 0.9))
    scene.Clear(0)
    app.pump(0.1)
    volume, segmentation, disc = discOf(scene, seed=1)
    segmentation.GetSegmentation().GetSegment("disc").SetName("disc")
    corrector.reopen(volume, segmentation)
    answers = []
    folders = {"images": str(tmp_path / "images"), "labels": str(tmp_path / "labels")}
    corrector.correction.client.ask("describe", folders, on_done=answers.append)
    until(corrector, lambda: answers)
    (pair,) = answers[0]["pairs"]
    assert pair["axis"] == "axial" and 2 in pair["slices"] and len(pair["slices"]) > 1
    row = ExampleRow(imagePath=pair["image"], labelsPath=pair["mask"], names=((1, "disc"),))
    corrector.correction.context.examples.add(replace(row, slices=tuple(pair["slices"]), axis=pair["axis"]))
    corrector.look("Red", 3)
    corrector.views["Red"].mouse("MouseMoveEvent", *corrector.pixel((3, 40, 52)))
    corrector.click((3, 40, 52))
    until(corrector, lambda: not corrector.correction.working)
    assert corrector.correction.answer.context == len(pair["slices"]) or corrector.correction.answer.context == 4
    assert dice(corrector.shown()[3], disc[3]) > 0.8


def segmentFileOf(path):
    (segment,) = read_segments(path)
    return segment.name, tuple(round(part, 3) for part in segment.colour)


def test_a_click_finds_the_bright_disc_and_its_slice_finds_it_in_the_next(scene, monkeypatch):
    volume, segmentation, disc = discOf(scene)
    corrector = Corrector(monkeypatch, volume, segmentation, worker=None)
    corrector.look("Red", 2)
    corrector.click((2, 40, 52))
    assert app.pump(TIMEOUT_S, until=lambda: not corrector.correction.working), corrector.correction.message
    assert dice(corrector.shown()[2], disc[2]) > 0.8, corrector.correction.message
    corrector.applied()
    corrector.look("Red", 3)
    assert app.pump(TIMEOUT_S, until=lambda: not corrector.correction.working), corrector.correction.message
    assert corrector.correction.answer.context == 1
    assert dice(corrector.shown()[3], disc[3]) > 0.8, "without a click"
    corrector.click((3, 40, 40))
    corrector.settle()
    assert dice(corrector.shown()[3], disc[3]) > 0.8


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())
