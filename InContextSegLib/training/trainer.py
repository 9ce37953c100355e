"""The training loop: read it from top to bottom.

What is learnt from what is a `Course`: the network, a stream of what each step learns from, and a loss.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from InContextSegLib import __version__
from InContextSegLib.config import to_mapping
from InContextSegLib.errors import InputError
from InContextSegLib.models.weights import save_weights
from InContextSegLib.progress import Report
from InContextSegLib.training.keeping import forget_after, load_checkpoint, save_checkpoint, take_step
from InContextSegLib.training.recipe import Run
from InContextSegLib.volumes.files import make_folder

log = logging.getLogger(__name__)

LOG = "log.jsonl"


@runtime_checkable
class Course(Protocol):
    """What is learnt, and from what; every choice of chance depends on the recipe's seed and the step alone.

    Attributes:
        recipe: its numbers.
        about: what a run of another course differs in, besides the seed.
    """

    recipe: Run
    about: dict[str, Any]

    def begin(self) -> nn.Module:
        """A network before its first step, on the CPU."""

    def stream(self, first_step: int, device: torch.device) -> Iterator[Any]:
        """What the steps from `first_step` on learn from, one after the other."""

    def learn(self, network: nn.Module, drawn: Any, step: int) -> dict:
        """Add the gradients of a step to a network's parameters; what the log says of it, with the "loss"."""

    def kept(self, network: nn.Module) -> dict[str, Tensor]:
        """What of a network a checkpoint has to hold."""

    def draw(self, log: Path, picture: Path) -> None:
        """Draw the losses of a log."""


class Trainer:
    """A run in a folder: `checkpoint.pt` (all that is needed to resume bit-exactly), `log.jsonl` (a line per step)."""

    def __init__(self, course: Course, folder: Path, device: torch.device):
        self.course, self.recipe, self.folder, self.device = course, course.recipe, folder, device
        torch.manual_seed(self.recipe.seed)
        self.network = course.begin().to(device)
        self.average = deepcopy(self.network).requires_grad_(False)
        learnt = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(learnt, self.recipe.learning_rate, weight_decay=self.recipe.weight_decay)
        self.step = 0
        make_folder(folder)
        if self._checkpoint.exists():
            self._resume()

    def run(self, report: Report) -> nn.Module:
        """Train to the recipe's end and return the averaged network.

        Raises:
            Cancelled: from `report`; the last step done is in the checkpoint.
        """
        with self._log.open("a", encoding="utf-8") as lines:
            try:
                for drawn in self.course.stream(self.step, self.device):
                    record = self._one_step(drawn)
                    lines.write(json.dumps(record) + "\n")
                    if self.step % self.recipe.checkpoint_every == 0:
                        lines.flush()
                        self.save()
                    report.step(self.step, self.recipe.steps, f"loss {record['loss']:.3f}")
            finally:
                self.save()
        return self.average

    def _one_step(self, drawn: Any) -> dict:
        rate = self.recipe.learning_rate_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        record = self.course.learn(self.network, drawn, self.step)
        recipe = self.recipe
        take_step(self.optimizer, self.network, self.average, recipe.gradient_clip, recipe.average_decay, self.step)
        self.step += 1
        return {"step": self.step} | record

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def _log(self) -> Path:
        return self.folder / LOG

    def save(self) -> None:
        """Write the checkpoint, whole or not at all.

        Raises:
            OutputError: if it could not be written; the earlier one is untouched.
        """
        state = {
            "step": self.step,
            "seed": self.recipe.seed,
            "about": self.course.about,
            "network": self.course.kept(self.network),
            "average": self.course.kept(self.average),
            "optimizer": self.optimizer.state_dict(),
        }
        save_checkpoint(self._checkpoint, state)

    def _resume(self) -> None:
        state = load_checkpoint(self._checkpoint, self.device, "about")
        if (state["seed"], state["about"]) != (self.recipe.seed, self.course.about):
            raise InputError(
                f"{self.folder} holds a run with seed {state['seed']} and {state['about']}, "
                f"and the recipe asks for seed {self.recipe.seed} and {self.course.about}; "
                "choose another folder."
            )
        self.step = state["step"]
        for name in ("network", "average"):
            network = getattr(self, name)
            network.load_state_dict(network.state_dict() | state[name])
        self.optimizer.load_state_dict(state["optimizer"])
        forget_after(self._log, self.step)
        log.info("Resuming %s at step %d of %d.", self.folder, self.step, self.recipe.steps)


def train(course: Course, folder: Path, device: torch.device, report: Report) -> dict:
    """Run or resume a course in `folder`, write the averaged `weights.safetensors` and `losses.png`, and say where.

    The weights are written in half precision.

    Raises:
        Cancelled: from `report`; the run can be resumed.
        InputError: if the folder holds another run.
    """
    network = Trainer(course, folder, device).run(report)
    course.draw(folder / LOG, folder / "losses.png")
    path = folder / "weights.safetensors"
    notes = {"recipe": json.dumps(to_mapping(course.recipe)), "incontextseg": __version__, "licence": "Apache-2.0"}
    weights = {name: each.half() if each.is_floating_point() else each for name, each in network.state_dict().items()}
    save_weights(path, weights, notes)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"weights": str(path), "sha256": sha256, "steps": course.recipe.steps}
