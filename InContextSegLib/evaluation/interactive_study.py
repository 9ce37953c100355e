"""A study with a simulated user: how good a segmentation is after so many clicks, and how many clicks it takes.

Pictures are taken as they are, of a volume the slice that shows most of a label. With examples in context the network
answers before the first click, and every click corrects its last answer; without, the first click is a random one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Float

from InContextSegLib.adaptation.calibration import calibrate
from InContextSegLib.config import to_mapping
from InContextSegLib.errors import InputError
from InContextSegLib.evaluation.click_curves import Curve, draw_clicks
from InContextSegLib.evaluation.metrics import Summary, hierarchical_mean, summarise
from InContextSegLib.evaluation.study import Case, DataSet, Run, Study, cases, cell, support_of, wanted_labels
from InContextSegLib.evaluation.user import correcting_click, jittered_box, random_click
from InContextSegLib.examples.support import Label
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.inference.interactive import InteractiveSlice
from InContextSegLib.inference.prior import Calibration
from InContextSegLib.jobs.task import across_slices
from InContextSegLib.models.catalog import find
from InContextSegLib.models.loading import answering_clicks, choose_device, load_model
from InContextSegLib.progress import Report
from InContextSegLib.slices.intensities import Intensities, Scale
from InContextSegLib.slices.plan import SlicePlan, stored_axis
from InContextSegLib.slices.prompts import BoxPrompt, Point, Position, Prompts
from InContextSegLib.volumes.files import json_text, make_folder, write_text
from InContextSegLib.volumes.overlap import dice

CLICKS = 10
SHOWN = (0, 1, 2, 3, 5, 10)
ENOUGH = 0.85

First = Literal["click", "box"]


@dataclass(frozen=True, eq=False)
class _Target:
    """One label on one slice of a case: what is to be found, (k, j, i) with length 1 across the slice."""

    slice: InteractiveSlice
    truth: np.ndarray
    label: Label
    generator: np.random.Generator

    def position_mm(self, index_kji: Sequence[float] | np.ndarray) -> Position:
        """RAS mm of an index (k, j, i) in `truth`."""
        return tuple(self.slice.geometry.to_world(index_kji).tolist())


def run_interactive_study(study: Study, run: Run, report: Report, first: First = "click") -> tuple[dict, str]:
    """Let a simulated user segment every test case with every number of examples in context.

    Sets whose examples come from the very volume (own slices) are left out: here they come from other patients.
    Writes cases.jsonl, table.md, interactive.json and curves.png.

    Args:
        first: what the user begins with; a box counts as a click.

    Returns:
        The summaries as a mapping, and the table as text.

    Raises:
        InputError, OutputError, WeightsError: in one sentence.
        Cancelled: from `report`; nothing is written then.
    """
    if run.draws != 1:
        raise InputError(f"draws: clicks are measured with 1 draw of examples, but {run.draws} were asked for.")
    study = replace(study, sets=tuple(each for each in study.sets if each.scheme != "own-slices"))
    if not study.sets:
        raise InputError("Clicks are measured with examples of other patients, but every set asked for is own-slices.")
    make_folder(run.output)
    segmenter, provenance, size = load_model(answering_clicks(run.model, find(run.model.name)))
    network, records = CachedSegmenter(segmenter, choose_device(run.device)), []
    for done, each in enumerate(study.sets):
        for count in study.contexts:
            message = f"{each.name}, {count} examples"
            report.step(done, len(study.sets), message)
            for case, calibration in _calibrated(network, each, study, run, (count, size), report.silent()):
                for target in _targets(network, case, each, run.seed, size):
                    records.append(
                        {"set": each.name, "case": case.name, "label": target.label.name, "supports": count}
                        | {"colour": case.mix.record}
                        | _interaction(target, calibration, first)
                    )
                report.step(done, len(study.sets), f"{message}, {case.name}")
    report.step(len(study.sets), len(study.sets), "done")
    return _written(study, run, records, {"model": provenance, "first": first})


def _calibrated(
    network: CachedSegmenter, each: DataSet, study: Study, run: Run, shown: tuple[int, int], report: Report
) -> Iterator[tuple[Case, Calibration | None]]:
    """Every case with its examples cut to size, once for all cases that share them; None for a count of 0.

    How many of them stand beside a slice, the examples say themselves, unless the run has them all shown.

    Args:
        shown: how many there are, and the size of their pictures.
    """
    count, size = shown
    shared, calibration = None, None
    for case in cases(each, study, run, count, study.contexts):
        if count and case.support is not shared:
            shared, cut = case.support, partial(support_of, case, each)
            calibration = (
                calibrate(network, cut, (size,), count, report) if run.calibrate else Calibration(cut(size), count)
            )
        yield case, calibration


def _targets(network: CachedSegmenter, case: Case, each: DataSet, seed: int, size: int) -> Iterator[_Target]:
    """Every label that the case shows, on the slice that shows most of it."""
    volume, labels = case.pair.image, case.pair.labels.array
    scale, geometry = Intensities(each.window).of(volume.array), volume.geometry
    lone = geometry.shape[0] == 1
    plan = SlicePlan.of(geometry, stored_axis(geometry) if lone else across_slices(geometry), size)
    for number, label in enumerate(wanted_labels(each)):
        truth = labels == label.value
        if not truth.any():
            continue
        amounts = truth.sum(axis=tuple(axis for axis in range(3) if axis != plan.array_axis))
        index = int(amounts.argmax())
        block = np.take(truth, [index], axis=plan.array_axis)
        # The same random click whatever stands in context.
        generator = np.random.default_rng([seed, number, *case.name.encode()])
        yield _Target(_opened(network, case, scale, plan, index), block, label, generator)


def _opened(network: CachedSegmenter, case: Case, scale: Scale, plan: SlicePlan, index: int) -> InteractiveSlice:
    return InteractiveSlice(network, case.pair.image, scale, plan, plan.number(index))


def _interaction(target: _Target, calibration: Calibration | None, first: First) -> dict:
    """Dice after 0, 1, ... `CLICKS` clicks (undefined after 0 without examples), and how many it took."""
    examples = target.slice.chosen(calibration.support, calibration.shown) if calibration else ()
    if not any((example.labels == target.label.value).any() for example in examples):
        examples = ()  # what no example shows is a task without examples
    prompts, answer, scores = Prompts(), None, []
    guess = np.zeros_like(target.truth)
    for clicks in range(CLICKS + 1):
        if clicks:
            prompt = _next_prompt(target, guess, fresh=answer is None, first=first if clicks == 1 else "click")
            if prompt is None:
                # Nothing is wrong any more.
                scores += [scores[-1]] * (CLICKS + 1 - clicks)
                break
            prompts = prompts.adding(prompt)
        if prompts.empty and not examples:
            scores.append(np.nan)
            continue
        previous = answer.logits if answer else None
        answer = target.slice.segment(prompts, previous, examples, target.label.value)
        guess = answer.mask()
        scores.append(dice(guess, target.truth))
    reached = [clicks for clicks, score in enumerate(scores) if score >= ENOUGH]
    return {
        "shown": len(examples),
        "dice": scores,
        "clicks": reached[0] if reached else CLICKS,
        "reached": bool(reached),
    }


def _next_prompt(target: _Target, guess: np.ndarray, fresh: bool, first: First) -> Point | BoxPrompt | None:
    """What the user says to the last answer; `fresh`: there is none yet."""
    if first == "box":
        return BoxPrompt(*map(target.position_mm, jittered_box(target.truth, target.generator)))
    if fresh:
        click = random_click(target.truth, target.generator)
    else:
        click = correcting_click(guess, target.truth, target.slice.geometry.spacing_mm)
    return Point(target.position_mm(click.index_kji), click.positive) if click else None


def _written(study: Study, run: Run, records: list[dict], about: dict) -> tuple[dict, str]:
    summaries, means = _summaries(records, run.seed), _means(records, study, run.seed)
    table = _table(study, summaries, means)
    result = about | {
        "study": to_mapping(study),
        "seed": run.seed,
        "colour": run.colour.record if run.colour else "auto",
        "enough": ENOUGH,
        "summaries": summaries,
        "means": means,
    }
    write_text(run.output / "cases.jsonl", "".join(json_text(record) + "\n" for record in records))
    write_text(run.output / "table.md", table)
    draw_clicks(run.output / "curves.png", _curves(summaries, means), ENOUGH)
    write_text(run.output / "interactive.json", json_text(result, indent=2) + "\n")
    return result, table


def _summaries(records: list[dict], seed: int) -> list[dict]:
    """Per set, label and number of examples: Dice after every click, and clicks to `ENOUGH`."""
    rows = []
    for key in dict.fromkeys((record["set"], record["label"], record["supports"]) for record in records):
        group = [record for record in records if (record["set"], record["label"], record["supports"]) == key]
        generator = np.random.default_rng(seed)
        rows.append(
            dict(zip(("set", "label", "supports"), key, strict=True))
            | {
                "cases": len(group),
                "shown": max(record["shown"] for record in group),
                "dice": [asdict(summarise(scores, generator)) for scores in _by_click(group)],
                "clicks": asdict(summarise([record["clicks"] for record in group], generator)),
                "reached": sum(record["reached"] for record in group) / len(group),
            }
        )
    return rows


def _by_click(group: list[dict]) -> list[list[float]]:
    return [[record["dice"][clicks] for record in group] for clicks in range(CLICKS + 1)]


def _means(records: list[dict], study: Study, seed: int) -> dict:
    """Means over the sets, every set weighing alike, per number of examples; and the share of clicks examples leave."""
    rows = []
    for count in study.contexts:
        group = [record for record in records if record["supports"] == count]
        if not group:
            continue
        generator = np.random.default_rng(seed)
        values = [{**record, **{f"{n}": score for n, score in enumerate(record["dice"])}} for record in group]
        rows.append(
            {
                "supports": count,
                "sets": len({record["set"] for record in group}),
                "dice": [asdict(hierarchical_mean(_nested(values, f"{n}"), generator)) for n in range(CLICKS + 1)],
                "clicks": asdict(hierarchical_mean(_nested(values, "clicks"), generator)),
                "reached": hierarchical_mean(_nested(values, "reached"), generator).mean,
            }
        )
    most = max(study.contexts)
    return {"contexts": rows, "share_of_clicks": _share(records, most, seed) if most and 0 in study.contexts else None}


def _nested(records: list[dict], name: str) -> dict[str, dict[str, list[float]]]:
    """Set -> label -> the values of its cases."""
    nested = {}
    for record in records:
        nested.setdefault(record["set"], {}).setdefault(record["label"], []).append(float(record[name]))
    return nested


def _share(records: list[dict], most: int, seed: int, draws: int = 2000) -> dict | None:
    """Mean clicks with `most` examples over mean clicks with none, of the cases seen both ways, with its interval."""
    found = {(r["set"], r["label"], r["case"], r["supports"]): r["clicks"] for r in records}
    pairs = [
        {"set": name, "label": label, "with": clicks, "without": found[name, label, case, 0]}
        for (name, label, case, count), clicks in found.items()
        if count == most and (name, label, case, 0) in found
    ]
    if not pairs:
        return None
    generator = np.random.default_rng(seed)
    with_examples, without = _nested(pairs, "with"), _nested(pairs, "without")
    resampled = np.zeros((2, draws))
    for name, labels in with_examples.items():
        for label, clicks in labels.items():
            chosen = generator.integers(len(clicks), size=(draws, len(clicks)))
            both = np.array([clicks, without[name][label]])[:, chosen].mean(axis=2)
            resampled += both / (len(labels) * len(with_examples))
    low, high = np.quantile(resampled[0] / resampled[1], (0.025, 0.975)).tolist()
    means = [hierarchical_mean(values, generator, draws=1).mean for values in (with_examples, without)]
    return {
        "supports": most,
        "with": means[0],
        "without": means[1],
        "share": means[0] / means[1],
        "low": low,
        "high": high,
        "cases": len(pairs),
    }


def _table(study: Study, summaries: list[dict], means: dict) -> str:
    """Markdown: Dice after clicks and clicks to `ENOUGH`, per set, label and number of examples; means; the summary."""
    head = ["set", "label", "cases", "N", *(f"Dice, {clicks} click{'s' * (clicks != 1)}" for clicks in SHOWN)]
    head += [f"clicks to {ENOUGH}", "reached"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    order = [(each.name, label) for each in study.sets for label in each.labels]
    for row in sorted(summaries, key=lambda row: order.index((row["set"], row["label"]))):
        fewer = f" ({row['shown'] or 'none'} shown)" if row["shown"] < row["supports"] else ""
        lines.append(f"| {row['set']} | {row['label']} | {row['cases']} | {row['supports']}{fewer} | {_cells(row)} |")
    for row in means["contexts"]:
        lines.append(f"| **mean of {row['sets']} sets** | | | {row['supports']} | {_cells(row)} |")
    lines += ["", f"A case that does not reach Dice {ENOUGH} counts as {CLICKS} clicks."]
    share = means["share_of_clicks"]
    if share:
        lines.append(
            f"Mean clicks to {ENOUGH} with {share['supports']} in context over those without: {share['with']:.2f} / "
            f"{share['without']:.2f} = {share['share']:.2f} [{share['low']:.2f}, {share['high']:.2f}]: "
            f"{abs(1 - share['share']):.0%} {'fewer' if share['share'] <= 1 else 'more'}, over {share['cases']} cases "
            "seen both ways, every set weighing alike."
        )
    return "\n".join(lines) + "\n"


def _cells(row: dict) -> str:
    dice_cells = [cell(Summary(**row["dice"][clicks])) for clicks in SHOWN]
    return " | ".join([*dice_cells, cell(Summary(**row["clicks"]), 1), f"{row['reached']:.0%}"])


def _curves(summaries: list[dict], means: dict) -> dict[str, list[Curve]]:
    """What is drawn: a panel for the mean, one for every set and label."""
    panels = {"mean of the sets": [_curve(row) for row in means["contexts"]]}
    for row in summaries:
        panels.setdefault(f"{row['set']}: {row['label']}", []).append(_curve(row))
    return panels


def _curve(row: dict) -> Curve:
    def of(name: str) -> Float[np.ndarray, " n"]:
        return np.array([summary[name] for summary in row["dice"]], dtype=np.float64)

    return Curve(f"{row['supports']} examples", of("mean"), of("low"), of("high"))
