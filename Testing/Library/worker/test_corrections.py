"""What a click is answered, and what the applied slices do: through the cache, with networks one can see."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from InContextSegLib.errors import Cancelled, InputError
from InContextSegLib.models.catalog import find
from InContextSegLib.models.entry import Capability
from InContextSegLib.progress import Report
from InContextSegLib.slices.plan import AXES, SlicePlan
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume, across_slices
from InContextSegLib.volumes.overlap import dice
from InContextSegLib.worker import corrections
from InContextSegLib.worker.answers import ANSWERS
from InContextSegLib.worker.cache import WorkerCache
from InContextSegLib.worker.protocol import ArrayRef, Correct, ExampleRef, Neighbours, PromptsRef, Propagate, TaskSpec
from InContextSegLib.worker.shared_arrays import SharedFolder
from Testing.Library.fake_segmenter import SIZE, Brush, Echo, Threshold, grid, scan

OBLIQUE = grid((20, 26, 30), (2.0, 1.5, 0.8), turned=True, left_handed=True)
BOTH = Capability(SIZE, "optional", ("click", "box", "scribble"))


class Copy(Echo):
    """Holds what its examples hold, and what positive prompts mark."""

    promptable = True

    def segment(self, embedding, context, prompts=None):
        marked = prompts[:, :1] * 12 - 6
        return marked if context is None else super().segment(embedding, context).maximum(marked)


def offers(monkeypatch, segmenter, capability=BOTH):
    """Let every model be this one."""
    entry = replace(find("default"), name="fake", capability=capability)
    monkeypatch.setattr(corrections, "find", lambda name: entry)
    monkeypatch.setattr(corrections, "load_model", lambda model: (segmenter, {}, SIZE))
    return segmenter


@pytest.fixture
def network(monkeypatch):
    return offers(monkeypatch, Brush())


@pytest.fixture
def cache(tmp_path):
    return WorkerCache(SharedFolder.make(tmp_path), ANSWERS)


def ref(cache, volume):
    return ArrayRef.of(cache.shared.write(volume.array), volume.geometry, volume.kind)


def ask(cache, request, report=None):
    return cache.answer(request, report or Report())


def at(geometry, *index_kji, positive=True):
    return tuple(geometry.to_world(np.array(index_kji, float)).tolist()), positive


def clicks(*points):
    return PromptsRef(points=points)


def found(cache, answer):
    return np.asarray(cache.shared.read(answer["probability"]["array"]))


def task(*examples, **others):
    return TaskSpec(examples, ((1, "cube"),), model="fake", **others)


def drawn(cache, target, labels, *indices):
    """The target's own slices as an example."""
    return ExampleRef(target, ref(cache, labels), "target", slices=indices)


@pytest.mark.parametrize("axis", AXES)
def test_the_clicked_voxel_is_the_prompted_voxel_and_only_that_slice_is_answered(cache, network, axis):
    volume, index = scan(0, geometry=OBLIQUE)[0], [9, 12, 17]
    array_axis = SlicePlan.of(OBLIQUE, axis).array_axis
    request = Correct(ref(cache, volume), axis, index[array_axis], clicks(at(OBLIQUE, *index)), model="fake")
    answer = ask(cache, request)
    assert (answer["axis"], answer["index"], answer["array_axis"]) == (axis, index[array_axis], array_axis)
    assert answer["probability"]["corner_kji"] == [index[n] if n == array_axis else 0 for n in range(3)]
    probability = found(cache, answer)
    assert probability.dtype == np.uint8
    assert probability.shape == tuple(1 if n == array_axis else size for n, size in enumerate(OBLIQUE.shape))
    index[array_axis] = 0
    assert probability[tuple(index)] > 250
    assert np.abs(np.argwhere(probability >= 128).mean(axis=0) - index).max() < 1
    assert answer["context"] == 0


def test_a_click_builds_on_the_logits_of_the_last_answer(cache, network):
    volume = scan(0)[0]
    target, geometry = ref(cache, volume), volume.geometry
    first = ask(cache, Correct(target, "axial", 3, clicks(at(geometry, 3, 4, 4)), model="fake"))
    second = Correct(target, "axial", 3, clicks(at(geometry, 3, 18, 18)), previous=first["logits"], model="fake")
    mask = found(cache, ask(cache, second)) >= 128
    assert mask[0, 4, 4] and mask[0, 18, 18]
    alone = found(cache, ask(cache, replace(second, previous=None))) >= 128
    assert not alone[0, 4, 4]


