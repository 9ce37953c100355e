"""The course of a training in Slicer's own plots: loss and validation Dice over steps."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from InContextSegLib.volumes.colour import COLOURS

STEP, LOSS, SHARE, MEAN, ALL = "step", "loss", "loss, first = 1", "loss, averaged", "mean Dice"
MOST_TASKS = 6  # with a curve of their own; of more only the mean can be told apart
WINDOW = 25  # steps over which the loss is averaged
ROWS_AT_ONCE = 200
MARK = "InContextSegTraining"


class TrainingPlots:
    """Tables, curves and a chart in the scene, made when there is something to show.

    They are not saved with the scene: the log of the run holds the same, and is read again.
    """

    def __init__(self, scene: slicer.vtkMRMLScene):
        self._scene = scene
        self.forget()

    def forget(self) -> None:
        """Begin anew; nodes of another run, if there are any, are taken away."""
        for cls in ("vtkMRMLPlotChartNode", "vtkMRMLPlotSeriesNode", "vtkMRMLTableNode"):
            for node in slicer.util.getNodesByClass(cls, self._scene):
                if node.GetAttribute(MARK):
                    self._scene.RemoveNode(node)
        self.chart = self.losses = self.dice = None
        self._first, self._recent = 0.0, []
        self._drawn = [False, False]  # the curves of the loss, and of Dice

    @property
    def complete(self) -> bool:
        """Whether the nodes are still there; a scene may have been closed, or somebody deleted one."""
        return all(node is not None and node.GetScene() is not None for node in (self.chart, self.losses))

    def adding(self, records: Sequence[Mapping[str, Any]]) -> Generator[None, None, None]:
        """A queued task: add lines of the log."""
        if self.chart is None:
            self._make()
        table, validated = self.losses.GetTable(), False
        for number, record in enumerate(records, start=1):
            # As a share of the first, since one scale shows it beside Dice.
            self._first = self._first or float(record["loss"]) or 1.0
            self._recent = [*self._recent[1 - WINDOW :], float(record["loss"]) / self._first]
            mean = sum(self._recent) / len(self._recent)
            _append(table, (record["step"], record["loss"], self._recent[-1], mean))
            if record.get("validation"):
                self._addDice(record["step"], record["validation"])
                validated = True
            if number % ROWS_AT_ONCE == 0:
                yield
                if not self.complete:
                    return
        table.Modified()
        if validated:
            self.dice.GetTable().Modified()
        self._draw()

    def show(self, change: bool) -> bool:
        """Show the chart in the plot views of the layout; where there is none, only if the layout may `change`."""
        views = [node for node in slicer.util.getNodesByClass("vtkMRMLPlotViewNode", self._scene) if _mapped(node)]
        if self.chart is None or not (views or change):
            return False
        if views:
            for view in views:
                view.SetPlotChartNodeID(self.chart.GetID())
        else:
            slicer.modules.plots.logic().ShowChartInLayout(self.chart)
        return True

    def _make(self) -> None:
        self.losses = self._node("vtkMRMLTableNode", _("Training loss"))
        for name in (STEP, LOSS, SHARE, MEAN):
            _column(self.losses, name)
        self.chart = self._node("vtkMRMLPlotChartNode", _("Training"))
        self.chart.SetTitle(_("Training: loss, and Dice of validation patients"))
        self.chart.SetXAxisTitle(_("step"))
        self.chart.SetYAxisTitle(_("Dice; loss as a share of the first"))
        self.chart.SetYAxisRangeAuto(True)

    def _addDice(self, step: int, dice: Mapping[str, float]) -> None:
        if self.dice is None:
            self.dice = self._node("vtkMRMLTableNode", _("Validation Dice"))
            for name in (STEP, ALL, *dice):
                _column(self.dice, name)
        names = [self.dice.GetTable().GetColumnName(n) for n in range(2, self.dice.GetNumberOfColumns())]
        mean = sum(dice.values()) / len(dice)
        _append(self.dice.GetTable(), (step, mean, *(dice.get(name, float("nan")) for name in names)))

    def _draw(self) -> None:
        """Curves of what has two points by now; VTK complains of a line with one."""
        if not self._drawn[0] and self.losses.GetNumberOfRows() > 1:
            self._drawn[0] = True
            self._curve(self.losses, SHARE, "#bbbbbb", width=1)
            self._curve(self.losses, MEAN, "#444444", width=3)
        if not self._drawn[1] and self.dice is not None and self.dice.GetNumberOfRows() > 1:
            self._drawn[1] = True
            table = self.dice.GetTable()
            tasks = [table.GetColumnName(number) for number in range(2, table.GetNumberOfColumns())]
            if len(tasks) > 1:
                self._curve(self.dice, ALL, "#000000", width=3, points=True)
            for number, name in enumerate(tasks if len(tasks) <= MOST_TASKS else ()):
                self._curve(self.dice, name, COLOURS[number % len(COLOURS)], width=2, points=True)

    def _node(self, cls: str, name: str) -> slicer.vtkMRMLNode:
        node = self._scene.AddNewNodeByClass(cls, name)
        node.SetAttribute(MARK, "1")
        node.SetSaveWithScene(False)
        return node

    def _curve(
        self, table: slicer.vtkMRMLTableNode, column: str, colour: str, width: int, points: bool = False
    ) -> None:
        series = self._node("vtkMRMLPlotSeriesNode", column)
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetXColumnName(STEP)
        series.SetYColumnName(column)
        series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
        series.SetMarkerStyle(
            slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle if points else slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone
        )
        series.SetMarkerSize(7)
        series.SetLineWidth(width)
        series.SetColor(*(part / 255 for part in bytes.fromhex(colour.removeprefix("#"))))
        self.chart.AddAndObservePlotSeriesNodeID(series.GetID())


def _column(table: slicer.vtkMRMLTableNode, name: str) -> None:
    column = vtk.vtkIntArray() if name == STEP else vtk.vtkDoubleArray()
    column.SetName(name)
    table.AddColumn(column)


def _append(table: vtk.vtkTable, values: Sequence[float]) -> None:
    """Without `vtkTable.InsertNextBlankRow`, which would tell everybody for every row."""
    for number, value in enumerate(values):
        table.GetColumn(number).InsertNextValue(value)


def _mapped(node: slicer.vtkMRMLPlotViewNode) -> bool:
    return bool(node.IsMappedInLayout())
