"""Training on many tasks at once: one gradient per task, their mean, ranks, checkpoints."""

import json
import os
import signal
import socket
import subprocess
import sys
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from InContextSegLib.errors import Cancelled, InputError, OutputError, TrainingError
from InContextSegLib.models.sricl import SRICL
from InContextSegLib.models.universeg import UniverSeg
from InContextSegLib.progress import Report
from InContextSegLib.training import averaged
from InContextSegLib.training.averaged import AveragedTrainer, Batch, Settings, answered, loss_of
from InContextSegLib.training.ranks import Ranks, device_of_rank, joined

SIZE = 64
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Disks:
    """Find the bright disk, or the dark one; the references say which."""

    name: str
    bright: bool
    references: int = 3
    queries: int = 2
    judged: bool = True

    def batch(self, generator):
        count = self.references + self.queries
        images, masks = zip(*(self._picture(generator) for _ in range(count)), strict=True)
        images, masks = torch.stack(images), torch.stack(masks)
        return Batch(*(part[: self.queries] for part in (images, masks)), images[self.queries :], masks[self.queries :])

    trial = batch

    def _picture(self, generator):
        rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
        image = 0.5 + 0.02 * torch.randn(SIZE, SIZE, generator=generator)
        places = torch.rand(4, generator=generator)
        for bright, (y, x) in ((True, places[:2]), (False, places[2:])):
            disk = (rows - (14 + 36 * y)) ** 2 + (columns - (14 + 36 * x)) ** 2 < 100
            image[disk] = 0.9 if bright else 0.1
            if bright is self.bright:
                wanted = disk
        return image.clamp(0, 1)[None], wanted[None].float()


def small():
    torch.manual_seed(0)
    return SRICL(widths=(8, 8, 16, 16), decoder_width=16, channels=16, attention_width=16)


def tasks(count=4):
    return [Disks(f"task {number}", bright=number % 2 == 0) for number in range(count)]


def settings(**changes):
    return replace(
        Settings(steps=6, validate_every=3, checkpoint_every=2, warmup_steps=1, learning_rate=1e-3), **changes
    )


def weights_of(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.network.parameters()])


def lines_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("network", [small(), UniverSeg((8, 8, 8))])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_mean_of_separate_gradients_is_the_gradient_of_the_mean_loss(tmp_path, monkeypatch, network, checkpointing):
    monkeypatch.setattr(averaged, "has_fast_bfloat16", lambda _device: False)  # else the two differ by roundings
    loss = "sricl" if isinstance(network, SRICL) else "dice"
    chosen = settings(loss=loss, checkpointing=checkpointing, gradient_clip=1e9)
    trainer = AveragedTrainer(deepcopy(network), tasks(), chosen, tmp_path, CPU)
    naive = deepcopy(network)
    batches = [task.batch(trainer._generator(1, index)) for index, task in enumerate(trainer.tasks)]
    torch.stack([loss_of(naive, batch, replace(chosen, checkpointing=False)) for batch in batches]).mean().backward()
    trainer._one_step()
    for (name, mine), other in zip(trainer.network.named_parameters(), naive.parameters(), strict=True):
        wanted = torch.zeros_like(mine) if other.grad is None else other.grad
        torch.testing.assert_close(mine.grad, wanted, atol=1e-6, rtol=1e-4, msg=name)


def test_it_learns_and_the_best_validation_is_kept(tmp_path):
    trainer = AveragedTrainer(small(), tasks(2), settings(steps=60, validate_every=20), tmp_path, CPU)
    trainer.run(Report())
    lines = lines_of(tmp_path)
    assert np.mean([line["loss"] for line in lines[-15:]]) < 0.8 * np.mean([line["loss"] for line in lines[:15]])
    scores = {line["step"]: np.mean(list(line["validation"].values())) for line in lines if "validation" in line}
    assert trainer.best.score == pytest.approx(max(scores.values()), abs=1e-3)
    for name, value in trainer.average.state_dict().items():
        torch.testing.assert_close(value, trainer.best.weights[name])


def test_a_run_that_stops_gaining_ends(tmp_path):
    trainer = AveragedTrainer(small(), tasks(1), settings(steps=500, validate_every=1, patience=3), tmp_path, CPU)
    trainer.validate = lambda: setattr(trainer.best, "since", trainer.best.since + 1) or {}
    trainer.run(Report())
    assert trainer.step == 3


