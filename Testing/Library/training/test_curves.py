"""The picture of a run's losses."""

import json

import numpy as np
from PIL import Image

from InContextSegLib.training.curves import KINDS, draw_losses
from InContextSegLib.training.recipe import Architecture, Recipe, Stage


def drawn(tmp_path, records):
    stages = (Stage(100, (16,), 16**2 * 8, (0, 2)), Stage(100, (16,), 16**2 * 8, (2,)))
    numbers = {"learning_rate": 1e-3, "warmup_steps": 1, "decay_steps": 1}
    recipe = Recipe(name="run", seed=1, architecture=Architecture((4, 4)), stages=stages, **numbers)
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    draw_losses(tmp_path / "log.jsonl", recipe, tmp_path / "losses.png")
    with Image.open(tmp_path / "losses.png") as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def height_of(picture, kind):
    """Mean row of a curve's colour right of the middle, left of which the legend may be."""
    colour = KINDS[kind][0]
    wanted = [int(colour[n : n + 2], 16) for n in (1, 3, 5)]
    rows, _ = np.nonzero((abs(picture - wanted) < 12).all(axis=2))
    return rows.mean() if len(rows) else None


def test_each_kind_of_step_has_a_curve_at_its_height(tmp_path):
    kinds = ((0, 2, 0.3), (1, 2, 0.6), (2, 0, 0.9))
    records = [
        {"step": step + 1, "rounds": rounds, "supports": supports, "loss": loss}
        for step in range(1200)
        for rounds, supports, loss in [kinds[step % 3]]
    ]
    picture = drawn(tmp_path, records)
    low, middle, high = (height_of(picture, kind) for kind in KINDS)
    assert low > middle > high  # rows count from the top


def test_a_run_without_prompts_has_one_curve(tmp_path):
    picture = drawn(tmp_path, [{"step": n + 1, "rounds": 0, "supports": 2, "loss": 1.0} for n in range(5)])
    assert height_of(picture, "examples alone") is not None
    assert height_of(picture, "prompts alone") is None
