"""The stream of training episodes: step number in, batch of in-context tasks out, the same one every time."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from InContextSegLib.training.augment import chosen
from InContextSegLib.training.recipe import Recipe
from InContextSegLib.training.synthetic.tasks import synthetic_tasks


@dataclass(frozen=True, eq=False)
class Episodes:
    """`b` queries, each with `s` labelled supports of its own task, and how often a user speaks (0 for not at all)."""

    images: Float[Tensor, "b 1 h w"]
    masks: Float[Tensor, "b 1 h w"]
    support_images: Float[Tensor, "b s 1 h w"]
    support_masks: Float[Tensor, "b s 1 h w"]
    rounds: int


def draw_episodes(recipe: Recipe, step: int, device: torch.device) -> Episodes:
    """The episodes of one step: a function of the recipe's seed and the step alone, so that a run resumes exactly."""
    generator = step_generator(recipe, step, device)
    stage = recipe.stage_at(step)

    def pick(choices: tuple[int, ...]) -> int:
        return choices[int(torch.randint(len(choices), (1,), generator=generator, device=device))]

    size, supports = pick(stage.sizes), pick(stage.supports)
    asked = bool(chosen(stage.prompted, (1,), generator)) or supports == 0
    rounds = pick(stage.rounds) if asked else 0
    batch = synthetic_tasks(stage.pixels_per_step // size**2 // (supports + 1), supports + 1, size, generator)
    return Episodes(batch.images[:, 0], batch.masks[:, 0], batch.images[:, 1:], batch.masks[:, 1:], rounds)


def step_generator(recipe: Recipe, step: int, device: torch.device, stream: int = 0) -> torch.Generator:
    """The source of a step's random choices; `stream` tells apart what is drawn in different places."""
    return torch.Generator(device).manual_seed((recipe.seed * 1_000_003 + step) * 16 + stream)


def episode_stream(recipe: Recipe, first_step: int, device: torch.device) -> Iterator[Episodes]:
    """Episodes from `first_step` to the recipe's end: on a GPU drawn there, else by processes beside the training."""
    if device.type == "cuda":
        return (draw_episodes(recipe, step, device) for step in range(first_step, recipe.steps))
    loader = DataLoader(
        _Steps(recipe), batch_size=None, sampler=range(first_step, recipe.steps), num_workers=recipe.loader_processes
    )
    return iter(loader)


class _Steps(Dataset):
    def __init__(self, recipe: Recipe):
        self.recipe = recipe

    def __getitem__(self, step: int) -> Episodes:
        return draw_episodes(self.recipe, step, torch.device("cpu"))
