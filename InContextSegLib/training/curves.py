"""A training run as a picture: its losses, by kinds of steps on invented tasks, and the Dice of a site's tasks."""

import json
from itertools import accumulate
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from InContextSegLib.files import whole_file
from InContextSegLib.training.recipe import Recipe

WINDOW = 100  # steps of one kind that are averaged
KINDS = {
    "examples alone": ("#0072B2", lambda record: not record["rounds"]),
    "examples and prompts": ("#E69F00", lambda record: record["rounds"] and record["supports"]),
    "prompts alone": ("#009E73", lambda record: not record["supports"]),
}

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D00", "#882255")  # told apart by all
MEAN = "#000000"


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


def draw_training(log: Path, title: str, picture: Path) -> None:
    """Write the running mean of a site's loss, and below it the Dice of every task on validation patients.

    Of more tasks than there are colours all are grey, and only their mean has a name.

    Raises:
        OutputError: if the picture cannot be written.
    """
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    losses = np.array([record["loss"] for record in records])
    window = min(WINDOW, max(1, len(losses) // 20))
    steps = [record["step"] for record in records][window - 1 :]
    above.plot(steps, np.convolve(losses, np.full(window, 1 / window), "valid"), color=COLOURS[0])
    above.set(title=title, ylabel=f"loss, mean of {window} steps")
    judged = [record for record in records if record.get("validation")]
    names = list(dict.fromkeys(name for record in judged for name in record["validation"]))
    steps = [record["step"] for record in judged]
    few = len(names) <= len(COLOURS)
    for place, name in enumerate(names):
        scores = [record["validation"].get(name, np.nan) for record in judged]
        below.plot(steps, scores, color=COLOURS[place] if few else "grey", label=name if few else None, linewidth=1)
    if names:
        means = [np.mean(list(record["validation"].values())) for record in judged]
        below.plot(steps, means, color=MEAN, label="mean of the tasks", linewidth=2)
        below.legend(fontsize="small")
    below.set(xlabel="step", ylabel="Dice of validation patients", ylim=(0, 1))
    for axes in (above, below):
        axes.grid(alpha=0.3)
    with whole_file(picture) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
