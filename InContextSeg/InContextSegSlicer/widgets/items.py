"""Items of tables and of boxes, and what a progress bar says."""

from typing import Any

import qt

_JOINER = "\u2060"  # takes no room


def itemOf(table: qt.QTableWidget, row: int, column: int) -> qt.QTableWidgetItem:
    """The item of a cell, made where there is none.

    It is never replaced: Qt goes on with an item after it has told that the item changed, and a table is filled anew
    while it tells.
    """
    item = table.item(row, column)
    if item is None:
        item = qt.QTableWidgetItem()
        table.setItem(row, column, item)
    return item


def choose(box: qt.QComboBox, value: Any) -> None:
    """Show the item with this value without telling anybody; where there is none nothing, so that any can be chosen."""
    index = box.findData(value)
    if box.currentIndex != index:
        wasBlocked = box.blockSignals(True)
        box.setCurrentIndex(index)
        box.blockSignals(wasBlocked)


def barText(text: str) -> str:
    """As a progress bar shows it unchanged: Qt puts numbers in the place of %p, %v and %m, which names may hold."""
    return text.replace("%", "%" + _JOINER)