@pytest.mark.parametrize("cancelled_at", [1, 3, 5])
def test_a_run_that_was_cancelled_goes_on_bit_for_bit(tmp_path, cancelled_at):
    whole = AveragedTrainer(small(), tasks(), settings(), tmp_path / "whole", CPU)
    whole.run(Report())
    report = Report(lambda done, _total, _message: report.cancel() if done == cancelled_at else None)
    with pytest.raises(Cancelled):
        AveragedTrainer(small(), tasks(), settings(), tmp_path / "parts", CPU).run(report)
    again = AveragedTrainer(small(), tasks(), settings(), tmp_path / "parts", CPU)
    assert again.step in (cancelled_at, cancelled_at + 1)
    again.run(Report())
    assert torch.equal(weights_of(whole), weights_of(again))
    kept = [[{**line, "seconds": 0} for line in lines_of(tmp_path / name)] for name in ("whole", "parts")]
    assert kept[0] == kept[1]


def test_a_run_that_was_killed_between_checkpoints_goes_on_bit_for_bit(tmp_path):
    whole = AveragedTrainer(small(), tasks(), settings(), tmp_path / "whole", CPU)
    whole.run(Report())
    killed = AveragedTrainer(small(), tasks(), settings(), tmp_path / "killed", CPU)
    for _step in range(3):
        record = killed._one_step()
        killed._note(record)
        if killed.step == 2:
            killed.save()
    with (tmp_path / "killed" / "log.jsonl").open("a") as lines:
        lines.write('{"step": 4, "lo')
    again = AveragedTrainer(small(), tasks(), settings(), tmp_path / "killed", CPU)
    assert again.step == 2
    again.run(Report())
    assert torch.equal(weights_of(whole), weights_of(again))
    assert [line["step"] for line in lines_of(tmp_path / "killed")] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_with_an_empty_log(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 9.0}\n{"step": 2, "lo', encoding="utf-8")
    AveragedTrainer(small(), tasks(1), settings(steps=2), tmp_path, CPU).run(Report())
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2] and lines_of(tmp_path)[0]["loss"] != 9.0


def test_a_folder_of_another_run_is_left_alone(tmp_path):
    AveragedTrainer(small(), tasks(), settings(steps=1), tmp_path, CPU).run(Report())
    with pytest.raises(InputError, match=r"holds a run with seed 0 on task 0, .* choose another folder"):
        AveragedTrainer(small(), tasks(2), settings(), tmp_path, CPU)
    with pytest.raises(InputError, match="seed 1"):
        AveragedTrainer(small(), tasks(), settings(seed=1), tmp_path, CPU)


def test_a_full_disk_at_a_checkpoint_leaves_the_earlier_one(tmp_path, monkeypatch):
    trainer = AveragedTrainer(small(), tasks(), settings(), tmp_path, CPU)
    trainer.save()
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(_state, path):
        Path(path).write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc] PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"checkpoint\.pt could not be written"):
        trainer.save()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_step_without_a_finite_gradient_changes_nothing(tmp_path, monkeypatch):
    trainer = AveragedTrainer(small(), tasks(1), settings(), tmp_path, CPU)
    before = weights_of(trainer)
    broken = replace_batch(tasks(1)[0].batch(torch.Generator()), float("nan"))
    monkeypatch.setattr(Disks, "batch", lambda _self, _generator: broken)
    trainer._one_step()
    assert torch.equal(weights_of(trainer), before) and trainer.step == 1


def replace_batch(batch, value):
    return Batch(batch.images * value, batch.masks, batch.references, batch.reference_masks)


def test_tasks_that_lag_weigh_more_and_the_mean_weight_is_one(tmp_path):
    trainer = AveragedTrainer(small(), tasks(2), settings(balance="lagging"), tmp_path, CPU)
    assert trainer._weights() == [1, 1]
    trainer.dice = [0.9, 0.1]
    assert trainer._weights() == pytest.approx([0.2 * 2 / 1.2, 1.0 * 2 / 1.2])


