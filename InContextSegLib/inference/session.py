"""A session: one network and the examples of one task, ready to segment volume after volume."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from weakref import WeakKeyDictionary

import numpy as np
import torch
from scipy.special import expit

from InContextSegLib import __version__
from InContextSegLib.errors import InputError
from InContextSegLib.examples.origins import spread_evenly, units
from InContextSegLib.examples.similarity import Coverage
from InContextSegLib.examples.support import Example, SupportSet
from InContextSegLib.inference.aggregate import (
    REACH,
    AxisMaps,
    Canvas,
    Prediction,
    SlicePrediction,
    fuse,
    in_blocks,
    moments,
    most_worth_labelling,
    percent,
    smooth,
)
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.inference.postprocessing import without_islands
from InContextSegLib.inference.prior import Prior, Style
from InContextSegLib.inference.settings import AUTO_AXIS, InferenceSettings
from InContextSegLib.inference.target import OwnSlices, Pictures, TargetAxis, Told
from InContextSegLib.models.networks import SliceSegmenter
from InContextSegLib.progress import Report
from InContextSegLib.slices.body import planned
from InContextSegLib.slices.boxes import slab
from InContextSegLib.slices.intensities import Intensities, Scale
from InContextSegLib.slices.plan import AXES, Box, SlicePlan
from InContextSegLib.volumes.geometry import Kind, Volume

log = logging.getLogger(__name__)
Chosen = Sequence[Example]

# Every further draw also looks at everything mirrored: it costs nothing and tells luck from evidence.
FLIPS = ((), (-1,), (-2,), (-2, -1))
# Where all examples fit into one draw, the further draws leave out a third of them.
SHARE_REDRAWN = 2 / 3
BLOCK_BYTES = 16 << 20  # of all maps of some slices, or of one at the target's resolution, to which they are brought
# What one slice may take when it is wanted quickly: so many pictures of 128 x 128 pixels, a third of a second on two
# cores; the slice itself takes the time of as many examples (docs/benchmarks.md).
REFERENCE_SIZE, QUICK_PICTURES, QUERY_PICTURES = 128, 55, 8


class Session:
    """Holds a network, the examples, and what was computed from either, within fixed budgets of memory.

    Args:
        segmenter: the network, with its weights.
        supports: one support set for every axis of the settings that are to be used, with the same labels.
        intensities: how the target's grey values become [0, 1]; the same as for the examples.
        provenance: what to say about the network (catalogue entry, weights' sha256).
        device: where the network computes; it is moved there.
        prior: what is known of the task beforehand; None: nothing.
        drawn_axis: along which people labelled slices of targets; None: the first one of the support sets.
    """

    def __init__(
        self,
        segmenter: SliceSegmenter,
        supports: Sequence[SupportSet],
        intensities: Intensities,
        provenance: Mapping[str, str],
        device: torch.device,
        prior: Prior | None = None,
        drawn_axis: str | None = None,
    ):
        self.network = CachedSegmenter(segmenter, device)
        self.supports = {support.axis: support for support in supports}
        self.labels = supports[0].labels
        self.size = supports[0].size
        self.intensities, self.provenance, self.device = intensities, dict(provenance), device
        prior = prior or Prior()
        self.calibration, self.foresight, self._judge = prior.calibration, prior.foresight, prior.judge
        self._pieces, self.millilitres, self._levels = prior.pieces, prior.millilitres, prior.levels
        self.drawn_axis = drawn_axis or supports[0].axis
        self._coverages: dict[str, Coverage] = {}
        self.styles: dict[tuple[str, int], Style] = {}
        self._owned: WeakKeyDictionary[Volume, dict[tuple[str, Scale], OwnSlices]] = WeakKeyDictionary()

    @torch.inference_mode()
    def segment(
        self,
        volume: Volume,
        settings: InferenceSettings,
        report: Report,
        box: Box | None = None,
        keep_probabilities: bool = False,
        scale: Scale | None = None,
    ) -> Prediction:
        """Segment a volume, or the part of it inside `box` ((k, j, i) low inclusive, high exclusive).

        The same volume, examples, settings and seed give the same prediction.

        Args:
            scale: of the whole volume, where it is known; None: found here.

        Raises:
            Cancelled: from `report`.
            InputError: if the settings name an axis along which there are no examples.
        """
        settings = self.calibrated(settings)
        scale = scale or self.intensities.of(volume.array)
        extend = settings.extend or box is not None  # who says how far to go says that labels may go that far
        axes = [self._axis(volume, scale, name, box, extend) for name in self._axis_names(settings)]
        if settings.style and self.network.channels > 1:
            log.warning("A model that sees colours or neighbouring slices takes no style; the target stays as it is.")
        elif settings.style:
            axes = [self._styled(axis, settings, report) for axis in axes]
        progress = _Progress(report, settings.draws * sum(axis.plan.count for axis in axes))
        canvas = Canvas(
            volume.geometry, self.labels, axes[0].plan.array_axis, box, settings.draws * len(axes), keep_probabilities
        )
        for maps in self._maps(axes, settings, progress):
            first, count = maps[0].first, maps[0].plan.geometry.shape[axes[0].plan.array_axis]
            within = canvas.wanted(first, count)
            canvas.add(fuse(maps, self.labels, settings.threshold, keep_probabilities, within), first)
        removed = None
        if settings.postprocess and self._pieces:
            canvas.labels, removed = without_islands(canvas.labels, self._pieces)
        axes[0].warn_of_negative()
        axes[0].warn_of_edge(canvas.labels)
        prediction = self._prediction(canvas, axes, settings, removed)
        progress.step("segmented")
        return prediction

    @torch.inference_mode()
    def segment_slice(
        self, volume: Volume, scale: Scale, axis: str, index: int, settings: InferenceSettings
    ) -> SlicePrediction:
        """Segment one slice alone, at `index` along the array axis, in about a third of a second on two cores.

        The answer is that of `segment` along this axis, from the same examples; without style, smoothing and what is
        left out of a whole result, as these need other slices, and with fewer draws and examples where all would take
        too long (`quick`).

        Args:
            scale: of the whole volume.

        Raises:
            InputError: if there is no such slice.
        """
        whole = planned(volume, scale, axis, self.size, self.supports[axis].field)
        number = whole.number(index)
        start, stop = next(run for run in _runs(whole, settings.slices_at_once) if number < run[1])
        ends = [whole.slice_index(each) for each in (start, stop - 1)]
        beside = self._axis(volume, scale, axis, slab(volume.geometry, axis, (min(ends), max(ends))), settings.extend)
        here = number - start
        settings = self._quick(beside, self.calibrated(settings))
        run, wanted = (0, stop - start), (here, here + 1)
        drawn = (self._members(beside, settings, draw, run, wanted) for draw in range(settings.draws))
        mean, square = moments(drawn, settings.draws)
        own = whole.part(number, number + 1)
        fused = fuse([AxisMaps(own, mean, square)], self.labels, settings.threshold, keep_probabilities=False)
        return SlicePrediction(
            mask=Volume(fused.labels, own.geometry, Kind.LABELS),
            uncertainty=Volume(percent(fused.spread), own.geometry, Kind.INTENSITY) if settings.draws > 1 else None,
            draws=settings.draws,
            supports=settings.supports,
            given=here in beside.known,
            partly=_partly({index: beside.known[here]}) if here in beside.known else {},
            unlike=bool(self._unlike(beside, here, here + 1)),
        )

    def condition(self, axis: str, settings: InferenceSettings, report: Report) -> None:
        """Compute beforehand what `segment_slice` needs of the examples, as far as there is memory for it.

        Raises:
            Cancelled: from `report`.
        """
        support, labels = self.supports[axis], range(len(self.labels))
        settings = self.calibrated(replace(settings, supports=min(settings.supports, len(support))))
        draws = quick(settings, self.size, 1, self.network.additive).draws
        told = [[support.examples[index] for index in support.telling(label.value)] for label in self.labels]
        keys = [(example, label, draw) for draw in range(draws) for label in labels for example in told[label]]
        size_bytes = self._context(keys[0][1], keys[0][:1], 0).size_bytes
        fitting = spread_evenly(range(len(keys)), int(self.network.contexts.budget_bytes // size_bytes))
        for done, place in enumerate(fitting):
            report.step(done, len(fitting), "the network looks at the examples")
            example, label, draw = keys[place]
            self._context(label, (example,), draw)

    def calibrated(self, settings: InferenceSettings) -> InferenceSettings:
        """The settings, with no more examples shown than the calibration found best."""
        if self.calibration is None:
            return settings
        return replace(settings, supports=min(settings.supports, self.calibration.shown))

    def _quick(self, axis: TargetAxis, settings: InferenceSettings) -> InferenceSettings:
        chosen = self._chosen(axis, settings, 0, (axis.plan.count - 1) // 2)
        settings = replace(settings, supports=max(map(len, chosen)))
        return quick(settings, self.size, len(self._shown(chosen)), self.network.additive)

    def _axis_names(self, settings: InferenceSettings) -> tuple[str, ...]:
        names = tuple(self.supports) if settings.axes == (AUTO_AXIS,) else settings.axes
        for name in names:
            if name not in self.supports:
                raise InputError(
                    f"Asked to segment along the {name} axis, but the examples were cut along "
                    f"{', '.join(self.supports)} only; cut examples along that axis too, or leave it out."
                )
        return names

    def _axis(self, volume: Volume, scale: Scale, name: str, box: Box | None, extend: bool) -> TargetAxis:
        plan = planned(volume, scale, name, self.size, self.supports[name].field, box)
        pictures = Pictures(plan, volume, scale, self.network.channels, self.device)
        step = None if extend else plan.step_mm / plan.pixel_mm
        known = self._levels is not None and self._levels.axis == name
        span = self._levels.span(volume, scale) if known else (0.0, 1.0)
        return TargetAxis(plan, pictures, self.supports[name], self._slices_of(volume, scale, name), step, span=span)

    def _slices_of(self, volume: Volume, scale: Scale, axis: str) -> OwnSlices:
        """The slices of a volume that are among the examples, looked for once."""
        found = self._owned.setdefault(volume, {})
        if (axis, scale) not in found:
            shaped = axis == self.drawn_axis
            found[axis, scale] = OwnSlices.among(self.supports[axis], volume, scale, shaped)
        return found[axis, scale]

    def _styled(self, axis: TargetAxis, settings: InferenceSettings, report: Report) -> TargetAxis:
        """The axis with the target's pictures in the style of the examples, where that helps."""
        asked, shifts = (axis.plan.axis, settings.supports), self.calibration.shifts if self.calibration else {}
        if asked not in self.styles:
            if self._judge is None:
                raise ValueError("A target is to be brought to the style of the examples, but nothing judges that.")
            self.styles[asked] = self._judge(
                self.network, axis.support, self.intensities, settings.supports, shifts, report
            )
        positions = [axis.place(number) for number in range(axis.plan.count)]
        seen = axis.pictures.seen(0, axis.plan.count)
        images, style = self.styles[asked].adapt(seen, positions, own=bool(axis.known))
        return replace(axis, pictures=axis.pictures.in_style(images), style=style)

    def _maps(
        self, axes: Sequence[TargetAxis], settings: InferenceSettings, progress: "_Progress"
    ) -> Iterator[list[AxisMaps]]:
        """What is to be fused: along one axis block after block, along several all at once."""
        if len(axes) == 1:
            for maps in self._blocks(axes[0], settings, progress):
                yield [maps]
            return
        whole = []
        for axis in axes:
            blocks = list(self._blocks(axis, settings, progress))
            mean, square = (np.concatenate([getattr(each, name) for each in blocks], 1) for name in ("mean", "square"))
            whole.append(AxisMaps(axis.plan, mean, square))
        yield whole

    def _blocks(self, axis: TargetAxis, settings: InferenceSettings, progress: "_Progress") -> Iterator[AxisMaps]:
        """The draws along one axis, averaged, for blocks of slices in order."""

        def members(run: tuple[int, int]) -> np.ndarray:
            drawn = []
            for draw in range(settings.draws):
                progress.step(axis.plan.axis)
                drawn.append(self._members(axis, settings, draw, run, run))
                progress.done += run[1] - run[0]
            axis.unlike.extend(self._unlike(axis, *run))
            axis.negative.extend(self._coverage(axis).negatives(axis.pictures.grey(*run), axis.plan.coverage))
            return np.stack(drawn)

        runs = _runs(axis.plan, settings.slices_at_once)
        pixels = max(settings.draws * len(self.labels) * self.size**2, axis.plan.slice_voxels)
        least = max(1, BLOCK_BYTES // (4 * pixels))
        for start, stop, window, before in in_blocks(runs, members, least, REACH if settings.smooth else 0):
            drawn = window.copy() if settings.smooth else window  # its ends belong to the next block too
            for member in drawn if settings.smooth else ():
                smooth(member, axis.plan.step_mm)
            mean, square = moments(drawn[:, :, before : before + stop - start], settings.draws)
            yield AxisMaps(axis.plan.part(start, stop), mean, square, axis.plan.lowest(start, stop))

    def _members(
        self, axis: TargetAxis, settings: InferenceSettings, draw: int, run: tuple[int, int], wanted: tuple[int, int]
    ) -> np.ndarray:
        """One draw for the wanted ones (first, last exclusive) of a run of slices that share their examples."""
        chosen = self._chosen(axis, settings, draw, (sum(run) - 1) // 2)
        images = axis.pictures.seen(*run)[wanted[0] - run[0] : wanted[1] - run[0]]
        out = np.zeros((len(self.labels), len(images), self.size, self.size), np.float32)
        positions = [axis.place(number) for number in range(*wanted)]
        embedding = self.network.embed(images, self._flip(draw), positions)
        shown = self._shown(chosen)
        for number in range(len(self.labels)):
            logits = None
            if number in shown:
                logits = self._logits(axis, embedding, self._context(number, chosen[number], draw), number, draw)
            out[number] = self._probability(axis, range(*wanted), number, logits)
        return out

    def _chosen(self, axis: TargetAxis, settings: InferenceSettings, draw: int, number: int) -> list[Chosen]:
        """For every label the examples for a slice, of those that tell of it."""
        telling = [axis.support.telling(label.value) for label in self.labels]
        found = {among: self._drawn(axis, settings, draw, number, among) for among in set(telling)}
        return [found[among] for among in telling]

    def _drawn(
        self, axis: TargetAxis, settings: InferenceSettings, draw: int, number: int, among: tuple[int, ...]
    ) -> Chosen:
        """The examples for a slice: the best first, then weighted draws."""
        if not among:
            return ()
        generator = None
        if draw > 0:
            place = (AXES.index(axis.plan.axis), axis.plan.first + number)
            generator = np.random.default_rng((settings.seed, *place, draw))
        count = min(settings.supports, len(among))
        if draw > 0 and count == len(among) > 2:
            # The same for every slice, so that the context is computed once.
            generator = np.random.default_rng((settings.seed, draw))
            redrawn = sorted(generator.permutation(count)[: round(count * SHARE_REDRAWN)].tolist())
            return tuple(axis.support.examples[among[place]] for place in redrawn)
        image = axis.pictures.grey(number, number + 1)[0]
        chosen = axis.support.select(image, axis.place(number), count, generator, among)
        return tuple(axis.support.examples[index] for index in chosen)

    def _shown(self, chosen: Sequence[Chosen]) -> list[int]:
        """Numbers of the labels that some chosen example shows: what none shows is nowhere, and needs no network."""
        return [
            number
            for number, (label, examples) in enumerate(zip(self.labels, chosen, strict=True))
            if any((example.labels == label.value).any() for example in examples)
        ]

    def _context(self, label: int, chosen: Chosen, draw: int):
        return self.network.context(chosen, self.labels[label].value, self._flip(draw))

    def _logits(self, axis: TargetAxis, embedding, context, label: int, draw: int) -> np.ndarray:
        # Heads that were fitted know pictures cut along the first axis; along others the network answers alone.
        value, first = self.labels[label].value, axis.plan.axis == next(iter(self.supports))
        logits = self.network.logits(embedding, context, label=value if first else None)
        if self.calibration and (first or not self.network.fitted):
            logits = logits + self.calibration.shifts.get(value, 0.0)
        return logits[:, 0].flip(self._flip(draw)).cpu().numpy()

    def _probability(
        self, axis: TargetAxis, numbers: Sequence[int], label: int, logits: np.ndarray | None
    ) -> np.ndarray:
        """Of a label in some slices (n, size, size): what the network says, and what labelled slices beside them do.

        Args:
            logits: of the network; None: it was not asked, as no example shows the label.
        """
        found = np.zeros((len(numbers), self.size, self.size), np.float32)
        for place, number in enumerate(numbers):
            said = axis.joined(self.labels[label].value, number, None if logits is None else logits[place])
            if said is not None:
                found[place] = expit(said)
        return found

    def _flip(self, draw: int) -> tuple[int, ...]:
        return FLIPS[draw % len(FLIPS)] if self.network.any_view else ()

    def _prediction(
        self, canvas: Canvas, axes: Sequence[TargetAxis], settings: InferenceSettings, removed: dict | None
    ) -> Prediction:
        plan = axes[0].plan
        return Prediction(
            mask=Volume(canvas.labels, plan.geometry, Kind.LABELS),
            uncertainty=canvas.uncertainty,
            probabilities=canvas.probabilities,
            next_slice=most_worth_labelling(canvas.unsettled, plan, axes[0].known),
            next_axis=plan.axis,
            given=tuple(plan.slice_index(number) for number in axes[0].known),
            partly=_partly({plan.slice_index(number): told for number, told in axes[0].known.items()}),
            unlike=tuple(sorted(map(plan.slice_index, axes[0].unlike))),
            provenance=self._provenance(axes, settings) | {"postprocessing": removed},
            soft=canvas.soft_dice,
            whole=canvas.whole,
        )

    def _unlike(self, axis: TargetAxis, start: int, stop: int) -> list[int]:
        """Numbers of the slices of a run that resemble no example."""
        return [start + place for place in self._coverage(axis).outside(axis.pictures.grey(start, stop))]

    def _coverage(self, axis: TargetAxis) -> Coverage:
        support = axis.support
        if support.axis not in self._coverages:
            self._coverages[support.axis] = Coverage.of(support.appearance, units(support))
        return self._coverages[support.axis]

    def _provenance(self, cut: Sequence[TargetAxis], settings: InferenceSettings) -> dict:
        axes = [axis.plan.axis for axis in cut]
        return {
            "incontextseg": __version__,
            "torch": torch.__version__,
            "device": str(self.device),
            "model": self.provenance,
            "settings": settings.to_mapping() | {"axes": axes},
            "intensities": {"window": self.intensities.window},
            "calibration": self.calibration.record if self.calibration else None,
            "foresight": self.foresight.record if self.foresight else None,
            "style": {axis.plan.axis: axis.style.record for axis in cut if axis.style} or None,
            "labels": {str(label.value): label.name for label in self.labels},
            "support": {
                axis.plan.axis: {
                    "examples": len(axis.support),
                    "fingerprint": axis.support.fingerprint,
                    "field": axis.support.field and asdict(axis.support.field),
                    "span": list(axis.span),
                }
                for axis in cut
            },
        }


class _Progress:
    """How many slices have been segmented, every draw along every axis counted; `done` goes up to `total`."""

    def __init__(self, report: Report, total: int):
        self._report, self._total, self.done = report, total, 0

    def step(self, message: str) -> None:
        self._report.step(self.done, self._total, message)


def quick(settings: InferenceSettings, size: int, labels: int, additive: bool = False) -> InferenceSettings:
    """The settings with one draw, and then with fewer examples, where a slice of `size` pixels would take too long.

    Args:
        additive: whether the network takes the same time for any number of examples.
    """
    if additive:
        return replace(settings, draws=1)
    pictures = QUICK_PICTURES * (REFERENCE_SIZE / size) ** 2 / max(labels, 1)
    if settings.draws * (QUERY_PICTURES + settings.supports) <= pictures:
        return settings
    return replace(settings, draws=1, supports=max(1, min(settings.supports, int(pictures) - QUERY_PICTURES)))


def _runs(plan: SlicePlan, at_once: int) -> list[tuple[int, int]]:
    """First and last (exclusive) numbers of slices that share their examples: the same runs whatever the box."""
    inside = range(-(plan.first % at_once), plan.count, at_once)
    return [(max(start, 0), min(start + at_once, plan.count)) for start in inside]


def _partly(known: Told) -> dict[int, frozenset[int]]:
    """Those that do not tell of all labels."""
    return {index: told for index, told in known.items() if told is not None}
