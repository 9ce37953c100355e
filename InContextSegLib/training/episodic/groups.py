"""Groups: pictures that show the same things in variations, and masks of what may be asked for in them.

A group is drawn from invented scenes, from open labelled data, or from single open pictures whose superpixels serve as
labels. Everything random comes from one generator, so a seed says what a group is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from skimage.segmentation import slic
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate

from InContextSegLib.training.augment import blurred, smooth_noise
from InContextSegLib.training.episodic.open_data import ANY, CT_WINDOWS, Case, LoadedSet, windowed
from InContextSegLib.training.synthetic.tasks import synthetic_tasks

LEAST_PIXELS = 12  # of a label in a picture that shows it
ASKED_AT_ONCE = 4  # masks of one group at the most
SHARES = {"invented": 0.4, "labelled": 0.48, "superpixels": 0.12}
AXES = (0, 0, 0, 1, 2)  # array axes that a volume is cut across, axial ones most


@dataclass(frozen=True, eq=False)
class Group:
    """`n` pictures in [0, 1] and `m` masks of each; pictures of one unit do not help one another."""

    pictures: Float[Tensor, "n 3 h w"]
    masks: Float[Tensor, "m n 1 h w"]
    units: tuple[int, ...]


class GroupSource:
    """Draws groups.

    Args:
        sets: the open data; none: only invented groups.
        size: pixels per side, one of these by chance.
        count: pictures in a group.
    """

    def __init__(self, sets: Sequence[LoadedSet], sizes: Sequence[int], count: int):
        self.sets, self.sizes, self.count = tuple(sets), tuple(sizes), count
        weights = np.array([each.about.weight for each in sets], float)
        self._weights = weights / weights.sum() if len(weights) else weights

    def draw(self, seed: int) -> Group:
        """The group of that seed."""
        chance = np.random.default_rng(seed)
        generator = torch.Generator().manual_seed(int(chance.integers(2**62)))
        size = int(chance.choice(self.sizes))
        while True:
            kind = chance.choice(list(SHARES), p=list(SHARES.values())) if self.sets else "invented"
            drawn = getattr(self, f"_{kind}")(chance, generator, size)
            if drawn is not None:
                return drawn

    def _invented(self, chance: np.random.Generator, generator: torch.Generator, size: int) -> Group | None:
        batch = synthetic_tasks(1, self.count, size, generator)
        shown = int((batch.masks[0].flatten(1).sum(1) >= LEAST_PIXELS).sum())
        if shown < 2:
            return None
        return Group(batch.images[0].expand(-1, 3, -1, -1).contiguous(), batch.masks, tuple(range(self.count)))

    def _labelled(self, chance: np.random.Generator, generator: torch.Generator, size: int) -> Group | None:
        each = self.sets[int(chance.choice(len(self.sets), p=self._weights))]
        view = _View.drawn(chance, each.cases[0].flat)
        value = 1 if ANY in each.about.values else int(chance.choice(each.about.values))
        able = [case for case in each.cases if (case.labels == value).any()]
        if not able:
            return None
        alone = len({case.unit for case in able}) == 1
        cases = [able[index] for index in chance.permutation(len(able))[: self.count]]
        cases += [able[int(index)] for index in chance.integers(len(able), size=self.count - len(cases))]
        window = CT_WINDOWS[int(chance.choice(4, p=(0.55, 0.2, 0.15, 0.1)))]
        place = chance.random()
        cuts = [_cut(case, value, view, window if each.about.hounsfield_offset is not None else None, place, chance)
                for case in cases]
        others = sorted(set(np.unique(np.concatenate([np.unique(labels) for _, labels in cuts])).tolist()) - {0, value})
        asked = [[value]] + [[int(other)] for other in chance.permutation(others)[: ASKED_AT_ONCE - 2]]
        if others and chance.random() < 0.3:
            asked.append([value, int(chance.choice(others))])
        pictures, masks = _rendered(cuts, asked, value, size, view, chance, generator)
        names = [case.unit for case in cases]
        units = range(self.count) if alone else [names.index(name) for name in names]
        return _usable(pictures, masks, tuple(units))

    def _superpixels(self, chance: np.random.Generator, generator: torch.Generator, size: int) -> Group | None:
        each = self.sets[int(chance.integers(len(self.sets)))]
        case = each.cases[int(chance.integers(len(each.cases)))]
        view = _View.drawn(chance, case.flat)
        window = CT_WINDOWS[int(chance.integers(4))] if each.about.hounsfield_offset is not None else None
        picture, _ = _cut(case, int(case.labels.max()), view, window, chance.random(), chance)
        small = picture[:: max(1, picture.shape[0] // 160), :: max(1, picture.shape[1] // 160)]
        pieces = int(np.exp(chance.uniform(np.log(6), np.log(80))))
        compactness = float(np.exp(chance.uniform(np.log(0.02), np.log(0.5))))
        found = slic(small, n_segments=pieces, compactness=compactness, sigma=float(chance.uniform(0.5, 2)),
                     start_label=1, channel_axis=-1)
        rows = (np.arange(picture.shape[0]) * found.shape[0]) // picture.shape[0]
        columns = (np.arange(picture.shape[1]) * found.shape[1]) // picture.shape[1]
        labels = found[np.ix_(rows, columns)].astype(np.uint8)
        values = [int(v) for v in np.unique(labels) if picture[labels == v].mean() > 0.03]
        if len(values) < 3:
            return None
        asked = [chance.choice(values, size=int(chance.integers(1, 3)), replace=False).tolist() for _ in range(3)]
        cuts = [(picture, labels)] * self.count
        pictures, masks = _rendered(cuts, asked, 0, size, view, chance, generator, strength=1.6)
        return _usable(pictures, masks, tuple(range(self.count)))


@dataclass(frozen=True)
class _View:
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
    def drawn(cls, chance: np.random.Generator, flat: bool) -> "_View":
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


def _cut(
    case: Case, value: int, view: _View, window: tuple[float, float] | None, place: float, chance: np.random.Generator
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


def _body(
    picture: np.ndarray, labels: np.ndarray, chance: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
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


def _rendered(
    cuts: Sequence[tuple[np.ndarray, np.ndarray]],
    asked: Sequence[Sequence[int]],
    centre_on: int,
    size: int,
    view: _View,
    chance: np.random.Generator,
    generator: torch.Generator,
    strength: float = 1.0,
) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "m n 1 h w"]]:
    """Pictures of one size, each moved and bent in its own way, with masks of all that is asked for."""
    grids = _grids([cut[1] for cut in cuts], centre_on, size, view, chance, generator, strength)
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
    stack = _coloured(torch.cat(pictures), view, chance, generator, strength)
    return stack, (torch.cat(masks).transpose(0, 1)[:, :, None] > 0.45).float()


def _grids(
    labels: Sequence[np.ndarray],
    centre_on: int,
    size: int,
    view: _View,
    chance: np.random.Generator,
    generator: torch.Generator,
    strength: float,
) -> Float[Tensor, "n h w 2"]:
    """For every pixel of the result the place in the picture it is taken from, in [-1, 1]."""
    count = len(labels)
    bend = smooth_noise(count, 2, size, 5, generator).permute(0, 2, 3, 1) * float(chance.uniform(0, 0.03)) * strength
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    base = torch.stack([columns, rows], dim=2)
    if view.mirrored:
        base = base * torch.tensor([-1.0, 1.0])
    base = torch.rot90(base, view.turns, (0, 1))
    spread = float(chance.uniform(0.3, 1.0)) * strength
    grids = []
    for number, each in enumerate(labels):
        angle = chance.normal(0, 0.12) * spread
        zoom = float(np.exp(chance.normal(0, 0.1) * spread)) / view.zoom
        turn = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=torch.float32)
        centre = np.zeros(2)
        height, width = each.shape
        longest = max(height, width)
        if view.zoom > 1.05:
            inside = np.argwhere(each == centre_on) if centre_on else np.argwhere(each > 0)
            around = inside[int(chance.integers(len(inside)))] if len(inside) else np.array([height / 2, width / 2])
            if centre_on and len(inside):  # where it usually lies, so that the place still tells something
                around = 0.6 * inside.mean(axis=0) + 0.4 * around
            centre = (around[::-1] + 0.5 - np.array([width, height]) / 2) / (longest / 2)
            room = 1 - 1 / view.zoom
            centre = np.clip(centre, -room, room)
        centre = centre + chance.normal(0, 0.06, 2) * spread
        grid = (base + bend[number]) @ turn.T * zoom + torch.tensor(centre, dtype=torch.float32)
        # The longer side fills the square, the shorter is centred.
        grids.append(grid * torch.tensor([longest / width, longest / height], dtype=torch.float32))
    return torch.stack(grids)


def _coloured(
    pictures: Float[Tensor, "n 3 h w"], view: _View, chance: np.random.Generator, generator: torch.Generator, strength: float
) -> Float[Tensor, "n 3 h w"]:
    """The pictures in another light, each a little differently."""
    inside = (pictures > 0).any(dim=1, keepdim=True)
    if view.grey and not view.beside:
        pictures = pictures.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    pictures = pictures[:, list(view.channels)] if not view.beside else pictures
    if view.inverted:
        pictures = torch.where(inside, 1 - pictures, pictures)
    count, _, size, _ = pictures.shape
    amount = strength * float(chance.uniform(0, 1))

    def random(low: float, high: float, *shape: int) -> Tensor:
        return amount * (low + (high - low) * torch.rand((count, *shape), generator=generator))

    pictures = pictures.clamp(min=1e-6) ** torch.exp(random(-0.5, 0.5, 1, 1, 1))
    pictures = (pictures - 0.5) * torch.exp(random(-0.4, 0.3, 1, 1, 1)) + 0.5 + random(-0.1, 0.1, 1, 1, 1)
    if not view.beside and not view.grey:
        pictures = pictures * torch.exp(random(-0.12, 0.12, 3, 1, 1))
    pictures = pictures * torch.exp(random(0, 0.25, 1, 1, 1) * smooth_noise(count, 1, size, 4, generator))
    if chance.random() < 0.3:
        sigma = random(0, 1.0, 1).expand(-1, 3).reshape(-1)
        pictures = blurred(pictures.reshape(-1, size, size), sigma).reshape(pictures.shape)
    if chance.random() < 0.4:
        pictures = pictures + random(0, 0.05, 1, 1, 1) * torch.randn(pictures.shape, generator=generator)
    return (pictures.clamp(0, 1) * inside).contiguous()


def _usable(pictures: Tensor, masks: Tensor, units: tuple[int, ...]) -> Group | None:
    """A group with the masks that at least two pictures of different units show."""
    shown = masks.flatten(2).sum(2) >= LEAST_PIXELS
    kept = [
        number
        for number in range(len(masks))
        if len({unit for unit, there in zip(units, shown[number].tolist(), strict=True) if there}) >= 2
    ]
    return Group(pictures, masks[kept], units) if kept else None
