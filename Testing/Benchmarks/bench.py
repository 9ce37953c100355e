"""`make bench`: the factorised network against the plain one, and how fast the models and their clicks are."""

import argparse
import functools
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from InContextSegLib.examples.support import Example
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.inference.interactive import InteractiveSlice
from InContextSegLib.memory import keep_freed_memory
from InContextSegLib.models.catalog import find
from InContextSegLib.models.networks import build
from InContextSegLib.models.precision import has_fast_bfloat16
from InContextSegLib.models.universeg import UniverSeg
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.slices.plan import SlicePlan
from InContextSegLib.slices.prompts import Point, Prompts
from InContextSegLib.training.losses import dice_and_cross_entropy
from InContextSegLib.volumes.geometry import Volume, picture_geometry
from Testing.Parity.plain_universeg import plain_universeg

SIZE = 128
THREADS = 2


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-of", choices=("plain", "factorised", "nothing"), help=argparse.SUPPRESS)
    parser.add_argument("--supports", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--as-the-system-is", action="store_true", help="let freed memory go back to the system")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    if options.memory_of:
        print(json.dumps(peak_mib(options.memory_of, options.supports)))
        return
    if not options.as_the_system_is:
        keep_freed_memory()  # as the command line does
    print(
        f"torch {torch.__version__}, {THREADS} threads, {SIZE} x {SIZE} pixels; median [least, most] of the repeats\n"
    )
    compare(options.repeats)
    speed_of_models(options.repeats)
    latency_of_a_click(10 * options.repeats)
    a_step_of_training(options.repeats)


@torch.inference_mode()
def compare(repeats):
    """Plain and factorised in turn, so that a busy machine slows both."""
    print(
        "| S | plain s | conditioning s | slice s | faster, conditioned | faster, cold | largest difference | memory |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for supports in (4, 16, 64):
        network, target, images, masks = random_case(supports)
        state, context = network.state_dict(), network.condition(images, masks)
        difference = (
            (network.segment(network.encode(target), context) - plain_universeg(state, target, images, masks))
            .abs()
            .max()
        )
        if difference > 1e-4:
            sys.exit(f"The two forms differ by {difference}.")
        calls = {
            "plain": lambda state=state, a=(target, images, masks): plain_universeg(state, *a),
            "condition": lambda network=network, a=(images, masks): network.condition(*a),
            "slice": lambda network=network, context=context, target=target: network.segment(
                network.encode(target), context
            ),
        }
        seconds = timed(calls, repeats)
        warm = [p / s for p, s in zip(seconds["plain"], seconds["slice"], strict=True)]
        cold = [
            p / (s + c) for p, s, c in zip(*(seconds[name] for name in ("plain", "slice", "condition")), strict=True)
        ]
        base = memory("nothing", supports)
        share = (memory("factorised", supports) - base) / (memory("plain", supports) - base)
        cells = [spread(seconds[name]) for name in ("plain", "condition", "slice")]
        print(
            f"| {supports} | {' | '.join(cells)} | {spread(warm)} | {spread(cold)} | {difference:.1e} | {share:.2f} |"
        )


@torch.inference_mode()
def speed_of_models(repeats, at_once=4):
    """Whole models at their own sizes, their examples conditioned before, in turn."""
    print(f"\n{at_once} slices at once, conditioned:\n")
    print("| model | pixels | examples | slices per second | to condition one, ms | context, MB |")
    print("|---|---|---|---|---|---|")
    for name in ("universeg", "default"):
        network, size = build(find(name)).eval(), find(name).capability.input_size
        channels = getattr(network, "channels", 1)
        target = torch.rand(at_once, channels, size, size)
        for supports in (1, 4, 16, 64, 256):
            if name == "universeg" and supports > 64:
                continue  # a minute a slice
            images = torch.rand(1, supports, channels, size, size)
            context, seconds = None, []
            for index in range(supports):
                start = time.perf_counter()
                one = network.condition(images[:, index : index + 1], (images[:, index : index + 1, :1] > 0.5).float())
                seconds.append(time.perf_counter() - start)
                context = one if context is None else network.join([context, one])
            call = functools.partial(lambda n, c, t: n.segment(n.encode(t), c), network, context, target)
            rates = [at_once / second for second in timed({"slices": call}, repeats)["slices"]]
            each = 1000 * statistics.median(seconds)
            print(f"| {name} | {size} | {supports} | {spread(rates)} | {each:.3g} | {context.size_bytes / 1e6:.3g} |")


def a_step_of_training(repeats, episodes=4, supports=8):
    """Forward and backward in float32, and in bfloat16, which not every processor multiplies itself."""
    network = UniverSeg(**find("default").arguments)
    target, images = torch.rand(episodes, 1, SIZE, SIZE), torch.rand(episodes, supports, 1, SIZE, SIZE)

    def step(reduced):
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            logits = network(target, images, (images > 0.5).float())
        dice_and_cross_entropy(logits.float(), (target > 0.5).float()).backward()

    fast = has_fast_bfloat16(torch.device("cpu"))
    seconds = timed({"float32": lambda: step(False), "bfloat16": lambda: step(True)} if fast else {}, repeats)
    print(f"\nA step of training, {episodes} episodes of {supports} examples; bfloat16 in this processor: {fast}\n")
    for name, values in seconds.items():
        print(f"{name}: {spread(values)} s")


def latency_of_a_click(repeats, side=512):
    """From a click on a large slice to its mask there, with image and examples computed before, as in a viewer."""
    print(f"\nA click on a slice of {side} x {side} pixels, conditioned:\n\n| model | examples | ms |\n|---|---|---|")
    for name, counts in (("universeg", (0, 4, 16, 64)), ("default", (0, 4, 16, 64, 256))):
        size = find(name).capability.input_size
        # Random weights take the same time.
        network = CachedSegmenter(build(find(name)).eval(), torch.device("cpu"))
        generator = np.random.default_rng(0)
        volume = Volume(generator.random((1, side, side), dtype=np.float32), picture_geometry((1, side, side)))
        plan = SlicePlan.of(volume.geometry, "axial", size)
        here = InteractiveSlice(network, volume, Intensities().of(volume.array), plan, 0)
        points = [Point(tuple(volume.geometry.to_world((0, *place)))) for place in generator.integers(0, side, (3, 2))]
        prompts = Prompts().adding(*points)
        for supports in counts:
            images = generator.random((supports, size, size), dtype=np.float32)
            examples = [Example(image, (image > 0.5).astype(np.uint16), None, "random") for image in images]
            previous = here.segment(Prompts(), None, examples).logits
            call = functools.partial(here.segment, prompts, previous, examples)
            seconds = timed({"click": call}, repeats if supports <= 16 else repeats // 5)
            print(f"| {name} | {supports} | {spread([1000 * second for second in seconds['click']])} |")


def random_case(supports):
    torch.manual_seed(0)
    network = UniverSeg().eval()
    images = torch.rand(1, supports, 1, SIZE, SIZE)
    return network, torch.rand(1, 1, SIZE, SIZE), images, (torch.rand_like(images) > 0.5).float()


def timed(calls, repeats):
    """Seconds of every call, `repeats` times in turn after one turn that does not count."""
    seconds = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def memory(form, supports):
    """Peak MiB of a process of its own that computes one slice, its context included."""
    command = [sys.executable, "-m", "Testing.Benchmarks.bench", "--memory-of", form, "--supports", str(supports)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@torch.inference_mode()
def peak_mib(form, supports):
    network, target, images, masks = random_case(supports)
    if form == "plain":
        plain_universeg(network.state_dict(), target, images, masks)
    elif form == "factorised":
        network.segment(network.encode(target), network.condition(images, masks))
    # Not getrusage: its peak counts the parent's memory at the fork.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 1024


def spread(values):
    return f"{statistics.median(values):.3g} [{min(values):.3g}, {max(values):.3g}]"


if __name__ == "__main__":
    main()
