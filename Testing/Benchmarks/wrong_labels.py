"""Are wrong label maps among the examples named, and right ones left in peace?

`python -m Testing.Benchmarks.wrong_labels --data ../shared/data`: of every set of the development study 12 examples;
in each of three of them, one at a time, the label map of another patient's example is planted, then its own mirrored,
then its own shifted by 15 % of the picture. Prints a Markdown table.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from InContextSegLib.adaptation.adapt import foresee
from InContextSegLib.adaptation.calibration import calibrate
from InContextSegLib.adaptation.label_check import check_labels
from InContextSegLib.config import from_mapping, read_toml
from InContextSegLib.evaluation.adaptation_study import task_of
from InContextSegLib.evaluation.study import Run, Study, wanted_labels
from InContextSegLib.examples.origins import origin
from InContextSegLib.examples.support import Example, SupportSet
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.memory import keep_freed_memory
from InContextSegLib.models.loading import Model, choose_device, load_model
from InContextSegLib.progress import Report
from InContextSegLib.slices.intensities import Intensities

STUDY = Path(__file__).resolve().parents[2] / "Resources" / "Studies" / "development.toml"
EXAMPLES, PLANTED, SHIFT = 12, 3, 0.15


def main() -> None:
    """Plant wrong labels in every set and print who was named."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path(os.environ.get("INCONTEXTSEG_DATA") or "../shared/data"))
    options.add_argument("--sets", nargs="+")
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    keep_freed_memory()
    study = from_mapping(Study, read_toml(STUDY), str(STUDY))
    model, rows = load_model(Model()), []
    print("| set | another patient's | mirrored | shifted | right ones named |\n|---|---|---|---|---|", flush=True)
    for each in study.sets:
        if each.scheme == "own-slices" or (asked.sets and each.name not in asked.sets):
            continue
        task = task_of(each, study, Run(asked.data, Path(), Model(), seed=asked.seed), EXAMPLES)
        support = SupportSet.from_images(task.support, model[2], Intensities(each.window))
        wanted = {label.value for label in wanted_labels(each)}
        support = replace(support, labels=tuple(label for label in support.labels if label.value in wanted))
        rows.append(_row(model[0], support, np.random.default_rng(asked.seed)))
        named, right, accused = rows[-1]
        cells = " | ".join(f"{hits} of {tries}" for hits, tries in named.values())
        print(f"| {each.name} | {cells} | {accused} of {right} |", flush=True)
    sets = [sum(hits >= 2 for hits, tries in (row[0]["another"],)) for row in rows]
    right, accused = sum(row[1] for row in rows), sum(row[2] for row in rows)
    print(
        f"\nAnother patient's label map named at least twice out of three in {sum(sets)} of {len(sets)} sets; ", end=""
    )
    print(f"{accused / right:.1%} of the right ones named.")


def _row(segmenter, support: SupportSet, generator: np.random.Generator):
    """Per kind (named, planted); how many right label maps were looked at, and how many of them named."""
    value = max(support.labels, key=lambda label: len(_showing(support, label.value))).value
    support = replace(support, labels=tuple(label for label in support.labels if label.value == value))
    showing = _showing(support, value)
    chosen = generator.permutation(showing)[:PLANTED].tolist()
    named = {"another": [0, 0], "mirrored": [0, 0], "shifted": [0, 0]}
    right = accused = 0
    for index in chosen:
        own = support.examples[index]
        others = [n for n in showing if origin(support.examples[n]) != origin(own)]
        another = support.examples[int(generator.choice(others))].labels
        steps = round(SHIFT * support.size)
        wrong = {
            "another": another,
            "mirrored": own.labels[:, ::-1],
            "shifted": np.roll(own.labels, steps, axis=int(generator.integers(2))),
        }
        for kind, labels in wrong.items():
            planted = replace(own, labels=np.ascontiguousarray(labels), source=f"{own.source} (planted)")
            sources = _named(segmenter, replace(support, examples=_with(support, index, planted)))
            named[kind][0] += planted.source in sources
            named[kind][1] += 1
    sources = _named(segmenter, support)
    right, accused = len(showing), len(set(sources))
    return named, right, accused


def _with(support: SupportSet, index: int, example: Example) -> tuple[Example, ...]:
    return (*support.examples[:index], example, *support.examples[index + 1 :])


def _showing(support: SupportSet, value: int) -> list[int]:
    return [index for index, example in enumerate(support.examples) if (example.labels == value).any()]


def _named(segmenter, support: SupportSet) -> list[str]:
    device = choose_device("cpu")
    network = CachedSegmenter(segmenter, device)
    calibration = calibrate(network, lambda size: support, (support.size,), EXAMPLES, Report())
    trials, _ = foresee(segmenter, device, calibration, Report())
    return [suspect.source for suspect in check_labels(trials, calibration)]


if __name__ == "__main__":
    main()
