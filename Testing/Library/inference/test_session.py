"""A session: the same answer for the same question, nothing where nobody showed it, and progress one can trust."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from InContextSegLib.errors import Cancelled, InputError
from InContextSegLib.examples.support import Label, LabelledVolume, SupportSet
from InContextSegLib.inference import cached
from InContextSegLib.inference import session as session_module
from InContextSegLib.inference.session import Session
from InContextSegLib.inference.settings import PRESETS, InferenceSettings
from InContextSegLib.models.catalog import find
from InContextSegLib.models.networks import build
from InContextSegLib.progress import Report
from InContextSegLib.slices.body import Field, body_of
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.slices.plan import AXES
from InContextSegLib.volumes.geometry import Kind, Volume
from Testing.Library.fake_segmenter import CUBE, LABEL, SIZE, Echo, Threshold, grid, scan

CPU = torch.device("cpu")


def support_of(*scans, axis="axial", slices="all", size=SIZE):
    return SupportSet.from_volumes(
        [LabelledVolume(*each, f"case{n}") for n, each in enumerate(scans)], axis, size, slices
    )


def session_of(segmenter, *supports):
    return Session(segmenter, supports, Intensities(), {"entry": "fake"}, CPU)


def segment(session, volume, report=None, box=None, keep=False, **settings):
    settings = {"supports": 4, "draws": 1, "axes": tuple(session.supports)} | settings
    return session.segment(volume, InferenceSettings(**settings), report or Report(), box, keep)


def without_first_slice(pair):
    keep = np.arange(6)[:, None, None] > 0
    return tuple(Volume(each.array * keep, each.geometry, each.kind) for each in pair)


class Steps(Report):
    """Remembers the steps, and cancels after some."""

    def __init__(self, cancel_after=None):
        super().__init__()
        self.seen, self.cancel_after = [], cancel_after

    def step(self, done, total, message=""):
        super().step(done, total, message)
        self.seen.append((done, total))
        if len(self.seen) == self.cancel_after:
            self.cancel()


def test_the_network_that_comes_with_the_software_gives_the_same_prediction_for_the_same_seed():
    torch.manual_seed(3)
    session = session_of(build(find("default")), support_of(scan(0), size=128))
    first, again = (
        segment(session, scan(1)[0], box=((2, 0, 0), (4, 24, 24)), draws=2, supports=2, seed=5) for _ in range(2)
    )
    np.testing.assert_array_equal(first.mask.array, again.mask.array)
    np.testing.assert_array_equal(first.uncertainty.array, again.uncertainty.array)
    assert first.uncertainty.array.any()


def test_another_seed_draws_other_examples():
    cases = [
        (image, Volume(np.roll(labels.array, n, 2), image.geometry, labels.kind))
        for n in range(4)
        for image, labels in [scan(n)]
    ]
    session = session_of(Echo(), support_of(*cases))
    spreads = [segment(session, scan(1)[0], draws=3, supports=2, seed=seed).uncertainty.array for seed in (5, 5, 6)]
    np.testing.assert_array_equal(spreads[0], spreads[1])
    assert (spreads[0] != spreads[2]).any()


def test_labels_do_not_overlap_and_keep_values_above_255():
    image, low = scan(0, 3)
    both = np.where(np.arange(24) < 14, low.array, low.array.astype(np.uint16) * 100)
    support = support_of((image, Volume(both.astype(np.uint16), image.geometry, Kind.LABELS)))
    mask = segment(session_of(Echo(), support), image, supports=1).mask.array
    assert set(np.unique(mask)) == {0, 3, 300}
    assert (mask[3] == both[3]).mean() > 0.9


def test_the_known_slices_of_the_target_are_found_and_no_others():
    pair = scan(0)
    support = support_of(pair, slices=(1, 4))
    assert segment(session_of(Threshold(), support), pair[0]).given == (1, 4)
    assert segment(session_of(Threshold(), support), scan(1)[0]).given == ()


def test_known_slices_outside_the_box_are_not_mistaken_for_others():
    image = np.repeat(scan(0)[0].array[2:3], 6, axis=0)
    volume = Volume(image, grid(), Kind.INTENSITY)
    support = support_of((volume, scan(0)[1]), slices=(1,))
    assert segment(session_of(Threshold(), support), volume, box=((3, 0, 0), (6, 24, 24))).given == ()


def test_empty_slices_of_another_patient_are_not_taken_for_the_target_s_own():
    (image, labels), (other, _) = (without_first_slice(scan(seed)) for seed in (0, 1))
    assert segment(session_of(Threshold(), support_of((image, labels))), other).given == ()


def test_a_box_leaves_everything_outside_untouched():
    box = ((2, 4, 9), (5, 20, 18))
    prediction = segment(session_of(Threshold(), support_of(scan(0))), scan(1)[0], box=box, draws=2, keep=True)
    inside = np.zeros((6, 24, 24), bool)
    inside[2:5, 4:20, 9:18] = True
    for array in (prediction.mask.array, prediction.uncertainty.array, prediction.probabilities[1]):
        assert not array[~inside].any()
    assert prediction.mask.array[inside].any()
    assert 2 <= prediction.next_slice < 5


def test_several_axes_are_fused_and_spread_even_with_one_draw():
    supports = [support_of(scan(0), axis=axis) for axis in AXES]
    prediction = segment(session_of(Threshold(), *supports), scan(1)[0])
    assert prediction.uncertainty is not None
    assert prediction.provenance["settings"]["axes"] == list(AXES)
    truth = scan(1)[1].array > 0
    assert (prediction.mask.array[truth] == 1).mean() > 0.8


def test_a_scan_too_large_for_one_block_is_segmented_as_any_other(monkeypatch):
    support, target = support_of(scan(0)), scan(1, geometry=grid((19, 24, 24), left_handed=True))[0]
    asked = {"draws": 2, "supports": 2, "smooth": True, "keep": True}
    whole = segment(session_of(Echo(), support), target, **asked)
    monkeypatch.setattr(session_module, "BLOCK_BYTES", 1)
    found = segment(session_of(Echo(), support), target, **asked)
    assert found.mask.array.any() and found.uncertainty.array.any()
    np.testing.assert_array_equal(found.mask.array, whole.mask.array)
    np.testing.assert_array_equal(found.uncertainty.array, whole.uncertainty.array)
    np.testing.assert_allclose(found.probabilities[1], whole.probabilities[1], atol=1e-3)
    assert (found.next_slice, found.unlike) == (whole.next_slice, whole.unlike)


def test_a_negative_of_the_examples_is_warned_of(caplog):
    session, (image, _labels) = session_of(Threshold(), support_of(scan(0), scan(1))), scan(2)
    segment(session, image)
    assert "negative" not in caplog.text
    segment(session, Volume(image.array.max() - image.array, image.geometry, Kind.INTENSITY))
    assert "it may be a negative" in caplog.text


def test_an_axis_without_examples_is_refused():
    session = session_of(Threshold(), support_of(scan(0)))
    with pytest.raises(InputError, match="along the coronal axis, but the examples were cut along axial only"):
        segment(session, scan(1)[0], axes=("coronal",))


def test_one_draw_has_no_uncertainty():
    assert segment(session_of(Threshold(), support_of(scan(0))), scan(1)[0]).uncertainty is None


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("axes", [("axial",), ("axial", "sagittal")])
def test_progress_never_goes_back_and_reaches_its_total(own, axes):
    report, pair = Steps(), scan(0)
    session = session_of(
        Threshold(), *(support_of(pair, axis=axis, slices=(3, 12)[n : n + 1]) for n, axis in enumerate(axes))
    )
    segment(session, pair[0] if own else scan(1)[0], report, draws=2)
    done = [step for step, _ in report.seen]
    assert done == sorted(done)
    assert len({total for _, total in report.seen}) == 1
    assert report.seen[-1][0] == report.seen[-1][1]


def test_cancelling_half_way_stops_at_the_next_step():
    report, network = Steps(cancel_after=3), Threshold()
    with pytest.raises(Cancelled, match="Cancelled after"):
        segment(session_of(network, support_of(scan(0))), scan(1)[0], report, draws=8)
    assert len(report.seen) == 3
    assert network.calls < 10


def test_the_caches_stay_within_their_budgets(monkeypatch):
    monkeypatch.setattr(cached, "CONTEXT_BYTES", 20 * SIZE * SIZE * 4)
    monkeypatch.setattr(cached, "EMBEDDING_BYTES", 10 * SIZE * SIZE * 4)
    session = session_of(Threshold(), support_of(scan(0), scan(1)))
    for seed in range(3):
        segment(session, scan(seed + 2)[0], draws=4)
        assert session.network.contexts.used_bytes <= session.network.contexts.budget_bytes
        assert session.network.embeddings.used_bytes <= session.network.embeddings.budget_bytes


def test_what_no_chosen_example_shows_is_not_predicted():
    network = Threshold()
    support = support_of(scan(0))
    empty = support.without([n for n, example in enumerate(support.examples) if example.labels.any()])
    assert not segment(session_of(network, empty), scan(1)[0], keep=True).probabilities[LABEL.value].any()
    assert network.calls == 0


def test_one_session_answers_for_several_volumes_as_sessions_of_their_own_would():
    support, volumes = support_of(scan(0)), [scan(1)[0], scan(2, geometry=grid((9, 30, 20), (2.0, 1.5, 1.0)))[0]]
    shared = session_of(Echo(), support)
    for volume in (*volumes, volumes[0]):
        alone = segment(session_of(Echo(), support), volume, draws=3)
        np.testing.assert_array_equal(segment(shared, volume, draws=3).mask.array, alone.mask.array)


@pytest.mark.parametrize("indices", [[3], [3, 3, 3], [4, 3, 2, 1]])
def test_one_example_a_repeated_one_and_any_order_are_fine(indices):
    support = support_of(scan(0))
    support = replace(support, examples=tuple(support.examples[index] for index in indices))
    prediction = segment(session_of(Threshold(), support), scan(1)[0], draws=4)
    assert prediction.mask.array.any()


@pytest.mark.parametrize(("edge_mm", "said"), [(20.0, False), (9.0, True)])
def test_a_target_is_looked_at_in_the_field_of_its_examples_and_what_may_go_on_beyond_it_is_said(edge_mm, said, caplog):
    image, labels = scan(1)
    middle = image.geometry.to_world([(end.start + end.stop - 1) / 2 for end in CUBE])
    low, high = body_of(image, Intensities().of(image.array))
    body = image.geometry.to_world((np.array(low) + high - 1) / 2)
    right, front, _ = (middle - body).tolist()
    field = Field(edge_mm, (right, front, 0.0), (1.0, 24.0))
    pair = LabelledVolume(image, labels, "case")
    support = SupportSet.from_volumes([pair], "axial", SIZE, "all", labels=[LABEL], field=field)
    prediction = segment(session_of(Threshold(), support), image)
    found, truth = prediction.mask.array > 0, labels.array > 0
    assert not (found & ~truth).any()
    assert found.sum() == pytest.approx(4 * edge_mm**2 if said else truth.sum(), rel=0.15)
    assert ("beyond the field of view" in caplog.text) == said
    assert prediction.provenance["support"]["axial"]["field"]["edge_mm"] == edge_mm
    one = session_of(Threshold(), support).segment_slice(
        image, Intensities().of(image.array), "axial", 3, InferenceSettings(supports=4, draws=1)
    )
    assert np.array_equal(one.mask.array[0], prediction.mask.array[3])


def test_own_slices_say_nothing_where_the_field_was_moved_to_show_a_box():
    image, labels = scan(1)
    pair = LabelledVolume(image, labels, "case", may_be_finished=False, slices=(1, 4))
    field = Field(14.0, (0.0, 0.0, 0.0), (1.0, 24.0))
    support = SupportSet.from_volumes([pair], "axial", SIZE, "auto", labels=[LABEL], field=field)
    session, far = session_of(Threshold(), support), ((0, 10, 16), (6, 24, 24))
    there = np.zeros(image.array.shape, bool)
    there[tuple(map(slice, *far))] = True
    found = segment(session, image, box=far).mask.array > 0
    assert not (found & ~there).any()
    wrong = (found != (labels.array > 0)) & there
    assert wrong[2:4].sum() <= 0.15 * (labels.array[2:4] > 0).sum()  # a rim, as the cube's edges are smoothed


def test_the_provenance_says_how_a_prediction_came_about():
    support = support_of(scan(0))
    provenance = segment(session_of(Threshold(), support), scan(1)[0], seed=7).provenance
    wanted = InferenceSettings(supports=4, draws=1, axes=("axial",), seed=7)
    assert provenance["settings"] == wanted.to_mapping()
    examples = {"examples": 6, "fingerprint": support.fingerprint, "field": None, "span": [0.0, 1.0]}
    assert provenance["support"] == {"axial": examples}
    assert provenance["labels"] == {"1": "label 1"}
    assert provenance["model"] == {"entry": "fake"}
    assert {"incontextseg", "torch", "device", "intensities"} <= set(provenance)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"supports": 0}, "supports: asked for at least 1"),
        ({"draws": 0}, "draws: asked for at least 1"),
        ({"threshold": float("nan")}, "threshold: asked for a number between 0 and 1"),
        ({"seed": -1}, "seed: asked for a whole number"),
        ({"axes": ("axial", "axial")}, "axes: asked for 'auto' or different ones"),
        ({"axes": ()}, "axes: asked for 'auto' or different ones"),
    ],
)
def test_settings_without_sense_are_refused_as_bad_input(wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        InferenceSettings(**wrong)


def test_every_preset_is_valid():
    assert {name: InferenceSettings(**preset).members for name, preset in PRESETS.items()} == {
        "fast": 1, "normal": 2, "best": 2,
    }  # fmt: skip


def test_a_label_picture_can_be_its_own_example_along_any_axis():
    image, labels = scan(0, 1, grid((1, 24, 24)))
    support = SupportSet.from_images([LabelledVolume(image, labels, "picture")], SIZE)
    assert segment(session_of(Echo(), support), image).mask.array.sum() == pytest.approx(labels.array.sum(), rel=0.2)
    assert Label(1, "label 1") in support.labels


def test_a_single_slice_is_not_taken_for_the_middle_of_a_patient():
    image, labels = scan(0)
    top = Volume(image.array[4:5], grid((1, 24, 24)), Kind.INTENSITY)
    session = session_of(Threshold(), support_of((image, labels)))
    asked = []
    select = SupportSet.select
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SupportSet, "select", lambda self, *rest: asked.append(rest[1]) or select(self, *rest))
        segment(session, top)
        segment(session, image)
    assert asked[0] is None
    assert None not in asked[1:]


@pytest.mark.parametrize("axis", AXES)
def test_a_box_changes_nothing_inside_runs_of_slices_that_it_holds_whole(axis):
    geometry = grid((16, 16, 16), (1.0, 1.0, 1.0), left_handed=True)
    session = session_of(Echo(), support_of(*(scan(n, geometry=geometry) for n in range(3)), axis=axis))
    volume, settings = scan(5, geometry=geometry)[0], {"draws": 3, "supports": 5}
    whole = segment(session, volume, **settings)
    for low, high in ((4, 12), (0, 8), (8, 16)):
        part = segment(session, volume, box=((low,) * 3, (high,) * 3), **settings)
        inside = (slice(low, high),) * 3
        np.testing.assert_array_equal(part.mask.array[inside], whole.mask.array[inside])
        np.testing.assert_allclose(part.uncertainty.array[inside], whole.uncertainty.array[inside], atol=1e-6)


def test_a_slice_that_does_not_exist_cannot_be_segmented_alone():
    session, volume = session_of(Threshold(), support_of(scan(0))), scan(1)[0]
    with pytest.raises(InputError, match="There is no axial slice 6; choose an index from 0 to 5"):
        session.segment_slice(volume, session.intensities.of(volume.array), "axial", 6, InferenceSettings())


class Silent(Threshold):
    """Says of nothing whether it belongs to the label."""

    def segment(self, embedding, context):
        return torch.zeros_like(super().segment(embedding, context))


def cone():
    """A noisy volume of 16 slices, and a square in each that grows from 4 to 19 pixels."""
    geometry = grid((16, 24, 24))
    labels = np.zeros((16, 24, 24), np.uint8)
    for k in range(16):
        labels[k, 2 : 6 + k, 2 : 6 + k] = 1
    image = np.random.default_rng(0).integers(10, 60, labels.shape).astype(np.int16)
    return Volume(image, geometry, Kind.INTENSITY), Volume(labels, geometry, Kind.LABELS)


def test_where_the_network_says_nothing_the_shape_of_the_labelled_slices_beside_decides():
    image, labels = cone()
    found = segment(session_of(Silent(), support_of((image, labels), slices=(1, 7, 13), size=48)), image)
    sizes, wanted = ((each.array > 0).sum(axis=(1, 2))[1:14] for each in (found.mask, labels))
    np.testing.assert_allclose(sizes, wanted, rtol=0.2)


@pytest.mark.parametrize("index", [3, 7, 10])
def test_a_slice_alone_knows_the_labelled_slices_far_from_it(index):
    image, labels = cone()
    session = session_of(Silent(), support_of((image, labels), slices=(1, 7, 13), size=48))
    whole = segment(session, image)
    settings = InferenceSettings(supports=4, draws=1, axes=("axial",))
    alone = session.segment_slice(image, session.intensities.of(image.array), "axial", index, settings)
    np.testing.assert_array_equal(alone.mask.array[0], whole.mask.array[index])


def test_the_shape_in_one_patient_says_nothing_of_another():
    image, labels = cone()
    session = session_of(Silent(), support_of((image, labels), slices=(1, 7, 13), size=48))
    other = Volume(image.array[:, ::-1] + 3, image.geometry, Kind.INTENSITY)
    assert segment(session, other, threshold=0.6).mask.array.sum() == 0


class Everywhere(Threshold):
    """Sees the label wherever it is asked for it."""

    def segment(self, embedding, context):
        return torch.full_like(super().segment(embedding, context), 20.0)


def test_beyond_the_labelled_slices_of_the_target_nothing_goes_on_without_an_end_unless_asked():
    image, labels = cone()
    session = session_of(Everywhere(), support_of((image, labels), slices=(2, 6, 9), size=48))
    ended, open_ended = (segment(session, image, extend=extend).mask.array > 0 for extend in (False, True))
    assert not ended[:1].any() and not ended[-2:].any()
    assert open_ended[0].all() and open_ended[-1].all()


def test_where_somebody_says_how_far_to_go_labels_go_that_far():
    image, labels = cone()
    session = session_of(Everywhere(), support_of((image, labels), slices=(2, 6, 9), size=48))
    found = segment(session, image, box=((0, 0, 0), (14, 24, 24))).mask.array > 0
    assert found[0].all() and found[13].all() and not found[14:].any()
