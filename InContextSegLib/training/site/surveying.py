"""Looks at a site's data before anything is trained: patients, slices, spacing, labels, and what is wrong with what."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count

import numpy as np

from InContextSegLib.errors import InputError
from InContextSegLib.examples.saved import taught_in
from InContextSegLib.progress import Report
from InContextSegLib.slices.plan import SlicePlan, same_grid, stored_axis
from InContextSegLib.training.site.datasets import ANY, DataSet, Listed, Problem, Site, listed_in
from InContextSegLib.training.site.splits import SIDES, TRAIN, VALIDATION, Side, divided
from InContextSegLib.training.site.survey import Amount, Survey, SurveyedCase, SurveyedSet, SurveyedTask
from InContextSegLib.volumes.files import read_labels, read_segments
from InContextSegLib.volumes.geometry import AXES, Geometry, across_slices
from InContextSegLib.volumes.headers import read_grid

_NAMED_AT_MOST = 5


@dataclass(frozen=True, eq=False)
class _Seen:
    """A case whose files can be read and belong together."""

    listed: Listed
    geometry: Geometry
    axis: str
    segments: dict[int, str]  # as the file itself names them
    showing: dict[int, int]  # in how many slices each value is seen

    @property
    def plan(self) -> SlicePlan:
        return SlicePlan.of(self.geometry, self.axis)


@dataclass(frozen=True, eq=False)
class _Found:
    """A data set: what its cases show, and by what names."""

    data_set: DataSet
    axis: str
    files: int
    cases: list[_Seen]
    names: dict[int | None, str]


@dataclass(frozen=True, eq=False)
class _Usual:
    """What most cases of a data set have: label values, and what segmentations call each of them."""

    held: frozenset[int]
    called: dict[int, str]

    @classmethod
    def of(cls, cases: Sequence[_Seen]) -> "_Usual":
        held = Counter(frozenset(case.showing) for case in cases)
        called: defaultdict[int, Counter[str]] = defaultdict(Counter)
        for case in cases:
            for value in case.segments.keys() & case.showing.keys():
                called[value][case.segments[value]] += 1
        commonest = {value: counted.most_common(1)[0][0] for value, counted in called.items()}
        return cls(held.most_common(1)[0][0] if held else frozenset(), commonest)


def survey(site: Site, report: Report) -> Survey:
    """Read the headers of images, and all labels; what cannot be used is named and left out, the rest stays.

    Missing voxels of a compressed image are noticed later, when it is cut.

    Raises:
        Cancelled: from `report`.
    """
    listings, problems, done = [listed_in(each) for each in site.datasets], [], count()
    total = 2 * sum(len(listed) for listed, _ in listings)

    def step(each: DataSet, one: Listed) -> None:
        report.step(next(done), total, f"{each.name}, {one.image.name}")

    found = []
    for each, (listed, alone) in zip(site.datasets, listings, strict=True):
        problems += alone
        found.append(_looked_through(each, listed, partial(step, each), problems))
    fixed = _fixed_sides(found, problems)
    shown = {
        (each.data_set.name, name): {case.listed.patient for case in each.cases if _shows(case, value)}
        for each in found
        for value, name in each.names.items()
    }
    sides = divided({"/".join(task): names for task, names in shown.items()}, fixed, site.validation_share, site.seed)
    cases = tuple(_case(each, case, sides[case.listed.patient]) for each in found for case in each.cases)
    tasks = tuple(_task(each.data_set.name, value, name, cases) for each in found for value, name in each.names.items())
    problems += [problem for task in tasks for problem in _lacks(task)]
    report.step(max(total, 1), max(total, 1), "looked through")
    return Survey(site.name, tuple(_summary(each, cases) for each in found), tasks, cases, tuple(problems))


def _looked_through(
    each: DataSet, listed: Sequence[Listed], step: Callable[[Listed], None], problems: list[Problem]
) -> _Found:
    """The cases of a data set that can be used; what is wrong with the others goes to `problems`."""
    grids = []
    for one in listed:
        step(one)
        try:
            grids.append((one, read_grid(one.image)))
        except InputError as error:
            problems.append(_left_out(each, one, "unreadable", str(error)))
    axis = _axis(each, [geometry for _, geometry in grids])
    cases = []
    for one, geometry in grids:
        step(one)
        try:
            cases.append(_seen(one, geometry, axis))
        except _Unusable as error:
            problems.append(_left_out(each, one, error.kind, str(error)))
        except InputError as error:
            problems.append(_left_out(each, one, "unreadable", str(error)))
    usual = _Usual.of(cases)
    names = _names(each, cases, usual)
    odd = [_problem(each, case, names, usual) for case in cases]
    problems += [problem for problem in odd if problem]
    cases = [case for case, problem in zip(cases, odd, strict=True) if not (problem and problem.left_out)]
    if not each.names:
        names = {value: name for value, name in names.items() if any(value in case.showing for case in cases)}
    return _Found(each, axis, len(listed), cases, names)


class _Unusable(Exception):  # noqa: N818 - never leaves this file
    def __init__(self, kind: str, sentence: str):
        super().__init__(sentence)
        self.kind = kind


def _left_out(each: DataSet, one: Listed, kind: str, sentence: str) -> Problem:
    return Problem(each.name, one.image.name, kind, sentence)


def _axis(each: DataSet, grids: Sequence[Geometry]) -> str:
    """As asked for, or across the slices of most volumes; empty where there are pictures only."""
    volumes = Counter(across_slices(geometry) for geometry in grids if geometry.shape[0] > 1)
    if each.axis != "auto" or not volumes:
        return each.axis if volumes else ""
    return max(AXES, key=lambda axis: volumes[axis])


def _seen(one: Listed, geometry: Geometry, axis: str) -> _Seen:
    """Read the labels of a case, and see whether they belong to its image."""
    labels, picture = read_labels(one.labels, geometry), geometry.shape[0] == 1
    # Picture files rarely carry a spacing, so that of the image holds for both.
    if labels.geometry.shape != geometry.shape if picture else not same_grid(geometry, labels.geometry):
        raise _Unusable(
            "geometry",
            f"{one.labels.name} lies on another grid ({_extent(labels.geometry)}) than {one.image.name} "
            f"({_extent(geometry)}), so both are left out; resample the labels onto the image.",
        )
    taught = taught_in(one.labels)
    axis = stored_axis(geometry) if picture else (taught.axis if taught else "") or axis
    segments = {segment.value: segment.name for segment in read_segments(one.labels)}
    showing = _slices_showing(labels.array, SlicePlan.of(geometry, axis).array_axis)
    if not showing:
        raise _Unusable(
            "empty", f"{one.labels.name} holds no label at all, so it is left out; label it, or move it away."
        )
    return _Seen(one, geometry, axis, segments, showing)


def _extent(geometry: Geometry) -> str:
    size, spacing = reversed(geometry.shape), reversed(geometry.spacing_mm)
    corner = ", ".join(f"{mm:.1f}" for mm in geometry.to_world((0, 0, 0)))
    shape, edges = " x ".join(map(str, size)), " x ".join(f"{mm:.3g}" for mm in spacing)
    return f"{shape} voxels of {edges} mm from ({corner})"


def _slices_showing(array: np.ndarray, axis: int) -> dict[int, int]:
    """In how many slices along an array axis each value but 0 is seen."""
    found: Counter[int] = Counter()
    for plane in np.moveaxis(array, axis, 0):
        found.update((np.flatnonzero(np.bincount(plane.ravel())[1:]) + 1).tolist())
    return dict(sorted(found.items()))


def _names(each: DataSet, cases: Sequence[_Seen], usual: _Usual) -> dict[int | None, str]:
    """The labels of a data set by value: as it says, or as the files do; None is every value."""
    if each.names:
        return {None: each.names[ANY]} if each.takes_any else dict(each.named)
    names: dict[int | None, str] = {}
    for value in sorted({value for case in cases for value in case.showing}):
        name = usual.called.get(value, f"label {value}").replace("/", "-")
        names[value] = name if name not in names.values() else f"{name} {value}"
    return names


def _is_called(called: str, value: int, names: Mapping[int | None, str], usually: Mapping[int, str]) -> bool:
    """Whether a segment may be the label of its value, by its name: not if it has another one's."""
    if called.casefold() == names[value].casefold():
        return True
    others = {name.casefold() for other, name in names.items() if other != value}
    return called == usually[value] and called.casefold() not in others


