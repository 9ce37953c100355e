"""The labelled pictures a model learns a task from: cut from labelled volumes or images, selected, fingerprinted."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from InContextSegLib.errors import InputError
from InContextSegLib.examples.labelled import LabelledVolume, extent, known_labels, mismatch, require_labels
from InContextSegLib.examples.similarity import Appearance, dissimilarity
from InContextSegLib.slices.body import Field, field_about, planned
from InContextSegLib.slices.intensities import Intensities, Scale
from InContextSegLib.slices.plan import SliceChoice, SlicePlan, same_grid, stored_axis
from InContextSegLib.volumes.geometry import Kind, Volume, any_along

logger = logging.getLogger(__name__)

# Fewer neighbouring labelled slices than this look like single drawn slices that touch, not a finished volume.
SHORTEST_FINISHED_RUN = 5

# Random draws weigh an example by exp(score / temperature); lower draws keep closer to the best examples.
_TEMPERATURE = 0.5
_NAMED_AT_MOST = 5


@dataclass(frozen=True)
class Label:
    """A value in the label pictures (1 to 65535) and what it is called."""

    value: int
    name: str

    def __post_init__(self) -> None:
        if not 0 < self.value < 2**16:
            raise InputError(
                f"A label's value must be from 1 to 65535 (0 is background), but '{self.name}' has {self.value}."
            )


@dataclass(frozen=True, eq=False)
class Example:
    """One labelled picture.

    Attributes:
        image: (size, size) float32 in [0, 1].
        labels: (size, size) uint16, all labels of that picture that it tells of.
        position: relative position along the slice axis in [0, 1] (see `SlicePlan.positions`); None for a 2D image.
        source: where it comes from, for people: "case3.nii.gz axial 57".
        known: values of the labels that it tells of, where they are and where not; None: of all.
        level: where along the body it lies, comparable between volumes (`adaptation.levels`); None: not known.
        channels: what a network with three channels sees, as large as the image: red, green and blue, or the slices
            before, at and behind this one; None: the image in each.
    """

    image: np.ndarray
    labels: np.ndarray
    position: float | None
    source: str
    known: frozenset[int] | None = None
    channels: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    level: float | None = None

    def __post_init__(self) -> None:
        if self.image.ndim != 2 or self.image.shape[0] != self.image.shape[1] or self.image.shape != self.labels.shape:
            raise InputError(
                f"An example needs a square image and labels of the same size, but {self.source} has "
                f"{self.image.shape} and {self.labels.shape}."
            )
        if self.image.dtype != np.float32 or self.labels.dtype != np.uint16:
            raise InputError(
                f"An example's image must be float32 and its labels uint16, but {self.source} has "
                f"{self.image.dtype} and {self.labels.dtype}."
            )
        # Written this way round because a comparison with NaN is false.
        if not (self.image.min() >= 0 and self.image.max() <= 1):
            raise InputError(
                f"An example's image must lie in [0, 1], but that of {self.source} does not; scale it first."
            )
        if self.channels is not None and {each.shape for each in self.channels} != {self.image.shape}:
            raise InputError(f"The channels of an example must be as large as its image, but {self.source} has others.")
        if self.known is not None:
            object.__setattr__(self, "labels", self.labels * np.isin(self.labels, list(self.known)))
        for name in ("image", "labels"):
            view = getattr(self, name).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    @property
    def picture(self) -> np.ndarray:
        """(3, size, size) float32 in [0, 1]: the channels."""
        return np.stack(self.channels or (self.image,) * 3)

    @property
    def place(self) -> float | None:
        """Where it lies for what compares volumes: its level along the body, or else its position in the volume."""
        return self.position if self.level is None else self.level

    @property
    def pictures(self) -> tuple[np.ndarray, ...]:
        """The image, and those of the channels that are others."""
        return (self.image, *(each for each in self.channels or () if each is not self.image))

    @property
    def size_bytes(self) -> int:
        """Of its pictures and labels in memory."""
        return self.labels.nbytes + sum(each.nbytes for each in self.pictures)

    def tells(self, value: int) -> bool:
        """Whether it says where the label of that value is; else that it shows none means nothing."""
        return self.known is None or value in self.known


@dataclass(frozen=True, eq=False)
class SupportSet:
    """Examples of one size, cut along one axis, and the labels that may be asked of them.

    Attributes:
        field: of view, the same for all volumes; None: every volume's slices fill the pictures.

    Raises:
        InputError: if there are no examples or no labels, a label's value comes twice, or an example has another size.
    """

    examples: tuple[Example, ...]
    labels: tuple[Label, ...]
    axis: str
    size: int
    field: Field | None = None

    def __post_init__(self) -> None:
        if not self.examples:
            raise InputError("A support set needs at least one example, but it has none; label a slice or choose more.")
        if not self.labels:
            raise InputError("A support set needs at least one label, but it has none; name the label to segment.")
        values = [label.value for label in self.labels]
        if len(set(values)) < len(values):
            raise InputError(f"Each label value may be asked for once, but {values} came.")
        for example in self.examples:
            if example.image.shape[0] != self.size:
                raise InputError(
                    f"The support set holds pictures of {self.size} pixels, but {example.source} has "
                    f"{example.image.shape[0]}; cut it to the same size."
                )

    def __len__(self) -> int:
        return len(self.examples)

    @classmethod
    def from_volumes(
        cls,
        pairs: Sequence[LabelledVolume],
        axis: str = "axial",
        size: int = 128,
        slices: SliceChoice = "auto",
        intensities: Intensities = Intensities(),  # noqa: B008 - frozen
        labels: Sequence[Label] | None = None,
        field: Field | None = None,
    ) -> "SupportSet":
        """Cut labelled volumes, which may differ in size, spacing and orientation, into examples.

        `slices` is one of
        - "auto": all slices of a volume whose labelled ones form one unbroken run of at least `SHORTEST_FINISHED_RUN`,
          since it then looks finished and its empty slices are true negatives; otherwise only the labelled ones.
          The choice is logged;
        - "labelled": the slices that carry any label, whether asked for or not;
        - "all";
        - a step n: the slices whose index is a multiple of n;
        - a tuple of slice indices, for a single volume.
        Indices count along the stored array's axis, as viewers of the file do. Slices of a volume that shows some
        labels tell of these alone (`known_labels`), unless the volume says of which or they are named by indices.

        Args:
            pairs: images with their labels.
            axis: one of `slicing.AXES`.
            size: rows and columns of the pictures.
            slices: which slices become examples.
            intensities: how each volume is brought to [0, 1].
            labels: what may be segmented; None means every value that the chosen slices hold, named "label 3".
            field: of view in all volumes (`field_of`); None: their slices fill the pictures.

        Raises:
            InputError: if image and labels lie on different grids, `slices` does not fit the volumes, all masks are
                empty or a label is absent.
        """
        if isinstance(slices, tuple) and len(pairs) != 1:
            raise InputError(f"Slice indices can be named for a single volume only, but {len(pairs)} volumes came.")
        examples = []
        for pair in pairs:
            chosen = slices if pair.slices is None else pair.slices
            told = replace(pair, slices=chosen)
            told = replace(told, known=known_labels(told))
            examples += slices_of(told, axis, size, intensities.of(pair.image.array), field)
        return cls(tuple(examples), _available(examples, labels), axis, size, field)

    @classmethod
    def from_images(
        cls,
        pairs: Sequence[LabelledVolume],
        size: int = 128,
        intensities: Intensities = Intensities(),  # noqa: B008 - frozen
        labels: Sequence[Label] | None = None,
    ) -> "SupportSet":
        """Make every 2D image (a volume of one slice, k = 1) an example without a position.

        Only the pixel counts of an image and its labels must agree: picture files rarely carry a spacing, and the
        image's holds for both.

        Raises:
            InputError: if a volume has more slices, the pixel counts differ, all masks are empty or a label is absent.
        """
        examples = [picture_of(pair, size, intensities.of(pair.image.array)) for pair in pairs]
        axis = stored_axis(pairs[0].image.geometry) if pairs else "axial"
        return cls(tuple(examples), _available(examples, labels), axis, size)

    def images(self, indices: Sequence[int] | None = None) -> np.ndarray:
        """Return (n, size, size) float32 images of all examples, or of those at `indices` in that order."""
        return np.stack([example.image for example in self._at(indices)])

    def telling(self, value: int) -> tuple[int, ...]:
        """Indices of the examples that tell of a label."""
        return tuple(index for index, example in enumerate(self.examples) if example.tells(value))

    def select(
        self,
        image: np.ndarray,
        position: float | None,
        count: int,
        generator: np.random.Generator | None = None,
        among: Sequence[int] | None = None,
    ) -> tuple[int, ...]:
        """Return indices of `count` examples that resemble a picture, the most preferred first.

        The score adds two distances, each standardised over the set so that neither dominates: appearance (blurred
        16 x 16 thumbnails and grey value distributions, half each) and, where both sides know one, position along the
        slice axis. Whether an example shows the label plays no part: neighbours in position and appearance without the
        label are what teaches where it ends.

        Args:
            image: (size, size) in [0, 1], the picture to segment.
            position: its place (`Example.place`), None if it has none.
            count: how many are wanted; where there are no more the answer is all of them in stored order.
            generator: None for the best `count`; otherwise an independent weighted draw without replacement
                (the Gumbel top-k trick, Kool et al. 2019), one per call.
            among: indices to choose from, in stored order; None: all.

        Raises:
            InputError: if the picture has another size or `count` is below 1.
        """
        if np.shape(image) != (self.size, self.size):
            raise InputError(
                f"The support set holds pictures of {self.size} pixels, but one of shape {np.shape(image)} came."
            )
        if count < 1:
            raise InputError(f"At least one example must be selected, but {count} were asked for.")
        among = range(len(self)) if among is None else among
        if count >= len(among):
            return tuple(among)
        one = Appearance.of(np.asarray(image, dtype=np.float32)[None])
        positions = [self.examples[index].place for index in among]
        score = -dissimilarity(self.appearance.at(among), one, positions, position)
        if generator is not None:
            score = score / _TEMPERATURE + generator.gumbel(size=len(among))
        return tuple(among[place] for place in np.argsort(-score, kind="stable")[:count])

    def without(self, indices: Sequence[int]) -> "SupportSet":
        """Return a set that lacks the examples at `indices`."""
        dropped = set(indices)
        return replace(self, examples=tuple(e for n, e in enumerate(self.examples) if n not in dropped))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of images, labels, what they tell of, positions and label values; not of names and sources."""
        digest = hashlib.sha256(np.array([self.size, len(self), len(self.labels)], "<i8").tobytes())
        digest.update(np.array([label.value for label in self.labels], "<i8").tobytes())
        for example in self.examples:
            # An example without a position counts as -1, which no position can be.
            digest.update(np.array(-1.0 if example.position is None else example.position, "<f8").tobytes())
            for picture in example.pictures:
                digest.update(np.ascontiguousarray(picture, "<f4").tobytes())
            digest.update(np.ascontiguousarray(example.labels, "<u2").tobytes())
            if example.level is not None:
                digest.update(f"level {example.level:.6f}".encode())
            if example.known is not None:
                digest.update(f"knows {sorted(example.known)}".encode())
        return digest.hexdigest()

    @cached_property
    def appearance(self) -> Appearance:
        """What the examples look like."""
        return Appearance.of(self.images())

    def ranked(self, index: int, among: Sequence[int]) -> tuple[int, ...]:
        """The indices in `among`, those whose examples resemble the one at `index` most first; as `select` does."""
        if not among:
            return ()
        one, own = self.appearance.at([index]), self.examples[index].place
        positions = [self.examples[other].place for other in among]
        order = np.argsort(dissimilarity(self.appearance.at(among), one, positions, own), kind="stable")
        return tuple(among[place] for place in order)

    def _at(self, indices: Sequence[int] | None) -> tuple[Example, ...]:
        if indices is None:
            return self.examples
        return tuple(self.examples[index] for index in indices)


