"""The module of the panel: labelled slices in, segmentation out."""

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
)

from InContextSegSlicer.widgets.modulewidget import ModuleWidget


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


class InContextSegWidget(ModuleWidget):
    """How this module's panel is made; what becomes of it is in `ModuleWidget`."""

    def makeLogic(self):
        return InContextSegLogic()

    def makePanel(self):
        from InContextSegSlicer.panel.assembly import assemble  # noqa: PLC0415 - after the library is found

        return assemble(self.ui)

    def wrapped(self, node):
        from InContextSegSlicer.panel.parameters import InContextSegParameterNode  # noqa: PLC0415 - as in makePanel

        return InContextSegParameterNode(node)

    def beat(self):
        self.panel.tick()
        return self.panel.busy

    def exit(self):
        self.panel.leave()
        super().exit()

    def onSceneStartClose(self, caller, event):
        self.panel.controller.reset()
        super().onSceneStartClose(caller, event)


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
