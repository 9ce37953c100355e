"""Slices that are handed over one by one: the same answers as from a whole label map, and a new one costs itself."""

from dataclasses import replace

import numpy as np
import pytest

from InContextSegLib.errors import Cancelled, InputError
from InContextSegLib.models.catalog import find
from InContextSegLib.progress import Report
from InContextSegLib.slices.plan import AXES, SlicePlan
from InContextSegLib.volumes.geometry import Kind, Volume
from InContextSegLib.worker import corrections
from InContextSegLib.worker.answers import ANSWERS
from InContextSegLib.worker.batches import fingerprint_of_task
from InContextSegLib.worker.cache import WorkerCache
from InContextSegLib.worker.protocol import (
    ArrayRef,
    Batch,
    Correct,
    ExampleRef,
    Neighbours,
    PromptsRef,
    Propagate,
    Segment,
    SlicesRef,
    TaskSpec,
)
from InContextSegLib.worker.shared_arrays import SharedFolder
from Testing.Library.fake_segmenter import SIZE, Brush, Threshold, grid, scan, use

OBLIQUE = grid((20, 26, 30), (2.0, 1.5, 0.8), turned=True, left_handed=True)


@pytest.fixture
def cache(tmp_path):
    return WorkerCache(SharedFolder.make(tmp_path), ANSWERS)


@pytest.fixture
def network(monkeypatch):
    segmenter = Brush()
    entry = find("default")
    monkeypatch.setattr(corrections, "find", lambda name: replace(entry, name="fake"))
    monkeypatch.setattr(corrections, "load_model", lambda model: (segmenter, {}, SIZE))
    return segmenter


def ref(cache, volume):
    return ArrayRef.of(cache.shared.write(volume.array), volume.geometry, volume.kind)


def task(target, labels, *indices, **others):
    return TaskSpec((ExampleRef(target, labels, "target", slices=indices),), ((1, "cube"),), **others)


class Drawn:
    """The labels of some slices of a target along an axis, in both ways."""

    def __init__(self, cache, image, labels, axis, *indices):
        self.cache, self.axis, self.labels, self.indices = cache, axis, labels, indices
        self.along = SlicePlan.of(labels.geometry, axis).array_axis
        self.target = ref(cache, image)
        self.names = {index: cache.shared.write(self._taken([index])) for index in indices}

    def _taken(self, indices):
        return self.labels.array.take(indices, self.along)

    def whole(self):
        array = np.zeros_like(self.labels.array)
        for index in self.indices:
            array[(slice(None),) * self.along + (index,)] = self._taken(index)
        return task(self.target, ref(self.cache, Volume(array, self.labels.geometry, Kind.LABELS)), *self.indices)

    def apart(self, *indices):
        indices = indices or self.indices
        held = [(index, self.names[index]) for index in indices]
        return task(self.target, SlicesRef.of(held, self.along, self.labels.geometry), *indices)


def answers(cache, request):
    """The arrays of an answer, and all else that does not change from one time to the next."""
    answer = cache.answer(request, Report())
    arrays = {
        name: np.array(cache.shared.read(value["array"] if isinstance(value, dict) else value))
        for name in ("probability", "logits", "block", "uncertainty")
        if (value := answer.get(name)) is not None
    }
    return arrays, {name: answer[name] for name in ("context", "slices", "confidence", "stopped") if name in answer}


def assert_same(cache, first, second):
    (arrays, rest), (others, other) = answers(cache, first), answers(cache, second)
    assert rest == other and arrays.keys() == others.keys() and arrays
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name])


@pytest.mark.parametrize("axis", AXES)
def test_answers_are_those_from_a_whole_label_map(cache, network, axis):
    image, labels = scan(0, geometry=OBLIQUE)
    drawn = Drawn(cache, image, labels, axis, 9, 12, 3)
    index = [9, 12, 17]
    index[drawn.along] = 10
    clicks = PromptsRef(points=((tuple(OBLIQUE.to_world(np.array(index, float)).tolist()), True),))
    for request in (
        Correct(drawn.target, axis, 10),
        Correct(drawn.target, axis, 10, clicks),
        Correct(drawn.target, axis, 9),
        Propagate(drawn.target, axis, drawn.whole(), stop_below=0.0),
    ):
        assert_same(cache, *(replace(request, task=each) for each in (drawn.whole(), drawn.apart())))


def test_cut_across_the_slices_that_were_drawn_they_are_the_same_stripes(cache, network):
    image, labels = scan(0, geometry=OBLIQUE)
    drawn = Drawn(cache, image, labels, "axial", 9, 12)
    both = [replace(each.examples[0], slices=(8, 11)) for each in (drawn.whole(), drawn.apart())]
    requests = [Correct(drawn.target, "coronal", 10, task=TaskSpec((each,), ((1, "cube"),))) for each in both]
    assert_same(cache, *requests)


