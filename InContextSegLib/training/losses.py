"""Losses between logits and masks, and their names in a recipe."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits

BORDER_WINDOW, BORDER_WEIGHT = 31, 5  # of the structure loss
FOCUS = 2


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


def focal_and_dice(logits: Float[Tensor, "b 1 h w"], masks: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """Focal loss plus soft Dice, weights 1 and 1 (GMISeg, arXiv 2311.12539).

    The focal loss (Lin et al., ICCV 2017) is the cross-entropy of a pixel times the square of what its answer lacks to
    the truth; without a weight for the classes, which Dice balances.
    """
    entropy = binary_cross_entropy_with_logits(logits, masks, reduction="none")
    lacking = (masks - torch.sigmoid(logits)).abs()
    return (lacking**FOCUS * entropy).mean() + soft_dice_loss(logits, masks)


def structure_loss(logits: Float[Tensor, "b 1 h w"], masks: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """Cross-entropy plus one minus soft IoU of every image, both weighted towards borders, averaged over the images.

    A pixel weighs 1, and up to 5 more the further its mask is from the mean of the 31 x 31 pixels round it (SR-ICL,
    after F3Net, Wei et al., AAAI 2020). Pixels beyond the image do not count in that mean: its rim is no border. One
    pixel is added above and below the IoU, as in Dice.
    """
    # Two averages along one direction each are the average of the square, in a fraction of its time.
    sizes = ((BORDER_WINDOW, 1), (BORDER_WINDOW // 2, 0)), ((1, BORDER_WINDOW), (0, BORDER_WINDOW // 2))
    around = masks
    for window, padding in sizes:
        around = avg_pool2d(around, window, stride=1, padding=padding, count_include_pad=False)
    weights = 1 + BORDER_WEIGHT * (around - masks).abs()

    def weighted(values: Tensor) -> Float[Tensor, " b"]:
        return (weights * values).sum(dim=(1, 2, 3))

    entropy = binary_cross_entropy_with_logits(logits, masks, reduction="none")
    probability = torch.sigmoid(logits)
    overlap, total = weighted(probability * masks), weighted(probability + masks)
    iou = (overlap + 1) / (total - overlap + 1)
    return (weighted(entropy) / weights.sum(dim=(1, 2, 3)) + 1 - iou).mean()


def sricl_loss(maps: Float[Tensor, "b 2 2 h w"], masks: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """Structure loss and soft Dice of the foreground and of the background, of the final maps and of the prior, summed.

    Args:
        maps: of `SRICL.forward`.
    """
    total = torch.zeros((), device=maps.device)
    for answer in maps.unbind(dim=1):
        for logits, wanted in zip(answer.split(1, dim=1), (masks, 1 - masks), strict=True):
            total = total + structure_loss(logits, wanted) + soft_dice_loss(logits, wanted)
    return total


# By the names that recipes use. Each takes what the forward call of a network gives, and masks (b, 1, h, w).
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dice": soft_dice_loss,
    "dice-cross-entropy": dice_and_cross_entropy,
    "focal-dice": focal_and_dice,
    "structure": structure_loss,
    "sricl": sricl_loss,
}
