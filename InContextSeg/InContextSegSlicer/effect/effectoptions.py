"""The options of the effect in the Segment Editor: tools, threshold, what to do, and which examples are in context."""

from collections.abc import Callable, Sequence

import ctk
import qt
from slicer.i18n import tr as _

from InContextSegLib.models.entry import Capability
from InContextSegSlicer.effect.prompting import BOX, POINT, SCRIBBLE
from InContextSegSlicer.effect.propagationoptions import PropagationOptions
from InContextSegSlicer.scene.examples import ExampleRow

KEY = 256  # Qt.UserRole
KINDS = {POINT: "click", BOX: "box", SCRIBBLE: "scribble"}  # as the catalogue calls them


class EffectOptions:
    """Widgets alone; what they do is set by whoever owns them.

    Attributes:
        widget: all of them.
        thresholdChanged, removed: called with a probability and with keys of examples.
    """

    def __init__(self):
        self.widget = qt.QWidget()
        self.thresholdChanged: Callable[[float], None] = lambda _threshold: None
        self.removed: Callable[[Sequence[str]], None] = lambda _keys: None
        layout = qt.QVBoxLayout(self.widget)
        layout.setContentsMargins(0, 0, 0, 0)
        self.tools = self._choice(layout, {POINT: _("Click"), BOX: _("Box"), SCRIBBLE: _("Scribble")})
        self.polarity = self._choice(layout, {"positive": _("Structure"), "negative": _("Background")})
        self._tips = {
            POINT: _("Click on the structure; with Ctrl or Shift, on what does not belong to it."),
            BOX: _("Drag a box round the structure."),
            SCRIBBLE: _("Paint along the structure; with Ctrl or Shift, along what is not."),
        }
        self.limits = qt.QLabel()
        self.limits.setWordWrap(True)
        self.limits.setVisible(False)
        layout.addWidget(self.limits)
        self.threshold = ctk.ctkSliderWidget()
        self.threshold.minimum, self.threshold.maximum, self.threshold.singleStep = 0.02, 0.98, 0.01
        self.threshold.value = 0.5
        self.threshold.setToolTip(_("From which probability on a voxel belongs to the structure."))
        self.threshold.connect("valueChanged(double)", self._onThreshold)
        row = qt.QHBoxLayout()
        row.addWidget(qt.QLabel(_("Threshold:")))
        row.addWidget(self.threshold)
        layout.addLayout(row)
        self.replace = qt.QCheckBox(_("Replace what the segment has on the slice"))
        layout.addWidget(self.replace)
        texts = {"apply": _("Apply"), "clear": _("Clear"), "undo": _("Undo mark"), "redo": _("Redo mark")}
        self.buttons = {name: qt.QPushButton(text) for name, text in texts.items()}
        tips = {"apply": _("Write what is shown into the segment (Enter)."), "clear": _("Take all marks away (Esc).")}
        row = qt.QHBoxLayout()
        for name, button in self.buttons.items():
            button.setToolTip(tips.get(name, ""))
            row.addWidget(button)
        layout.addLayout(row)
        layout.addWidget(qt.QLabel(_("Examples in context:")))
        self.examples = qt.QListWidget()
        self.examples.setMaximumHeight(90)
        layout.addWidget(self.examples)
        self.remove = qt.QPushButton(_("Remove the chosen example"))
        self.remove.connect("clicked()", self._onRemove)
        self.save = qt.QPushButton(_("Save examples…"))
        self.save.setToolTip(
            _("Keep the examples of this segment as files, for other scenes, a batch, or somebody else.")
        )
        row = qt.QHBoxLayout()
        for button in (self.remove, self.save):
            row.addWidget(button)
        layout.addLayout(row)
        self.propagation = PropagationOptions()
        layout.addWidget(self.propagation.widget)
        self.status = qt.QLabel()
        self.status.setWordWrap(True)
        layout.addWidget(self.status)

    @property
    def tool(self) -> str | None:
        """What the mouse does; None where the network takes nothing from it."""
        return next((name for name, button in self.tools.items() if button.checked and button.enabled), None)

    @property
    def positive(self) -> bool:
        return self.polarity["positive"].checked

    def offer(self, model: str, capability: Capability | None) -> None:
        """Let only those tools be used that a network takes, and say why.

        Args:
            capability: None where nobody knows the network.
        """
        taken = capability.prompts if capability is not None else ()
        reason = limitsOf(model, capability)
        for name, button in self.tools.items():
            able = KINDS[name] in taken
            if button.enabled != able or not button.toolTip:
                button.setEnabled(able)
                button.setToolTip(self._tips[name] if able else reason)
        if self.tool is None:
            for button in (button for button in self.tools.values() if button.enabled):
                button.setChecked(True)
                break
        negative = self.polarity["negative"]
        negative.setEnabled(any(self.tools[name].enabled for name in (POINT, SCRIBBLE)))
        if not negative.enabled:
            self.polarity["positive"].setChecked(True)
        self.limits.setText(reason)
        self.limits.setVisible(bool(reason))

    def showExamples(self, rows: Sequence[ExampleRow]) -> None:
        """List these examples."""
        texts = {row.key: _described(row) for row in rows}
        items = [self.examples.item(number) for number in range(self.examples.count)]
        if {item.data(KEY): item.text() for item in items} == texts:
            return
        self.examples.clear()
        for key, text in texts.items():
            item = qt.QListWidgetItem(text)
            item.setData(KEY, key)
            self.examples.addItem(item)

    def _choice(self, layout: qt.QVBoxLayout, texts: dict[str, str]) -> dict[str, qt.QRadioButton]:
        frame = qt.QFrame()  # buttons of one parent exclude one another
        row = qt.QHBoxLayout(frame)
        row.setContentsMargins(0, 0, 0, 0)
        buttons = {name: qt.QRadioButton(text) for name, text in texts.items()}
        for button in buttons.values():
            row.addWidget(button)
        next(iter(buttons.values())).setChecked(True)
        layout.addWidget(frame)
        return buttons

    def _onThreshold(self, value: float) -> None:
        self.thresholdChanged(value)

    def _onRemove(self) -> None:
        items = [self.examples.item(number) for number in range(self.examples.count)]
        self.removed([item.data(KEY) for item in items if item.isSelected()])


def limitsOf(model: str, capability: Capability | None) -> str:
    """What a network does not take, and what to do; empty where it takes everything."""
    if capability is None:
        return _(
            "The model '{model}' is not in the catalogue; choose another in the module In-Context Segmentation."
        ).format(model=model)
    if set(KINDS.values()) <= set(capability.prompts) and capability.support == "optional":
        return ""
    rest = _("It takes {taken}; for the rest choose another in the module In-Context Segmentation.")
    if capability.support == "required":
        rest = _("It takes {taken}, and needs an example before anything else; the rest is off.")
    return _("The model is '{model}'.").format(model=model) + " " + rest.format(taken=capability.taken)


def _described(row: ExampleRow) -> str:
    if row.fromFiles:
        return row.imagePath
    if row.axis:
        slices = ", ".join(str(index) for index in row.slices)
        return _("{volume}: {axis} slices {slices}").format(volume=row.volume.GetName(), axis=row.axis, slices=slices)
    return _("{volume}: all that is drawn").format(volume=row.volume.GetName())
