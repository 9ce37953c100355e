"""Scores agree with cases worked out by hand and with SimpleITK, and undefined values stay undefined."""

import math

import numpy as np
import pytest
import SimpleITK

from InContextSegLib.errors import InputError
from InContextSegLib.evaluation.metrics import (
    Scores,
    SurfaceDistances,
    asd_mm,
    bootstrap_interval,
    evaluate_labels,
    hd95_mm,
    hierarchical_mean,
    nsd,
    summarise,
)
from InContextSegLib.volumes.overlap import dice, iou


def box(shape, low, high):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def blobs(generator, shape):
    """Two overlapping noisy masks with holes and islands."""
    noise = SimpleITK.GetImageFromArray(generator.normal(size=shape))
    smooth = SimpleITK.GetArrayFromImage(SimpleITK.DiscreteGaussian(noise, 2.0))
    moved = np.roll(smooth, (0, 2, 1), axis=(0, 1, 2)) + 0.2 * smooth
    return smooth > 0.02, moved > 0.03


def by_brute_force(prediction, truth, spacing_mm):
    """Both directions' surface distances from the definition alone: every pair of surface voxels."""

    def surface(mask):
        inside = np.pad(mask, 1)
        points = []
        for voxel in np.argwhere(mask):
            for axis, step in ((a, s) for a in range(3) if mask.shape[a] > 1 for s in (-1, 1)):
                neighbour = voxel + 1
                neighbour[axis] += step
                if not inside[tuple(neighbour)]:
                    points.append(voxel * spacing_mm)
                    break
        return np.array(points)

    ours, theirs = surface(prediction), surface(truth)
    pairs = np.linalg.norm(ours[:, None] - theirs[None], axis=-1)
    return pairs.min(axis=1), pairs.min(axis=0)


def test_two_cubes_shifted_by_3_mm_have_the_scores_worked_out_by_hand():
    # Cubes of edge 10 mm, voxels of 1 mm; the first reaches over i = 2..11, the second over i = 5..14.
    prediction, truth = box((20, 20, 20), (5, 5, 2), (15, 15, 12)), box((20, 20, 20), (5, 5, 5), (15, 15, 15))
    assert dice(prediction, truth) == pytest.approx(0.7)
    assert iou(prediction, truth) == pytest.approx(700 / 1300)
    # Surface of the first cube, slice by slice along i, and its distance from the second's:
    #   i = 2      the whole face of 100 voxels, 3 mm
    #   i = 3, 4   frames of 36 voxels, 2 and 1 mm
    #   i = 5..10  frames that lie on the second cube's surface, 0 mm
    #   i = 11     a face inside the second: its frame 0 mm, the next frames of 28 and 20 voxels 1 and 2 mm off the
    #              sides, the 16 voxels in the middle 3 mm (the sides or, for four of them, the face at i = 14)
    distances = SurfaceDistances.between(prediction, truth, (1, 1, 1))
    assert distances.prediction_mm.size == distances.truth_mm.size == 1000 - 8**3
    counts = {3: 100 + 16, 2: 36 + 20, 1: 36 + 28}
    assert {mm: np.count_nonzero(distances.prediction_mm == mm) for mm in counts} == counts
    assert asd_mm(distances) == pytest.approx((116 * 3 + 56 * 2 + 64 * 1) / 488)
    assert hd95_mm(distances) == 3.0
    assert nsd(distances, 2) == pytest.approx(372 / 488)
    assert nsd(distances, 3) == 1.0


def test_distances_are_in_mm_along_each_axis_of_an_anisotropic_volume():
    shape, spacing = (9, 9, 9), (5.0, 0.5, 2.0)
    dot = box(shape, (4, 4, 4), (5, 5, 5))
    for axis, step in enumerate(spacing):
        moved = np.roll(dot, 2, axis=axis)
        distances = SurfaceDistances.between(moved, dot, spacing)
        assert asd_mm(distances) == hd95_mm(distances) == pytest.approx(2 * step)
        assert nsd(distances, 2 * step) == 1.0
        assert nsd(distances, 1.99 * step) == 0.0


def test_a_distance_of_exactly_the_tolerance_is_inside_whatever_the_last_bits_say():
    left, right = box((1, 1, 9), (0, 0, 0), (1, 1, 1)), box((1, 1, 9), (0, 0, 3), (1, 1, 4))
    assert nsd(SurfaceDistances.between(left, right, (1, 1, 0.7)), 2.1) == 1.0


