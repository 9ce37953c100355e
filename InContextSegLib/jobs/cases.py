"""Which volumes a batch segments, found in files, folders and tables, and what their results are called."""

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from InContextSegLib.errors import InputError
from InContextSegLib.progress import exhausted
from InContextSegLib.volumes.files import READABLE, WRITABLE, ending_of
from InContextSegLib.volumes.segnrrd import ENDING as SEGMENTATION
from InContextSegLib.volumes.tables import rows_in

FORMATS = (".nii.gz", SEGMENTATION, ".nrrd", ".nii", ".mha")

_DICOM = (".dcm", ".dicom", ".ima")

Status = Literal["waiting", "running", "done", "skipped", "failed"]


@dataclass(frozen=True)
class Case:
    """A volume to segment (as `read_volume` takes it) and the file for its label map; the record lies beside that."""

    image: Path
    output: Path

    @property
    def record(self) -> Path:
        return self.output.with_name(f"{stem_of(self.output)}.json")


@dataclass(frozen=True)
class CaseStatus:
    """How far a case is.

    Attributes:
        message: why it failed.
        seconds: that it took.
        millilitres: of every label, by its name.
        expected: the Dice to expect of every label of which something is known, by its name.
        verdict: the least favourable of the labels' verdicts, with the labels that it is about.
    """

    case: Case
    status: Status = "waiting"
    message: str = ""
    seconds: float = 0.0
    millilitres: Mapping[str, float] = field(default_factory=dict)
    expected: Mapping[str, float] = field(default_factory=dict)
    verdict: str = ""

    @property
    def settled(self) -> bool:
        """Whether nothing more will become of it."""
        return self.status in ("done", "skipped", "failed")

    def to_mapping(self) -> dict[str, Any]:
        """As it travels from the worker."""
        return {
            "image": str(self.case.image),
            "output": str(self.case.output),
            "status": self.status,
            "message": self.message,
            "seconds": self.seconds,
            "millilitres": dict(self.millilitres),
            "expected": dict(self.expected),
            "verdict": self.verdict,
        }

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "CaseStatus":
        """What `to_mapping` wrote."""
        rest = {name: value for name, value in mapping.items() if name not in ("image", "output")}
        return cls(Case(Path(mapping["image"]), Path(mapping["output"])), **rest)


@dataclass(frozen=True)
class Listed:
    """An image that is asked for, and what its output is to be called; None: after the image."""

    image: Path
    name: str | None = None


def cases_of(listed: Iterable[Listed], folder: Path, ending: str) -> tuple[Case, ...]:
    """The cases of these images, see `naming`."""
    return exhausted(naming(listed, folder, ending))


def naming(listed: Iterable[Listed], folder: Path, ending: str) -> Generator[None, None, tuple[Case, ...]]:
    """Name the outputs in `folder` after their images, in short steps; what comes twice counts once.

    Images of one name get that of their folder in front ("patient1_mr", "patient2_mr"), and so on upward.

    Returns:
        The cases, in the order of the images.

    Raises:
        InputError: if there is no image, the ending is none of `FORMATS`, two outputs would have one name, or outputs
            would come among the images, where the next batch would take them for images.
    """
    if ending not in FORMATS:
        raise InputError(f"A batch is written as one of {', '.join(FORMATS)}, but '{ending}' was asked for.")
    distinct = list(dict.fromkeys(listed))
    if not distinct:
        raise InputError("There is no image to segment; name files, a folder with images or a list of them.")
    parents = {each.image.parent for each in distinct}
    if ending != SEGMENTATION and folder.resolve() in {parent.resolve() for parent in parents}:
        raise InputError(
            f"The outputs would lie among the images in {folder}, and be taken for images the next time; choose "
            f"another folder for them, or the format {SEGMENTATION}."
        )
    names = yield from _distinct_names([each.image for each in distinct if each.name is None])
    cases, taken = [], {}
    for each in distinct:
        case = Case(each.image, folder / _file_name(each.name or names[each.image], ending))
        _refuse_twin(case, taken)
        cases.append(case)
        yield
    return tuple(cases)


