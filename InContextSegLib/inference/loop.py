"""The loop of corrections: slices that a user applied stand beside the next one, which then needs fewer clicks."""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt

from InContextSegLib.examples.support import Example, Label, SupportSet
from InContextSegLib.inference.cached import BoundedCache, CachedSegmenter
from InContextSegLib.inference.interactive import Answer, InteractiveSlice
from InContextSegLib.slices.boxes import extent_of
from InContextSegLib.slices.intensities import Scale
from InContextSegLib.slices.plan import Box, SlicePlan
from InContextSegLib.slices.prompts import Prompts
from InContextSegLib.volumes.geometry import Kind, Volume

# A slice is looked at in a window that is so many times as large as what its examples show there: a structure of few
# pixels becomes one of fifty (docs/benchmarks.md).
ZOOM = 2.5
FEWEST_VOXELS = 24  # along a side of that window; finer there is nothing to see
# What a pixel inside the outline of the nearest applied slice adds to its logit, for every pixel from that outline, as
# far as that slice is the next one; half as much from the one behind.
OUTLINE = 0.5
CERTAIN = 6.0  # no logit counts for more where answers are put together; what a user drew counts as much
SURE = 1e-4  # a probability is at least so far from 0 and 1, where its logit is asked for
SLICE_BYTES, EXAMPLE_BYTES, OPENING_BYTES = 64 << 20, 64 << 20, 32 << 20


@dataclass(frozen=True, eq=False)
class Cut:
    """An image as its slices are cut: whole, along one axis, at the network's size.

    Attributes:
        read: gives the image, which is not held here.
    """

    read: Callable[[], Volume]
    scale: Scale
    plan: SlicePlan

    def within(self, box: Box | None) -> SlicePlan:
        """The plan of the same slices inside a window."""
        plan = self.plan
        return plan if box is None else SlicePlan.of(plan.geometry, plan.axis, plan.size, box)

    def window(self, extent: Box, side_mm: float) -> Box | None:
        """The square window of that side about the middle of an extent, moved inside the image; None: all of it."""
        shape, across = self.plan.geometry.shape, self.plan.array_axis
        low, high = [0, 0, 0], list(shape)
        for axis in {0, 1, 2} - {across}:
            length = max(int(np.ceil(side_mm / self.plan.geometry.spacing_mm[axis])), FEWEST_VOXELS)
            if length < shape[axis]:
                start = (extent[0][axis] + extent[1][axis] - length) // 2
                low[axis] = min(max(start, 0), shape[axis] - length)
                high[axis] = low[axis] + length
        return None if tuple(high) == shape and not any(low) else (tuple(low), tuple(high))


@dataclass(frozen=True, eq=False)
class Labelled:
    """One labelled slice that may be shown beside another.

    Attributes:
        example: all of it as a picture, by which it is chosen.
        own: whether it is a slice of the target.
        extent: where the label lies in the slice; None: nowhere.
        mask: the label, as far as its extent reaches.
    """

    example: Example
    cut: Cut
    number: int
    own: bool
    extent: Box | None
    mask: Bool[np.ndarray, "k j i"]

    @classmethod
    def of(cls, cut: Cut, example: Example, number: int, mask: Bool[np.ndarray, "k j i"], own: bool) -> "Labelled":
        """A slice with the label's mask, of length 1 across the slice."""
        extent = extent_of(mask)
        return cls(example, cut, number, own, extent, mask[tuple(map(slice, *extent))].copy() if extent else mask[:0])

    def whole(self) -> Bool[np.ndarray, "k j i"]:
        """The mask on all of the slice."""
        mask = np.zeros(self.cut.plan.part(self.number, self.number + 1).geometry.shape, bool)
        if self.extent:
            mask[tuple(map(slice, *self.extent))] = self.mask
        return mask

    def picture(self, box: Box | None) -> Example:
        """The slice inside a window, the label as 1."""
        plan = self.cut.within(box)
        alone = plan.part(self.number, self.number + 1)
        labels = alone.extract_labels(Volume(self.whole().astype(np.uint8), alone.geometry, Kind.LABELS))[0]
        image = plan.extract(self.cut.read(), self.cut.scale, [self.number])[0]
        channels = plan.channels(self.cut.read(), self.cut.scale, [self.number])[0]
        return replace(self.example, image=image, labels=labels, channels=channels)


