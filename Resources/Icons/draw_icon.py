"""Draws the icons: labelled examples on the left, and on the right what was found, or how a training goes."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyBboxPatch, Polygon

PIXELS = 128
NIGHT, SLICE, BODY, LABEL, FOUND = "#16181c", "#2b2f36", "#9aa0a8", "#56B4E9", "#E69F00"


def blob(centre, radius, turn):
    """(n, 2) outline of a bean, in units of the icon's edge."""
    angle = np.linspace(0, 2 * np.pi, 90)
    reach = radius * (1 + 0.28 * np.cos(2 * angle + turn) + 0.14 * np.sin(3 * angle + 2 * turn))
    return np.stack([centre[0] + reach * np.cos(angle), centre[1] + reach * np.sin(angle)], axis=1)


def tile(axes, low, edge, turn, found):
    """One slice: a body, and in it the structure, filled as an example or outlined as a result."""
    centre = (low[0] + edge / 2, low[1] + edge / 2)
    style = f"round,pad=0,rounding_size={0.16 * edge}"
    axes.add_patch(FancyBboxPatch(low, edge, edge, boxstyle=style, facecolor=SLICE, edgecolor="none"))
    axes.add_patch(Ellipse(centre, 0.82 * edge, 0.66 * edge, facecolor=BODY, edgecolor="none"))
    structure = blob((centre[0] - 0.1 * edge, centre[1]), 0.17 * edge, turn)
    if found:
        axes.add_patch(Polygon(structure, facecolor=FOUND + "55", edgecolor=FOUND, linewidth=3, joinstyle="round"))
    else:
        axes.add_patch(Polygon(structure, facecolor=LABEL, edgecolor="none"))


def sheet():
    """A figure and its plane, night all over, with labelled examples on the left."""
    figure = Figure(figsize=(PIXELS / 100, PIXELS / 100), dpi=100)
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    plane = figure.add_axes((0, 0, 1, 1))
    plane.set(xlim=(0, 1), ylim=(0, 1))
    plane.set_axis_off()
    plane.add_patch(FancyBboxPatch((0, 0), 1, 1, boxstyle="round,pad=0,rounding_size=0.18", facecolor=NIGHT, lw=0))
    for number, bend in enumerate((1.5, 2.2, 0.9)):
        tile(plane, (0.08, 0.68 - 0.29 * number), 0.24, bend, found=False)
    return figure, plane


def save(figure, name):
    figure.savefig(Path(__file__).with_name(name), metadata={"Software": None})


figure, plane = sheet()
tile(plane, (0.38, 0.23), 0.54, 1.7, found=True)
save(figure, "InContextSeg.png")

figure, plane = sheet()
frame = FancyBboxPatch((0.44, 0.2), 0.44, 0.6, boxstyle="round,pad=0.04,rounding_size=0.08", facecolor=SLICE, lw=0)
plane.add_patch(frame)
steps = np.linspace(0, 1, 60)
for colour, height in ((BODY, 0.46 * np.exp(-4 * steps) + 0.06), (FOUND, 0.5 * (1 - np.exp(-4 * steps)) + 0.06)):
    plane.plot(0.45 + 0.42 * steps, 0.2 + height, color=colour, linewidth=3.5, solid_capstyle="round")
save(figure, "InContextSegTraining.png")
