"""Dice on volumes as if another scanner had made them, with and without the style of the examples.

`python -m Testing.Benchmarks.scanner_shift --data ../shared/data`

Only the targets are changed, the same way with and without; every shift alone, then all together, at two strengths.
Every fourth slice serves, 8 examples are shown, one draw, no calibration: the figures compare, they do not rank.
"""

import argparse
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from InContextSegLib.adaptation.style import judge
from InContextSegLib.config import from_mapping, read_toml
from InContextSegLib.evaluation.metrics import summarise
from InContextSegLib.evaluation.study import DataSet, Study, cell, chosen_sets, wanted_labels
from InContextSegLib.examples.pairs import paired_files
from InContextSegLib.examples.support import LabelledVolume, SupportSet
from InContextSegLib.inference.prior import Prior
from InContextSegLib.inference.session import Session
from InContextSegLib.inference.settings import InferenceSettings
from InContextSegLib.models.loading import Model, choose_device, load_model
from InContextSegLib.progress import Report
from InContextSegLib.slices.boxes import slab
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.slices.plan import SlicePlan
from InContextSegLib.training.augment import SHIFTS, another_scanner
from InContextSegLib.volumes.colour import LUMINANCE
from InContextSegLib.volumes.files import read_volume
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume, across_slices, any_along
from InContextSegLib.volumes.overlap import dice

STUDY = Path("Resources/Studies/development.toml")
# Patients passed over, in one group of tests, groups of tests, and patients to learn from at most. The first eight
# hippocampi chose the constants of the style.
SPLITS = {"msd_hippocampus": (8, 10, 1, 12), "openkbp_hn_ct": (0, 2, 2, 4), "ibsi_sts": (0, 1, 4, 3)}
STRENGTHS = (0.5, 1.0)
EVERY, SHOWN = 4, 8


@dataclass(frozen=True)
class Condition:
    """What is done to a target."""

    shifts: tuple[str, ...]
    strength: float

    @property
    def name(self) -> str:
        if not self.shifts:
            return "none"
        return f"{'all four' if len(self.shifts) > 1 else self.shifts[0]}, {self.strength:g}"


CONDITIONS = [Condition((), 0.0)] + [
    Condition(shifts, strength) for shifts in (*((shift,) for shift in SHIFTS), SHIFTS) for strength in STRENGTHS
]


def main():
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("INCONTEXTSEG_DATA", "../shared/data"))
    parser.add_argument("--sets", nargs="+", default=list(SPLITS))
    options = parser.parse_args()
    study = chosen_sets(from_mapping(Study, read_toml(STUDY), str(STUDY)), options.sets)
    rows = [row for each in study.sets for row in scores(each, Path(options.data))]
    print(table(rows))


def scores(each: DataSet, data: Path) -> Iterator[tuple[str, str, float, float, bool]]:
    """Set, condition, Dice without and with, and whether the target was adapted, for every patient and condition."""
    segmenter, provenance, size = load_model(Model())
    labels = wanted_labels(each)
    for examples, tests in groups(each, data):
        axis = across_slices(tests[0].image.geometry)
        support = SupportSet.from_volumes(examples, axis, size, "auto", Intensities(each.window))
        support = replace(support, labels=tuple(label for label in labels if label.value in _values(support)))
        # A window is part of what the shift is applied to; percentiles are taken of what the scanner gave.
        intensities = Intensities((0.0, 1.0) if each.window else None)
        session = Session(segmenter, [support], intensities, provenance, choose_device("cpu"), Prior(judge=judge))
        for pair in tests:
            for condition in CONDITIONS:
                image = shifted(pair, condition, axis, each)
                adapted, told = dice_of(session, image, pair, style=True)
                applied = told["style"][axis]["applied"]
                # A target that is left alone is the same question, and has the same answer.
                without = dice_of(session, image, pair, style=False)[0] if applied else adapted
                yield each.name, condition.name, without, adapted, applied
        print(f"{each.name}: {told['style'][axis]}", flush=True)


def _values(support: SupportSet) -> set[int]:
    return {value for example in support.examples for value in np.unique(example.labels).tolist()}


