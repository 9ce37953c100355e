"""A study: a model measured on labelled data sets, case by case, at native resolution, with intervals."""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from InContextSegLib.adaptation.calibration import finer_sizes, sizes_for
from InContextSegLib.adaptation.levels import levels_of
from InContextSegLib.adaptation.prepare import Task, prepare
from InContextSegLib.config import to_mapping
from InContextSegLib.errors import InputError
from InContextSegLib.evaluation.agreement import (
    agreement_table,
    agreements,
    of_cases,
    of_tasks,
    verdict_table,
    verdicts,
)
from InContextSegLib.evaluation.metrics import Summary, evaluate_labels, summarise
from InContextSegLib.examples.discriminant import colour_mix
from InContextSegLib.examples.labelled import known_labels
from InContextSegLib.examples.pairs import paired_files
from InContextSegLib.examples.support import Label, LabelledVolume, SupportSet, field_of
from InContextSegLib.inference.session import Session
from InContextSegLib.inference.settings import InferenceSettings
from InContextSegLib.jobs.task import across_slices
from InContextSegLib.models.loading import Model, choose_device, load_model
from InContextSegLib.models.networks import SliceSegmenter
from InContextSegLib.progress import Report
from InContextSegLib.slices.body import Field
from InContextSegLib.slices.boxes import slab
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.slices.plan import SlicePlan, stored_axis
from InContextSegLib.volumes.colour import LUMINANCE, ColourMix
from InContextSegLib.volumes.files import ending_of, json_text, make_folder, read_volume, write_text
from InContextSegLib.volumes.geometry import Kind, Volume, any_along

log = logging.getLogger(__name__)

OWN_SLICES = 5
DISTANCE_METRICS = ("asd_mm", "hd95_mm")


@dataclass(frozen=True)
class DataSet:
    """One labelled data set of a study.

    Attributes:
        labels: name and value of what is to be segmented; "any" is every value above 0.
        images, masks: folders below the data folder; empty means `name`/images and `name`/labels.
        groups: a regular expression whose first group is the patient in a file's stem; empty: every file is one.
        scheme: "split" into examples and tests by patient; "leave-one-out"; "own-slices": five labelled slices of the
            very volume, the first and the last labelled one among them, and nothing is segmented beyond those two, as
            a user would ask by --slices; the five do not count in the scores.
        tests: at most so many test cases.
        window: grey values to look at, for CT.
    """

    name: str
    labels: dict[str, int | Literal["any"]]
    images: str = ""
    masks: str = ""
    groups: str = ""
    scheme: Literal["split", "leave-one-out", "own-slices"] = "split"
    tests: int = 30
    window: tuple[float, float] | None = None

    def __post_init__(self):
        try:
            groups = re.compile(self.groups).groups
        except re.error as error:
            raise InputError(f"groups: '{self.groups}' is no regular expression ({error}).") from error
        if self.groups and not groups:
            raise InputError(f"groups: '{self.groups}' needs a group in brackets that finds the patient.")
        if self.tests < 1:
            raise InputError(f"tests: asked for at least 1, got {self.tests}.")

    def folders(self, data: Path) -> tuple[Path, Path]:
        return data / (self.images or f"{self.name}/images"), data / (self.masks or f"{self.name}/labels")


@dataclass(frozen=True)
class Study:
    """Data sets, and the numbers of examples to measure with. Patients are permuted by `split_seed`, then split.

    `contexts` are the numbers of examples beside the clicks of a simulated user, none among them.
    """

    name: str
    supports: tuple[int, ...]
    sets: tuple[DataSet, ...]
    split_seed: int = 42
    support_share: float = 0.7
    contexts: tuple[int, ...] = (0, 4, 16)

    def __post_init__(self):
        if not 0 < self.support_share < 1:
            raise InputError(f"support_share: asked for a number between 0 and 1, got {self.support_share}.")
        if not self.supports or min(self.supports) < 1:
            raise InputError(f"supports: asked for numbers of examples from 1 up, got {list(self.supports)}.")
        if not self.contexts or min(self.contexts) < 0:
            raise InputError(f"contexts: asked for numbers of examples from 0 up, got {list(self.contexts)}.")


@dataclass(frozen=True)
class Run:
    """How a study is run this time.

    Attributes:
        colour: how colours become grey; None: as the examples say (`colour_mix`).
        calibrate: let the examples choose how many to show, image size and thresholds.
        adapt_seconds: for which the default model learns from the examples as well (`combine`).
    """

    data: Path
    output: Path
    model: Model
    draws: int = 1
    seed: int = 0
    device: str = "auto"
    colour: ColourMix | None = None
    calibrate: bool = True
    adapt_seconds: float = 0.0

    def __post_init__(self):
        InferenceSettings(draws=self.draws, seed=self.seed, adapt_seconds=self.adapt_seconds)


