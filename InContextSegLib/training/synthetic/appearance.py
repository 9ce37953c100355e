"""The looks of invented scenes: grey values and textures per label, then the faults of optics, scanner and scale."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d, pad

from InContextSegLib.training.augment import blurred, chosen, scanner_shift, smooth_noise, stretched, uniform
from InContextSegLib.training.synthetic.scenes import FIRST_OBJECT, LABELS, OBJECTS, OUTSIDE, Layout, Scene

TEXTURES = 3  # fine, coarse, blotchy
STREAK_PX = 7


def draw_images(layout: Layout, scene: Scene, generator: Generator) -> Float[Tensor, "n h w"]:
    """Images in [0, 1] of what lies where; those of one task look alike up to the shift of a scanner."""
    labels = layout.labels
    means, roughness = _label_looks(layout, scene, generator)

    def of_label(values: Tensor) -> Tensor:
        return values.gather(1, labels.flatten(1)).reshape(labels.shape)

    images = of_label(means)
    for texture, rough in zip(_textures(scene, generator), roughness.unbind(-1), strict=True):
        images = images + of_label(rough) * texture
    # The faults below are measured against the contrast that there is.
    images = 0.5 + 0.25 * (images - images.mean(dim=(1, 2), keepdim=True)) / _deviation(images)
    images = _lit(images, labels, scene, generator)
    optics = scene.per_image(_of_tasks(0.1, 1.2, scene, generator)) * scene.size / 96
    images = blurred(images, optics)
    images = _speckled(images, scene, generator)
    noisy = _amount(0.0, 0.15, scene, generator) * _amount(0.0, 1.0, scene, generator) ** 2
    images = stretched(images) + noisy * _white(images, generator)
    images = images.clamp(0, 1)
    images = torch.where(scene.in_task(0.5), 1 - images, images)
    # Microscopes and tomographs leave most of a picture dark or most of it bright.
    skew = torch.exp(0.35 * torch.randn(scene.tasks, generator=generator, device=images.device))
    images = images.clamp(min=1e-4) ** scene.per_image(skew)[:, None, None]
    strength = scene.per_image(_of_tasks(0.0, 1.0, scene, generator)) * uniform(0.0, 1.0, (len(images),), generator)
    return scanner_shift(_percentile_stretched(images), strength, generator)


def _label_looks(
    layout: Layout, scene: Scene, generator: Generator
) -> tuple[Float[Tensor, "n labels"], Float[Tensor, "n labels textures"]]:
    """Mean grey value of every label in every image, and how strong each texture is in it."""
    tasks, count, device = scene.tasks, len(layout.labels), layout.labels.device

    def share(probability: float) -> Tensor:
        return chosen(probability, (tasks, 1), generator)

    means = uniform(0.0, 1.0, (tasks, LABELS), generator)
    means = torch.where(share(0.25), (means * 4).round() / 4, means)  # of one brightness: told apart by place and shape
    ground = uniform(0.0, 1.0, (tasks, 1), generator)
    contrast = torch.where(share(0.3), torch.exp(uniform(-1.5, 0.0, (tasks, 1), generator)), 1.0)
    means = ground + contrast * (means - ground)
    by_texture = share(0.08)
    means = torch.where(by_texture, ground + 0.08 * (means - 0.5), means)
    rough = contrast * uniform(0.0, 0.22, (tasks, LABELS), generator) * uniform(0.0, 1.0, (tasks, 1), generator) ** 2
    rough = torch.where(by_texture, uniform(0.0, 0.4, (tasks, LABELS), generator), rough)
    mixture = uniform(0.0, 1.0, (tasks, LABELS, TEXTURES), generator) ** 3
    rough = rough[..., None] * mixture / mixture.sum(-1, keepdim=True).clamp(min=1e-3)
    for n in range(1, OBJECTS):
        twin, here = layout.twins[:, n, None], FIRST_OBJECT + n
        means[:, here] = torch.where(twin[:, 0], means[:, here - 1], means[:, here])
        rough[:, here] = torch.where(twin, rough[:, here - 1], rough[:, here])
    dark = chosen(0.8, (tasks,), generator)
    means[:, OUTSIDE] = torch.where(dark, 0.0, means[:, OUTSIDE])
    rough[:, OUTSIDE] = torch.where(dark[:, None], 0.0, rough[:, OUTSIDE])
    spread = contrast * uniform(0.0, 0.08, (tasks, 1), generator)
    jitter = scene.per_image(spread) * torch.randn(count, LABELS, generator=generator, device=device)
    return scene.per_image(means) + jitter, scene.per_image(rough)


def _textures(scene: Scene, generator: Generator) -> list[Float[Tensor, "n h w"]]:
    """Fields of unit variance: fine grain, coarse grain, blotches; some in streaks, some of two values."""
    count, size = scene.tasks * scene.images, scene.size
    fine = torch.randn(count, size, size, generator=generator, device=generator.device)
    fine = blurred(fine, scene.per_image(_of_tasks(0.0, 1.0, scene, generator)))
    coarse = smooth_noise(count, 1, size, max(12, size // 4), generator)[:, 0]
    blotchy = smooth_noise(count, 1, size, max(8, size // 9), generator)[:, 0]
    fields = []
    for grain in (fine, coarse, blotchy):
        field = torch.where(scene.in_task(0.15), _streaked(grain, (1, STREAK_PX)), grain)
        field = torch.where(scene.in_task(0.1), _streaked(field, (STREAK_PX, 1)), field)
        field = torch.where(scene.in_task(0.2), torch.tanh(4 * field / _deviation(field)), field)
        fields.append(field / _deviation(field))
    return fields


def _lit(images: Tensor, labels: Tensor, scene: Scene, generator: Generator) -> Tensor:
    """Uneven light, and the echoes and attenuation of ultrasound, in some tasks."""
    count, size = len(images), scene.size
    amount = torch.where(scene.in_task(0.25), _amount(0.05, 0.35, scene, generator), 0.0)
    images = images + amount * (smooth_noise(count, 2, size, 4, generator) * 0.5).sum(1)
    echoing = scene.in_task(0.12)
    values = labels.float()
    change = (values - pad(values, (0, 0, 1, 0), mode="replicate")[:, :-1]) != 0
    echo = avg_pool2d(change.float()[:, None], (3, 5), 1, (1, 2))[:, 0]
    echo = echo * (1 + smooth_noise(count, 1, size, 9, generator)[:, 0]).clamp(min=0)
    depth = torch.linspace(0, 1, size, device=images.device)[None, :, None]
    fading = torch.exp(-_amount(0.0, 2.5, scene, generator) * depth)
    return torch.where(echoing, (images + _amount(0.3, 1.5, scene, generator) * echo) * fading, images)


def _speckled(images: Tensor, scene: Scene, generator: Generator) -> Tensor:
    """Multiplicative noise of a few pixels' width, wider across the beam."""
    strength = torch.where(scene.in_task(0.12), _amount(0.1, 0.5, scene, generator), 0.0)
    speckle = blurred(_white(images, generator), scene.per_image(_of_tasks(0.4, 1.1, scene, generator)))
    speckle = torch.where(scene.in_task(0.5), _streaked(speckle, (1, 3)), speckle)
    return images * torch.exp(strength * speckle / _deviation(speckle))


