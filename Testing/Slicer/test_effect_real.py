"""The effect of the Segment Editor before the real worker and the released network."""

import numpy as np

from Testing.Slicer.corrector import Corrector
from Testing.Slicer.harness import app
from Testing.Slicer.patients import addSegmentation, addVolume, affineOf

SHAPE = (6, 96, 96)
TIMEOUT_S = 120


def test_a_click_finds_the_bright_disc_and_its_slice_finds_it_in_the_next(scene, monkeypatch):
    _, rows, columns = np.indices(SHAPE)
    disc = (rows - 40) ** 2 + (columns - 52) ** 2 < 15**2
    noise = np.random.default_rng(0).normal(0, 8, SHAPE)
    volume = addVolume(scene, (100 * disc + noise).astype(np.int16), affineOf(np.diag([1.0, 1.0, 4.0])))
    segmentation = addSegmentation(scene, volume, segments=("disc",))
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
