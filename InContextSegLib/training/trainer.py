"""The training loop: read it from top to bottom."""

import hashlib
import json
import logging
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from InContextSegLib import __version__
from InContextSegLib.config import to_mapping
from InContextSegLib.errors import InputError
from InContextSegLib.models.precision import has_fast_bfloat16
from InContextSegLib.models.universeg import UniverSeg
from InContextSegLib.models.weights import save_weights
from InContextSegLib.progress import Report
from InContextSegLib.training.curves import draw_losses
from InContextSegLib.training.keeping import follow, forget_after
from InContextSegLib.training.losses import dice_and_cross_entropy
from InContextSegLib.training.recipe import Recipe
from InContextSegLib.training.simulated_user import SimulatedUser
from InContextSegLib.training.synthetic.episodes import Episodes, episode_stream, step_generator
from InContextSegLib.volumes.files import make_folder

log = logging.getLogger(__name__)

LOG = "log.jsonl"
SILENT_SHARE = 0.5  # of the users with examples: they wait for a first answer


class Trainer:
    """A run in a folder: `checkpoint.pt` (all that is needed to resume bit-exactly), `log.jsonl` (a line per step)."""

    def __init__(self, recipe: Recipe, folder: Path, device: torch.device):
        torch.manual_seed(recipe.seed)
        self.recipe, self.folder, self.device = recipe, folder, device
        self.network = UniverSeg(recipe.architecture.widths, recipe.architecture.promptable).to(device)
        self.average = deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
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
                for episodes in episode_stream(self.recipe, self.step, self.device):
                    record = self._one_step(episodes)
                    lines.write(json.dumps(record) + "\n")
                    if self.step % self.recipe.checkpoint_every == 0:
                        lines.flush()
                        self.save()
                    report.step(self.step, self.recipe.steps, f"loss {record['loss']:.3f}")
            finally:
                self.save()
        return self.average

    def _one_step(self, episodes: Episodes) -> dict:
        rate = self.recipe.learning_rate_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = dice_and_cross_entropy(self._answer(episodes), episodes.masks)
        self.optimizer.zero_grad()
        loss.backward()
        gradient = nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.gradient_clip)
        if torch.isfinite(gradient):
            self.optimizer.step()
            follow(self.average, self.network, self.recipe.average_decay, self.step)
        else:
            log.warning("Step %d was left out: its gradient is not finite.", self.step)
        self.step += 1
        return {
            "step": self.step,
            "loss": loss.item(),
            "size": episodes.images.shape[-1],
            "supports": episodes.support_images.shape[1],
            "rounds": episodes.rounds,
        }

    def _answer(self, episodes: Episodes) -> Tensor:
        """Logits of the queries; with a simulated user, those after their last word."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=has_fast_bfloat16(self.device)):
            supports = episodes.support_images, episodes.support_masks
            if not episodes.rounds:
                return self.network(episodes.images, *supports).float()
            user = SimulatedUser(episodes.masks, step_generator(self.recipe, self.step, self.device, stream=1))
            # With examples the first answer may come before the first word.
            prompts = user.begin(silent_share=SILENT_SHARE if episodes.support_images.shape[1] else 0.0)
            for _ in range(episodes.rounds - 1):
                with torch.no_grad():
                    logits = self.network(episodes.images, *supports, prompts).float()
                prompts = user.correct(logits)
            return self.network(episodes.images, *supports, prompts).float()

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
            "architecture": asdict(self.recipe.architecture),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        aside = self._checkpoint.with_suffix(".tmp")
        torch.save(state, aside)
        aside.replace(self._checkpoint)

    def _resume(self) -> None:
        state = torch.load(self._checkpoint, weights_only=True, map_location=self.device)
        if (state["seed"], state["architecture"]) != (self.recipe.seed, asdict(self.recipe.architecture)):
            raise InputError(
                f"{self.folder} holds a run with seed {state['seed']} and {state['architecture']}, "
                f"and the recipe asks for seed {self.recipe.seed} and {asdict(self.recipe.architecture)}; "
                "choose another folder."
            )
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        forget_after(self._log, self.step)
        log.info("Resuming %s at step %d of %d.", self.folder, self.step, self.recipe.steps)


def train(recipe: Recipe, folder: Path, device: torch.device, report: Report) -> dict:
    """Run or resume a recipe in `folder`, write the averaged `weights.safetensors` and `losses.png`, and say where.

    Raises:
        Cancelled: from `report`; the run can be resumed.
        InputError: if the folder holds another run.
    """
    network = Trainer(recipe, folder, device).run(report)
    draw_losses(folder / LOG, recipe, folder / "losses.png")
    path = folder / "weights.safetensors"
    notes = {"recipe": json.dumps(to_mapping(recipe)), "incontextseg": __version__, "licence": "Apache-2.0"}
    save_weights(path, network.state_dict(), notes)
    return {"weights": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "steps": recipe.steps}
