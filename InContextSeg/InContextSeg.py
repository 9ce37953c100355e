"""The module of the panel: labelled slices in, segmentation out."""

import sys
from pathlib import Path

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

BUSY_MS, IDLE_MS = 15, 100


class InContextSeg(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("In-Context Segmentation")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["The InContextSeg developers"]
        self.parent.helpText = _(
            "Segment a volume from a few labelled slices or labelled volumes, without training. "
            "Nothing leaves this computer."
        )
        self.parent.acknowledgementText = _(
            "Built on UniverSeg (Butoi et al., ICCV 2023), among others; the README names all of them."
        )


class InContextSegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Builds the panel and tells it about the scene."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.panel = None
        self._parameters = None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        findLibrary()
        from InContextSegSlicer.panel.assembly import assemble  # noqa: PLC0415 - after the library is found

        widget = slicer.util.loadUI(self.resourcePath("UI/InContextSeg.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = InContextSegLogic()
        self.panel = assemble(self.ui)
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
        self.panel.leave()
        self._hideParameters()

    def onTimer(self):
        if self._parameters is not None and self._parameters.parameterNode.GetScene() is None:
            self._hideParameters()  # somebody has deleted the node
            self._showParameters()
        self.panel.tick()
        interval = BUSY_MS if self.panel.busy else IDLE_MS
        if self._timer.interval != interval:
            self._timer.setInterval(interval)

    def onSceneStartClose(self, caller, event):
        self.panel.controller.reset()
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
        from InContextSegSlicer.panel.parameters import InContextSegParameterNode  # noqa: PLC0415 - as in setup

        self._parameters = InContextSegParameterNode(self.logic.getParameterNode())
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


class InContextSegLogic(ScriptedLoadableModuleLogic):
    """Owns the parameter node; what is done with it is in InContextSegSlicer."""


class InContextSegTest(ScriptedLoadableModuleTest):
    """Run inside Slicer by "Reload and Test": what the tests outside cannot prove."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        from InContextSegSlicer.selftest import run  # noqa: PLC0415 - only where it is wanted

        run(self)


def findLibrary():
    """Let Python find the library where Slicer runs the module from its source folder, as developers do.

    An installed extension has the library beside the module, where Slicer looks anyway.
    """
    beside = Path(__file__).resolve().parent.parent
    if (beside / "InContextSegLib").is_dir() and str(beside) not in sys.path:
        sys.path.append(str(beside))
