"""Small pieces that no example has are left out of a result; nothing else is."""

import numpy as np
import pytest

from InContextSegLib.examples.support import Label, LabelledVolume
from InContextSegLib.inference.postprocessing import pieces_of, without_islands
from InContextSegLib.volumes.geometry import Kind, Volume
from Testing.Library.fake_segmenter import grid

SHAPE = (8, 24, 24)


def labelled(array):
    volume = Volume(array, grid(array.shape), Kind.LABELS)
    return LabelledVolume(Volume(array.astype(np.int16), volume.geometry, Kind.INTENSITY), volume, "p")


def organ(islands=(), value=1, shape=SHAPE):
    """A large piece, and others of so many voxels in the corners."""
    array = np.zeros(shape, np.uint8)
    array[2:6, 8:16, 8:16] = value
    for number, size in enumerate(islands):
        array[1 + 3 * (number // 2), 1 if number % 2 else 20, 1 : 1 + size] = value
    return array


@pytest.mark.parametrize(("islands", "pieces"), [((), 1), ((3,), 1), ((20,), 2), ((20, 20), 3)])
def test_pieces_are_counted_but_for_specks(islands, pieces):
    assert pieces_of([labelled(organ(islands))], [Label(1, "organ"), Label(2, "other")]) == {1: pieces}


def test_the_example_with_most_pieces_counts():
    assert pieces_of([labelled(organ()), labelled(organ((20,)))], [Label(1, "organ")]) == {1: 2}


def test_pictures_say_nothing():
    assert pieces_of([labelled(organ()[3:4])], [Label(1, "organ")]) == {}


def test_islands_go_and_the_organ_stays():
    cleaned, record = without_islands(organ((5, 9)), {1: 1})
    np.testing.assert_array_equal(cleaned, organ())
    assert record == {"1": {"pieces": 1, "removed": 2, "voxels": 14}}


def test_a_large_piece_is_no_island():
    split = organ()
    split[4] = 0
    np.testing.assert_array_equal(without_islands(split, {1: 1})[0], split)


def test_where_examples_have_two_pieces_two_stay():
    cleaned, _ = without_islands(organ((5, 9)), {1: 2})
    np.testing.assert_array_equal(cleaned, organ((0, 9)))


def test_other_labels_are_left_alone_and_a_label_that_is_nowhere_is_fine():
    both = np.maximum(organ(), organ((5,), value=2) * (organ() == 0))
    np.testing.assert_array_equal(without_islands(both, {1: 1, 7: 1})[0], both)