def field_of(
    pairs: Sequence[LabelledVolume], axis: str, intensities: Intensities, labels: Sequence[Label] | None = None
) -> Field | None:
    """The field of view that shows the labels in all volumes at one scale (`slices.body`).

    None where the slices show little else, and where there are only pictures, or slices of the target itself, which
    are at its scale already.
    """
    if not any(pair.may_be_finished for pair in pairs):
        return None
    volumes = [pair for pair in pairs if 1 not in pair.image.geometry.shape and pair.labels.kind is Kind.LABELS]
    volumes = [pair for pair in volumes if same_grid(pair.image.geometry, pair.labels.geometry)]
    wanted = None if labels is None else [label.value for label in labels]
    masks = (pair.labels.array > 0 if wanted is None else np.isin(pair.labels.array, wanted) for pair in volumes)
    return field_about([pair.image for pair in volumes], masks, axis, intensities)


def slices_of(pair: LabelledVolume, axis: str, size: int, scale: Scale, field: Field | None = None) -> list[Example]:
    """The examples that a labelled volume gives: its `slices`, or as "auto" chooses (`SupportSet.from_volumes`).

    Args:
        scale: brings the intensities of the whole volume to [0, 1].
        field: of view; None: the slices fill the pictures.

    Raises:
        InputError: if image and labels lie on different grids, or the slices are not there.
    """
    require_labels(pair)
    if not same_grid(pair.image.geometry, pair.labels.geometry):
        raise InputError(mismatch(pair))
    plan = planned(pair.image, scale, axis, size, field)
    return _cut(pair, plan, _chosen_slices(pair, plan, "auto" if pair.slices is None else pair.slices), scale)


