"""A picture of the Dice that was expected against the Dice that came, one dot for every task."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from InContextSegLib.jobs.montage import COLOURS
from InContextSegLib.volumes.files import whole_file

_SIZE_INCH, _DPI = (6.4, 6.0), 120
_NAMED_FROM = 0.12  # so far from the diagonal a dot gets its name


@dataclass(frozen=True)
class Dot:
    """One task: the set and label it is of, the number of examples, and both values of Dice."""

    name: str
    supports: int
    expected: float
    actual: float


def draw_expected(path: str | Path, dots: Sequence[Dot]) -> None:
    """Write the dots as one PNG file, whole or not at all; those far from the diagonal with their names.

    Raises:
        OutputError: if the file cannot be written.
    """
    figure = Figure(figsize=_SIZE_INCH, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#888888", linestyle="--", linewidth=0.8)
    for place, count in enumerate(sorted({dot.supports for dot in dots})):
        shown = [dot for dot in dots if dot.supports == count]
        axes.scatter(
            [dot.expected for dot in shown],
            [dot.actual for dot in shown],
            s=22,
            color=COLOURS[place % len(COLOURS)],
            label=f"{count} examples",
        )
    for dot in dots:
        if abs(dot.expected - dot.actual) > _NAMED_FROM:
            axes.annotate(dot.name, (dot.expected, dot.actual), xytext=(4, -3), textcoords="offset points", fontsize=6)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="expected Dice", ylabel="actual Dice", aspect="equal")
    axes.grid(alpha=0.3)
    if dots:
        axes.legend(loc="upper left", frameon=False)
    with whole_file(path) as temporary:
        # Without the drawing program's name and version the same result is the same file.
        figure.savefig(temporary, format="png", metadata={"Software": None})
