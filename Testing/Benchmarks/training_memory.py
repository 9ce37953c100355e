"""Peak memory of training on 2, 4, 8 and 16 tasks: one gradient after the other, and all losses at once.

`python -m Testing.Benchmarks.training_memory` runs every number of tasks in a process of its own (12 references and 4
queries of 128 x 128 pixels a task, SR-ICL of the default widths, three steps) and prints the most that the process
held, and in brackets by how much that is more than before the first step.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from InContextSegLib.models.sricl import SRICL
from InContextSegLib.training.averaged import AveragedTrainer, Batch, Settings, loss_of

COUNTS, SIZE = (2, 4, 8, 16), 128
REFERENCES, QUERIES, STEPS = 12, 4, 3
KILOBYTE, MEGABYTE = 1024, 1e6


class Noise:
    """A task whose pictures mean nothing; for memory they need not."""

    def __init__(self, number):
        self.name, self.judged = f"task {number}", True

    def batch(self, generator):
        images = torch.rand(REFERENCES + QUERIES, 1, SIZE, SIZE, generator=generator)
        masks = (images > 0.5).float()
        return Batch(images[:QUERIES], masks[:QUERIES], images[QUERIES:], masks[QUERIES:])

    trial = batch


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", nargs=2, metavar=("WAY", "TASKS"), help="do one step in this process")
    options = parser.parse_args()
    if options.step:
        print(*stepped(options.step[0], int(options.step[1])))
        return
    print("| tasks | one after the other, MB | all at once, MB |")
    print("|---|---|---|")
    for count in COUNTS:
        found = [measured(way, count) for way in ("separate", "joint")]
        print(f"| {count} | {' | '.join(f'{most:.0f} (+{more:.0f})' for most, more in found)} |", flush=True)


def measured(way, count):
    words = [sys.executable, "-m", "Testing.Benchmarks.training_memory", "--step", way, str(count)]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    return [float(each) for each in told[-2:]]


def stepped(way, count):
    """Megabytes that the process held at most, and how much of that came with the steps."""
    torch.manual_seed(0)
    tasks = [Noise(number) for number in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = AveragedTrainer(SRICL(), tasks, Settings(), Path(folder), torch.device("cpu"))
        before = peak()
        for _step in range(STEPS):
            if way == "separate":
                trainer._one_step()
                continue
            trainer.optimizer.zero_grad()
            batches = [task.batch(trainer._generator(1, index)) for index, task in enumerate(tasks)]
            losses = [loss_of(trainer.network, batch, trainer.settings) for batch in batches]
            torch.stack(losses).mean().backward()
            trainer.optimizer.step()
        return peak() / MEGABYTE, (peak() - before) / MEGABYTE


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KILOBYTE


if __name__ == "__main__":
    main()
