"""`make bench`: the factorised network against the plain one, and how fast the default model and its clicks are."""

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
from InContextSegLib.slices.plan import Intensities, SlicePlan
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
    speed_of_the_default_model(options.repeats)
    latency_of_a_click(10 * options.repeats)
    widths_and_depths(options.repeats)
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
def speed_of_the_default_model(repeats, at_once=4):
    network = build(find("default"))
    print(f"\nDefault model, {at_once} slices at once, conditioned:\n\n| S | slices per second |\n|---|---|")
    for supports in (4, 16, 64):
        images = torch.rand(1, supports, 1, SIZE, SIZE)
        context = network.condition(images, (images > 0.5).float())
        target = torch.rand(at_once, 1, SIZE, SIZE)
        seconds = timed({"slices": lambda t=target, c=context: network.segment(network.encode(t), c)}, 2 * repeats)
        print(f"| {supports} | {spread([at_once / second for second in seconds['slices']])} |")


def widths_and_depths(repeats, at_once=4, supports=16):
    """Slices per second of networks that could have been the default one."""
    shapes = ((32,) * 4, (32,) * 5, (32, 48, 64, 64, 64), (32, 32, 64, 64, 64), (64,) * 4)
    images = torch.rand(1, supports, 1, SIZE, SIZE)
    target, calls = torch.rand(at_once, 1, SIZE, SIZE), {}
    with torch.inference_mode():
        for widths in shapes:
            network = UniverSeg(widths).eval()
            context = network.condition(images, (images > 0.5).float())
            calls[widths] = functools.partial(lambda n, c: n.segment(n.encode(target), c), network, context)
        seconds = timed(calls, repeats)
    print(f"\nChannels per level, S = {supports}:\n\n| channels | parameters | slices per second |\n|---|---|---|")
    for widths, values in seconds.items():
        parameters = sum(parameter.numel() for parameter in UniverSeg(widths).parameters())
        print(f"| {', '.join(map(str, widths))} | {parameters:,} | {spread([at_once / second for second in values])} |")


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
    # Random weights take the same time.
    network = UniverSeg(**find("default").arguments | {"promptable": True}).eval()
    network = CachedSegmenter(network, torch.device("cpu"))
    generator = np.random.default_rng(0)
    volume = Volume(generator.random((1, side, side), dtype=np.float32), picture_geometry((1, side, side)))
    plan = SlicePlan.of(volume.geometry, "axial", SIZE)
    here = InteractiveSlice(network, volume, Intensities().of(volume.array), plan, 0)
    points = [Point(tuple(volume.geometry.to_world((0, *place)))) for place in generator.integers(0, side, (3, 2))]
    prompts = Prompts().adding(*points)
    print(
        f"\nA click on a slice of {side} x {side} pixels, conditioned:\n\n| S | milliseconds | asked |\n|---|---|---|"
    )
    for supports, asked in ((0, 150), (4, 150), (16, 300), (64, None)):
        images = generator.random((supports, SIZE, SIZE), dtype=np.float32)
        examples = [Example(image, (image > 0.5).astype(np.uint16), None, "random") for image in images]
        previous = here.segment(Prompts(), None, examples).logits
        call = functools.partial(here.segment, prompts, previous, examples)
        seconds = timed({"click": call}, repeats if supports <= 16 else repeats // 5)
        print(f"| {supports} | {spread([1000 * second for second in seconds['click']])} | {asked or ''} |")


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
