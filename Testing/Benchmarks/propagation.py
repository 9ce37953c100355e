"""How far a label can be carried from applied slices, and where it stops.

`python -m Testing.Benchmarks.propagation --data path/to/data` starts from true slices (the largest one; or three, at a
fifth, half and four fifths of a structure), walks on however unsure, and tells for bounds of confidence what would
have been reached: how many slices, how good they are, and how often it stops where the next slice is still good.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.inference.loop import Loop, LoopMemory
from InContextSegLib.inference.propagation import Rule, carried
from InContextSegLib.models.loading import Model, load_model
from InContextSegLib.progress import Report
from InContextSegLib.volumes.overlap import dice
from Testing.Benchmarks.loop_study import SETS, structures

GOOD, BEYOND = 0.8, 4
BOUNDS = (0.8, 0.7, 0.6, 0.5, 0.4)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=[each.name for each in SETS])
    parser.add_argument("--patients", type=int)
    options = parser.parse_args()
    segmenter, _, size = load_model(Model())
    walks = {1: [], 3: []}
    for each in (each for each in SETS if each.name in options.sets):
        for label in each.labels:
            for _, name, cut, truth in structures(each, label, size, options):
                memory = LoopMemory(CachedSegmenter(segmenter, torch.device("cpu"), share=0.25))
                for count in walks:
                    walks[count] += walked(memory, name, cut, truth, count)
        print(f"{each.name} is done", flush=True)
    print("\n| from | sure | slices | mean Dice | Dice of 0.8 and more | of those in reach | stops too early |")
    print("|" + "---|" * 7)
    for count, directions in {**walks, "both": [*walks[1], *walks[3]]}.items():
        for bound in BOUNDS:
            print(f"| {count} | {bound} | {told(directions, bound)} |")


def walked(memory, name, cut, truth, count):
    """For every direction the confidence and the Dice of its slices, from the applied one outwards."""
    plan = cut.plan
    wanted = {n: np.take(truth, [plan.slice_index(n)], axis=plan.array_axis) for n in range(plan.count)}
    shown = [number for number, mask in wanted.items() if mask.any()]
    if len(shown) < 5:
        return []
    places = [shown[int(share * (len(shown) - 1))] for share in (0.2, 0.5, 0.8)]
    start = sorted(set(places)) if count == 3 else [max(shown, key=lambda number: wanted[number].sum())]
    empty = Loop(memory, name, cut, ())
    loop = Loop(memory, name, cut, [empty.labelled(number, wanted[number], name) for number in start])
    limits = max(shown[0] - BEYOND, 0), min(shown[-1] + BEYOND, plan.count - 1)
    found = carried(loop, None, limits, Rule(stop_below=0.0), Report())
    directions = {}
    for number, answer in found.answers.items():  # nearest to an applied one first
        source = min(start, key=lambda each, here=number: (abs(each - here), each))
        score = dice(answer.mask(), wanted[number])
        directions.setdefault((source, number > source), []).append((found.confidence[number], score))
    return list(directions.values())


def told(directions, bound):
    """What is reached if one stops below a bound."""
    scores, reach, missed, early = [], 0, 0, 0
    for direction in directions:
        good = first(score < GOOD for _, score in direction)
        gone = first(sure < bound for sure, _ in direction)
        scores += [score for _, score in direction[:gone]]
        reach, missed, early = reach + good, missed + max(good - gone, 0), early + (gone < good)
    if not scores:
        return "0 | | | | "
    enough = np.mean(np.array(scores) >= GOOD)
    share = f"{1 - missed / max(reach, 1):.0%}"
    return f"{len(scores)} | {np.mean(scores):.3f} | {enough:.0%} | {share} | {early / len(directions):.0%}"


def first(flags):
    """How many come before the first that is set."""
    flags = [*flags, True]
    return flags.index(True)


if __name__ == "__main__":
    main()
