"""How the pictures of a group are cut from open images: what they share (`View`), and how each one differs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate

from InContextSegLib.training.augment import blurred, smooth_noise
from InContextSegLib.training.episodic.open_data import Case, windowed

AXES = (0, 0, 0, 1, 2)  # array axes that a volume is cut across, axial ones most


@dataclass(frozen=True)
class View:
    """What all pictures of a group share: how they are cut, turned, zoomed and coloured."""

    axis: int
    body: bool  # air round a patient is cut off
    beside: bool  # the neighbouring slices in the places of red and blue
    zoom: float  # 1: the whole picture
    turns: int
    mirrored: bool
    inverted: bool
    grey: bool
    channels: tuple[int, int, int]

    @classmethod
    def drawn(cls, chance: np.random.Generator, flat: bool) -> "View":
        zoom = 1.0 if chance.random() < 0.55 else float(np.exp(chance.uniform(0, np.log(3))))
        return cls(
            axis=0 if flat else int(chance.choice(AXES)),
            body=chance.random() < 0.7,
            beside=not flat and chance.random() < 0.6,
            zoom=zoom,
            turns=int(chance.choice(4, p=(0.7, 0.1, 0.1, 0.1))),
            mirrored=chance.random() < 0.3,
            inverted=chance.random() < 0.12,
            grey=chance.random() < 0.4,
            channels=tuple(chance.permutation(3).tolist()) if chance.random() < 0.2 else (0, 1, 2),
        )


def cut(
    case: Case, value: int, view: View, window: tuple[float, float] | None, place: float, chance: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A picture (h, w, 3) in [0, 1] with square pixels, and its labels (h, w): of a volume, a slice near a place.

    `place` in [0, 1] is where along the extent of the label.
    """
    if case.flat:
        picture = case.image[0].astype(np.float32) / 255
        return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture, case.labels[0]
    showing = np.flatnonzero((case.labels == value).any(axis=tuple(n for n in range(3) if n != view.axis)))
    last = case.labels.shape[view.axis] - 1
    if len(showing) == 0 or chance.random() < 0.1:
        middle = int(chance.integers(last + 1))
    else:
        relative = np.clip(place + chance.normal(0, 0.12), 0, 1)
        middle = int(showing[round(relative * (len(showing) - 1))])
    beside = [max(middle - 1, 0), middle, min(middle + 1, last)] if view.beside else [middle] * 3
    values = np.take(case.image, beside, axis=view.axis).astype(np.float32)
    if window is None:
        inside = case.image[case.image > 0][::37].astype(np.float32)
        window = tuple(float(v) for v in np.percentile(inside, (0.5, 99.5))) if inside.size else (0.0, 1.0)
    picture = np.moveaxis(windowed(values, window), view.axis, 2)
    labels = np.take(case.labels, middle, axis=view.axis)
    rows_mm, columns_mm = (step for n, step in enumerate(case.spacing_mm) if n != view.axis)
    if view.axis:  # the head at the top
        picture, labels = picture[::-1], labels[::-1]
    if view.body:
        picture, labels = _body(picture, labels, chance)
    return _squared(picture, labels, rows_mm / columns_mm)