@dataclass(frozen=True, eq=False)
class Case:
    """A test case, and the labelled images it may learn from."""

    name: str
    pair: LabelledVolume
    support: tuple[LabelledVolume, ...]
    mix: ColourMix


def chosen_sets(study: Study, names: list[str] | None) -> Study:
    """The study with only the named sets.

    Raises:
        InputError: if one of them is not in the study.
    """
    known = [each.name for each in study.sets]
    for name in names or ():
        if name not in known:
            raise InputError(f"The study '{study.name}' has no set '{name}'; it has {', '.join(known)}.")
    return replace(study, sets=tuple(each for each in study.sets if not names or each.name in names))


def run_study(study: Study, run: Run, report: Report) -> tuple[dict, str]:
    """Segment every test case with every number of examples; write cases.jsonl, table.md and study.json.

    Returns:
        The summaries as a mapping, and the table as text.

    Raises:
        InputError, OutputError, WeightsError: in one sentence.
        Cancelled: from `report`; nothing is written then.
    """
    make_folder(run.output)
    model, records = load_model(run.model), []
    for done, each in enumerate(study.sets):
        for count in study.supports:
            report.step(done, len(study.sets), f"{each.name}, {count} examples")
            shared, session = None, None
            for case in cases(each, study, run, count, study.supports):
                if case.support is not shared:
                    shared, session = case.support, opened_session(case, each, model, count, run, report.silent())
                records += _scores(session, case, each, count, run, report.silent())
                report.step(done, len(study.sets), f"{each.name}, {count} examples, {case.name}")
    report.step(len(study.sets), len(study.sets), "done")
    summaries = _summaries(records, run.seed)
    by_case = of_cases(records)
    found = {
        "tasks": agreements(of_tasks(records), study.supports),
        "cases": agreements(by_case, study.supports),
        "verdicts": verdicts(by_case),
    }
    table = _table(study, summaries) + agreement_table(found["tasks"]) + agreement_table(found["cases"], "cases")
    table += verdict_table(found["verdicts"])
    write_text(run.output / "cases.jsonl", "".join(json_text(record) + "\n" for record in records))
    write_text(run.output / "table.md", table)
    result = {
        "study": to_mapping(study),
        "model": model[1],
        "draws": run.draws,
        "seed": run.seed,
        "colour": run.colour.record if run.colour else "auto",
        "calibrate": run.calibrate,
        "adapt_seconds": run.adapt_seconds,
        "summaries": summaries,
        "agreement": found,
    }
    write_text(run.output / "study.json", json_text(result, indent=2) + "\n")
    return result, table


def opened_session(
    case: Case, each: DataSet, model: tuple[SliceSegmenter, dict, int], count: int, run: Run, report: Report
) -> Session:
    """The network and the examples of a case, which have predicted one another if the run says so.

    Args:
        model: what `load_model` returned.
        count: examples shown to the network at most.
    """
    segmenter, provenance, size = model
    device = choose_device(run.device)
    if not run.calibrate:
        return Session(segmenter, [support_of(case, each, size)], Intensities(each.window), provenance, device)
    geometry = case.pair.image.geometry
    axis = stored_axis(geometry) if geometry.shape[0] == 1 else across_slices(geometry)
    own = each.scheme == "own-slices"
    field = None if own else field_of(case.support, axis, Intensities(each.window))
    sizes = sizes_for(geometry, axis, size, len(each.labels), field)
    cut = partial(support_of, case, each, field=field)
    first = cut(size)
    levels = None if own else levels_of(segmenter, device, case.support, first, Intensities(each.window))
    placed = levels.applied if levels else lambda support: support
    finer = finer_sizes(geometry, axis, size)
    task = Task(lambda pixels: placed(first if pixels == size else cut(pixels)), sizes, finer=finer, own=own)
    settings = InferenceSettings(supports=count, seed=run.seed, calibrate=True, adapt_seconds=run.adapt_seconds)
    ready = prepare(segmenter, device, task, settings, report)
    support = ready.calibration.support
    prior = replace(ready.prior, levels=levels)
    return Session(ready.segmenter, [support], Intensities(each.window), provenance, device, prior)