def _problem(each: DataSet, case: _Seen, names: Mapping[int | None, str], usual: _Usual) -> Problem | None:
    """What is odd about the label values of a case, beside the names, or most cases where there are none."""
    file, held = case.listed.labels.name, set(case.showing)

    def problem(sentence: str, left_out: bool) -> Problem:
        return Problem(each.name, case.listed.image.name, "values", sentence, left_out)

    for value in sorted(held & case.segments.keys() & names.keys()):
        called = case.segments[value]
        if not _is_called(called, value, names, usual.called):
            return problem(
                f"{file} calls label {value} '{called}', but in this data set it is '{names[value]}', so it is left "
                "out; give its segments the values or names of the others.",
                True,
            )
    if each.takes_any:
        return None
    expected = set(each.named) if each.names else usual.held
    if not held & expected:
        whose = "'names' has" if each.names else "most cases have"
        return problem(
            f"{file} holds the label values {_listed(held)}, but {whose} {_listed(expected)}, so it is left out; give "
            "its labels the values of the others, or name them.",
            True,
        )
    if each.names and held - expected:
        return problem(
            f"{file} also holds the label values {_listed(held - expected)}, which 'names' does not name, so there "
            "they are background; name them if they are not.",
            False,
        )
    if not each.names and held != expected:
        return problem(
            f"{file} holds the label values {_listed(held)}, most cases {_listed(expected)}; give the labels in "
            "'names' if that is meant.",
            False,
        )
    return None


