"""The module `ctk`: the few widgets of CTK that a scripted module uses, written in Python."""

import sys
import types

from PySide6.QtCore import Property, Qt, Signal

from .pythonqt import qt

ctk = types.ModuleType("ctk", "Stand-ins for widgets of CTK.")
UNLIMITED = 16777215  # Qt's own largest height
COLLAPSED_HEIGHT = 26


def forward(names: dict[str, type], inner: str):
    """Class decorator: properties, with their setters, that live in a widget inside."""

    def add(cls):
        for name, kind in names.items():
            setter = _forward_writer(inner, name)
            setattr(cls, name, Property(kind, _forward_reader(inner, name), setter))
            setattr(cls, f"set{name[0].upper()}{name[1:]}", setter)
        return cls

    return add


def remember(names: dict[str, object]):
    """Class decorator: properties without a visible effect here, as {name: value at first}."""

    def add(cls):
        for name, first in names.items():
            kind = "QStringList" if isinstance(first, list) else type(first)
            setter = _memory_writer(name)
            setattr(cls, name, Property(kind, _memory_reader(name, first), setter))
            setattr(cls, f"set{name[0].upper()}{name[1:]}", setter)
        return cls

    return add


def _forward_reader(inner, name):
    return lambda self: getattr(getattr(self, inner), name)


def _forward_writer(inner, name):
    return lambda self, value: setattr(getattr(self, inner), name, value)


def _memory_reader(name, first):
    return lambda self: self.__dict__.get(f"_{name}", first)


def _memory_writer(name):
    return lambda self, value: self.__dict__.__setitem__(f"_{name}", value)


@remember({"collapsedHeight": COLLAPSED_HEIGHT, "contentsLineWidth": 1, "contentsFrameShape": 0})
class ctkCollapsibleButton(qt.QWidget):
    """A heading that shows and hides what is below it."""

    contentsCollapsed = Signal(bool)
    toggled = Signal(bool)
    clicked = Signal(bool)

    def __init__(self, first=None, parent=None):
        super().__init__(first if isinstance(first, qt.QWidget) else parent)
        self._text = first if isinstance(first, str) else ""
        self._collapsed = False
        self._hidden = []
        self.setContentsMargins(0, COLLAPSED_HEIGHT, 0, 0)

    def setText(self, text):
        """The heading."""
        self._text = text
        self.update()

    def setCollapsed(self, collapsed):
        """Hide the contents, or show what was not hidden before."""
        if bool(collapsed) == self._collapsed:
            return
        self._collapsed = bool(collapsed)
        if self._collapsed:
            self._hide_contents()
        else:
            for widget in self._hidden:
                widget.setVisible(True)
        self.setMaximumHeight(COLLAPSED_HEIGHT if self._collapsed else UNLIMITED)
        self.contentsCollapsed.emit(self._collapsed)
        self.toggled.emit(not self._collapsed)

    def _hide_contents(self):
        widgets = [child for child in self.children() if isinstance(child, qt.QWidget)]
        self._hidden = [widget for widget in widgets if not widget.isHidden()]
        for widget in self._hidden:
            widget.setVisible(False)

    def setChecked(self, checked):
        """Open is checked."""
        self.setCollapsed(not checked)

    text = Property(str, lambda self: self._text, setText)
    collapsed = Property(bool, lambda self: self._collapsed, setCollapsed)
    checked = Property(bool, lambda self: not self._collapsed, setChecked)

    def click(self):
        """Open or close, as a user does."""
        self.setCollapsed(not self._collapsed)
        self.clicked.emit(self.checked)

    def showEvent(self, event):
        """What was added after collapsing is hidden too."""
        if self._collapsed:
            hidden = self._hidden
            self._hide_contents()
            self._hidden = [*hidden, *self._hidden]

    def mousePressEvent(self, event):
        """A click on the heading."""
        if event.position().y() < COLLAPSED_HEIGHT:
            self.click()

    def paintEvent(self, event):
        """The heading with its arrow."""
        painter = qt.QPainter(self)
        painter.fillRect(0, 0, self.width, COLLAPSED_HEIGHT - 4, self.palette.color(qt.QPalette.Button))
        painter.drawText(8, 16, ("▸ " if self._collapsed else "▾ ") + self._text)
        painter.end()


NUMBERS = {"singleStep": float, "decimals": int, "prefix": str, "suffix": str}


