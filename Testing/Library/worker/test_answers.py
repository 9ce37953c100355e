"""What the worker answers: a preview is a piece of the whole, what was drawn stays, and nothing is done twice."""

from dataclasses import replace

import numpy as np
import pytest

from InContextSegLib.errors import Cancelled, InputError
from InContextSegLib.inference.prior import SuspectLabel
from InContextSegLib.inference.session import QUICK_PICTURES, quick
from InContextSegLib.inference.settings import InferenceSettings
from InContextSegLib.progress import Report
from InContextSegLib.slices.plan import AXES, SlicePlan
from InContextSegLib.volumes.files import write_volume
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume
from InContextSegLib.worker import cache as cache_module
from InContextSegLib.worker.answers import ANSWERS
from InContextSegLib.worker.cache import WorkerCache
from InContextSegLib.worker.protocol import (
    ArrayRef,
    Device,
    ExampleRef,
    FileRef,
    Prepare,
    Preview,
    Segment,
    TaskSpec,
    Weights,
)
from InContextSegLib.worker.shared_arrays import SharedFolder
from Testing.Library.fake_segmenter import CUBE, SIZE, Threshold, grid, saved, scan, use

OBLIQUE = grid((20, 26, 30), (2.0, 1.5, 0.8), turned=True, left_handed=True)


