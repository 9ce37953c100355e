"""The examples of a list kept as files, for the next patient, a batch, or somebody else."""

from collections.abc import Generator, Mapping
from pathlib import Path

from slicer.i18n import tr as _

from InContextSegLib.errors import InputError
from InContextSegLib.jobs.cases import stem_of
from InContextSegLib.worker.protocol import Look, SaveExamples
from InContextSegSlicer.panel.order import Order, taskOf
from InContextSegSlicer.panel.review import looksOf
from InContextSegSlicer.scene.handover import Handover

IMAGES, LABELS = "images", "labels"


def savingExamples(order: Order, folder: str, handover: Handover) -> Generator[None, None, SaveExamples]:
    """A queued task: hand the examples of an order over, and ask to keep them in a folder.

    Raises:
        InputError: if none shows a wanted segment, or their slices were drawn along several axes.
    """
    order.check(needsTarget=False)
    task = yield from taskOf(order, handover)
    names = tuple(
        (row.key, stem_of(Path(row.imagePath)) if row.fromFiles else row.volume.GetName()) for row in order.examples
    )
    looks = looksOf(order.examples)
    known = tuple(Look(value, *looks[name]) for value, name in task.labels if name in looks)
    return SaveExamples(task, folder, names, known)


def saved(answer: Mapping) -> str:
    """What came of it, in a sentence."""
    folder = Path(answer["labels"][0]).parent.parent
    return _("The examples were saved in {folder}; 'Folder…' in the module adds them again.").format(folder=folder)


def foldersOf(folder: str) -> tuple[str, str] | None:
    """The folders of images and of labels in a folder that examples were saved in; None where it is no such folder."""
    images, labels = Path(folder) / IMAGES, Path(folder) / LABELS
    return (str(images), str(labels)) if images.is_dir() and labels.is_dir() else None


def requireNew(folder: str) -> None:
    """Say at once that a folder holds something already.

    Raises:
        InputError: if so.
    """
    if foldersOf(folder) is not None:
        raise InputError(
            _("The folder {folder} holds examples already; choose another, or a new one.").format(folder=folder)
        )
