"""Leave-one-out calibration: what examples teach about themselves; nothing is changed where they cannot tell."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from InContextSegLib.adaptation.calibration import EMPTY, SHOWING, calibrate, finer_sizes, sizes_for
from InContextSegLib.adaptation.leave_out import gains
from InContextSegLib.errors import Cancelled
from InContextSegLib.examples.support import Example, Label, SupportSet
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.inference.prior import Prior
from InContextSegLib.inference.session import Session
from InContextSegLib.inference.settings import InferenceSettings
from InContextSegLib.progress import Report
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.volumes.geometry import Kind, Volume
from Testing.Library.fake_segmenter import BRIGHT, SIZE, Threshold, grid

CPU = torch.device("cpu")
THING = Label(1, "thing")


class Recorder(Threshold):
    """Also remembers the masks of every context it was asked with."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def segment(self, embedding, context):
        self.masks.append(context.masks[0, :, 0])
        return super().segment(embedding, context)


def example(number, brightness, size=SIZE, position=None, thick=None):
    """A square of that brightness on black, lower for every number; `thick`: only a bar of so many pixels."""
    image, labels = np.zeros((size, size), np.float32), np.zeros((size, size), np.uint16)
    unit = size // SIZE
    rows = slice((2 + number) * unit, (2 + number) * unit + (thick or 8 * unit))
    image[rows, 4 * unit : 20 * unit] = brightness
    labels[rows, 4 * unit : 20 * unit] = 1
    name = f"case{number // 3}.nii.gz axial {number}" if position is not None else f"picture{number}"
    return Example(image, labels, position, name)


def support_of(examples):
    return SupportSet(tuple(examples), (THING,), "axial", examples[0].image.shape[0])


def calibrated(support, network=None, shown=16):
    network = CachedSegmenter(network or Threshold(), CPU)
    return calibrate(network, lambda size: support, (support.size,), shown, Report())


def test_a_structure_that_the_network_is_unsure_of_gets_a_lower_threshold():
    # Logit -1, probability 0.27: nothing is found at 0.5 and everything at 0.2.
    unsure = calibrated(support_of([example(n, BRIGHT - 0.05) for n in range(4)]))
    assert unsure.shifts[1] == pytest.approx(np.log(0.8 / 0.2))
    assert unsure.dice[1] == 1.0


def test_a_structure_that_is_found_anyway_keeps_its_threshold():
    found = calibrated(support_of([example(n, 1.0) for n in range(4)]))
    assert found.shifts == {1: 0.0} and found.dice == {1: 1.0}
    assert str(found.record["logit_shifts"]["1"]) == "0.0"  # not -0.0


def test_an_empty_example_holds_against_a_low_threshold():
    """What lights up falsely where nothing is wanted costs as much as a missed structure."""
    ghosts = [replace(example(n, BRIGHT - 0.05), labels=np.zeros((SIZE, SIZE), np.uint16)) for n in range(4, 7)]
    told = calibrated(support_of([example(n, 1.0) for n in range(3)] + ghosts))
    assert told.shifts == {1: 0.0} and told.dice[1] == 1.0


def test_two_pictures_are_too_few_to_learn_anything():
    support = support_of([example(n, BRIGHT - 0.05) for n in range(2)])
    nothing = calibrated(support)
    assert nothing.support is support
    assert (nothing.shifts, nothing.dice, nothing.tried) == ({}, {}, {})


def test_slices_of_one_volume_count_once_and_do_not_predict_one_another():
    slices = [example(n, 1.0, position=n / 12) for n in range(6)]
    assert calibrated(support_of(slices)).shifts == {}  # two volumes
    network = Recorder()
    calibrated(support_of([example(n, 1.0, position=n / 12) for n in range(9)]), network)
    assert [len(masks) for masks in network.masks[:SHOWING]] == [6] * SHOWING  # never one of the own three slices


def test_no_more_examples_are_shown_than_asked_for_and_no_more_are_left_out_than_planned():
    network = Recorder()
    labelled = [example(n, 1.0) for n in range(15)]
    empty = [
        replace(each, labels=np.zeros((SIZE, SIZE), np.uint16), source=f"empty{n}") for n, each in enumerate(labelled)
    ]
    told = calibrated(support_of(labelled + empty), network, shown=5)
    counts = [len(masks) for masks in network.masks]
    assert set(counts) == {5, 4, 2}
    assert SHOWING <= counts.count(5) <= SHOWING + EMPTY
    assert told.shown == 5  # fewer gain nothing here


class Diluted(Threshold):
    """Finds what at least half of the examples shown have in its very place."""

    def segment(self, embedding, context):
        super().segment(embedding, context)
        return (context.masks.float().mean(dim=1) - 0.49) * 20


def test_fewer_examples_are_shown_where_more_only_dilute_the_one_that_resembles():
    """Three kinds of pictures, four of each: only those of one's own kind know where the thing is."""
    kinds = [example(8 * (n % 3), 1.0) for n in range(12)]
    support = support_of([replace(each, source=f"picture{n}") for n, each in enumerate(kinds)])
    told = calibrated(support, Diluted())
    assert told.shown == 4 and told.dice == {1: 1.0}
    assert told.tried[SIZE, 16] < 0.6
    session = Session(Diluted(), [support], Intensities((0.0, 1.0)), {"entry": "fake"}, CPU, Prior(told))
    target = Volume(kinds[0].image[None], grid((1, SIZE, SIZE), (1.0, 1.0, 1.0)), Kind.INTENSITY)
    settings = InferenceSettings(supports=16, draws=1, axes=("axial",))
    mask = session.segment(target, settings, Report()).mask.array
    np.testing.assert_array_equal(mask[0], kinds[0].labels)