def cases(each: DataSet, study: Study, run: Run, count: int, counts: Sequence[int]) -> Iterator[Case]:
    """Test cases, each with the labelled images it may learn from: `count` pictures, or all where there are fewer.

    Where a smaller one of `counts` has shown all pictures there are already, there is no case.

    Raises:
        InputError: if the images or their labels cannot be read.
    """
    files = paired_files(*each.folders(run.data))
    patients = [_patient(image, each.groups) for image, _ in files]
    if each.scheme != "split":
        read = lru_cache(maxsize=len(files))(partial(_read, each))
        for patient, own in zip(patients, files, strict=True):
            others = [other for name, other in zip(patients, files, strict=True) if name != patient]
            learners = others if each.scheme == "leave-one-out" else [own]
            mix = _mix(each, run, learners if count else [], [own])
            pair, support = read(*own, mix), tuple(read(*other, mix) for other in learners)
            if any(labelled.labels.array.any() for labelled in support):
                yield Case(own[0].name, pair, support, mix)
            else:
                log.warning("%s: %s is left out, as there is no label to learn from.", each.name, pair.source)
        return
    support, tests = _split(each, study, files, patients)
    if not support:
        return
    if read_volume(support[0][0]).geometry.shape[0] == 1:
        if len(support) <= max((fewer for fewer in counts if fewer < count), default=0):
            return  # the number before has shown all there is
        generator = np.random.default_rng((run.seed, count))
        support = [support[index] for index in generator.permutation(len(support))[:count]]
    mix = _mix(each, run, support, tests)
    examples = tuple(_read(each, *pair, mix) for pair in support)
    for pair in tests:
        yield Case(pair[0].name, _read(each, *pair, mix), examples, mix)


def _split(
    each: DataSet, study: Study, files: Sequence[tuple[Path, Path]], patients: Sequence[str]
) -> tuple[list[tuple[Path, Path]], list[tuple[Path, Path]]]:
    """The files to learn from and those to test with, by patients in random order."""
    names = sorted(set(patients))
    order = np.random.default_rng(study.split_seed).permutation(len(names))
    learners = {names[index] for index in order[: int(study.support_share * len(names))]}
    by_patient = [names[index] for index in order]
    ranked = sorted(zip(patients, files, strict=True), key=lambda row: by_patient.index(row[0]))
    tests = [pair for patient, pair in ranked if patient not in learners][: each.tests]
    return [pair for patient, pair in ranked if patient in learners], tests


def split_volumes(each: DataSet, study: Study, run: Run) -> tuple[list[LabelledVolume], list[LabelledVolume]] | None:
    """Volumes to learn from and to test with, by patient whatever the set's scheme; None for a set of pictures.

    Raises:
        InputError: if the images or their labels cannot be read.
    """
    files = paired_files(*each.folders(run.data))
    if read_volume(files[0][0]).geometry.shape[0] == 1:
        return None
    parts = _split(each, study, files, [_patient(image, each.groups) for image, _ in files])
    return tuple([_read(each, *pair, LUMINANCE) for pair in part] for part in parts)


def _mix(
    each: DataSet, run: Run, support: Sequence[tuple[Path, Path]], tests: Sequence[tuple[Path, Path]]
) -> ColourMix:
    """One mix of colours for examples and tests, found from the examples unless the run says which."""
    if run.colour is None and each.scheme == "own-slices":
        return replace(LUMINANCE, why="luminance, as the labels of the other slices are the truth")
    targets, intensities = [image for image, _ in tests], Intensities(each.window)
    return run.colour or colour_mix(support, targets, intensities, lambda masks: _read_labels(each, masks).array)


def _patient(image: Path, pattern: str) -> str:
    stem = image.name[: -len(ending_of(image))]
    match = re.search(pattern, stem) if pattern else None
    return match.group(1) if match else stem


def _read(each: DataSet, image: Path, masks: Path, mix: ColourMix) -> LabelledVolume:
    # Named by the patient, so that a calibration never predicts one picture of a patient from another.
    name = _patient(image, each.groups) if each.groups else image.name
    return LabelledVolume(read_volume(image, mix=mix), _read_labels(each, masks), name)


def _read_labels(each: DataSet, masks: Path) -> Volume:
    labels = read_volume(masks, Kind.LABELS)
    if "any" in each.labels.values():
        labels = Volume((labels.array > 0).astype(np.uint8), labels.geometry, Kind.LABELS)
    return labels


def wanted_labels(each: DataSet) -> list[Label]:
    """The labels of a data set, with the values they have in its cases."""
    return [Label(1 if value == "any" else value, name) for name, value in each.labels.items()]


def support_of(case: Case, each: DataSet, size: int, field: Field | None = None) -> SupportSet:
    """The examples of a case, of the network's size; of a volume its slices, in a field of view if one is given."""
    intensities = Intensities(each.window)
    if case.pair.image.geometry.shape[0] == 1:
        return SupportSet.from_images(case.support, size, intensities)
    axis = across_slices(case.pair.image.geometry)
    slices = own_slices(case.pair.labels, axis) if each.scheme == "own-slices" else "auto"
    return SupportSet.from_volumes(case.support, axis, size, slices, intensities, field=field)


def own_slices(labels: Volume, axis: str) -> tuple[int, ...]:
    """Five slice indices spread evenly over the labelled extent, both ends among them: what a person would label."""
    array_axis = SlicePlan.of(labels.geometry, axis).array_axis
    labelled = np.flatnonzero(any_along(labels.array, array_axis))
    places = np.linspace(0, len(labelled) - 1, OWN_SLICES)
    return tuple(dict.fromkeys(int(labelled[round(place)]) for place in places))


