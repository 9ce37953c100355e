"""How alike pictures are, and which resemble no example."""

import numpy as np
import pytest

from InContextSegLib.examples.similarity import Appearance, Coverage, dissimilarity

SIZE = 32


def blobs(count, brightness=0.5, seed=0):
    """Pictures of one kind: a bright square that wanders a little."""
    generator, pictures = np.random.default_rng(seed), np.zeros((count, SIZE, SIZE), np.float32)
    for picture in pictures:
        row, column = generator.integers(8, 14, 2)
        picture[row : row + 10, column : column + 10] = brightness + generator.uniform(-0.05, 0.05)
    return pictures


def names(count):
    return [f"picture{number}" for number in range(count)]


def test_a_picture_is_no_distance_from_itself_and_some_from_another():
    appearance = Appearance.of(blobs(3))
    thumbnails, grey = appearance.distances(appearance.at([1]))
    assert thumbnails[1] == grey[1] == 0
    assert (thumbnails[[0, 2]] > 0).all()


def test_the_size_of_a_picture_does_not_count():
    small = blobs(1)
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    thumbnails, grey = Appearance.of(small).distances(Appearance.of(large))
    assert thumbnails[0] == pytest.approx(0, abs=1e-6) and grey[0] == pytest.approx(0, abs=1e-6)


def test_what_lies_near_and_looks_alike_resembles_most():
    appearance = Appearance.of(blobs(3)[[0, 0, 0]])
    order = np.argsort(dissimilarity(appearance, appearance.at([0]), [0.1, 0.5, 0.9], 0.52))
    assert order[0] == 1


def test_pictures_of_the_same_kind_are_covered_and_others_are_not():
    coverage = Coverage.of(Appearance.of(blobs(8)), names(8))
    assert coverage.outside(blobs(5, seed=9)) == []
    striped = np.tile(np.linspace(0, 1, SIZE, dtype=np.float32), (SIZE, 1))
    assert coverage.outside(np.stack([blobs(1)[0], striped, 1 - blobs(1)[0]])) == [1, 2]


def test_a_negative_of_the_examples_is_recognised_and_padding_is_no_part_of_it():
    shown = np.zeros((SIZE, SIZE), bool)
    shown[:, 4:-4] = True
    coverage = Coverage.of(Appearance.of(blobs(8)), names(8))
    seen = blobs(2, seed=9)
    assert coverage.negatives(seen, shown) == [False, False]
    assert coverage.negatives(np.where(shown, 1 - seen, 0).astype(np.float32), shown) == [True, True]


def test_an_empty_picture_is_never_reported():
    coverage = Coverage.of(Appearance.of(blobs(8)), names(8))
    assert coverage.outside(np.ones((1, SIZE, SIZE), np.float32)) == []


def test_fewer_than_three_units_tell_nothing():
    examples = Appearance.of(blobs(6))
    other = 1 - blobs(1)
    assert Coverage.of(examples, ["a", "a", "a", "b", "b", "b"]).outside(other) == []
    assert Coverage.of(examples, ["a", "a", "b", "b", "c", "c"]).outside(other) == [0]


def test_equal_examples_leave_room_for_noise():
    coverage = Coverage.of(Appearance.of(blobs(1)[[0, 0, 0]]), names(3))
    noisy = np.clip(blobs(1) + np.random.default_rng(1).normal(0, 0.002, (1, SIZE, SIZE)), 0, 1).astype(np.float32)
    assert coverage.outside(noisy) == []