def at_sizes(thick):
    """Bars that are `thick` pixels wide in the larger picture and fainter in the smaller one, as if averaged."""

    def cut(size):
        seen = 1.0 if size > SIZE else min(1.0, thick / 2)
        return support_of(
            [example(n, seen, size, thick=thick if size > SIZE else max(1, thick // 2)) for n in range(4)]
        )

    return cut


def test_a_larger_picture_is_chosen_where_only_it_shows_the_structure():
    network = CachedSegmenter(Threshold(), CPU)
    chosen = calibrate(network, at_sizes(1), (SIZE, 2 * SIZE), 16, Report())
    assert chosen.support.size == 2 * SIZE
    assert chosen.tried[SIZE, 16] < 0.8 < chosen.tried[2 * SIZE, 16] == 1.0


def test_the_small_picture_stays_where_the_larger_one_shows_no_more():
    network = CachedSegmenter(Threshold(), CPU)
    chosen = calibrate(network, at_sizes(8), (SIZE, 2 * SIZE), 16, Report())
    assert chosen.support.size == SIZE
    assert chosen.tried[2 * SIZE, 16] == 1.0 < chosen.tried[SIZE, 16] + 0.02


@pytest.mark.parametrize(("voxel_mm", "sizes"), [(1.0, (SIZE,)), (0.3, (SIZE, 2 * SIZE))])
def test_the_larger_size_is_tried_where_the_image_has_more_to_show(voxel_mm, sizes):
    """A field of 30 mm fills the network's 32 pixels; voxels of 0.3 mm are three to a pixel."""
    count = round(30 / voxel_mm)
    assert sizes_for(grid((6, count, count), (5.0, voxel_mm, voxel_mm)), "axial", SIZE, 1) == sizes


@pytest.mark.parametrize(("axis", "sizes"), [("axial", (SIZE,)), ("coronal", (SIZE, 2 * SIZE))])
def test_how_thin_the_slices_are_does_not_count(axis, sizes):
    """Pixels of 1 mm show all of 1 mm voxels; across them, only the larger picture shows steps of 0.5 mm."""
    assert sizes_for(grid((60, SIZE, SIZE), (0.5, 1.0, 1.0)), axis, SIZE, 1) == sizes


@pytest.mark.parametrize(
    ("slices", "across", "sizes"),
    [(1, 2048, (256, 384, 512, 768)), (1, 512, (256, 384, 512, 768)), (1, 280, (256, 384)), (2, 2048, (256,))],
)
def test_heads_see_pictures_as_finely_as_these_are_and_volumes_at_the_networks_size(slices, across, sizes):
    assert finer_sizes(grid((slices, across, across), (1.0, 0.1, 0.1)), "axial", 256) == sizes


def test_a_calibration_can_be_cancelled_between_two_examples():
    report, network = Report(lambda done, total, message: report.cancel()), Threshold()
    with pytest.raises(Cancelled, match="Cancelled after 0 of 3"):
        calibrate(CachedSegmenter(network, CPU), at_sizes(8), (SIZE, 2 * SIZE), 16, report)
    assert network.calls == 1


def test_the_session_moves_the_logits_and_says_so():
    examples = support_of([example(n, BRIGHT - 0.05) for n in range(4)])
    told = calibrated(examples)
    array = np.zeros((1, SIZE, SIZE), np.float32)
    array[0, 10:18, 4:20] = BRIGHT - 0.05
    array[0, 30, 30] = 1.0  # the brightest pixel, so that the window is the whole range
    target = Volume(array, grid((1, SIZE, SIZE), (1.0, 1.0, 1.0)), Kind.INTENSITY)
    settings = InferenceSettings(supports=4, draws=1, axes=("axial",))
    found = {}
    for calibration in (None, told):
        session = Session(Threshold(), [examples], Intensities((0.0, 1.0)), {"entry": "fake"}, CPU, Prior(calibration))
        found[calibration] = session.segment(target, settings, Report())
    assert not found[None].mask.array[0, 10:18, 4:20].any()
    assert found[told].mask.array[0, 10:18, 4:20].all()
    assert found[None].provenance["calibration"] is None
    assert found[told].provenance["calibration"] == {
        "size": SIZE,
        "shown": 16,
        "logit_shifts": {"1": 1.3863},
        "dice": {"1": 1.0},
        "tried": [{"size": SIZE, "shown": 16, "dice": 1.0}, {"size": SIZE, "shown": 2, "dice": 1.0}],
    }


def test_the_larger_size_is_not_tried_where_its_maps_would_fill_the_memory():
    fine = grid((400, 512, 512), (1.0, 0.5, 0.5))
    assert sizes_for(fine, "axial", 128, 1) == (128, 256)
    assert sizes_for(fine, "axial", 128, 30) == (128,)


@pytest.mark.parametrize(
    ("dice", "before", "worth_it"),
    [(0.52, 0.50, True), (0.51, 0.50, False), (0.911, 0.90, True), (0.905, 0.90, False), (1.0, 1.0, False)],
)
def test_a_gain_counts_by_its_size_or_by_its_share_of_what_is_missing(dice, before, worth_it):
    assert gains(dice, before) is worth_it