def test_boxes_and_scribbles_say_where_too(cache, network):
    volume = scan(0)[0]
    low, high = (at(volume.geometry, 2, j, i)[0] for j, i in ((3, 3), (8, 9)))
    painted = cache.shared.write(np.ones((1, 2, 3), np.uint8))
    prompts = PromptsRef(boxes=((low, high),), scribbles=((painted, (2, 15, 15), True),))
    mask = found(cache, ask(cache, Correct(ref(cache, volume), "axial", 2, prompts, model="fake"))) >= 128
    assert mask[0, 5, 6] and mask[0, 15, 16] and not mask[0, 20, 3]


def test_an_applied_slice_answers_for_the_next_one_before_the_first_click(cache, monkeypatch):
    offers(monkeypatch, Copy())
    image, labels = scan(0)
    target = ref(cache, image)
    about = task(drawn(cache, target, labels, 2))
    answer = ask(cache, Correct(target, "axial", 3, task=about))
    np.testing.assert_array_equal(found(cache, answer) >= 128, labels.array[2:3] > 0)
    assert answer["context"] == 1


def test_examples_of_other_patients_answer_too_and_the_most_alike_are_shown(cache, monkeypatch):
    network = offers(monkeypatch, Copy())
    others = [
        ExampleRef(ref(cache, image), ref(cache, labels), f"{n}")
        for n, (image, labels) in enumerate(map(scan, (1, 2, 3)))
    ]
    answer = ask(cache, Correct(ref(cache, scan(0)[0]), "axial", 3, task=task(*others), supports=3))
    assert answer["context"] == 3
    assert network.shown[-1] == 3
    assert (found(cache, answer) >= 128).any()


def test_a_slice_is_no_example_of_itself_but_goes_on_from_what_was_drawn_there(cache, monkeypatch):
    network = offers(monkeypatch, Brush())
    image, labels = scan(0)
    target = ref(cache, image)
    request = Correct(target, "axial", 3, task=task(drawn(cache, target, labels, 3)))
    np.testing.assert_array_equal(found(cache, ask(cache, request)) >= 128, labels.array[3:4] > 0)
    assert network.calls == 0
    where = at(image.geometry, 3, 10, 12, positive=False)
    after = found(cache, ask(cache, replace(request, prompts=clicks(where)))) >= 128
    assert network.shown == [0]
    assert not after[0, 10, 12]
    assert after[0, 15, 9] and not after[0, 2, 2]


def test_values_of_an_example_become_those_of_the_task(cache, monkeypatch):
    offers(monkeypatch, Copy())
    image, labels = scan(0, value=7)
    target = ref(cache, image)
    example = replace(drawn(cache, target, labels, 2), values=((7, 1),))
    assert (found(cache, ask(cache, Correct(target, "axial", 3, task=task(example)))) >= 128).any()


def test_the_structure_is_looked_at_in_a_window_round_it_until_somebody_clicks_elsewhere(cache, monkeypatch):
    offers(monkeypatch, Copy())
    geometry = grid((6, 96, 96))
    image = Volume(np.random.default_rng(0).integers(0, 99, geometry.shape).astype(np.int16), geometry, Kind.INTENSITY)
    array = np.zeros(geometry.shape, np.uint8)
    array[2, 40:43, 60:63] = 1
    target = ref(cache, image)
    about = task(drawn(cache, target, Volume(array, geometry, Kind.LABELS), 2))
    # Three voxels are one pixel of all of the slice, which could not be told apart there.
    mask = found(cache, ask(cache, Correct(target, "axial", 3, task=about))) >= 128
    np.testing.assert_array_equal(mask[0], array[2])
    for prompts in (clicks(at(geometry, 3, 41, 61), at(geometry, 3, 5, 5)), clicks(at(geometry, 3, 90, 2))):
        where = np.rint(geometry.to_index(prompts.points[-1][0])).astype(int)
        assert found(cache, ask(cache, Correct(target, "axial", 3, prompts, about)))[0, where[1], where[2]] >= 128


def test_the_same_request_gives_the_same_answer_whatever_was_asked_before(cache, monkeypatch):
    offers(monkeypatch, Brush())
    image, labels = scan(0)
    target = ref(cache, image)
    request = Correct(target, "axial", 4, clicks(at(image.geometry, 4, 9, 9)), task(drawn(cache, target, labels, 2, 3)))
    first = found(cache, ask(cache, request))
    ask(cache, Correct(target, "axial", 1, clicks(at(image.geometry, 1, 20, 2)), model="fake"))
    fresh = WorkerCache(cache.shared, ANSWERS)
    for one in (cache, fresh):
        np.testing.assert_array_equal(found(one, ask(one, request)), first)


