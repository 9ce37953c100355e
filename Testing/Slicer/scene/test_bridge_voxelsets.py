"""Sets of voxels give back what was put into them, as bits and as text."""

import numpy as np
import pytest

from InContextSegLib.progress import exhausted
from InContextSegSlicer.scene.grid_mapping import Grid
from InContextSegSlicer.scene.voxelsets import VoxelSet
from Testing.Slicer.patients import GEOMETRIES, affineOf

GRID = Grid(affineOf(GEOMETRIES["oblique"]))
SHAPE = (14, 17, 21)
CORNER = np.array((-3, 5, -9))  # of the mask


def scattered(share):
    return np.random.default_rng(2).random(SHAPE) < share


def inParts(mask):
    """The set of a mask, put in slab by slab."""
    voxels = VoxelSet()
    for start in range(0, SHAPE[0], 4):
        voxels.add(CORNER + np.array((start, 0, 0)), mask[start : start + 4])
    return voxels


@pytest.mark.parametrize("share", [0.0, 0.002, 0.5, 1.0])
def test_any_box_of_a_set_is_what_was_put_in(share):
    mask = scattered(share)
    voxels, places = inParts(mask), np.argwhere(mask)
    assert bool(voxels) == mask.any()
    if mask.any():
        assert np.array_equal(np.array(voxels.box) - CORNER, [places.min(axis=0), places.max(axis=0) + 1])
    everything = np.pad(mask, 5)
    generator = np.random.default_rng(4)
    for _ in range(60):
        low = generator.integers(-5, 14, 3)
        high = low + generator.integers(1, 10, 3)
        expected = everything[tuple(map(slice, low + 5, high + 5))]
        found = voxels.within(CORNER + low, CORNER + low + expected.shape)
        assert np.array_equal(expected, np.zeros_like(expected) if found is None else found)


@pytest.mark.parametrize("share", [0.002, 0.5, 1.0])
def test_a_set_survives_being_a_text(share):
    voxels = inParts(scattered(share))
    text = exhausted(voxels.encoded(GRID))
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")
    again = VoxelSet.decoded(text, GRID)
    high = CORNER + SHAPE
    assert np.array_equal(again.within(CORNER, high), voxels.within(CORNER, high))
    assert not VoxelSet.decoded(text, Grid(GRID.affine @ np.diag([1, 1, 1.1, 1])))
    assert not VoxelSet.decoded(text[:-8], GRID)
