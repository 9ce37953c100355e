"""How well the Dice that was expected agrees with the one that came, over the tasks of a study and over its cases."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

FEWEST = 3  # tasks, or cases


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
    head = [
        "",
        f"| N | {of} | rank correlation | mean absolute error | expected minus actual |",
        "|---|---|---|---|---|",
    ]
    rows = [
        f"| {', '.join(map(str, each['supports']))} | {each['count']} | {_number(each['rank_correlation'])} "
        f"| {each['mean_absolute_error']:.3f} | {each['mean_error']:+.3f} |"
        for each in agreement
    ]
    return "\n".join(head + rows) + "\n" if rows else ""


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "–"
