"""The table of segments to produce, with what is to be expected of each."""

import json
from collections.abc import Callable, Mapping, Sequence

import qt
from slicer.i18n import tr as _

from InContextSegSlicer.panel.order import Wanted
from InContextSegSlicer.scene.examples import ExampleRow
from InContextSegSlicer.widgets.items import itemOf

NAME, INTO, EXPECTED = range(3)


class SegmentTable:
    """Shows what the examples teach; a person unticks segments and says into which segment each goes.

    Args:
        widget: the table.
        choose: called with the new choices, see `order.wantedSegments`.
    """

    def __init__(self, widget: qt.QTableWidget, choose: Callable[[Mapping], None]):
        self._widget, self._choose = widget, choose
        self._wanted: tuple[Wanted, ...] = ()
        self._filling = self._telling = False
        self._shown = None
        widget.setColumnCount(3)
        widget.setHorizontalHeaderLabels([_("Segment"), _("Goes into"), _("Expected Dice")])
        widget.verticalHeader().setVisible(False)
        widget.horizontalHeader().setSectionResizeMode(NAME, qt.QHeaderView.Stretch)
        widget.setColumnWidth(INTO, 150)
        widget.setColumnWidth(EXPECTED, 130)
        widget.connect("itemChanged(QTableWidgetItem*)", self._changed)

    def show(
        self, wanted: Sequence[Wanted], rows: Sequence[ExampleRow], outputNames: Sequence[str], expected: Mapping
    ) -> None:
        """Fill the table where something about it is new.

        Args:
            outputNames: of the segments in the output, which are added to rather than made.
            expected: by segment name, see `outcome.Outcome`.
        """
        colours = {each.name: colourOf(rows, each.name) for each in wanted}
        state = (tuple(wanted), tuple(outputNames), json.dumps(expected, sort_keys=True), tuple(colours.values()))
        shrinks = len(wanted) < self._widget.rowCount
        if state == self._shown or (shrinks and self._telling):
            return  # Qt still works with the item of a row that is to go; the panel looks again soon
        self._shown, self._wanted = state, tuple(wanted)
        self._filling = True
        self._widget.setRowCount(len(wanted))
        for place, each in enumerate(wanted):
            name = self._item(place, NAME, each.name, qt.Qt.ItemIsUserCheckable)
            name.setCheckState(qt.Qt.Checked if each.enabled else qt.Qt.Unchecked)
            swatch = qt.QPixmap(14, 14)
            swatch.fill(qt.QColor.fromRgbF(*colours[each.name]))
            name.setIcon(qt.QIcon(swatch))
            into = self._item(place, INTO, each.into, qt.Qt.ItemIsEditable)
            into.setToolTip(
                _("Added to the segment of that name, which is there already.")
                if each.into in outputNames
                else _("A new segment of that name is made.")
            )
            record = expected.get(each.name)
            dice = self._item(place, EXPECTED, expectedText(record))
            dice.setToolTip(
                "\n".join(record["why"])
                if record and record.get("why")
                else _("What the examples, each left out in turn and segmented by the others, lead to expect.")
            )
        self._filling = False

    def _item(self, place: int, column: int, text: str, flag=0) -> qt.QTableWidgetItem:
        item = itemOf(self._widget, place, column)
        flags = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
        item.setFlags(flags | flag if flag else flags)
        item.setText(text)
        return item

    def _changed(self, item: qt.QTableWidgetItem) -> None:
        if self._filling:
            return
        choices = {}
        for place, each in enumerate(self._wanted):
            choices[each.name] = {
                "enabled": self._widget.item(place, NAME).checkState() == qt.Qt.Checked,
                "into": self._widget.item(place, INTO).text().strip() or each.name,
            }
        self._telling = True
        try:
            self._choose(choices)
        finally:
            self._telling = False


def expectedText(record: Mapping | None) -> str:
    """The Dice to expect, with its spread, and without adapting where the network adapted; of a result, the verdict."""
    if record is None:
        return ""
    if "verdict" in record:
        verdict = verdictText(record["verdict"])
        return verdict if record["expected_dice"] is None else f"{record['expected_dice']:.2f}, {verdict}"
    text = f"{record['dice']:.2f}"
    if record["spread"] is not None:
        text += f" ± {record['spread']:.2f}"
    before = record.get("without_adapting")
    return text if before is None else _("{text}, unadapted {before:.2f}").format(text=text, before=before["dice"])


def verdictText(verdict: str) -> str:
    """A verdict of the library in the language of the program, with the labels that it is about."""
    known, _colon, about = verdict.partition(": ")
    words = {"good": _("good"), "look at it": _("look at it"), "do not use": _("do not use")}
    return words.get(known, known) + (f": {about}" if about else "")


def colourOf(rows: Sequence[ExampleRow], name: str) -> tuple[float, float, float]:
    """The colour that the first example in the scene gives to a segment; grey where only files show it."""
    for row in rows:
        if row.segmentation is not None:
            segmentation = row.segmentation.GetSegmentation()
            found = segmentation.GetSegmentIdBySegmentName(name)
            if found:
                return segmentation.GetSegment(found).GetColor()
    return (0.6, 0.6, 0.6)
