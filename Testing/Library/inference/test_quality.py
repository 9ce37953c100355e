"""A verdict on a result: by what its examples lead to expect, how sure it is itself, and how it compares with them."""

import pytest

from InContextSegLib.inference.prior import Expected
from InContextSegLib.inference.quality import GOOD, LOOK, POOR, quality_of

USUAL = Expected(dice=0.85, spread=0.05, units=10, soft=0.9)


def test_a_result_that_is_surer_of_itself_than_the_examples_were_is_expected_to_be_better():
    assert USUAL.of_case(0.95) == pytest.approx(0.9)
    assert USUAL.of_case(0.7) == pytest.approx(0.65)
    assert USUAL.of_case(0.0) == 0.0 and Expected(0.99, 0.0, 3, 0.8).of_case(0.9) == 1.0


def test_where_nothing_tells_how_sure_it_is_the_examples_alone_are_asked():
    assert USUAL.of_case(None) == 0.85
    assert Expected(0.85, 0.05, 10).of_case(0.9) == 0.85


@pytest.mark.parametrize(
    ("soft", "millilitres", "unlike", "verdict", "why"),
    [
        (0.9, 5.0, 0.0, GOOD, ()),
        (0.75, 5.0, 0.0, LOOK, ("the expected Dice is below 0.75",)),
        (0.4, 5.0, 0.0, POOR, ("the expected Dice is below 0.5",)),
        (0.9, 1.9, 0.0, LOOK, ("1.9 ml, while the examples have 4 to 6 ml",)),
        (0.9, 12.5, 0.0, LOOK, ("12.5 ml, while the examples have 4 to 6 ml",)),
        (0.9, 5.0, 0.8, LOOK, ("most of its slices look like none of the examples",)),
        (None, 0.0, 0.0, LOOK, ("nothing was found",)),
    ],
)
def test_a_verdict_says_what_speaks_against_a_result(soft, millilitres, unlike, verdict, why):
    found = quality_of(USUAL.of_case(soft), millilitres, (4.0, 6.0), unlike)
    assert (found.verdict, found.why) == (verdict, why)


def test_of_nothing_no_dice_is_expected():
    assert quality_of(0.85, 0.0, None, 0.0).record == {
        "expected_dice": None,
        "verdict": LOOK,
        "why": ["nothing was found"],
    }


def test_a_volume_cannot_be_unusual_where_no_example_is_labelled_completely():
    assert quality_of(0.85, 1000.0, None, 0.0).verdict == GOOD