@pytest.mark.parametrize(("shape", "spacing"), [((9, 14, 12), (3.0, 0.7, 1.1)), ((1, 24, 20), (8.0, 0.5, 0.9))])
def test_surface_distances_are_those_of_the_definition(shape, spacing, generator):
    prediction, truth = blobs(generator, shape)
    distances = SurfaceDistances.between(prediction, truth, spacing)
    ours, theirs = by_brute_force(prediction, truth, spacing)
    np.testing.assert_allclose(distances.prediction_mm, ours, atol=1e-5)
    np.testing.assert_allclose(distances.truth_mm, theirs, atol=1e-5)


def test_overlap_and_distances_agree_with_simpleitk(generator):
    prediction, truth = blobs(generator, (12, 20, 16))
    spacing = (2.0, 0.8, 1.3)
    images = [SimpleITK.GetImageFromArray(np.pad(mask, 1).astype(np.uint8)) for mask in (prediction, truth)]
    for image in images:
        image.SetSpacing(spacing[::-1])
    overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*images)
    assert dice(prediction, truth) == pytest.approx(overlap.GetDiceCoefficient())
    assert iou(prediction, truth) == pytest.approx(overlap.GetJaccardCoefficient())
    distances = SurfaceDistances.between(prediction, truth, spacing)
    hausdorff = SimpleITK.HausdorffDistanceImageFilter()
    hausdorff.Execute(*(SimpleITK.LabelContour(image, fullyConnected=False) for image in images))
    assert distances.pooled_mm.max() == pytest.approx(hausdorff.GetHausdorffDistance(), rel=1e-5)
    # ITK averages the two directions, where the ASD averages over all surface voxels.
    directions = (distances.prediction_mm.mean() + distances.truth_mm.mean()) / 2
    assert directions == pytest.approx(hausdorff.GetAverageHausdorffDistance(), rel=1e-5)


def test_hd95_takes_the_worse_direction_and_forgives_the_last_twentieth():
    truth = box((1, 1, 400), (0, 0, 0), (1, 1, 1))
    prediction = truth.copy()
    prediction[0, 0, [10, 300]] = True
    distances = SurfaceDistances.between(prediction, truth, (1, 1, 1))
    assert sorted(distances.prediction_mm) == [0, 10, 300]
    assert hd95_mm(distances) == pytest.approx(np.percentile([0, 10, 300], 95))
    assert hd95_mm(SurfaceDistances(np.zeros(100), np.r_[np.zeros(96), np.full(4, 50.0)])) == 0.0


def test_a_one_slice_image_is_measured_in_its_plane_only():
    # A 4 x 4 square: 12 of its 16 pixels are its outline. As a volume all 16 would be surface.
    square = box((1, 10, 10), (0, 3, 3), (1, 7, 7))
    distances = SurfaceDistances.between(square, np.roll(square, 1, axis=2), (100.0, 1.0, 1.0))
    assert distances.prediction_mm.size == 12
    assert asd_mm(distances) == pytest.approx((4 * 1 + 2 * 1) / 12)
    across = SurfaceDistances.between(square[:, :, :].transpose(1, 0, 2), square.transpose(1, 0, 2), (1.0, 100.0, 1.0))
    assert across.prediction_mm.size == 12


def test_the_image_border_closes_a_mask_that_reaches_it():
    full = np.ones((4, 4, 4), dtype=bool)
    assert SurfaceDistances.between(full, full, (1, 1, 1)).prediction_mm.size == 64 - 8


def test_two_empty_masks_agree_and_have_no_distance():
    empty = np.zeros((3, 4, 5), dtype=np.uint8)
    scores = evaluate_labels(empty, empty, (1, 1, 1), [1], tolerance_mm=2)[1]
    assert (scores.dice, scores.iou, scores.nsd) == (1, 1, 1)
    assert math.isnan(scores.asd_mm) and math.isnan(scores.hd95_mm)


@pytest.mark.parametrize("swap", [False, True])
def test_one_empty_mask_scores_0_and_has_no_distance(swap):
    pair = [np.zeros((3, 4, 5), dtype=np.uint8), np.ones((3, 4, 5), dtype=np.uint8)]
    scores = evaluate_labels(*(pair[::-1] if swap else pair), (1, 1, 1), [1], tolerance_mm=2)[1]
    assert (scores.dice, scores.iou, scores.nsd) == (0, 0, 0)
    assert math.isnan(scores.asd_mm) and math.isnan(scores.hd95_mm)


def test_each_label_of_a_segmentation_is_scored_by_itself():
    truth = np.zeros((6, 6, 6), dtype=np.uint8)
    truth[:3], truth[3:5] = 1, 4
    prediction = truth.astype(np.uint16)
    prediction[3:5] = 2
    scores = evaluate_labels(prediction, truth, (1, 1, 1), [1, 2, 3, 4], tolerance_mm=1)
    assert scores[1] == Scores(1.0, 1.0, 0.0, 0.0, 1.0)
    assert [scores[label].dice for label in (2, 3, 4)] == [0, 1, 0]