class Unsure(Threshold):
    """Finds what is bright, by a level that depends on the examples it is shown and on how they are mirrored."""

    def segment(self, embedding, context):
        self.calls += 1
        left, right = context.masks.split(SIZE // 2, dim=-1)
        return (embedding.images - 0.5 - left.mean() + right.mean()) * 6


@pytest.fixture
def network(monkeypatch):
    return use(monkeypatch, Unsure())


@pytest.fixture
def cache(tmp_path, network):
    return WorkerCache(SharedFolder.make(tmp_path), ANSWERS)


def ref(cache, volume):
    return ArrayRef.of(cache.shared.write(volume.array), volume.geometry, volume.kind)


def example(cache, seed=0, geometry=None, **others):
    image, labels = scan(seed, geometry=geometry)
    return ExampleRef(ref(cache, image), ref(cache, labels), f"patient {seed}", **others)


def task(*examples, settings=None, labels=((1, "cube"),), **others):
    return TaskSpec(examples, labels, InferenceSettings(**({"supports": 3} | (settings or {}))), **others)


def ask(cache, request, report=None):
    return cache.answer(request, report or Report())


def whole(cache, found, shape):
    """The block of an answer on the grid of the target."""
    array = np.zeros(shape, np.uint16)
    block = cache.shared.read(found["array"])
    array[tuple(slice(low, low + size) for low, size in zip(found["corner_kji"], block.shape, strict=True))] = block
    return array


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("draws", [1, 2, 3])
def test_the_preview_of_every_slice_is_what_the_whole_segmentation_has_there(cache, axis, draws):
    target = scan(5, geometry=OBLIQUE)[0]
    about = task(
        *(example(cache, n, OBLIQUE) for n in range(2)), settings={"axes": (axis,), "draws": draws, "supports": 2}
    )
    target_ref = ref(cache, target)
    found = ask(cache, Segment(about, target_ref))
    mask, spread = (
        whole(cache, found[name], OBLIQUE.shape) if found[name] else None for name in ("block", "uncertainty")
    )
    array_axis = SlicePlan.of(OBLIQUE, axis).array_axis
    for index in range(OBLIQUE.shape[array_axis]):
        shown = ask(cache, Preview(about, target_ref, index))
        assert (shown["axis"], shown["index"], shown["array_axis"]) == (axis, index, array_axis)
        assert (shown["draws"], shown["supports"]) == (draws, 2)
        here = np.take(mask, [index], array_axis)
        np.testing.assert_array_equal(np.take(whole(cache, shown["block"], OBLIQUE.shape), [index], array_axis), here)
        assert (shown["uncertainty"] is None) == (draws == 1)
        if draws > 1:
            percent = np.take(whole(cache, shown["uncertainty"], OBLIQUE.shape), [index], array_axis).astype(int)
            assert np.abs(percent - np.take(spread, [index], array_axis)).max() <= 1
    assert mask.any()
    assert draws == 1 or spread.max() > 5


def test_after_preparing_neither_the_network_nor_the_examples_are_touched_again(cache, network, monkeypatch):
    opened = []
    real = cache_module.open_session
    monkeypatch.setattr(cache_module, "open_session", lambda *given: opened.append(1) or real(*given))
    about, target = task(*(example(cache, n) for n in range(3)), settings={"calibrate": True}), ref(cache, scan(5)[0])
    prepared = ask(cache, Prepare(about, target))
    assert (prepared["labels"], prepared["axis"], prepared["examples"]) == ({"cube": 1}, "axial", 12)
    assert prepared["size"] == SIZE
    assert prepared["expected"]["cube"]["dice"] >= 0
    assert prepared["adaptation"] == {}
    monkeypatch.setattr(network, "condition", None)
    for index in range(6):
        ask(cache, Preview(about, target, index))
    ask(cache, Preview(about, ref(cache, scan(6)[0]), 2))  # another target of the same kind
    assert len(opened) == 1


def test_another_task_another_axis_and_targets_of_another_kind_are_prepared_on_their_own(cache, monkeypatch):
    opened = []
    real = cache_module.open_session
    monkeypatch.setattr(
        cache_module, "open_session", lambda *given: opened.append(given[0].settings.axes) or real(*given)
    )
    one, target = example(cache), ref(cache, scan(5)[0])
    ask(cache, Preview(task(one), target, 2))
    ask(cache, Preview(task(one), target, 2, "coronal"))
    ask(cache, Preview(task(one), target, 2, "axial"))
    ask(cache, Preview(task(one, settings={"seed": 1}), target, 2))
    across = grid((24, 24, 6), (1.0, 1.0, 3.0))
    ask(cache, Preview(task(one, settings={"seed": 1}), ref(cache, scan(5, geometry=across)[0]), 2))
    assert opened == [("axial",), ("coronal",), ("axial",), ("sagittal",)]
    assert len(cache._sessions._values) == cache_module.SESSIONS


def test_the_same_request_gives_the_same_arrays_also_after_a_restart(cache, tmp_path):
    about, target = task(example(cache), settings={"draws": 3}), ref(cache, scan(5)[0])
    for request in (Segment(about, target), Preview(about, target, 3)):
        found = [ask(each, request) for each in (cache, cache, WorkerCache(cache.shared, ANSWERS))]
        for name in ("block", "uncertainty"):
            first, *others = (np.array(cache.shared.read(each[name]["array"])) for each in found)
            for other in others:
                np.testing.assert_array_equal(first, other)


def drawn_in_target(cache, index=(slice(None),), axis=0, geometry=None):
    """A target with a scribble in some slices that no network would make; its references, and what was drawn."""
    image, labels = scan(1, geometry=geometry or grid((24, 24, 24), (1.0, 1.0, 1.0)))
    drawn = np.zeros_like(labels.array)
    place = [slice(None)] * 3
    place[axis] = index
    drawn[tuple(place)] = labels.array[tuple(place)]
    drawn[np.roll([index[0], 2, 2], axis)[0], 2, 2] = 1 if axis == 0 else 0
    target = ref(cache, image)
    labels = Volume(drawn, image.geometry, Kind.LABELS)
    return target, ExampleRef(target, ref(cache, labels), "target"), drawn


def test_slices_drawn_in_the_target_come_back_as_drawn_in_preview_and_whole(cache):
    target, own, drawn = drawn_in_target(cache, [6, 10, 14])
    about = task(own)
    found = ask(cache, Segment(about, target))
    mask = whole(cache, found["block"], drawn.shape)
    assert sorted(found["given"]) == [6, 10, 14]
    for index in (6, 10, 14):
        np.testing.assert_array_equal(mask[index], drawn[index])
        shown = whole(cache, ask(cache, Preview(about, target, index))["block"], drawn.shape)
        np.testing.assert_array_equal(shown[index], drawn[index])
    assert (mask[12] != drawn[12]).any()


@pytest.mark.parametrize("as_file", [False, True])
def test_slices_drawn_beside_one_another_are_no_finished_volume(cache, tmp_path, as_file):
    target, own, _ = drawn_in_target(cache, [6, 7, 8, 9, 10, 11])
    if as_file:  # the same image, but not by the same name
        image = scan(1, geometry=grid((24, 24, 24), (1.0, 1.0, 1.0)))[0]
        write_volume(tmp_path / "same.nii.gz", image)
        own = replace(own, image=FileRef(str(tmp_path / "same.nii.gz"), Kind.INTENSITY))
    found = ask(cache, Prepare(task(own, settings={"axes": ("axial",)}), target))
    assert found["examples"] == 6


def test_what_was_drawn_in_another_view_is_kept_as_stripes_of_the_slice(cache):
    target, own, drawn = drawn_in_target(cache, [6, 10, 14], axis=2)
    about = task(own, settings={"axes": ("axial",)})
    mask = whole(cache, ask(cache, Segment(about, target))["block"], drawn.shape)
    shown = whole(cache, ask(cache, Preview(about, target, 12))["block"], drawn.shape)
    np.testing.assert_array_equal(shown[12], mask[12])
    np.testing.assert_array_equal(shown[12][:, [6, 10, 14]], drawn[12][:, [6, 10, 14]])


def test_a_box_and_a_range_of_slices_limit_what_is_segmented(cache):
    about, target = task(example(cache)), ref(cache, scan(5)[0])
    everything = whole(cache, ask(cache, Segment(about, target))["block"], grid().shape)
    box = ((1, 8, 2), (4, 14, 16))
    inside = np.zeros_like(everything)
    inside[1:4, 8:14, 2:16] = everything[1:4, 8:14, 2:16]
    np.testing.assert_array_equal(
        whole(cache, ask(cache, Segment(about, target, box=box))["block"], grid().shape), inside
    )
    some = whole(cache, ask(cache, Segment(about, target, slice_range=(2, 3)))["block"], grid().shape)
    np.testing.assert_array_equal(some[2:4], everything[2:4])
    assert not some[[0, 1, 4, 5]].any()


def test_a_block_is_cropped_to_what_was_found_and_has_a_voxel_where_nothing_was(cache):
    about, target = task(example(cache)), ref(cache, scan(5)[0])
    block = ask(cache, Segment(about, target))["block"]
    array = cache.shared.read(block["array"])
    for axis in range(3):
        assert np.take(array, [0], axis).any()
        assert np.take(array, [-1], axis).any()
    dark = ref(cache, Volume(np.zeros(grid().shape, np.int16), grid()))
    found = ask(cache, Segment(about, dark))
    assert cache.shared.read(found["block"]["array"]).tolist() == [[[0]]]
    assert found["labels"]["cube"] == {"value": 1, "voxels": 0, "slices": [], "millilitres": 0.0}


def test_an_answer_says_what_a_record_would(cache):
    about = task(*(example(cache, n) for n in range(3)), settings={"calibrate": True, "draws": 2})
    found = ask(cache, Segment(about, ref(cache, scan(5)[0])))
    assert found["axis"] == "axial"
    assert 0 <= found["next_slice"] < 6
    assert (found["given"], found["label_check"]) == ([], [])
    assert set(found["unlike"]) <= set(range(6))
    assert found["labels"]["cube"]["voxels"] > 0
    assert found["expected"]["cube"]["units"] == 3
    assert found["provenance"]["settings"]["draws"] == 2
    assert found["provenance"]["colour"]["why"].startswith("luminance")
    assert found["seconds"] > 0


def test_an_example_that_disagrees_is_named_as_the_task_names_it(cache):
    about, target = task(*(example(cache, n) for n in range(3)), settings={"calibrate": True}), ref(cache, scan(5)[0])
    session = cache.session(cache.bound(about, target, Report()), Report())
    source = session.supports["axial"].examples[-1].source
    session.foresight = replace(session.foresight, suspects=(SuspectLabel(1, source, 0.1, 0.9, 3.0),))
    (suspect,) = ask(cache, Prepare(about, target))["label_check"]
    assert (suspect["source"], suspect["example"]) == ("patient 2 axial 4", "patient 2")


def test_values_of_labels_become_those_of_the_task_and_others_nothing(cache):
    image, labels = scan(0)
    array = np.where(labels.array == 1, 7, 0).astype(np.uint8)
    array[0, 0, 0] = 3
    mapped = ExampleRef(ref(cache, image), ref(cache, replace(labels, array=array)), "p", values=((7, 300),))
    found = ask(cache, Segment(task(mapped, labels=((300, "cube"),)), ref(cache, scan(5)[0])))
    block = cache.shared.read(found["block"]["array"])
    assert (block.dtype, np.unique(block).tolist()) == (np.uint16, [300])
    for values in ((7, -1), (70000, 1)):
        with pytest.raises(InputError, match="Values of labels are from 0 to 65535"):
            ask(cache, Prepare(task(replace(mapped, values=(values,))), ref(cache, image)))


def coloured(volume, value):
    """The volume with what is bright in green on red."""
    bright = volume.array > 100
    array = np.full((*bright.shape, 3), 90, np.uint8)
    array[..., 0], array[..., 1] = np.where(bright, 60, 130), np.where(bright, value, 90)
    return array


def test_colours_become_grey_by_one_mix_for_examples_and_target(cache, monkeypatch):
    use(monkeypatch, Threshold())

    def colour_ref(seed):
        volume = scan(seed)[0]
        return ArrayRef.of(cache.shared.write(coloured(volume, 130 + seed)), volume.geometry)

    examples = [ExampleRef(colour_ref(n), ref(cache, scan(n)[1]), f"p{n}") for n in range(2)]
    found = ask(cache, Segment(task(*examples), colour_ref(5)))
    assert found["provenance"]["colour"]["why"].startswith("separates the labels better")
    mask = whole(cache, found["block"], grid().shape)
    assert mask[CUBE].mean() > 0.9
    grey = ask(cache, Segment(task(*examples), ref(cache, scan(5)[0])))
    assert "a target is no colour picture" in grey["provenance"]["colour"]["why"]


def test_three_equal_channels_are_grey(cache):
    image, labels = scan(0)
    grey = ArrayRef.of(cache.shared.write(np.stack([image.array.astype(np.uint8)] * 3, -1)), image.geometry)
    found = ask(cache, Segment(task(ExampleRef(grey, ref(cache, labels), "p")), grey))
    assert "no colour picture" in found["provenance"]["colour"]["why"]


def test_files_serve_as_arrays_do_and_are_read_again_when_they_change(cache, tmp_path):
    paths = saved(tmp_path, "case", *scan(0))
    refs = [FileRef(str(path), kind) for path, kind in zip(paths, (Kind.INTENSITY, Kind.LABELS), strict=True)]
    target = FileRef(str(saved(tmp_path, "target", *scan(5))[0]), Kind.INTENSITY)
    about = task(ExampleRef(*refs, "case"))
    first = ask(cache, Segment(about, target))
    assert first["labels"]["cube"]["voxels"] > 0
    write_volume(tmp_path / "target.nii.gz", Volume(np.zeros(grid().shape, np.int16), grid()))
    assert ask(cache, Segment(about, target))["labels"]["cube"]["voxels"] == 0
    write_volume(paths[1], Volume(np.zeros(grid().shape, np.uint8), grid(), Kind.LABELS))
    with pytest.raises(InputError, match="needs labelled pictures"):
        ask(cache, Prepare(about, target))


def test_what_cannot_be_used_is_said_in_one_sentence(cache):
    one, target = example(cache), ref(cache, scan(5)[0])
    flat = ArrayRef.of(cache.shared.write(np.zeros((3, 3))), grid((3, 3, 1)))
    moved = replace(one.labels, affine=(*one.labels.affine[:2], (0.0, 0.0, 3.0, 99.0), one.labels.affine[3]))
    fractions = ArrayRef.of(cache.shared.write(np.full(grid().shape, 0.5)), grid(), Kind.LABELS)
    refused = {
        r"ff\.npy is not in the shared folder": Prepare(task(one), replace(target, name="ff.npy")),
        r"should be \(k, j, i\) or \(k, j, i, 3\), but it is \(3, 3\)": Prepare(task(one), flat),
        "/no/such.nrrd does not exist": Prepare(task(one), FileRef("/no/such.nrrd", Kind.INTENSITY)),
        "do not lie on the same grid": Prepare(task(replace(one, labels=moved)), target),
        "it holds fractions": Prepare(task(replace(one, labels=fractions)), target),
        "There is no axial slice 99": Preview(task(one), target, 99),
        "axes: asked for 'auto' or different ones of axial, coronal, sagittal, got oblique": Preview(
            task(one), target, 1, "oblique"
        ),
        "Label 4": Prepare(task(one, labels=((4, "four"),)), target),
        "must hold at least one voxel": Segment(task(one), target, box=((0, 0, 0), (9, 99, 9))),
        "Asked for the slices 4 to 9": Segment(task(one), target, slice_range=(4, 9)),
        "There is no model": Prepare(task(one, model="nobody"), target),
        "needs at least one example": Prepare(task(), target),
        "is no device": Prepare(task(one, device="abacus"), target),
    }
    for complaint, request in refused.items():
        with pytest.raises(InputError, match=complaint) as caught:
            ask(cache, request)
        assert "\n" not in str(caught.value)
    assert ask(cache, Preview(task(one), target, 2))["axis"] == "axial"


def test_what_was_cancelled_is_not_kept_and_is_done_when_asked_again(cache, network):
    about, target = task(*(example(cache, n) for n in range(3)), settings={"calibrate": True}), ref(cache, scan(5)[0])

    def after(done, total, message):
        if message.startswith("the examples predict"):
            report.cancel()

    report = Report(after)
    with pytest.raises(Cancelled):
        ask(cache, Prepare(about, target), report)
    cache.recover(everything=False)
    assert ask(cache, Prepare(about, target))["examples"] == 12


def test_a_preview_that_a_newer_one_follows_still_learns_the_task_but_makes_no_slice(cache, network):
    about, target = task(example(cache)), ref(cache, scan(5)[0])
    report = Report()
    report.hurry()
    with pytest.raises(Cancelled, match="A newer preview is wanted"):
        ask(cache, Preview(about, target, 2), report)
    assert network.calls == 0
    assert len(cache._sessions._values) == 1


def test_when_memory_ran_out_nothing_is_kept(cache):
    ask(cache, Preview(task(example(cache)), ref(cache, scan(5)[0]), 2))
    cache.recover(everything=True)
    assert len(cache._sessions._values) == len(cache._volumes._values) == 0


def test_the_devices_are_named_with_their_memory(cache):
    found = ask(cache, Device())
    assert found["devices"][0]["name"] == "cpu"
    assert found["devices"][0]["memory_bytes"] > found["devices"][0]["free_bytes"] > 0
    assert found["threads"] >= 1
    assert found["chosen"] in {each["name"].partition(":")[0] for each in found["devices"]}
    with pytest.raises(InputError, match="is no device"):
        ask(cache, Device("abacus"))


def test_weights_that_come_with_the_package_are_there_and_stay(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("INCONTEXTSEG_CACHE", str(tmp_path / "cache"))
    found = ask(cache, Weights("default", "ensure"))
    assert found["path"].endswith("default.safetensors")
    with pytest.raises(InputError, match="cannot be removed"):
        ask(cache, Weights("default", "remove"))
    assert ask(cache, Weights("universeg-v1", "remove"))["removed"] is False


@pytest.mark.parametrize("labels", [1, 2, 5, 20])
@pytest.mark.parametrize("size", [128, 256])
@pytest.mark.parametrize(
    "settings", [{"supports": 8, "draws": 1}, {"supports": 16, "draws": 2}, {"supports": 32, "draws": 4}]
)
def test_a_preview_takes_no_longer_than_one_waits_or_the_least_it_can(labels, size, settings):
    asked = InferenceSettings(**settings)
    found = quick(asked, size, labels)
    pictures = labels * (size / 128) ** 2 * found.draws * (8 + found.supports)
    assert pictures <= QUICK_PICTURES or (found.draws, found.supports) == (1, 1)
    assert (found.draws, found.supports) <= (asked.draws, asked.supports)
    assert found == asked or found.draws == 1


def test_pictures_serve_as_examples_and_as_targets(cache):
    def picture(seed):
        image, labels = scan(seed)
        flat = Geometry((1, 24, 24), grid().affine)
        return Volume(image.array[2:3], flat), Volume(labels.array[2:3], flat, Kind.LABELS)

    examples = [ExampleRef(*(ref(cache, each) for each in picture(n)), f"picture {n}") for n in range(3)]
    target = ref(cache, picture(5)[0])
    found = ask(cache, Segment(task(*examples), target))
    shown = ask(cache, Preview(task(*examples), target, 0))
    np.testing.assert_array_equal(whole(cache, found["block"], (1, 24, 24)), whole(cache, shown["block"], (1, 24, 24)))
