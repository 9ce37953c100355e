"""Finds the mix of colours that best tells apart what is labelled in the examples."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.volumes.colour import BLACK, LUMINANCE, ColourMix, white_of
from InContextSegLib.volumes.files import read_colours
from InContextSegLib.volumes.geometry import any_along

_PIXELS_PER_CLASS = 4096
# Added to the scatter within the classes: a share of its mean, and what keeps pictures of flat colours invertible.
_RIDGE = 0.01
_LEAST_VARIANCE = 1e-6
# A mix must separate better than the simpler one by this factor.
_WORTH_WHILE = 1.1
# Weights are rounded to what a record shows, so that a record's weights give the very same pictures again.
_DECIMALS = 4

Image, Labels = TypeVar("Image"), TypeVar("Labels")
Sample = tuple[np.ndarray | None, np.ndarray]
Classes = dict[int, np.ndarray]  # pixels (n, channels) of every label of a picture


def colour_mix(
    examples: Iterable[tuple[Image, Labels]],
    targets: Iterable[Image],
    intensities: Intensities,
    labels_of: Callable[[Labels], np.ndarray],
    colours_of: Callable[[Image], np.ndarray | None] = read_colours,
) -> ColourMix:
    """How the colours of examples (image, labels) and targets become grey, as `mix_of` finds from the examples.

    It is one mix for all of them, so luminance where a single one is grey; and with a window, whose numbers are
    luminances. `labels_of` reads labels (k, j, i), those not asked for as 0, and `colours_of` the colours
    (k, j, i, 3) of an image, None where it is grey; of files unless told otherwise.
    """
    if intensities.window is not None:
        return replace(LUMINANCE, why="luminance, as a window of grey values came")
    mix = mix_of(_samples(examples, labels_of, colours_of), np.random.default_rng(0))
    if mix.weights != LUMINANCE.weights and any(colours_of(target) is None for target in targets):
        return replace(LUMINANCE, why="luminance, as a target is no colour picture")
    return mix


def _samples(
    examples: Iterable[tuple[Image, Labels]],
    labels_of: Callable[[Labels], np.ndarray],
    colours_of: Callable[[Image], np.ndarray | None],
) -> Iterator[Sample]:
    """Colours and labels of the planes that carry labels, as others may be unfinished."""
    for image, masks in examples:
        colours = colours_of(image)
        # Labels of another size are refused in plain words where the examples are cut.
        labels = None if colours is None else labels_of(masks)
        if labels is None or labels.shape != colours.shape[:3]:
            yield None, np.zeros(0)
            continue
        planes = any_along(labels, 0)
        if planes.any():
            yield colours[planes], labels[planes]


def mix_of(samples: Iterable[Sample], generator: np.random.Generator) -> ColourMix:
    """The mix that best separates the labelled structures from each other and from all else, or luminance, and why.

    It is Fisher's linear discriminant (Fisher 1936; Rao 1948 for several classes): of all directions in red, green and
    blue, the one in which the means of the classes lie farthest apart, measured by the scatter within the classes.
    Label 0 is a class. Classes and pictures count alike, whatever their size. Colours are taken relative to a picture's
    white and to its background, as every picture will get a grey scale of its own. Black pixels count only where there
    is nothing else to tell classes apart by.

    A discriminant has no sign, but black is dark in either. So the greys themselves, black with them, decide among
    luminance, the direction in which bright pixels tend to stay bright, and its opposite: each needs a Fisher ratio
    above that of the one before by a tenth.

    Args:
        samples: per picture its colours (..., 3), None where it is grey, and its labels (...).
        generator: draws at most 4096 pixels of each class of each picture.
    """
    pictures = []
    for colours, labels in samples:
        if colours is None:
            return replace(LUMINANCE, why="luminance, as an example is no colour picture")
        pictures.append(_classes(colours, labels, generator))
    reference = min((value for picture in pictures for value in picture), default=0)
    pictures = [picture for picture in pictures if reference in picture and len(picture) > 1]
    if not pictures:
        return replace(LUMINANCE, why="luminance, as no example shows a structure together with something else")
    within, between = _scatter([_without_black(picture, reference) for picture in pictures], reference)
    found = _discriminant(within, between)
    if found @ (within + between) @ np.array(LUMINANCE.weights) < 0:
        found = -found
    best, usual = LUMINANCE, _ratio(LUMINANCE, pictures, reference)
    ratio = usual
    for weights in (found, -found):
        mix = ColourMix(tuple(round(float(weight), _DECIMALS) for weight in weights), "")
        better = _ratio(mix, pictures, reference)
        if better > _WORTH_WHILE * ratio:
            best, ratio = mix, better
    figures = f"(Fisher ratio {ratio:.3g}, of luminance {usual:.3g})"
    if best is LUMINANCE:
        return replace(LUMINANCE, why=f"luminance, as no other mix separates the labels better by a tenth {figures}")
    return replace(best, why=f"separates the labels better than luminance {figures}")


def _classes(colours: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> Classes:
    """Some pixels of every label of a picture, relative to white."""
    white, finite = white_of(colours), np.isfinite(colours).all(axis=-1)
    classes = {}
    for value in np.unique(labels[finite]):
        pixels = colours[finite & (labels == value)]
        if len(pixels) > _PIXELS_PER_CLASS:
            pixels = pixels[generator.choice(len(pixels), _PIXELS_PER_CLASS, replace=False)]
        classes[int(value)] = pixels / white
    return classes


def _without_black(picture: Classes, reference: int) -> Classes:
    seen = {value: pixels[pixels.max(axis=-1) > BLACK] for value, pixels in picture.items()}
    seen = {value: pixels for value, pixels in seen.items() if len(pixels)}
    return seen if reference in seen and len(seen) > 1 else picture


def _ratio(mix: ColourMix, pictures: Sequence[Classes], reference: int) -> float:
    """Fisher's ratio of the greys that `mix` makes of the pictures."""
    greys = []
    for picture in pictures:
        grey = mix.grey(np.concatenate(list(picture.values())))[:, np.newaxis]
        ends = np.cumsum([len(pixels) for pixels in picture.values()])[:-1]
        greys.append(dict(zip(picture, np.split(grey, ends), strict=True)))
    within, between = _scatter(greys, reference)
    return float(between[0, 0] / within[0, 0])


