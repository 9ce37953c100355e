"""A training on a site's data as a picture: its loss, and below it the Dice of every task, over steps.

Drawn with Pillow, which Slicer's Python brings; matplotlib it has not.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from InContextSegLib.volumes.files import whole_file

WINDOW = 100  # steps over which the loss is averaged, at most
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D00", "#882255")  # told apart by all
MEAN, GREY = "#000000", "#999999"
_FINE = 2  # drawn so much larger, for smooth lines
_SIZE, _LEFT, _RIGHT, _HEIGHT, _TOP, _GAP = (880, 770), 64, 864, 315, 34, 46
_INK, _GRID, _FONT = "#222222", "#dddddd", 13
_TICKS = 6


@dataclass(frozen=True)
class _Curve:
    name: str
    steps: Sequence[float]
    values: Sequence[float]
    colour: str
    width: int = 2


def draw_training(log: Path, title: str, picture: Path) -> None:
    """Write the running mean of a site's loss, and below it the Dice of every task on validation patients.

    Of more tasks than there are colours all are grey, and only their mean has a name.

    Raises:
        OutputError: if the picture cannot be written.
    """
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    sheet = Image.new("RGB", (_SIZE[0] * _FINE, _SIZE[1] * _FINE), "white")
    pen = ImageDraw.Draw(sheet)
    losses = np.array([record["loss"] for record in records])
    window = min(WINDOW, max(1, len(losses) // 20))
    steps = [record["step"] for record in records]
    means = np.convolve(losses, np.full(window, 1 / window), "valid").tolist()
    reach = (steps[0], max(steps[-1], steps[0] + 1))
    above = [_Curve(f"loss, mean of {window} steps", steps[window - 1 :], means, COLOURS[0])]
    low, high = min(means), max(means)
    room = 0.05 * (high - low) or 0.5
    _panel(pen, _TOP, above, reach, (low - room, high + room))
    below = _tasks([record for record in records if record.get("validation")])
    _panel(pen, _TOP + _HEIGHT + _GAP, below, reach, (0.0, 1.0))
    font = ImageFont.load_default(_FONT * _FINE)
    pen.text((_LEFT * _FINE, 8 * _FINE), f"{title}: loss, and Dice of validation patients, over steps", _INK, font)
    with whole_file(picture) as temporary:
        sheet.resize(_SIZE, Image.Resampling.LANCZOS).save(temporary, format="PNG")


def _tasks(judged: Sequence[dict]) -> list[_Curve]:
    names = list(dict.fromkeys(name for record in judged for name in record["validation"]))
    steps, few, curves = [record["step"] for record in judged], len(names) <= len(COLOURS), []
    for place, name in enumerate(names):
        values = [record["validation"].get(name, np.nan) for record in judged]
        curves.append(_Curve(name if few else "", steps, values, COLOURS[place] if few else GREY))
    if names:
        means = [float(np.mean(list(record["validation"].values()))) for record in judged]
        curves.append(_Curve("mean of the tasks", steps, means, MEAN, 3))
    return curves


def _panel(
    pen: ImageDraw.ImageDraw,
    top: int,
    curves: Sequence[_Curve],
    across: tuple[float, float],
    up: tuple[float, float],
) -> None:
    """One plot with its grid, curves and legend, `top` pixels from above."""
    font = ImageFont.load_default(_FONT * _FINE)

    def place(step: float, value: float) -> tuple[float, float]:
        x = _LEFT + (step - across[0]) / (across[1] - across[0]) * (_RIGHT - _LEFT)
        y = top + _HEIGHT - (value - up[0]) / (up[1] - up[0]) * _HEIGHT
        return x * _FINE, y * _FINE

    for value in _ticks(*up):
        pen.line([place(across[0], value), place(across[1], value)], _GRID, _FINE)
        pen.text((8 * _FINE, place(across[0], value)[1]), f"{value:.4g}", _INK, font, anchor="lm")
    for step in _ticks(*across):
        pen.line([place(step, up[0]), place(step, up[1])], _GRID, _FINE)
        x, y = place(step, up[0])
        pen.text((x, y + 5 * _FINE), f"{step:.7g}", _INK, font, anchor="mt")
    named = 0
    for curve in curves:
        points = [place(*pair) for pair in zip(curve.steps, curve.values, strict=True) if np.isfinite(pair[1])]
        if len(points) > 1:
            pen.line(points, curve.colour, curve.width * _FINE, joint="curve")
        for x, y in points if len(points) < 40 else ():
            pen.ellipse([x - 2 * _FINE, y - 2 * _FINE, x + 2 * _FINE, y + 2 * _FINE], curve.colour)
        if curve.name:
            row = (top + 12 + 17 * named) * _FINE
            pen.line([((_LEFT + 10) * _FINE, row), ((_LEFT + 34) * _FINE, row)], curve.colour, 2 * _FINE)
            pen.text(((_LEFT + 42) * _FINE, row), curve.name, _INK, font, anchor="lm", stroke_width=0)
            named += 1
    pen.rectangle([*place(across[0], up[1]), *place(across[1], up[0])], outline=_INK, width=_FINE)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, some `_TICKS` of them."""
    rough = (high - low) / _TICKS
    power = 10.0 ** np.floor(np.log10(rough))
    unit = next(power * each for each in (1, 2, 5, 10) if power * each >= rough)
    first = np.ceil(low / unit - 1e-9)
    return [
        float(unit * (first + number)) for number in range(int((high - low) / unit + 1e-9 - (first - low / unit)) + 1)
    ]