def test_the_whole_target_is_segmented_as_from_a_whole_label_map(cache, monkeypatch):
    use(monkeypatch, Threshold())
    image, labels = scan(1)
    drawn = Drawn(cache, image, labels, "axial", 1, 3)
    assert_same(cache, *(Segment(each, drawn.target) for each in (drawn.whole(), drawn.apart())))


def test_a_slice_without_labels_teaches_that_there_are_none(cache, network):
    image, labels = scan(0)
    labels = Volume(labels.array * (np.arange(len(labels.array)) != 4)[:, None, None], labels.geometry, Kind.LABELS)
    drawn = Drawn(cache, image, labels, "axial", 2, 4)
    left = drawn.apart(2).examples[0]
    apart = TaskSpec((replace(left, slices=(2, 4)),), ((1, "cube"),))
    assert_same(cache, *(Correct(drawn.target, "axial", 3, task=each) for each in (drawn.whole(), apart)))


def test_a_slice_more_is_cut_alone(cache, network, monkeypatch):
    image, labels = scan(0)
    drawn = Drawn(cache, image, labels, "axial", 1, 2, 4)
    cut = []
    real = corrections.slices_of
    monkeypatch.setattr(corrections, "slices_of", lambda pair, *how: cut.append(pair.slices) or real(pair, *how))
    cache.answer(Correct(drawn.target, "axial", 3, task=drawn.apart(1, 2)), Report())
    assert cut == [(1,), (2,)]
    cache.answer(Correct(drawn.target, "axial", 3, task=drawn.apart(1, 2, 4)), Report())
    assert cut == [(1,), (2,), (4,)]
    drawn.names[2] = cache.shared.write(np.zeros((1, 24, 24), np.uint8))
    cache.answer(Correct(drawn.target, "axial", 3, task=drawn.apart(1, 2, 4)), Report())
    assert cut == [(1,), (2,), (4,), (2,)]


def test_labels_of_another_size_are_refused(cache, network):
    image, labels = scan(0)
    drawn = Drawn(cache, image, labels, "axial", 2)
    drawn.names[2] = cache.shared.write(np.ones((1, 5, 5), np.uint8))
    with pytest.raises(InputError, match=r"labels of slice 2 should be \(1, 24, 24\), but they are \(1, 5, 5\)"):
        cache.answer(Correct(drawn.target, "axial", 3, task=drawn.apart()), Report())


@pytest.mark.parametrize(
    ("slices", "axis", "complaint"),
    [
        (((6, "1a.npy"),), 0, "Labels came for slice 6 of a volume with 6, counted from 0; leave"),
        (((-1, "1a.npy"),), 0, "Labels came for slice -1"),
        ((), 3, r"array_axis: asked for 0 \(k\), 1 \(j\) or 2 \(i\), got 3"),
    ],
)
def test_slices_that_a_volume_cannot_have_are_refused(slices, axis, complaint):
    with pytest.raises(InputError, match=complaint):
        SlicesRef.of(slices, axis, grid())


def test_a_batch_is_another_one_where_a_slice_was_drawn_anew(cache):
    drawn = Drawn(cache, *scan(0), "axial", 1, 2)
    first = fingerprint_of_task(Batch(drawn.apart(), ()), cache.shared.read)
    drawn.names[1] = cache.shared.write(np.array(cache.shared.read(drawn.names[1])))
    assert fingerprint_of_task(Batch(drawn.apart(), ()), cache.shared.read) == first
    assert fingerprint_of_task(Batch(drawn.apart(1), ()), cache.shared.read) != first
    drawn.names[1] = cache.shared.write(np.ones((1, 24, 24), np.uint8))
    assert fingerprint_of_task(Batch(drawn.apart(), ()), cache.shared.read) != first


def test_what_is_computed_ahead_is_given_up_in_the_middle_of_the_network(cache, network):
    drawn = Drawn(cache, *scan(0), "axial", 2)
    report, real, asked = Report(), network.segment, Correct(drawn.target, "axial", 3, task=drawn.apart())

    def interrupted(*what):
        report.cancel()
        real(*what)
        raise AssertionError("it went on to the end of the network")

    network.segment = interrupted
    with pytest.raises(Cancelled):
        cache.answer(Neighbours(drawn.target, "axial", 3, 1, drawn.apart()), report)
    network.segment = real
    assert_same(cache, asked, replace(asked, task=drawn.whole()))
