"""The picture of clicks and Dice: one panel per structure, one colour per number of examples, whole or not at all."""

import numpy as np
import pytest
from PIL import Image

from InContextSegLib.errors import OutputError
from InContextSegLib.evaluation import click_curves as module
from InContextSegLib.evaluation.click_curves import Curve, draw_clicks


def curve(name="0 examples", start=0.2):
    mean = np.linspace(start, 0.9, 11)
    return Curve(name, mean, mean - 0.05, mean + 0.05)


@pytest.fixture
def drawn(monkeypatch):
    """Title of every panel, and the axes."""
    seen = {}
    panel = module._panel
    monkeypatch.setattr(
        module, "_panel", lambda axes, title, *rest: seen.update({title: axes}) or panel(axes, title, *rest)
    )
    return seen


def test_every_panel_has_its_curves_in_the_same_colours(tmp_path, drawn):
    panels = {"mean": [curve("0 examples"), curve("16 examples", 0.5)], "a: x$y": [curve("16 examples")]}
    draw_clicks(tmp_path / "c.png", panels, 0.85)
    assert {title: axes.get_title() for title, axes in drawn.items()} == {title: title for title in panels}
    first, second = ([line for line in axes.lines if len(line.get_xdata()) == 11] for axes in drawn.values())
    assert (len(first), len(second)) == (2, 1)
    assert first[1].get_color() == second[0].get_color() != first[0].get_color()
    np.testing.assert_allclose(first[0].get_ydata(), np.linspace(0.2, 0.9, 11))


def test_the_dice_to_be_reached_is_a_dashed_line(tmp_path, drawn):
    draw_clicks(tmp_path / "c.png", {"mean": [curve()]}, 0.85)
    (level,) = [line for line in drawn["mean"].lines if line.get_linestyle() == "--"]
    assert set(level.get_ydata()) == {0.85}


def test_clicks_are_whole_numbers_and_undefined_ones_leave_a_gap(tmp_path, drawn):
    gap = curve()
    gap.mean[0] = gap.low[0] = gap.high[0] = np.nan
    draw_clicks(tmp_path / "c.png", {"mean": [gap]}, 0.85)
    assert all(float(tick).is_integer() for tick in drawn["mean"].get_xticks())
    assert drawn["mean"].get_xlim()[0] < 0


def test_the_same_curves_are_the_same_file(tmp_path):
    for name in ("a.png", "b.png"):
        draw_clicks(tmp_path / name, {f"set {n}": [curve()] for n in range(5)}, 0.85)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > picture.height > 100


def test_nothing_to_draw_is_an_empty_sheet(tmp_path):
    draw_clicks(tmp_path / "c.png", {}, 0.85)
    assert (tmp_path / "c.png").is_file()


def test_a_picture_that_cannot_be_written_is_said_to_be(tmp_path):
    with pytest.raises(OutputError, match="missing"):
        draw_clicks(tmp_path / "missing" / "c.png", {"mean": [curve()]}, 0.85)
