"""A head in closed form: weighted ridge regression from the embedding of a pixel to the label of the examples.

What the regression needs of the examples are second moments of their pixels' embeddings, those of the label and those
of everything else apart. Moments add: a thousand examples cost what one costs, an example joins by an addition and
leaves by a subtraction, and weights that balance the two classes are chosen when the regression is solved. (Few-shot
learning with a differentiable closed-form solver: Bertinetto et al., ICLR 2019.)
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from InContextSegLib.models.precision import full_precision

# Pixels of a label weigh at most so many times what they would in a plain regression.
MOST_BALANCE = 30.0
LEAST = 1e-6


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums of x xᵀ over pixels, x being an embedding with a 1 behind it: of the label's pixels, and of all others."""

    inside: Float[Tensor, "g d d"]
    outside: Float[Tensor, "g d d"]

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.inside + other.inside, self.outside + other.outside)

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments(self.inside - other.inside, self.outside - other.outside)

    @property
    def size_bytes(self) -> int:
        return 2 * self.inside.numel() * self.inside.element_size()


@full_precision
def moments(embedding: Float[Tensor, "g s d h w"], masks: Float[Tensor, "g s 1 h w"]) -> Moments:
    """Moments of labelled pictures; a mask may say 0.3 where a pixel is partly inside."""
    x = _with_one(embedding)
    weight = masks.float().flatten(3).permute(0, 1, 3, 2).flatten(1, 2)
    inside = (x * weight).transpose(1, 2) @ x
    return Moments(inside, x.transpose(1, 2) @ x - inside)


@full_precision
def click_moments(
    embedding: Float[Tensor, "b d h w"], inside: Float[Tensor, "b 1 h w"], outside: Float[Tensor, "b 1 h w"]
) -> Moments:
    """Moments of pixels of a picture that a user called inside or outside."""
    x = _with_one(embedding[:, None])
    weights = (each.float().flatten(2).transpose(1, 2) for each in (inside, outside))
    return Moments(*((x * weight).transpose(1, 2) @ x for weight in weights))


@full_precision
def solved(found: Moments, strength: Tensor) -> Float[Tensor, "g d"]:
    """Coefficients that take an embedding with a 1 behind it to +1 inside and -1 outside.

    Args:
        strength: of the ridge, more than 0.
    """
    inside_count, outside_count = found.inside[:, -1, -1], found.outside[:, -1, -1]
    share = inside_count / (inside_count + outside_count).clamp(min=LEAST)
    # Half the weight for each class, unless the label is very small.
    half = (MOST_BALANCE * share).clamp(max=0.5)
    half = torch.where(outside_count > 0, half, torch.ones_like(half))
    inside = (half / inside_count.clamp(min=LEAST))[:, None, None] * found.inside
    outside = ((1 - half) / outside_count.clamp(min=LEAST))[:, None, None] * found.outside
    ridge = strength.float() * torch.eye(inside.shape[-1], device=inside.device)
    return torch.linalg.solve(inside + outside + ridge, inside[:, :, -1] - outside[:, :, -1])


@full_precision
def applied(coefficients: Float[Tensor, "g d"], embedding: Float[Tensor, "b e h w"]) -> Float[Tensor, "b 1 h w"]:
    """The regression's values for every pixel; `g` is 1 or `b`."""
    weights, constant = coefficients[:, :-1], coefficients[:, -1]
    values = (weights[:, None] @ embedding.float().flatten(2)).unflatten(2, embedding.shape[2:])
    return values + constant[:, None, None, None]


def _with_one(embedding: Float[Tensor, "g s d h w"]) -> Float[Tensor, "g p e"]:
    pixels = embedding.float().flatten(3).permute(0, 1, 3, 2).flatten(1, 2)
    return torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=2)
