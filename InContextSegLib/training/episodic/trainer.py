"""Training of the in-context network: read it from top to bottom."""

import hashlib
import json
import logging
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch.utils.data import DataLoader, Dataset

from InContextSegLib import __version__
from InContextSegLib.config import to_mapping
from InContextSegLib.errors import InputError
from InContextSegLib.models.incontext import Context, Embedding, InContextNet
from InContextSegLib.models.ridge import Moments
from InContextSegLib.models.weights import load_weights, save_weights
from InContextSegLib.progress import Report
from InContextSegLib.training.episodic.groups import LEAST_PIXELS, Group, GroupSource
from InContextSegLib.training.episodic.open_data import OpenData, load_open_data
from InContextSegLib.training.keeping import follow, forget_after
from InContextSegLib.training.losses import dice_and_cross_entropy
from InContextSegLib.training.simulated_user import SimulatedUser
from InContextSegLib.volumes.files import make_folder

log = logging.getLogger(__name__)
LOG = "log.jsonl"
SCALING_GROUPS = 24  # of which the features' means and spreads are taken
FINE_WEIGHT, COARSE_WEIGHT = 0.3, 0.2  # of the losses of the heads, beside that of the decoder
SILENT_SHARE = 0.5  # of the users with examples: they wait for a first answer


@dataclass(frozen=True)
class EpisodicRecipe:
    """A training run of the in-context network.

    Attributes:
        groups_per_step, episodes: groups of pictures in a step, and queries asked of each.
        pictures: in a group.
        sizes: of pictures in pixels, one of them for every group.
        prompted: share of the groups in which a simulated user speaks; alone: that in which there are no examples.
        rounds: how often the user may speak, one number drawn for every group.
    """

    name: str
    seed: int
    steps: int
    sizes: tuple[int, ...] = (128, 192, 192, 256)
    pictures: int = 6
    groups_per_step: int = 2
    episodes: int = 4
    prompted: float = 0.25
    alone: float = 0.15
    rounds: tuple[int, ...] = (1, 1, 2, 3, 5)
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    decay_steps: int = 1500
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    average_decay: float = 0.998
    checkpoint_every: int = 50
    loader_processes: int = 1

    def learning_rate_at(self, step: int) -> float:
        rise = min(1.0, (step + 1) / self.warmup_steps)
        fall = min(1.0, (self.steps - step) / self.decay_steps)
        return self.learning_rate * rise * fall


class _Groups(Dataset):
    """Groups by number with the backbone's features of their pictures, half precision."""

    def __init__(self, source: GroupSource, backbone: nn.Module, seed: int):
        self.source, self.backbone, self.seed = source, backbone, seed

    @torch.no_grad()
    def __getitem__(self, number: int) -> tuple[Group, list[Tensor]]:
        group = self.source.draw(self.seed * 1_000_003 + number)
        pictures = group.pictures.contiguous(memory_format=torch.channels_last)
        return group, [each.half() for each in self.backbone(pictures)]