def picture_of(pair: LabelledVolume, size: int, scale: Scale) -> Example:
    """The example that a labelled 2D image gives (`SupportSet.from_images`).

    Raises:
        InputError: if it has more slices than one, or other labels than pixels.
    """
    geometry = pair.image.geometry
    if geometry.shape[0] != 1:
        raise InputError(
            f"A 2D image was asked for, but {pair.source} is a volume of {extent(geometry)}; cut it with from_volumes."
        )
    require_labels(pair)
    if geometry.shape != pair.labels.geometry.shape:
        raise InputError(mismatch(pair))
    flat = replace(pair, labels=Volume(pair.labels.array, geometry, Kind.LABELS))
    (example,) = _cut(flat, SlicePlan.of(geometry, stored_axis(geometry), size), range(1), scale)
    return replace(example, position=None, source=pair.source)


def _chosen_slices(pair: LabelledVolume, plan: SlicePlan, slices: SliceChoice) -> Sequence[int]:
    """Slice numbers of one volume; see `SupportSet.from_volumes`."""
    if slices == "all":
        return range(plan.count)
    if slices in ("auto", "labelled"):
        labelled = _labelled_slices(pair.labels, plan)
        if slices == "auto" and _looks_finished(pair, labelled, plan):
            logger.info("%s: labelled without a gap, so all %d %s slices are used.", pair.source, plan.count, plan.axis)
            return range(plan.count)
        logger.info("%s: the %d labelled %s slices are used.", pair.source, labelled.size, plan.axis)
        return labelled.tolist()
    if isinstance(slices, tuple):
        return [plan.number(index) for index in dict.fromkeys(slices)]
    if isinstance(slices, int) and not isinstance(slices, bool) and slices > 0:
        return [number for number in range(plan.count) if plan.slice_index(number) % slices == 0]
    raise InputError(
        f"Slices are chosen by 'auto', 'labelled', 'all', a step from 1 up or a tuple of indices, but {slices!r} came."
    )


