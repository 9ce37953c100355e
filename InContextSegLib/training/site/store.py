"""Every case of a site cut once into slices that stay on disk, and which of them show what."""

import logging
import time
from collections import OrderedDict
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np

from InContextSegLib.errors import InputError
from InContextSegLib.models.catalog import cache_folder
from InContextSegLib.progress import Report
from InContextSegLib.training.site.cutting import file_name, kept, mix_of_set, recipe_of, touch
from InContextSegLib.training.site.datasets import Problem, Site
from InContextSegLib.training.site.slicefile import ENDING, LEVELS, SliceFile, Slices
from InContextSegLib.training.site.splits import TRAIN, Side
from InContextSegLib.training.site.survey import Survey, SurveyedCase, SurveyedTask
from InContextSegLib.volumes.files import make_folder

log = logging.getLogger(__name__)

FOLDER = "slices"  # below the cache folder
SMALLEST = 16  # pixels of a slice across
_MAPPED_FILES = 32
_YOUNG_S = 24 * 3600.0  # a file used so lately may be in use by another run


@dataclass(frozen=True)
class StoreSettings:
    """How cases are cut, and how much of the disk their slices may take before those unused for longest go.

    Attributes:
        size: rows and columns of a slice, in pixels.
        folder: of the store; None: one in the cache folder.
    """

    size: int = 128
    folder: Path | None = None
    budget_bytes: int = 20 << 30

    def __post_init__(self):
        if self.size < SMALLEST:
            raise InputError(f"size: asked for slices of at least {SMALLEST} pixels, got {self.size}.")
        if self.budget_bytes < 1:
            raise InputError(f"budget_bytes: asked for at least 1, got {self.budget_bytes}.")


@dataclass(frozen=True, eq=False)
class StoredCase:
    """A case and its slices.

    Attributes:
        showing: numbers of the slices in which each label value is seen.
        told: of slices that tell of some labels only: which.
    """

    case: SurveyedCase
    file: SliceFile
    showing: dict[int, np.ndarray]
    told: dict[int, frozenset[int]]

    def seen(self, value: int | None) -> np.ndarray:
        """(n,) numbers of the slices that show a label, or any."""
        if value is None:
            return np.unique(np.concatenate([np.zeros(0, np.int32), *self.showing.values()]))
        return self.showing.get(value, np.zeros(0, np.int32))

    def unseen(self, value: int | None) -> np.ndarray:
        """(n,) numbers of the slices that tell that they do not show a label."""
        silent = [number for number, values in self.told.items() if value is None or value not in values]
        others = np.setdiff1d(np.arange(self.file.count, dtype=np.int32), self.seen(value))
        return np.setdiff1d(others, np.array(silent, np.int32))


