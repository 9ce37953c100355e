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
        bound = None if logits is None or step is None else self._bound(place, step)
        return logits if bound is None else np.minimum(logits, bound)

    def logits(self, place: float) -> Float[np.ndarray, "h w"] | None:
        """What the labelled slices on either side say of a slice: > 0 inside; None beyond the outermost that show it.

        The less the outline changes from one to the other, the surer. Between a slice that shows the label and one that
        does not, the structure ends half way.
        """
        below = max((each for each in self._showing if each <= place), default=None)
        above = min((each for each in self._showing if each >= place), default=None)
        if below is None or above is None or len(self._showing) < FEWEST:
            return None
        here, there = self._distance(below), self._distance(above)
        empty = [each for each in self.masks if below < each < above]
        if empty and place <= min(empty):
            above, there = min(empty), here - 2 * here.max()
        elif empty and place >= max(empty):
            below, here = max(empty), there - 2 * there.max()
        elif empty:
            here = there = here - 2 * here.max()
        share = (place - below) / (above - below) if above > below else 0.0
        near = (np.abs(here) < NEAR) | (np.abs(there) < NEAR)
        moved = float(np.abs(here - there)[near].mean()) if near.any() else 0.0
        return ((1 - share) * here + share * there) / max(SHARE_A_LOGIT * moved, LEAST)

    def without(self, place: float) -> "ShapePrior":
        """The same from the other slices."""
        return ShapePrior({each: mask for each, mask in self.masks.items() if each != place})

    def _bound(self, place: float, step: float) -> Float[np.ndarray, "h w"] | None:
        """The most that may be said beyond the outermost slices: the structure narrows by 45 degrees on either side.

        Of a single slice nothing is known of how the structure goes on.
        """
        if len(self._showing) < FEWEST:
            return None
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
            mask = self.masks[place]
            signed = distance_transform_edt(mask) - distance_transform_edt(~mask) + np.where(mask, -0.5, 0.5)
            self._distances[place] = signed.astype(np.float32)
        return self._distances[place]
