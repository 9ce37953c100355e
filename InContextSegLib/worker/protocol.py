"""What a panel and its worker process say to each other: requests and replies as JSON lines, arrays by their names.

A request is {"id": number, "do": name, ...}, its fields those of the dataclass named in `REQUESTS`, perhaps with a
"lane" in which the newest request replaces the others. Its answer is {"id": number, "is": what, ...}, where what is
"progress" (done, total, message), once when it is begun and any number of times after, and at last "done", "cancelled"
or "failed" (kind, message). First of all comes {"is": "ready", "version": ..., "pid": ...}. No request depends on an
earlier one: a worker that starts anew has lost nothing but time.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from InContextSegLib.config import from_mapping, to_mapping
from InContextSegLib.errors import InputError
from InContextSegLib.inference.settings import InferenceSettings
from InContextSegLib.slices.plan import SliceChoice
from InContextSegLib.volumes.files import json_text
from InContextSegLib.volumes.geometry import Geometry, Kind
from InContextSegLib.worker.site_requests import LookAtSite, TrainOnSite

BEGUN = "begun"  # the message of the first progress of a request
Row = tuple[float, float, float, float]
Index = tuple[int, int, int]
Position = tuple[float, float, float]  # RAS mm
CLICK_SUPPORTS = 4  # examples beside a slice that is clicked on


@dataclass(frozen=True)
class ArrayRef:
    """An array in the shared folder, (k, j, i) or (k, j, i, 3) for colours, and where it lies.

    Attributes:
        name: of its file, which never changes once it is written.
        affine: takes (i, j, k, 1) to RAS millimetres.
    """

    name: str
    affine: tuple[Row, Row, Row, Row]
    kind: Kind

    @classmethod
    def of(cls, name: str, geometry: Geometry, kind: Kind = Kind.INTENSITY) -> "ArrayRef":
        """The array of that name on a grid."""
        return cls(name, tuple(map(tuple, geometry.affine.tolist())), kind)


@dataclass(frozen=True)
class FileRef:
    """A file that the library reads itself."""

    path: str
    kind: Kind


VolumeRef = ArrayRef | FileRef


@dataclass(frozen=True)
class SlicesRef:
    """Labels on single slices of a grid, each an array of its own in the shared folder; on all others there are none.

    So one slice more costs what one slice holds, whatever the volume and the other slices hold.

    Attributes:
        slices: pairs of an index along the array axis and the name of an array (k, j, i), 1 long across the slice.
        array_axis: 0 (k), 1 (j) or 2 (i).
        shape: of the whole grid.
        affine: takes (i, j, k, 1) to RAS millimetres.
    """

    slices: tuple[tuple[int, str], ...]
    array_axis: int
    shape: Index
    affine: tuple[Row, Row, Row, Row]

    def __post_init__(self) -> None:
        if not 0 <= self.array_axis <= 2:
            raise InputError(f"array_axis: asked for 0 (k), 1 (j) or 2 (i), got {self.array_axis}.")
        length = self.shape[self.array_axis]
        beyond = [index for index, _name in self.slices if not 0 <= index < length]
        if beyond:
            raise InputError(
                f"Labels came for slice {beyond[0]} of a volume with {length}, counted from 0; leave that slice out."
            )

    @classmethod
    def of(cls, slices: Iterable[tuple[int, str]], array_axis: int, geometry: Geometry) -> "SlicesRef":
        """Arrays of these names on slices of a grid."""
        return cls(tuple(slices), array_axis, geometry.shape, tuple(map(tuple, geometry.affine.tolist())))

    def at(self, index: int) -> "SlicesRef":
        """One of the slices alone."""
        return replace(self, slices=tuple(each for each in self.slices if each[0] == index))


LabelsRef = VolumeRef | SlicesRef


@dataclass(frozen=True)
class ExampleRef:
    """A labelled image.

    Attributes:
        source: its name for people; examples of one name belong to one patient.
        slices: which of them teach, as `SupportSet.from_volumes` takes it; None: as suits the labels.
        values: pairs of a value in the labels and the task's value for it, all others being 0; None: as they are.
        known: the task's values of which the slices tell, where they are and where not; None: of all.
    """

    image: VolumeRef
    labels: LabelsRef
    source: str
    slices: SliceChoice | None = None
    values: tuple[tuple[int, int], ...] | None = None
    known: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TaskSpec:
    """All that decides how a target is segmented, but for the target.

    Attributes:
        labels: pairs of a value and its name.
        model: a name in the catalogue; `weights` a file of one's own in place of the entry's.
        window: of grey values that becomes [0, 1]; None: percentiles of every volume.
        colour: weights of red, green and blue in a grey value; None: as separates the labels of the examples best.
    """

    examples: tuple[ExampleRef, ...]
    labels: tuple[tuple[int, str], ...]
    settings: InferenceSettings = field(default_factory=InferenceSettings)
    model: str = "default"
    weights: str | None = None
    window: tuple[float, float] | None = None
    colour: tuple[float, float, float] | None = None
    device: str = "auto"

    @property
    def key(self) -> str:
        """The same for equal tasks."""
        return json.dumps(to_mapping(self), sort_keys=True)

    def to_mapping(self) -> dict[str, Any]:
        """As it travels; `from_mapping` reads it back."""
        return to_mapping(self)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "TaskSpec":
        """Raises: InputError: for an unknown or missing key or a value that makes no sense, by name."""
        return from_mapping(cls, mapping, "task")


@dataclass(frozen=True)
class Device:
    """Asks what there is to compute with -> version, torch, devices, chosen, threads."""

    device: str = "auto"


@dataclass(frozen=True)
class Prepare:
    """Asks to get the network ready, so that a preview is quick -> what the examples lead to expect."""

    task: TaskSpec
    target: VolumeRef


@dataclass(frozen=True)
class Preview:
    """Asks for the labels of one slice -> a block of that slice.

    Attributes:
        index: along the array axis that lies closest to `axis`.
        axis: None: the one along which the task is segmented.
    """

    task: TaskSpec
    target: VolumeRef
    index: int
    axis: str | None = None


@dataclass(frozen=True)
class Segment:
    """Asks for the labels of a target -> blocks cropped to what is not 0, and what the record of a job says.

    Attributes:
        box: (k, j, i) low and high, the high end exclusive; None: all of it.
        slice_range: first and last slice along the task's axis; None: all of them.
    """

    task: TaskSpec
    target: VolumeRef
    box: tuple[Index, Index] | None = None
    slice_range: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.box is not None and self.slice_range is not None:
            raise InputError("A box and a range of slices came; choose one of them, a box says which slices too.")


@dataclass(frozen=True)
class PromptsRef:
    """What a user said about one structure on one slice.

    Attributes:
        points: where it is (true) or is not (false).
        boxes: pairs of opposite corners.
        scribbles: the name of an array (k, j, i) that is not 0 where it is painted, the index of its first voxel in the
            target, and whether the structure is there.
    """

    points: tuple[tuple[Position, bool], ...] = ()
    boxes: tuple[tuple[Position, Position], ...] = ()
    scribbles: tuple[tuple[str, Index, bool], ...] = ()


@dataclass(frozen=True)
class Correct:
    """Asks what a slice holds, by what the user said there and by examples -> probability of that slice, and logits.

    probability is a block of uint8, 255 for 1; logits the name of an array, which whoever asked deletes. A click
    overtakes `Neighbours`; where a newer one comes, it is "cancelled".

    Attributes:
        index: along the array axis that lies closest to `axis`.
        task: examples in context; slices of the target itself stand there by their indices. Its model, weights, window
            and device count, and those below only without a task.
        label: the value in the examples of what is to be found.
        previous: the logits of the last answer on this slice. None: there is none; where the slice is an example
            itself, what was drawn there is the last answer.
        supports: examples shown at most, those most like the slice.
    """

    target: VolumeRef
    axis: str
    index: int
    prompts: PromptsRef = field(default_factory=PromptsRef)
    task: TaskSpec | None = None
    label: int = 1
    previous: str | None = None
    model: str = "default"
    weights: str | None = None
    window: tuple[float, float] | None = None
    device: str = "auto"
    supports: int = CLICK_SUPPORTS

    def __post_init__(self) -> None:
        if self.supports < 1:
            raise InputError(
                f"supports: asked for at least 1 example, got {self.supports}; leave the task out for none."
            )


@dataclass(frozen=True)
class Neighbours:
    """Asks to get a slice and those up to `radius` beside it ready for `Correct` -> ready: their indices.

    It is given up ("cancelled") as soon as anything else is asked. The other fields are those of `Correct`.
    """

    target: VolumeRef
    axis: str
    index: int
    radius: int = 2
    task: TaskSpec | None = None
    label: int = 1
    model: str = "default"
    weights: str | None = None
    window: tuple[float, float] | None = None
    device: str = "auto"
    supports: int = CLICK_SUPPORTS


@dataclass(frozen=True)
class Propagate:
    """Asks to carry a label on from slices that the user applied -> block, uncertainty, slices, reached, stopped.

    slices are the indices that were reached, confidence how sure each is, stopped says for "before" and "after" (lower
    and higher indices) whether that end was "unsure", "ended" (the structure) or "range" (of what was asked for).

    Attributes:
        task: its examples hold the slices of the target to start from, and others perhaps.
        start: their indices; None: all there are.
        slice_range: first and last slice to go to; None: as far as it is sure.
        threshold: probability from which a voxel belongs to the label.
        stop_below: how sure a slice has to be (`inference.propagation`); None: as measured.
    """

    target: VolumeRef
    axis: str
    task: TaskSpec
    label: int = 1
    start: tuple[int, ...] | None = None
    slice_range: tuple[int, int] | None = None
    threshold: float = 0.5
    stop_below: float | None = None
    supports: int = CLICK_SUPPORTS


@dataclass(frozen=True)
class CaseRef:
    """A volume of a batch, and the file for its result."""

    image: str
    output: str


@dataclass(frozen=True)
class Look:
    """How a label shows in files that can say it: colour from 0 to 1, and what Slicer says of it besides."""

    value: int
    colour: tuple[float, float, float]
    tags: str = ""


@dataclass(frozen=True)
class Batch:
    """Asks for the labels of many volumes, written to files -> cases: the status of every one (`cases.CaseStatus`).

    The message of its progress is such a status as JSON; one with 0 steps in all tells that the status is new.

    Attributes:
        overwrite: whether results of other tasks are replaced.
        looks: of labels, as far as they are known.
    """

    task: TaskSpec
    cases: tuple[CaseRef, ...]
    overwrite: bool = False
    looks: tuple[Look, ...] = ()


@dataclass(frozen=True)
class Describe:
    """Asks what labelled files hold -> pairs: image, mask, labels as pairs of a value and its name, slices and axis.

    Attributes:
        images: a file, or a folder of them.
        labels: the labels of that file, or a folder of label maps with the same stems.
    """

    images: str
    labels: str


@dataclass(frozen=True)
class SaveExamples:
    """Asks to keep the examples of a task in a folder of its own (`exampleset`) -> labels: the files, in their order.

    Attributes:
        names: pairs of an example's source and what its files are called after.
        looks: of labels, as far as they are known.
    """

    task: TaskSpec
    folder: str
    names: tuple[tuple[str, str], ...] = ()
    looks: tuple[Look, ...] = ()


@dataclass(frozen=True)
class Weights:
    """Asks to fetch or delete the weights of a model, which only the user may wish -> path and sha256, or removed."""

    name: str
    action: Literal["ensure", "remove"]


@dataclass(frozen=True)
class Cancel:
    """Asks that the request of the number `target` stops, whether it runs or waits -> whether there was one."""

    target: int


@dataclass(frozen=True)
class Stop:
    """Asks the worker to end when all earlier requests are answered."""


REQUESTS = {
    "device": Device,
    "prepare": Prepare,
    "preview": Preview,
    "segment": Segment,
    "correct": Correct,
    "neighbours": Neighbours,
    "propagate": Propagate,
    "batch": Batch,
    "describe": Describe,
    "save_examples": SaveExamples,
    "weights": Weights,
    "survey": LookAtSite,
    "train": TrainOnSite,
    "cancel": Cancel,
    "stop": Stop,
}


def request_of(message: Mapping[str, Any]) -> Any:
    """The dataclass that a request stands for.

    Raises:
        InputError: if there is no such request, or a field is unknown, missing or makes no sense.
    """
    wanted = message.get("do")
    if not isinstance(wanted, str) or wanted not in REQUESTS:
        raise InputError(f"There is no request {wanted!r}; choose one of {', '.join(REQUESTS)}.")
    payload = {name: value for name, value in message.items() if name not in ("id", "do", "lane")}
    return from_mapping(REQUESTS[wanted], payload, f"request {wanted}")


def encode_line(message: Mapping[str, Any]) -> str:
    """A message as one line of ASCII, whatever names of files are in it; what is undefined (nan) becomes null."""
    return json_text(dict(message), ensure_ascii=True) + "\n"


def decode_line(line: str) -> dict[str, Any]:
    """The message that a line holds.

    Raises:
        InputError: if it is no JSON object.
    """
    try:
        message = json.loads(line)
    except ValueError as error:
        raise InputError(f"A line of JSON was expected, but {_shortened(line)!r} came.") from error
    if not isinstance(message, dict):
        raise InputError(f"A JSON object was expected, but {_shortened(line)!r} came.")
    return message


def arrays_of(message: Any) -> list[str]:
    """The names of the arrays that a reply hands over, wherever it mentions them."""
    if isinstance(message, Mapping):
        own = [message[key] for key in ("array", "logits") if isinstance(message.get(key), str)]
        return own + [name for value in message.values() for name in arrays_of(value)]
    return [name for value in message for name in arrays_of(value)] if isinstance(message, list) else []


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
