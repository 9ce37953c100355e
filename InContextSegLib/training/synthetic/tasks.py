"""Synthetic in-context tasks: images of one invented kind of scene, and masks of one thing in them.

Which thing is wanted is drawn from what the scene holds: what looks like it elsewhere is not wanted, so that place and
surroundings must be read from the examples. No patient data takes part.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from InContextSegLib.training.augment import chosen, uniform
from InContextSegLib.training.synthetic.appearance import draw_images
from InContextSegLib.training.synthetic.scenes import (
    CELL,
    FIRST_OBJECT,
    LABELS,
    NUCLEUS,
    OBJECTS,
    OTHER_CELL,
    OUTSIDE,
    VESSEL,
    WALL,
    Layout,
    Scene,
)

LEAST_AREA = 0.0015
LEAST_CONTAINER = 0.04
# How often a kind is the target where the scene holds it; the kinds of thin and small things are hard and come often.
TARGET_WEIGHTS = (
    (range(0, FIRST_OBJECT), 0.35),
    (range(FIRST_OBJECT, VESSEL), 1.8),
    ((VESSEL,), 5.0),
    ((WALL,), 1.0),
    ((CELL, OTHER_CELL), 3.0),
    ((NUCLEUS,), 3.0),
    ((OUTSIDE,), 0.1),
)


@dataclass(frozen=True, eq=False)
class TaskBatch:
    """`t` tasks of `n` images each; masks are 0 or 1."""

    images: Float[Tensor, "t n 1 h w"]
    masks: Float[Tensor, "t n 1 h w"]


def synthetic_tasks(tasks: int, images: int, size: int, generator: Generator) -> TaskBatch:
    """Draw a batch of tasks on the generator's device; the same generator state gives the same batch.

    Args:
        tasks, images, size: how many tasks, images per task, and pixels per side.
    """
    scene = Scene(tasks, images, size, generator)
    layout = scene.layout()
    pictures = draw_images(layout, scene, generator)
    masks = wanted_masks(layout, tasks, generator)
    pictures, masks = _letterboxed(pictures, masks, generator)
    shape = (tasks, images, 1, size, size)
    return TaskBatch(pictures.reshape(shape), masks.reshape(shape))


def wanted_masks(layout: Layout, tasks: int, generator: Generator) -> Float[Tensor, "n h w"]:
    """Masks of one wanted label per task; now and then of two, of what lies inside one object, of everything else."""
    labels = layout.labels.reshape(tasks, -1, *layout.labels.shape[1:])
    solids = layout.solids.reshape(tasks, -1, *layout.solids.shape[1:])
    area = torch.stack([(labels == value).float().mean(dim=(2, 3)) for value in range(LABELS)], dim=2)
    usual = (area > LEAST_AREA).float().mean(dim=1) > 0.6
    weight = _target_weights(labels.device) * (usual & (area.mean(dim=1) < 0.7)).float() + 1e-6
    first, second = torch.multinomial(weight, 2, generator=generator).unbind(1)
    both = chosen(0.12, (tasks,), generator)
    both |= chosen(0.6, (tasks,), generator) & (first == CELL) & usual[:, NUCLEUS]
    second = torch.where(first == CELL, NUCLEUS, second)
    both, second = _with_twin(layout.twins, first, second, both, generator)
    wanted = _covered_by(first, labels, solids, chosen(0.6, (tasks,), generator))
    wanted |= _covered_by(second, labels, solids, both) & both[:, None, None, None]
    wanted = _inside_one(wanted, first, solids, generator)
    wanted ^= chosen(0.03, (tasks, 1, 1, 1), generator)
    return wanted.flatten(0, 1).float()


def _target_weights(device: torch.device) -> Float[Tensor, " labels"]:
    weight = torch.zeros(LABELS, device=device)
    for values, often in TARGET_WEIGHTS:
        weight[list(values)] = often
    return weight


def _with_twin(
    twins: Bool[Tensor, "t objects"], first: Tensor, second: Tensor, both: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Sometimes the wanted object's twin is wanted too (both kidneys), more often not (the left one)."""
    number = (first - FIRST_OBJECT).clamp(0, OBJECTS - 1)
    is_twin = twins.gather(1, number[:, None])[:, 0] & (first >= FIRST_OBJECT) & (first < VESSEL)
    pair = is_twin & chosen(0.4, first.shape, generator)
    return (both & ~is_twin) | pair, torch.where(pair, first - 1, second)


def _covered_by(
    label: Int[Tensor, " t"], labels: Tensor, solids: Tensor, whole: Bool[Tensor, " t"]
) -> Bool[Tensor, "t n h w"]:
    """What is seen of a label; of an object, where `whole`, also what lies on it: a liver has its vessels."""
    seen = labels == label[:, None, None, None]
    is_object = (label >= FIRST_OBJECT) & (label < VESSEL)
    number = (label - FIRST_OBJECT).clamp(0, OBJECTS - 1)
    solid = solids[torch.arange(len(solids), device=solids.device), :, number]
    return torch.where((is_object & whole)[:, None, None, None], solid, seen)


def _inside_one(wanted: Tensor, label: Tensor, solids: Tensor, generator: Generator) -> Tensor:
    """Of some tasks of vessels or cells, only those inside one large object: the vessels of the liver."""
    small = (label >= VESSEL) & (label <= NUCLEUS)
    within = (wanted[:, :, None] & solids).float().mean(dim=(1, 3, 4))
    roomy = (solids.float().mean(dim=(1, 3, 4)) > LEAST_CONTAINER) & (within > LEAST_AREA)
    container = (roomy.float() * uniform(0.5, 1.0, roomy.shape, generator)).argmax(dim=1)
    only = small & roomy.any(dim=1) & chosen(0.4, label.shape, generator)
    inside = solids[torch.arange(len(solids), device=solids.device), :, container]
    return torch.where(only[:, None, None, None], wanted & inside, wanted)


def _letterboxed(images: Tensor, masks: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Black bars at two opposite sides of some images, as images that are not square get them."""
    count, size = len(images), images.shape[-1]
    bar = chosen(0.15, (count,), generator) * uniform(0.0, 0.25, (count,), generator) * size
    position = torch.arange(size, device=images.device)
    inside = (position >= bar[:, None]) & (position < size - bar[:, None])
    wide = chosen(0.5, (count,), generator)[:, None, None]
    inside = torch.where(wide, inside[:, :, None], inside[:, None, :])
    return images * inside, masks * inside