def _listed(values: Iterable[int]) -> str:
    ordered = sorted(values)
    more = f" and {len(ordered) - _NAMED_AT_MOST} more" if len(ordered) > _NAMED_AT_MOST else ""
    return ", ".join(map(str, ordered[:_NAMED_AT_MOST])) + more


def _fixed_sides(found: Sequence[_Found], problems: list[Problem]) -> dict[str, Side]:
    """Which sides tables chose; cases of patients who are on both are taken out and named."""
    chosen: defaultdict[str, set[Side]] = defaultdict(set)
    for each in found:
        for case in each.cases:
            chosen[case.listed.patient].update({case.listed.side} - {None})
    for each in found:
        for case in [case for case in each.cases if len(chosen[case.listed.patient]) > 1]:
            sentence = (
                f"{case.listed.image.name} is of the patient '{case.listed.patient}', who is on both sides of the "
                f"split, so it is left out; write either {' or '.join(SIDES)} in all rows of that patient."
            )
            problems.append(_left_out(each.data_set, case.listed, "patient", sentence))
            each.cases.remove(case)
    return {patient: sides.pop() for patient, sides in chosen.items() if len(sides) == 1}


def _shows(case: _Seen, value: int | None) -> bool:
    return value is None or value in case.showing


def _case(each: _Found, case: _Seen, side: Side) -> SurveyedCase:
    return SurveyedCase(
        data_set=each.data_set.name,
        image=str(case.listed.image),
        labels=str(case.listed.labels),
        patient=case.listed.patient,
        side=side,
        axis=case.axis,
        shape=case.geometry.shape,
        spacing_mm=case.geometry.spacing_mm,
        showing={str(value): number for value, number in case.showing.items()},
    )


def _task(data_set: str, value: int | None, name: str, cases: Sequence[SurveyedCase]) -> SurveyedTask:
    amounts = []
    for side in (TRAIN, VALIDATION):
        showing = [case for case in cases if (case.data_set, case.side) == (data_set, side) and case.shows(value)]
        slices = sum(case.shows(value) for case in showing)
        amounts.append(Amount(len({case.patient for case in showing}), len(showing), slices))
    return SurveyedTask(f"{data_set}/{name}", data_set, name, value, *amounts)


def _lacks(task: SurveyedTask) -> list[Problem]:
    """What a task is short of."""
    if task.empty:
        sentence = f"No usable case shows {task.name}, so it cannot be learnt; add some, or take its name out."
        return [Problem(task.data_set, "", "empty task", sentence)]
    lone = task.train.patients + task.validation.patients == 1
    why = f"A single patient shows {task.name}" if lone else f"All who show {task.name} are on one side"
    for side, aim in ((task.train, "learn it from"), (task.validation, "validate it with")):
        if not side.cases:
            sentence = f"{why}, so there is nobody to {aim}; add another patient or change the split."
            return [Problem(task.data_set, "", "few patients", sentence, left_out=side is task.train)]
    return []


def _summary(each: _Found, cases: Sequence[SurveyedCase]) -> SurveyedSet:
    own = [case for case in cases if case.data_set == each.data_set.name]
    across = [case.plan.array_axis for case in each.cases]
    between = [case.spacing_mm[axis] for case, axis in zip(own, across, strict=True) if case.shape[0] > 1]
    # A picture without a spacing is read as one of 1 mm, which says nothing of the patient.
    known = [
        (case, axis)
        for case, axis in zip(own, across, strict=True)
        if case.shape[0] > 1 or set(case.spacing_mm) != {1.0}
    ]
    within = [mm for case, axis in known for mm in np.delete(case.spacing_mm, axis).tolist()]
    return SurveyedSet(
        name=each.data_set.name,
        axis=each.axis,
        found=each.files,
        usable=len(own),
        patients=len({case.patient for case in own}),
        slices=sum(case.shape[axis] for case, axis in zip(own, across, strict=True)),
        between_mm=(min(between), max(between)) if between else None,
        within_mm=(min(within), max(within)) if within else None,
    )
