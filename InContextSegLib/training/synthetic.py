"""Synthetic in-context tasks: images of one invented kind of scene, and masks of one thing in them.

A task is a scene that several images show in variations, like patients of one study: regions of smooth noise
(SynthMorph's "shapes"; UniverSeg, section 4.3), organ-like objects, vessels, walls, cells. Which thing is wanted is
drawn from what the scene holds; how it looks is drawn per task, and varied per image. No patient data takes part.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, max_pool2d

from InContextSegLib.augment import blurred, chosen, enlarged, scanner_shift, smooth_noise, stretched, uniform

REGIONS = 8  # labels made of smooth noise
OBJECTS = 6  # ellipse-like labels
# One number per kind of label, in the order in which later kinds cover earlier ones.
FIRST_OBJECT = REGIONS
VESSEL = FIRST_OBJECT + OBJECTS
WALL = VESSEL + 1
CELL = WALL + 1
NUCLEUS = CELL + 1
OUTSIDE = NUCLEUS + 1
LABELS = OUTSIDE + 1

GRID_CELLS = (3, 4, 6, 9, 14)
LEAST_AREA = 0.002
# How often a kind is the target where the scene holds it; the kinds of thin and small things are hard and come often.
TARGET_WEIGHTS = {"region": 0.5, "object": 1.6, "vessel": 4.0, "wall": 1.5, "cell": 3.0, "nucleus": 3.0}


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
    scene = _Scene(tasks, images, size, generator)
    labels = scene.label_maps()
    pictures = _appearance(labels, scene, generator)
    masks = _targets(labels, tasks, generator)
    pictures, masks = _letterboxed(pictures, masks, generator)
    shape = (tasks, images, 1, size, size)
    return TaskBatch(pictures.reshape(shape), masks.reshape(shape))


class _Scene:
    """Random numbers of a batch of tasks, and the geometry they describe. Images of a task are consecutive."""

    def __init__(self, tasks: int, images: int, size: int, generator: Generator):
        self.tasks, self.images, self.size, self.generator = tasks, images, size, generator
        # Anatomy is one template with variations; in a smear of cells every image is arranged anew.
        self.anew = chosen(0.3, (tasks,), generator)
        self.variation = torch.where(self.anew, 1.0, uniform(0.0, 0.35, (tasks,), generator))
        self.grid = self._warped_grid()
        self.body = torch.zeros(())

    def label_maps(self) -> Int[Tensor, "n h w"]:
        """Label of every pixel, later kinds covering earlier ones."""
        labels = self._regions()
        labels = self._objects(labels)
        labels = self._walls(labels)
        labels = self._vessels(labels)
        labels = self._cells(labels)
        return self._body(labels)

    def per_image(self, of_task: Tensor) -> Tensor:
        return of_task.repeat_interleave(self.images, dim=0)

    def _random(self, low: float, high: float, *shape: int) -> Tensor:
        return uniform(low, high, shape, self.generator)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.generator.device)

    def _warped_grid(self) -> Float[Tensor, "n h w 2"]:
        """Where each pixel of each image lies in its task's template, in [-1, 1]: affine, and smooth at two scales."""
        count, size = self.tasks * self.images, self.size
        loose = self.per_image(self._random(0.0, 1.0, self.tasks))
        turn = self.per_image(
            torch.where(chosen(0.25, (self.tasks,), self.generator), torch.pi, self._random(0.0, 0.4, self.tasks))
        )
        angle = turn * self._random(-1.0, 1.0, count)
        scale = torch.exp(0.15 * loose * self._normal(count))
        shift = 0.15 * loose[:, None] * self._normal(count, 2)
        cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
        matrix = torch.stack([torch.stack([cos, -sin, shift[:, 0]], -1), torch.stack([sin, cos, shift[:, 1]], -1)], 1)
        grid = affine_grid(matrix, [count, 1, size, size], align_corners=False)
        for cells, strength in ((4, 0.12), (9, 0.05)):
            amount = strength * loose[:, None, None, None]
            grid = grid + amount * smooth_noise(count, 2, size, cells, self.generator).movedim(1, -1)
        return grid

    def _fields(self, channels: int, scale: Tensor | None = None) -> Float[Tensor, "n channels h w"]:
        """Noise that the images of a task share up to their variation; one mixture of spatial scales per task."""
        scale = self._random(0.0, len(GRID_CELLS) - 1.0, self.tasks) if scale is None else scale
        steps = torch.arange(len(GRID_CELLS), device=self.generator.device)
        weights = torch.exp(-1.5 * (steps - scale[:, None]).abs())
        weights = weights / weights.norm(dim=1, keepdim=True)

        def mixture(count: int, weights: Tensor) -> Tensor:
            knots = 2 * GRID_CELLS[-1]
            parts = [smooth_noise(count, channels, knots, cells, self.generator) for cells in GRID_CELLS]
            mixed = sum(part * weight[:, None, None, None] for part, weight in zip(parts, weights.T, strict=True))
            return enlarged(mixed, self.size)

        template = self.per_image(mixture(self.tasks, weights))
        template = grid_sample(template, self.grid, padding_mode="reflection", align_corners=False)
        own = mixture(self.tasks * self.images, self.per_image(weights))
        share = self.per_image(self.variation)[:, None, None, None]
        return (1 - share**2).sqrt() * template + share * own

    def _regions(self) -> Tensor:
        scores = self._fields(REGIONS)
        active = torch.arange(REGIONS, device=scores.device) < self._random(1.0, REGIONS + 1.0, self.tasks)[:, None]
        scores = scores.masked_fill(~self.per_image(active)[:, :, None, None], -torch.inf)
        return scores.argmax(dim=1)

    def _objects(self, labels: Tensor) -> Tensor:
        """Wobbly ellipses at places of their own, some nested in one another, some missing in an image."""
        tasks, count = self.tasks, len(labels)
        centre = self._random(-0.6, 0.6, tasks, OBJECTS, 2)
        radius = torch.exp(self._random(-2.9, -0.55, tasks, OBJECTS, 1) + self._random(-0.4, 0.4, tasks, OBJECTS, 2))
        nested = chosen(0.4, (tasks, OBJECTS), self.generator)
        nested[:, 0] = False
        for n in range(1, OBJECTS):
            inside = nested[:, n, None]
            centre[:, n] = torch.where(
                inside, centre[:, n - 1] + 0.3 * radius[:, n - 1] * self._normal(tasks, 2), centre[:, n]
            )
            radius[:, n] = torch.where(inside, radius[:, n - 1] * self._random(0.3, 0.8, tasks, 1), radius[:, n])
        number = torch.arange(OBJECTS, device=labels.device)
        present = number < self._random(-1.5, OBJECTS + 1.0, tasks)[:, None]
        present = self.per_image(present) & ~chosen(0.06, (count, OBJECTS), self.generator)
        # Scenes arranged anew keep what belongs together together: one shift for all, a little for each.
        anew = self.per_image(self.anew)[:, None, None]
        centre = self.per_image(centre) + torch.where(anew, 0.3, 0.0) * self._normal(count, 1, 2)
        radius = self.per_image(radius)
        centre = centre + 0.25 * self.per_image(self._random(0.0, 1.0, tasks))[:, None, None] * radius * self._normal(
            count, OBJECTS, 2
        )
        radius = radius * torch.exp(0.15 * self._normal(count, OBJECTS, 2))
        angle = self.per_image(self._random(0.0, torch.pi, tasks, OBJECTS)) + 0.2 * self._normal(count, OBJECTS)
        wobble = self.per_image(self._random(0.0, 0.35, tasks))
        fields = smooth_noise(count, OBJECTS, self.size, 9, self.generator)
        for n in range(OBJECTS):
            offset = self.grid - centre[:, None, None, n]
            cos, sin = torch.cos(angle[:, n])[:, None, None], torch.sin(angle[:, n])[:, None, None]
            along = (offset[..., 0] * cos + offset[..., 1] * sin) / radius[:, n, 0, None, None]
            across = (offset[..., 1] * cos - offset[..., 0] * sin) / radius[:, n, 1, None, None]
            inside = (along**2 + across**2).sqrt() + wobble[:, None, None] * fields[:, n] < 1
            labels = torch.where(inside & present[:, n, None, None], FIRST_OBJECT + n, labels)
        return labels

    def _walls(self, labels: Tensor) -> Tensor:
        """Membranes: the borders between the labels drawn so far."""
        values = labels[:, None].float()
        border = (max_pool2d(values, 3, 1, 1) + max_pool2d(-values, 3, 1, 1))[:, 0] != 0
        return torch.where(border & self._in_task(0.12), WALL, labels)

    def _vessels(self, labels: Tensor) -> Tensor:
        """Curves of varying calibre, where smooth noise crosses zero: thick ones from coarse noise, thin from fine."""
        trees = torch.zeros_like(labels, dtype=torch.bool)
        for low, high, thickest in ((0.0, 1.5, 0.035), (2.0, 4.0, 0.018)):
            field = self._fields(2, self._random(low, high, self.tasks))
            slope_y, slope_x = torch.gradient(field[:, 0], dim=(1, 2))
            distance_px = field[:, 0].abs() / (slope_y**2 + slope_x**2).sqrt().clamp(min=1e-4)
            calibre_px = self.per_image(self._random(0.004, thickest, self.tasks))[:, None, None] * self.size
            # The second channel thins the curve out until it ends.
            trees |= distance_px < calibre_px * torch.sigmoid(4 * field[:, 1] + 1) * 1.2
        return torch.where(trees & self._in_task(0.22), VESSEL, labels)

    def _cells(self, labels: Tensor) -> Tensor:
        """Many small round things on a jittered lattice, anew in every image, with or without a nucleus."""
        here = self.per_image(chosen(0.3, (self.tasks,), self.generator)).nonzero()[:, 0]
        count = len(here)

        def random(low: float, high: float) -> Tensor:
            return self.per_image(self._random(low, high, self.tasks))[here, None, None]

        per_side, size_share, nucleus_share, density = (
            random(0.7, 2.9).exp(),
            random(0.2, 0.55),
            random(0.3, 0.8),
            random(0.15, 1.0),
        )
        nucleus_share = nucleus_share * self._in_task(0.6)[here]
        lattice = (self.grid[here] + 1.5) / 2 * per_side[..., None] + self._random(0.0, 1.0, count, 1, 1, 2)
        cell = lattice.floor()
        x, y = (lattice - cell - 0.5).unbind(-1)
        column, row = cell.long().unbind(-1)
        lookup = self._random(0.0, 1.0, count, 4, 64 * 64)
        nearest = torch.full(x.shape, torch.inf, device=labels.device)
        for shift_x in (-1, 0, 1):
            for shift_y in (-1, 0, 1):
                number = ((row + shift_y) % 64 * 64 + (column + shift_x) % 64).flatten(1)
                jitter_x, jitter_y, radius, kept = (part.gather(1, number).view_as(x) for part in lookup.unbind(1))
                squared = (x - shift_x - 0.7 * (jitter_x - 0.5)) ** 2 + (y - shift_y - 0.7 * (jitter_y - 0.5)) ** 2
                distance = torch.where(kept < density, squared.sqrt() / (size_share * (0.6 + 0.8 * radius)), torch.inf)
                nearest = torch.minimum(nearest, distance)
        nearest = nearest + 0.12 * smooth_noise(count, 1, self.size, 24, self.generator)[:, 0]
        cells = torch.where(nearest < 1, CELL, labels[here])
        return labels.index_copy(0, here, torch.where(nearest < nucleus_share, NUCLEUS, cells))

    def _body(self, labels: Tensor) -> Tensor:
        """An outline around everything, with nothing outside, in some tasks: a body, a fan, a field of view."""
        radius = self.per_image(self._random(0.65, 1.1, self.tasks, 2))[:, None, None]
        power = self.per_image(torch.where(chosen(0.5, (self.tasks,), self.generator), 2.0, 4.0))[:, None, None]
        wobble = 0.08 * smooth_noise(len(labels), 1, self.size, 4, self.generator)[:, 0]
        distance = ((self.grid / radius).abs() ** power[..., None]).sum(-1)
        return torch.where((distance + wobble > 1) & self._in_task(0.35), OUTSIDE, labels)

    def _in_task(self, probability: float) -> Tensor:
        return self.per_image(chosen(probability, (self.tasks,), self.generator))[:, None, None]