def is_finished(pair: LabelledVolume, axis: str) -> bool:
    """Whether a volume counts as labelled completely: one unbroken run of slices, or all of them, of every label."""
    plan = SlicePlan.of(pair.labels.geometry, axis)
    whole = pair.slices in (None, "auto", "all") and pair.known is None
    return whole and _looks_finished(pair, _labelled_slices(pair.labels, plan), plan)


def _looks_finished(pair: LabelledVolume, labelled: np.ndarray, plan: SlicePlan) -> bool:
    run = int(labelled[-1] - labelled[0]) + 1 if labelled.size else 0
    unbroken = run == labelled.size >= SHORTEST_FINISHED_RUN or labelled.size == plan.count
    return unbroken and pair.may_be_finished


def _labelled_slices(labels: Volume, plan: SlicePlan) -> np.ndarray:
    """(n,) slice numbers that carry any label, in ascending order."""
    indices = np.flatnonzero(any_along(labels.array, plan.array_axis))
    return np.sort([plan.number(int(index)) for index in indices]).astype(np.intp)


def _cut(pair: LabelledVolume, plan: SlicePlan, numbers: Sequence[int], scale: Scale) -> list[Example]:
    channels = plan.channels(pair.image, scale, numbers)
    images = plan.extract(pair.image, scale, numbers) if pair.image.colours is not None else None
    labels = plan.extract_labels(pair.labels, numbers)
    places = [(float(plan.positions[number]), plan.slice_index(number)) for number in numbers]
    return [
        Example(
            channels[place][1] if images is None else images[place],
            labels[place],
            position,
            f"{pair.source} {plan.axis} {index}",
            pair.known,
            channels[place],
        )
        for place, (position, index) in enumerate(places)
    ]


def _available(examples: Sequence[Example], labels: Sequence[Label] | None) -> tuple[Label, ...]:
    """The labels asked for, or all that the examples hold; refuses what no example holds."""
    held = sorted(set().union(*(np.unique(example.labels).tolist() for example in examples)) - {0})
    if not held:
        raise InputError(
            f"A support set needs labelled pictures, but none of the {len(examples)} chosen holds a label; "
            "choose slices where the labels are not empty."
        )
    if labels is None:
        return tuple(Label(value, f"label {value}") for value in held)
    for label in labels:
        if label.value not in held:
            raise InputError(
                f"Label {label.value} ({label.name}) is in none of the examples, which hold {listed(held)}; "
                "ask for one of these or choose slices that show it."
            )
    return tuple(labels)


def listed(items) -> str:
    """Some of the items, and how many more there are."""
    items = [str(item) for item in items]
    more = f" and {len(items) - _NAMED_AT_MOST} more" if len(items) > _NAMED_AT_MOST else ""
    return ", ".join(items[:_NAMED_AT_MOST]) + more
