"""What was found in the data sets: tasks with their patients and slices, and what is wrong, by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from InContextSegLib.training import runfolder
from InContextSegSlicer.widgets.items import itemOf

TASK, LEARN, VALIDATE, SPACING, DICE = range(5)
LEFT_OUT, REMARK = "#c0392b", "#8a6d00"
PROBLEMS_SHOWN = 200
ROWS_PX = 22
PICTURE_PX = 420  # of the examples, so that the panel grows no wider


class Findings:
    """Fills a table of tasks and a list of problems.

    Args:
        tasks: the table.
        problems: the list; red is what is left out.
    """

    def __init__(self, tasks: qt.QTableWidget, problems: qt.QListWidget):
        self._tasks, self._problems, self._shown = tasks, problems, None
        tasks.setColumnCount(5)
        tasks.setHorizontalHeaderLabels([_("Task"), _("To learn from"), _("To validate"), _("Spacing (mm)"), _("Dice")])
        tasks.verticalHeader().setVisible(False)
        tasks.verticalHeader().setDefaultSectionSize(ROWS_PX)
        tasks.horizontalHeader().setSectionResizeMode(TASK, qt.QHeaderView.Stretch)
        for column, width in ((LEARN, 100), (VALIDATE, 90), (SPACING, 95), (DICE, 45)):
            tasks.setColumnWidth(column, width)

    def show(self, found: Mapping[str, Any] | None, dice: Mapping[str, float]) -> None:
        """Show it where it is new.

        Args:
            dice: of every task, as far as it is known.
        """
        state = (id(found), tuple(dice.items()))
        if state == self._shown:
            return
        before, self._shown = self._shown, state
        tasks = found["tasks"] if found else ()
        spacings = {each["name"]: each for each in found["sets"]} if found else {}
        self._tasks.setRowCount(len(tasks))
        for place, task in enumerate(tasks):
            self._put(place, TASK, task["name"], task["name"])
            for column, side in ((LEARN, "train"), (VALIDATE, "validation")):
                amount = task[side]
                text = _("{patients} pat., {slices} sl.").format(**amount)
                tip = _("{patients} patients, {cases} cases, {slices} slices").format(**amount)
                self._put(place, column, text, tip)
            text, tip = spacingText(spacings.get(task["data_set"], {}))
            self._put(place, SPACING, text, tip)
            self._put(place, DICE, *diceText(dice.get(task["name"]), task["validation"]["cases"]))
        if before is None or before[0] != state[0]:
            self._list(found["problems"] if found else ())

    def _list(self, problems: list[Mapping[str, Any]]) -> None:
        self._problems.clear()
        ordered = sorted(problems, key=lambda problem: not problem["left_out"])
        for problem in ordered[:PROBLEMS_SHOWN]:
            item = qt.QListWidgetItem(f"{problem['data_set']}: {problem['sentence']}")
            item.setForeground(qt.QBrush(qt.QColor(LEFT_OUT if problem["left_out"] else REMARK)))
            item.setToolTip(problem["sentence"])
            self._problems.addItem(item)
        if len(ordered) > PROBLEMS_SHOWN:
            more = _("… and {count} more").format(count=len(ordered) - PROBLEMS_SHOWN)
            self._problems.addItem(qt.QListWidgetItem(more))
        self._problems.setVisible(bool(ordered))

    def _put(self, place: int, column: int, text: str, tip: str) -> None:
        item = itemOf(self._tasks, place, column)
        item.setText(text)
        item.setToolTip(tip)


class ExamplesPicture:
    """Shows the picture of the last validation, read again where there was another one."""

    def __init__(self, label: qt.QLabel):
        self._label, self._shown = label, ()

    def show(self, folder: Path | None, step: int) -> None:
        """Show that of a run; step: of its last validation, 0: there was none."""
        if (folder, step) == self._shown:
            return
        self._shown = (folder, step)
        path = folder / runfolder.EXAMPLES if folder is not None else None
        there = path is not None and step and path.is_file()
        self._label.setVisible(bool(there))
        if there:
            picture = qt.QPixmap(str(path))
            if picture.width() > PICTURE_PX:
                picture = picture.scaledToWidth(PICTURE_PX, qt.Qt.SmoothTransformation)
            self._label.setPixmap(picture)
            self._label.setMinimumHeight(picture.height())  # else a longer sentence above would cut it


def diceText(dice: float | None, judges: int) -> tuple[str, str]:
    """Dice, short and in words; in brackets where nobody but those who were learnt from could tell."""
    text = "" if dice is None else f"{dice:.2f}"
    if judges:
        return text, _("Mean Dice of validation slices.")
    tip = _("There is nobody to validate with: this is the Dice of patients that are learnt from, which says little.")
    return text and f"({text})", tip


def spacingText(found: Mapping[str, Any]) -> tuple[str, str]:
    """Millimetres from slice to slice and within them, short and in words."""
    between, within = (rangeText(found.get(name)) for name in ("between_mm", "within_mm"))
    if not between:
        return within, _("Within the pictures: {within} mm").format(within=within) if within else ""
    tip = _("From slice to slice {between} mm, within the slices {within} mm").format(between=between, within=within)
    return f"{between} × {within}", tip


def rangeText(ends: list[float] | None) -> str:
    """From the lowest to the highest."""
    if not ends:
        return ""
    low, high = (f"{end:.3g}" for end in ends)
    return low if low == high else f"{low}–{high}"


def summaryOf(found: Mapping[str, Any]) -> str:
    """What was found, in a sentence."""
    cases = sum(each["usable"] for each in found["sets"])
    out = sum(problem["left_out"] for problem in found["problems"])
    text = _("Tasks: {tasks}. Usable cases: {cases}. Problems: {count}.").format(
        tasks=len(found["tasks"]), cases=cases, count=len(found["problems"])
    )
    if out:
        text += " " + _("What is red is left out.")
    return text
