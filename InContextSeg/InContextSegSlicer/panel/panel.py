"""The panel: what a person sees and does, in terms of the controller."""

import json
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress

import qt
import slicer
from slicer.i18n import tr as _

from InContextSegLib.errors import InputError
from InContextSegSlicer.install.panel import InstallPanel, describeDevice
from InContextSegSlicer.panel.controller import BUSY, FAILED, Controller
from InContextSegSlicer.panel.exampletable import ExampleTable
from InContextSegSlicer.panel.modelchoice import ModelChoice
from InContextSegSlicer.panel.order import DRAWN_ON, Order, settingsOf, taskOf, wantedSegments
from InContextSegSlicer.panel.outcome import Outcome, Progress
from InContextSegSlicer.panel.segmenttable import SegmentTable
from InContextSegSlicer.panel.teaching import Teaching
from InContextSegSlicer.scene import bridge, grid
from InContextSegSlicer.scene.examples import ExampleList
from InContextSegSlicer.scene.sliceviews import SliceViews, notDisplayed
from InContextSegSlicer.widgets.items import barText

LOOK_EVERY_S = 1.0
# A choice has to stand this long before the preview follows it, so that three quick clicks are one change.
SETTLED_S = 0.5

CHOICES = {
    "presetBox": ("preset", lambda: (("fast", _("Fast")), ("normal", _("Normal")), ("best", _("Best")))),
    "axisBox": (
        "axis",
        lambda: (
            ("auto", _("As the examples were drawn")),
            ("axial", _("Axial")),
            ("coronal", _("Coronal")),
            ("sagittal", _("Sagittal")),
        ),
    ),
    "existingBox": (
        "existing",
        lambda: (
            ("made", _("Replace what InContextSeg made, keep what I drew")),
            ("nothing", _("Keep everything and add")),
            ("all", _("Replace everything")),
        ),
    ),
}


