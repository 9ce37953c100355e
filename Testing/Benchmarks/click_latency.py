"""How long a click waits for its answer, through the worker process, on slices of 512 x 512 voxels.

`python -m Testing.Benchmarks.click_latency` prints the median and range over clicks, from the request to the
probability of the whole slice in this process's hands; without the window, where more time passes until it is drawn.
Cold: the slice is seen for the first time. Warm: it was displayed before (`Neighbours`).
"""

import argparse
import statistics
import time

import numpy as np

from InContextSegLib.cli.phantom import phantom
from InContextSegLib.progress import exhausted
from InContextSegLib.volumes.geometry import Geometry, Kind
from InContextSegLib.worker.client import WorkerClient
from InContextSegLib.worker.protocol import ArrayRef, Correct, ExampleRef, Neighbours, PromptsRef, TaskSpec
from InContextSegLib.worker.transport import SubprocessTransport

SHAPE, SPACING_MM = (160, 256, 256), (1.5, 1.4, 1.4)
POLL_S = 0.001
LABEL, APPLIED = 1, (50, 70, 90, 110)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clicks", type=int, default=50)
    options = parser.parse_args()
    client = WorkerClient(SubprocessTransport)
    try:
        target, examples, truth = published(client)
        slices = clicked_slices(truth, options.clicks)
        print(f"{options.clicks} clicks, milliseconds, median [range]; structure in {len(slices)} slices\n")
        print("| examples | embeddings | first click | next click |")
        print("|---|---|---|---|")
        for name, task in (("none", None), ("4 applied slices", TaskSpec((examples,), ((LABEL, "organ"),)))):
            answered(client, Correct(target, "axial", slices[0], prompts(truth, slices[0]), task, LABEL))
            for state in ("cold", "warm"):
                # Slices are not seen twice: the even ones cold, the odd ones after they were displayed.
                mine = [index for index in slices if index % 2 == (state == "warm")]
                print(
                    f"| {name} | {state} | {' | '.join(measured(client, target, task, truth, mine, state))} |",
                    flush=True,
                )
        applied = [time_of_new_slice(client, target, truth, index) for index in range(60, 100, 5)]
        print(f"\nafter another slice was applied, its neighbour clicked at once: {told(applied)}")
    finally:
        client.close()


def published(client):
    """The target, four slices of it as an example, and its label."""
    image, labels = phantom(0, SHAPE, SPACING_MM)
    k_mm, j_mm, i_mm = SPACING_MM
    shape = (SHAPE[0], 2 * SHAPE[1], 2 * SHAPE[2])
    geometry = Geometry(shape, np.diag([-i_mm / 2, -j_mm / 2, k_mm, 1.0]))
    large, truth = (each.array.repeat(2, axis=1).repeat(2, axis=2) for each in (image, labels))
    large += np.random.default_rng(0).integers(-8, 9, large.shape, large.dtype)
    target = ArrayRef.of(exhausted(client.publishing(large)), geometry)
    return target, drawn(client, target, geometry, truth, APPLIED), (truth == LABEL, geometry, truth)


def drawn(client, target, geometry, truth, indices):
    own = np.zeros_like(truth)
    own[list(indices)] = truth[list(indices)]
    return ExampleRef(
        target, ArrayRef.of(exhausted(client.publishing(own)), geometry, Kind.LABELS), "target", slices=tuple(indices)
    )


def clicked_slices(truth, count):
    shown = [index for index in np.flatnonzero(truth[0].any(axis=(1, 2))).tolist() if index not in APPLIED]
    return np.random.default_rng(1).permutation(shown)[: 2 * count].tolist()


def prompts(truth, index, clicks=1):
    """Positive clicks on the structure."""
    mask, geometry, _ = truth
    voxels = np.argwhere(mask[index])
    chosen = voxels[np.random.default_rng(index).integers(len(voxels), size=clicks)]
    world = [tuple(geometry.to_world((index, *voxel)).tolist()) for voxel in chosen]
    return PromptsRef(points=tuple((position, True) for position in world))


def measured(client, target, task, truth, indices, state):
    """The first click on every slice, and the next one, which has the last answer's logits."""
    first, second = [], []
    for index in indices:
        if state == "warm":
            answered(client, Neighbours(target, "axial", index, 0, task, LABEL), "neighbours")
        taken, answer = answered(client, Correct(target, "axial", index, prompts(truth, index), task, LABEL))
        first.append(taken)
        more = Correct(target, "axial", index, prompts(truth, index, 2), task, LABEL, answer["logits"])
        second.append(answered(client, more)[0])
    return told(first), told(second)


def time_of_new_slice(client, target, truth, index):
    """A click beside a slice that was applied a moment ago: its labels are read and its example conditioned."""
    _, geometry, labels = truth
    example = drawn(client, target, geometry, labels, (*APPLIED, index))
    task = TaskSpec((example,), ((LABEL, "organ"),))
    return answered(client, Correct(target, "axial", index + 1, prompts(truth, index + 1), task, LABEL))[0]


def answered(client, request, do="correct"):
    """Seconds from the request to the answer in hand, and the answer."""
    started = time.perf_counter()
    done = []
    client.ask(do, request, on_done=done.append, on_failed=lambda *why: done.append(why))
    while not done:
        client.poll()
        time.sleep(POLL_S)
    if isinstance(done[0], tuple):
        raise SystemExit(done[0][1])
    if do == "correct":
        np.array(client.fetch(done[0]["probability"]["array"]))
    return time.perf_counter() - started, done[0]


def told(seconds):
    milliseconds = [1000 * each for each in seconds]
    return f"{statistics.median(milliseconds):.0f} [{min(milliseconds):.0f}, {max(milliseconds):.0f}]"


if __name__ == "__main__":
    main()
