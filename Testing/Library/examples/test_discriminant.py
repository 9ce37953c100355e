"""The mix of colours that labelled examples ask for, on invented pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from InContextSegLib.examples import discriminant
from InContextSegLib.examples.discriminant import colour_mix, mix_of
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.volumes.colour import LUMINANCE
from InContextSegLib.volumes.files import read_volume
from InContextSegLib.volumes.geometry import Kind

SIZE = 48
# Both have the luminance 100: only their hue differs.
BACKGROUND, STRUCTURE = np.array([100.0, 100.0, 100.0]), np.array([193.0, 72.4, 100.0])
LABELS = np.zeros((SIZE, SIZE), np.uint8)
LABELS[12:24, 12:30] = 1


def picture(seed, light=1.0, noise=4.0):
    """A patch that stands out in hue alone, under a light that falls off from left to right."""
    generator = np.random.default_rng(seed)
    colours = np.where(LABELS[..., None] == 1, STRUCTURE, BACKGROUND)
    shade = np.linspace(0.7, 1.1, SIZE)[None, :, None]
    return np.clip(colours * shade * light + generator.normal(0, noise, colours.shape), 0, 255).astype(np.uint8)


def found(*samples):
    return mix_of(samples, np.random.default_rng(0))


def overlap(grey):
    """Share of structure and background pixels on the wrong side of the best threshold."""
    inside, outside = grey[LABELS == 1], grey[LABELS == 0]
    ends = np.linspace(grey.min(), grey.max(), 64)
    wrong = [(np.mean(inside < end) + np.mean(outside >= end)) / 2 for end in ends]
    return min(*wrong, 1 - max(wrong))


def same_but_for_sign(first, second, tolerance=0.1):
    first, second = np.array(first), np.array(second)
    return min(np.abs(first - second).max(), np.abs(first + second).max()) < tolerance


def test_a_structure_that_luminance_does_not_show_is_told_apart_in_a_new_picture():
    mix = found(*((picture(seed), LABELS) for seed in range(3)))
    new = picture(9, light=0.8)
    assert overlap(LUMINANCE.grey(new)) > 0.3
    assert overlap(mix.grey(new)) < 0.02
    assert "separates the labels better than luminance (Fisher ratio" in mix.why


def test_where_luminance_does_as_well_it_stays_and_the_reason_is_given():
    generator = np.random.default_rng(0)
    grey = np.where(LABELS == 1, 150, 80)[..., None] + generator.normal(0, 10, (SIZE, SIZE, 1))
    tinted = (grey * [1.0, 1.0, 0.9]).astype(np.uint8)
    mix = found((tinted, LABELS))
    assert mix.weights == LUMINANCE.weights
    assert "no other mix separates the labels better by a tenth" in mix.why


def test_every_picture_counts_alike_however_large_and_every_class_however_rare():
    reference = found((picture(0), LABELS), (picture(1), LABELS))
    large = np.tile(picture(1), (6, 6, 1)), np.tile(LABELS, (6, 6))
    rare = LABELS.copy()
    rare[:, 18:] = 0
    coloured = picture(0)
    coloured[(LABELS == 1) & (rare == 0)] = coloured[0, 0]
    assert same_but_for_sign(found((picture(0), LABELS), large).weights, reference.weights)
    assert same_but_for_sign(found((coloured, rare), (picture(1), LABELS)).weights, reference.weights)


def test_neither_light_nor_stain_of_a_picture_counts_as_a_difference_within_its_classes():
    alike = found(*((picture(seed), LABELS) for seed in range(3)))
    lit = found(*((picture(seed, light), LABELS) for seed, light in enumerate((0.5, 1.0, 1.2))))
    stains = (-40, 0, 40)
    stained = found(*((picture(seed) + np.array([stain, 0, 0]), LABELS) for seed, stain in enumerate(stains)))
    assert same_but_for_sign(alike.weights, lit.weights)
    assert same_but_for_sign(alike.weights, stained.weights)


def test_bright_pixels_stay_bright_unless_black_forbids_it():
    for structure in ((150, 60, 160), (200, 250, 220)):
        colours = np.where(LABELS[..., None] == 1, structure, (230, 170, 210))
        colours = np.clip(colours + np.random.default_rng(0).normal(0, 6, colours.shape), 0, 255).astype(np.uint8)
        mix = found((colours, LABELS))
        assert mix.weights != LUMINANCE.weights
        difference = mix.grey(colours)[LABELS == 1].mean() - mix.grey(colours)[LABELS == 0].mean()
        assert np.sign(difference) == np.sign(sum(structure) - 610)


def test_eight_and_sixteen_bits_may_be_mixed():
    reference = found((picture(0), LABELS), (picture(1), LABELS))
    mixed = found((picture(0), LABELS), (picture(1).astype(np.uint16) * 257, LABELS))
    assert same_but_for_sign(mixed.weights, reference.weights, 0.01)


def test_several_structures_are_told_from_each_other_too():
    labels = LABELS.copy()
    labels[30:40, 12:30] = 2
    colours = np.full((SIZE, SIZE, 3), 100.0)
    colours[labels == 1], colours[labels == 2] = (130, 100, 70), (70, 100, 130)
    colours += np.random.default_rng(0).normal(0, 6, colours.shape)
    grey = found((colours.astype(np.uint8), labels)).grey(colours)
    means = [grey[labels == value].mean() for value in range(3)]
    assert sorted(means) in ([means[1], means[0], means[2]], [means[2], means[0], means[1]])
    assert np.diff(sorted(means)).min() > 10


def with_black_border(colours):
    colours = colours.copy()
    colours[:8] = colours[-8:] = colours[:, :6] = colours[:, -6:] = 0
    return colours


def test_a_black_border_changes_no_weight_and_the_structure_comes_out_away_from_black():
    plain = found(*((picture(seed), LABELS) for seed in range(3)))
    pictures = [with_black_border(picture(seed)) for seed in range(3)]
    framed = found(*((each, LABELS) for each in pictures))
    assert same_but_for_sign(framed.weights, plain.weights, 0.02)
    new = framed.grey(with_black_border(picture(9)))
    assert new[LABELS == 1].mean() > 2 * new[LABELS == 0].mean()


def test_a_structure_on_nothing_but_black_is_found():
    colours = np.zeros((SIZE, SIZE, 3), np.uint8)
    colours[LABELS == 1] = (0, 0, 200)
    grey = found((colours, LABELS)).grey(colours)
    assert grey[LABELS == 1].min() > grey[LABELS == 0].max()


def test_flat_colours_without_any_scatter_have_a_mix():
    colours = np.where(LABELS[..., None] == 1, STRUCTURE, BACKGROUND).astype(np.uint8)
    assert overlap(found((colours, LABELS)).grey(colours)) == 0


def test_the_same_examples_give_the_same_mix_and_its_record_the_same_picture():
    first, second = (found((np.tile(picture(0), (3, 3, 1)), np.tile(LABELS, (3, 3)))) for _ in range(2))
    assert first == second
    drawn_otherwise = mix_of([(np.tile(picture(0), (3, 3, 1)), np.tile(LABELS, (3, 3)))], np.random.default_rng(1))
    assert first != drawn_otherwise
    assert same_but_for_sign(first.weights, drawn_otherwise.weights, 0.05)
    assert all(weight == round(weight, 4) for weight in first.record["weights_rgb"])


def test_pixels_that_are_no_number_do_not_count():
    colours = picture(0).astype(np.float32)
    colours[::7, ::7] = np.nan
    assert same_but_for_sign(found((colours, LABELS)).weights, found((picture(0), LABELS)).weights)


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        ([(picture(0), LABELS), (None, LABELS)], "an example is no colour picture"),
        ([(picture(0), np.ones_like(LABELS))], "no example shows a structure together with something else"),
        ([], "no example shows a structure together with something else"),
    ],
)
def test_it_is_luminance_where_the_examples_cannot_say(samples, why):
    mix = found(*samples)
    assert mix.weights == LUMINANCE.weights
    assert why in mix.why


def test_a_picture_that_shows_one_class_only_does_not_count():
    alone = picture(5)[..., ::-1], np.zeros_like(LABELS)
    assert found((picture(0), LABELS), alone) == found((picture(0), LABELS))


@pytest.fixture
def folder(tmp_path):
    for seed in range(2):
        Image.fromarray(picture(seed)).save(tmp_path / f"{seed}.png")
    Image.fromarray(picture(2)[..., 1]).save(tmp_path / "grey.png")
    Image.fromarray(LABELS).save(tmp_path / "labels.png")
    return tmp_path


def labels_in(path):
    return read_volume(path, Kind.LABELS).array


def chosen(folder, target, intensities=None, labels="labels.png"):
    files = [(folder / "0.png", folder / labels)]
    return colour_mix(files, [folder / target], intensities or Intensities(), labels_in)


def test_colour_files_are_mixed_as_their_labels_ask(folder):
    assert same_but_for_sign(chosen(folder, "1.png").weights, found((picture(0), LABELS)).weights, 0.01)


@pytest.mark.parametrize(
    ("target", "intensities", "why"),
    [
        ("grey.png", None, "luminance, as a target is no colour picture"),
        ("1.png", Intensities((0, 255)), "luminance, as a window of grey values came"),
    ],
)
def test_it_is_luminance_for_all_where_one_mix_cannot_serve_for_all(folder, target, intensities, why):
    assert chosen(folder, target, intensities) == discriminant.replace(LUMINANCE, why=why)


def test_labels_of_another_size_are_left_to_those_who_refuse_them(folder):
    Image.fromarray(LABELS[1:]).save(folder / "small.png")
    assert chosen(folder, "1.png", labels="small.png").weights == LUMINANCE.weights


def test_pages_without_labels_may_be_unfinished_and_do_not_count(folder):
    finished, other = Image.fromarray(picture(0)), Image.fromarray(picture(0)[..., ::-1].copy())
    finished.save(folder / "stack.tif", save_all=True, append_images=[other])
    Image.fromarray(LABELS).save(folder / "l.tif", save_all=True, append_images=[Image.fromarray(LABELS * 0)])
    mix = colour_mix([(folder / "stack.tif", folder / "l.tif")], [Path(folder / "1.png")], Intensities(), labels_in)
    assert mix == chosen(folder, "1.png")