def _scores(session: Session, case: Case, each: DataSet, count: int, run: Run, report: Report) -> list[dict]:
    settings = InferenceSettings(
        supports=count,
        draws=run.draws,
        seed=run.seed,
        smooth=True,
        axes=tuple(session.supports),
    )
    truth, geometry = case.pair.labels.array, case.pair.image.geometry
    box = None
    if each.scheme == "own-slices":
        axis = next(iter(session.supports))
        drawn = own_slices(case.pair.labels, axis)
        box = slab(geometry, axis, (drawn[0], drawn[-1]))
    prediction = session.segment(case.pair.image, settings, report, box)
    guess = prediction.mask.array
    if prediction.given:
        axis = SlicePlan.of(geometry, prediction.next_axis).array_axis
        guess, truth = np.delete(guess, prediction.given, axis), np.delete(truth, prediction.given, axis)
    if not truth.size:
        return []
    # A label that no chosen example shows counts as missed wherever the truth has it. Of one that a volume shows
    # nowhere beside others nobody knows whether it is there.
    known = {label.value for label in session.labels} | set(np.unique(truth).tolist())
    known &= known_labels(case.pair) or known
    shown = min(count, *(len(support) for support in session.supports.values()))
    wanted = [label for label in wanted_labels(each) if label.value in known]
    scores = evaluate_labels(guess, truth, geometry.spacing_mm, [label.value for label in wanted])
    foreseen = session.foresight.expected if session.foresight else {}
    expected = {value: (each.dice, each.of_case(prediction.soft.get(value))) for value, each in foreseen.items()}
    return [
        {"set": each.name, "case": case.name, "label": label.name, "supports": count, "shown": shown}
        | {"colour": case.mix.record, "calibration": session.calibration.record if session.calibration else None}
        | dict(zip(("expected", "expected_of_case"), expected.get(label.value, (None, None)), strict=True))
        | asdict(scores[label.value])
        for label in wanted
    ]


def _summaries(records: list[dict], seed: int) -> list[dict]:
    rows = []
    for key in dict.fromkeys((record["set"], record["label"], record["supports"]) for record in records):
        group = [record for record in records if (record["set"], record["label"], record["supports"]) == key]
        generator = np.random.default_rng(seed)
        row = dict(zip(("set", "label", "supports"), key, strict=True)) | {
            "cases": len(group),
            "shown": group[0]["shown"],
        }
        for metric in ("dice", "iou", "nsd", *DISTANCE_METRICS):
            row[metric] = asdict(summarise([record[metric] for record in group], generator))
        rows.append(row)
    return rows


def _table(study: Study, summaries: list[dict]) -> str:
    """A Markdown table: Dice per set, label and number of examples; the last row is the mean over sets."""
    head = ["set", "label", "cases", *(f"Dice, N = {count}" for count in study.supports), "HD95 mm (largest N)"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    cells = {(row["set"], row["label"], row["supports"]): row for row in summaries}
    for name, label in [(each.name, label) for each in study.sets for label in each.labels]:
        rows = [cells.get((name, label, count)) for count in study.supports]
        last = next((row for row in reversed(rows) if row), None)
        dice = [_dice_cell(row) for row in rows]
        counted, distance = (last["cases"], cell(Summary(**last["hd95_mm"]), 1)) if last else (0, "–")
        lines.append(f"| {name} | {label} | {counted} | {' | '.join(dice)} | {distance} |")
    means = [_mean_over_sets(summaries, count) for count in study.supports]
    lines.append(f"| **mean of the sets that have this N** | | | {' | '.join(means)} | |")
    return "\n".join(lines) + "\n"


def _dice_cell(row: dict | None) -> str:
    if row is None:
        return "–"
    fewer = f" (all {row['shown']} there are)" if row["shown"] < row["supports"] else ""
    return cell(Summary(**row["dice"])) + fewer


def cell(summary: Summary, digits: int = 3) -> str:
    """A mean with its interval, as it stands in a table."""
    if not summary.defined:
        return "–"
    text = f"{summary.mean:.{digits}f}"
    # A single case has no interval.
    if summary.defined > 1:
        text += f" [{summary.low:.{digits}f}, {summary.high:.{digits}f}]"
    return f"{text} ({summary.undefined} undefined)" if summary.undefined else text


def _mean_over_sets(summaries: list[dict], count: int) -> str:
    by_set = {}
    for row in summaries:
        if row["supports"] == count:
            by_set.setdefault(row["set"], []).append(row["dice"]["mean"])
    if not by_set:
        return "–"
    return f"{np.mean([np.mean(labels) for labels in by_set.values()]):.3f} ({len(by_set)})"
