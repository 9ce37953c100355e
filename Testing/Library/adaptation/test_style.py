"""Style: a target from another scanner comes to look like the examples, where they say that it helps, and no other."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from InContextSegLib.adaptation import style
from InContextSegLib.adaptation.style import Style, judge, low_amplitudes, prompted
from InContextSegLib.cli import main as cli
from InContextSegLib.cli.arguments import parser
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
AS_IT_IS = Intensities((0.0, 1.0))
ROWS, COLUMNS = slice(4, 28), slice(6, 26)


def picture(number=0, size=SIZE, gain=1.0):
    """A bright block, a little brighter for every number, on grey ground with fine stripes."""
    image = np.full((size, size), 0.3, np.float32)
    image[:, ::2] += 0.02
    image[ROWS, COLUMNS] = 0.8 + 0.01 * number
    return (image * gain).astype(np.float32)


def example(number, position=None, size=SIZE):
    labels = np.zeros((size, size), np.uint16)
    labels[ROWS, COLUMNS] = 1
    source = f"picture{number}" if position is None else f"case{number}.nii.gz axial {round(100 * position)}"
    return Example(picture(number, size), labels, position, source)


def support_of(*examples):
    return SupportSet(tuple(examples), (THING,), "axial", examples[0].image.shape[0])


def pictures(*images):
    return torch.from_numpy(np.stack(images))[:, None]


def adapted(*images, support=None, **how):
    """What a style that is in use makes of pictures without a position, as an array, and what it says."""
    support = support or support_of(*(example(n) for n in range(4)))
    found, outcome = Style(support, True, "for the test").adapt(pictures(*images), [None] * len(images), **how)
    return found[:, 0].numpy(), outcome


def judged(*examples, network=None, report=None, shown=8):
    network = CachedSegmenter(network or Threshold(), CPU)
    return judge(network, support_of(*examples), AS_IT_IS, shown, {}, report or Report())


def shifting(monkeypatch, change):
    """Let the invented other scanner do this to every picture."""
    monkeypatch.setattr(style, "another_scanner", lambda images, strength, generator: change(images))


def test_a_darker_target_gets_the_brightness_of_the_examples():
    found, outcome = adapted(picture(1, gain=0.6), picture(2, gain=0.6))
    assert outcome.applied and outcome.why == "the target lies outside of what the examples cover"
    assert found[:, 10, 10] == pytest.approx(0.8, abs=0.04)
    assert found.mean() == pytest.approx(picture(1).mean(), abs=0.01)


def test_a_target_like_the_examples_is_left_as_it_is():
    before = pictures(picture(1), picture(2))
    support = support_of(*(example(n) for n in range(4)))
    found, outcome = Style(support, True, "for the test").adapt(before, [None, None])
    assert found is before
    assert (outcome.applied, outcome.why) == (False, "the target looks like the examples")
    assert outcome.distance <= outcome.limit


def test_the_same_target_comes_out_the_same():
    first, again = (adapted(picture(1, gain=0.6))[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_light_from_one_side_is_evened_out_though_the_mean_grey_is_the_usual():
    ground = np.full((SIZE, SIZE), 0.4, np.float32)
    light = (1 + 0.4 * np.cos(2 * np.pi * np.arange(SIZE) / SIZE)).astype(np.float32)[None]
    flat = support_of(*(replace(example(n), image=ground + np.float32(0.01 * n)) for n in range(4)))
    found, outcome = adapted(ground * light, support=flat)
    assert outcome.applied
    assert found[0].std() < 0.6 * (ground * light).std()


def test_all_slices_of_a_target_are_changed_by_one_prompt():
    """A slice that is darker than its neighbour stays so: that is the patient, not the scanner."""
    found, _ = adapted(picture(1, gain=0.6), picture(1, gain=0.4))
    assert found[1, 10, 10] / found[0, 10, 10] == pytest.approx(0.4 / 0.6, abs=0.02)


def test_fine_detail_and_places_stay():
    """Only the lowest frequencies are multiplied, by positive numbers: phases and stripes are as they were."""
    image = torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
    prompt = np.full((style.BAND, style.BAND), 1.1, np.float32)
    before, after = (torch.fft.fft2(each)[0] for each in (image, prompted(image, prompt)))
    reach = style.BAND // 2 + 1
    torch.testing.assert_close(after[reach:-reach, reach:-reach], before[reach:-reach, reach:-reach])
    torch.testing.assert_close(after[:reach, :reach], 1.1 * before[:reach, :reach])


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 7), (31, 33), (128, 96)])
def test_pictures_of_any_size_have_low_frequencies_and_a_prompt_of_ones_changes_nothing(shape):
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1))
    amplitudes = low_amplitudes(images)
    np.testing.assert_allclose(amplitudes.max(axis=(1, 2)), images.mean(dim=(1, 2)), rtol=1e-4)
    torch.testing.assert_close(prompted(images, np.ones_like(amplitudes[0])), images)


@pytest.mark.parametrize("grey", [0.0, 0.2, 1.0])
def test_an_empty_or_constant_target_does_not_break(grey):
    found, outcome = adapted(np.full((SIZE, SIZE), grey, np.float32))
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1
    assert np.isfinite(outcome.distance)
    if grey == 0:
        assert not found.any()


def test_padding_stays_black_and_nothing_leaves_the_range():
    image = picture(1, gain=0.5)
    image[:, :5] = 0
    found, outcome = adapted(image)
    assert outcome.applied and not found[0, :, :5].any()
    assert found.min() >= 0 and found.max() <= 1


def test_slices_are_compared_with_examples_of_the_same_stretch():
    """The lower half of every patient is dark; a target of that half alone is no other scanner's."""
    dark = [replace(example(n, 0.2), image=picture(n, gain=0.4)) for n in range(3)]
    bright = [replace(example(n, 0.8), image=picture(n)) for n in range(3)]
    low = [replace(each, position=0.3, source=f"case{n}.nii.gz axial 30") for n, each in enumerate(dark)]
    used = Style(support_of(*dark, *low, *bright), True, "for the test")
    target = pictures(picture(1, gain=0.4), picture(1, gain=0.4))
    assert not used.adapt(target, [0.2, 0.3])[1].applied
    assert used.adapt(target, [None, None])[1].applied  # without positions nobody can tell


