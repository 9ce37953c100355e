"""What a network learns from in seconds: episodes made of the user's own examples, and steps of training on them."""

import time
from collections.abc import Callable, Sequence
from copy import copy

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from InContextSegLib.adaptation.leave_out import LeaveOut
from InContextSegLib.models.networks import SliceSegmenter
from InContextSegLib.models.precision import has_fast_bfloat16
from InContextSegLib.models.sricl import SRICL
from InContextSegLib.training.augment import moved, scanner_shift, uniform
from InContextSegLib.training.losses import dice_and_cross_entropy

EPISODES, SHOWN, CANDIDATES = 4, 4, 16
SHOWING = 0.6  # of the queries show the label for certain
CROP_PX = 96  # of larger pictures a part is seen, the same of query and supports
PLACE, SCANNER = 0.5, 0.2  # strength of the changes of place and of appearance
LEARNING_RATE, CLIP = 5e-4, 1.0
# SR-ICL forgets at that rate, and by parts of a picture, whose size and place it has learnt
# (docs/development/tried.md).
RATE_OF_SRICL = 1e-4
WARM_UP_STEPS, DECAYING_SHARE = 3, 0.5

Batch = tuple[
    Float[Tensor, "b 1 h w"], Float[Tensor, "b 1 h w"], Float[Tensor, "b s 1 h w"], Float[Tensor, "b s 1 h w"]
]


class EpisodeSampler:
    """Episodes out of labelled examples: one of them is the query, others like it are its supports.

    Args:
        leave: the examples, and which of them may not help one another.
        device: where the pictures are drawn and the networks trained.
        seed: of every random choice.
    """

    def __init__(self, leave: LeaveOut, device: torch.device, seed: int):
        self.leave, self.device = leave, device
        self._chance = np.random.default_rng(seed)
        self._generator = torch.Generator(device).manual_seed(seed)
        examples = leave.support.examples
        self._images = torch.from_numpy(np.stack([each.image for each in examples]))[:, None].to(device)
        labels = np.stack([each.labels for each in examples]).astype(np.int32)
        self._labels = torch.from_numpy(labels)[:, None].to(device)
        self._showing = {
            label.value: {n for n, each in enumerate(examples) if (each.labels == label.value).any()}
            for label in leave.support.labels
        }

    def with_seed(self, seed: int) -> "EpisodeSampler":
        """The same examples, which are not copied, with chances of their own."""
        other = copy(self)
        other._chance = np.random.default_rng(seed)
        other._generator = torch.Generator(self.device).manual_seed(seed)
        return other

    def train(
        self,
        network: SliceSegmenter,
        among: Sequence[int],
        steps: int,
        deadline: float,
        step_done: Callable[[int], None],
    ) -> int:
        """Train a network in place on episodes of the examples `among`; the number of steps that were done.

        The learning rate rises, holds, and falls to nothing over the last half of the steps.

        Args:
            deadline: of `time.monotonic`; no step begins behind it.
            step_done: called after every step with the number of steps done; what it raises ends the training.
        """
        whole = isinstance(network, SRICL)
        rate = RATE_OF_SRICL if whole else LEARNING_RATE
        parameters = [each for each in network.parameters() if each.requires_grad]
        optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)
        for step in range(steps):
            if time.monotonic() >= deadline:
                return step
            rise, fall = (step + 1) / WARM_UP_STEPS, (steps - step) / (DECAYING_SHARE * steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, rise, fall)
            query, wanted, images, masks = self.draw(among, whole)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=has_fast_bfloat16(self.device)):
                logits = network.segment(network.encode(query), network.condition(images, masks)).float()
            optimizer.zero_grad()
            dice_and_cross_entropy(logits, wanted).backward()
            if torch.isfinite(nn.utils.clip_grad_norm_(parameters, CLIP)):
                optimizer.step()
            step_done(step + 1)
        return steps

    def draw(self, among: Sequence[int], whole: bool = False) -> Batch:
        """Query images and masks, support images and masks of a step's episodes, all changed mildly at random.

        Args:
            whole: whether pictures are seen as a whole however large they are.
        """
        rows, masks = [], []
        for _ in range(EPISODES):
            value, indices = self._episode(list(among))
            rows.append(self._images[indices])
            masks.append((self._labels[indices] == value).float())
        images, masks = moved(torch.cat(rows), torch.cat(masks), PLACE, self._generator)
        strength = SCANNER * uniform(0.0, 1.0, (len(images),), self._generator)
        images = scanner_shift(images[:, 0], strength, self._generator)[:, None]
        rows_from, columns_from, size = (0, 0, images.shape[-1]) if whole else self._part(images.shape[-1])
        part = (..., slice(rows_from, rows_from + size), slice(columns_from, columns_from + size))
        images, masks = (each[part].unflatten(0, (EPISODES, -1)) for each in (images, masks))
        return images[:, 0], masks[:, 0], images[:, 1:], masks[:, 1:]

    def _episode(self, among: list[int]) -> tuple[int, list[int]]:
        """A label, and the indices of a query and its `SHOWN` supports; some come twice where there are too few."""
        values = [value for value, showing in self._showing.items() if showing.intersection(among)]
        value = int(self._chance.choice(values)) if values else self._told(among)
        among = [index for index in among if self.leave.support.examples[index].tells(value)]
        showing = [index for index in among if index in self._showing[value]]
        queries = showing if showing and self._chance.random() < SHOWING else among
        query = int(self._chance.choice(queries))
        present = set(among)
        others = [index for index in self.leave.others(query) if index in present][:CANDIDATES]
        # A lone example has to serve as its own support, changed in another way.
        supports = self._chance.permutation(others or [query])[:SHOWN].tolist()
        able = [index for index in others if index in self._showing[value]]
        if not able and query in self._showing[value]:
            able = [query]  # a label asked for that no support shows would teach to ignore them
        if able and not set(supports) & set(able):
            supports[0] = able[0]
        supports += [int(self._chance.choice(supports)) for _ in range(SHOWN - len(supports))]
        return value, [query, *supports]

    def _told(self, among: Sequence[int]) -> int:
        """A label of which some of these examples tell, though none shows one."""
        examples = [self.leave.support.examples[index] for index in among]
        return next(value for value in self._showing if any(example.tells(value) for example in examples))

    def _part(self, size: int) -> tuple[int, int, int]:
        """First row and column of the part that is seen of a picture, and its size."""
        seen = min(CROP_PX, size)
        row, column = (int(self._chance.integers(size - seen + 1)) for _ in range(2))
        return row, column, seen
