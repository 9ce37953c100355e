"""What is asked of the worker: the choices of the panel as one frozen value, and as a task in the worker's words."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import slicer
from slicer.i18n import tr as _

from InContextSegLib.errors import InputError
from InContextSegLib.inference.settings import PRESETS, InferenceSettings
from InContextSegLib.slices.plan import SlicePlan
from InContextSegLib.volumes.geometry import Kind
from InContextSegLib.worker.protocol import ArrayRef, ExampleRef, FileRef, TaskSpec
from InContextSegSlicer.scene import bridge
from InContextSegSlicer.scene.examples import ExampleRow
from InContextSegSlicer.scene.handover import Handover
from InContextSegSlicer.scene.slicemarks import spokenByName

# The role under which a segmentation refers to the volume it was drawn on.
DRAWN_ON = "referenceImageGeometryRef"


@dataclass(frozen=True)
class Wanted:
    """A segment to produce.

    Attributes:
        name: as in the examples.
        into: name of the segment that receives it.
        enabled: whether it is to be produced.
    """

    name: str
    into: str
    enabled: bool = True


@dataclass(frozen=True)
class Order:
    """Everything a segmentation depends on, taken from the panel at one moment.

    Attributes:
        box: (k, j, i) low inclusive, high exclusive; None: everywhere.
        sliceRange: first and last slice, both included.
        window: grey values that become black and white.
        existing: see `InContextSegParameterNode.existing`.
        trouble: why the choices cannot be carried out, where that showed when they were read.
    """

    target: slicer.vtkMRMLScalarVolumeNode | None
    output: slicer.vtkMRMLSegmentationNode | None
    examples: tuple[ExampleRow, ...]
    wanted: tuple[Wanted, ...]
    settings: InferenceSettings = field(default_factory=InferenceSettings)
    model: str = "default"
    device: str = "auto"
    window: tuple[float, float] | None = None
    box: tuple | None = None
    sliceRange: tuple[int, int] | None = None
    existing: str = "made"
    trouble: str = ""

    @property
    def key(self) -> tuple:
        """What the network's preparation depends on, besides the voxels themselves."""
        rows = [
            (each.key, *(node.GetID() if node else "" for node in (each.volume, each.segmentation)), each.slices)
            for each in self.examples
        ]
        target = self.target.GetID() if self.target else ""
        return (
            target,
            tuple(rows),
            self.names,
            self.settings,
            self.model,
            self.device,
            self.window,
        )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(wanted.name for wanted in self.wanted if wanted.enabled)

    def check(self, needsTarget: bool = True) -> None:
        """Say in one sentence what is missing.

        Raises:
            InputError: if there is no target or it cannot be used, no example or no wanted segment, or if an example
                would be spoilt.
        """
        if needsTarget:
            self._checkTarget()
        if not self.examples:
            raise InputError(_("There are no labelled examples yet; add a volume with its segmentation, or files."))
        if not self.wanted:
            raise InputError(_("The examples show no segments; draw some, or add others."))
        if not self.names:
            raise InputError(_("No segment is ticked; tick what is to be segmented."))
        if needsTarget:
            self._checkOutput()
        self._checkAxes()

    def _checkOutput(self) -> None:
        """An example must not be spoilt by what is found in another volume."""
        pairs = {row.volume for row in self.examples if row.segmentation is self.output and self.output is not None}
        if pairs and self.target not in pairs and self.output.GetNodeReference(DRAWN_ON) is not self.target:
            raise InputError(
                _(
                    "The result would go into '{output}', which teaches what is in '{volume}'; choose another "
                    "segmentation for it, or a new one."
                ).format(output=self.output.GetName(), volume=pairs.pop().GetName())
            )

    def _checkTarget(self) -> None:
        if self.target is None or self.target.GetImageData() is None:
            raise InputError(_("No volume to segment is chosen; load one and choose it at the top."))
        bridge.geometryOf(self.target)  # says what is wrong with it
        if self.trouble:
            raise InputError(self.trouble)
        if self.sliceRange is not None and self.sliceRange[0] > self.sliceRange[1]:
            raise InputError(
                _("Slices {first} to {last} were asked for; the first must not come after the last.").format(
                    first=self.sliceRange[0], last=self.sliceRange[1]
                )
            )

    def _checkAxes(self) -> None:
        axes = {row.axis for row in self.examples if row.axis}
        if len(axes) > 1:
            raise InputError(
                _("Slices were chosen in {axes} views; use the slices of one kind of view only.").format(
                    axes=_(" and ").join(sorted(axes))
                )
            )
        asked = self.settings.axes
        if axes and asked not in (("auto",), tuple(axes)):
            raise InputError(
                _(
                    "The volume is to be cut into {asked} slices, but example slices were chosen in the {chosen} view; "
                    "choose that axis, or 'As the examples were drawn'."
                ).format(asked=asked[0], chosen=axes.pop())
            )

    @property
    def axis(self) -> str:
        """Along which the volume is cut, as far as that is decided already; else "auto"."""
        return next((row.axis for row in self.examples if row.axis), self.settings.axes[0])


