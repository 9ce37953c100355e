"""How many clicks a slice takes while a user works through volumes: with applied slices in context, and without any.

`python -m Testing.Benchmarks.loop_study --data path/to/data --output runs/loop` lets the simulated user of
`evaluation/user.py` segment every slice of a structure, from its largest slice outwards, in patient after patient, to
Dice 0.85 or for 10 clicks. With the loop every slice, as good as it became, joins the examples. A run that was stopped
goes on where it was. It writes slices.jsonl, table.md and curves.png.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import matplotlib.figure
import numpy as np
import torch

from InContextSegLib.evaluation.metrics import bootstrap_interval
from InContextSegLib.evaluation.user import correcting_click, random_click
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.inference.loop import Cut, Loop, LoopMemory
from InContextSegLib.models.loading import Model, load_model
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.slices.plan import SlicePlan
from InContextSegLib.slices.prompts import Point, Prompts
from InContextSegLib.volumes.files import read_volume
from InContextSegLib.volumes.geometry import Kind, across_slices
from InContextSegLib.volumes.overlap import dice

ENOUGH, CLICKS = 0.85, 10


@dataclass(frozen=True)
class Work:
    """Volumes that a user goes through, and the structures looked for; a window of grey values where they share one."""

    name: str
    images: tuple[str, ...]
    labels: dict[str, int]
    masks: tuple[str, str]  # what of an image's path becomes what of its labels'
    window: tuple[float, float] | None = None
    most: int | None = None


ORGANS = {
    "brainstem": 1, "cord": 2, "parotid_right": 3, "parotid_left": 4, "oesophagus": 5, "larynx": 6, "mandible": 7,
}  # fmt: skip
SETS = (
    Work("ibsi_sts", ("ibsi_sts/images_mr_t1/*",), {"sarcoma": 1}, ("images", "labels")),
    Work(
        "msd_hippocampus", ("msd_hippocampus/images/*",), {"anterior": 1, "posterior": 2}, ("images", "labels"), most=10
    ),
    Work("openkbp_hn_ct", ("openkbp_hn_ct/images/*",), ORGANS, ("images", "labels"), (864, 1264)),
    Work("spleen", ("singles_3d/msd_spleen2_crop_ct_image*",), {"spleen": 1}, ("_image", "_label")),
    Work("brain tumour", ("singles_3d/pyradiomics_brain1_image*",), {"tumour": 1}, ("_image", "_label")),
    Work("cord", ("singles_3d/sct_t1_cord_image*", "singles_3d/sct_t2_cord_image*"), {"cord": 1}, ("_image", "_label")),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=[each.name for each in SETS])
    parser.add_argument("--labels", nargs="+", help="names of structures; all by default")
    parser.add_argument("--patients", type=int, help="of every set at most")
    parser.add_argument("--step", type=int, default=1, help="work on every so many slices only")
    parser.add_argument("--supports", type=int, default=4)
    parser.add_argument("--minutes", type=float, help="begin nothing new after that time")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    kept, started = options.output / "slices.jsonl", time.monotonic()
    done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    for each, label, way in planned(options):
        late = options.minutes and time.monotonic() - started > 60 * options.minutes
        if late or any((row["set"], row["label"], row["way"]) == (each.name, label, way) for row in done):
            continue
        rows = worked(each, label, way, options)
        with kept.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        done += rows
        print(f"{each.name}, {label}, {way}: {np.mean([row['clicks'] for row in rows]):.2f} clicks", flush=True)
    if done:
        table = written(done)
        (options.output / "table.md").write_text(table)
        draw(done, options.output / "curves.png")
        print(table)


def planned(options):
    for each in SETS:
        for label in each.labels:
            if each.name in options.sets and (not options.labels or label in options.labels):
                yield from ((each, label, way) for way in ("without", "with"))


def worked(each, label, way, options):
    """What a user did on every slice of every patient."""
    segmenter, _, size = load_model(Model())
    memory, rows, others = LoopMemory(CachedSegmenter(segmenter, torch.device("cpu"), share=0.25)), [], []
    for order, name, cut, truth in structures(each, label, size, options):
        plan, own = cut.plan, []
        for place, number in enumerate(outwards(truth, plan, options.step)):
            started = time.monotonic()
            examples = [*own, *others] if way == "with" else []
            wanted = np.take(truth, [plan.slice_index(number)], axis=plan.array_axis)
            loop = Loop(memory, name, cut, examples)
            scores, answer = clicked(loop, number, wanted, options.supports)
            own.append(loop.labelled(number, answer.mask(), name))
            reached = [clicks for clicks, score in enumerate(scores) if score >= ENOUGH]
            rows.append(
                {"set": each.name, "label": label, "way": way, "case": name, "patient": order, "place": place}
                | {"number": number, "voxels": int(wanted.sum()), "examples": len(examples), "dice": scores}
                | {"clicks": reached[0] if reached else CLICKS, "reached": bool(reached)}
                | {"seconds": round(time.monotonic() - started, 2)}
            )
        others += [replace(one, own=False) for one in own]
    return rows


def structures(each, label, size, options):
    """Every patient that has the structure: a number, a name, the image as it is cut, and the mask (k, j, i)."""
    paths = [path for pattern in each.images for path in sorted(options.data.glob(pattern))]
    for order, path in enumerate(paths[: options.patients or each.most]):
        image = read_volume(path, Kind.INTENSITY)
        mask = options.data / Path(str(path.relative_to(options.data)).replace(*each.masks))
        truth = read_volume(mask, Kind.LABELS).array == each.labels[label]
        if truth.any():
            plan = SlicePlan.of(image.geometry, across_slices(image.geometry), size)
            yield order, path.name, Cut(partial(_same, image), Intensities(each.window).of(image.array), plan), truth


def outwards(truth, plan, step):
    """Numbers of the slices that show the structure, from the one that shows most of it, nearest first."""
    amounts = truth.sum(axis=tuple({0, 1, 2} - {plan.array_axis}))
    shown = [number for number in range(plan.count) if amounts[plan.slice_index(number)]]
    first = max(shown, key=lambda number: amounts[plan.slice_index(number)])
    return sorted((number for number in shown if (number - first) % step == 0), key=lambda number: abs(number - first))


def clicked(loop, number, truth, supports):
    """Dice after 0, 1, ... clicks, until it is enough; and the answer then."""
    chosen = loop.chosen(number, supports)
    answer, prompts, scores = loop.opening(number, chosen), Prompts(), []
    for clicks in range(CLICKS + 1):
        if clicks:
            guess = answer.mask() if answer else np.zeros_like(truth)
            random = np.random.default_rng(number)
            click = correcting_click(guess, truth, loop.cut.plan.geometry.spacing_mm) if answer else None
            click = click or random_click(truth, random)
            geometry = loop.slice(number, None).geometry
            prompts = prompts.adding(Point(tuple(geometry.to_world(click.index_kji).tolist()), click.positive))
            answer = loop.segment(number, prompts, answer.probability if answer else None, chosen)
        scores.append(round(dice(answer.mask(), truth), 4) if answer else 0.0)
        if scores[-1] >= ENOUGH:
            break
    return scores, answer


def _same(image):
    return image


def written(rows):
    """Markdown: mean clicks by set and label and the share that the loop leaves, by patient; and of first slices."""
    lines = ["| set | label | patients | slices | clicks without | with | share | first patient | next | reached |"]
    lines.append("|" + "---|" * 10)
    keys = dict.fromkeys((row["set"], row["label"]) for row in rows if row["way"] == "with")
    shares = []
    for name, label in keys:
        group = [row for row in rows if (row["set"], row["label"]) == (name, label)]
        share = shared(group)
        shares.append(share)
        lines.append(f"| {name} | {label} | {cells(group, share)} |")
    for name in dict.fromkeys(name for name, _ in keys):
        group = [row for row in rows if row["set"] == name]
        lines.append(f"| **{name}** | all | {cells(group, shared(group))} |")
    lines.append(f"| **all** | | {cells(rows, shared(rows))} |")
    lines += ["", "| first slice of | patients | clicks without | with |", "|---|---|---|---|"]
    for title, later in (("the first patient", False), ("the next patients", True)):
        group = [row for row in rows if row["place"] == 0 and (row["patient"] > 0) == later]
        ways = ([row["clicks"] for row in group if row["way"] == way] for way in ("without", "with"))
        lines.append(f"| {title} | {len(group) // 2} | {' | '.join(f'{np.mean(clicks):.2f}' for clicks in ways)} |")
    return "\n".join(lines) + "\n"


def cells(group, share):
    ways = {way: [row for row in group if row["way"] == way] for way in ("without", "with")}
    first, later = ([row["clicks"] for row in ways["with"] if (row["patient"] > 0) == after] for after in (False, True))
    mean, low, high = share
    return " | ".join(
        [
            str(len({(row["set"], row["case"]) for row in group})),
            str(len(ways["with"])),
            *(f"{np.mean([row['clicks'] for row in ways[way]]):.2f}" for way in ("without", "with")),
            f"{mean:.2f} [{low:.2f}, {high:.2f}]",
            *(f"{np.mean(clicks):.2f}" if clicks else "" for clicks in (first, later)),
            ", ".join(f"{np.mean([row['reached'] for row in ways[way]]):.0%}" for way in ("without", "with")),
        ]
    )


def shared(rows, draws=2000):
    """Clicks with the loop over clicks without, and its interval; patients are drawn, with all their slices."""
    cases = list(dict.fromkeys((row["set"], row["case"]) for row in rows))
    found = {case: {"with": 0, "without": 0} for case in cases}
    for row in rows:
        found[row["set"], row["case"]][row["way"]] += row["clicks"]
    sums = np.array([[found[case]["with"], found[case]["without"]] for case in cases], float)
    drawn = np.random.default_rng(0).integers(len(cases), size=(draws, len(cases)))
    with_loop, without = sums[drawn].sum(axis=1).T
    low, high = np.quantile(with_loop / without, (0.025, 0.975))
    return sums[:, 0].sum() / sums[:, 1].sum(), low, high


def draw(rows, path):
    """Clicks over the slices of a volume, and over patients."""
    figure = matplotlib.figure.Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, name, title in zip(
        panels, ("place", "patient"), ("slice of a volume, in the order of work", "patient"), strict=True
    ):
        for way, colour in (("without", "tab:red"), ("with", "tab:blue")):
            places = sorted({row[name] for row in rows if row["way"] == way})
            groups = [[row["clicks"] for row in rows if (row["way"], row[name]) == (way, place)] for place in places]
            kept = [(place, group) for place, group in zip(places, groups, strict=True) if len(group) >= 5]
            means = [np.mean(group) for _, group in kept]
            ends = np.array([interval(group) for _, group in kept])
            panel.plot([place + 1 for place, _ in kept], means, color=colour, label=f"{way} the loop")
            panel.fill_between([place + 1 for place, _ in kept], *ends.T, color=colour, alpha=0.2, linewidth=0)
        panel.set(xlabel=title, ylabel=f"clicks to Dice {ENOUGH}", ylim=(0, CLICKS))
        panel.legend(frameon=False)
    figure.savefig(path, dpi=110)


def interval(values):
    return bootstrap_interval(np.array(values, float), np.random.default_rng(0), 0.95, 500)


if __name__ == "__main__":
    main()