def test_neighbours_leave_nothing_to_compute_but_the_answer_and_another_applied_slice_costs_itself(cache, network):
    image, labels = scan(0)
    target = ref(cache, image)
    counted = {"encode": 0, "condition": 0}

    def counting(name):
        real = getattr(network, name)

        def call(*every):
            counted[name] += 1
            return real(*every)

        return call

    for name in counted:
        setattr(network, name, counting(name))
    about = task(drawn(cache, target, labels, 1))
    assert ask(cache, Neighbours(target, "axial", 3, 1, about))["ready"] == [3, 4, 2]
    assert counted == {"encode": counted["encode"], "condition": 1}
    before = dict(counted)
    for index in (2, 3, 4):
        ask(cache, Correct(target, "axial", index, clicks(at(image.geometry, index, 9, 9)), about))
    assert counted == before
    ask(cache, Neighbours(target, "axial", 3, 1, task(drawn(cache, target, labels, 1, 2))))
    assert counted["condition"] == 2


def test_neighbours_stay_inside_the_volume_and_are_given_up_at_the_next_step(cache, network):
    target = ref(cache, scan(0)[0])
    assert ask(cache, Neighbours(target, "axial", 0, 2, model="fake"))["ready"] == [0, 1, 2]
    steps = []

    def show(done, total, message):
        steps.append(done)
        if len(steps) == 3:
            report.cancel()

    report = Report(show)
    with pytest.raises(Cancelled):
        ask(cache, Neighbours(target, "axial", 3, 2, model="fake"), report)
    assert len(steps) == 3


def test_a_click_that_is_no_longer_wanted_is_not_answered(cache, network):
    report = Report()
    report.hurry()
    with pytest.raises(Cancelled, match="newer click"):
        ask(cache, Correct(ref(cache, scan(0)[0]), "axial", 3, clicks(at(grid(), 3, 9, 9)), model="fake"), report)
    assert network.calls == 0


def test_another_model_takes_the_place_of_the_last_one_with_all_that_was_computed(cache, network, tmp_path):
    target = ref(cache, scan(0)[0])
    for device in ("cpu", "auto"):
        ask(cache, Correct(target, "axial", 3, clicks(at(grid(), 3, 9, 9)), model="fake", device=device))
    assert len(cache.for_clicks._values) == 1
    cache.forget()
    assert not cache.for_clicks._values


@pytest.mark.parametrize(
    ("prompts", "capability", "complaint"),
    [
        ("click", Capability(SIZE, "unused", ("box",)), "takes boxes, but clicks came; leave them out"),
        ("scribble", Capability(SIZE, "optional", ("click", "box")), "clicks, boxes and labelled examples, but scribb"),
        ("box", Capability(SIZE, "required"), "takes labelled examples, but boxes came"),
    ],
)
def test_a_model_is_asked_only_for_what_it_takes(cache, monkeypatch, prompts, capability, complaint):
    network = offers(monkeypatch, Brush(), capability)
    corners = at(grid(), 3, 4, 4)[0], at(grid(), 3, 9, 9)[0]
    said = {
        "click": clicks(at(grid(), 3, 9, 9)),
        "box": PromptsRef(boxes=(corners,)),
        "scribble": PromptsRef(scribbles=((cache.shared.write(np.ones((1, 1, 1), bool)), (3, 9, 9), True),)),
    }
    target = ref(cache, scan(0)[0])
    with pytest.raises(InputError, match=complaint):
        ask(cache, Correct(target, "axial", 3, said[prompts], model="fake"))
    if "box" in capability.prompts:
        answer = ask(cache, Correct(target, "axial", 3, said["box"], model="fake"))
        assert found(cache, answer)[0, 6, 6] >= 128
    assert network.calls == ("box" in capability.prompts)


def test_a_model_without_support_refuses_examples_and_carries_nothing_on(cache, monkeypatch):
    offers(monkeypatch, Brush(), Capability(SIZE, "unused", ("click", "box")))
    image, labels = scan(0)
    target = ref(cache, image)
    about = task(drawn(cache, target, labels, 2))
    with pytest.raises(InputError, match="takes clicks and boxes, but labelled examples came"):
        ask(cache, Correct(target, "axial", 3, clicks(at(image.geometry, 3, 9, 9)), about))
    with pytest.raises(InputError, match="learns nothing from applied slices; choose another"):
        ask(cache, Propagate(target, "axial", about))


