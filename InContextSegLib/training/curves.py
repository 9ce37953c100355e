"""The losses of a training run as a picture: from examples alone, with prompts, from prompts alone."""

import json
from itertools import accumulate
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from InContextSegLib.training.recipe import Recipe
from InContextSegLib.volumes.files import whole_file

WINDOW = 100  # steps of one kind that are averaged
KINDS = {
    "examples alone": ("#0072B2", lambda record: not record["rounds"]),
    "examples and prompts": ("#E69F00", lambda record: record["rounds"] and record["supports"]),
    "prompts alone": ("#009E73", lambda record: not record["supports"]),
}


def draw_losses(log: Path, recipe: Recipe, picture: Path) -> None:
    """Write the running mean of the loss, one curve for each kind of step, with a line where a stage ends.

    Raises:
        OutputError: if the picture cannot be written.
    """
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel=f"loss, mean of {WINDOW} steps", title=recipe.name)
    for kind, (colour, belongs) in KINDS.items():
        points = np.array([(record["step"], record["loss"]) for record in records if belongs(record)])
        window = min(WINDOW, len(points))
        if window:
            means = np.convolve(points[:, 1], np.full(window, 1 / window), "valid")
            axes.plot(points[window - 1 :, 0], means, color=colour, label=kind)
    for end in accumulate(stage.steps for stage in recipe.stages[:-1]):
        axes.axvline(end, color="grey", linewidth=0.8, linestyle=":")
    axes.legend()
    axes.grid(alpha=0.3)
    with whole_file(picture) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