class SliceStore:
    """The slices of a site's cases: which there are is kept in memory, what they show on the disk.

    Attributes:
        problems: cases that could not be cut, by name; they are left out.
    """

    def __init__(
        self, tasks: Sequence[SurveyedTask], cases: Sequence[StoredCase], problems: Sequence[Problem], size: int
    ):
        self.tasks = {task.name: task for task in tasks}
        self.cases, self.problems, self.size = tuple(cases), tuple(problems), size
        self._mapped: OrderedDict[int, Slices] = OrderedDict()
        self._lock = Lock()

    @classmethod
    def open(
        cls, site: Site, found: Survey, settings: StoreSettings, report: Report, begin: float = 0.0
    ) -> "SliceStore":
        """Cut what is not in the store yet, or was cut from other files or in another way, and check the rest.

        Args:
            begin: with which of the cases, as a share of them: processes that begin at different ones share the work.

        Raises:
            InputError: if a task has no usable case to learn from, or the folder lies among the images.
            OutputError: if slices cannot be written; those written before stay, and are used the next time.
            Cancelled: from `report`; the same holds.
        """
        found.require_tasks()
        folder = settings.folder or cache_folder() / FOLDER
        _require_apart(folder, found.cases)
        make_folder(folder)
        sets = {each.name: each for each in site.datasets}
        mixes = {name: mix_of_set(each, found.cases) for name, each in sets.items()}
        recipes = [recipe_of(case, sets[case.data_set], mixes[case.data_set], settings.size) for case in found.cases]
        paths = [folder / file_name(case, recipe) for case, recipe in zip(found.cases, recipes, strict=True)]
        forget(folder, paths, settings.budget_bytes)
        stored, problems = {}, []
        first = int(begin * len(paths))
        for done, index in enumerate([*range(first, len(paths)), *range(first)]):
            case = found.cases[index]
            name = Path(case.image).name
            report.step(done, len(paths), f"{case.data_set}, {name}")
            try:
                stored[index] = _stored(case, kept(paths[index], case, recipes[index]))
            except InputError as error:
                sentence = f"{str(error).rstrip('.')}; it is left out."
                problems.append(Problem(case.data_set, name, "unreadable", sentence))
                log.warning("%s: %s", case.data_set, sentence)
        report.step(len(paths), max(len(paths), 1), "all cases are cut")
        forget(folder, paths, settings.budget_bytes)
        store = cls(found.tasks, [stored[index] for index in sorted(stored)], problems, settings.size)
        store._require_tasks()
        return store

    def slices(self, task: str, side: Side, shown: bool = True) -> dict[str, np.ndarray]:
        """By patient the slices (n, 2) int32 (case, number) that show a task, or that tell that they do not.

        The latter are slices of cases that show it elsewhere: in others it may not have been labelled at all.
        """
        wanted, found = self.tasks[task], {}
        for index, each in enumerate(self.cases):
            numbers = each.seen(wanted.value)
            if (each.case.data_set, each.case.side) != (wanted.data_set, side) or not len(numbers):
                continue
            numbers = numbers if shown else each.unseen(wanted.value)
            if len(numbers):
                pairs = np.stack([np.full(len(numbers), index, np.int32), numbers], axis=1)
                found.setdefault(each.case.patient, []).append(pairs)
        return {patient: np.concatenate(pairs) for patient, pairs in sorted(found.items())}

    def read(self, task: str, slices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images (n, size, size) float32 in [0, 1], and masks float32 of a task: 0 or 1.

        Args:
            slices: (n, 2) case and number, as `slices` names them.

        Raises:
            InputError: if the file of a case was deleted or exchanged in the meantime.
        """
        value = self.tasks[task].value
        images = np.empty((len(slices), self.size, self.size), np.float32)
        masks = np.empty_like(images)
        for place in np.argsort(slices[:, 0], kind="stable"):
            index, number = slices[place].tolist()
            held = self._slices_of(index)
            np.multiply(held.images[number], np.float32(1 / LEVELS), out=images[place])
            labels = held.labels[number]
            masks[place] = labels > 0 if value is None else labels == value
        return images, masks

    def close(self) -> None:
        """Let go of all files; they are opened again where needed."""
        with self._lock:
            self._mapped.clear()

    def _slices_of(self, index: int) -> Slices:
        with self._lock:
            held = self._mapped.pop(index, None)
            if held is None:
                held = self.cases[index].file.mapped()
                touch(self.cases[index].file.path)
            self._mapped[index] = held
            if len(self._mapped) > _MAPPED_FILES:
                self._mapped.popitem(last=False)
            return held

    def _require_tasks(self) -> None:
        for task in self.tasks:
            if not self.slices(task, TRAIN):
                named = "; ".join(problem.sentence.rstrip(".") for problem in self.problems)
                why = f" ({named})" if named else f": it is too small to be seen in {self.size} pixels"
                raise InputError(f"No slice to learn {task} from is left{why}; add cases or leave the task out.")


def forget(folder: Path, used: Collection[Path], budget_bytes: int) -> list[Path]:
    """Delete what is left of interrupted runs, and slice files until all fit into a budget: those unused for longest.

    Neither `used` ones go nor those that somebody used within a day.
    """
    gone, now, held = [], time.time(), set(used)
    found = {path: path.stat() for path in folder.glob(f"*{ENDING}") if path.is_file()}
    total = sum(stat.st_size for stat in found.values())
    for path, stat in sorted(found.items(), key=lambda item: item[1].st_mtime):
        unfinished = path.name.startswith(".")
        if path in held or now - stat.st_mtime < _YOUNG_S or not (unfinished or total > budget_bytes):
            continue
        with suppress(OSError):
            path.unlink()
            gone.append(path)
            total -= stat.st_size
    if gone:
        log.info("%d files that nobody used were removed from %s.", len(gone), folder)
    return gone


def _require_apart(folder: Path, cases: Sequence[SurveyedCase]) -> None:
    sources = {Path(path).resolve().parent for case in cases for path in (case.image, case.labels)}
    here = folder.resolve()
    for source in sources:
        if here == source or source in here.parents:
            raise InputError(f"The store {folder} would lie among the images in {source}; choose a folder elsewhere.")


def _stored(case: SurveyedCase, file: SliceFile) -> StoredCase:
    showing = {int(value): np.array(numbers, np.int32) for value, numbers in file.about["showing"].items()}
    told = {int(number): frozenset(values) for number, values in file.about["told"].items()}
    return StoredCase(case, replace(file, about={}), showing, told)
