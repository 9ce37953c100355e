"""A volume from five of its own slices: the product against the interpolated shape alone, structure by structure.

`python -m Testing.Benchmarks.own_slices --data path/to/data` takes every structure on twelve slices or more. The five
slices are spread evenly over its extent, both ends among them. Scored are the other slices between these, and the whole
volume but for the five: nothing says that the structure ends with the outermost. A run that was stopped goes on.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from InContextSegLib.evaluation.metrics import evaluate_labels
from InContextSegLib.evaluation.study import Case, DataSet, Run, opened_session, own_slices
from InContextSegLib.examples.support import LabelledVolume
from InContextSegLib.inference.settings import PRESETS, InferenceSettings
from InContextSegLib.inference.shape_prior import ShapePrior
from InContextSegLib.models.loading import Model, load_model
from InContextSegLib.progress import Report
from InContextSegLib.slices.plan import SlicePlan
from InContextSegLib.volumes.colour import LUMINANCE
from InContextSegLib.volumes.files import read_volume
from InContextSegLib.volumes.geometry import Kind, Volume, across_slices
from InContextSegLib.volumes.overlap import dice

FEWEST = 12  # slices that show a structure
# Folder and pattern of the images, what of their paths becomes what of the labels', a window, and how many volumes.
SETS = (
    ("ibsi_sts", "images_mr_t1/*", ("images", "labels"), None, 4),
    ("msd_hippocampus", "images/*", ("images", "labels"), None, 8),
    ("openkbp_hn_ct", "images/*", ("images", "labels"), (864, 1264), 6),
    ("singles_3d", "msd_spleen2*_image*", ("_image", "_label"), (-160, 240), 1),
    ("singles_3d", "sct_t[12]_cord_image*", ("_image", "_label"), None, 2),
    ("singles_3d", "spine_ct*_image*", ("_image", "_label"), (-450, 1050), 1),
    ("singles_3d", "spine_mr*_image*", ("_image", "_label"), None, 1),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", help="those whose name or pattern holds one of these words")
    options = parser.parse_args()
    torch.set_num_threads(2)
    options.output.mkdir(parents=True, exist_ok=True)
    log, model = options.output / "structures.jsonl", load_model(Model())
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(row["case"], row["value"]) for row in rows}
    for name, image, masks, window, value in structures(options):
        if (image.name, value) not in done:
            found = scores(model, image, masks, window, value)
            rows.append({"set": name, "case": image.name, "value": value} | found)
            with log.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(rows[-1], flush=True)
    print(table(rows))


def structures(options) -> Iterator[tuple[str, Path, Path, tuple | None, int]]:
    for folder, pattern, (this, that), window, most in SETS:
        name = folder if folder != "singles_3d" else pattern.split("*")[0].removesuffix("_image")
        if options.sets and not any(word in f"{folder}/{pattern}" for word in options.sets):
            continue
        for image in sorted((options.data / folder).glob(pattern))[:most]:
            masks = options.data / image.relative_to(options.data).as_posix().replace(this, that)
            labels = read_volume(masks, Kind.LABELS)
            plan = SlicePlan.of(labels.geometry, across_slices(labels.geometry))
            for value in np.unique(labels.array[labels.array > 0]).tolist():
                shown = np.flatnonzero((labels.array == value).any(axis=across(plan)))
                if shown[-1] - shown[0] + 1 >= FEWEST:
                    yield name, image, masks, window, value


def across(plan: SlicePlan) -> tuple[int, ...]:
    return tuple(axis for axis in range(3) if axis != plan.array_axis)


def scores(model, image: Path, masks: Path, window: tuple | None, value: int) -> dict:
    labels = read_volume(masks, Kind.LABELS)
    truth = (labels.array == value).astype(np.uint8)
    pair = LabelledVolume(read_volume(image), Volume(truth, labels.geometry, Kind.LABELS), image.name)
    each = DataSet(image.name, {"structure": 1}, scheme="own-slices", window=window)
    axis = across_slices(pair.image.geometry)
    plan, drawn = SlicePlan.of(pair.image.geometry, axis), own_slices(pair.labels, axis)
    case = Case(image.name, pair, (pair,), LUMINANCE)
    session = opened_session(case, each, model, 16, Run(Path(), Path(), Model()), Report())
    settings = InferenceSettings(**PRESETS["normal"] | {"axes": (axis,)})
    prediction = session.segment(pair.image, settings, Report())
    stack = np.moveaxis(truth, plan.array_axis, 0)
    shape = ShapePrior({float(index): stack[index] > 0 for index in drawn})
    between = np.array([n for n in range(min(drawn), max(drawn) + 1) if n not in drawn])
    rest = np.array([n for n in range(len(stack)) if n not in drawn])
    found = np.moveaxis(prediction.mask.array, plan.array_axis, 0)
    alone = np.zeros_like(stack)
    for index in between:
        said = shape.logits(float(index))  # None: the outlines do not overlap, and nothing lies between them
        alone[index] = 0 if said is None else said > 0
    step, *within = (pair.image.geometry.spacing_mm[axis] for axis in (plan.array_axis, *across(plan)))
    distances = [
        evaluate_labels(each[between], stack[between], (step, *within), [1])[1].hd95_mm for each in (found, alone)
    ]
    expected = session.foresight.expected.get(1) if session.foresight else None
    return {
        "dice": float(dice(found[between] > 0, stack[between] > 0)),
        "interpolated": float(dice(alone[between] > 0, stack[between] > 0)),
        "hd95_mm": distances[0],
        "interpolated_hd95_mm": distances[1],
        "whole": float(dice(found[rest] > 0, stack[rest] > 0)),
        "ends": [end(found, drawn, -1), end(found, drawn, 1)],
        "expected": expected.dice if expected else None,
    }


def end(found: np.ndarray, drawn: tuple[int, ...], side: int) -> int:
    """Slices beyond the outermost labelled one in which something is found; the structure ends there."""
    shown = np.flatnonzero(found.any(axis=(1, 2)))
    last = max(drawn) if side > 0 else min(drawn)
    beyond = [abs(index - last) for index in shown if (index - last) * side > 0]
    return int(max(beyond, default=0))


def table(rows: list[dict]) -> str:
    lines = [
        "| set | structures | Dice | interpolated | worst difference | HD95 mm | interpolated | whole volume "
        "| ends within two slices | expected |",
        "|---" * 10 + "|",
    ]
    for name in [*dict.fromkeys(row["set"] for row in rows), ""]:
        own = [row for row in rows if row["set"] == name or not name]
        mean = {key: np.nanmean([row[key] for row in own]) for key in ("dice", "interpolated", "whole")}
        mean |= {key: np.nanmean([row[key] for row in own]) for key in ("hd95_mm", "interpolated_hd95_mm")}
        worst = min(row["dice"] - row["interpolated"] for row in own)
        near = np.mean([abs(each) <= 2 for row in own for each in row["ends"]])
        expected = np.nanmean([np.nan if row["expected"] is None else row["expected"] for row in own])
        lines.append(
            f"| {name or '**all**'} | {len(own)} | {mean['dice']:.3f} | {mean['interpolated']:.3f} | {worst:+.3f} "
            f"| {mean['hd95_mm']:.1f} | {mean['interpolated_hd95_mm']:.1f} | {mean['whole']:.3f} | {near:.0%} "
            f"| {expected:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
