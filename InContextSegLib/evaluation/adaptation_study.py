"""A study of adapting: Dice before and after a network learnt from the examples, and what they had led to expect.

Pictures are taken as they are; of volumes some slices, each as a picture of its own, patients never split between
examples and tests.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np

from InContextSegLib.adaptation.adapt import Adaptation, adapt
from InContextSegLib.adaptation.calibration import calibrate, sizes_for
from InContextSegLib.config import to_mapping
from InContextSegLib.errors import InputError
from InContextSegLib.evaluation.agreement import agreement_table, agreements
from InContextSegLib.evaluation.metrics import Summary, hierarchical_mean, summarise
from InContextSegLib.evaluation.scatter import Dot, draw_expected
from InContextSegLib.evaluation.study import DataSet, Run, Study, cases, cell, split_volumes, wanted_labels
from InContextSegLib.examples.support import LabelledVolume, SupportSet
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.inference.prior import Calibration, Prior
from InContextSegLib.inference.session import Session
from InContextSegLib.inference.settings import AdaptSettings, InferenceSettings
from InContextSegLib.jobs.task import across_slices
from InContextSegLib.models.loading import choose_device, load_model
from InContextSegLib.progress import Report
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.slices.plan import SlicePlan, stored_axis
from InContextSegLib.volumes.files import json_text, make_folder, write_text
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume, any_along
from InContextSegLib.volumes.overlap import dice

WAYS = ("plain", "before", "after")
SLICES_IN_ALL = 36  # of the test patients of a set of volumes


@dataclass(frozen=True, eq=False)
class SetTask:
    """The examples of one set, and for every test case its name and pictures: one, or slices of one volume."""

    support: tuple[LabelledVolume, ...]
    tests: tuple[tuple[str, tuple[LabelledVolume, ...]], ...]


def run_adaptation_study(study: Study, run: Run, report: Report, seconds: float) -> tuple[dict, str]:
    """Segment every test picture by the network as it is, after a calibration, and after adapting for `seconds`.

    Writes cases.jsonl, table.md, expected.png and adaptation.json.

    Returns:
        The summaries as a mapping, and the tables as text.

    Raises:
        InputError, OutputError, WeightsError: in one sentence.
        Cancelled: from `report`; nothing is written then.
    """
    if run.draws != 1:
        raise InputError(f"draws: adapting is measured with 1 draw of examples, but {run.draws} were asked for.")
    study = replace(study, sets=tuple(each for each in study.sets if each.scheme != "own-slices"))
    if not study.sets:
        raise InputError("Adapting is measured with examples of other patients, but every set asked for is own-slices.")
    settings = AdaptSettings(seconds, run.seed)
    make_folder(run.output)
    model, records, adaptations = load_model(run.model), [], []
    for done, each in enumerate(study.sets):
        for count in study.supports:
            report.step(done, len(study.sets), f"{each.name}, {count} examples")
            task = task_of(each, study, run, count)
            if task is None:
                continue
            sessions, adaptation = _sessions(task, each, model, count, run, settings, report.silent())
            adaptations.append(_about(each, count, task, adaptation))
            for name, pictures in task.tests:
                report.step(done, len(study.sets), f"{each.name}, {count} examples, {name}")
                records += _scores(sessions, each, count, name, pictures, report.silent())
    report.step(len(study.sets), len(study.sets), "done")
    return _written(study, run, records, adaptations, {"model": model[1], "seconds": seconds})


def task_of(each: DataSet, study: Study, run: Run, count: int) -> SetTask | None:
    """None where a smaller number of examples has shown all there are."""
    volumes = split_volumes(each, study, run)
    if volumes is None:
        found = list(cases(each, study, run, count, study.supports))
        return SetTask(found[0].support, tuple((case.name, (case.pair,)) for case in found)) if found else None
    learners, testers = volumes
    if not learners or not testers:
        return None
    per_patient = max(1, -(-2 * count // len(learners)))
    pool = [picture for pair in learners for picture in slices_of(pair, per_patient)]
    order = np.random.default_rng((run.seed, count)).permutation(len(pool))
    if len(pool) <= max((fewer for fewer in study.supports if fewer < count), default=0):
        return None
    each_shows = max(1, SLICES_IN_ALL // len(testers))
    tests = [(pair.source, tuple(slices_of(pair, each_shows))) for pair in testers if pair.labels.array.any()]
    return SetTask(tuple(pool[index] for index in order[:count]), tuple(tests))


def slices_of(pair: LabelledVolume, most: int) -> list[LabelledVolume]:
    """At most so many labelled slices of a volume, evenly spread, each as a picture of the same name."""
    plan = SlicePlan.of(pair.image.geometry, across_slices(pair.image.geometry))
    labelled = np.flatnonzero(any_along(pair.labels.array, plan.array_axis))
    places = np.linspace(0, len(labelled) - 1, min(most, len(labelled)) + 2)[1:-1]
    j_mm, i_mm = np.delete(pair.image.geometry.spacing_mm, plan.array_axis)
    pictures = []
    for index in sorted({int(labelled[round(place)]) for place in places}):
        image, labels = (np.take(each.array, [index], plan.array_axis) for each in (pair.image, pair.labels))
        image, labels = (np.moveaxis(array, plan.array_axis, 0) for array in (image, labels))
        geometry = Geometry(image.shape, np.diag([-i_mm, -j_mm, 1.0, 1.0]))
        image, labels = Volume(image, geometry, Kind.INTENSITY), Volume(labels, geometry, Kind.LABELS)
        pictures.append(LabelledVolume(image, labels, pair.source))
    return pictures


def _sessions(
    task: SetTask, each: DataSet, model: tuple, count: int, run: Run, settings: AdaptSettings, report: Report
) -> tuple[dict[str, Session], Adaptation]:
    """A session for each of `WAYS`, and what came of adapting."""
    segmenter, provenance, size = model
    device, intensities = choose_device(run.device), Intensities(each.window)
    cut = partial(SupportSet.from_images, task.support, intensities=intensities)
    geometry = task.support[0].image.geometry
    network = CachedSegmenter(segmenter, device)
    first = cut(size)
    if run.calibrate:
        sizes = sizes_for(geometry, stored_axis(geometry), size, len(each.labels))
        calibration = calibrate(network, lambda pixels: first if pixels == size else cut(pixels), sizes, count, report)
    else:
        calibration = Calibration(first, count)
    adaptation = adapt(segmenter, device, calibration, settings, report)

    def session(network, calibration: Calibration | None) -> Session:
        support = calibration.support if calibration else first
        return Session(network, [support], intensities, provenance, device, Prior(calibration))

    return {
        "plain": session(segmenter, None),
        "before": session(segmenter, calibration),
        "after": session(adaptation.applied(segmenter), adaptation.calibration),
    }, adaptation


def _scores(
    sessions: dict[str, Session],
    each: DataSet,
    count: int,
    name: str,
    pictures: Sequence[LabelledVolume],
    report: Report,
) -> list[dict]:
    """Dice of every label that the examples or the truth know, each way; the slices of a volume count together."""
    truth = np.concatenate([pair.labels.array.ravel() for pair in pictures])
    found = {way: _segmented(session, pictures, count, report) for way, session in sessions.items()}
    known = {label.value for label in sessions["plain"].labels} | set(np.unique(truth).tolist())
    return [
        {"set": each.name, "case": name, "label": label.name, "supports": count}
        | {way: dice(labels == label.value, truth == label.value) for way, labels in found.items()}
        for label in wanted_labels(each)
        if label.value in known
    ]


def _segmented(session: Session, pictures: Sequence[LabelledVolume], count: int, report: Report) -> np.ndarray:
    """The labels of all pixels of all pictures in one row."""
    settings = InferenceSettings(supports=count, draws=1, axes=(next(iter(session.supports)),))
    masks = [session.segment(pair.image, settings, report).mask.array for pair in pictures]
    return np.concatenate([mask.ravel() for mask in masks])


def _about(each: DataSet, count: int, task: SetTask, adaptation: Adaptation) -> dict:
    names = {label.value: label.name for label in wanted_labels(each)}
    record = adaptation.record

    def named(found: dict) -> dict:
        return {names[int(value)]: about for value, about in found.items() if int(value) in names}

    return (
        {"set": each.name, "supports": count, "shown": len(task.support)}
        | record
        | {way: named(record[way]) for way in ("before", "after")}
        | {"calibration": adaptation.calibration.record}
    )


def _written(study: Study, run: Run, records: list[dict], adaptations: list[dict], about: dict) -> tuple[dict, str]:
    expectations = _expectations(records, adaptations)
    summaries, means = _summaries(records, run.seed), _means(records, study, run.seed)
    found = agreements(expectations, study.supports)
    table = _table(study, summaries, means, adaptations) + agreement_table(found)
    result = about | {
        "study": to_mapping(study),
        "seed": run.seed,
        "calibrate": run.calibrate,
        "summaries": summaries,
        "means": means,
        "adaptations": adaptations,
        "expectations": expectations,
        "agreement": found,
    }
    write_text(run.output / "cases.jsonl", "".join(json_text(record) + "\n" for record in records))
    write_text(run.output / "table.md", table)
    dots = [
        Dot(f"{row['set']}: {row['label']}", row["supports"], row["expected"], row["actual"]) for row in expectations
    ]
    draw_expected(run.output / "expected.png", dots)
    write_text(run.output / "adaptation.json", json_text(result, indent=2) + "\n")
    return result, table


def _summaries(records: list[dict], seed: int) -> list[dict]:
    rows = []
    for key in dict.fromkeys((record["set"], record["label"], record["supports"]) for record in records):
        group = [record for record in records if (record["set"], record["label"], record["supports"]) == key]
        row = dict(zip(("set", "label", "supports"), key, strict=True)) | {"cases": len(group)}
        for way in WAYS:
            row[way] = asdict(summarise([record[way] for record in group], np.random.default_rng(seed)))
        gains = [record["after"] - record["before"] for record in group]
        rows.append(row | {"gain": asdict(summarise(gains, np.random.default_rng(seed)))})
    return rows


def _means(records: list[dict], study: Study, seed: int) -> list[dict]:
    """Means over the sets, every set weighing alike, of every way and of the gains."""
    rows = []
    for count in study.supports:
        group = [record for record in records if record["supports"] == count]
        if not group:
            continue
        row = {"supports": count, "sets": len({record["set"] for record in group})}
        values = {way: _nested(group, lambda record, way=way: record[way]) for way in WAYS}
        values["gain"] = _nested(group, lambda record: record["after"] - record["before"])
        values["gain over plain"] = _nested(group, lambda record: record["after"] - record["plain"])
        rows.append(
            row | {name: asdict(hierarchical_mean(each, np.random.default_rng(seed))) for name, each in values.items()}
        )
    return rows


def _nested(records: list[dict], value) -> dict[str, dict[str, list[float]]]:
    nested: dict[str, dict[str, list[float]]] = {}
    for record in records:
        nested.setdefault(record["set"], {}).setdefault(record["label"], []).append(value(record))
    return nested


def _expectations(records: list[dict], adaptations: list[dict]) -> list[dict]:
    """What was expected of every label and number of examples that could be tried, and what came."""
    rows = []
    for about in adaptations:
        for label, found in about["after" if about["helped"] else "before"].items():
            actual = [
                record["after"]
                for record in records
                if (record["set"], record["supports"], record["label"]) == (about["set"], about["supports"], label)
            ]
            if actual:
                row = {"set": about["set"], "label": label, "supports": about["supports"]}
                rows.append(
                    row | {"expected": found["dice"], "spread": found["spread"], "actual": float(np.mean(actual))}
                )
    return rows


def _table(study: Study, summaries: list[dict], means: list[dict], adaptations: list[dict]) -> str:
    """Markdown: Dice plain, before and after adapting, per set, label and number of examples, and what was decided."""
    lines = ["| set | label | cases | N | plain | before | after | gain | adapted |", "|" + "---|" * 9]
    decided = {(each["set"], each["supports"]): each for each in adaptations}
    order = [(each.name, label) for each in study.sets for label in each.labels]
    for row in sorted(summaries, key=lambda row: order.index((row["set"], row["label"]))):
        about = decided[row["set"], row["supports"]]
        fewer = f" ({about['shown']} there are)" if about["shown"] < row["supports"] else ""
        word = f"{about['steps']} steps" if about["helped"] else "kept"
        cells = " | ".join(cell(Summary(**row[way])) for way in (*WAYS, "gain"))
        lines.append(
            f"| {row['set']} | {row['label']} | {row['cases']} | {row['supports']}{fewer} | {cells} | {word} |"
        )
    for row in means:
        cells = " | ".join(cell(Summary(**row[way])) for way in (*WAYS, "gain"))
        lines.append(f"| **mean of {row['sets']} sets** | | | {row['supports']} | {cells} | |")
    seconds = [each["seconds"] for each in adaptations] or [0.0]
    lines += ["", f"Adapting took {min(seconds):.1f} to {max(seconds):.1f} s, in the mean {np.mean(seconds):.1f} s."]
    return "\n".join(lines) + "\n"
