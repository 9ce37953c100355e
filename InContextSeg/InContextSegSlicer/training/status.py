"""The status of a training, in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from slicer.i18n import tr as _

from InContextSegLib.training.site.datasets import DataSet
from InContextSegSlicer.panel.batchtab import timeText
from InContextSegSlicer.training.controller import (
    DONE,
    FAILED,
    PAUSED,
    STOPPING,
    TRAINING,
    WAITING,
    TrainingController,
)


def statusText(controller: TrainingController, advice: str = "") -> str:
    """What there is to know besides the progress, and what to do next."""
    if controller.state == WAITING:
        return _("The worker was asked; the training begins as soon as it is free.")
    if controller.state == STOPPING:
        return _("Stopping after the present step, which may take a while…")
    if controller.state == DONE and controller.record:
        return f"{resultText(controller.record)} {advice}".strip()
    parts = [controller.message, advice]
    if controller.loss is not None and controller.state in (PAUSED, FAILED):
        parts.append(_("Step {step}, loss {loss:.3f}.").format(step=controller.step, loss=controller.loss))
    if controller.bestDice is not None and controller.state in (TRAINING, PAUSED, FAILED):
        parts.append(_("Best mean Dice so far {dice:.2f}.").format(dice=controller.bestDice))
    return " ".join(part for part in parts if part)


def nextText(sets: Sequence[DataSet], found: Mapping | None, chosen: Any) -> str:
    """What to do before a training can be started, and that it can be.

    Args:
        chosen: the parameter node.
    """
    if not sets:
        return _("Next: add data sets at the top.")
    if found is None:
        return _("Next: press 'Look at the data'.")
    if not found.get("usable", True):
        return _(
            "Nothing can be trained yet, as there is nobody to learn one of the tasks from; mend what is red above, or "
            "give names to the other labels alone."
        )
    if not chosen.folder.strip():
        return _("Next: choose a new folder for the run.")
    if not chosen.name.strip():
        return _("Start trains; only with a name the result comes into the list of models.")
    return _("Everything is ready to start.")


def endedEarly(record: Mapping) -> bool:
    """Whether a run was finished before all its steps were done."""
    return record["steps"] < record["settings"]["training"]["steps"]


def isOver(record: Mapping, chosen: Any) -> bool:
    """Whether a finished run has nothing to go on with by what is chosen now.

    Args:
        chosen: the parameter node.
    """
    impatient = endedEarly(record) and chosen.patience <= record["settings"]["training"]["patience"]
    return impatient or chosen.steps <= record["steps"]


def overText(record: Mapping) -> str:
    """Why a finished run does not go on."""
    if endedEarly(record):
        return _("A later end (Advanced) would go on with it; for another model choose a new folder.")
    return _("More steps would go on with it; for another model choose a new folder.")


def resultText(record: Mapping) -> str:
    """What came of a run."""
    dice = record.get("mean_dice")
    wanted = record["settings"]["training"]["steps"]
    parts = [_("Finished after {steps} steps.").format(steps=record["steps"])]
    if endedEarly(record):
        text = _("Finished after {steps} of {wanted} steps, as validation found no gain any more.")
        parts = [text.format(steps=record["steps"], wanted=wanted)]
    if dice is not None:
        parts.append(
            _("Mean Dice of patients that were not learnt from: {dice:.2f} (best step {step}).").format(
                dice=dice, step=record["best_step"]
            )
        )
    if "model" in record:
        parts.append(_("It is in the list of models as '{name}'.").format(name=record["model"]["name"]))
    parts.append(_("The weights: {path}").format(path=record["weights"]))
    return " ".join(parts)


def progressText(controller: TrainingController) -> str:
    """What the progress bar says."""
    if not controller.total or controller.of != controller.total:
        return controller.message
    step = _("step {step} of {total}").format(step=controller.step, total=controller.total)
    left = controller.secondsLeft
    return ", ".join([step, controller.message] + ([timeText(left)] if left is not None else []))