@forward({**NUMBERS, "minimum": float, "maximum": float, "value": float}, "_box")
@remember({"tracking": True, "pageStep": 10.0, "tickInterval": 0.0, "spinBoxVisible": True, "popupSlider": False})
class ctkSliderWidget(qt.QWidget):
    """A slider and a number that follow each other."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    STEPS = 1000

    def __init__(self, parent=None):
        super().__init__(parent)
        self._box = qt.QDoubleSpinBox()
        self._slider = qt.QSlider(Qt.Horizontal)
        self._slider.setRange(0, self.STEPS)
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._box)
        self._box.valueChanged.connect(self._onBox)
        self._slider.valueChanged.connect(self._onSlider)

    def _onBox(self, value):
        blocked = self._slider.blockSignals(True)
        reach = self._box.maximum - self._box.minimum
        self._slider.setValue(round(self.STEPS * (value - self._box.minimum) / reach) if reach else 0)
        self._slider.blockSignals(blocked)
        self.valueChanged.emit(value)

    def _onSlider(self, step):
        self._box.value = self._box.minimum + step / self.STEPS * (self._box.maximum - self._box.minimum)

    def setRange(self, minimum, maximum):
        """Both ends at once."""
        self._box.setRange(minimum, maximum)


@forward(NUMBERS, "_low")
@remember({"tracking": True, "symmetricMoves": False, "tickInterval": 0.0})
class ctkRangeWidget(qt.QWidget):
    """Two numbers of one range, the first never above the second."""

    valuesChanged = Signal(float, float)
    minimumValueChanged = Signal(float)
    maximumValueChanged = Signal(float)
    rangeChanged = Signal(float, float)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._low, self._high = qt.QDoubleSpinBox(), qt.QDoubleSpinBox()
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for box in (self._low, self._high):
            layout.addWidget(box)
        self._low.valueChanged.connect(self._onLow)
        self._high.valueChanged.connect(self._onHigh)

    def _onLow(self, value):
        self._high.value = max(self._high.value, value)
        self.minimumValueChanged.emit(value)
        self.valuesChanged.emit(self._low.value, self._high.value)

    def _onHigh(self, value):
        self._low.value = min(self._low.value, value)
        self.maximumValueChanged.emit(value)
        self.valuesChanged.emit(self._low.value, self._high.value)

    def setRange(self, minimum, maximum):
        """Both ends at once."""
        for box in (self._low, self._high):
            box.setRange(minimum, maximum)
        self.rangeChanged.emit(minimum, maximum)

    def setMinimum(self, minimum):
        """The lowest that can be chosen."""
        self.setRange(minimum, max(minimum, self._low.maximum))

    def setMaximum(self, maximum):
        """The highest that can be chosen."""
        self.setRange(min(maximum, self._low.minimum), maximum)

    def setMinimumValue(self, value):
        """The lower of the two numbers."""
        self._low.value = value

    def setMaximumValue(self, value):
        """The upper of the two numbers."""
        self._high.value = value

    def setValues(self, low, high):
        """Both numbers at once."""
        self._high.value = high
        self._low.value = low
        self._high.value = high

    minimum = Property(float, lambda self: self._low.minimum, setMinimum)
    maximum = Property(float, lambda self: self._low.maximum, setMaximum)
    minimumValue = Property(float, lambda self: self._low.value, setMinimumValue)
    maximumValue = Property(float, lambda self: self._high.value, setMaximumValue)


@remember({"settingKey": "", "showBrowseButton": True, "showHistoryButton": True, "nameFilters": [], "filters": 0})
class ctkPathLineEdit(qt.QWidget):
    """A path that can be typed."""

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    Dirs, Files, Drives, Readable, Writable, Executable = 1, 2, 4, 16, 32, 64

    def __init__(self, parent=None):
        super().__init__(parent)
        self._line = qt.QLineEdit()
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._line)
        self._line.textChanged.connect(self.currentPathChanged)

    def setCurrentPath(self, path):
        """Choose a path."""
        self._line.text = path

    def addCurrentPathToHistory(self):
        """The history is not kept here."""

    retrieveHistory = addCurrentPathToHistory
    currentPath = Property(str, lambda self: self._line.text, setCurrentPath)


@remember({"defaultText": "", "forceDefault": False, "scrollWheelEffect": 1})
class ctkComboBox(qt.QComboBox):
    """A combo box that can ignore the mouse wheel."""

    NeverScroll, AlwaysScroll, ScrollWithFocus, ScrollWithNoVScrollBar = range(4)


def _absent(name):
    raise AttributeError(f"The harness has no ctk.{name}; write a stand-in in ctkwidgets.py before it is used.")


def install() -> types.ModuleType:
    """Make `import ctk` find this module."""
    for cls in (ctkCollapsibleButton, ctkSliderWidget, ctkRangeWidget, ctkPathLineEdit, ctkComboBox):
        cls.__module__ = "ctk"
        setattr(ctk, cls.__name__, cls)
    ctk.ctkCheckBox = qt.QCheckBox
    ctk.__getattr__ = _absent
    sys.modules["ctk"] = ctk
    return ctk
