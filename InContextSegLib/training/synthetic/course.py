"""A UniverSeg learns from invented tasks, with and without a simulated user."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from InContextSegLib.models.precision import has_fast_bfloat16
from InContextSegLib.models.universeg import UniverSeg
from InContextSegLib.training.curves import draw_losses
from InContextSegLib.training.losses import dice_and_cross_entropy
from InContextSegLib.training.recipe import Recipe
from InContextSegLib.training.simulated_user import SimulatedUser
from InContextSegLib.training.synthetic.episodes import Episodes, episode_stream, step_generator

SILENT_SHARE = 0.5  # of the users with examples: they wait for a first answer


class InventedTasks:
    """The `Course` of a recipe."""

    def __init__(self, recipe: Recipe):
        self.recipe, self.about = recipe, {"architecture": asdict(recipe.architecture)}

    def begin(self) -> UniverSeg:
        """A network with random weights."""
        return UniverSeg(self.recipe.architecture.widths, self.recipe.architecture.promptable)

    def stream(self, first_step: int, device: torch.device) -> Iterator[Episodes]:
        """A batch of episodes for every step."""
        return episode_stream(self.recipe, first_step, device)

    def learn(self, network: UniverSeg, drawn: Episodes, step: int) -> dict:
        """The gradients of one batch."""
        loss = dice_and_cross_entropy(self._answer(network, drawn, step), drawn.masks)
        loss.backward()
        return {
            "loss": loss.item(),
            "size": drawn.images.shape[-1],
            "supports": drawn.support_images.shape[1],
            "rounds": drawn.rounds,
        }

    def kept(self, network: nn.Module) -> dict[str, Tensor]:
        """All of it."""
        return network.state_dict()

    def draw(self, log: Path, picture: Path) -> None:
        """A curve for each kind of step."""
        draw_losses(log, self.recipe, picture)

    def _answer(self, network: UniverSeg, episodes: Episodes, step: int) -> Tensor:
        """Logits of the queries; with a simulated user, those after their last word."""
        device = episodes.images.device
        with torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device)):
            supports = episodes.support_images, episodes.support_masks
            if not episodes.rounds:
                return network(episodes.images, *supports).float()
            user = SimulatedUser(episodes.masks, step_generator(self.recipe, step, device, stream=1))
            # With examples the first answer may come before the first word.
            prompts = user.begin(silent_share=SILENT_SHARE if episodes.support_images.shape[1] else 0.0)
            for _ in range(episodes.rounds - 1):
                with torch.no_grad():
                    logits = network(episodes.images, *supports, prompts).float()
                prompts = user.correct(logits)
            return network(episodes.images, *supports, prompts).float()
