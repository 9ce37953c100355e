"""A worker that is killed at points of chance: the client recovers, no result differs, and nothing is left behind."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from InContextSegLib.cli.phantom import phantom
from InContextSegLib.inference.settings import InferenceSettings
from InContextSegLib.models.universeg import UniverSeg
from InContextSegLib.models.weights import save_weights
from InContextSegLib.progress import exhausted
from InContextSegLib.worker import process as worker
from InContextSegLib.worker.client import WorkerClient
from InContextSegLib.worker.protocol import ArrayRef, Device, ExampleRef, Prepare, Preview, Segment, TaskSpec
from InContextSegLib.worker.transport import SubprocessTransport
from Testing.Library.fake_segmenter import grid, scan

KILLS = 50
SOON_S = 60


@dataclass
class Forked:
    """What `SubprocessTransport` needs of a process."""

    pid: int
    stdin: object
    stdout: object
    stderr: object

    def wait(self):
        os.waitpid(self.pid, 0)


class ForkTransport(SubprocessTransport):
    """A worker that is forked: the same, but torch is imported already, which saves a second for every kill."""

    def _spawned(self):
        (its_in, stdin), (stdout, its_out), (stderr, its_err) = (os.pipe() for _ in range(3))
        pid = os.fork()
        if pid == 0:
            os.setsid()
            for own, number in ((its_in, 0), (its_out, 1), (its_err, 2)):
                os.dup2(own, number)
            for pipe in (its_in, stdin, stdout, its_out, stderr, its_err):
                os.close(pipe)
            sys.argv = self.command[2:]
            worker.main()
        for pipe in (its_in, its_out, its_err):
            os.close(pipe)
        return Forked(pid, os.fdopen(stdin, "wb", 0), os.fdopen(stdout, "rb"), os.fdopen(stderr, "rb"))


class Round:
    """A client that asks for pieces of a small task, and knows what came when nobody was killed."""

    def __init__(self, parent, transport, weights=None, shape=None):
        self.pids, self.expected = [], {}
        self.client = WorkerClient(self._transport, parent)
        self.transport = transport
        refs = [self._published(*self._volumes(seed, shape)) for seed in range(3)]
        examples = tuple(ExampleRef(*each, f"patient {number}") for number, each in enumerate(refs[:2]))
        tasks = [
            TaskSpec(
                examples, ((1, "one"),), InferenceSettings(supports=4, draws=draws), model="universeg", weights=weights
            )
            for draws in (1, 2)
        ]
        target = refs[2][0]
        self.requests = {
            "device": ("device", Device()),
            "prepare": ("prepare", Prepare(tasks[0], target)),
            "segment": ("segment", Segment(tasks[0], target)),
            "segment with spread": ("segment", Segment(tasks[1], target, slice_range=(1, 4))),
            **{f"slice {index}": ("preview", Preview(tasks[0], target, index)) for index in (1, 2, 4)},
            "other axis": ("preview", Preview(tasks[1], target, 9, "coronal")),
        }

    def _volumes(self, seed, shape):
        return phantom(seed, *shape) if shape else scan(seed, geometry=grid((8, 24, 24)))

    def _published(self, *volumes):
        return [
            ArrayRef.of(exhausted(self.client.publishing(each.array)), each.geometry, each.kind) for each in volumes
        ]

    def _transport(self, folder):
        made = self.transport(folder)
        start = made.start
        made.start = lambda: (start(), self.pids.append(made.pid))
        return made

    def ask(self, name):
        do, request = self.requests[name]
        return self.client.ask(do, request)

    def settled(self, name, answer):
        """Whether an answer came; one that came is the expected one."""
        if answer["is"] != "done":
            # A worker answers the newest preview only.
            assert answer["kind"] in ("WorkerDied", "Cancelled"), answer
            return False
        found = {key: value for key, value in answer.items() if key not in ("id", "seconds", "block", "uncertainty")}
        found.get("devices", [{}])[0].pop("free_bytes", None)
        for what in ("block", "uncertainty"):
            if answer.get(what):
                array = self.client.fetch(answer[what]["array"])
                found[what] = (answer[what]["corner_kji"], array.shape, array.tobytes())
                self.client.forget(answer[what]["array"])
        assert self.expected.setdefault(name, found) == found
        return True

    def undisturbed(self, names):
        for name in names:
            assert self.settled(name, self.client.wait(self.ask(name), SOON_S))
        assert len(self.pids) == 1

    def disturbed(self, names, seconds):
        """Ask, kill the worker after a while, and hear every request to its end; how many were answered."""
        asked = [(name, self.ask(name)) for name in names]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(0.002)
            self.client.poll()
        os.kill(self.pids[-1], signal.SIGKILL)
        return sum(self.settled(name, self.client.wait(number, SOON_S)) for name, number in asked)

    def nothing_is_left(self, parent):
        folder = self.client.folder
        assert sum(path.suffix == ".part" for path in folder.iterdir()) == 0
        self.client.close()
        assert list(parent.iterdir()) == []
        assert [pid for pid in self.pids if Path(f"/proc/{pid}").exists()] == []


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_fifty_kills_at_points_of_chance_change_no_result_and_leave_nothing(tmp_path):
    torch.manual_seed(3)
    weights, parent = tmp_path / "small.safetensors", tmp_path / "shared"
    save_weights(weights, UniverSeg((8, 8)).state_dict())
    parent.mkdir()
    here = Round(parent, ForkTransport, str(weights))
    started = time.monotonic()
    here.undisturbed(here.requests)
    usual_s, generator, answered, asked = time.monotonic() - started, np.random.default_rng(5), 0, 0
    names = list(here.requests)
    for _ in range(KILLS):
        chosen = [names[n] for n in generator.integers(len(names), size=generator.integers(1, 5))]
        answered += here.disturbed(chosen, generator.uniform(0, usual_s * len(chosen) / len(names)))
        asked += len(chosen)
        name = names[generator.integers(len(names))]
        assert here.settled(name, here.client.wait(here.ask(name), SOON_S))
    assert len(here.pids) >= KILLS
    assert 0 < answered < asked  # some were hit in the middle, others not
    here.nothing_is_left(parent)


@pytest.mark.slow
def test_a_process_of_its_own_is_killed_while_it_starts_loads_and_computes(tmp_path):
    here = Round(tmp_path, SubprocessTransport, shape=((8, 64, 64), (12.0, 5.5, 5.5)))
    here.undisturbed(["segment", "slice 2"])
    os.kill(here.pids[-1], signal.SIGKILL)
    for seconds in (0.0, 0.3, 1.5):
        here.disturbed(["segment", "slice 2"], seconds)
    assert here.settled("segment", here.client.wait(here.ask("segment"), SOON_S))
    here.nothing_is_left(tmp_path)