def test_where_all_examples_are_of_one_volume_nothing_says_what_scanners_differ_in():
    _, outcome = adapted(picture(1, gain=0.5), support=support_of(*(example(0, n / 10) for n in range(1, 5))))
    assert not outcome.applied and outcome.limit == np.inf


def test_a_target_whose_own_slices_are_examples_is_left_as_it_is():
    _, outcome = adapted(picture(1, gain=0.5), own=True)
    assert (outcome.applied, outcome.why) == (False, "slices of the target itself are among the examples")


def test_it_is_used_where_examples_gain_by_it_under_another_scanner(monkeypatch):
    """At 0.6 of its brightness the block is below the network's threshold, and above it when adapted."""
    shifting(monkeypatch, lambda images: images * 0.6)
    told = judged(*(example(n) for n in range(5)))
    assert told.used
    assert told.dice["as they are"] == told.dice["adapted"] == 1.0
    assert told.dice["shifted"] == 0.0 and told.dice["shifted, adapted"] > 0.9


def test_it_is_not_used_where_the_network_does_not_need_it(monkeypatch):
    shifting(monkeypatch, lambda images: images * 0.95)
    told = judged(*(example(n) for n in range(5)))
    assert (told.used, told.why) == (False, "the examples gain too little by it under another scanner")
    before = pictures(picture(1, gain=0.5))
    found, outcome = told.adapt(before, [None])
    assert found is before
    assert (outcome.applied, outcome.why, outcome.distance) == (False, told.why, None)


def test_it_is_not_used_where_the_examples_lose_by_it_as_they_are(monkeypatch):
    """One picture is dim but found; brought to the others, its bright ground would be found as well."""
    shifting(monkeypatch, lambda images: images * 0.6)
    monkeypatch.setattr(style._Spectra, "limit", lambda self, at: 0.0)
    plain = np.full((SIZE, SIZE), BRIGHT - 0.01, np.float32)
    plain[ROWS, COLUMNS] = BRIGHT + 0.02
    odd = [replace(example(n), image=plain, source=f"dim{n}") for n in range(3)]
    told = judged(*(example(n) for n in range(5)), *odd)
    assert told.dice["adapted"] < told.dice["as they are"]
    assert (told.used, told.why) == (False, "the examples lose by it as they are")


