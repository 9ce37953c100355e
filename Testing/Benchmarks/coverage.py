"""Is it noticed when a target looks like no example, and left alone when it does not?

`python -m Testing.Benchmarks.coverage --data ../shared/data`: the examples of every set of the development study are
shown the test pictures of their own set and of every other one. Prints a Markdown table.
"""

import argparse
import os
from pathlib import Path

import numpy as np

from InContextSegLib.config import from_mapping, read_toml
from InContextSegLib.evaluation.adaptation_study import task_of
from InContextSegLib.evaluation.study import Run, Study
from InContextSegLib.examples.origins import units
from InContextSegLib.examples.similarity import Coverage
from InContextSegLib.examples.support import SupportSet
from InContextSegLib.models.loading import Model
from InContextSegLib.slices.intensities import Intensities

STUDY = Path(__file__).resolve().parents[2] / "Resources" / "Studies" / "development.toml"
SIZE = 128


def main() -> None:
    """Print the share of pictures that count as unlike, of the own set and of the others."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path(os.environ.get("INCONTEXTSEG_DATA") or "../shared/data"))
    asked = options.parse_args()
    study = from_mapping(Study, read_toml(STUDY), str(STUDY))
    run = Run(asked.data, Path(), Model())
    print("| N | own test pictures called unlike | of sets without any | other sets' pictures called unlike |")
    print("|---|---|---|---|")
    for count in (4, 8, 16):
        supports, tests = {}, {}
        for each in study.sets:
            if each.scheme == "own-slices":
                continue
            task = task_of(each, study, run, count)
            supports[each.name] = SupportSet.from_images(task.support, SIZE, Intensities(each.window))
            pairs = [pair for _, pictures in task.tests for pair in pictures]
            tests[each.name] = SupportSet.from_images(pairs, SIZE, Intensities(each.window)).images()
        own, foreign = [], []
        for name, support in supports.items():
            coverage = Coverage.of(support.appearance, units(support))
            for other, images in tests.items():
                (own if other == name else foreign).append(len(coverage.outside(images)) / len(images))
        without = f"{sum(share == 0 for share in own)} of {len(own)}"
        print(f"| {count} | {np.mean(own):.1%} | {without} | {np.mean(foreign):.0%} |")


if __name__ == "__main__":
    main()
