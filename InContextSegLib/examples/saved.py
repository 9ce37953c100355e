"""A folder of labelled examples that say themselves which of their slices teach.

It holds `images` and `labels` with files of the same stems, as every command takes them, and `examples.json` about
both. The labels are segmentations (.seg.nrrd) that 3D Slicer opens; which slices teach stands in their headers, so
that files may be copied and mixed.
"""

import json
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from InContextSegLib import __version__
from InContextSegLib.errors import InputError, OutputError
from InContextSegLib.examples.support import LabelledVolume
from InContextSegLib.progress import Report
from InContextSegLib.slices.plan import SliceChoice
from InContextSegLib.volumes.files import (
    ending_of,
    json_text,
    make_folder,
    read_header,
    reason_of,
    write_text,
    write_volume,
)
from InContextSegLib.volumes.geometry import AXES
from InContextSegLib.volumes.segnrrd import ENDING, Segment

IMAGES, LABELS, ABOUT = "images", "labels", "examples.json"
KEY = "InContextSeg_Slices"
LONGEST_STEM_BYTES = 160  # a name may have 255 in all, of which endings and unfinished files take some


@dataclass(frozen=True)
class Taught:
    """Which slices of a labelled volume teach, and along which axis they were drawn (empty: along any).

    `told` are those slices that tell of some labels only, by index, and of which; the others tell of all.
    """

    slices: SliceChoice
    axis: str = ""
    told: tuple[tuple[int, tuple[int, ...]], ...] = ()

    def parts(self) -> list[tuple[SliceChoice, frozenset[int] | None]]:
        """The slices by the labels that they tell of; None: all."""
        if not self.told:
            return [(self.slices, None)]
        told, known = {index: frozenset(values) for index, values in self.told}, {}
        for index in self.slices:
            known.setdefault(told.get(index), []).append(index)
        return [(tuple(indices), values) for values, indices in known.items()]


@dataclass(frozen=True, eq=False)
class Kept:
    """One example to be kept.

    Attributes:
        name: for people, which the files are called after.
        pair: image and labels, and which slices teach.
        axis: along which the slices were drawn, where they are indices.
        segments: names and colours of the labels.
        original: a file to copy instead of writing the image, where there is one.
        told: see `Taught`.
    """

    name: str
    pair: LabelledVolume
    axis: str
    segments: tuple[Segment, ...]
    original: Path | None = None
    told: tuple[tuple[int, tuple[int, ...]], ...] = ()

    @property
    def taught(self) -> Taught | None:
        """What its labels say of its slices."""
        slices = self.pair.slices
        if slices is None or slices == "auto":
            return None
        return Taught(slices, self.axis, self.told) if isinstance(slices, tuple) else Taught(slices)


def taught_in(labels: Path) -> Taught | None:
    """What a label map says of its slices; None where it says nothing.

    Raises:
        InputError: if it says something that makes no sense.
    """
    text = read_header(labels).get(KEY) if ending_of(labels) == ENDING else None
    if text is None:
        return None
    try:
        about = json.loads(text)
        slices, axis = about["slices"], about.get("axis", "")
        told = tuple((int(index), tuple(values)) for index, values in about.get("told", {}).items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _senseless(labels, text) from error
    if isinstance(slices, list) and axis in AXES and slices and all(_is_index(each) for each in slices):
        sense = all(index in slices and values and all(map(_is_index, values)) for index, values in told)
        if not sense:
            raise _senseless(labels, text)
        return Taught(tuple(slices), axis, told)
    if slices in ("auto", "labelled", "all") or (_is_index(slices) and slices > 0):
        return Taught(slices)
    raise _senseless(labels, text)


def parts_of(pair: LabelledVolume, labels: Path) -> list[LabelledVolume]:
    """A labelled volume as its label map says it teaches: in parts where slices tell of different labels.

    Raises:
        InputError: as `taught_in`.
    """
    taught = taught_in(labels)
    parts = taught.parts() if taught else []
    return [replace(pair, slices=slices, axis=taught.axis, known=known) for slices, known in parts] or [pair]


def save(folder: Path, examples: Sequence[Kept], report: Report) -> list[Path]:
    """Write examples into a folder that holds none yet, all of them or none.

    Returns:
        the label maps, in the order of the examples.

    Raises:
        InputError: if the folder holds images or labels already.
        OutputError: if something could not be written.
        Cancelled: from `report`.
    """
    make_folder(folder)
    for name in (IMAGES, LABELS, ABOUT):
        if (folder / name).exists():
            raise InputError(
                f"The folder {folder} holds {name} already, and examples are not mixed; choose another, or a new one."
            )
    stems, about = _stems(examples), []
    with _whole_folder(folder) as unfinished:
        for done, (stem, each) in enumerate(zip(stems, examples, strict=True)):
            report.step(done, len(examples), f"{each.name} is saved")
            image = unfinished / IMAGES / (stem + (ending_of(each.original) if each.original else ".nrrd"))
            labels = unfinished / LABELS / (stem + ENDING)
            if each.original:
                shutil.copyfile(each.original, image)
            else:
                write_volume(image, each.pair.image)
            taught = each.taught
            more = {KEY: json_text(_plain(taught))} if taught else {}
            write_volume(labels, each.pair.labels, each.segments, more)
            about.append(_told(each, image.name, labels.name))
        report.step(len(examples), len(examples), "the examples are saved")
        write_text(unfinished / ABOUT, json_text({"version": __version__, "examples": about}, indent=2) + "\n")
    return [folder / LABELS / (stem + ENDING) for stem in stems]


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """A folder beside its own end: what lies in it goes to `folder` at last, or away."""
    unfinished, moved = folder / f".incontextseg-{secrets.token_hex(8)}", []
    try:
        for name in (IMAGES, LABELS):
            (unfinished / name).mkdir(parents=True)
        yield unfinished
        for name in (IMAGES, LABELS, ABOUT):
            (unfinished / name).rename(folder / name)
            moved.append(folder / name)
    except BaseException as error:
        for path in moved:
            path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
        if isinstance(error, OSError) and not isinstance(error, OutputError):
            raise OutputError(f"The examples could not be saved in {folder}: {reason_of(error)}.") from error
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _told(each: Kept, image: str, labels: str) -> Mapping:
    taught = each.taught
    return {
        "name": each.name,
        "image": f"{IMAGES}/{image}",
        "labels": f"{LABELS}/{labels}",
        "segments": {segment.name: segment.value for segment in each.segments},
        **_plain(taught or Taught("auto")),
    }


def _plain(taught: Taught) -> dict:
    told = {"told": {str(index): values for index, values in taught.told}} if taught.told else {}
    return {"axis": taught.axis, "slices": taught.slices, **told}


def _stems(examples: Sequence[Kept]) -> list[str]:
    """Names that every file system takes, each once whatever its case."""
    stems: list[str] = []
    for each in examples:
        stem = re.sub(r"[^\w.-]+", "_", each.name).strip("._").encode()[:LONGEST_STEM_BYTES].decode(errors="ignore")
        # An image called so would count as a segmentation.
        stem = re.sub(r"\.seg$", "_seg", stem, flags=re.IGNORECASE) or "example"
        found, number = stem, 1
        while found.lower() in {other.lower() for other in stems}:
            number += 1
            found = f"{stem}-{number}"
        stems.append(found)
    return stems


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _senseless(labels: Path, text: str) -> InputError:
    return InputError(
        f"{labels} is damaged: what its header says about slices that teach ({text[:60]!r}) is no choice."
    )