def settingsOf(preset: str, axis: str, adaptSeconds: float) -> InferenceSettings:
    """The numbers behind the choices of the panel; no adapting where `adaptSeconds` is 0, whatever the preset."""
    chosen = PRESETS[preset] | {"axes": (axis,), "adapt_seconds": adaptSeconds}
    return InferenceSettings(**chosen)


def namesIn(row: ExampleRow) -> tuple[str, ...]:
    """Names of what an example shows."""
    if row.fromFiles:
        return tuple(name for _value, name in row.names)
    if not row.complete:
        return ()
    segmentation = row.segmentation.GetSegmentation()
    return tuple(segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments()))


def wantedSegments(rows: Sequence[ExampleRow], choices: Mapping[str, Mapping]) -> tuple[Wanted, ...]:
    """Every segment that a used example shows, in the order of the examples.

    Args:
        choices: by name {"enabled": bool, "into": str}, as far as a person chose otherwise than all under own names.
    """
    names = dict.fromkeys(name for row in rows for name in namesIn(row))
    return tuple(
        Wanted(name, choices.get(name, {}).get("into") or name, choices.get(name, {}).get("enabled", True))
        for name in names
    )


def taskOf(order: Order, handover: Handover) -> Generator[None, None, TaskSpec]:
    """Hand over the examples and describe the task, as a queued task.

    Raises:
        InputError: if no example shows a wanted segment, or a volume cannot be used.
    """
    values = {name: number for number, name in enumerate(order.names, start=1)}
    examples, patients = [], {}
    for row in order.examples:
        if set(namesIn(row)) & set(values):
            # Rows of one volume are one patient, who is left out as a whole where the examples predict one another.
            patient = patients.setdefault(row.imagePath or row.volume.GetID(), row.key)
            for told, part in _parts(row, order.names):
                example = yield from _example(part, patient, {name: values[name] for name in told}, handover)
                known = None if told == order.names else tuple(values[name] for name in told)
                examples.append(replace(example, known=known))
    if not examples:
        raise InputError(
            _("No example shows {names}; add one that does, or tick other segments.").format(
                names=_(" or ").join(values)
            )
        )
    return TaskSpec(
        examples=tuple(examples),
        labels=tuple((value, name) for name, value in values.items()),
        settings=replace(order.settings, axes=(order.axis,)),
        model=order.model,
        window=order.window,
        device=order.device,
    )


def spokenIn(row: ExampleRow, names: tuple[str, ...]) -> dict[int, tuple[str, ...]]:
    """For every single slice of an example those among some names of whose segments it says where they are."""
    if not row.fromFiles:
        return spokenByName(row, names)
    called = dict(row.names)
    told = {index: {called.get(value) for value in values} for index, values in row.told}
    return {index: tuple(name for name in names if index not in told or name in told[index]) for index in row.slices}


def _parts(row: ExampleRow, names: tuple[str, ...]) -> list[tuple[tuple[str, ...], ExampleRow]]:
    """The row by what its slices speak of among some names; those that speak of none are left out."""
    if not row.axis:
        return [(names, row)]
    spoken = spokenIn(row, names)
    return [
        (told, replace(row, slices=tuple(index for index in row.slices if spoken[index] == told)))
        for told in dict.fromkeys(spoken.values())
        if told
    ]


def _example(
    row: ExampleRow, patient: str, values: Mapping[str, int], handover: Handover
) -> Generator[None, None, ExampleRef]:
    if row.fromFiles:
        renamed = tuple((value, values[name]) for value, name in row.names if name in values)
        image, labels = FileRef(row.imagePath, Kind.INTENSITY), FileRef(row.labelsPath, Kind.LABELS)
        return ExampleRef(image, labels, patient, row.slices, renamed)
    image: ArrayRef = yield from handover.volume(row.volume)
    segmentation = row.segmentation.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    wanted = {each: values[name] for each, name in zip(ids, namesIn(row), strict=True) if name in values}
    if row.axis:
        along = SlicePlan.of(bridge.geometryOf(row.volume), row.axis).array_axis
        labels = yield from handover.slices(row.segmentation, wanted, row.volume, along, row.slices)
    else:
        labels = yield from handover.labels(row.segmentation, wanted, row.volume)
    return ExampleRef(image, labels, patient, row.slices)