def test_a_model_that_needs_examples_says_so_and_answers_with_them(cache, monkeypatch):
    network = offers(monkeypatch, Threshold(), Capability(SIZE, "required"))
    image, labels = scan(0)
    target = ref(cache, image)
    with pytest.raises(InputError, match="no example beside this slice shows label 1; apply a slice first"):
        ask(cache, Correct(target, "axial", 3, model="fake"))
    answer = ask(cache, Correct(target, "axial", 3, task=task(drawn(cache, target, labels, 2))))
    np.testing.assert_array_equal(found(cache, answer) >= 128, labels.array[3:4] > 0)
    assert network.shown == [1]


def test_a_model_that_needs_examples_and_takes_clicks_never_answers_without(cache, monkeypatch):
    network = offers(monkeypatch, Brush(), Capability(SIZE, "required", ("click",)))
    image, labels = scan(0)
    target = ref(cache, image)
    ask(cache, Correct(target, "axial", 3, clicks(at(grid(), 3, 2, 2)), task(drawn(cache, target, labels, 2))))
    assert network.shown == [1, 1]


def test_nothing_to_go_on_is_refused(cache, network):
    with pytest.raises(InputError, match="Neither prompts nor an example of label 1 came; click"):
        ask(cache, Correct(ref(cache, scan(0)[0]), "axial", 3, model="fake"))


def test_logits_of_another_slice_are_refused(cache, network):
    target = ref(cache, scan(0)[0])
    other = ask(cache, Correct(target, "coronal", 3, clicks(at(grid(), 3, 3, 9)), model="fake"))["logits"]
    with pytest.raises(InputError, match=r"belong to a slice of \(6, 1, 24\) voxels"):
        ask(cache, Correct(target, "axial", 3, clicks(at(grid(), 3, 3, 9)), previous=other, model="fake"))


def test_no_example_at_all_is_asked_for_by_leaving_them_out():
    with pytest.raises(InputError, match="at least 1 example, got 0; leave the task out"):
        Correct(ArrayRef.of("1a.npy", grid()), "axial", 3, supports=0)


