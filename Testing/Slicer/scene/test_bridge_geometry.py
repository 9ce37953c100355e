"""A mask lands where it belongs and comes back as it was, whatever the grids and the transforms."""

import numpy as np
import pytest
from scipy import ndimage

from InContextSegLib.progress import exhausted
from InContextSegSlicer.scene import bridge
from Testing.Slicer.patients import (
    GEOMETRIES,
    SHAPE,
    addEditor,
    addSegmentation,
    addVolume,
    affineOf,
    affineOfVolume,
    ball,
    draw,
    fromWorld,
    linear,
    masks,
    put,
    toWorld,
    voxels,
    warpGrid,
    warpSpline,
)

ANY = ndimage.generate_binary_structure(3, 3)


def placed(scene, where):
    """(transform of the volume, transform of the segmentation)"""
    return {
        "no transform": lambda: (None, None),
        "on the volume": lambda: (linear(scene, (10, 20, -5), (4, -9, 13)), None),
        "on the segmentation": lambda: (None, linear(scene, (0, -8, 12), (-3, 5, 2))),
        "on both": lambda: (linear(scene, (10, 20, -5), (4, -9, 13)), linear(scene, (0, -8, 12), (-3, 5, 2), 1.1)),
        "warp on the volume": lambda: (warpGrid(scene), None),
        "warp on the segmentation": lambda: (None, warpGrid(scene)),
        "spline on the volume": lambda: (warpSpline(scene), None),
        "warps on both": lambda: (warpGrid(scene), warpSpline(scene)),
    }[where]()


WHERE = [
    "no transform", "on the volume", "on the segmentation", "on both", "warp on the volume",
    "warp on the segmentation", "spline on the volume", "warps on both",
]  # fmt: skip


def world(scene, geometry, where):
    """A volume and a segmentation of its frame, with neighbours: B and C share a labelmap, D lies across B."""
    affine = affineOf(GEOMETRIES[geometry])
    volume = addVolume(scene, np.zeros(SHAPE, np.int16), affine)
    segmentation = addSegmentation(scene, volume, segments=("A", "B", "C", "D"))
    one, two, across = np.zeros((3, *SHAPE), bool)
    one[:, :13, 3:12], two[:, 13:20, 20:], across[4:9, 5:15, 5:25] = True, True, True
    for segment, mask in (("B", one), ("C", two), ("D", across)):
        draw(scene, segmentation, segment, mask, affine)
    onVolume, onSegmentation = placed(scene, where)
    put(volume, onVolume)
    put(segmentation, onSegmentation)
    return volume, segmentation


def assertSamePlace(volume, mask, segmentation, segment, surface=1):
    """Every voxel of the segment has its centre in the mask, and all of the mask but its surface is in the segment."""
    ijk, affine = voxels(segmentation, segment)
    assert len(ijk)
    back = fromWorld(volume, affineOfVolume(volume), toWorld(segmentation, affine, ijk))
    nearest = np.rint(back)
    assert np.abs(back - nearest).max() <= 0.5
    # A centre exactly between two voxels may be either one's.
    inMask = ndimage.map_coordinates(mask.astype(np.float32), back[:, ::-1].T, order=0, mode="constant")
    tie = np.abs(np.abs(back - nearest) - 0.5).min(axis=1) < 1e-3
    assert inMask[~tie].all()
    inner = np.argwhere(ndimage.binary_erosion(mask, ANY, iterations=surface))[:, ::-1]
    assert len(inner)
    there = np.rint(fromWorld(segmentation, affine, toWorld(volume, affineOfVolume(volume), inner))).astype(int)
    assert {tuple(voxel) for voxel in there.tolist()} <= {tuple(voxel) for voxel in ijk.tolist()}


def assertSameUpToSurface(found, mask, surface=1):
    inner = ndimage.binary_erosion(mask, ANY, iterations=surface)
    outer = ndimage.binary_dilation(mask, ANY, iterations=surface)
    assert not (inner & ~found).any()
    assert not (found & ~outer).any()


