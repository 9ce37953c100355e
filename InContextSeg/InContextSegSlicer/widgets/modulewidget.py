"""What the widgets of all modules do: the panel's life between Slicer's events, the scene and the parameter node."""

import sys
from pathlib import Path
from typing import Any

import qt
import slicer
import vtk
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

BUSY_MS, IDLE_MS = 15, 100


class ModuleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Builds a panel from the module's `.ui` file and tells it about the scene.

    A module's own widget, which Slicer finds by its name, says how its panel and parameter node are made. Both import
    what they need then: before `setup` the library may not be found.
    """

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.panel = None
        self._parameters = None

    def makeLogic(self) -> Any:
        """The module's logic, which owns the parameter node."""
        raise NotImplementedError

    def makePanel(self) -> Any:
        """The panel of the widgets in `self.ui`."""
        raise NotImplementedError

    def wrapped(self, node: Any) -> Any:
        """The module's parameter node wrapper of a node."""
        raise NotImplementedError

    def beat(self) -> bool:
        """Let the panel go on with what it does; whether it wants to again soon."""
        raise NotImplementedError

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        findLibrary()
        widget = slicer.util.loadUI(self.resourcePath(f"UI/{self.moduleName}.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = self.makeLogic()
        self.panel = self.makePanel()
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        self._timer = qt.QTimer()
        self._timer.setInterval(IDLE_MS)
        self._timer.connect("timeout()", self.onTimer)
        self._timer.start()
        self._showParameters()

    def cleanup(self):
        self._timer.stop()
        self.removeObservers()
        self.panel.close()

    def enter(self):
        self._showParameters()
        self.panel.enter()

    def exit(self):
        """The widgets follow nobody until the panel is shown again; what the worker does goes on."""
        self._hideParameters()

    def onTimer(self):
        if self._parameters is not None and self._parameters.parameterNode.GetScene() is None:
            self._hideParameters()  # somebody has deleted the node
            self._showParameters()
        interval = BUSY_MS if self.beat() else IDLE_MS
        if self._timer.interval != interval:
            self._timer.setInterval(interval)

    def onSceneStartClose(self, caller, event):
        self._hideParameters()
        self.panel.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        self._showParameters()

    def onSceneEndImport(self, caller, event):
        self._hideParameters()
        self._showParameters()

    def onParametersModified(self, caller=None, event=None):
        self.panel.modified()

    def _showParameters(self):
        """Connect the widgets with the parameter node of the scene, which is made where there is none."""
        if self._parameters is not None:
            return
        self._parameters = self.wrapped(self.logic.getParameterNode())
        # Not by `connectGui`, which does not say how to undo it (Slicer issue 7547).
        names = {widget.property("SlicerParameterName"): widget for widget in vars(self.ui).values()}
        self._tag = self._parameters.connectParametersToGui({name: names[name] for name in names if name})
        self.addObserver(self._parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
        self.panel.setParameterNode(self._parameters)

    def _hideParameters(self):
        if self._parameters is None:
            return
        self._parameters.disconnectGui(self._tag)
        self.removeObserver(self._parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
        self._parameters = None


def findLibrary():
    """Let Python find the library where Slicer runs the module from its source folder, as developers do.

    An installed extension has the library beside the module, where Slicer looks anyway.
    """
    beside = Path(__file__).resolve().parents[3]
    if (beside / "InContextSegLib").is_dir() and str(beside) not in sys.path:
        sys.path.append(str(beside))
