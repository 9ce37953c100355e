"""What a person does to choose what teaches: volumes of the scene, single slices, files."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from InContextSegLib.errors import InputError
from InContextSegSlicer.panel.keeping import foldersOf, requireNew
from InContextSegSlicer.panel.order import DRAWN_ON
from InContextSegSlicer.scene import grid
from InContextSegSlicer.scene.examples import ExampleRow
from InContextSegSlicer.scene.slicemarks import chooseWhole
from InContextSegSlicer.scene.sliceviews import notDisplayed
from InContextSegSlicer.widgets.filedrop import FileDrop

LABELS_NAME = re.compile(r"label|mask|seg", re.IGNORECASE)


class Teaching:
    """The buttons below the table of examples, and what is dropped on it.

    Args:
        panel: the `Panel` that they belong to.
    """

    def __init__(self, panel):
        self._panel = panel
        buttons = {
            "addButton": self.onAdd,
            "useSliceButton": self.onUseSlice,
            "addFilesButton": self.onAddFiles,
            "addFolderButton": self.onAddFolder,
            "saveExamplesButton": self.onSave,
            "removeButton": self.onRemove,
            "acceptButton": self.onAccept,
        }
        for name, slot in buttons.items():
            getattr(panel.ui, name).connect("clicked()", lambda slot=slot: self._try(slot))
        self._drop = FileDrop(panel.ui.examplesTable.viewport(), self.onDropped)

    def _try(self, slot: Callable[[], None]) -> None:
        try:
            slot()
        except InputError as error:
            self._panel.say(str(error))

    def onAdd(self) -> None:
        volume = self._panel.ui.exampleVolumeSelector.currentNode()
        segmentation = self._panel.ui.exampleSegmentationSelector.currentNode()
        if volume is None or segmentation is None:
            self._panel.say(_("Choose a labelled volume and its segmentation beside the button first."))
        else:
            self.add(volume, segmentation)

    def add(self, volume: slicer.vtkMRMLScalarVolumeNode, segmentation: slicer.vtkMRMLSegmentationNode) -> None:
        """Add an example; of the target itself only the slices that are drawn now."""
        row = ExampleRow(volume=volume, segmentation=segmentation)
        if volume is not self._panel.parameters.target:
            self._panel.examples.add(row)
            return
        # Its own result must not turn into an example unseen.
        axis = self._panel.axisName()
        self._panel.controller.queue.add(
            grid.drawnSlices(volume, segmentation, axis),
            lambda slices: self._addDrawn(replace(row, slices=slices, axis=axis)),
            lambda error: self._panel.say(str(error)),
        )

    def _addDrawn(self, row: ExampleRow) -> None:
        if row.slices:
            self._panel.examples.add(row)
        else:
            self._panel.say(_("The segmentation '{name}' is empty.").format(name=row.segmentation.GetName()))

    def onUseSlice(self) -> None:
        """The displayed slice of the target, as drawn in the output or in the segmentation beside "Add"."""
        target, chosen = self._panel.parameters.target, self._panel.ui.exampleSegmentationSelector.currentNode()
        known = [node for node in (self._panel.parameters.output, chosen) if node is not None]
        own = [node for node in known if node.GetNodeReference(DRAWN_ON) in (target, None)]
        if target is not None and known and not own:
            self._panel.say(
                _("'{name}' is not a segmentation of '{target}'; choose the one in which you drew on it.").format(
                    name=known[0].GetName(), target=target.GetName()
                )
            )
            return
        self._teach(own[0] if own else None)

    def onAccept(self) -> None:
        self._teach(self._panel.parameters.output)

    def _teach(self, segmentation) -> None:
        target = self._panel.parameters.target
        if target is None or segmentation is None:
            self._panel.say(_("Choose the volume at the top, and the segmentation in which the slice is drawn."))
            return
        known = self._panel.examples.rows()
        rows = [row for row in known if (row.volume, row.segmentation) == (target, segmentation) and row.axis]
        axis = rows[0].axis if rows else self._panel.axisName()
        index = self._panel.views.displayed(target, axis)
        if index is None:
            self._panel.say(notDisplayed(axis))
            return
        row = rows[0] if rows else ExampleRow(volume=target, segmentation=segmentation, slices=(), axis=axis)
        slices, applied = sorted({*row.slices, index}), [each for each in row.applied if each != index]
        chooseWhole(segmentation, target, axis, index)
        self._panel.examples.add(replace(row, slices=tuple(slices), applied=tuple(applied)))
        self._panel.say(_("{axis} slice {index} teaches now.").format(axis=axis.capitalize(), index=index))

    def onAddFiles(self) -> None:
        image = qt.QFileDialog.getOpenFileName(None, _("Image of an example"))
        labels = image and qt.QFileDialog.getOpenFileName(None, _("Its labels"))
        if image and labels:
            self.addFiles(image, labels)

    def onAddFolder(self) -> None:
        images = qt.QFileDialog.getExistingDirectory(None, _("Folder of the images, or of saved examples"))
        both = foldersOf(images) if images else None
        labels = images and not both and qt.QFileDialog.getExistingDirectory(None, _("Folder of the labels"))
        if both or labels:
            self.addFiles(*(both or (images, labels)))

    def onSave(self) -> None:
        order = self._panel.order()
        if order is None:
            return
        order.check(needsTarget=False)
        folder = qt.QFileDialog.getExistingDirectory(None, _("A new folder for the examples"))
        if folder:
            requireNew(folder)
            self._panel.controller.saveExamples(order, folder)

    def addFiles(self, images: str, labels: str) -> None:
        """Add an image and its labels, or all of two folders; the worker reads what they hold."""

        def described(answer):
            for pair in answer["pairs"]:
                names = tuple((value, name) for value, name in pair["labels"])
                slices = tuple(pair["slices"]) if isinstance(pair["slices"], list) else pair["slices"]
                row = ExampleRow(imagePath=pair["image"], labelsPath=pair["mask"], names=names)
                told = tuple((index, tuple(values)) for index, values in pair["told"])
                self._panel.examples.add(replace(row, slices=slices, axis=pair["axis"], told=told))

        self._panel.controller.ask(
            "describe", {"images": images, "labels": labels}, described, _("Reading the examples")
        )

    def onDropped(self, paths: list[str]) -> None:
        """Saved examples, or two files or folders, one of which tells by its name that it holds the labels."""
        if len(paths) == 1 and (both := foldersOf(paths[0])) is not None:
            self.addFiles(*both)
            return
        labels = [path for path in paths if LABELS_NAME.search(Path(path).name)]
        images = [path for path in paths if path not in labels]
        if len(images) == len(labels) == 1:
            self.addFiles(images[0], labels[0])
        else:
            self._panel.say(
                _(
                    "Drop an image and its labels, or the folders of both, together; the name of the labels must "
                    "contain label, mask or seg. Otherwise use the buttons below."
                )
            )

    def onRemove(self) -> None:
        self._panel.examples.remove(self._panel.exampleTable.selectedKeys())