class Panel:
    """Connects the widgets with the parameter node and the controller.

    Args:
        ui: the widgets by their names in the `.ui` file.
        controller: does the work.
        sliceViews: what is displayed.
        install: says what is missing.

    Attributes:
        batch: the tab for many volumes, once it is there.
    """

    def __init__(
        self,
        ui,
        controller: Controller,
        sliceViews: SliceViews,
        install: InstallPanel,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.ui, self.controller, self.views, self._clock = ui, controller, sliceViews, clock
        self.install, self.batch = install, None
        install.onComplete = self.enter
        self.parameters = None
        self.examples: ExampleList | None = None
        self._order: Order | None = None
        self._changedAt = self._lookedAt = 0.0
        self._preparedKey = self._previewed = None
        self._sentence = self._targetId = ""
        self.exampleTable = ExampleTable(ui.examplesTable, self.say)
        self.segmentTable = SegmentTable(ui.segmentsTable, self._choose)
        self.models = ModelChoice(ui, controller, self._setParameter)
        for box, (_name, items) in CHOICES.items():
            for value, text in items():
                getattr(ui, box).addItem(text, value)
        ui.progressBar.setVisible(False)
        self.teaching = Teaching(self)
        controller.changed, controller.made = self.hear, self.receive
        self._connect()

    def setParameterNode(self, parameters) -> None:
        """Show another scene's choices; None: of a scene that is being closed."""
        self.parameters = parameters
        self.examples = ExampleList(parameters.parameterNode) if parameters is not None else None
        self._preparedKey = self._previewed = self._order = None
        target = parameters.target if parameters is not None else None
        self._targetId = target.GetID() if target is not None else ""
        self.ui.previewButton.setChecked(False)
        unknown = self._replaceUnknown() if parameters is not None else []
        self.modified()
        if unknown:
            self.say(
                _("The scene asks for {values}, which is not known here; the usual choice took its place.").format(
                    values=", ".join(unknown)
                )
            )

    def _replaceUnknown(self) -> list[str]:
        """Choices in a scene of another version that are none here give way to the usual ones; what they were."""
        known = {name: [value for value, _text in items()] for name, items in CHOICES.values()}
        unknown = []
        with slicer.util.NodeModify(self.parameters.parameterNode):
            for name, values in {**known, "model": self.models.names}.items():
                value = getattr(self.parameters, name)
                if value not in values:
                    unknown.append(f"{name} '{value}'")
                    self._setParameter(name, self.parameters.default(name).value)
        return unknown

    def modified(self) -> None:
        """A choice changed, or a node that it refers to."""
        self._order = None
        self._changedAt = self._clock()
        self._sentence = ""
        self._followTarget()
        self.refresh()

    def _followTarget(self) -> None:
        """With another volume to segment, the last one's result stays its own, and its range of slices is none."""
        target = self.parameters.target if self.parameters is not None else None
        if target is None or target.GetID() == self._targetId:
            return
        before, self._targetId = self._targetId, target.GetID()
        output = self.parameters.output
        if before and output is not None and output.GetNodeReferenceID(DRAWN_ON) == before:
            self._setParameter("output", None)
        if before:
            self._setParameter("useRange", False)

    def order(self) -> Order | None:
        """What the panel asks for now; None without a scene."""
        if self._order is None and self.parameters is not None:
            self._order = self._ordered()
        return self._order

    def _ordered(self) -> Order:
        chosen = self.parameters
        rows = tuple(row for row in self.examples.rows() if row.enabled and row.complete)
        target, region = chosen.target, chosen.region
        box, trouble = None, ""
        if region is not None and target is not None and target.GetImageData() is not None:
            try:
                box = grid.boxOf(region, target)
            except InputError as error:
                trouble = str(error)
        return Order(
            target=target,
            output=chosen.output,
            examples=rows,
            wanted=wantedSegments(rows, json.loads(chosen.segments)),
            settings=settingsOf(chosen.preset, chosen.axis, chosen.adaptSeconds if chosen.adapt else 0.0),
            model=chosen.model,
            device=chosen.device,
            window=(chosen.windowLow, chosen.windowHigh) if chosen.useWindow else None,
            box=box,
            sliceRange=(chosen.firstSlice, chosen.lastSlice) if chosen.useRange else None,
            existing=chosen.existing,
            trouble=trouble,
        )

    def receive(self, output: slicer.vtkMRMLSegmentationNode) -> None:
        """A segmentation was made for the result."""
        self._setParameter("output", output)

    def hear(self) -> None:
        """The controller has news, which count for more than what was said before."""
        self._sentence = ""
        self.refresh()

    def say(self, sentence: str) -> None:
        """Show a sentence until the next choice, or until the controller has news."""
        self._sentence = sentence
        self.refresh()

    def tick(self) -> None:
        """Called by the timer."""
        self.controller.tick()
        self.exampleTable.tick()
        if self.controller.state != BUSY and self._clock() - self._lookedAt > LOOK_EVERY_S:
            self._look()
        self._followPreview()

    def _look(self) -> None:
        """Notice what no event tells: renamed segments, a moved region, a removed result."""
        self._lookedAt, before = self._clock(), self._order
        if before is not None and self._ordered() != before:
            self.modified()
        else:
            self.refresh()

    @property
    def ready(self) -> bool:
        """Whether everything that computing needs is installed."""
        return self.install.installer.state == "complete"

    def enter(self) -> None:
        """The module is shown: see what is missing, and once nothing is, what there is to compute with."""
        self.install.enter()
        self.ui.installFrame.setVisible(not self.ready)
        self.refresh()
        if self.ready:
            try:
                self.controller.askAlongside("device", {}, on_done=self._showDevices, on_failed=self._showTrouble)
            except OSError as error:  # no folder can be made for the worker
                self.say(str(error))

    def leave(self) -> None:
        """The module is hidden: nobody looks at a preview any more."""
        self.ui.previewButton.setChecked(False)

    def _showDevices(self, answer: Mapping) -> None:
        self.models.showDevices(answer["devices"])
        self.ui.deviceText.setText(describeDevice(answer, self.install.card))

    def _showTrouble(self, kind: str, message: str) -> None:
        if kind == "Missing":
            self.install.showTrouble(message)
            self.ui.installFrame.setVisible(True)
        self.say(message)

    def task(self) -> Generator:
        """A queued task: the task of the panel without its target, for whoever segments other volumes by it.

        Raises:
            InputError: for what is missing.
        """
        order = self.order()
        order.check(needsTarget=False)
        return taskOf(order, self.controller.handover)

    def close(self) -> None:
        """End the worker and whatever else runs; the panel is going away."""
        self.install.cleanup()
        self.controller.close()

    @property
    def busy(self) -> bool:
        return self.controller.working or self.exampleTable.busy

    def refresh(self) -> None:
        """Show how things are."""
        order, controller, ui = self.order(), self.controller, self.ui
        busy = controller.state == BUSY
        outcome = self._outcome()
        self._showChoices()
        self.exampleTable.show(self.examples, outcome.suspects, bool(outcome.expected))
        names = bridge.segmentNames(order.output).values() if order and order.output else ()
        self.segmentTable.show(
            order.wanted if order else (), order.examples if order else (), tuple(names), outcome.expected
        )
        free = not busy and order is not None
        for name in ("addButton", "useSliceButton", "removeButton", "acceptButton"):
            getattr(ui, name).setEnabled(free)
        for name in ("segmentButton", "checkButton", "addFilesButton", "addFolderButton", "previewButton"):
            getattr(ui, name).setEnabled((free or (name == "previewButton" and order is not None)) and self.ready)
        ui.cancelButton.setEnabled(busy)
        self._escape.setEnabled(busy)  # else it would be taken from the slice views
        ui.undoButton.setEnabled(not busy and controller.writer.canUndo)
        ui.redoButton.setEnabled(not busy and controller.writer.canRedo)
        ui.nextSliceButton.setEnabled(self._nextSlice() is not None)
        self._showProgress(controller.progress)
        ui.statusLabel.setText(self._sentence or controller.message)
        uncertainty = controller.uncertaintyOf(order.target if order else None)
        self.views.showOverlay(uncertainty if order and self.parameters.showUncertainty else None)
        ui.uncertaintyBox.setEnabled(uncertainty is not None)

    def _showChoices(self) -> None:
        if self.parameters is None:
            return
        for box, (name, _items) in CHOICES.items():
            widget = getattr(self.ui, box)
            index = widget.findData(getattr(self.parameters, name))
            if widget.currentIndex != index:
                wasBlocked = widget.blockSignals(True)
                widget.setCurrentIndex(index)
                widget.blockSignals(wasBlocked)
        self.models.show(self.parameters.model, self.parameters.device)
        self._showRange()

    def _showRange(self) -> None:
        """Let the range of slices end where the volume ends, if it is one that has slices."""
        with suppress(InputError):
            if self.parameters.target is not None:
                last = grid.countAlong(self.parameters.target, self.order().axis) - 1
                for box in (self.ui.firstSliceBox, self.ui.lastSliceBox):
                    box.setMaximum(last)
                if not self.parameters.useRange and self.parameters.lastSlice != last:
                    self.parameters.lastSlice = last
        for box in (self.ui.firstSliceBox, self.ui.lastSliceBox):
            box.setEnabled(self.parameters.useRange)

    def _showProgress(self, progress: Progress | None) -> None:
        bar = self.ui.progressBar
        bar.setVisible(progress is not None)
        if progress is None:
            return
        bar.setRange(0, progress.total)
        bar.setValue(progress.done)
        bar.setFormat(barText(f"{progress.message}{timeLeft(progress, self._clock())}"))

    def _connect(self) -> None:
        ui = self.ui
        buttons = {
            "checkButton": self.onCheck,
            "segmentButton": self.onSegment,
            "cancelButton": self.onCancel,
            "undoButton": self.controller.undo,
            "redoButton": self.controller.redo,
            "nextSliceButton": self.onNextSlice,
        }
        for name, slot in buttons.items():
            getattr(ui, name).connect("clicked()", slot)
        ui.previewButton.connect("toggled(bool)", self.onPreview)
        self._escape = qt.QShortcut(qt.QKeySequence("Esc"), ui.segmentTab)
        self._escape.connect("activated()", self.onCancel)
        for box, (name, _items) in CHOICES.items():
            getattr(ui, box).connect(
                "currentIndexChanged(int)",
                lambda index, box=box, name=name: self._setParameter(name, getattr(ui, box).itemData(index)),
            )

    def _setParameter(self, name: str, value) -> None:
        if self.parameters is not None:
            setattr(self.parameters, name, value)

    def _choose(self, choices: dict) -> None:
        self._setParameter("segments", json.dumps(json.loads(self.parameters.segments) | choices))

    def _checked(self, order: Order | None) -> bool:
        """Whether an order can be carried out; says what is missing otherwise."""
        try:
            if order is not None:
                order.check()
            return order is not None
        except InputError as error:
            self.say(str(error))
            return False

    def axisName(self) -> str:
        """Along which the target is cut, as far as that can be known before the worker says it."""
        order = self.order()
        if order.axis != "auto":
            return order.axis
        return self._outcome().axis or grid.acrossSlices(order.target)

    def onCheck(self) -> None:
        order = self.order()
        if self._checked(order):
            self._preparedKey = order.key
            self.controller.prepare(order)

    def onSegment(self) -> None:
        if self._checked(self.order()):
            self.ui.previewButton.setChecked(False)
            self.controller.segment(self.order())

    def onPreview(self, on: bool) -> None:
        self._preparedKey = self._previewed = None
        if not on:
            self.controller.hidePreview()
            self.refresh()
        elif not self._checked(self.order()):
            self.ui.previewButton.setChecked(False)

    def onCancel(self) -> None:
        """The preview ends too, else it would ask again for what was cancelled."""
        self.ui.previewButton.setChecked(False)
        self.controller.cancel()

    def onNextSlice(self) -> None:
        index = self._nextSlice()
        if index is not None:
            self.views.jump(self.parameters.target, self.controller.outcome.axis, index)

    def _outcome(self) -> Outcome:
        """What is known of the present choices; nothing where the last work was about others."""
        order, outcome = self.order(), self.controller.outcome
        return outcome if order is not None and outcome.of == order.key else Outcome()

    def _nextSlice(self) -> int | None:
        """Where labelling helps most, as long as its volume is the one to segment, whatever teaches by now."""
        order, outcome = self.order(), self.controller.outcome
        here = order is not None and order.target is not None and order.target.GetID() == outcome.target
        return outcome.nextSlice if here else None

    def _followPreview(self) -> None:
        order = self.order()
        settled = self._clock() - self._changedAt > SETTLED_S
        if not self.ui.previewButton.checked or self.controller.state == BUSY or not settled:
            return
        failed = self.controller.state == FAILED and order is not None and order.key == self._preparedKey
        if failed or not self._checked(order):
            self.ui.previewButton.setChecked(False)
            return
        if order.key != self._preparedKey:
            self._preparedKey = order.key
            self.controller.prepare(order)
            return
        axis = self.axisName()
        place = (axis, self.views.displayed(order.target, axis))
        if place == self._previewed:
            return
        self._previewed = place
        if place[1] is None:
            self.controller.hidePreview()
            self.say(notDisplayed(axis))
        else:
            self.controller.showPreview(order, *place)


def timeLeft(progress: Progress, now: float) -> str:
    """In words, once enough of the work is done to tell."""
    done, elapsed = progress.done - progress.stepsSince, now - progress.since
    if progress.total == 0 or done <= 0 or elapsed < 1:
        return ""
    seconds = elapsed / done * (progress.total - progress.done)
    return _(", {seconds:.0f} s left").format(seconds=seconds)