def test_a_label_is_carried_on_to_where_it_ends_and_stays_within_the_range(cache, monkeypatch):
    offers(monkeypatch, Threshold(), Capability(SIZE, "required"))
    geometry = grid((12, 24, 24))
    image, labels = scan(0, geometry=geometry)
    held = np.flatnonzero(labels.array.any(axis=(1, 2)))
    target, middle = ref(cache, image), int(held[len(held) // 2])
    request = Propagate(target, "axial", task(drawn(cache, target, labels, middle)), label=1, stop_below=0.0)
    answer = ask(cache, request)
    assert answer["slices"] == [index for index in held.tolist() if index != middle]
    assert (answer["reached"], answer["stopped"]) == ([held[0], held[-1]], {"before": "ended", "after": "ended"})
    block = np.zeros(geometry.shape, np.uint8)
    array = cache.shared.read(answer["block"]["array"])
    start = answer["block"]["corner_kji"]
    block[tuple(slice(low, low + size) for low, size in zip(start, array.shape, strict=True))] = array
    wanted = labels.array.copy()
    wanted[middle] = 0
    np.testing.assert_array_equal(block, wanted)
    assert cache.shared.read(answer["uncertainty"]["array"]).max() <= 100
    assert len(answer["confidence"]) == len(answer["slices"])
    part = ask(cache, replace(request, slice_range=(middle - 1, middle + 2)))
    assert part["slices"] == [middle - 1, middle + 1, middle + 2]
    assert part["stopped"] == {"before": "range", "after": "range"}


def test_doubts_add_up_until_it_stops(cache, monkeypatch):
    class Doubtful(Threshold):
        def segment(self, embedding, context):
            return super().segment(embedding, context) / 4

    offers(monkeypatch, Doubtful(), Capability(SIZE, "required"))
    monkeypatch.setattr("InContextSegLib.inference.loop.OUTLINE", 0.0)
    geometry = grid((12, 24, 24))
    image, labels = scan(0, geometry=geometry)
    target = ref(cache, image)
    request = Propagate(target, "axial", task(drawn(cache, target, labels, 6)), stop_below=0.0)
    free = ask(cache, request)
    sure = dict(zip(free["slices"], free["confidence"], strict=True))
    assert sure[5] > sure[4] > sure[3]
    held = ask(cache, replace(request, stop_below=(sure[5] + sure[4]) / 2))
    assert set(held["slices"]) <= {5, 7}
    assert held["stopped"]["before"] == "unsure"
    nothing = ask(cache, replace(request, stop_below=1.0))
    assert (nothing["slices"], nothing["reached"]) == ([], None)


def test_an_applied_slice_without_the_label_is_where_it_ends(cache, monkeypatch):
    offers(monkeypatch, Threshold(), Capability(SIZE, "required"))
    geometry = grid((12, 24, 24))
    image, labels = scan(0, geometry=geometry)
    array = labels.array.copy()
    array[4] = 0
    target = ref(cache, image)
    about = task(drawn(cache, target, Volume(array, geometry, Kind.LABELS), 6, 4))
    answer = ask(cache, Propagate(target, "axial", about, stop_below=0.0))
    assert min(answer["slices"]) == 5
    assert answer["stopped"]["before"] == "ended"


def test_only_slices_that_were_applied_can_be_carried_on(cache, network):
    image, labels = scan(0)
    target = ref(cache, image)
    about = task(drawn(cache, target, labels, 3))
    with pytest.raises(InputError, match="from slice 2, where it was not applied; apply a slice first"):
        ask(cache, Propagate(target, "axial", about, start=(2,)))
    other = task(ExampleRef(ref(cache, scan(1)[0]), ref(cache, scan(1)[1]), "other"))
    with pytest.raises(InputError, match="carried on, but it was applied on no slice; apply a slice first"):
        ask(cache, Propagate(target, "axial", other))


@pytest.mark.parametrize(("name", "value"), [("threshold", 1.5), ("stop_below", -0.1), ("supports", 0)])
def test_numbers_out_of_their_range_are_refused(cache, network, name, value):
    image, labels = scan(0)
    target = ref(cache, image)
    request = Propagate(target, "axial", task(drawn(cache, target, labels, 3)))
    with pytest.raises(InputError, match=f"{name}: asked for"):
        ask(cache, replace(request, **{name: value}))


def test_a_picture_is_clicked_like_a_slice_and_learns_from_pictures(cache, monkeypatch):
    offers(monkeypatch, Copy())
    flat = Geometry((1, 24, 24), grid().affine)
    pictures = [
        (Volume(image.array[3:4], flat, Kind.INTENSITY), Volume(labels.array[3:4], flat, Kind.LABELS))
        for image, labels in map(scan, (0, 1))
    ]
    other = ExampleRef(*(ref(cache, each) for each in pictures[1]), "other")
    target = ref(cache, pictures[0][0])
    answer = ask(cache, Correct(target, across_slices(flat), 0, task=task(other)))
    assert answer["context"] == 1
    assert (found(cache, answer) >= 128).any()


def test_weights_of_one_s_own_are_loaded_anew_when_their_file_changes(cache, monkeypatch, tmp_path):
    loaded, file = [], tmp_path / "own.safetensors"
    offers(monkeypatch, Brush())
    monkeypatch.setattr(corrections, "load_model", lambda model: loaded.append(model.weights) or (Brush(), {}, SIZE))
    request = Correct(ref(cache, scan(0)[0]), "axial", 3, clicks(at(grid(), 3, 9, 9)), model="fake", weights=str(file))
    for text in ("one", "one", "longer"):
        file.write_text(text)

        os.utime(file, ns=(len(text), len(text)))
        ask(cache, request)
    assert loaded == [Path(file)] * 2


def test_the_default_model_finds_a_cube_by_a_box_and_by_the_slice_beside_it(cache):
    geometry = grid((6, 96, 96))
    image, labels = scan(0, geometry=geometry)
    target, truth = ref(cache, image), labels.array > 0
    low, high = np.argwhere(truth[2]).min(axis=0), np.argwhere(truth[2]).max(axis=0)
    box = PromptsRef(boxes=((at(geometry, 2, *low)[0], at(geometry, 2, *high)[0]),))
    answer = ask(cache, Correct(target, "axial", 2, box))
    assert dice(found(cache, answer) >= 128, truth[2:3]) > 0.8
    about = replace(task(drawn(cache, target, labels, 2)), model="default")
    assert dice(found(cache, ask(cache, Correct(target, "axial", 3, task=about))) >= 128, truth[3:4]) > 0.9
    carried_on = ask(cache, Propagate(target, "axial", about))
    assert {1, 3, 4} <= set(carried_on["slices"])
