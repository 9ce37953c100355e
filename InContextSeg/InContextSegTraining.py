"""The module for training on a site's own data: data sets in, a model out."""

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
)

from InContextSegSlicer.widgets.modulewidget import ModuleWidget


class InContextSegTraining(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("In-Context Segmentation Training")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["The InContextSeg developers"]
        self.parent.helpText = _(
            "Train a model for In-Context Segmentation on labelled images of your own, on any number of tasks at once. "
            "Nothing leaves this computer."
        )
        self.parent.acknowledgementText = _(
            "Built on SR-ICL (CVPR 2025) and UniverSeg (ICCV 2023), among others; the README names all of them."
        )


class InContextSegTrainingWidget(ModuleWidget):
    """How this module's panel is made; what becomes of it is in `ModuleWidget`."""

    def makeLogic(self):
        return InContextSegTrainingLogic()

    def makePanel(self):
        from InContextSegSlicer.training.panel import assembleTraining  # noqa: PLC0415 - after the library is found

        return assembleTraining(self.ui)

    def wrapped(self, node):
        from InContextSegSlicer.training.parameters import InContextSegTrainingParameterNode  # noqa: PLC0415 - as in makePanel

        return InContextSegTrainingParameterNode(node)

    def beat(self):
        self.panel.controller.tick()
        return self.panel.controller.working

    def onSceneEndClose(self, caller, event):
        super().onSceneEndClose(caller, event)
        self.panel.controller.sceneClosed()


class InContextSegTrainingLogic(ScriptedLoadableModuleLogic):
    """Owns the parameter node; what is done with it is in InContextSegSlicer."""


class InContextSegTrainingTest(ScriptedLoadableModuleTest):
    """Run inside Slicer by "Reload and Test": the panel opens and says what it needs."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        panel = slicer.modules.incontextsegtraining.widgetRepresentation().self().panel
        self.assertFalse(panel.ui.trainingStartButton.enabled)
        panel.onLook()
        self.assertIn("no data sets", panel.ui.trainingStatusLabel.text)