def _scatter(pictures: Sequence[Classes], reference: int) -> tuple[np.ndarray, np.ndarray]:
    """(c, c) scatter within the classes of (n, c) values, regularised, and (c, c) scatter between their means."""
    within, means = [], []
    for value in sorted(set().union(*pictures)):
        shown = [picture for picture in pictures if value in picture]
        # What the reference of the same picture shares, its light and its stain, tells nothing.
        contrasts = np.array([picture[value].mean(axis=0) - picture[reference].mean(axis=0) for picture in shown])
        inside = np.mean([_covariance(picture[value]) for picture in shown], axis=0)
        within.append(inside + _covariance(contrasts))
        means.append(contrasts.mean(axis=0))
    pooled = np.mean(within, axis=0)
    channels = len(pooled)
    pooled += (_RIDGE * np.trace(pooled) / channels + _LEAST_VARIANCE) * np.eye(channels)
    return pooled, _covariance(np.array(means))


def _covariance(values: np.ndarray) -> np.ndarray:
    """(c, c) of values (n, c)."""
    return np.atleast_2d(np.cov(values.T, bias=True))


def _discriminant(within: np.ndarray, between: np.ndarray) -> np.ndarray:
    """(3,) the direction of the largest ratio of scatter between to scatter within; absolute values add up to 1."""
    whiten = np.linalg.inv(np.linalg.cholesky(within))
    _, directions = np.linalg.eigh(whiten @ between @ whiten.T)
    found = whiten.T @ directions[:, -1]
    return found / np.abs(found).sum()