def groups(each: DataSet, data: Path) -> Iterator[tuple[list[LabelledVolume], list[LabelledVolume]]]:
    """Examples and tests of different patients."""
    passed, tests, count, learners = SPLITS[each.name]
    files = paired_files(*each.folders(data))
    order = np.random.default_rng(42).permutation(len(files)).tolist()
    for group in range(count):
        held = order[passed + group * tests : passed + (group + 1) * tests]
        rest = [index for index in order if index not in held][:learners]
        yield tuple([thinned(*files[index]) for index in part] for part in (rest, held))


def thinned(image: Path, labels: Path) -> LabelledVolume:
    """Every `EVERY`th slice of an image and its labels, across the thickest slices."""
    pair = read_volume(image, mix=LUMINANCE), read_volume(labels, Kind.LABELS)
    axis = SlicePlan.of(pair[0].geometry, across_slices(pair[0].geometry)).array_axis
    parts = []
    for volume in pair:
        array = volume.array[
            tuple(slice(EVERY // 2 if n == axis else 0, None, EVERY if n == axis else 1) for n in range(3))
        ]
        affine = volume.geometry.affine.copy()
        affine[:3, 3] = volume.geometry.affine[:3, 2 - axis] * (EVERY // 2) + affine[:3, 3]
        affine[:3, 2 - axis] *= EVERY
        parts.append(Volume(np.ascontiguousarray(array), Geometry(array.shape, affine), volume.kind))
    return LabelledVolume(*parts, image.name)


def shifted(pair: LabelledVolume, condition: Condition, axis: str, each: DataSet) -> Volume:
    """The image on the scale from 0 to 1 of its window or percentiles, as another scanner would show it."""
    image, window = pair.image, Intensities(each.window).of(pair.image.array)
    array = (image.array.astype(np.float32) - window.low) / (window.high - window.low)
    if each.window:
        array = array.clip(0, 1)
    if condition.shifts:
        along = SlicePlan.of(image.geometry, axis).array_axis
        seed = zlib.crc32(f"{each.name} {pair.source} {condition.shifts}".encode())
        slices = torch.from_numpy(np.moveaxis(array, along, 0).copy())
        slices = another_scanner(slices, condition.strength, torch.Generator().manual_seed(seed), condition.shifts)
        array = np.ascontiguousarray(np.moveaxis(slices.numpy(), 0, along))
    return Volume(array, image.geometry, Kind.INTENSITY)


def dice_of(session: Session, image: Volume, pair: LabelledVolume, style: bool) -> tuple[float, dict]:
    """Mean Dice of the labels that the patient has, within the labelled slices, and the provenance."""
    axis, truth = next(iter(session.supports)), pair.labels.array
    values = [label.value for label in session.labels if (truth == label.value).any()]
    along = SlicePlan.of(image.geometry, axis).array_axis
    labelled = np.flatnonzero(any_along(np.isin(truth, values), along))
    settings = InferenceSettings(supports=SHOWN, draws=1, axes=(axis,), style=style)
    box = slab(image.geometry, axis, (int(labelled[0]), int(labelled[-1])))
    prediction = session.segment(image, settings, Report(), box)
    return float(np.mean([dice(prediction.mask.array == v, truth == v) for v in values])), prediction.provenance


def table(rows: list[tuple[str, str, float, float, bool]]) -> str:
    """A Markdown table: set and condition; Dice without and with, the difference, how many targets were adapted."""
    lines = ["| set | shift, strength | targets | without | with | difference | adapted |", "|" + "---|" * 7]
    for name in dict.fromkeys(row[0] for row in rows):
        for condition in CONDITIONS:
            part = np.array([row[2:] for row in rows if row[:2] == (name, condition.name)], float)
            cells = [
                cell(summarise(values, np.random.default_rng(0)))
                for values in (part[:, 0], part[:, 1], part[:, 1] - part[:, 0])
            ]
            lines.append(f"| {name} | {condition.name} | {len(part)} | {' | '.join(cells)} | {part[:, 2].sum():.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