class LoopMemory:
    """A network for clicks, with the slices and examples that it has seen, within budgets of memory."""

    def __init__(self, network: CachedSegmenter):
        self.network = network
        self.slices = BoundedCache(SLICE_BYTES)
        self.pictures = BoundedCache(EXAMPLE_BYTES)
        self._examples = BoundedCache(EXAMPLE_BYTES)

    def same(self, example: Example) -> Example:
        """The one example that stands for all that look like this one, so that its context is found again."""
        digest = hashlib.blake2b(digest_size=16)
        for picture in example.pictures:
            digest.update(np.ascontiguousarray(picture))
        digest.update(np.packbits(example.labels != 0).tobytes())
        return self._examples.get(digest.digest(), lambda: _Kept(example, example.size_bytes)).value


class Loop:
    """One label of one target, cut along one axis, before a network and labelled slices.

    The same slices, prompts and answers give the same answer.

    Args:
        target: a name of it, the same as long as its image and its scale are the same.
        labelled: slices of the target and of others.
    """

    def __init__(self, memory: LoopMemory, target: Hashable, cut: Cut, labelled: Sequence[Labelled]):
        self.cut = cut
        self._memory, self._target, self._labelled = memory, target, tuple(labelled)
        self._openings = BoundedCache(OPENING_BYTES)
        self._order = {each: place for place, each in enumerate(self._labelled)}
        self.applied = {each.number: each for each in self._labelled if each.own}

    def chosen(self, number: int, count: int) -> tuple[Labelled, ...]:
        """At most `count` labelled slices to stand beside a slice, never the slice itself.

        The nearest applied ones, one on either side, and those that resemble the slice most, by appearance and
        position.
        """
        itself = number in self.applied
        if count < 1 or len(self._labelled) == itself:
            return ()
        here = self.slice(number, None)
        best = self._beside(number, self.applied.values())
        best += [self._labelled[index] for index in self._support.select(here.image, here.position, count + itself)]
        wanted = [each for each in dict.fromkeys(best) if not (each.own and each.number == number)][:count]
        return tuple(sorted(wanted, key=self._order.__getitem__))

    def opening(self, number: int, chosen: Sequence[Labelled]) -> Answer | None:
        """What a slice holds before a user said anything: what was drawn there, or what the labelled slices say.

        The outlines in the nearest slices of the target count as evidence, the less the farther these are.

        Returns:
            None where nothing is drawn, and no labelled slice shows the label.
        """
        if number in self.applied:
            drawn = self.applied[number].whole().astype(np.float32)
            return Answer((2 * self.slice(number, None).seen(drawn) - 1) * CERTAIN, drawn)
        if not any(each.extent for each in chosen):
            return None

        def opened() -> "_Kept":
            box, side_mm = self._window(chosen, Prompts())
            here = self.slice(number, box)
            logits = here.logits(Prompts(), None, self._shown(chosen, box, side_mm))
            answer = here.answer(logits + self._outlines(number, chosen, box))
            return _Kept(answer, answer.logits.nbytes + answer.probability.nbytes)

        return self._openings.get((number, tuple(chosen)), opened).value

    def segment(
        self,
        number: int,
        prompts: Prompts,
        previous: Float[np.ndarray, "k j i"] | None,
        chosen: Sequence[Labelled],
        alone: bool = True,
    ) -> Answer:
        """What a slice holds by all prompts so far, the last answer's probability, and labelled slices.

        Beside examples a network hardly moves for a click, without them it forgets what they taught: the logits are the
        mean of both.

        Args:
            alone: whether the network can answer without examples.

        Raises:
            InputError: if the network takes no such prompts, or one lies outside the image.
        """
        box, side_mm = self._window(chosen, prompts)
        here, examples = self.slice(number, box), self._shown(chosen, box, side_mm)
        last = None
        if previous is not None:
            seen = np.clip(here.seen(previous), SURE, 1 - SURE)
            last = np.log(seen / (1 - seen))
        shows = any(example.labels.any() for example in examples)
        contexts = ([examples] if shows else []) + ([()] if alone or not shows else [])
        logits = [np.clip(here.logits(prompts, last, context), -CERTAIN, CERTAIN) for context in contexts]
        return here.answer(np.mean(logits, axis=0))

    def labelled(self, number: int, mask: Bool[np.ndarray, "k j i"], name: str = "target") -> Labelled:
        """A slice of the target with a mask, to stand beside others."""
        here, plan = self.slice(number, None), self.cut.plan
        source = f"{name} {plan.axis} {plan.slice_index(number)}"
        blank = np.zeros(here.image.shape, np.uint16)
        example = Example(here.image, blank, here.position, source, channels=here.channels)
        return Labelled.of(self.cut, example, number, mask, own=True)

    def slice(self, number: int, box: Box | None) -> InteractiveSlice:
        """A slice inside a window, with its embedding."""
        key = (self._target, self.cut.plan.axis, self.cut.plan.size, number, box)

        def opened() -> "_Kept":
            here = InteractiveSlice(self._memory.network, self.cut.read(), self.cut.scale, self.cut.within(box), number)
            return _Kept(here, 4 * here.image.nbytes)

        return self._memory.slices.get(key, opened).value

    @cached_property
    def _support(self) -> SupportSet:
        plan, examples = self.cut.plan, tuple(each.example for each in self._labelled)
        return SupportSet(examples, (Label(1, "wanted"),), plan.axis, plan.size)

    def _window(self, chosen: Sequence[Labelled], prompts: Prompts) -> tuple[Box | None, float]:
        """Where to look: where the chosen slices of the target show the label, and where the user pointed."""
        if not self._memory.network.any_view:
            return None, 0.0
        own = [each.extent for each in chosen if each.own and each.extent]
        if not own:
            return None, 0.0
        extent = _united(own)
        box = self.cut.window(extent, ZOOM * self._edge_mm(extent))
        said = prompts.extent(self.cut.plan.geometry)
        if box is not None and said is not None and _united([box, said]) != box:
            extent = _united([box, said])
            box = self.cut.window(extent, self._edge_mm(extent))
        return box, 0.0 if box is None else self._edge_mm(box)

    def _edge_mm(self, extent: Box) -> float:
        """The longest edge of an extent in the plane of the slices."""
        plan = self.cut.plan
        edges = (np.array(extent[1]) - extent[0]) * plan.geometry.spacing_mm
        return float(np.delete(edges, plan.array_axis).max())

    def _shown(self, chosen: Sequence[Labelled], box: Box | None, side_mm: float) -> tuple[Example, ...]:
        """The chosen slices as pictures: in the same window, or in one as large where another patient shows the label.

        What another patient does not show has no place to look at.
        """
        windows = []
        for each in chosen:
            if each.own or box is None:
                windows.append((each, box))
            elif each.extent:
                windows.append((each, each.cut.window(each.extent, side_mm)))
        return tuple(self._picture(each, window) for each, window in windows)

    def _picture(self, each: Labelled, box: Box | None) -> Example:
        def cut() -> "_Kept":
            picture = self._memory.same(each.picture(box))
            return _Kept(picture, picture.size_bytes)

        return self._memory.pictures.get((each, box), cut).value

    def _beside(self, number: int, labelled: Iterable[Labelled]) -> list[Labelled]:
        """The nearest slices of the target, one on either side, that show the label."""
        nearest = {}
        for each in labelled:
            if each.own and each.number != number and each.extent:
                side, apart = each.number > number, abs(each.number - number)
                if side not in nearest or apart < abs(nearest[side].number - number):
                    nearest[side] = each
        return list(nearest.values())

    def _outlines(self, number: int, chosen: Sequence[Labelled], box: Box | None) -> Float[np.ndarray, "h w"]:
        """What the outlines in the slices beside a slice add to its logits."""
        evidence = np.zeros((self.cut.plan.size,) * 2, np.float32)
        for each in self._beside(number, chosen):
            mask = self._picture(each, box).labels == 1
            if mask.any():
                evidence += OUTLINE / abs(each.number - number) * signed_distance(mask)
        return evidence


@dataclass(frozen=True, eq=False)
class _Kept:
    value: object
    size_bytes: int


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """(h, w) pixels from the outline of a mask that is not empty, negative outside; half a pixel beside the outline."""
    return np.where(mask, distance_transform_edt(mask) - 0.5, 0.5 - distance_transform_edt(~mask))


def _united(extents: Sequence[Box]) -> Box:
    low, high = zip(*extents, strict=True)
    return tuple(map(min, *low)) if len(low) > 1 else low[0], tuple(map(max, *high)) if len(high) > 1 else high[0]
