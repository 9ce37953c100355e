"""Groups: pictures that show the same things in variations, and masks of what may be asked for in them.

A group is drawn from invented scenes, from open labelled data, or from single open pictures whose superpixels serve as
labels. Everything random comes from one generator, so a seed says what a group is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from skimage.segmentation import slic
from torch import Tensor

from InContextSegLib.training.episodic.open_data import ANY, CT_WINDOWS, LoadedSet
from InContextSegLib.training.episodic.rendering import Chance, View, cut, rendered
from InContextSegLib.training.synthetic.tasks import synthetic_tasks

LEAST_PIXELS = 12  # of a label in a picture that shows it
ASKED_AT_ONCE = 4  # masks of one group at the most
SHARES = {"invented": 0.4, "labelled": 0.48, "superpixels": 0.12}


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
        chance = Chance.of(seed)
        size = int(chance.numpy.choice(self.sizes))
        while True:
            kind = chance.numpy.choice(list(SHARES), p=list(SHARES.values())) if self.sets else "invented"
            drawn = getattr(self, f"_{kind}")(chance, size)
            if drawn is not None:
                return drawn

    def _invented(self, chance: Chance, size: int) -> Group | None:
        batch = synthetic_tasks(1, self.count, size, chance.torch)
        shown = int((batch.masks[0].flatten(1).sum(1) >= LEAST_PIXELS).sum())
        if shown < 2:
            return None
        return Group(batch.images[0].expand(-1, 3, -1, -1).contiguous(), batch.masks, tuple(range(self.count)))

    def _labelled(self, chance: Chance, size: int) -> Group | None:
        each = self.sets[int(chance.numpy.choice(len(self.sets), p=self._weights))]
        view = View.drawn(chance.numpy, each.cases[0].flat)
        value = 1 if ANY in each.about.values else int(chance.numpy.choice(each.about.values))
        able = [case for case in each.cases if (case.labels == value).any()]
        if not able:
            return None
        alone = len({case.unit for case in able}) == 1
        cases = [able[index] for index in chance.numpy.permutation(len(able))[: self.count]]
        cases += [able[int(index)] for index in chance.numpy.integers(len(able), size=self.count - len(cases))]
        window = CT_WINDOWS[int(chance.numpy.choice(4, p=(0.55, 0.2, 0.15, 0.1)))]
        place = chance.numpy.random()
        cuts = [
            cut(case, value, view, window if each.about.hounsfield_offset is not None else None, place, chance.numpy)
            for case in cases
        ]
        others = sorted(set(np.unique(np.concatenate([np.unique(labels) for _, labels in cuts])).tolist()) - {0, value})
        asked = [[value]] + [[int(other)] for other in chance.numpy.permutation(others)[: ASKED_AT_ONCE - 2]]
        if others and chance.numpy.random() < 0.3:
            asked.append([value, int(chance.numpy.choice(others))])
        pictures, masks = rendered(cuts, asked, value, size, view, chance)
        names = [case.unit for case in cases]
        units = range(self.count) if alone else [names.index(name) for name in names]
        return _usable(pictures, masks, tuple(units))

    def _superpixels(self, chance: Chance, size: int) -> Group | None:
        each = self.sets[int(chance.numpy.integers(len(self.sets)))]
        case = each.cases[int(chance.numpy.integers(len(each.cases)))]
        view = View.drawn(chance.numpy, case.flat)
        window = CT_WINDOWS[int(chance.numpy.integers(4))] if each.about.hounsfield_offset is not None else None
        picture, _ = cut(case, int(case.labels.max()), view, window, chance.numpy.random(), chance.numpy)
        small = picture[:: max(1, picture.shape[0] // 160), :: max(1, picture.shape[1] // 160)]
        pieces = int(np.exp(chance.numpy.uniform(np.log(6), np.log(80))))
        compactness = float(np.exp(chance.numpy.uniform(np.log(0.02), np.log(0.5))))
        found = slic(
            small,
            n_segments=pieces,
            compactness=compactness,
            sigma=float(chance.numpy.uniform(0.5, 2)),
            start_label=1,
            channel_axis=-1,
        )
        rows = (np.arange(picture.shape[0]) * found.shape[0]) // picture.shape[0]
        columns = (np.arange(picture.shape[1]) * found.shape[1]) // picture.shape[1]
        labels = found[np.ix_(rows, columns)].astype(np.uint8)
        values = [int(v) for v in np.unique(labels) if picture[labels == v].mean() > 0.03]
        if len(values) < 3:
            return None
        asked = [
            chance.numpy.choice(values, size=int(chance.numpy.integers(1, 3)), replace=False).tolist() for _ in range(3)
        ]
        cuts = [(picture, labels)] * self.count
        pictures, masks = rendered(cuts, asked, 0, size, view, chance, strength=1.6)
        return _usable(pictures, masks, tuple(range(self.count)))


def _usable(pictures: Tensor, masks: Tensor, units: tuple[int, ...]) -> Group | None:
    """A group with the masks that at least two pictures of different units show."""
    shown = masks.flatten(2).sum(2) >= LEAST_PIXELS
    kept = [
        number
        for number in range(len(masks))
        if len({unit for unit, there in zip(units, shown[number].tolist(), strict=True) if there}) >= 2
    ]
    return Group(pictures, masks[kept], units) if kept else None
