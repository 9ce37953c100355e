"""The effect of the Segment Editor before the real worker and the released network."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from InContextSegLib.volumes.files import read_segments
from InContextSegLib.volumes.overlap import dice
from InContextSegSlicer.scene.examples import ExampleRow
from InContextSegSlicer.scene.reading import arrayOf
from Testing.Slicer.corrector import Corrector
from Testing.Slicer.effect.test_oblique import turn
from Testing.Slicer.harness import app
from Testing.Slicer.patients import GEOMETRIES, addSegmentation, addVolume, affineOf

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


@pytest.mark.parametrize("geometry", ["oblique", "left-handed"])
def test_a_click_in_a_turned_view_finds_the_cube_and_writes_it(scene, monkeypatch, geometry):
    shape, middle = (60, 72, 80), (30, 36, 44)
    cube = (np.abs(np.indices(shape) - np.reshape(middle, (3, 1, 1, 1))) <= 12).all(axis=0)
    noise = np.random.default_rng(0).normal(0, 8, shape)
    volume = addVolume(scene, (100 * cube + noise).astype(np.int16), affineOf(GEOMETRIES[geometry]))
    volume.CreateDefaultDisplayNodes()
    segmentation = addSegmentation(scene, volume, segments=("cube",))
    segmentation.GetSegmentation().GetSegment("cube").SetColor(1, 0.2, 0)
    corrector = Corrector(monkeypatch, volume, segmentation, worker=None)
    widget = turn(corrector, (35, 20, 0), middle)
    corrector.click(middle)
    assert app.pump(TIMEOUT_S, until=lambda: not corrector.correction.working), corrector.correction.message
    cut = corrector.correction.cuts.known(corrector.correction.place.plane, volume)
    answer = corrector.correction.answer
    assert dice(answer.probability[0] >= 128, arrayOf(cut.node)[0] > 50) > 0.8, corrector.correction.message
    picture = picturesOf(widget, f"turned-{geometry}")
    coloured = np.ptp(picture.astype(int), axis=-1) > 40
    assert coloured.mean() > 0.01, "the preview is seen"
    corrector.applied()
    picturesOf(widget, f"turned-{geometry}-applied")
    drawn = corrector.drawn()
    assert drawn[middle] and drawn.any(axis=(1, 2)).sum() > 10 and drawn.any(axis=(0, 1)).sum() > 10
    assert (drawn & cube).sum() > 0.8 * drawn.sum()


def picturesOf(widget, name):
    """What a view shows, kept as a file where somebody wants to see it."""
    picture = widget.image()
    folder = os.environ.get("INCONTEXTSEG_SCREENSHOTS")
    if folder:
        from PIL import Image

        Image.fromarray(picture).save(Path(folder) / f"{name}.png")
    return picture