@pytest.mark.parametrize(
    "changes",
    [
        *({"steps": 0}, {"learning_rate": 0.0}, {"average_decay": 1.0}, {"gradient_clip": 0.0}, {"loss": "nothing"}),
        {"seed": 2**31},
    ],
)
def test_settings_refuse_nonsense_by_name(changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        Settings(**changes)


def test_a_loss_of_another_network_and_no_task_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not fit the network UniverSeg"):
        loss_of(UniverSeg((8, 8)), tasks(1)[0].batch(torch.Generator()), settings(loss="sricl"))
    with pytest.raises(InputError, match="at least one task"):
        AveragedTrainer(small(), [], settings(), tmp_path, CPU)


def test_queries_of_one_task_share_their_references():
    batch, network = Disks("", bright=True).batch(torch.Generator().manual_seed(1)), small().eval()
    each = [network(batch.images[[n]], batch.references[None], batch.reference_masks[None]) for n in range(2)]
    logits = torch.cat([maps[:, 0, :1] - maps[:, 0, 1:] for maps in each])
    torch.testing.assert_close(answered(network, batch), logits, atol=1e-5, rtol=1e-4)


def ranked(folder, rank, size, port, extra=""):
    """One process of several, as torchrun would start it."""
    code = f"""
import sys, torch
sys.path.insert(0, {str(Path(__file__).resolve().parents[3])!r})
from pathlib import Path
from Testing.Library.training.test_averaged import *
torch.set_num_threads(1)
with joined(CPU, timeout_s=20) as ranks:
    trainer = AveragedTrainer(small(), tasks(3), settings(), Path({str(folder)!r}), CPU, ranks)
    {extra}
    try:
        trainer.run(Report())
    except TrainingError as error:
        print(error)
        sys.exit(7)
"""
    environment = {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | environment, stdout=subprocess.PIPE, text=True
    )


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_have_the_loss_curve_of_one(tmp_path):
    AveragedTrainer(small(), tasks(3), settings(), tmp_path / "one", CPU).run(Report())
    port = free_port()
    processes = [ranked(tmp_path / "two", rank, 2, port) for rank in range(2)]
    for process in processes:
        process.communicate(timeout=120)
    assert [process.returncode for process in processes] == [0, 0]
    curves = [lines_of(tmp_path / name) for name in ("one", "two")]
    assert len(curves[0]) == len(curves[1]) == 6
    for one, two in zip(*curves, strict=True):
        # The sum of gradients is rounded in another order, and Adam makes a whole step of the smallest of them.
        close = 1e-5 if one["step"] <= 2 else 5e-3
        assert two["loss"] == pytest.approx(one["loss"], rel=close)
        assert two["losses"] == pytest.approx(one["losses"], rel=close)
        # A pixel at the threshold falls on either side, and these pictures are small.
        assert two.get("validation", {}) == pytest.approx(one.get("validation", {}), abs=1e-2)


def test_every_process_of_a_computer_takes_a_gpu_of_its_own(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    second = {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3"}
    assert device_of_rank(torch.device("cuda"), second) == torch.device("cuda", 1)
    assert taken == [torch.device("cuda", 1)]
    for device, environment in ((CPU, second), (torch.device("cuda"), {}), (torch.device("cuda", 0), second)):
        assert device_of_rank(device, environment) == device
    assert len(taken) == 1
    with pytest.raises(InputError, match="3 processes on this computer, which has 2 GPUs"):
        device_of_rank(torch.device("cuda"), second | {"LOCAL_RANK": "2"})


def test_a_lost_process_ends_the_run_in_a_sentence_and_the_checkpoint_goes_on(tmp_path):
    port = free_port()
    die = "trainer._note = lambda record: os.kill(os.getpid(), signal.SIGKILL) if trainer.step == 3 else None"
    first, second = ranked(tmp_path, 0, 2, port), ranked(tmp_path, 1, 2, port, die)
    second.communicate(timeout=120)
    assert second.returncode == -signal.SIGKILL
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 7, said
    assert "Another of the 2 processes of this training is gone" in said
    alone = AveragedTrainer(small(), tasks(3), settings(), tmp_path, CPU)
    assert alone.step >= 3
    alone.run(Report())
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_ranks_share_all_tasks_and_one_process_is_all_of_them():
    assert [Ranks(rank, 3).share("abcdefg") for rank in range(3)] == [
        [(0, "a"), (3, "d"), (6, "g")],
        [(1, "b"), (4, "e")],
        [(2, "c"), (5, "f")],
    ]
    with joined(CPU, environment={}) as ranks:
        assert ranks == Ranks() and ranks.first
    with (
        pytest.raises(InputError, match="MASTER_ADDR and MASTER_PORT is not set"),
        joined(CPU, environment={"RANK": "1", "WORLD_SIZE": "2"}),
    ):
        pass
    assert issubclass(TrainingError, RuntimeError)
