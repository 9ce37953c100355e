"""The geometry of invented scenes: which label every pixel of every image of a task has.

A task is a scene that several images show in variations, like patients of one study: regions of smooth noise
(SynthMorph's "shapes"; UniverSeg, section 4.3), organ-like objects, vessels, membranes, cells. Later kinds cover
earlier ones; what a thing covers as a whole is kept beside what is seen of it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, max_pool2d

from InContextSegLib.training.augment import chosen, enlarged, smooth_noise, uniform

REGIONS = 8  # labels made of smooth noise
OBJECTS = 6  # ellipse-like labels
# One number per kind of label, in the order in which later kinds cover earlier ones.
FIRST_OBJECT = REGIONS
VESSEL = FIRST_OBJECT + OBJECTS
WALL = VESSEL + 1
CELL = WALL + 1
OTHER_CELL = CELL + 1  # a second population among the cells
NUCLEUS = OTHER_CELL + 1
OUTSIDE = NUCLEUS + 1
LABELS = OUTSIDE + 1

GRID_CELLS = (3, 4, 6, 9, 14)
KNOTS = 28


@dataclass(frozen=True, eq=False)
class Layout:
    """What lies where in the `n` images of a batch of tasks, images of one task next to each other.

    Attributes:
        labels: the label seen at every pixel.
        solids: what every object covers, with what lies on it.
        twins: per task, whether an object looks like the one before it.
    """

    labels: Int[Tensor, "n h w"]
    solids: Bool[Tensor, "n objects h w"]
    twins: Bool[Tensor, "tasks objects"]


class Scene:
    """Random numbers of a batch of tasks, and the geometry they describe."""

    def __init__(self, tasks: int, images: int, size: int, generator: Generator):
        self.tasks, self.images, self.size, self.generator = tasks, images, size, generator
        # Anatomy is one template with variations; in a smear of cells every image is arranged anew.
        self.anew = chosen(0.3, (tasks,), generator)
        self.variation = torch.where(self.anew, 1.0, uniform(0.0, 0.35, (tasks,), generator))
        self.grid = self._warped_grid()

    def layout(self) -> Layout:
        labels = self._regions()
        labels, solids, twins = self._objects(labels)
        labels = self._walls(labels)
        labels = self._vessels(labels)
        labels = self._cells(labels)
        outside = self._outside()
        return Layout(torch.where(outside, OUTSIDE, labels), solids & ~outside[:, None], twins)

    def per_image(self, of_task: Tensor) -> Tensor:
        return of_task.repeat_interleave(self.images, dim=0)

    def in_task(self, probability: float) -> Bool[Tensor, "n 1 1"]:
        return self.per_image(chosen(probability, (self.tasks,), self.generator))[:, None, None]

    def _random(self, low: float, high: float, *shape: int) -> Tensor:
        return uniform(low, high, shape, self.generator)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.generator.device)

    def _of_task(self, low: float, high: float) -> Float[Tensor, "n 1 1"]:
        return self.per_image(self._random(low, high, self.tasks))[:, None, None]

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
            parts = [smooth_noise(count, channels, KNOTS, cells, self.generator) for cells in GRID_CELLS]
            mixed = sum(part * weight[:, None, None, None] for part, weight in zip(parts, weights.T, strict=True))
            return enlarged(mixed, self.size)

        template = self.per_image(mixture(self.tasks, weights))
        template = grid_sample(template, self.grid, padding_mode="reflection", align_corners=False)
        own = mixture(self.tasks * self.images, self.per_image(weights))
        share = self.per_image(self.variation)[:, None, None, None]
        return (1 - share**2).sqrt() * template + share * own

    def _regions(self) -> Int[Tensor, "n h w"]:
        """Smooth blotches, or one plain ground: many real images show a few things on almost nothing."""
        scores = self._fields(REGIONS)
        number = torch.where(
            chosen(0.4, (self.tasks,), self.generator), 1.0, self._random(1.0, REGIONS + 1.0, self.tasks)
        )
        # The highest score wins; one region after the other is five times as fast as `argmax`.
        best, labels = scores[:, 0], torch.zeros_like(scores[:, 0], dtype=torch.long)
        for n in range(1, REGIONS):
            higher = (scores[:, n] > best) & self.per_image(number > n)[:, None, None]
            best, labels = torch.where(higher, scores[:, n], best), torch.where(higher, n, labels)
        return labels

    def _objects(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Wobbly ellipses: some inside one another, some in pairs of equal looks, some missing in an image."""
        count = len(labels)
        centre, radius, twins = self._object_places()
        number = torch.arange(OBJECTS, device=labels.device)
        present = number < self._random(-1.5, OBJECTS + 1.0, self.tasks)[:, None]
        present = self.per_image(present) & ~chosen(0.06, (count, OBJECTS), self.generator)
        # Scenes arranged anew keep what belongs together together: one shift for all, a little for each.
        anew = self.per_image(self.anew)[:, None, None]
        centre = self.per_image(centre) + torch.where(anew, 0.3, 0.0) * self._normal(count, 1, 2)
        radius = self.per_image(radius)
        loose = self.per_image(self._random(0.0, 1.0, self.tasks))[:, None, None]
        centre = centre + 0.25 * loose * radius * self._normal(count, OBJECTS, 2)
        radius = radius * torch.exp(0.15 * self._normal(count, OBJECTS, 2))
        angle = self.per_image(self._random(0.0, torch.pi, self.tasks, OBJECTS)) + 0.2 * self._normal(count, OBJECTS)
        wobble = self._of_task(0.0, 0.35)
        fields = smooth_noise(count, OBJECTS, self.size, 9, self.generator)
        shelled, shell = self.in_task(0.25), self._of_task(0.75, 0.96)
        solids = []
        for n in range(OBJECTS):
            offset = self.grid - centre[:, None, None, n]
            cos, sin = torch.cos(angle[:, n])[:, None, None], torch.sin(angle[:, n])[:, None, None]
            along = (offset[..., 0] * cos + offset[..., 1] * sin) / radius[:, n, 0, None, None]
            across = (offset[..., 1] * cos - offset[..., 0] * sin) / radius[:, n, 1, None, None]
            distance = (along**2 + across**2).sqrt() + wobble * fields[:, n]
            inside = (distance < 1) & present[:, n, None, None]
            labels = torch.where(inside, FIRST_OBJECT + n, labels)
            labels = torch.where(inside & shelled & (distance > shell), WALL, labels)
            solids.append(inside)
        return labels, torch.stack(solids, dim=1), twins

    def _object_places(self) -> tuple[Tensor, Tensor, Tensor]:
        """Centres and radii (tasks, objects, 2) of the template, and which object is its predecessor's twin."""
        tasks = self.tasks
        centre = self._random(-0.6, 0.6, tasks, OBJECTS, 2)
        radius = torch.exp(self._random(-3.2, -0.5, tasks, OBJECTS, 1) + self._random(-0.4, 0.4, tasks, OBJECTS, 2))
        nested = chosen(0.35, (tasks, OBJECTS), self.generator)
        twins = chosen(0.3, (tasks, OBJECTS), self.generator) & ~nested
        nested[:, 0] = twins[:, 0] = False
        mirror = torch.tensor([-1.0, 1.0], device=centre.device)
        for n in range(1, OBJECTS):
            inside, twin = nested[:, n, None], twins[:, n, None]
            within = centre[:, n - 1] + 0.3 * radius[:, n - 1] * self._normal(tasks, 2)
            centre[:, n] = torch.where(inside, within, torch.where(twin, mirror * centre[:, n - 1], centre[:, n]))
            smaller = radius[:, n - 1] * self._random(0.3, 0.8, tasks, 1)
            radius[:, n] = torch.where(inside, smaller, torch.where(twin, radius[:, n - 1], radius[:, n]))
        return centre, radius, twins

    def _walls(self, labels: Tensor) -> Tensor:
        """Membranes: the borders between the labels drawn so far."""
        values = labels[:, None].float()
        border = (max_pool2d(values, 3, 1, 1) + max_pool2d(-values, 3, 1, 1))[:, 0] != 0
        return torch.where(border & self.in_task(0.1), WALL, labels)

    def _vessels(self, labels: Tensor) -> Tensor:
        """Curves of varying calibre: contours of noise, thick from coarse and thin from fine, or branches of a tree."""
        curves = torch.zeros_like(labels, dtype=torch.bool)
        for low, high, thickest in ((0.0, 1.5, 0.035), (2.0, 4.0, 0.016)):
            field = self._fields(2, self._random(low, high, self.tasks))
            # The second channel thins the curve out until it ends.
            calibre_px = self._of_task(0.003, thickest) * self.size * torch.sigmoid(4 * field[:, 1] + 1) * 1.2
            curves |= _distance_px(field[:, 0]) < calibre_px
        curves = torch.where(self.in_task(0.55), self._tree(), curves)
        return torch.where(curves & self.in_task(0.3), VESSEL, labels)

    def _tree(self) -> Bool[Tensor, "n h w"]:
        """Meandering branches that leave a root in all directions and thin out, more of them farther away."""
        root = self.per_image(self._random(-1.1, 1.1, self.tasks, 2))[:, None, None]
        offset = self.grid - root
        away = offset.norm(dim=-1)
        angle = torch.atan2(offset[..., 1], offset[..., 0])
        bends = self._fields(3, self._random(0.5, 2.5, self.tasks))
        tree = torch.zeros(away.shape, dtype=torch.bool, device=away.device)
        for order, (low, high, thinnest, thickest, start) in enumerate(
            ((1.0, 4.0, 0.006, 0.03, 0.0), (3.0, 8.0, 0.004, 0.014, 0.3), (8.0, 16.0, 0.003, 0.008, 0.6))
        ):
            branches = self._of_task(low, high).round()
            wave = torch.sin(branches * angle + self._of_task(0.0, 6.3) + self._of_task(0.5, 3.0) * bends[:, order])
            calibre_px = self._of_task(thinnest, thickest) * self.size * (1.15 - 0.5 * away).clamp(min=0.3)
            # A branch begins and ends where its bends say so.
            tree |= (_distance_px(wave) < calibre_px) & (away > start * (1 + 0.5 * bends[:, order - 1]))
        return tree

    def _cells(self, labels: Tensor) -> Tensor:
        """Many small round things on a jittered lattice, anew in every image, of one or two kinds, with nuclei."""
        here = self.per_image(chosen(0.33, (self.tasks,), self.generator)).nonzero()[:, 0]
        count = len(here)

        def random(low: float, high: float) -> Tensor:
            return self._of_task(low, high)[here]

        per_side, size_share, nucleus_share, density = (
            random(0.7, 3.0).exp(),
            random(0.2, 0.55),
            random(0.3, 0.8),
            random(0.08, 1.0),
        )
        nucleus_share = nucleus_share * self.in_task(0.6)[here]
        others = random(0.2, 0.9) * self.in_task(0.4)[here]
        size_of_others = random(0.5, 1.3)
        lattice = (self.grid[here] + 1.5) / 2 * per_side[..., None] + self._random(0.0, 1.0, count, 1, 1, 2)
        cell = lattice.floor()
        x, y = (lattice - cell - 0.5).unbind(-1)
        column, row = cell.long().unbind(-1)
        lookup = self._random(0.0, 1.0, count, 5, 64 * 64)
        nearest = torch.full(x.shape, torch.inf, device=labels.device)
        kind = torch.zeros_like(nearest)
        for shift_x in (-1, 0, 1):
            for shift_y in (-1, 0, 1):
                number = ((row + shift_y) % 64 * 64 + (column + shift_x) % 64).flatten(1)
                jitter_x, jitter_y, radius, kept, which = (
                    part.gather(1, number).view_as(x) for part in lookup.unbind(1)
                )
                squared = (x - shift_x - 0.7 * (jitter_x - 0.5)) ** 2 + (y - shift_y - 0.7 * (jitter_y - 0.5)) ** 2
                size = size_share * (0.6 + 0.8 * radius) * torch.where(which < others, size_of_others, 1.0)
                distance = torch.where(kept < density, squared.sqrt() / size, torch.inf)
                closer = distance < nearest
                nearest, kind = torch.where(closer, distance, nearest), torch.where(closer, which, kind)
        nearest = nearest + 0.12 * smooth_noise(count, 1, self.size, 24, self.generator)[:, 0]
        other = kind < others
        cells = torch.where(nearest < 1, torch.where(other, OTHER_CELL, CELL), labels[here])
        return labels.index_copy(0, here, torch.where((nearest < nucleus_share) & ~other, NUCLEUS, cells))

    def _outside(self) -> Bool[Tensor, "n h w"]:
        """Around an outline, in some tasks: a body, a fan, a field of view."""
        radius = self.per_image(self._random(0.6, 1.1, self.tasks, 2))[:, None, None]
        power = torch.where(self.in_task(0.5), 2.0, 4.0)
        wobble = 0.08 * smooth_noise(len(self.grid), 1, self.size, 4, self.generator)[:, 0]
        distance = ((self.grid / radius).abs() ** power[..., None]).sum(-1)
        return (distance + wobble > 1) & self.in_task(0.4)


def _distance_px(field: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Distance to where a smooth field is zero, to first order."""
    slope_y, slope_x = torch.gradient(field, dim=(1, 2))
    return field.abs() / (slope_y**2 + slope_x**2).sqrt().clamp(min=1e-4)
