"""A picture of how Dice rises with every click, one panel per structure and one line per number of examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from InContextSegLib.jobs.montage import COLOURS
from InContextSegLib.volumes.files import whole_file

_ACROSS = 4
_PANEL_INCH = (2.9, 2.3)
_DPI = 120
_BAND = 0.15


@dataclass(frozen=True, eq=False)
class Curve:
    """Mean Dice after 0, 1, 2, ... clicks with the ends of its interval; nan where there is none."""

    name: str
    mean: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]


def draw_clicks(path: str | Path, panels: Mapping[str, Sequence[Curve]], level: float) -> None:
    """Write the panels as one PNG file, whole or not at all, with a dashed line at the Dice to be reached.

    Curves of one name have one colour in every panel.

    Raises:
        OutputError: if the file cannot be written.
    """
    across = min(_ACROSS, max(len(panels), 1))
    down = -(-max(len(panels), 1) // across)
    figure = Figure(figsize=(across * _PANEL_INCH[0], down * _PANEL_INCH[1] + 0.4), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    names = list(dict.fromkeys(curve.name for drawn in panels.values() for curve in drawn))
    colours = {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(names)}
    lines = {}
    for place, (title, drawn) in enumerate(panels.items()):
        axes = figure.add_subplot(down, across, place + 1)
        lines |= _panel(axes, title, drawn, colours, level)
    if lines:
        figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=len(lines), frameon=False)
    with whole_file(path) as temporary:
        # Without the drawing program's name and version the same result is the same file.
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _panel(axes: Axes, title: str, drawn: Sequence[Curve], colours: Mapping[str, str], level: float) -> dict:
    """Draw one panel; the line of every curve by its name."""
    lines = {}
    for curve in drawn:
        clicks = np.arange(len(curve.mean))
        colour = colours[curve.name]
        axes.fill_between(clicks, curve.low, curve.high, color=colour, alpha=_BAND, linewidth=0)
        (lines[curve.name],) = axes.plot(clicks, curve.mean, color=colour, marker="o", markersize=3)
    axes.axhline(level, color="#888888", linestyle="--", linewidth=0.8)
    most = max((len(curve.mean) - 1 for curve in drawn), default=1)
    axes.set(xlim=(-0.3, most + 0.3), ylim=(0, 1), xlabel="clicks", ylabel="Dice")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_title(title, fontsize=9, parse_math=False)
    axes.grid(alpha=0.3)
    return lines
