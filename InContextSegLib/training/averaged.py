"""Training on many tasks at once: every task contributes one gradient per step, and their mean moves the network.

Each task's loss is propagated back on its own ("separate BP, average update", SR-ICL, CVPR 2025), so the memory of a
step is that of one task, however many there are; the outcome is that of their mean loss.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from InContextSegLib.errors import InputError, OutputError
from InContextSegLib.models.precision import has_fast_bfloat16
from InContextSegLib.models.sricl import SRICL
from InContextSegLib.progress import Report
from InContextSegLib.training.keeping import forget_after, load_checkpoint, save_checkpoint, take_step
from InContextSegLib.training.losses import LOSSES
from InContextSegLib.training.ranks import Ranks
from InContextSegLib.training.runfolder import CHECKPOINT, EXAMPLES, LOG
from InContextSegLib.training.site.examples import MOST, Shown, draw_examples
from InContextSegLib.volumes.files import make_folder

log = logging.getLogger(__name__)

STREAMS = 1 << 12  # random streams of a step: one for every task
AUTO, USUAL = "auto", "dice-cross-entropy"  # the loss that suits a network; that of networks other than SR-ICL
LEAST_GAIN = 1e-4  # of the mean Dice; less is chance


@dataclass(frozen=True, eq=False)
class Batch:
    """Queries of one task that share their references, whose masks may have two channels (`models/sricl.py`)."""

    images: Float[Tensor, "q 1 h w"]
    masks: Float[Tensor, "q 1 h w"]
    references: Float[Tensor, "r 1 h w"]
    reference_masks: Float[Tensor, "r c h w"]

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(part.to(device, non_blocking=True) for part in vars(self).values()))


@runtime_checkable
class Task(Protocol):
    """What a network is to learn of one kind of label; the same generator gives the same batch.

    Attributes:
        judged: whether there are patients to validate it with.
    """

    name: str
    judged: bool

    def batch(self, generator: torch.Generator) -> Batch:
        """Queries and references of training patients."""

    def trial(self, generator: torch.Generator) -> Batch:
        """Queries of validation patients, and references of training patients."""


@dataclass(frozen=True)
class Settings:
    """How a run goes.

    Attributes:
        learning_rate: of Adam, after `warmup_steps`.
        loss: a name in `LOSSES`, or "auto": the one that suits the network.
        average_decay: of the running mean of the weights, which is what is validated and kept.
        balance: "equal" tasks weigh alike; "lagging": the more, the lower their validation Dice was.
        checkpointing: embeddings and contexts are computed twice instead of kept: less memory, more time.
        patience: validations in a row without a gain after which the run ends.

    Raises:
        InputError: if a number makes no sense, by name.
    """

    seed: int = 0
    steps: int = 10_000
    learning_rate: float = 1e-4
    warmup_steps: int = 50
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    average_decay: float = 0.99
    loss: str = AUTO
    balance: Literal["equal", "lagging"] = "equal"
    checkpointing: bool = False
    checkpoint_every: int = 100
    validate_every: int = 200
    patience: int = 10

    def __post_init__(self) -> None:
        for name in ("steps", "warmup_steps", "checkpoint_every", "validate_every", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: asked for at least 1, got {getattr(self, name)}.")
        if abs(self.seed) >= 2**31:  # the streams of steps and tasks are numbered from it
            raise InputError(f"seed: asked for a number of less than 2147483648, got {self.seed}.")
        if not 0 < self.learning_rate < 1:
            raise InputError(f"learning_rate: asked for a number between 0 and 1, got {self.learning_rate}.")
        if not 0 <= self.average_decay < 1:
            raise InputError(f"average_decay: asked for a number in [0, 1), got {self.average_decay}.")
        if self.gradient_clip <= 0 or self.weight_decay < 0:
            raise InputError(
                f"gradient_clip, weight_decay: asked for more than 0 and for 0 or more, got {self.gradient_clip} and "
                f"{self.weight_decay}."
            )
        if self.loss not in (AUTO, *LOSSES):
            raise InputError(f"loss: asked for one of {', '.join((AUTO, *LOSSES))}, got {self.loss!r}.")


@dataclass
class Best:
    """The best validation so far, the weights it was of, and how many have followed without a gain."""

    score: float = -math.inf
    step: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    since: int = 0


def answered(network: nn.Module, batch: Batch) -> Float[Tensor, "q 1 h w"]:
    """Logits of the queries."""
    context = network.condition(batch.references[None], batch.reference_masks[None])
    return network.segment(network.encode(batch.images), context).float()


def suiting(network: nn.Module, loss: str) -> str:
    """The name of the loss that a network is trained by.

    Raises:
        InputError: if the loss is of another kind of network.
    """
    if loss == AUTO:
        return "sricl" if isinstance(network, SRICL) else USUAL
    if isinstance(network, SRICL) != (loss == "sricl"):
        raise InputError(
            f"The loss '{loss}' does not fit the network {type(network).__name__}; 'sricl' is for SR-ICL, and the "
            f"others for the rest. '{AUTO}' chooses."
        )
    return loss


def loss_of(network: nn.Module, batch: Batch, settings: Settings) -> Float[Tensor, ""]:
    """The loss of one task. Raises: InputError: as `suiting`."""
    loss = LOSSES[suiting(network, settings.loss)]
    run = _twice if settings.checkpointing else _once
    embedding = run(network.encode, batch.images)
    context = run(network.condition, batch.references[None], batch.reference_masks[None])
    answer = network.maps(embedding, context) if isinstance(network, SRICL) else network.segment(embedding, context)
    return loss(answer.float(), batch.masks)


def _once(function: Callable, *arguments: Tensor):
    return function(*arguments)


def _twice(function: Callable, *arguments: Tensor):
    return checkpoint(function, *arguments, use_reentrant=False)


class AveragedTrainer:
    """A run in a folder: `checkpoint.pt` (all that is needed to resume bit-exactly), `log.jsonl` (a line per step).

    With several ranks every one has all tasks and computes its share of them; the first one writes.
    """

    def __init__(
        self,
        network: nn.Module,
        tasks: Sequence[Task],
        settings: Settings,
        folder: Path,
        device: torch.device,
        ranks: Ranks = Ranks(),  # noqa: B008 - frozen
    ):
        if not tasks:
            raise InputError("A training needs at least one task, and got none.")
        self.network, self.tasks, self.settings, self.folder = network.to(device), tuple(tasks), settings, folder
        self.device, self.ranks = device, ranks
        self.average = deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.step, self.best, self.dice = 0, Best(), [0.0] * len(self.tasks)
        if ranks.first:
            make_folder(folder)
        if self._checkpoint.exists():
            self._resume()
        elif ranks.first:  # somebody was killed before the first checkpoint
            forget_after(folder / LOG, 0)

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or patience has run out."""
        return self.step >= self.settings.steps or self.best.since >= self.settings.patience

    def run(self, report: Report) -> nn.Module:
        """Train to the end; the network of the best validation.

        Raises:
            Cancelled: from `report`; what was done is in the checkpoint.
            TrainingError: if another rank is gone; likewise.
        """
        try:
            while not self.finished:
                record = self._one_step(report.check)
                if self.step % self.settings.validate_every == 0 or self.step == self.settings.steps:
                    record |= {"validation": self.validate()}
                self._note(record)
                if self.step % self.settings.checkpoint_every == 0:
                    self.save()
                report.step(self.step, self.settings.steps, f"loss {record['loss']:.3f}", record)
        finally:
            self.save()
        if self.best.weights:
            self.average.load_state_dict(self.best.weights)
        return self.average

    def validate(self) -> dict[str, float]:
        """Mean Dice of every task's trial by the averaged network; remembers the best; the last, if none is judged."""
        scores, shown = torch.zeros(len(self.tasks), device=self.device), []
        for index, task in self.ranks.share(self.tasks):
            if not task.judged:
                continue
            batch = task.trial(self._generator(0, index)).to(self.device)
            with torch.no_grad():
                found, wanted = answered(self.average, batch) > 0, batch.masks > 0.5
            dice = dice_of(found, wanted)
            scores[index] = dice.mean()
            shown.append(_shown(task.name, batch, found, dice))
        self.ranks.add_up([scores])
        self._draw(shown)
        self.dice = scores.tolist()
        known = [index for index, task in enumerate(self.tasks) if task.judged]
        mean = float(scores[known].mean()) if known else 0.0
        if mean > self.best.score + LEAST_GAIN or not known:
            weights = {name: value.detach().cpu().clone() for name, value in self.average.state_dict().items()}
            self.best = Best(mean, self.step, weights)
        else:
            self.best.since += 1
        return {self.tasks[index].name: round(self.dice[index], 4) for index in known}

    def _draw(self, shown: Sequence[Sequence[Shown]]) -> None:
        """The first slices of every task of this rank, in turn, as far as there is room."""
        if not shown or not self.ranks.first:
            return
        in_turn = [each for turn in zip_longest(*shown) for each in turn if each is not None]
        try:
            draw_examples(self.folder / EXAMPLES, in_turn, self.step)
        except OutputError as error:  # no reason to end a run
            log.warning("%s", error)

    def _one_step(self, check: Callable[[], None] = lambda: None) -> dict:
        since = time.monotonic()
        rate = self.settings.learning_rate * min(1.0, (self.step + 1) / self.settings.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses, weights = torch.zeros(len(self.tasks), device=self.device), self._weights()
        self.optimizer.zero_grad()
        for index, task in self.ranks.share(self.tasks):
            check()  # a step of many tasks is long, and one that is given up has changed nothing yet
            batch = task.batch(self._generator(self.step + 1, index)).to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=has_fast_bfloat16(self.device)):
                loss = loss_of(self.network, batch, self.settings)
            # Divided before it is added up, so that the sum over tasks is their mean.
            (loss * (weights[index] / len(self.tasks))).backward()
            losses[index] = loss.detach()
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.ranks.add_up([losses, *(parameter.grad for parameter in parameters)])
        settings = self.settings
        take_step(self.optimizer, self.network, self.average, settings.gradient_clip, settings.average_decay, self.step)
        self.step += 1
        found = {task.name: round(value, 5) for task, value in zip(self.tasks, losses.tolist(), strict=True)}
        return {
            "step": self.step,
            "loss": round(float((losses * losses.new_tensor(weights)).mean()), 6),
            "losses": found,
            "seconds": round(time.monotonic() - since, 3),
        }

    def _weights(self) -> list[float]:
        """How much every task counts; 1 in the mean."""
        if self.settings.balance == "equal" or not any(self.dice):
            return [1.0] * len(self.tasks)
        lacking = [1.1 - score if task.judged else 1.0 for task, score in zip(self.tasks, self.dice, strict=True)]
        return [each * len(lacking) / sum(lacking) for each in lacking]

    def _generator(self, step: int, index: int) -> torch.Generator:
        """Of one task in one step (0: its trial), whichever rank it falls to."""
        return torch.Generator().manual_seed((self.settings.seed * 1_000_003 + step) * STREAMS + index)

    @property
    def _checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    def _note(self, record: dict) -> None:
        if self.ranks.first:
            with (self.folder / LOG).open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(record) + "\n")

    def save(self) -> None:
        """Write the checkpoint, whole or not at all.

        Raises:
            OutputError: if it could not be written; the earlier one is untouched.
        """
        if not self.ranks.first:
            return
        state = {
            "step": self.step,
            "seed": self.settings.seed,
            "tasks": [task.name for task in self.tasks],
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": vars(self.best),
            "dice": self.dice,
        }
        save_checkpoint(self._checkpoint, state)

    def _resume(self) -> None:
        state = load_checkpoint(self._checkpoint, self.device, "tasks")
        names = [task.name for task in self.tasks]
        if (state["seed"], state["tasks"]) != (self.settings.seed, names):
            raise InputError(
                f"{self.folder} holds a run with seed {state['seed']} on {', '.join(state['tasks'])}, but seed "
                f"{self.settings.seed} on {', '.join(names)} is asked for; choose another folder."
            )
        self.step, self.dice, self.best = state["step"], state["dice"], Best(**state["best"])
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ranks.first:
            forget_after(self.folder / LOG, self.step)
        log.info("Resuming %s at step %d of %d.", self.folder, self.step, self.settings.steps)


def _shown(name: str, batch: Batch, found: Tensor, dice: Tensor) -> list[Shown]:
    """The first queries of a trial, for people."""
    parts = [part[:MOST].cpu().numpy() for part in (batch.images[:, 0], batch.masks[:, 0] > 0.5, found[:, 0], dice)]
    return [Shown(name, *each[:3], float(each[3])) for each in zip(*parts, strict=True)]


def dice_of(found: Tensor, wanted: Tensor) -> Float[Tensor, " q"]:
    """Dice of every picture; 1 where both are empty."""
    common = 2 * (found & wanted).sum(dim=(1, 2, 3)).float()
    total = found.sum(dim=(1, 2, 3)).float() + wanted.sum(dim=(1, 2, 3)).float()
    return torch.where(total > 0, common / total.clamp(min=1), torch.ones_like(total))
