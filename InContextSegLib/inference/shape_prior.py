"""What labelled slices of a volume say of the others: the shape between them, and where it ends.

Shape-based interpolation of signed distances (Raya and Udupa, IEEE TMI 1990), which 3D Slicer offers as "Fill between
slices". As logits it is added to what a network says of the slices between, which is better than either alone. Beyond
the outermost labelled slices it is a bound: a structure goes on there as far as a network sees it, within a cone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt

FEWEST = 2  # slices that show the label
# How far inside the outline a logit of 1 lies, as a share of how far the outline moves from slice to slice.
SHARE_A_LOGIT, LEAST = 0.1, 0.05
NEAR = 1.5  # pixels from an outline
NOWHERE = -20.0  # as a logit
KEPT = 3  # distances of slices, as those beside one are asked for in turn


@dataclass(frozen=True, eq=False)
class ShapePrior:
    """Labelled slices of one volume, for one label.

    Attributes:
        masks: where the label is in the slices that tell of it, by place along the axis (number or position).
    """

    masks: Mapping[float, Bool[np.ndarray, "h w"]]

    def joined(
        self, place: float, logits: Float[np.ndarray, "h w"] | None, step: float | None
    ) -> Float[np.ndarray, "h w"] | None:
        """What a network says of a slice and what the labelled ones do, together; None where neither says anything.

        Args:
            step: pixels from one place to the next; None: nothing is said beyond the outermost slices with the label.
        """
        between = self.logits(place)
        if between is not None:
            return between if logits is None else logits + between
        if logits is None or step is None or not self._beyond(place):
            return logits
        return np.minimum(logits, self._bound(place, step))

    def logits(self, place: float) -> Float[np.ndarray, "h w"] | None:
        """What the labelled slices on either side say of a slice: > 0 inside; None where they say nothing.

        The less the outline changes from one to the other, the surer. Between a slice that shows the label and one that
        tells that it is not there, the structure ends half way; between two of the latter, and beyond them, it is
        nowhere. Nothing is said beyond the outermost slices that show it, and where it moves by more than its width.
        """
        below = max((each for each in self.masks if each <= place), default=None)
        above = min((each for each in self.masks if each >= place), default=None)
        told = [each for each in (below, above) if each is not None]
        if len(self._showing) < FEWEST or not told:
            return None
        showing = [each for each in told if each in self._showing]
        if not showing:
            # None of them shows it: it is nowhere between two of them, nor beyond the outermost one.
            return np.full(self.masks[told[0]].shape, NOWHERE, np.float32)
        if len(told) == 1:
            return None
        if len(showing) == 1:
            here = self._distance(showing[0])
            there = here - 2 * here.max()
            here, there = (here, there) if showing[0] == below else (there, here)
        elif (self.masks[below] & self.masks[above]).any():
            here, there = self._distance(below), self._distance(above)
        else:
            return None
        share = (place - below) / (above - below) if above > below else 0.0
        near = (np.abs(here) < NEAR) | (np.abs(there) < NEAR)
        moved = float(np.abs(here - there)[near].mean()) if near.any() else 0.0
        return ((1 - share) * here + share * there) / max(SHARE_A_LOGIT * moved, LEAST)

    def without(self, place: float) -> "ShapePrior":
        """The same from the other slices."""
        return ShapePrior({each: mask for each, mask in self.masks.items() if each != place})

    def _beyond(self, place: float) -> bool:
        """Whether a slice lies beyond all that show the label; of a single one nothing is known of how it goes on."""
        return len(self._showing) >= FEWEST and not self._showing[0] <= place <= self._showing[-1]

    def _bound(self, place: float, step: float) -> Float[np.ndarray, "h w"]:
        """The most that may be said beyond the outermost slices: the structure narrows by 45 degrees on either side."""
        last = self._showing[0] if place < self._showing[0] else self._showing[-1]
        narrowed = abs(place - last) * step
        return (self._distance(last) - narrowed) / (SHARE_A_LOGIT * narrowed)

    @cached_property
    def _showing(self) -> tuple[float, ...]:
        return tuple(sorted(place for place, mask in self.masks.items() if mask.any()))

    @cached_property
    def _distances(self) -> dict[float, Float[np.ndarray, "h w"]]:
        return {}

    def _distance(self, place: float) -> Float[np.ndarray, "h w"]:
        """Pixels to the outline of a labelled slice, > 0 inside; it runs between the pixels' centres."""
        if place not in self._distances:
            while len(self._distances) >= KEPT:
                self._distances.pop(next(iter(self._distances)))
            # What lies beyond the picture is not the structure.
            mask = np.pad(self.masks[place], 1)
            signed = distance_transform_edt(mask) - distance_transform_edt(~mask) + np.where(mask, -0.5, 0.5)
            self._distances[place] = signed[1:-1, 1:-1].astype(np.float32)
        return self._distances[place]