def _appearance(labels: Int[Tensor, "n h w"], scene: _Scene, generator: Generator) -> Float[Tensor, "n h w"]:
    """Grey values: a mean and a texture per label, edges of partial volume, then the faults of a scanner."""
    tasks, count, size = scene.tasks, len(labels), scene.size
    means = uniform(0.0, 1.0, (tasks, LABELS), generator)
    few = chosen(0.3, (tasks, 1), generator)  # several labels of one brightness: told apart by place and shape
    means = torch.where(few, (means * 4).round() / 4, means)
    spread = uniform(0.0, 0.08, (tasks, 1), generator)
    means = scene.per_image(means) + scene.per_image(spread) * torch.randn(
        count, LABELS, generator=generator, device=labels.device
    )
    means[:, OUTSIDE] = torch.where(scene.per_image(chosen(0.8, (tasks,), generator)), 0.0, means[:, OUTSIDE])
    rough = scene.per_image(uniform(0.0, 0.2, (tasks, LABELS), generator) * uniform(0.0, 1.0, (tasks, 1), generator))
    rough[:, OUTSIDE] = 0.0
    coarse = scene.per_image(uniform(0.0, 1.0, (tasks, LABELS), generator))

    def of_label(values: Tensor) -> Tensor:
        return values.gather(1, labels.flatten(1)).reshape(labels.shape)

    fine_texture = blurred(
        torch.randn(labels.shape, generator=generator, device=labels.device),
        scene.per_image(uniform(0.0, 1.0, (tasks,), generator)),
    )
    fine_texture = fine_texture / fine_texture.std(dim=(1, 2), keepdim=True)
    coarse_texture = smooth_noise(count, 1, size, max(12, size // 5), generator)[:, 0]
    share = of_label(coarse)
    images = of_label(means) + of_label(rough) * ((1 - share) * fine_texture + share * coarse_texture)
    images = blurred(images, scene.per_image(uniform(0.2, 1.2, (tasks,), generator)) * size / 96)
    speckled = scene.per_image(chosen(0.15, (tasks,), generator) * uniform(0.1, 0.6, (tasks,), generator))[
        :, None, None
    ]
    speckle = blurred(
        torch.randn(labels.shape, generator=generator, device=labels.device),
        torch.full((count,), 0.7, device=labels.device),
    )
    images = images * torch.exp(speckled * speckle)
    noisy = scene.per_image(uniform(0.0, 0.12, (tasks,), generator) * uniform(0.0, 1.0, (tasks,), generator))[
        :, None, None
    ]
    images = images + noisy * torch.randn(labels.shape, generator=generator, device=labels.device)
    images = stretched(images)
    images = torch.where(scene.per_image(chosen(0.5, (tasks,), generator))[:, None, None], 1 - images, images)
    strength = scene.per_image(uniform(0.0, 1.0, (tasks,), generator)) * uniform(0.0, 1.0, (count,), generator)
    return scanner_shift(images, strength, generator)


def _targets(labels: Int[Tensor, "n h w"], tasks: int, generator: Generator) -> Float[Tensor, "n h w"]:
    """Masks of one wanted label per task, now and then of two, or of everything else."""
    area = torch.stack([(labels == value).float().mean(dim=(1, 2)) for value in range(LABELS)], dim=1)
    area = area.reshape(tasks, -1, LABELS)
    usual = (area > LEAST_AREA).float().mean(dim=1) > 0.6
    weight = torch.full((LABELS,), TARGET_WEIGHTS["region"], device=labels.device)
    weight[FIRST_OBJECT:VESSEL] = TARGET_WEIGHTS["object"]
    for value, kind in ((VESSEL, "vessel"), (WALL, "wall"), (CELL, "cell"), (NUCLEUS, "nucleus")):
        weight[value] = TARGET_WEIGHTS[kind]
    weight[OUTSIDE] = 0.1
    weight = weight * (usual & (area.mean(dim=1) < 0.7)).float() + 1e-6
    first = torch.multinomial(weight, 2, generator=generator)
    both = chosen(0.12, (tasks,), generator)
    both |= chosen(0.7, (tasks,), generator) & (first[:, 0] == CELL) & usual[:, NUCLEUS]
    second = torch.where(first[:, 0] == CELL, NUCLEUS, first[:, 1])
    labels = labels.reshape(tasks, -1, *labels.shape[1:])
    wanted = labels == first[:, 0, None, None, None]
    wanted |= (labels == second[:, None, None, None]) & both[:, None, None, None]
    wanted ^= chosen(0.04, (tasks, 1, 1, 1), generator)
    return wanted.flatten(0, 1).float()


def _letterboxed(images: Tensor, masks: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Black bars at two opposite sides of some images, as images that are not square get them."""
    count, size = len(images), images.shape[-1]
    bar = chosen(0.15, (count,), generator) * uniform(0.0, 0.25, (count,), generator) * size
    position = torch.arange(size, device=images.device)
    inside = (position >= bar[:, None]) & (position < size - bar[:, None])
    wide = chosen(0.5, (count,), generator)[:, None, None]
    inside = torch.where(wide, inside[:, :, None], inside[:, None, :])
    return images * inside, masks * inside
