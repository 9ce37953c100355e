"""Losses between logits and masks."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def soft_dice_loss(logits: Float[Tensor, "b 1 h w"], masks: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """One minus the soft Dice of every image, averaged over the images (Milletari et al. 2016, with plain sums below).

    One pixel is added above and below, so that an empty mask asks for an empty answer with a finite gradient.
    """
    probability = torch.sigmoid(logits)
    overlap = (probability * masks).sum(dim=(1, 2, 3))
    total = probability.sum(dim=(1, 2, 3)) + masks.sum(dim=(1, 2, 3))
    return (1 - (2 * overlap + 1) / (total + 1)).mean()


def dice_and_cross_entropy(logits: Float[Tensor, "b 1 h w"], masks: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """Soft Dice plus half the binary cross-entropy: the one sees the object, the other every pixel."""
    return soft_dice_loss(logits, masks) + 0.5 * binary_cross_entropy_with_logits(logits, masks)
