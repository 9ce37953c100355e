"""A head fitted to the examples of one task: a perceptron from a pixel's pretrained features to the labels.

Fitted in a second or two to a sample of the examples' pixels; nothing of the backbone is trained. Its first layer is
linear, so it is applied to every feature map at the map's own resolution, and only its hidden units are enlarged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, interpolate, relu

from InContextSegLib.models.precision import full_precision

STRIDE = 2  # of the pixels that are fitted and answered
LEVELS = 4  # feature maps used: strides 2 to 16; what lies beyond must be learnt over many tasks
WINDOWS = (5, 11)  # over which grey values are averaged as further features
PLACE = 4  # row, column, position along the axis, whether that is known
HIDDEN, MORE_HIDDEN = 64, 128  # units; more for more than two labels
LEAST_SPREAD, LEAST_POSITION_SPREAD = 1e-3, 0.2
STEPS, BATCH, RATE, DECAY, DROPOUT = 300, 4096, 3e-3, 1e-2, 0.2
# Half way between a label's pixels counting by their number and counting as much as all others: a head that is fitted
# by number alone says that there is nothing where a label is rare.
BALANCE, LEAST_SHARE = 0.5, 1e-4
SMOOTHING = 0.01  # of the soft Dice, in pixels: with more of it, what is rare weighs nothing
# Pixels of an example that are fitted at most: of each label, and of all else.
INSIDE, OUTSIDE = 1500, 3000


@dataclass(frozen=True, eq=False)
class Pixels:
    """A sample of an example's pixels.

    Attributes:
        features: of every pixel.
        labels: which of the labels it shows.
        weight: how many of the example's pixels it stands for, as a share of them.
        known: for every label whether the example tells of it.
    """

    features: Float[Tensor, "p c"]
    labels: Bool[Tensor, "p k"]
    weight: Float[Tensor, " p"]
    known: Bool[Tensor, " k"]


class FittedHead(nn.Module):
    """Logits of `labels` labels at stride 2 from the feature maps of a backbone.

    Args:
        channels: of the feature maps that are used, from stride 2 on.
    """

    def __init__(self, channels: Sequence[int], labels: int):
        super().__init__()
        inputs = sum(channels) + 3 * (1 + len(WINDOWS)) + PLACE
        hidden = HIDDEN if labels <= 2 else MORE_HIDDEN
        self.first, self.last = nn.Linear(inputs, hidden), nn.Linear(hidden, labels)
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("spread", torch.ones(inputs))

    @torch.no_grad()
    @full_precision
    def forward(
        self, maps: Sequence[Tensor], pictures: Float[Tensor, "b 3 h w"], positions: Sequence[float | None]
    ) -> Float[Tensor, "b k h2 w2"]:
        weight = self.first.weight / self.spread
        hidden = self.first.bias - weight @ self.mean
        hidden = hidden[None, :, None, None]
        begin = 0
        for part in _parts(maps, pictures, positions):
            own = weight[:, begin : begin + part.shape[1], None, None]
            begin += part.shape[1]
            hidden = hidden + _enlarged(nn.functional.conv2d(part, own), pictures)
        return nn.functional.conv2d(relu(hidden), self.last.weight[:, :, None, None], self.last.bias)


def pixels_of(
    maps: Sequence[Tensor],
    picture: Float[Tensor, "1 3 h w"],
    masks: Float[Tensor, "k h w"],
    position: float | None,
    known: Sequence[bool],
    generator: Generator,
    share: float = 1.0,
) -> Pixels:
    """A sample of the pixels of one example.

    Args:
        known: for every label whether the example tells of it.
        share: of `INSIDE` and `OUTSIDE` that is taken at most.
    """
    features = (
        torch.cat([_enlarged(part, picture) for part in _parts(maps, picture, [position])], dim=1)[0].flatten(1).T
    )
    labels = avg_pool2d(masks[None], STRIDE)[0] >= 0.5  # a line one pixel wide counts
    labels = labels.flatten(1).T
    groups = [*labels.unbind(dim=1), ~labels.any(dim=1)]
    chosen, weight = [], []
    for number, group in enumerate(groups):
        places = group.nonzero()[:, 0]
        most = int(share * (OUTSIDE if number == len(groups) - 1 else INSIDE))
        if len(places) == 0 or most == 0:
            continue
        taken = places[torch.randperm(len(places), generator=generator)[:most]]
        chosen.append(taken)
        weight.append(torch.full((len(taken),), len(places) / len(taken) / len(labels)))
    chosen = torch.cat(chosen)
    return Pixels(features[chosen], labels[chosen], torch.cat(weight), torch.tensor(list(known)))


def fit_head(sample: Sequence[Pixels], channels: Sequence[int], generator: Generator, longer: int = 1) -> FittedHead:
    """A head fitted to the pixels of examples, by cross-entropy and soft Dice over the pixels that they stand for.

    Args:
        channels: of the feature maps that the pixels' features come from.
        longer: how many times `STEPS` the optimiser takes.
    """
    steps = longer * STEPS
    x = torch.cat([each.features for each in sample])
    y = torch.cat([each.labels for each in sample]).float()
    told = torch.cat([each.known.expand(len(each.features), -1) for each in sample]).float()
    weight = torch.cat([each.weight for each in sample])
    weight = told * (weight / weight.mean())[:, None]
    inside = ((weight * y).sum(dim=0) / weight.sum(dim=0).clamp(min=1e-6)).clamp(LEAST_SHARE, 1 - LEAST_SHARE)
    raised = (0.5 / inside) ** BALANCE, (0.5 / (1 - inside)) ** BALANCE
    head = FittedHead(channels, y.shape[1])
    for layer in (head.first, head.last):
        bound = layer.in_features**-0.5
        for parameter in (layer.weight, layer.bias):
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
    # It begins with as much of each label as the loss will see.
    head.last.bias.data = torch.log(inside * raised[0] / ((1 - inside) * raised[1]))
    head.mean, head.spread = x.mean(dim=0), _spread(x)
    x = (x - head.mean) / head.spread
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=DECAY)
    with torch.enable_grad():
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
            drawn = torch.randint(len(x), (BATCH,), generator=generator)
            hidden = relu(head.first(x[drawn]))
            keep = torch.rand(hidden.shape, generator=generator) >= DROPOUT
            logits = head.last(hidden * keep / (1 - DROPOUT))
            loss = _loss(logits, y[drawn], weight[drawn], raised)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return head.requires_grad_(False).eval()


def _spread(x: Float[Tensor, "p c"]) -> Float[Tensor, " c"]:
    """By what features are divided: what is the same in all examples says nothing and counts for nothing elsewhere.

    Positions along the axis are not stretched: two slices side by side tell little of what lies far from them.
    """
    found = x.std(dim=0, correction=0)
    wide = found.clone()
    wide[-2:] = found[-2:].clamp(min=LEAST_POSITION_SPREAD)
    return torch.where(found < LEAST_SPREAD, torch.inf, wide + LEAST_SPREAD)


def _loss(
    logits: Float[Tensor, "p k"],
    wanted: Float[Tensor, "p k"],
    weight: Float[Tensor, "p k"],
    raised: tuple[Float[Tensor, " k"], Float[Tensor, " k"]],
) -> Tensor:
    """Cross-entropy, in which what is inside and outside of a label is raised by so much, and soft Dice."""
    probability = logits.sigmoid()
    overlap, total = (weight * probability * wanted).sum(0), (weight * (probability + wanted)).sum(0)
    balanced = weight * torch.where(wanted > 0, *raised)
    entropy = (balanced * binary_cross_entropy_with_logits(logits, wanted, reduction="none")).mean(0)
    return (entropy + 1 - (2 * overlap + SMOOTHING) / (total + SMOOTHING)).sum()


def _parts(
    maps: Sequence[Tensor], pictures: Float[Tensor, "b 3 h w"], positions: Sequence[float | None]
) -> list[Tensor]:
    """All features, each at its own resolution."""
    grey = avg_pool2d(pictures, STRIDE)
    around = [avg_pool2d(grey, window, 1, window // 2, count_include_pad=False) for window in WINDOWS]
    batch, _, height, width = grey.shape
    rows = ((torch.arange(height) + 0.5) / height * 2 - 1)[:, None].expand(batch, 1, height, width)
    columns = ((torch.arange(width) + 0.5) / width * 2 - 1).expand(batch, 1, height, width)
    along = torch.tensor([[0.0, 0.0] if at is None else [2 * at - 1, 1.0] for at in positions])
    along = along[:, :, None, None].expand(-1, -1, height, width)
    place = torch.cat([rows, columns, along], dim=1).to(grey)
    return [*(each.to(grey) for each in maps[:LEVELS]), 4 * grey, *(4 * each for each in around), place]


def _enlarged(x: Tensor, pictures: Tensor) -> Tensor:
    size = [length // STRIDE for length in pictures.shape[2:]]
    return x if list(x.shape[2:]) == size else interpolate(x, size=size, mode="bilinear", align_corners=False)