def listed_in(path: Path) -> list[Listed]:
    """What a path asks for: the images of a folder, the rows of a .csv file, or itself.

    Raises:
        InputError: if a folder holds no image, or as `rows_of`.
    """
    if path.is_dir():
        found = sorted(image for image in images_in(path) if image is not None)
        if not found:
            raise InputError(f"The folder {path} holds no image (of its subfolders those with a DICOM series count).")
        return [Listed(image) for image in found]
    return rows_of(path) if path.suffix.lower() == ".csv" else [Listed(path)]


def images_in(folder: Path) -> Iterator[Path | None]:
    """The images of a folder in no order: one item for each thing in it, None where that is no image.

    A folder whose only images are DICOM files is one image, a series; so is a subfolder with DICOM files. Other files
    in subfolders, hidden files and segmentations (.seg.nrrd) do not count. A large folder takes time between items,
    which is for the caller to divide.
    """
    series = False
    others = False
    for path in _inside(folder):
        ending = ending_of(path)
        if path.name.startswith("."):
            yield None
        elif path.is_dir():
            yield path if any(ending_of(each) in _DICOM for each in _inside(path)) else None
        elif ending in _DICOM:
            series = True
            yield None
        else:
            image = ending in READABLE and ending != SEGMENTATION
            others |= image
            yield path if image else None
    if series and not others:
        yield folder


def rows_of(path: Path) -> list[Listed]:
    """The images that a table names: column `image`, and perhaps `name` or `output` of the file to write.

    Commas, semicolons or tabs between columns; a relative path begins at the folder of the table.

    Raises:
        InputError: if the file cannot be read, is no UTF-8 text, or has no column `image` or nothing in it.
    """
    listed = [_row(row, path) for row in rows_in(path, ["image"], "image,name")]
    if not listed:
        raise InputError(f"{path} names no image; write one in each row below 'image'.")
    return listed


def stem_of(path: Path) -> str:
    """The name without its ending, a double one such as .nii.gz taken whole."""
    ending = ending_of(path)
    return path.name[: -len(ending)] if ending else path.name


def _inside(folder: Path) -> Iterator[Path]:
    try:
        yield from folder.iterdir()
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read ({error.strerror or error}).") from error


def _row(row: Mapping[str, str], path: Path) -> Listed:
    image = path.parent / row["image"]
    for column in ("output", "name"):
        name = row.get(column, "")
        if name and (PurePosixPath(name).name != name or PureWindowsPath(name).name != name):
            raise InputError(f"{path} wants the output '{name}', but a plain file name is needed, without a folder.")
        if name:
            return Listed(image, name)
    return Listed(image)


def _file_name(name: str, ending: str) -> str:
    return name if ending_of(name) in WRITABLE else f"{name}{ending}"


def _distinct_names(images: Sequence[Path]) -> Generator[None, None, dict[Path, str]]:
    """The stem of every image, with as many folders in front as tell those of one stem apart."""
    stems = {}
    for image in images:
        stems[image] = stem_of(image)
        yield
    names, alike, depth = dict(stems), list(images), 1
    while alike:
        count = Counter(name.casefold() for name in names.values())
        depth += 1
        alike = [image for image in alike if count[names[image].casefold()] > 1 and len(image.parts) >= depth]
        for image in alike:
            names[image] = "_".join((*image.parts[-depth:-1], stems[image]))
            yield
    return names


def _refuse_twin(case: Case, taken: dict[str, Case]) -> None:
    """No two cases share an output or a record; computers that take upper and lower case for the same count too."""
    for path in (case.output, case.record):
        other = taken.setdefault(str(path).casefold(), case)
        if other is not case:
            raise InputError(
                f"{other.image} and {case.image} would both be written to {path}; give them different names in a .csv "
                "file (columns image,name)."
            )
