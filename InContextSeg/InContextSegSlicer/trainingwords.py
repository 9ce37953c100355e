"""How a training goes, in words."""

from collections.abc import Mapping

from slicer.i18n import tr as _

from InContextSegSlicer.batchtab import timeText
from InContextSegSlicer.trainingcontroller import (
    DONE,
    FAILED,
    PAUSED,
    STOPPING,
    TRAINING,
    WAITING,
    TrainingController,
)


def statusText(controller: TrainingController) -> str:
    """What there is to know besides the progress."""
    if controller.state == WAITING:
        return _("The worker was asked; the training begins as soon as it is free.")
    if controller.state == STOPPING:
        return _("Stopping after the present step, which may take a while…")
    if controller.state == DONE and controller.record:
        return resultText(controller.record)
    parts = [controller.message]
    if controller.loss is not None and controller.state in (PAUSED, FAILED):
        parts.append(_("Step {step}, loss {loss:.3f}.").format(step=controller.step, loss=controller.loss))
    if controller.bestDice is not None and controller.state in (TRAINING, PAUSED, FAILED):
        parts.append(_("Best mean Dice so far {dice:.2f}.").format(dice=controller.bestDice))
    return " ".join(part for part in parts if part)


def resultText(record: Mapping) -> str:
    """What came of a run."""
    dice = record.get("mean_dice")
    parts = [_("Finished after {steps} steps.").format(steps=record["steps"])]
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
        return controller.words
    step = _("step {step} of {total}").format(step=controller.step, total=controller.total)
    left = controller.secondsLeft
    return ", ".join([step, controller.words] + ([timeText(left)] if left is not None else []))
