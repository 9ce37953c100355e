"""Items of tables."""

import qt


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
