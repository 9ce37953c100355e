"""How well the Dice that was expected agrees with the one that came, over the tasks of a study and over its cases."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from InContextSegLib.inference.quality import GOOD, GOOD_FROM, LOOK, POOR, POOR_BELOW

COMPARED = {"expected": "expected", "actual": "dice"}
FEWEST = 3  # tasks, or cases


def of_tasks(records: list[dict]) -> list[dict]:
    """What was expected of every label and number of examples that could be tried, and what came, in the mean."""
    rows = []
    for key in dict.fromkeys((record["set"], record["label"], record["supports"]) for record in records):
        group = [record for record in records if (record["set"], record["label"], record["supports"]) == key]
        known = [record for record in group if record["expected"] is not None and np.isfinite(record["dice"])]
        if known:
            means = {ours: float(np.mean([record[theirs] for record in known])) for ours, theirs in COMPARED.items()}
            rows.append(dict(zip(("set", "label", "supports"), key, strict=True)) | means)
    return rows


def of_cases(records: list[dict]) -> list[dict]:
    """What was expected of every case by what is seen of it, and what came."""
    return [
        {"supports": record["supports"], "expected": record["expected_of_case"], "actual": record["dice"]}
        for record in records
        if record["expected_of_case"] is not None and np.isfinite(record["dice"])
    ]


def agreements(rows: Sequence[Mapping[str, Any]], counts: Sequence[int]) -> list[dict]:
    """Rank correlation and errors for every number of examples, and for all together.

    Args:
        rows: a task or a case each, with `supports` (examples), `expected` and `actual` Dice.
        counts: the numbers of examples.
    """
    groups = [(count,) for count in counts] + ([tuple(counts)] if len(counts) > 1 else [])
    found = [(group, [row for row in rows if row["supports"] in group]) for group in groups]
    return [_agreement(group, own) for group, own in found if len(own) >= FEWEST]


def _agreement(counts: Sequence[int], rows: Sequence[Mapping[str, Any]]) -> dict:
    expected, actual = (np.array([row[name] for row in rows]) for name in ("expected", "actual"))
    varied = np.ptp(expected) > 0 and np.ptp(actual) > 0
    return {
        "supports": list(counts),
        "count": len(rows),
        "rank_correlation": float(spearmanr(expected, actual).statistic) if varied else float("nan"),
        "mean_absolute_error": float(np.abs(expected - actual).mean()),
        "mean_error": float((expected - actual).mean()),
    }


def agreement_table(agreement: Sequence[Mapping[str, Any]], of: str = "tasks") -> str:
    """Markdown; nothing where there were too few.

    Args:
        of: what the rows were.
    """
    columns = ("N", of, "rank correlation", "mean absolute error", "expected minus actual")
    return _table(
        columns,
        [
            (
                ", ".join(map(str, each["supports"])),
                each["count"],
                f"{each['rank_correlation']:.3f}" if np.isfinite(each["rank_correlation"]) else "–",
                f"{each['mean_absolute_error']:.3f}",
                f"{each['mean_error']:+.3f}",
            )
            for each in agreement
        ],
    )


def verdicts(rows: Sequence[Mapping[str, Any]]) -> list[dict]:
    """What came of the cases of every verdict, by the Dice that was expected of them.

    Args:
        rows: a case each, as for `agreements`.
    """
    found = []
    for verdict, low, high in ((GOOD, GOOD_FROM, np.inf), (LOOK, POOR_BELOW, GOOD_FROM), (POOR, -np.inf, POOR_BELOW)):
        actual = np.array([row["actual"] for row in rows if low <= row["expected"] < high])
        if len(actual):
            below = {f"below_{bound:g}": float((actual < bound).mean()) for bound in (GOOD_FROM, POOR_BELOW)}
            found.append({"verdict": verdict, "cases": len(actual), "mean_dice": float(actual.mean())} | below)
    return found


def verdict_table(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; nothing without cases."""
    bounds = (GOOD_FROM, POOR_BELOW)
    return _table(
        ("verdict by the expected Dice", "cases", "mean Dice", *(f"below {bound:g}" for bound in bounds)),
        [
            (
                each["verdict"],
                each["cases"],
                f"{each['mean_dice']:.3f}",
                *(f"{each[f'below_{bound:g}']:.0%}" for bound in bounds),
            )
            for each in found
        ],
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Markdown behind an empty line; nothing without rows."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in (columns, *rows)]
    return "\n".join(["", lines[0], "|" + "---|" * len(columns), *lines[1:]]) + "\n" if rows else ""
