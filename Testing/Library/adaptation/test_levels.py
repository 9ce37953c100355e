"""Where along the body a slice lies, whichever part of it a scan shows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from InContextSegLib.adaptation.levels import levels_of
from InContextSegLib.examples.support import LabelledVolume, SupportSet
from InContextSegLib.inference.prior import Prior
from InContextSegLib.inference.session import Session
from InContextSegLib.inference.settings import InferenceSettings
from InContextSegLib.models.loading import Model, load_model
from InContextSegLib.progress import Report
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume
from Testing.Library.fake_segmenter import Threshold

CPU = torch.device("cpu")
HU = Intensities((-160, 240))
STEP_MM, ORGAN_MM = 5.0, (150.0, 190.0)


def scan(first_mm, last_mm, seed=0, spacing_mm=4.0, upside_down=False):
    """A body that widens from feet to head, with two legs below and bone that grows upwards, as far as it is scanned.

    The organ lies from 150 to 190 mm.
    """
    random = np.random.default_rng(seed)
    at_mm = np.arange(first_mm, last_mm, STEP_MM)
    shape = len(at_mm), 64, 64
    affine = np.diag([-spacing_mm, -spacing_mm, STEP_MM, 1.0])
    affine[:3, 3] = 128, 128, first_mm
    rows, columns = np.mgrid[:64, :64] * spacing_mm - 128
    array, labels = np.full(shape, -1000, np.int16), np.zeros(shape, np.uint8)
    for number, height in enumerate(at_mm):
        width, apart = 30 + 0.2 * height, max(0.0, 50 - 0.4 * height)
        for side in (-1, 1):
            array[number][(rows / 40) ** 2 + ((columns - side * apart) / width) ** 2 < 1] = 40
        array[number][(rows - 20) ** 2 + columns**2 < (3 + 0.06 * height) ** 2] = 220
        if ORGAN_MM[0] <= height < ORGAN_MM[1]:
            organ = (rows + 12) ** 2 + (columns - 15) ** 2 < 9**2
            array[number][organ], labels[number][organ] = 120, 1
    array += random.normal(0, 8, shape).astype(np.int16)
    geometry = Geometry(shape, affine)
    volumes = Volume(array, geometry), Volume(labels, geometry, Kind.LABELS)
    if not upside_down:
        return volumes
    turned = geometry.reordered((0, 1, 2), (True, False, False))
    return tuple(Volume(each.array[::-1], turned, each.kind) for each in volumes)


def middle(volume, labels, span):
    """The level of the organ's middle."""
    shown = np.flatnonzero(labels.array.any(axis=(1, 2)))
    share = (shown.mean() + 0.5) / volume.geometry.shape[0]
    return span[0] + span[1] * (share if volume.geometry.affine[2, 2] > 0 else 1 - share)


EXAMPLES = tuple(
    LabelledVolume(*scan(first, last, seed), f"case{seed}")
    for seed, (first, last) in enumerate([(0, 250), (60, 320), (110, 260), (30, 400), (100, 350)])
)


@pytest.fixture(scope="module")
def network():
    return load_model(Model())[0].eval()


def support_of(pairs):
    return SupportSet.from_volumes(pairs, "axial", 32, "all", HU)


@pytest.fixture(scope="module")
def levels(network):
    return levels_of(network, CPU, EXAMPLES, support_of(EXAMPLES), HU)


def test_examples_lie_where_their_labels_are_the_same(levels):
    found = [middle(pair.image, pair.labels, levels.spans[pair.source]) for pair in EXAMPLES]
    assert np.ptp(found) < 0.02
    for pair in EXAMPLES:
        assert levels.spans[pair.source][1] * levels.unit_mm == pytest.approx(len(pair.image.array) * STEP_MM)


@pytest.mark.parametrize(
    "target", [scan(140, 390, 7), scan(0, 200, 8), scan(80, 300, 9, upside_down=True)], ids=["upper", "lower", "turned"]
)
def test_a_new_scan_of_another_part_is_placed_by_what_its_slices_look_like(levels, target):
    usual = middle(EXAMPLES[0].image, EXAMPLES[0].labels, levels.spans["case0"])
    found = middle(*target, levels.span(target[0], HU.of(target[0].array)))
    assert (found - usual) * levels.unit_mm == pytest.approx(0, abs=20)


def test_by_the_share_of_the_scan_the_same_scans_would_lie_far_off():
    found = [middle(pair.image, pair.labels, (0.0, 1.0)) for pair in EXAMPLES]
    assert np.ptp(found) > 0.3


def test_scans_of_one_part_and_too_few_keep_the_share_of_the_scan(network):
    alike = [LabelledVolume(*scan(50, 300, seed), f"case{seed}") for seed in range(4)]
    assert levels_of(network, CPU, alike, support_of(alike), HU) is None
    assert levels_of(network, CPU, EXAMPLES[:2], support_of(EXAMPLES[:2]), HU) is None


def test_another_network_has_no_levels():
    assert levels_of(Threshold(), CPU, EXAMPLES, support_of(EXAMPLES), HU) is None


def test_a_scan_of_nothing_lies_as_the_examples_do(levels):
    empty = Volume(np.full((10, 64, 64), -1000, np.int16), Geometry((10, 64, 64), np.eye(4)))
    begin, length = levels.span(empty, HU.of(empty.array))
    assert (begin, length) == (0.0, pytest.approx(10 / levels.unit_mm))


def test_volumes_of_which_a_few_slices_are_labelled_are_placed_by_the_others(network, levels):
    image, labels = scan(120, 330, 11)
    drawn = LabelledVolume(image, labels, "drawn", may_be_finished=False, slices=(8,), axis="axial")
    found = levels_of(network, CPU, (*EXAMPLES, drawn), support_of(EXAMPLES), HU)
    assert found.spans.keys() == {*levels.spans, "drawn"}
    assert found.spans["drawn"] == pytest.approx(levels.span(image, HU.of(image.array)), abs=1e-6)


def test_examples_are_chosen_and_asked_by_level_and_the_set_is_another_one(levels):
    plain = support_of(EXAMPLES)
    placed = levels.applied(plain)
    assert placed.fingerprint != plain.fingerprint
    for before, after in zip(plain.examples, placed.examples, strict=True):
        begin, length = levels.spans[before.source.split()[0]]
        assert after.place == pytest.approx(begin + length * before.position)
        assert (before.place, after.position) == (before.position, before.position)
    blank = np.full((32, 32), 0.5, np.float32)
    chosen = replace(placed, examples=placed.examples[::7]).select(blank, 5.0, 1)
    assert placed.examples[::7][chosen[0]].level == max(each.level for each in placed.examples[::7])


class Listening(Threshold):
    """Remembers where it was told that slices lie."""

    positioned = True

    def __init__(self):
        super().__init__()
        self.places = []

    def encode(self, images, positions=None):
        self.places += positions
        return super().encode(images)


def test_a_session_tells_its_network_where_along_the_body_the_slices_of_a_target_lie(levels):
    target, network = scan(140, 300, 7)[0], Listening()
    placed = levels.applied(support_of(EXAMPLES))
    session = Session(network, [placed], HU, {"entry": "fake"}, CPU, Prior(levels=levels))
    settings = InferenceSettings(supports=4, draws=1, axes=("axial",))
    session.segment(target, settings, Report())
    begin, length = levels.span(target, HU.of(target.array))
    shares = (np.arange(len(target.array)) + 0.5) / len(target.array)
    assert network.places == pytest.approx((begin + length * shares).tolist())
