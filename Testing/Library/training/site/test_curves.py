"""The course of a training as a picture: loss above, Dice of every task below."""

import json

import numpy as np
import pytest
from PIL import Image

from InContextSegLib.errors import OutputError
from InContextSegLib.training.site.curves import COLOURS, MEAN, draw_training


def log_in(folder, tasks, steps=60):
    lines = []
    for step in range(1, steps + 1):
        line = {"step": step, "loss": 8.0 / step}
        if step % 10 == 0:
            line["validation"] = {
                f"set/task {number}": min(step / steps + 0.05 * number, 1.0) for number in range(tasks)
            }
        lines.append(json.dumps(line))
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "log.jsonl"


def drawn(path, colour):
    """Where a picture has about that colour: (n, 2) row and column."""
    with Image.open(path) as opened:
        picture = np.asarray(opened.convert("RGB")).astype(int)
    wanted = np.array(list(bytes.fromhex(colour[1:])))
    return np.argwhere(np.abs(picture - wanted).max(axis=2) < 24)


def test_loss_falls_above_and_dice_rises_below(tmp_path):
    draw_training(log_in(tmp_path, tasks=2), "clinic", tmp_path / "curves.png")
    above = drawn(tmp_path / "curves.png", COLOURS[0])
    loss = above[(above[:, 0] < 360) & (above[:, 1] > 300)]
    early, late = loss[loss[:, 1] < 400][:, 0].mean(), loss[loss[:, 1] > 800][:, 0].mean()
    assert early < late < 350, "further down is less"
    second = drawn(tmp_path / "curves.png", COLOURS[1])
    dice = second[(second[:, 0] > 396) & (second[:, 1] > 250)]
    assert dice[dice[:, 1] > 800][:, 0].mean() < dice[dice[:, 1] < 400][:, 0].mean()
    assert len(drawn(tmp_path / "curves.png", MEAN)) > 100


@pytest.mark.parametrize(("tasks", "steps"), [(0, 5), (1, 1), (12, 60)])
def test_a_run_without_validation_of_one_step_or_of_many_tasks_is_drawn_too(tmp_path, tasks, steps):
    draw_training(log_in(tmp_path, tasks, steps), "clinic", tmp_path / "curves.png")
    assert len(drawn(tmp_path / "curves.png", "#999999")) > 0 or tasks < 9


def test_a_picture_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(OutputError, match="could not be written"):
        draw_training(log_in(tmp_path, 1), "clinic", tmp_path / "none" / "curves.png")
