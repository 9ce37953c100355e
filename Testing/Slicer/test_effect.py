"""The effect of the Segment Editor, driven by the mouse in real slice views of volumes that lie at all angles."""

import sys

import numpy as np
import pytest

from Testing.Slicer.corrector import Corrector
from Testing.Slicer.patients import GEOMETRIES, addSegmentation, addVolume, affineOf, put, somewhere

SHAPE = (20, 26, 32)
VIEWS = {"axial": "Red", "sagittal": "Yellow", "coronal": "Green"}


def volumeOf(scene, geometry="anisotropic", where="here", shape=SHAPE):
    values = np.random.default_rng(0).integers(0, 400, shape).astype(np.int16)
    volume = addVolume(scene, values, affineOf(GEOMETRIES[geometry]))
    volume.CreateDefaultDisplayNodes()
    transform = somewhere(scene, where)
    put(volume, transform)
    segmentation = addSegmentation(scene, None, "Drawn", ("organ", "neighbour"))
    put(segmentation, transform)
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    return volume, segmentation


@pytest.fixture
def corrector(scene, monkeypatch):
    return Corrector(monkeypatch, *volumeOf(scene))


def test_slicer_loads_the_effect_without_harm_to_the_package(corrector):
    assert hasattr(sys.modules["InContextSegSlicer"], "__path__")
    assert sys.modules["SegmentEditorInContextSegLib"].SegmentEditorEffect is type(corrector.effect)


@pytest.mark.parametrize("axis", VIEWS)
@pytest.mark.parametrize("where", ["here", "moved"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_clicked_voxel_is_the_prompted_voxel_and_the_mask_lies_under_it(scene, monkeypatch, geometry, where, axis):
    corrector = Corrector(monkeypatch, *volumeOf(scene, geometry, where))
    voxel = (11, 9, 20)
    along = corrector.along(axis)
    corrector.look(VIEWS[axis], voxel[along], axis)
    corrector.click(voxel, VIEWS[axis])
    corrector.settle()
    (asked,) = corrector.worker.corrected
    assert (asked["axis"], asked["index"]) == (axis, voxel[along])
    shown = corrector.shown()
    assert shown[voxel]
    assert set(np.unique(np.argwhere(shown)[:, along])) == {voxel[along]}
    np.testing.assert_allclose(np.argwhere(shown).mean(axis=0), voxel, atol=0.35)
    corrector.views["Red"].key("Return")
    np.testing.assert_array_equal(corrector.drawn(), shown)
    assert not corrector.shown().any()


def test_under_a_warp_the_clicked_voxel_is_prompted_too(scene, monkeypatch):
    corrector = Corrector(monkeypatch, *volumeOf(scene, "left-handed", "warped"))
    corrector.look("Red", 10)
    x, y = corrector.pixel((10, 13, 16))
    corrector.views["Red"].click(x, y)
    corrector.settle()
    shown = corrector.shown()
    assert shown.any() and shown[corrector.correction.place.index, 13, 16]