class EpisodicTrainer:
    """A run in a folder: `checkpoint.pt` (all that is needed to resume bit-exactly), `log.jsonl` (a line per step)."""

    def __init__(
        self,
        recipe: EpisodicRecipe,
        source: GroupSource,
        backbone: dict[str, Tensor],
        folder: Path,
        device: torch.device,
    ):
        torch.manual_seed(recipe.seed)
        self.recipe, self.source, self.folder, self.device = recipe, source, folder, device
        self.network = InContextNet()
        self.network.backbone.load_state_dict(backbone)
        self.network.to(device).train()
        self.average = deepcopy(self.network).requires_grad_(False)
        learnt = [each for each in self.network.parameters() if each.requires_grad]
        self.optimizer = torch.optim.AdamW(learnt, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.step = 0
        make_folder(folder)
        if self._checkpoint.exists():
            self._resume()
        else:
            self._scale()

    def run(self, report: Report) -> nn.Module:
        """Train to the recipe's end and return the averaged network.

        Raises:
            Cancelled: from `report`; the last step done is in the checkpoint.
        """
        stream = self._stream()
        with self._log.open("a", encoding="utf-8") as lines:
            try:
                while self.step < self.recipe.steps:
                    record = self._one_step([next(stream) for _ in range(self.recipe.groups_per_step)])
                    lines.write(json.dumps(record) + "\n")
                    if self.step % self.recipe.checkpoint_every == 0:
                        lines.flush()
                        self.save()
                    report.step(self.step, self.recipe.steps, f"loss {record['loss']:.3f}")
            finally:
                self.save()
        return self.average

    def _stream(self) -> Iterator[tuple[Group, list[Tensor]]]:
        first, last = (step * self.recipe.groups_per_step for step in (self.step, self.recipe.steps))
        groups = _Groups(self.source, deepcopy(self.network.backbone).cpu(), self.recipe.seed)
        return iter(
            DataLoader(groups, batch_size=None, sampler=range(first, last), num_workers=self.recipe.loader_processes)
        )

    @torch.no_grad()
    def _scale(self) -> None:
        """Means and spreads of the features, from groups that are not trained on."""
        groups = _Groups(self.source, self.network.backbone.cpu(), self.recipe.seed + 1)
        found = [groups[number][1] for number in range(SCALING_GROUPS)]
        for level in range(len(self.network.scales)):
            # Of equal weight per group, whatever its size.
            means = torch.stack([each[level].float().mean((0, 2, 3)) for each in found])
            squares = torch.stack([each[level].float().square().mean((0, 2, 3)) for each in found])
            mean = means.mean(0)
            for network in (self.network, self.average):
                network.scales[level].running_mean.copy_(mean)
                network.scales[level].running_var.copy_(squares.mean(0) - mean**2 + 1e-3)
        self.network.to(self.device)

    def _one_step(self, groups: list[tuple[Group, list[Tensor]]]) -> dict:
        rate = self.recipe.learning_rate_at(self.step)
        for each in self.optimizer.param_groups:
            each["lr"] = rate
        self.optimizer.zero_grad()
        records = []
        for number, (group, features) in enumerate(groups):
            chance = np.random.default_rng((self.recipe.seed, self.step, number))
            loss, record = self._group_loss(group, features, chance)
            (loss / len(groups)).backward()
            records.append(record)
        gradient = nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.gradient_clip)
        if torch.isfinite(gradient):
            self.optimizer.step()
            follow(self.average, self.network, self.recipe.average_decay, self.step)
        else:
            log.warning("Step %d was left out: its gradient is not finite.", self.step)
        self.step += 1
        means = {name: float(np.mean([each[name] for each in records])) for name in ("loss", "fine", "coarse", "final")}
        return {"step": self.step, **means, "groups": records}

    def _group_loss(
        self, group: Group, features: list[Tensor], chance: np.random.Generator
    ) -> tuple[Float[Tensor, ""], dict]:
        recipe, device = self.recipe, self.device
        pictures = group.pictures.to(device)
        masks = group.masks.to(device)
        mode = chance.choice(
            ["plain", "prompted", "alone"], p=[1 - recipe.prompted - recipe.alone, recipe.prompted, recipe.alone]
        )
        plan = _planned(group, recipe.episodes, alone=mode == "alone", chance=chance)
        embedding = self.network.embed(pictures, [each.to(device).float() for each in features])
        queries = torch.tensor([query for _, query, _ in plan], device=device)
        wanted = torch.stack([masks[mask, query] for mask, query, _ in plan])
        asked = Embedding(*(part[queries] for part in vars(embedding).values()))
        context = None if mode == "alone" else _contexts(self.network, embedding, masks, plan)
        prompts = None
        if mode != "plain":
            generator = torch.Generator(device).manual_seed(int(chance.integers(2**62)))
            user = SimulatedUser(wanted, generator)
            prompts = user.begin(silent_share=SILENT_SHARE if mode == "prompted" else 0.0)
            for _ in range(int(chance.choice(recipe.rounds)) - 1):
                with torch.no_grad():
                    prompts = user.correct(self.network.segment(asked, context, prompts).float())
        coarse, fine, final = self.network.answers(asked, context, prompts)
        parts = {"final": dice_and_cross_entropy(final.float(), wanted)}
        for name, logits in (("fine", fine), ("coarse", coarse)):
            parts[name] = dice_and_cross_entropy(
                logits.float(), avg_pool2d(wanted, wanted.shape[-1] // logits.shape[-1])
            )
        loss = parts["final"]
        if context is not None:
            loss = loss + FINE_WEIGHT * parts["fine"] + COARSE_WEIGHT * parts["coarse"]
        record = {name: part.item() for name, part in parts.items()}
        return loss, record | {"loss": loss.item(), "mode": str(mode), "size": pictures.shape[-1]}

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def _log(self) -> Path:
        return self.folder / LOG

    def save(self) -> None:
        """Write the checkpoint whole: aside first, then renamed over the earlier one."""
        state = {
            "step": self.step,
            "seed": self.recipe.seed,
            "network": _without_backbone(self.network),
            "average": _without_backbone(self.average),
            "optimizer": self.optimizer.state_dict(),
        }
        aside = self._checkpoint.with_suffix(".tmp")
        torch.save(state, aside)
        aside.replace(self._checkpoint)

    def _resume(self) -> None:
        state = torch.load(self._checkpoint, weights_only=True, map_location=self.device)
        if state["seed"] != self.recipe.seed:
            raise InputError(
                f"{self.folder} holds a run with seed {state['seed']}, and the recipe asks for seed "
                f"{self.recipe.seed}; choose another folder."
            )
        self.step = state["step"]
        for name in ("network", "average"):
            missing = getattr(self, name).load_state_dict(state[name], strict=False)
            if missing.unexpected_keys or any(not key.startswith("backbone.") for key in missing.missing_keys):
                raise InputError(f"{self.folder} holds a run of another architecture; choose another folder.")
        self.optimizer.load_state_dict(state["optimizer"])
        forget_after(self._log, self.step)
        log.info("Resuming %s at step %d of %d.", self.folder, self.step, self.recipe.steps)


def train_episodic(
    recipe: EpisodicRecipe,
    open_data: OpenData,
    data: Path,
    backbone: Path,
    folder: Path,
    device: torch.device,
    report: Report,
) -> dict:
    """Run or resume a recipe in `folder`, write the averaged `weights.safetensors`, and say where.

    Args:
        backbone: weights of the frozen backbone.

    Raises:
        Cancelled: from `report`; the run can be resumed.
        InputError: if the folder holds another run, or data cannot be read.
    """
    source = GroupSource(load_open_data(open_data, data), recipe.sizes, recipe.pictures)
    network = EpisodicTrainer(recipe, source, load_weights(backbone), folder, device).run(report)
    path = folder / "weights.safetensors"
    notes = {"recipe": json.dumps(to_mapping(recipe)), "incontextseg": __version__, "licence": "Apache-2.0"}
    save_weights(path, {name: each.half() for name, each in network.state_dict().items()}, notes)
    return {"weights": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "steps": recipe.steps}


_Episode = tuple[int, int, list[int]]  # mask, query, examples


def _planned(group: Group, count: int, alone: bool, chance: np.random.Generator) -> list[_Episode]:
    """What is asked of a group: masks, queries, and which other pictures serve as examples; as many for all."""
    shown = group.masks.flatten(2).sum(2) >= LEAST_PIXELS
    units = np.array(group.units)
    choices = []
    for _ in range(count):
        mask = int(chance.integers(len(group.masks)))
        showing = np.flatnonzero(shown[mask].numpy())
        query = int(chance.choice(showing))
        others = np.flatnonzero(units != units[query])
        able = [index for index in others if shown[mask, index]]
        if able or alone:
            choices.append((mask, query, chance.permutation(others).tolist(), able))
    if alone:
        return [(mask, query, []) for mask, query, _, _ in choices]
    most = min(len(others) for _, _, others, _ in choices)
    number = int(chance.integers(1, most + 1))
    episodes = []
    for mask, query, others, able in choices:
        taken = others[:number]
        if not set(taken) & set(able):
            taken[0] = int(chance.choice(able))
        episodes.append((mask, query, taken))
    return episodes


def _contexts(network: InContextNet, embedding: Embedding, masks: Tensor, plan: list[_Episode]) -> Context:
    """One context an episode: sums of what each picture says of each mask."""
    single: dict[int, Context] = {}
    for mask, _, _ in plan:
        if mask not in single:
            single[mask] = network.context_of(embedding, masks[mask][:, None])

    def summed(of_picture: Tensor, taken: list[int]) -> Tensor:
        return of_picture[taken].sum(dim=0)

    def gathered(part) -> Tensor:
        return torch.stack([summed(part(single[mask]), taken) for mask, _, taken in plan])

    return Context(
        Moments(gathered(lambda c: c.fine.inside), gathered(lambda c: c.fine.outside)),
        Moments(gathered(lambda c: c.coarse.inside), gathered(lambda c: c.coarse.outside)),
        gathered(lambda c: c.masks),
        len(plan[0][2]),
    )


def _without_backbone(network: InContextNet) -> dict[str, Tensor]:
    return {name: each for name, each in network.state_dict().items() if not name.startswith("backbone.")}
