"""The table of labelled examples and what the person does to it."""

import logging
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import PurePath

import qt
from slicer.i18n import tr as _

from InContextSegLib.errors import InputError
from InContextSegSlicer.panel.order import namesIn, spokenIn
from InContextSegSlicer.scene import bridge, grid
from InContextSegSlicer.scene.examples import ExampleList, ExampleRow
from InContextSegSlicer.widgets.items import itemOf
from InContextSegSlicer.widgets.pixmap import pixmapOf
from InContextSegSlicer.worker.task_queue import TaskQueue

log = logging.getLogger(__name__)
NAME, LABELS, SLICES, AGREEMENT = range(4)
THUMBNAIL_PX = 40
WORDS = ("auto", "labelled", "all")


class ExampleTable:
    """Shows the rows of an `ExampleList` and writes back what is ticked or typed.

    Args:
        widget: the table.
        say: shows a sentence to the person.
    """

    def __init__(self, widget: qt.QTableWidget, say: Callable[[str], None]):
        self._widget, self._say = widget, say
        self._list: ExampleList | None = None
        self._filling = False
        self._queue = TaskQueue()
        self._pictures: dict[tuple, object] = {}
        self._shown: tuple = ()
        widget.setColumnCount(4)
        widget.setHorizontalHeaderLabels([_("Example"), _("Labels"), _("Slices"), _("Agreement")])
        widget.verticalHeader().setVisible(False)
        widget.horizontalHeader().setSectionResizeMode(NAME, qt.QHeaderView.Stretch)
        widget.setIconSize(qt.QSize(THUMBNAIL_PX, THUMBNAIL_PX))
        widget.verticalHeader().setDefaultSectionSize(THUMBNAIL_PX + 4)
        for column, width in ((LABELS, 110), (SLICES, 90), (AGREEMENT, 90)):
            widget.setColumnWidth(column, width)
        widget.connect("itemChanged(QTableWidgetItem*)", self._changed)

    def show(self, examples: ExampleList | None, suspects: Sequence[Mapping], reported: bool) -> None:
        """Fill the table where something about it is new.

        Args:
            suspects: examples that disagree with the others.
            reported: whether the examples have been compared at all.
        """
        self._list = examples
        rows = examples.rows() if examples else ()
        state = (rows, tuple((namesIn(row), partText(row)) for row in rows), _reasons(suspects), reported)
        if state == self._shown:
            return
        self._shown = state
        self._filling = True
        # Of these rows alone: in another scene the same identifiers are other patients.
        self._pictures = {key: self._pictures[key] for key in map(_pictureKey, rows) if key in self._pictures}
        self._widget.setRowCount(len(rows))
        reasons = {_image(row): _reasons(suspects)[row.key] for row in rows if row.key in _reasons(suspects)}
        for place, row in enumerate(rows):
            # All rows of an image are one patient, who is named by the first of them.
            self._fill(place, row, reasons.get(_image(row)) if row.enabled else None, reported)
        self._filling = False
        self._queue.drop()
        for place, row in enumerate(rows):
            if row.complete and not row.fromFiles and _pictureKey(row) not in self._pictures:
                self._queue.add(self._thumbnail(place, row), bool, lambda error: log.warning("No picture: %s", error))

    @property
    def busy(self) -> bool:
        return len(self._queue) > 0

    def tick(self) -> None:
        """Draw thumbnails for a few milliseconds."""
        self._queue.tick()

    def selectedKeys(self) -> list[str]:
        rows = self._list.rows() if self._list else ()
        chosen = {item.row() for item in self._widget.selectedItems()}
        return [row.key for place, row in enumerate(rows) if place in chosen]

    def _fill(self, place: int, row: ExampleRow, reason: str | None, reported: bool) -> None:
        name = self._item(place, NAME, _title(row), editable=False)
        name.setToolTip(_where(row))
        if row.complete:
            name.setFlags(name.flags() | qt.Qt.ItemIsUserCheckable)
        name.setCheckState(qt.Qt.Checked if row.enabled and row.complete else qt.Qt.Unchecked)
        picture = self._pictures.get(_pictureKey(row))
        name.setIcon(qt.QIcon(picture) if picture is not None else qt.QIcon())
        labels = self._item(place, LABELS, labelText(row), editable=row.fromFiles)
        if row.fromFiles:
            labels.setToolTip(_("Values in the label file and what they are called, as in: 1 liver, 2 spleen"))
        slices = self._item(place, SLICES, sliceText(row), editable=not row.axis)
        slices.setToolTip(
            "\n".join([_("{axis} slices, counted from 0").format(axis=row.axis), *partText(row)])
            if row.axis
            else _("auto (finished volumes teach with every slice), labelled, all, or every n-th as in: every 4")
        )
        agreement = self._item(place, AGREEMENT, "", editable=False)
        if not row.complete:
            agreement.setText(_("no longer in the scene"))
        elif reason:
            agreement.setText("⚠ " + _("disagrees"))
            agreement.setToolTip(reason)
        elif reported and row.enabled:
            agreement.setText("✓")
            agreement.setToolTip(_("Nothing speaks against this example."))

    def _item(self, place: int, column: int, text: str, editable: bool) -> qt.QTableWidgetItem:
        item = itemOf(self._widget, place, column)
        flags = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
        item.setFlags(flags | qt.Qt.ItemIsEditable if editable else flags)
        item.setText(text)
        item.setToolTip("")
        return item

    def _changed(self, item: qt.QTableWidgetItem) -> None:
        if self._filling or self._list is None:
            return
        row = self._list.rows()[item.row()]
        try:
            if item.column() == NAME:
                self._list.change(row.key, enabled=item.checkState() == qt.Qt.Checked)
            elif item.column() == LABELS:
                self._list.change(row.key, names=parsedLabels(item.text()))
            elif item.column() == SLICES:
                self._list.change(row.key, slices=parsedSlices(item.text()))
        except InputError as error:
            self._say(str(error))
            self._shown = ()  # shows what holds, in place of what was typed

    def _thumbnail(self, place: int, row: ExampleRow) -> Generator[None, None, None]:
        yield
        ids = list(bridge.segmentNames(row.segmentation))
        picture = bridge.thumbnail(row.volume, row.segmentation, ids, *_pictured(row), THUMBNAIL_PX)
        self._pictures[_pictureKey(row)] = pixmapOf(picture)
        self._filling = True
        self._widget.item(place, NAME).setIcon(qt.QIcon(self._pictures[_pictureKey(row)]))
        self._filling = False


