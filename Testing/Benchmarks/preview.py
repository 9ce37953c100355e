"""How long a panel waits for the preview of a slice, through the worker process, on a 512 x 512 x 200 target.

`python -m Testing.Benchmarks.preview` prints the median and range over slices in an order of chance, each shown for the
first time, the processor time that the worker spent on one, which others on the same computer do not change, and how
well the preview agrees with the whole segmentation of the same slices.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import numpy as np

from InContextSegLib.cli.phantom import LABEL_NAMES, phantom
from InContextSegLib.evaluation.metrics import evaluate_labels
from InContextSegLib.inference.settings import PRESETS, InferenceSettings
from InContextSegLib.progress import exhausted
from InContextSegLib.volumes.geometry import Geometry, Kind
from InContextSegLib.worker.client import WorkerClient
from InContextSegLib.worker.protocol import ArrayRef, ExampleRef, Prepare, Preview, Segment, TaskSpec
from InContextSegLib.worker.transport import SubprocessTransport

SHAPE, SPACING_MM = (200, 256, 256), (1.5, 1.4, 1.4)
OWN_SLICES = range(50, 170, 12)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=30)
    parser.add_argument("--presets", nargs="+", default=["fast", "normal"])
    parser.add_argument("--labels", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--agreement", action="store_true", help="also segment the volume, and compare")
    options = parser.parse_args()
    client = WorkerClient(SubprocessTransport)
    try:
        target, own, others = published(client)
        print("| examples | preset | labels | size | draws, shown | prepare s | preview s | processor s | agreement |")
        print("|---|---|---|---|---|---|---|---|---|")
        for kind, examples in (("10 slices of the target", [own]), ("3 finished volumes", others)):
            for preset in options.presets:
                for count in options.labels:
                    labels = tuple(list(LABEL_NAMES.items())[:count])
                    task = TaskSpec(tuple(examples), labels, InferenceSettings(**PRESETS[preset]))
                    print(f"| {kind} | {preset} | {count} | {measured(client, task, target, options)} |", flush=True)
    finally:
        client.close()


def published(client):
    """The target, an example of a few of its slices, and others of three other patients."""
    image, labels = patient(0)
    target = ArrayRef.of(exhausted(client.publishing(image)), geometry())
    drawn = np.zeros_like(labels)
    drawn[OWN_SLICES] = labels[OWN_SLICES]
    own = ExampleRef(target, ArrayRef.of(exhausted(client.publishing(drawn)), geometry(), Kind.LABELS), "target")
    others = []
    for seed in (1, 2, 3):
        image, volume = phantom(seed, (40, 256, 256), (7.5, 1.4, 1.4))
        refs = [
            ArrayRef.of(exhausted(client.publishing(each.array)), each.geometry, each.kind) for each in (image, volume)
        ]
        others.append(ExampleRef(*refs, f"patient {seed}"))
    return target, own, others


def patient(seed):
    """A scan of 512 x 512 x 200 voxels."""
    image, labels = phantom(seed, SHAPE, SPACING_MM)
    large = [each.array.repeat(2, axis=1).repeat(2, axis=2) for each in (image, labels)]
    large[0] += np.random.default_rng(seed).integers(-8, 9, large[0].shape, large[0].dtype)
    return large


def geometry():
    k_mm, j_mm, i_mm = SPACING_MM
    return Geometry((SHAPE[0], 2 * SHAPE[1], 2 * SHAPE[2]), np.diag([-i_mm / 2, -j_mm / 2, k_mm, 1.0]))


def measured(client, task, target, options):
    prepared = answer(client, "prepare", Prepare(task, target))
    indices = np.random.default_rng(1).permutation(SHAPE[0])[: options.slices].tolist()
    seconds, busy, masks = [], [], {}
    for index in indices:
        started, worked = time.perf_counter(), processor_s(client)
        found = answer(client, "preview", Preview(task, target, index, "axial"))
        masks[index] = np.array(client.fetch(found["block"]["array"]))
        seconds.append(time.perf_counter() - started)
        busy.append(processor_s(client) - worked)
    how = f"{found['draws']}, {found['supports']}"
    times = f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
    times += f" | {statistics.median(busy):.2f}"
    agreement = agreeing(client, task, target, masks) if options.agreement else ""
    return f"{prepared['size']} | {how} | {prepared['seconds']:.1f} | {times} | {agreement}"


def processor_s(client):
    """What the worker has used of all cores so far; nan where the system does not tell."""
    try:
        fields = Path(f"/proc/{client._transport.pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def agreeing(client, task, target, masks):
    """Mean Dice of previews and the whole segmentation over the labels, all slices together."""
    block = answer(client, "segment", Segment(task, target))["block"]
    whole = np.zeros(geometry().shape, np.uint8)
    array = client.fetch(block["array"])
    whole[tuple(slice(low, low + size) for low, size in zip(block["corner_kji"], array.shape, strict=True))] = array
    previews = np.concatenate(list(masks.values()))
    scores = evaluate_labels(previews, whole[list(masks)], SPACING_MM, [value for value, _ in task.labels])
    return f"{np.nanmean([each.dice for each in scores.values()]):.3f}"


def answer(client, do, request):
    found = client.wait(client.ask(do, request), timeout_s=3600)
    if found["is"] != "done":
        raise SystemExit(found["message"])
    return found


if __name__ == "__main__":
    main()