def _body(picture: np.ndarray, labels: np.ndarray, chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The part of a slice that is not air, and a little round it."""
    there = picture.mean(axis=2) > 0.02
    if not there.any():
        return picture, labels
    part = []
    for axis in (0, 1):
        inside = np.flatnonzero(there.any(axis=1 - axis))
        margin = chance.uniform(0, 0.1) * len(inside)
        part.append(slice(max(0, int(inside[0] - margin)), int(inside[-1] + margin) + 1))
    return picture[tuple(part)], labels[tuple(part)]


def _squared(picture: np.ndarray, labels: np.ndarray, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """With the longer edge of a pixel brought to the shorter one."""
    if 0.95 < ratio < 1.05:
        return np.ascontiguousarray(picture), np.ascontiguousarray(labels)
    height, width = labels.shape
    size = (round(height * ratio), width) if ratio > 1 else (height, round(width / ratio))
    tensor = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
    picture = interpolate(tensor, size=size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0).numpy()
    rows = np.arange(size[0]) * height // size[0]
    columns = np.arange(size[1]) * width // size[1]
    return picture, labels[np.ix_(rows, columns)]


@dataclass(frozen=True, eq=False)
class Chance:
    """Where the random choices of a group come from."""

    numpy: np.random.Generator
    torch: torch.Generator

    @classmethod
    def of(cls, seed: int) -> "Chance":
        numpy = np.random.default_rng(seed)
        return cls(numpy, torch.Generator().manual_seed(int(numpy.integers(2**62))))


def rendered(
    cuts: Sequence[tuple[np.ndarray, np.ndarray]],
    asked: Sequence[Sequence[int]],
    centre_on: int,
    size: int,
    view: View,
    chance: Chance,
    strength: float = 1.0,
) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "m n 1 h w"]]:
    """Pictures of one size, each moved and bent in its own way, with masks of all that is asked for."""
    grids = _grids([labels for _, labels in cuts], centre_on, size, view, chance, strength)
    pictures, masks = [], []
    for (picture, labels), grid in zip(cuts, grids, strict=True):
        image = torch.from_numpy(np.ascontiguousarray(picture, np.float32)).permute(2, 0, 1)[None]
        # Pixels of the result that are several pixels of the picture wide get their mean.
        shrink = int(max(labels.shape) / (size * view.zoom) + 0.35)
        if shrink > 1:
            image = avg_pool2d(image, shrink, ceil_mode=True)
        pictures.append(grid_sample(image, grid[None], padding_mode="zeros", align_corners=False))
        fine = interpolate(grid.permute(2, 0, 1)[None], scale_factor=2, mode="bilinear", align_corners=False)
        fine = fine.permute(0, 2, 3, 1)
        each = torch.from_numpy(np.stack([np.isin(labels, list(values)) for values in asked]).astype(np.float32))[None]
        masks.append(avg_pool2d(grid_sample(each, fine, padding_mode="zeros", align_corners=False), 2))
    stack = _coloured(torch.cat(pictures), view, chance, strength)
    return stack, (torch.cat(masks).transpose(0, 1)[:, :, None] > 0.45).float()


def _grids(
    labels: Sequence[np.ndarray],
    centre_on: int,
    size: int,
    view: View,
    chance: Chance,
    strength: float,
) -> Float[Tensor, "n h w 2"]:
    """For every pixel of the result the place in the picture it is taken from, in [-1, 1]."""
    count = len(labels)
    bend = (
        smooth_noise(count, 2, size, 5, chance.torch).permute(0, 2, 3, 1)
        * float(chance.numpy.uniform(0, 0.03))
        * strength
    )
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    base = torch.stack([columns, rows], dim=2)
    if view.mirrored:
        base = base * torch.tensor([-1.0, 1.0])
    base = torch.rot90(base, view.turns, (0, 1))
    spread = float(chance.numpy.uniform(0.3, 1.0)) * strength
    grids = []
    for number, each in enumerate(labels):
        angle = chance.numpy.normal(0, 0.12) * spread
        zoom = float(np.exp(chance.numpy.normal(0, 0.1) * spread)) / view.zoom
        turn = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=torch.float32)
        centre = np.zeros(2)
        height, width = each.shape
        longest = max(height, width)
        if view.zoom > 1.05:
            inside = np.argwhere(each == centre_on) if centre_on else np.argwhere(each > 0)
            around = (
                inside[int(chance.numpy.integers(len(inside)))] if len(inside) else np.array([height / 2, width / 2])
            )
            if centre_on and len(inside):  # where it usually lies, so that the place still tells something
                around = 0.6 * inside.mean(axis=0) + 0.4 * around
            centre = (around[::-1] + 0.5 - np.array([width, height]) / 2) / (longest / 2)
            room = 1 - 1 / view.zoom
            centre = np.clip(centre, -room, room)
        centre = centre + chance.numpy.normal(0, 0.06, 2) * spread
        grid = (base + bend[number]) @ turn.T * zoom + torch.tensor(centre, dtype=torch.float32)
        # The longer side fills the square, the shorter is centred.
        grids.append(grid * torch.tensor([longest / width, longest / height], dtype=torch.float32))
    return torch.stack(grids)


def _coloured(
    pictures: Float[Tensor, "n 3 h w"],
    view: View,
    chance: Chance,
    strength: float,
) -> Float[Tensor, "n 3 h w"]:
    """The pictures in another light, each a little differently."""
    inside = (pictures > 0).any(dim=1, keepdim=True)
    if view.grey and not view.beside:
        pictures = pictures.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    pictures = pictures[:, list(view.channels)] if not view.beside else pictures
    if view.inverted:
        pictures = torch.where(inside, 1 - pictures, pictures)
    count, _, size, _ = pictures.shape
    amount = strength * float(chance.numpy.uniform(0, 1))

    def random(low: float, high: float, *shape: int) -> Tensor:
        return amount * (low + (high - low) * torch.rand((count, *shape), generator=chance.torch))

    pictures = pictures.clamp(min=1e-6) ** torch.exp(random(-0.5, 0.5, 1, 1, 1))
    pictures = (pictures - 0.5) * torch.exp(random(-0.4, 0.3, 1, 1, 1)) + 0.5 + random(-0.1, 0.1, 1, 1, 1)
    if not view.beside and not view.grey:
        pictures = pictures * torch.exp(random(-0.12, 0.12, 3, 1, 1))
    pictures = pictures * torch.exp(random(0, 0.25, 1, 1, 1) * smooth_noise(count, 1, size, 4, chance.torch))
    if chance.numpy.random() < 0.3:
        sigma = random(0, 1.0, 1).expand(-1, 3).reshape(-1)
        pictures = blurred(pictures.reshape(-1, size, size), sigma).reshape(pictures.shape)
    if chance.numpy.random() < 0.4:
        pictures = pictures + random(0, 0.05, 1, 1, 1) * torch.randn(pictures.shape, generator=chance.torch)
    return (pictures.clamp(0, 1) * inside).contiguous()