def parsedSlices(text: str) -> str | int:
    """What a person typed into the column of slices.

    Raises:
        InputError: if it is none of the words and no step.
    """
    words = text.strip().lower()
    if words in WORDS:
        return words
    step = re.fullmatch(r"every (\d+)", words)
    if step and int(step[1]) > 0:
        return int(step[1])
    raise InputError(
        _("Slices are 'auto', 'labelled', 'all' or, as in 'every 4', one in some; '{text}' was typed.").format(
            text=text
        )
    )


def parsedLabels(text: str) -> tuple[tuple[int, str], ...]:
    """What a person typed into the column of labels of a file.

    Raises:
        InputError: if it is not values with names, each once.
    """
    pairs = [re.fullmatch(r"(\d+)\s+(.+)", part.strip()) for part in text.split(",")]
    if all(pairs):
        names = tuple((int(pair[1]), pair[2]) for pair in pairs)
        if len({value for value, _name in names}) == len(names) and all(value > 0 for value, _name in names):
            return names
    raise InputError(
        _("Labels are values with names, as in '1 liver, 2 spleen'; '{text}' was typed.").format(text=text)
    )


def labelText(row: ExampleRow) -> str:
    if row.fromFiles:
        return ", ".join(f"{value} {name}" for value, name in row.names)
    return ", ".join(namesIn(row))


def partText(row: ExampleRow) -> list[str]:
    """Which slices speak of some segments only, and of which, a line for each of these."""
    if not row.axis or not row.complete:
        return []
    names = namesIn(row)
    spoken = spokenIn(row, names)
    return [
        (_("{slices}: {names} only") if told else _("{slices}: nothing, as it was taken back")).format(
            slices=", ".join(str(index) for index in row.slices if spoken[index] == told), names=", ".join(told)
        )
        for told in dict.fromkeys(spoken.values())
        if told != names
    ]


def sliceText(row: ExampleRow) -> str:
    if isinstance(row.slices, tuple):
        return f"{row.axis} {', '.join(map(str, row.slices))}"
    return f"every {row.slices}" if isinstance(row.slices, int) else row.slices


def _reasons(suspects: Sequence[Mapping]) -> dict[str, str]:
    """By key of an example, why it is doubted."""
    return {suspect["example"]: _("Perhaps wrong: {why}.").format(why=suspect["why"]) for suspect in suspects}


def _image(row: ExampleRow) -> str:
    return row.imagePath or (row.volume.GetID() if row.volume else row.key)


def _title(row: ExampleRow) -> str:
    if row.fromFiles:
        return PurePath(row.imagePath).name
    return row.volume.GetName() if row.volume else _("(removed volume)")


def _where(row: ExampleRow) -> str:
    if row.fromFiles:
        return f"{row.imagePath}\n{row.labelsPath}"
    return _("Segmentation: {name}").format(name=row.segmentation.GetName() if row.segmentation else "–")


def _pictureKey(row: ExampleRow) -> tuple:
    ids = [node.GetID() if node else "" for node in (row.volume, row.segmentation)]
    return (*ids, row.imagePath, row.slices if isinstance(row.slices, tuple) else ())


def _pictured(row: ExampleRow) -> tuple[int, int]:
    """The array axis and the slice that stand for an example."""
    if isinstance(row.slices, tuple):
        return grid.arrayAxis(row.volume, row.axis), row.slices[len(row.slices) // 2]
    return 0, grid.middleSlice(row.volume, row.segmentation)
