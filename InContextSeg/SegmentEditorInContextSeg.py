"""The hidden module that gives the Segment Editor its effect."""

from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModule

from InContextSegSlicer.widgets.modulewidget import findLibrary


class SegmentEditorInContextSeg(ScriptedLoadableModule):
    """Registers the effect once Slicer has started."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("In-Context Segmentation in the Segment Editor")
        self.parent.categories = ["Segmentation"]
        self.parent.dependencies = ["Segmentations"]
        self.parent.contributors = ["The InContextSeg developers"]
        self.parent.hidden = True
        self.parent.helpText = _("Adds the effect 'In-Context' to the Segment Editor.")
        self.parent.acknowledgementText = _("See In-Context Segmentation.")
        slicer.app.connect("startupCompleted()", self.registerEffect)

    def registerEffect(self):
        import qSlicerSegmentationsEditorEffectsPythonQt as effects  # noqa: PLC0415 - not there before

        findLibrary()
        # In a folder of its own: Slicer loads it as a module of the folder's name, which a package would not outlive.
        source = Path(__file__).resolve().parent / "SegmentEditorInContextSegLib" / "SegmentEditorEffect.py"
        effect = effects.qSlicerSegmentEditorScriptedEffect(None)
        effect.setPythonSource(source.as_posix())
        effect.self().register()
