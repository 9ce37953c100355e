"""What was expected against what came: tasks, cases, and the cases of every verdict."""

import math

import pytest

from InContextSegLib.evaluation.agreement import agreement_table, agreements, verdict_table, verdicts


def row(expected, actual, supports=16):
    return {"supports": supports, "expected": expected, "actual": actual}


def test_errors_and_rank_correlation_are_those_of_the_rows():
    (found,) = agreements([row(0.5, 0.4), row(0.7, 0.8), row(0.9, 0.9)], [16])
    assert found["count"] == 3 and found["rank_correlation"] == pytest.approx(1)
    assert found["mean_absolute_error"] == pytest.approx(0.2 / 3) and found["mean_error"] == pytest.approx(0)
    assert "| 16 | 3 | 1.000 | 0.067 |" in agreement_table([found], "cases")


def test_where_all_is_alike_there_is_no_correlation_to_tell():
    (found,) = agreements([row(0.5, 0.4), row(0.5, 0.8), row(0.5, 0.9)], [16])
    assert math.isnan(found["rank_correlation"])
    assert "| – |" in agreement_table([found])


def test_the_cases_of_every_verdict_are_counted_with_what_came_of_them():
    found = verdicts([row(0.75, 0.9), row(0.8, 0.6), row(0.74, 0.7), row(0.49, 0.2)])
    assert [(each["verdict"], each["cases"], each["below_0.75"], each["below_0.5"]) for each in found] == [
        ("good", 2, 0.5, 0.0),
        ("look at it", 1, 1.0, 0.0),
        ("do not use", 1, 1.0, 1.0),
    ]
    assert "| good | 2 | 0.750 | 50% | 0% |" in verdict_table(found)
    assert verdict_table(verdicts([])) == ""
