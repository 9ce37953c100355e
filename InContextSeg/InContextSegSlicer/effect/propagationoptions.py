"""The part of the effect's options that carries a segment on, and lists what nobody has accepted yet."""

from collections.abc import Callable, Mapping

import qt
from slicer.i18n import tr as _

from InContextSegSlicer.scene.slicemarks import SliceMarks

KEY = 256  # Qt.UserRole
REACHES = (1, 5, 10, 20)


class PropagationOptions:
    """Widgets alone; what they do is set by whoever owns them.

    Attributes:
        widget: all of them.
        chosen: called with the index of a slice that somebody wants to see.
        selectionChanged: called when other slices are chosen.
    """

    def __init__(self):
        self.widget = qt.QFrame()
        self.widget.setSizePolicy(qt.QSizePolicy.Preferred, qt.QSizePolicy.Maximum)
        self.chosen: Callable[[int], None] = lambda _index: None
        self.selectionChanged: Callable[[], None] = lambda: None
        layout = qt.QVBoxLayout(self.widget)
        layout.setContentsMargins(0, 0, 0, 0)
        self.start = qt.QPushButton(_("Propagate"))
        self.reach = qt.QComboBox()
        self.reach.addItem(_("as far as it is sure"), 0)
        for count in REACHES:
            self.reach.addItem(_("{count} slices either way").format(count=count), count)
        self.reach.setToolTip(_("From all applied slices, or from the one that is nearest to the displayed slice."))
        self.list = qt.QListWidget()
        self.list.setSelectionMode(qt.QAbstractItemView.ExtendedSelection)
        self.list.setMaximumHeight(110)
        self.list.connect("itemClicked(QListWidgetItem*)", lambda item: self.chosen(item.data(KEY)))
        self.list.connect("itemSelectionChanged()", self._onSelection)
        texts = {"accept": _("Accept"), "acceptAll": _("Accept all"), "discard": _("Discard")}
        tips = {
            "accept": _("The chosen slices, or else the displayed one, are right: they become examples."),
            "acceptAll": _("All of these slices are right: they become examples."),
            "discard": _(
                "Take out of the segment what was carried on to the chosen slices, or else the displayed one."
            ),
        }
        self.buttons = {name: qt.QPushButton(text) for name, text in texts.items()}
        for name, button in self.buttons.items():
            button.setToolTip(tips[name])
        self.uncertainty = qt.QCheckBox(_("Show the uncertainty over the image"))
        for row in ((self.start, self.reach), tuple(self.buttons.values())):
            line = qt.QHBoxLayout()
            for each in row:
                line.addWidget(each)
            layout.addLayout(line)
            if self.start in row:
                layout.addWidget(qt.QLabel(_("Propagated, to be accepted (least sure first):")))
                layout.addWidget(self.list)
        layout.addWidget(self.uncertainty)
        self.status = qt.QLabel()
        self.status.setWordWrap(True)
        layout.addWidget(self.status)

    @property
    def selected(self) -> list[int]:
        """Indices of the slices that are chosen in the list."""
        return [item.data(KEY) for item in self._items() if item.isSelected()]

    def show(self, marked: SliceMarks, displayed: int | None, status: str, working: bool, able: bool) -> None:
        """List these slices, least sure first, and say how far the work is.

        Args:
            displayed: the slice that a view shows along their axis.
            able: whether anything can be carried on.
        """
        ordered = sorted(marked.confidence.items(), key=lambda each: (each[1], each[0]))
        texts = {
            index: _("{axis} {index}: {sure:.0f} % sure").format(axis=marked.axis, index=index, sure=100 * sure)
            for index, sure in ordered
        }
        if {item.data(KEY): item.text() for item in self._items()} != texts:
            self._fill(texts)
        self.start.setText(_("Cancel") if working else _("Propagate"))
        self.start.setEnabled(able or working)
        idle = not working
        some = displayed in marked.confidence or bool(self.selected)
        for name, there in {"accept": some, "acceptAll": bool(texts), "discard": some}.items():
            self.buttons[name].setEnabled(idle and there)
        self.reach.setEnabled(idle)
        self.status.setText(status)

    def _fill(self, texts: Mapping[int, str]) -> None:
        wasBlocked = self.list.blockSignals(True)  # what is not there any more is not chosen any more: nothing to tell
        self.list.clear()
        for index, text in texts.items():
            item = qt.QListWidgetItem(text)
            item.setData(KEY, index)
            self.list.addItem(item)
        self.list.blockSignals(wasBlocked)

    def _onSelection(self) -> None:
        self.selectionChanged()

    def _items(self) -> list:
        return [self.list.item(number) for number in range(self.list.count)]
