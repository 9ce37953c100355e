"""What there is to train on, and what is wrong with it, as plain values that can be shown and sent."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from InContextSegLib.config import from_mapping, to_mapping
from InContextSegLib.errors import InputError
from InContextSegLib.training.site.datasets import Problem
from InContextSegLib.training.site.splits import Side


@dataclass(frozen=True)
class SurveyedCase:
    """An image that can be used, with its labels.

    Attributes:
        image, labels: absolute paths.
        axis: along which it is cut.
        shape, spacing_mm: of its grid, (k, j, i).
        showing: in how many slices each label value is seen.
    """

    data_set: str
    image: str
    labels: str
    patient: str
    side: Side
    axis: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    showing: dict[str, int]

    def shows(self, value: int | None) -> int:
        """In how many slices a label is seen; of None, any label: at least so many."""
        if value is None:
            return max(self.showing.values(), default=0)
        return self.showing.get(str(value), 0)


@dataclass(frozen=True)
class Amount:
    """How much of a task there is on one side."""

    patients: int = 0
    cases: int = 0
    slices: int = 0


@dataclass(frozen=True)
class SurveyedTask:
    """A label to be learnt; `value` None is every value above 0."""

    name: str
    data_set: str
    label: str
    value: int | None
    train: Amount
    validation: Amount

    @property
    def empty(self) -> bool:
        return not self.train.cases + self.validation.cases


@dataclass(frozen=True)
class SurveyedSet:
    """A data set as it was found; the spacing is the range from slice to slice, and within the slices, of its cases.

    None where none of them has a spacing.
    """

    name: str
    axis: str
    found: int
    usable: int
    patients: int
    slices: int
    between_mm: tuple[float, float] | None
    within_mm: tuple[float, float] | None


@dataclass(frozen=True)
class Survey:
    """What there is to train on, and what is wrong with it; made of plain values, so that it can travel as JSON."""

    name: str
    sets: tuple[SurveyedSet, ...]
    tasks: tuple[SurveyedTask, ...]
    cases: tuple[SurveyedCase, ...]
    problems: tuple[Problem, ...]

    @property
    def usable(self) -> bool:
        """Whether there is anything to train on."""
        return any(task.train.cases for task in self.tasks)

    def to_mapping(self) -> dict[str, Any]:
        """As plain dicts, lists and scalars."""
        return to_mapping(self)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "Survey":
        """What `to_mapping` gave."""
        return from_mapping(cls, mapping, "survey")

    def require_tasks(self) -> None:
        """Raises: InputError: if there is no task, or one that nothing usable shows on the side to learn from."""
        if not self.tasks:
            reasons = [problem.sentence for problem in self.problems] or ["no label was found"]
            raise InputError(f"'{self.name}' has no task to train: {reasons[0]}")
        empty = [task.name for task in self.tasks if not task.train.cases]
        if empty:
            raise InputError(
                f"There is no usable case to learn {', '.join(empty)} from; add some, mend what the survey names, or "
                "leave the label out of 'names'."
            )


def text_of(found: Survey) -> str:
    """The survey as tables and sentences for people."""
    lines = ["| data set | usable of | patients | slices | axis | between, within slices (mm) |", "|" + "---|" * 6]
    for each in found.sets:
        spacing = f"{_range(each.between_mm)}, {_range(each.within_mm)}"
        numbers = f"{each.usable} of {each.found} | {each.patients} | {each.slices}"
        lines.append(f"| {each.name} | {numbers} | {each.axis or '–'} | {spacing} |")
    lines += ["", "| task | to learn from: patients, cases, slices | to validate with |", "|---|---|---|"]
    for task in found.tasks:
        sides = [f"{side.patients}, {side.cases}, {side.slices}" for side in (task.train, task.validation)]
        lines.append(f"| {task.name} | {' | '.join(sides)} |")
    count = len(found.problems)
    lines += ["", f"{count} problem{'s' * (count > 1)}." if count else "No problems."]
    return "\n".join([*lines, *(f"{problem.data_set}: {problem.sentence}" for problem in found.problems)])


def _range(ends: tuple[float, float] | None) -> str:
    if ends is None:
        return "–"
    low, high = (f"{end:.3g}" for end in ends)
    return low if low == high else f"{low} to {high}"
