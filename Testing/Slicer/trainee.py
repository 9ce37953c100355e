"""What a person does in the training module, in words a test can use; a step may leave a picture of what was seen."""

import json
import os
from pathlib import Path

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from Testing.Slicer.harness import app
from Testing.Slicer.radiologist import ROOT, save

TIMEOUT_S = 240
FEW = {"validated": 3, "draws": 2, "training": {"warmup_steps": 1}}
WAITING = ("looking", "writing", "waiting", "training", "stopping")


class Trainee:
    """One person before the training module."""

    def __init__(self, size=(560, 1500)):
        self.widget = app.open_panel(app.load_module(ROOT / "InContextSeg" / "InContextSegTraining.py"), size=size)
        wanted = os.environ.get("INCONTEXTSEG_SCREENSHOTS")
        self._pictures = Path(wanted) if wanted else None
        self._taken = 0

    @property
    def panel(self):
        return self.widget.panel

    @property
    def ui(self):
        return self.widget.ui

    @property
    def controller(self):
        return self.panel.controller

    @property
    def parameters(self):
        return self.panel.parameters

    @property
    def status(self) -> str:
        return self.ui.trainingStatusLabel.text

    def close(self) -> None:
        """Close the module, if it is open."""
        if self.widget is not None:
            app.close_panel(self.widget)
            self.widget = None

    def press(self, name: str) -> None:
        """Press a button, which must be there to be pressed."""
        button = getattr(self.ui, f"training{name}Button")
        assert button.enabled, f"{name} cannot be pressed: {self.status}"
        button.click()

    def until(self, condition) -> bool:
        return app.pump(TIMEOUT_S, until=condition)

    def wait(self) -> str:
        """Until the work is done; how it ended."""
        controller = self.controller
        assert self.until(lambda: controller.state not in WAITING and not controller.queue), self.status
        return controller.state

    def addFolder(self, folder: Path) -> None:
        """Add a folder that holds images and labels."""
        app.answers.give("QFileDialog.getExistingDirectory", str(folder))
        self.press("AddFolder")

    def look(self) -> None:
        self.press("Look")
        self.wait()

    def train(self) -> str:
        self.press("Start")
        return self.wait()

    def problems(self) -> list[tuple[str, str]]:
        """What is wrong with the data, and the colour it is said in."""
        found = self.ui.trainingProblemsList
        items = [found.item(row) for row in range(found.count)]
        return [(item.text(), item.foreground().color().name()) for item in items]

    def tasks(self) -> list[list[str]]:
        """The rows of the table of tasks."""
        table = self.ui.trainingTasksTable
        return [[table.item(row, n).text() for n in range(table.columnCount)] for row in range(table.rowCount)]

    def picture(self, name: str) -> None:
        """Keep what is seen now: the panel, and the plot beside it."""
        if self._pictures is None:
            return
        self._taken += 1
        app.screenshot(self.widget.parent, self._pictures / f"training_{self._taken:02d}_{name}.png")
        chart = self.controller.plots.chart
        if chart is not None:
            save(plotted(chart), self._pictures / f"training_{self._taken:02d}_{name}_plot.png")


def columns(table) -> dict[str, list[float]]:
    """A table node by the names of its columns."""
    inner = table.GetTable()
    found = [inner.GetColumn(number) for number in range(inner.GetNumberOfColumns())]
    return {column.GetName(): vtk_to_numpy(column).tolist() for column in found}


def plotted(node, size=(760, 460)) -> np.ndarray:
    """(h, w, 3) uint8: a chart node drawn as a plot view of Slicer does, from its series and their tables."""
    chart, view = vtk.vtkChartXY(), vtk.vtkContextView()
    for number in range(node.GetNumberOfPlotSeriesNodes()):
        series = node.GetNthPlotSeriesNode(number)
        table = series.GetTableNode().GetTable()
        plot = chart.AddPlot(vtk.vtkChart.LINE)
        plot.SetInputData(table, series.GetXColumnName(), series.GetYColumnName())
        plot.SetLabel(series.GetName())
        plot.SetColorF(*series.GetColor())
        plot.SetWidth(series.GetLineWidth())
        marked = series.GetMarkerStyle() == slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle
        plot.SetMarkerStyle(vtk.vtkPlotPoints.CIRCLE if marked else vtk.vtkPlotPoints.NONE)
        plot.SetMarkerSize(series.GetMarkerSize())
    chart.SetTitle(node.GetTitle())
    chart.SetShowLegend(node.GetLegendVisibility())
    for axis, title in ((vtk.vtkAxis.BOTTOM, node.GetXAxisTitle()), (vtk.vtkAxis.LEFT, node.GetYAxisTitle())):
        chart.GetAxis(axis).SetTitle(title)
    window = view.GetRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetSize(*size)
    view.GetRenderer().SetBackground(1, 1, 1)
    view.GetScene().AddItem(chart)
    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.ReadFrontBufferOff()
    grab.Update()
    picture = grab.GetOutput()
    width, height, _ = picture.GetDimensions()
    pixels = vtk_to_numpy(picture.GetPointData().GetScalars()).reshape(height, width, -1)[::-1].copy()
    window.Finalize()
    return pixels


def small(trainee, folder, steps=4, **changes):
    """Choices with which a training takes seconds."""
    chosen = trainee.parameters
    chosen.size, chosen.references, chosen.queries, chosen.validateEvery = 32, 2, 1, 2
    chosen.steps, chosen.folder, chosen.device, chosen.validationShare = steps, str(folder), "cpu", 0.25
    chosen.patience = 1000
    chosen.more = json.dumps(FEW)
    for name, value in changes.items():
        setattr(chosen, name, value)


def looked(trainee, data, folder, steps=4):
    """Data that were added and looked at."""
    trainee.addFolder(data)
    small(trainee, folder, steps)
    trainee.look()
    assert trainee.panel.found is not None, trainee.status


def log_of(folder):
    """The lines of the log of a run."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
