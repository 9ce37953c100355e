"""The processes of one training run: tasks spread over them, gradients and scores added up once per step."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from InContextSegLib.errors import InputError, TrainingError

Each = TypeVar("Each")


@dataclass(frozen=True)
class Ranks:
    """How many processes there are, and which of them this is; without others everything stays as it is."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def share(self, tasks: Sequence[Each]) -> list[tuple[int, Each]]:
        """The tasks of this process, with their places among all."""
        return list(enumerate(tasks))[self.rank :: self.size]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Let every tensor become its sum over all processes, in one message.

        Raises:
            TrainingError: if another process is gone or does not answer.
        """
        if self.size == 1:
            return
        flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors])
        try:
            dist.all_reduce(flat)
        except RuntimeError as error:
            raise TrainingError(
                f"Another of the {self.size} processes of this training is gone or does not answer; start it again "
                "with the same command, and it goes on from the last step that all of them finished."
            ) from error
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.detach().copy_(part.view_as(tensor))


def device_of_rank(device: torch.device, environment: Mapping[str, str] = os.environ) -> torch.device:
    """The GPU of this process, where several of one computer were started together; any other device stays as it is.

    Raises:
        InputError: if this computer has fewer GPUs than processes were started on it.
    """
    local = environment.get("LOCAL_RANK")
    if device.type != "cuda" or device.index is not None or not local:
        return device
    if int(local) >= torch.cuda.device_count():
        raise InputError(
            f"Asked for {environment.get('LOCAL_WORLD_SIZE', 'several')} processes on this computer, which has "
            f"{torch.cuda.device_count()} GPUs; start one for each (torchrun --nproc-per-node), or use --device cpu."
        )
    own = torch.device("cuda", int(local))
    torch.cuda.set_device(own)
    return own


@contextmanager
def joined(
    device: torch.device, timeout_s: float = 600.0, environment: Mapping[str, str] = os.environ
) -> Iterator[Ranks]:
    """The ranks that `torchrun` (or Slurm through it) started; one process where nothing says otherwise.

    Args:
        device: "cpu" for gloo, "cuda" for nccl.
        timeout_s: how long to wait for a process that does not answer.

    Raises:
        InputError: if the environment names a rank without the others.
    """
    named = {name: environment.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    if not any(named.values()) or named["WORLD_SIZE"] == "1":
        yield Ranks()
        return
    missing = [name for name, value in named.items() if not value]
    if missing:
        raise InputError(
            f"Several processes were to train together, but {' and '.join(missing)} is not set; start them by torchrun."
        )
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