def test_a_bool_mask_is_label_1():
    mask = box((4, 4, 4), (1, 1, 1), (3, 3, 3))
    assert evaluate_labels(mask, mask.astype(np.uint8), (1, 1, 1), [1])[1].dice == 1.0


def test_maps_that_cannot_be_compared_are_refused():
    mask = np.zeros((3, 4, 5), dtype=np.uint8)
    with pytest.raises(InputError, match=r"arrays of one shape; got \(3, 4, 5\) and \(3, 4, 4\)"):
        evaluate_labels(mask, mask[:, :, 1:], (1, 1, 1), [1])
    with pytest.raises(InputError, match=r"must be \(k, j, i\) arrays"):
        evaluate_labels(mask[0], mask[0], (1, 1, 1), [1])
    for spacing in [(1, 1), (1, 0, 1), (1, -1, 1), (1, math.nan, 1), (1, math.inf, 1)]:
        with pytest.raises(InputError, match="three positive numbers in mm"):
            evaluate_labels(mask, mask, spacing, [1])
    for tolerance in (-1, math.nan):
        with pytest.raises(InputError, match="tolerance must be 0 mm or more"):
            evaluate_labels(mask, mask, (1, 1, 1), [1], tolerance)
    with pytest.raises(InputError, match="must be 1 or more, 0 being background; got 0, 1"):
        evaluate_labels(mask, mask, (1, 1, 1), [0, 1])


def test_undefined_values_are_counted_and_never_averaged_in(generator):
    summary = summarise([1.0, math.nan, 3.0, math.nan, math.nan], generator)
    assert (summary.mean, summary.defined, summary.undefined) == (2.0, 2, 3)
    assert 1.0 <= summary.low <= 2.0 <= summary.high <= 3.0


def test_a_mean_of_nothing_is_undefined(generator):
    for values in ([], [math.nan]):
        summary = summarise(values, generator)
        assert math.isnan(summary.mean) and math.isnan(summary.low) and math.isnan(summary.high)
        assert (summary.defined, summary.undefined) == (0, len(values))


def test_one_value_has_a_mean_but_no_interval(generator):
    summary = summarise([0.5], generator)
    assert summary.mean == 0.5 and math.isnan(summary.low) and math.isnan(summary.high)


def test_the_bootstrap_interval_is_near_the_one_of_theory_and_repeats_with_its_generator(generator):
    values = generator.normal(10, 2, size=400)
    low, high = bootstrap_interval(values, np.random.default_rng(1))
    half = 1.96 * values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)
    assert bootstrap_interval(values, np.random.default_rng(1)) == (low, high)
    narrow = bootstrap_interval(values, np.random.default_rng(1), level=0.5)
    assert low < narrow[0] < narrow[1] < high


@pytest.mark.parametrize(("level", "draws"), [(0, 10), (1, 10), (95, 10), (0.95, 0)])
def test_an_interval_without_sense_is_refused(level, draws, generator):
    with pytest.raises(InputError, match=f"got {level} and {draws}"):
        bootstrap_interval([1.0, 2.0], generator, level, draws)
    with pytest.raises(InputError, match="level between 0 and 1 and at least 1 draw"):
        hierarchical_mean({"set": {"task": [1.0, 2.0]}}, generator, level, draws)


def test_the_hierarchical_mean_gives_every_data_set_the_same_weight(generator):
    values = {
        "large": {"a": [0.0] * 100, "b": [1.0, 1.0]},
        "small": {"a": [1.0]},
        "undefined": {"a": [math.nan, math.nan]},
    }
    summary = hierarchical_mean(values, generator)
    assert summary.mean == pytest.approx((0.5 + 1.0) / 2)
    assert (summary.defined, summary.undefined) == (103, 2)
    assert summary.low == summary.high == pytest.approx(0.75)


def test_the_hierarchical_interval_resamples_cases_inside_their_task():
    values = {"set": {"a": list(np.linspace(0, 1, 50)), "b": [5.0]}}
    summary = hierarchical_mean(values, np.random.default_rng(1))
    low, high = bootstrap_interval(values["set"]["a"], np.random.default_rng(1))
    assert (summary.low, summary.high) == (pytest.approx((low + 5) / 2), pytest.approx((high + 5) / 2))


def test_a_hierarchy_of_single_or_undefined_cases_has_no_interval(generator):
    for values, mean in (({"a": {"x": [1.0]}, "b": {"x": [3.0]}}, 2.0), ({"a": {"x": []}}, math.nan), ({}, math.nan)):
        summary = hierarchical_mean(values, generator)
        assert summary.mean == pytest.approx(mean, nan_ok=True)
        assert math.isnan(summary.low) and math.isnan(summary.high)