def _percentile_stretched(images: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """As real images are prepared: percentiles 0.5 and 99.5 become 0 and 1."""
    # Every fourth pixel tells the percentiles nearly as well, in a quarter of the time.
    sample = rearrange(images[:, ::2, ::2], "n h w -> n (h w)")
    ends = torch.quantile(sample, torch.tensor([0.005, 0.995], device=images.device), dim=1)
    low, high = ends[0, :, None, None], ends[1, :, None, None]
    return ((images - low) / (high - low).clamp(min=1e-3)).clamp(0, 1)


def _streaked(field: Float[Tensor, "n h w"], window_px: tuple[int, int]) -> Float[Tensor, "n h w"]:
    padding = (window_px[0] // 2, window_px[1] // 2)
    return avg_pool2d(field[:, None], window_px, 1, padding, count_include_pad=False)[:, 0]


def _deviation(field: Float[Tensor, "n h w"]) -> Float[Tensor, "n 1 1"]:
    return field.std(dim=(1, 2), keepdim=True).clamp(min=1e-4)


def _white(images: Tensor, generator: Generator) -> Tensor:
    return torch.randn(images.shape, generator=generator, device=images.device)


def _of_tasks(low: float, high: float, scene: Scene, generator: Generator) -> Float[Tensor, " tasks"]:
    return uniform(low, high, (scene.tasks,), generator)


def _amount(low: float, high: float, scene: Scene, generator: Generator) -> Float[Tensor, "n 1 1"]:
    return scene.per_image(_of_tasks(low, high, scene, generator))[:, None, None]
