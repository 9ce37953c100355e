"""What the catalogue says of a model trained on a site's data, and its model card: facts from the run alone."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from InContextSegLib.training.site.splits import SIDES

UNKNOWN = (
    "How good it is on whole volumes, on other scanners and sites, on structures that it was not trained on, and on "
    "patients who took no part in choosing the best step. With examples of patients it was trained on, the Dice "
    "that the examples lead to expect is too high."
)
NOT_PROMPTED = (
    "Clicks, boxes and scribbles, and answers without examples, were not trained, and may be worse than before."
)


def description_of(record: dict[str, Any]) -> str:
    """Two sentences for whoever chooses a model."""
    kind = "SR-ICL" if record["network"]["model"] == "sricl" else "UniverSeg"
    tasks, patients = _many(len(record["tasks"]), "task"), _many(record["patients"]["train"], "patient")
    further = f", begun from '{record['began_from']['entry']}'" if record["began_from"] else ""
    first = f"{kind} trained on '{record['site']}': {tasks}, {patients}{further}."
    if math.isnan(record["mean_dice"]):
        return f"{first} How good it is is not known, as no patient was left to validate with."
    judges = _many(record["patients"]["validation"], "validation patient")
    return f"{first} Dice on {judges}: {record['mean_dice']:.2f}."


def licence_of(record: dict[str, Any]) -> str:
    """What is known of the licence of the weights."""
    began = record["began_from"]
    if began is None:
        return "your own, unstated"
    return f"your own, unstated, under the terms of '{began['entry']}' ({began['licence']}), from which it began"


def card_of(name: str, record: dict[str, Any]) -> str:
    """The model card (Markdown) of a finished run; no name of a patient or of a file is in it."""
    size, licence = record["settings"]["size"], licence_of(record)
    validating = _many(record["patients"]["validation"], "other")
    parts = [
        f"# Model card: `{name}`",
        f"**What it is.** {_kind(record['network'])}, {record['network']['parameters']:,} parameters, trained on "
        f"pictures of {size} x {size} pixels by InContextSeg {record['version']}. {_origin(record)}",
        f"sha256 of the weights: `{record['weights_sha256']}`",
        f"**Licence.** {licence[0].upper()}{licence[1:]}. State one before you pass it on.",
        f"**Data.** The data sets of '{record['site']}': {_many(record['patients']['train'], 'patient')} to learn "
        f"from, {validating} to validate with. Let it see images cut along the same axis, in the same window.",
        _table(("data set", "cases", "axis", "window"), _sets(record)),
        f"**Training.** {_training(record)}",
        "![loss and Dice over the steps](curves.png)",
        f"**Figures.** {_figures(record)}",
        _table(("task", "patients, slices to learn from", "to validate with", "Dice", "IoU"), _tasks(record)),
        f"**What is not known.** {' '.join(_unknown(record))}",
        "**Intended use.** Research and annotation under a person's eyes. Not for clinical use.",
    ]
    return "\n\n".join(parts) + "\n"


def figures_of(record: dict[str, Any]) -> dict[str, Any]:
    """What may stay with the model of the record: no path, and of problems, which name files, only how many."""
    kept = {key: value for key, value in record.items() if key not in ("weights", "problems")}
    return kept | {"problems": len(record["problems"])}


def _kind(network: dict[str, Any]) -> str:
    does = "it segments a grey image, one label at a time, by labelled examples"
    if network["model"] == "sricl":
        return f"An SR-ICL network (CVPR 2025): {does}"
    also = ", by clicks, boxes and scribbles, or by both" if network["promptable"] else ""
    return f"A UniverSeg network (ICCV 2023): {does}{also}"


def _origin(record: dict[str, Any]) -> str:
    began = record["began_from"]
    if began is None:
        return "It began with weights by chance."
    return f"It began with the weights of the model `{began['entry']}`, sha256 `{began['weights_sha256']}`."


def _sets(record: dict[str, Any]) -> list[Sequence[str]]:
    return [
        (name, str(each["cases"]), each["axis"] or "pictures", _window(each["window"]))
        for name, each in record["data_sets"].items()
    ]


def _window(window: str | Sequence[float]) -> str:
    return window if isinstance(window, str) else " to ".join(f"{end:g}" for end in window)


def _training(record: dict[str, Any]) -> str:
    chosen, training = record["settings"], record["settings"]["training"]
    drawn = {"full": "with full masks", "mixed": "whose labels are drawn in other ways from batch to batch"}
    masks = drawn.get(chosen["weak"], f"whose labels are drawn as {chosen['weak']}")
    kept = "the last step"
    if not math.isnan(record["mean_dice"]):
        every = training["validate_every"]
        kept = f"step {record['best_step']}, whose mean Dice was the best of the validations every {every} steps"
    change = ""
    if record["began_from"] and chosen["change"] < 1:
        change = (
            f" Of the change from the weights it began with {chosen['change']:.0%} is kept, so that less is forgotten "
            "of what these data do not show; the curves are of the whole change."
        )
    return (
        f"{record['steps']} steps, each of all tasks, with {chosen['queries']} queries and {chosen['references']} "
        f"references {masks} of every task; loss `{training['loss']}`, learning rate {training['learning_rate']:g}, "
        f"balance `{training['balance']}`, seed {training['seed']}. Kept are the averaged weights of {kept}.{change}"
    )


def _figures(record: dict[str, Any]) -> str:
    if math.isnan(record["mean_dice"]):
        return "None, as no patient was left to validate with."
    chosen = record["settings"]
    return (
        f"Dice and IoU of single slices of validation patients, at {chosen['size']} x {chosen['size']} pixels, beside "
        f"{chosen['references']} references of training patients: the mean of {_many(chosen['draws'], 'draw')} of "
        f"these. The mean of the tasks is Dice {record['mean_dice']:.3f}. The same patients chose the best step, so on "
        "others it may be lower."
    )


def _tasks(record: dict[str, Any]) -> Iterable[Sequence[str]]:
    for name, sides in record["tasks"].items():
        scores = [record["dice"][name][what] for what in ("dice", "iou")]
        amounts = [f"{sides[side]['patients']}, {sides[side]['slices']}" for side in SIDES]
        yield name, *amounts, *("not known" if math.isnan(score) else f"{score:.3f}" for score in scores)


def _unknown(record: dict[str, Any]) -> Iterable[str]:
    yield UNKNOWN
    if record["network"]["promptable"]:
        yield NOT_PROMPTED
    if count := len(record["problems"]):
        yield f"The survey of the data named {_many(count, 'problem')}; what it left out was not learnt from."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    # Names are the site's own, and a line or a bar in one would break the table.
    lines = [[" ".join(cell.split()).replace("|", "\\|") for cell in cells] for cells in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
