"""The in-context network learns in episodes: groups of pictures, of which some are asked by the help of others.

The backbone stays as it is. A process beside the training draws the groups and runs the backbone on them; the pictures
of a group are embedded once, and serve several questions: which mask, which query, which others as examples.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch.utils.data import DataLoader, Dataset

from InContextSegLib.models.efficientnet import EfficientNetLite
from InContextSegLib.models.incontext import Context, Embedding, InContextNet
from InContextSegLib.models.ridge import Moments
from InContextSegLib.training.episodic.groups import LEAST_PIXELS, Group, GroupSource
from InContextSegLib.training.episodic.open_data import LoadedSet
from InContextSegLib.training.losses import dice_and_cross_entropy
from InContextSegLib.training.recipe import EpisodicRecipe
from InContextSegLib.training.simulated_user import SimulatedUser
from InContextSegLib.volumes.files import whole_file

SCALING_GROUPS = 24  # of which the features' means and spreads are taken
FINE_WEIGHT, COARSE_WEIGHT = 0.3, 0.2  # of the losses of the heads, beside that of the decoder
SILENT_SHARE = 0.5  # of the users with examples: they wait for a first answer
SEEDS = 1_000_003  # apart are the groups of one seed and the next
WINDOW = 50  # steps of which the drawn loss is the mean
PLAIN, PROMPTED, ALONE = "examples alone", "examples and prompts", "prompts alone"

Drawn = tuple[Group, list[Tensor]]
_Episode = tuple[int, int, list[int]]  # mask, query, examples


@dataclass(frozen=True, eq=False)
class OpenTasks:
    """The `Course` of a recipe.

    Args:
        sets: open data in memory.
        backbone: the weights of the backbone.
        arguments: of the network.
    """

    recipe: EpisodicRecipe
    sets: Sequence[LoadedSet]
    backbone: dict[str, Tensor]
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, Any]:
        """Which network learns."""
        return {"arguments": self.begun.arguments}

    @cached_property
    def source(self) -> GroupSource:
        """Draws the groups."""
        return GroupSource(self.sets, self.recipe.sizes, self.recipe.pictures)

    @cached_property
    def begun(self) -> InContextNet:
        """The network before its first step: the features' means and spreads are those of groups not trained on."""
        torch.manual_seed(self.recipe.seed)
        network = InContextNet(**self.arguments)
        network.backbone.load_state_dict(self.backbone)
        groups = _Groups(self.source, network.backbone, self.recipe.seed + 1)
        found = [groups[number][1] for number in range(SCALING_GROUPS)]
        for level, scale in enumerate(network.scales):
            # Of equal weight per group, whatever its size.
            mean = torch.stack([each[level].float().mean((0, 2, 3)) for each in found]).mean(0)
            square = torch.stack([each[level].float().square().mean((0, 2, 3)) for each in found]).mean(0)
            scale.running_mean.copy_(mean)
            scale.running_var.copy_(square - mean**2 + 1e-3)
        return network.train()

    def begin(self) -> InContextNet:
        """A network with random weights behind its backbone."""
        return self.begun

    def stream(self, first_step: int, device: torch.device) -> Iterator[list[Drawn]]:
        """The groups of every step; on a GPU the backbone computes there."""
        many, steps = self.recipe.groups_per_step, self.recipe.steps
        gpu = device.type == "cuda"
        backbone = EfficientNetLite(self.begun.backbone.variant).eval()
        backbone.load_state_dict(self.backbone)
        groups = _Groups(self.source, None if gpu else backbone, self.recipe.seed)
        loader = iter(
            DataLoader(
                groups,
                batch_size=None,
                sampler=range(first_step * many, steps * many),
                num_workers=self.recipe.loader_processes,
            )
        )
        if gpu:
            backbone = backbone.to(device)
        for _ in range(first_step, steps):
            drawn = [next(loader) for _ in range(many)]
            if gpu:
                drawn = [(group, _features(backbone, group.pictures.to(device))) for group, _ in drawn]
            yield [(group, features) for group, features in drawn]

    def learn(self, network: InContextNet, drawn: list[Drawn], step: int) -> dict:
        """The gradients of a step's groups, one after the other."""
        records = []
        for number, (group, features) in enumerate(drawn):
            chance = np.random.default_rng((self.recipe.seed, step, number))
            loss, record = self._loss(network, group, features, chance)
            (loss / len(drawn)).backward()
            records.append(record)
        means = {name: float(np.mean([each[name] for each in records])) for name in ("loss", "final", "fine", "coarse")}
        return means | {"groups": records}

    def kept(self, network: nn.Module) -> dict[str, Tensor]:
        """All but the backbone."""
        return {name: each for name, each in network.state_dict().items() if not name.startswith("backbone.")}

    def draw(self, log: Path, picture: Path) -> None:
        """The decoder's loss, a curve for each kind of group."""
        records = [json.loads(line)["groups"] for line in log.read_text(encoding="utf-8").splitlines()]
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot(xlabel="step", ylabel=f"loss, mean of {WINDOW} groups", title=self.recipe.name)
        for kind in (PLAIN, PROMPTED, ALONE):
            points = [
                (step, group["final"])
                for step, groups in enumerate(records)
                for group in groups
                if group["kind"] == kind
            ]
            window = min(WINDOW, len(points))
            if window:
                steps, losses = np.array(points).T
                axes.plot(steps[window - 1 :], np.convolve(losses, np.full(window, 1 / window), "valid"), label=kind)
        axes.legend()
        axes.grid(alpha=0.3)
        with whole_file(picture) as temporary:
            figure.savefig(temporary, dpi=110, format="png")

    def _loss(
        self, network: InContextNet, group: Group, features: list[Tensor], chance: np.random.Generator
    ) -> tuple[Float[Tensor, ""], dict]:
        recipe = self.recipe
        device = next(network.parameters()).device
        pictures, masks = group.pictures.to(device), group.masks.to(device)
        shares = [1 - recipe.prompted - recipe.alone, recipe.prompted, recipe.alone]
        kind = str(chance.choice([PLAIN, PROMPTED, ALONE], p=shares))
        plan = planned(group, recipe.episodes, kind == ALONE, chance)
        embedding = network.embed(pictures, [each.to(device).float() for each in features])
        wanted = torch.stack([masks[mask, query] for mask, query, _ in plan])
        queries = torch.tensor([query for _, query, _ in plan], device=device)
        asked = Embedding(*(part[queries] for part in vars(embedding).values()))
        context = None if kind == ALONE else _contexts(network, embedding, masks, plan)
        prompts = None if kind == PLAIN else self._prompts(network, asked, context, wanted, chance)
        coarse, fine, final = network.answers(asked, context, prompts)
        parts = {"final": dice_and_cross_entropy(final.float(), wanted)}
        for name, logits in (("fine", fine), ("coarse", coarse)):
            small = avg_pool2d(wanted, wanted.shape[-1] // logits.shape[-1])
            parts[name] = dice_and_cross_entropy(logits.float(), small)
        loss = parts["final"]
        if context is not None:
            loss = loss + FINE_WEIGHT * parts["fine"] + COARSE_WEIGHT * parts["coarse"]
        record = {name: part.item() for name, part in parts.items()}
        return loss, record | {"loss": loss.item(), "kind": kind, "size": pictures.shape[-1]}

    def _prompts(
        self,
        network: InContextNet,
        asked: Embedding,
        context: Context | None,
        wanted: Tensor,
        chance: np.random.Generator,
    ) -> Float[Tensor, "b 4 h w"]:
        """What a simulated user has said before the last answer."""
        user = SimulatedUser(wanted, torch.Generator(wanted.device).manual_seed(int(chance.integers(2**62))))
        prompts = user.begin(silent_share=SILENT_SHARE if context is not None else 0.0)
        for _ in range(int(chance.choice(self.recipe.rounds)) - 1):
            with torch.no_grad():
                prompts = user.correct(network.segment(asked, context, prompts).float())
        return prompts


class _Groups(Dataset):
    """Groups by number with the backbone's features of their pictures, half precision; none without a backbone."""

    def __init__(self, source: GroupSource, backbone: nn.Module | None, seed: int):
        self.source, self.backbone, self.seed = source, backbone, seed

    def __getitem__(self, number: int) -> Drawn:
        group = self.source.draw(self.seed * SEEDS + number)
        return group, [] if self.backbone is None else _features(self.backbone, group.pictures)


@torch.no_grad()
def _features(backbone: nn.Module, pictures: Tensor) -> list[Tensor]:
    return [each.half() for each in backbone(pictures.contiguous(memory_format=torch.channels_last))]


def planned(group: Group, count: int, alone: bool, chance: np.random.Generator) -> list[_Episode]:
    """What is asked of a group: masks, queries, and the other pictures that serve as examples, as many for each.

    A query shows what is asked for, and so does at least one of its examples, which are of other units.

    Args:
        alone: without examples.
    """
    shown = (group.masks.flatten(2).sum(2) >= LEAST_PIXELS).numpy()
    units = np.array(group.units)
    choices = []
    for _ in range(count):
        mask = int(chance.integers(len(group.masks)))
        query = int(chance.choice(np.flatnonzero(shown[mask])))
        others = chance.permutation(np.flatnonzero(units != units[query])).tolist()
        choices.append((mask, query, others))
    if alone:
        return [(mask, query, []) for mask, query, _ in choices]
    number = int(chance.integers(1, min(len(others) for _, _, others in choices) + 1))
    episodes = []
    for mask, query, others in choices:
        taken = others[:number]
        if not shown[mask, taken].any():
            taken[0] = int(chance.choice([index for index in others if shown[mask, index]]))
        episodes.append((mask, query, taken))
    return episodes


def _contexts(network: InContextNet, embedding: Embedding, masks: Tensor, plan: Sequence[_Episode]) -> Context:
    """One context an episode: sums of what each picture says of each mask."""
    single = {mask: network.context_of(embedding, masks[mask][:, None]) for mask in {mask for mask, _, _ in plan}}

    def summed(part) -> Tensor:
        return torch.stack([part(single[mask])[taken].sum(dim=0) for mask, _, taken in plan])

    return Context(
        Moments(summed(lambda c: c.fine.inside), summed(lambda c: c.fine.outside)),
        Moments(summed(lambda c: c.coarse.inside), summed(lambda c: c.coarse.outside)),
        summed(lambda c: c.masks),
        len(plan[0][2]),
    )