def write(scene, volume, segmentation, mask, **more):
    low = np.argwhere(mask).min(axis=0)
    high = np.argwhere(mask).max(axis=0) + 1
    block = mask[tuple(map(slice, low, high))].astype(np.uint8)
    editor = addEditor(scene, segmentation, volume)
    editor.SetOverwriteMode(editor.OverwriteNone)
    writer = bridge.SegmentWriter(scene, editor)
    return writer, exhausted(writer.write(volume, segmentation, block, tuple(low.tolist()), {1: "A"}, **more))


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_mask_lands_on_the_same_world_points_and_neighbours_keep_every_voxel(scene, geometry, where):
    volume, segmentation = world(scene, geometry, where)
    mask, before = ball(), masks(segmentation)
    writer, written = write(scene, volume, segmentation, mask)
    assert written == {"A": len(voxels(segmentation, "A")[0])}
    assertSamePlace(volume, mask, segmentation, "A")
    after = masks(segmentation)
    assert {name: after[name] for name in "BCD"} == {name: before[name] for name in "BCD"}
    found = exhausted(bridge.labelsOnGrid(segmentation, {"A": 1}, volume)) == 1
    if where == "no transform":
        assert np.array_equal(found, mask)
    assertSameUpToSurface(found, mask)
    exhausted(writer.undo())
    assert masks(segmentation) == before
    exhausted(writer.redo())
    assert masks(segmentation) == after


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_one_transform_on_both_changes_no_voxel(scene, geometry):
    volume, segmentation = world(scene, geometry, "no transform")
    warp = warpGrid(scene)
    put(volume, warp)
    put(segmentation, warp)
    write(scene, volume, segmentation, ball())
    assert np.array_equal(exhausted(bridge.labelsOnGrid(segmentation, {"A": 1}, volume)) == 1, ball())


@pytest.mark.parametrize("where", ["on both", "warp on the volume", "warp on the segmentation"])
def test_a_hardened_transform_changes_nothing_of_where_a_mask_lies(scene, where):
    # Slicer itself cuts off segments when it hardens a warp on oblique axes, so along the axes here.
    volume, segmentation = world(scene, "left-handed", where)
    write(scene, volume, segmentation, ball())
    before = exhausted(bridge.labelsOnGrid(segmentation, {"A": 1}, volume)) == 1
    segmentation.HardenTransform()
    after = exhausted(bridge.labelsOnGrid(segmentation, {"A": 1}, volume)) == 1
    assertSameUpToSurface(after, before)
    write(scene, volume, segmentation, ball(), replace="all")
    assertSamePlace(volume, ball(), segmentation, "A")


def test_a_mask_read_from_a_segmentation_lands_in_a_hardened_volume(scene):
    volume, segmentation = world(scene, "anisotropic", "on the volume")
    write(scene, volume, segmentation, ball())
    volume.HardenTransform()
    assertSamePlace(volume, ball(), segmentation, "A")
    found = exhausted(bridge.labelsOnGrid(segmentation, {"A": 1}, volume)) == 1
    assertSameUpToSurface(found, ball())


@pytest.mark.parametrize("factor", [2.0, 0.5, 1.0])
@pytest.mark.parametrize("where", ["no transform", "on the segmentation", "warp on the volume"])
def test_a_segmentation_with_a_grid_of_its_own_keeps_it(scene, factor, where):
    volume = addVolume(scene, np.zeros(SHAPE, np.int16), affineOf(GEOMETRIES["oblique"]))
    affine = affineOf(GEOMETRIES["oblique"] * factor, (-15.2, 5.1, 29.4))
    shape = tuple(int(length / factor) + 6 for length in SHAPE)
    segmentation = addSegmentation(scene, addVolume(scene, np.zeros(shape, np.uint8), affine), segments=("A", "B"))
    other = np.zeros(shape, bool)
    other[:, :4] = True
    draw(scene, segmentation, "B", other, affine)
    onVolume, onSegmentation = placed(scene, where)
    put(volume, onVolume)
    put(segmentation, onSegmentation)
    before = masks(segmentation)
    write(scene, volume, segmentation, ball())
    assert np.allclose(voxels(segmentation, "A")[1], affine)
    assert masks(segmentation)["B"] == before["B"]
    surface = 2 if factor > 1 else 1
    assertSamePlace(volume, ball(), segmentation, "A", surface)
    found = exhausted(bridge.labelsOnGrid(segmentation, {"A": 1}, volume)) == 1
    assertSameUpToSurface(found, ball(), surface)


def test_a_mask_larger_than_the_grid_of_the_segmentation_is_written_whole(scene):
    volume = addVolume(scene, np.zeros(SHAPE, np.int16), affineOf(GEOMETRIES["oblique"]))
    small = addVolume(scene, np.zeros((6, 6, 6), np.uint8), affineOf(GEOMETRIES["oblique"]))
    segmentation = addSegmentation(scene, small, segments=("A",))
    write(scene, volume, segmentation, ball())
    assert np.array_equal(exhausted(bridge.labelsOnGrid(segmentation, {"A": 1}, volume)) == 1, ball())
