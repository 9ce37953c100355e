"""The table of the data sets that are trained on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import qt
from slicer.i18n import tr as _

from InContextSegLib.errors import InputError
from InContextSegLib.training.site.datasets import DataSet
from InContextSegSlicer.training.recipe import changed, namesOf, namesText
from InContextSegSlicer.widgets.items import itemOf

NAME, LABELS, PATIENT, FOUND = range(4)
ROWS_PX = 22


class DataSetTable:
    """Shows the data sets, and tells what a person types into them.

    Args:
        widget: the table.
        choose: called with the new data sets.
        say: shows a sentence to the person.
    """

    def __init__(
        self,
        widget: qt.QTableWidget,
        choose: Callable[[Sequence[DataSet]], None],
        say: Callable[[str], None],
    ):
        self._widget, self._choose, self._say = widget, choose, say
        self._sets: tuple[DataSet, ...] = ()
        self._filling, self._shown = False, None
        widget.setColumnCount(4)
        widget.setHorizontalHeaderLabels([_("Data set"), _("Labels"), _("Patient in name"), _("Usable")])
        widget.verticalHeader().setVisible(False)
        widget.verticalHeader().setDefaultSectionSize(ROWS_PX)
        widget.horizontalHeader().setSectionResizeMode(LABELS, qt.QHeaderView.Stretch)
        for column, width in ((NAME, 130), (PATIENT, 110), (FOUND, 80)):
            widget.setColumnWidth(column, width)
        widget.connect("itemChanged(QTableWidgetItem*)", self._changed)

    def show(self, sets: Sequence[DataSet], found: Mapping[str, Any] | None, editable: bool) -> None:
        """Fill the table where something about it is new.

        Args:
            found: what was found in these data sets; None: nobody has looked yet.
        """
        told = {each["name"]: each for each in found["sets"]} if found else {}
        state = (
            tuple(sets),
            tuple(sorted((name, each["usable"], each["found"]) for name, each in told.items())),
            editable,
        )
        if state == self._shown:
            return
        self._shown, self._sets = state, tuple(sets)
        self._filling = True
        self._widget.setRowCount(len(sets))
        for place, each in enumerate(sets):
            where = each.table or f"{each.images}\n{each.labels}"
            self._put(place, NAME, each.name, where, editable)
            labels = _("Values and names, as in: 1 liver, 2 spleen; or: any nucleus. Empty: every value is a label.")
            self._put(place, LABELS, namesText(each.names), labels, editable)
            patient = _(
                "How the patient is found in a file's name: a regular expression with a group, as in ^([^_]+)_ for "
                "what comes before the first underscore. Empty: every file is a patient of its own."
            )
            self._put(place, PATIENT, each.patient, patient, editable)
            text = ""
            if each.name in told:
                text = _("{usable} of {found}").format(**told[each.name])
            self._put(place, FOUND, text, _("Cases that can be used, of those there are."), editable=False)
        self._filling = False

    def selected(self) -> list[int]:
        """The chosen rows."""
        return sorted({item.row() for item in self._widget.selectedItems()})

    def _put(self, place: int, column: int, text: str, tip: str, editable: bool) -> None:
        item = itemOf(self._widget, place, column)
        flags = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
        item.setFlags(flags | qt.Qt.ItemIsEditable if editable else flags)
        item.setText(text)
        item.setToolTip(tip)

    def _changed(self, item: qt.QTableWidgetItem) -> None:
        if self._filling:
            return
        place, text = item.row(), item.text().strip()
        try:
            change = {
                NAME: lambda: {"name": text},
                LABELS: lambda: {"names": namesOf(text)},
                PATIENT: lambda: {"patient": text},
            }[item.column()]()
            sets = changed(self._sets, place, **change)
        except InputError as error:
            self._say(str(error))
            sets = self._sets
        self._shown = None  # what was typed gives way to what is kept
        self._choose(sets)
