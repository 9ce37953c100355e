"""Random changes of appearance and place for a batch of grey images, each image with strengths of its own."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, interpolate, pad

SMALL = 1e-6


def uniform(low: float, high: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Uniform random numbers in [low, high), on the generator's device."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def chosen(probability: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """True with the given probability."""
    return torch.rand(shape, generator=generator, device=generator.device) < probability


def smooth_noise(
    count: int, channels: int, size: int, cells: int, generator: Generator
) -> Float[Tensor, "{count} {channels} {size} {size}"]:
    """Gaussian noise of unit variance at the knots of a `cells` x `cells` grid, bicubic in between."""
    return enlarged(torch.randn(count, channels, cells, cells, generator=generator, device=generator.device), size)


def enlarged(knots: Float[Tensor, "n c k k"], size: int) -> Float[Tensor, "n c {size} {size}"]:
    """Bicubic interpolation between knots, the outermost at the centres of the outermost pixels."""
    spread = _bicubic(size, knots.shape[-1], knots.device)
    return spread @ knots @ spread.T


@lru_cache
def _bicubic(size: int, cells: int, device: torch.device) -> Float[Tensor, "{size} {cells}"]:
    # Bicubic interpolation is separable: as two matrix products it takes a tenth of the time of `interpolate`.
    knots = torch.eye(cells)[:, None, :, None].expand(-1, -1, -1, 2)
    return interpolate(knots, size=(size, 2), mode="bicubic", align_corners=True)[:, 0, :, 0].T.contiguous().to(device)


def blurred(images: Float[Tensor, "n h w"], sigma_px: Float[Tensor, " n"], radius: int = 4) -> Float[Tensor, "n h w"]:
    """Gaussian blur, every image with its own sigma in pixels (0 leaves it alone)."""
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * sigma_px[:, None] ** 2 + SMALL))
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    stack = pad(images[None], (radius,) * 4, mode="replicate")
    stack = conv2d(stack, kernel[:, None, None, :], groups=len(images))
    return conv2d(stack, kernel[:, None, :, None], groups=len(images))[0]


def stretched(images: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Every image stretched linearly to [0, 1]; a constant image becomes 0."""
    low = images.amin(dim=(1, 2), keepdim=True)
    span = images.amax(dim=(1, 2), keepdim=True) - low
    return torch.where(span > SMALL, (images - low) / span.clamp(min=SMALL), torch.zeros_like(images))


SHIFTS = ("contrast", "field", "resolution", "noise")


def another_scanner(
    images: Float[Tensor, "n h w"], strength: float, generator: Generator, shifts: Sequence[str] = SHIFTS
) -> Float[Tensor, "n h w"]:
    """All slices of one volume, in [0, 1], as one other scanner would show them; what comes may lie outside.

    Unlike `scanner_shift` there is one draw for all images. At strength 1: "contrast" a gamma of 1.5 to 2 or the
    inverse, and up to a third less contrast; "field" a bias field of 40 % at its knots; "resolution" pixels of three
    times the width; "noise" of 10 % of the grey range.
    """
    height, width = images.shape[1:]
    for shift in shifts:
        if shift == "contrast":
            gamma = 2 * chosen(0.5, (), generator).float() - 1
            images = images.clamp(min=SMALL) ** torch.exp(gamma * strength * uniform(0.4, 0.7, (), generator))
            images = (images - 0.5) * torch.exp(-strength * uniform(0.0, 0.4, (), generator)) + 0.5
            images = images + strength * uniform(-0.1, 0.1, (), generator)
        elif shift == "field":
            light = smooth_noise(1, 1, max(height, width), 3, generator)[:, 0, :height, :width]
            images = images * torch.exp(0.4 * strength * light)
        elif shift == "resolution":
            coarse = [max(1, round(length / (1 + 2 * strength))) for length in (height, width)]
            images = interpolate(images[None], size=coarse, mode="bilinear", antialias=True)
            images = interpolate(images, size=(height, width), mode="bilinear")[0]
        else:
            images = images + 0.1 * strength * torch.randn(images.shape, generator=generator)
    return images


def scanner_shift(
    images: Float[Tensor, "n h w"], strength: Float[Tensor, " n"], generator: Generator
) -> Float[Tensor, "n h w"]:
    """Contrast, brightness, gamma, bias field, noise and blur as another scanner would have them, clipped to [0, 1].

    `strength` in [0, 1] scales all of it; the published in-task augmentation corresponds to about 1
    (UniverSeg, supplement: brightness +-.1, contrast .5-1.5, blur sigma .1-1.1, noise std 0-.05).
    """
    count, size = len(images), images.shape[-1]
    amount = strength[:, None, None]

    def random(low: float, high: float) -> Tensor:
        return amount * uniform(low, high, (count, 1, 1), generator)

    images = images.clamp(min=SMALL) ** torch.exp(random(-0.6, 0.6))
    images = (images - 0.5) * torch.exp(random(-0.5, 0.4)) + 0.5 + random(-0.1, 0.1)
    images = images * torch.exp(random(0.0, 0.35) * smooth_noise(count, 1, size, 4, generator)[:, 0])
    images = blurred(images, strength * uniform(0.0, 1.1, (count,), generator))
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return (images + random(0.0, 0.06) * noise).clamp(0, 1)


def moved(
    images: Float[Tensor, "n c h w"], masks: Float[Tensor, "n k h w"], strength: float, generator: Generator
) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n k h w"]]:
    """Images and their masks turned, scaled, shifted and bent together, every pair in its own way.

    At strength 1 up to 0.15 rad, 10 %, 3 % of the width, and about 1 % of it bent; masks stay 0 or 1, nothing lies
    beyond their borders. It is mild on purpose: the examples are to stay the user's own.
    """
    count, size = len(images), images.shape[-1]

    def random(limit: float, *shape: int) -> Tensor:
        return strength * uniform(-limit, limit, (count, *shape), generator)

    angle, zoom = random(0.15), 1 + random(0.1)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(count, 2, 2)
    placing = torch.cat([zoom[:, None, None] * turn, random(0.06, 2, 1)], dim=2)
    grid = affine_grid(placing, list(images.shape), align_corners=False)
    grid = grid + 0.02 * strength * smooth_noise(count, 2, size, 6, generator).permute(0, 2, 3, 1)
    return (
        grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False),
        grid_sample(masks, grid, mode="nearest", padding_mode="zeros", align_corners=False),
    )
