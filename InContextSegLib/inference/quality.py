"""What to think of a result: the Dice to expect of one label in one target, and a plain verdict."""

from dataclasses import dataclass

GOOD, LOOK, POOR = "good", "look at it", "do not use"
GOOD_FROM, POOR_BELOW = 0.75, 0.5  # of the expected Dice
UNUSUAL = 2.0  # times as large as the largest of the examples, or as small as the smallest
UNLIKE = 0.5  # of the slices from the first to the last that show a label


@dataclass(frozen=True)
class Quality:
    """Of one label in one target.

    Attributes:
        dice: to expect; None where nothing was found, as nobody knows whether there is something.
        verdict: `GOOD`, `LOOK` or `POOR`.
        why: what speaks against it; empty where nothing does.
    """

    dice: float | None
    verdict: str
    why: tuple[str, ...] = ()

    @property
    def record(self) -> dict:
        """For the record of a result."""
        dice = None if self.dice is None else round(self.dice, 4)
        return {"expected_dice": dice, "verdict": self.verdict, "why": list(self.why)}


def quality_of(dice: float, millilitres: float, usual: tuple[float, float] | None, unlike: float) -> Quality:
    """Judge a result by what its examples lead to expect and by what can be seen of it.

    Args:
        dice: to expect of it (`Expected.of_case`).
        millilitres: that it found.
        usual: least and largest volume in completely labelled examples; None: there is none.
        unlike: share of the slices from the first to the last with the label that look like none of the examples.
    """
    if not millilitres:
        return Quality(None, LOOK, ("nothing was found",))
    why = []
    if usual is not None and not usual[0] / UNUSUAL <= millilitres <= usual[1] * UNUSUAL:
        why.append(f"{millilitres:.3g} ml, while the examples have {usual[0]:.3g} to {usual[1]:.3g} ml")
    if unlike > UNLIKE:
        why.append("most of its slices look like none of the examples")
    if dice < GOOD_FROM:
        why.insert(0, f"the expected Dice is below {POOR_BELOW if dice < POOR_BELOW else GOOD_FROM:g}")
    verdict = POOR if dice < POOR_BELOW else LOOK if why else GOOD
    return Quality(dice, verdict, tuple(why))
