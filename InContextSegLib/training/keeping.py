"""What every training run does at a step, and keeps: a running average of the weights, checkpoints, a log."""

import json
import logging
import math
from pathlib import Path

import torch
from torch import nn

from InContextSegLib.errors import InputError
from InContextSegLib.volumes.files import whole_file

log = logging.getLogger(__name__)


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move the running average of weights towards a network; what is no weight, as a count, is taken over.

    A young average forgets faster, so that it is of use from the first steps on.
    """
    decay = min(decay, (1 + step) / (10 + step))
    for mean, now in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(now, 1 - decay)
        else:
            mean.copy_(now)


def take_step(
    optimizer: torch.optim.Optimizer, network: nn.Module, average: nn.Module, clip: float, decay: float, step: int
) -> None:
    """Change a network and its average by the gradient, clipped to a norm; if that is not finite, change nothing."""
    if torch.isfinite(nn.utils.clip_grad_norm_(network.parameters(), clip)):
        optimizer.step()
        follow(average, network, decay, step)
    else:
        log.warning("Step %d was left out: its gradient is not finite.", step)


def save_checkpoint(path: Path, state: dict) -> None:
    """Write the state of a run, whole or not at all.

    Raises:
        OutputError: if it could not be written; the earlier one is untouched.
    """
    with whole_file(path) as aside:
        try:
            torch.save(state, aside)
        except RuntimeError as error:  # of its own writer, as where the disk is full
            raise OSError(str(error).splitlines()[0]) from error


def load_checkpoint(path: Path, device: torch.device, about: str) -> dict:
    """The state that `save_checkpoint` wrote, with its tensors on a device.

    Args:
        about: what such a run notes in it besides its seed.

    Raises:
        InputError: if it is damaged, cannot be read, or is that of a run of another kind.
    """
    try:
        state = torch.load(path, weights_only=True, map_location=device)
    except Exception as error:  # whatever PyTorch stumbles over in a damaged file
        raise InputError(f"{path} is damaged or cannot be read; choose another folder for the run.") from error
    if not isinstance(state, dict) or not {"seed", about} <= state.keys():
        raise InputError(f"{path} holds no run of this kind; choose another folder for the run.")
    return state


def forget_after(log: Path, step: int) -> None:
    """Take out of a log (a JSON object with "step" in each line) what a resumed run does again."""
    if log.exists():
        lines = log.read_text(encoding="utf-8").splitlines()
        log.write_text("".join(line + "\n" for line in lines if _step_in(line) <= step), encoding="utf-8")


def _step_in(line: str) -> float:
    """The step a line is about; one that was cut off by a kill is about none."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