def test_two_examples_are_too_few_to_tell():
    told = judged(example(0), example(1))
    assert (told.used, told.why, told.dice) == (False, "there are too few examples to tell whether it helps", {})


def test_the_same_examples_are_judged_the_same():
    first, again = (judged(*(example(n) for n in range(5))) for _ in range(2))
    assert first.dice == again.dice and first.used == again.used


def test_examples_of_the_volume_left_out_never_segment_it():
    class Recorder(Threshold):
        def segment(self, embedding, context):
            assert not any(torch.equal(embedding.images[0], image) for image in context.images[0])
            return super().segment(embedding, context)

    network = Recorder()
    judged(*(example(n, position) for n in range(4) for position in (0.2, 0.4)), network=network)
    assert network.calls and max(network.shown) <= 6


def test_judging_can_be_cancelled():
    report = Report(lambda done, total, message: report.cancel())
    with pytest.raises(Cancelled, match="Cancelled after 1 of 5"):
        judged(*(example(n) for n in range(5)), report=report)


def session_and_target(gain):
    session = Session(
        Threshold(), [support_of(*(example(n) for n in range(5)))], AS_IT_IS, {"entry": "fake"}, CPU, Prior(judge=judge)
    )
    array = picture(1, gain=gain)[None]
    return session, Volume(array, grid((1, SIZE, SIZE), (1.0, 1.0, 1.0)), Kind.INTENSITY)


def test_a_session_adapts_the_target_when_asked_and_says_so(monkeypatch):
    shifting(monkeypatch, lambda images: images * 0.6)
    session, target = session_and_target(0.6)
    found = {}
    for wanted in (False, True):
        settings = InferenceSettings(supports=4, draws=1, axes=("axial",), style=wanted)
        found[wanted] = session.segment(target, settings, Report())
    assert not found[False].mask.array.any() and found[False].provenance["style"] is None
    assert found[True].mask.array[0, ROWS, COLUMNS].mean() > 0.9
    told = found[True].provenance["style"]["axial"]
    assert told["applied"] and told["band"] == style.BAND and told["distance"] > told["limit"]
    assert told["dice"]["shifted"] == 0.0 and told["dice"]["shifted, adapted"] > 0.9


def test_a_session_that_nobody_told_how_to_judge_says_so():
    session, target = session_and_target(0.6)
    session._judge = None
    with pytest.raises(ValueError, match="nothing judges"):
        session.segment(target, InferenceSettings(supports=4, draws=1, axes=("axial",), style=True), Report())


def test_a_session_judges_once_for_all_its_targets_and_leaves_a_usual_one_alone(monkeypatch):
    shifting(monkeypatch, lambda images: images * 0.6)
    session, target = session_and_target(1.0)
    plain, asked = (
        session.segment(target, InferenceSettings(supports=4, draws=1, axes=("axial",), style=wanted), Report())
        for wanted in (False, True)
    )
    np.testing.assert_array_equal(plain.mask.array, asked.mask.array)
    monkeypatch.setattr(session, "_judge", None)
    session.segment(target, InferenceSettings(supports=4, draws=1, axes=("axial",), style=True), Report())


@pytest.mark.parametrize(("words", "wanted"), [((), False), (("--style",), True), (("--no-style",), False)])
def test_the_command_line_leaves_the_target_alone_unless_asked(words, wanted):
    options = parser().parse_args(
        ["segment", "--image", "a.nii", "--support", "b.nii", "c.nii", "--output", "d.nii", *words]
    )
    assert cli._job(options).settings.style is wanted


def test_a_window_is_not_applied_a_second_time_to_what_it_has_brought_to_grey(monkeypatch):
    shifting(monkeypatch, lambda images: images * 1.1)
    support = support_of(*(example(n) for n in range(4)))
    spectra = style._Spectra.of(support.without([0]))
    versions = style._versions(support, [0], Intensities((-160.0, 240.0)), spectra, seed=0)
    np.testing.assert_allclose(versions[style.SHIFTED][0], np.clip(picture(0) * 1.1, 0, 1), atol=1e-6)
