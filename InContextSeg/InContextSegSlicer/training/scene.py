"""Volumes of the scene with their segmentations, written as files that can be trained on."""

from collections.abc import Generator
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from InContextSegLib.errors import InputError
from InContextSegLib.worker.protocol import SaveExamples
from InContextSegSlicer.panel.keeping import savingExamples
from InContextSegSlicer.panel.order import DRAWN_ON, Order, wantedSegments
from InContextSegSlicer.scene import bridge
from InContextSegSlicer.scene.examples import ExampleRow
from InContextSegSlicer.scene.handover import Handover

MOST_BYTES = 3 << 30  # the worker holds all of them while it writes
FOLDER = "scene"
Pair = tuple[slicer.vtkMRMLScalarVolumeNode, slicer.vtkMRMLSegmentationNode]


def pairsIn(scene: slicer.vtkMRMLScene) -> tuple[list[Pair], list[str]]:
    """Every segmentation with the volume it was drawn on, and the names of segmentations that cannot be used.

    Of a volume only one: it is one case of one patient, who must not be on both sides of the split.
    """
    pairs, left, seen = [], [], set()
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode", scene):
        if node.GetHideFromEditors():
            continue
        volume = node.GetNodeReference(DRAWN_ON)
        usable = volume is not None and volume.GetImageData() is not None and bridge.segmentNames(node)
        if not usable or volume.GetID() in seen:
            left.append(node.GetName())
            continue
        seen.add(volume.GetID())
        pairs.append((volume, node))
    return pairs, left


def writing(pairs: list[Pair], folder: Path, handover: Handover) -> Generator[None, None, SaveExamples]:
    """A queued task: hand the pairs over, and ask to keep them in a folder, all or none.

    Raises:
        InputError: if there are none, or they are more than fits into the worker at once.
    """
    if not pairs:
        raise InputError(_("The scene holds no segmentation with the volume it was drawn on; load or draw some."))
    size = sum(bridge.arrayOf(volume).nbytes for volume, _segmentation in pairs)
    if size > MOST_BYTES:
        raise InputError(
            _(
                "The volumes of the scene take {size:.1f} GB, and {most} GB can be written at once; save them as files "
                "and add their folder."
            ).format(size=size / 2**30, most=MOST_BYTES >> 30)
        )
    rows = tuple(
        ExampleRow(key=f"Example{number}", volume=volume, segmentation=segmentation)
        for number, (volume, segmentation) in enumerate(pairs, start=1)
    )
    order = Order(None, None, rows, wantedSegments(rows, {}))
    return (yield from savingExamples(order, str(folder), handover))


def newFolder(run: Path) -> Path:
    """A folder in that of the run that is not there yet."""
    found, number = run / FOLDER, 1
    while found.exists():
        number += 1
        found = run / f"{FOLDER}-{number}"
    return found
