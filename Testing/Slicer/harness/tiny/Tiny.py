"""A module for the tests of the harness, as small as modules can be."""

from typing import Annotated

import slicer
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class Tiny(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Tiny")
        parent.categories = [_("Segmentation")]
        slicer.app.connect("startupCompleted()", self.onStarted)

    def onStarted(self):
        self.started = True


@parameterNodeWrapper
class TinyParameters:
    volume: slicer.vtkMRMLScalarVolumeNode
    segmentation: slicer.vtkMRMLSegmentationNode | None
    threshold: Annotated[float, WithinRange(0, 100)] = 12.5
    count: int = 3
    name: str = "liver"
    quick: bool = True


class TinyWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.log = []

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/Tiny.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = TinyLogic()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneClosed)
        self.ui.applyButton.connect("clicked(bool)", self.onApply)

    def cleanup(self):
        self.removeObservers()
        self.log.append("cleanup")

    def enter(self):
        self.parameters = self.logic.getParameterNode()
        self.parameters.connectGui(self.ui)

    def exit(self):
        self.log.append("exit")

    def onSceneClosed(self, caller, event):
        self.log.append("closed")

    def onApply(self):
        self.log.append("apply")
        if self.ui.nameEdit.text == "wrong":
            raise ValueError("no such name")


class TinyLogic(ScriptedLoadableModuleLogic):
    def getParameterNode(self):
        return TinyParameters(super().getParameterNode())


class TinyTest(ScriptedLoadableModuleTest):
    def runTest(self):
        self.delayDisplay("tested")
