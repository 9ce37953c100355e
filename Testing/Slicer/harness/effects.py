"""A segment editor over Slicer's own logic, and the host of effects written in Python."""

import importlib.util
import sys
import types
from pathlib import Path

import slicer
import vtk

from .pythonqt import qt
from .segmenteditorhost import Coordinates, Parameters

EVENTS = (
    "LeftButtonPressEvent", "LeftButtonReleaseEvent", "LeftButtonDoubleClickEvent", "RightButtonPressEvent",
    "RightButtonReleaseEvent", "MouseMoveEvent", "MouseWheelForwardEvent", "MouseWheelBackwardEvent", "KeyPressEvent",
    "KeyReleaseEvent", "EnterEvent", "LeaveEvent",
)  # fmt: skip
ABOVE_THE_VIEW = 10.0


class AbstractScriptedSegmentEditorEffect:
    """What every effect written in Python derives from."""

    def __init__(self, scriptedEffect):
        self.scriptedEffect = scriptedEffect

    def register(self):
        """Let segment editors offer the effect."""
        slicer.qSlicerSegmentEditorEffectFactory.instance().registerEffect(self.scriptedEffect)

    def cleanup(self):
        """Called before the effect goes."""

    def xyToRas(self, xy, viewWidget):
        """Position in the world of a pixel."""
        found = self.scriptedEffect.xyToRas(qt.QPoint(xy[0], xy[1]), viewWidget)
        return [found.x(), found.y(), found.z()]

    def rasToXy(self, ras, viewWidget):
        """The pixel that shows a position of the world."""
        found = self.scriptedEffect.rasToXy(qt.QVector3D(ras[0], ras[1], ras[2]), viewWidget)
        return [found.x(), found.y()]


class EffectFactory:
    """Knows the effects that were registered."""

    effects: list = []  # noqa: RUF012 - there is one factory

    @classmethod
    def instance(cls):
        """The one there is."""
        return cls

    @classmethod
    def registerEffect(cls, effect):
        """Offer an effect; one of the same name stays."""
        if all(known.name != effect.name for known in cls.effects):
            cls.effects.append(effect)
        return True


class qSlicerSegmentEditorScriptedEffect(qt.QObject):
    """The C++ side of an effect: calls the Python side, and does for it what it asks for."""

    ModificationModeSet, ModificationModeAdd, ModificationModeRemove, ModificationModeRemoveAll = range(4)
    NotConfirmed, ConfirmedWithoutDialog, ConfirmedWithDialog = range(3)
    WRITABLE = ("title", "perSegment", "requireSegments", "showEffectCursorInSliceView", "showEffectCursorInThreeDView")
    WRITABLE += ("captureMouseMoveEventsInSliceView", "captureMouseMoveEventsInThreeDView")

    def __init__(self, parent=None):
        super().__init__()
        self.name = "UnnamedScriptedEffect"
        for name in self.WRITABLE:
            setattr(self, name, "" if name == "title" else name in ("perSegment", "requireSegments"))
        self.pythonSource, self._python, self._editor, self._frame = "", None, None, None
        self._active = False

    def setPythonSource(self, path):
        """Load the class as Slicer does: into a module called like the folder, whatever else has that name."""
        path = Path(path)
        name, cls = path.parent.name, path.stem if path.stem.endswith("Effect") else f"{path.stem}Effect"
        if not hasattr(sys.modules.get(name), cls):
            spec = importlib.util.spec_from_file_location(name, path)
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        self._python = getattr(sys.modules[name], cls)(self)
        self.pythonSource = str(path)
        return True

    def self(self):
        """The Python side."""
        return self._python

    def call(self, method, *arguments):
        """Call a method of the Python side, as far as it has it."""
        function = getattr(self._python, method, None)
        return function(*arguments) if function is not None else None

    def host(self, editor):
        """Belong to a segment editor."""
        self._editor = editor

    def active(self):
        """Whether it has the mouse."""
        return self._active

    def activate(self):
        """Called by the editor."""
        self._active = True
        self.optionsFrame().setVisible(True)
        self.call("activate")

    def deactivate(self):
        """Called by the editor."""
        self._active = False
        self.optionsFrame().setVisible(False)
        self.call("deactivate")

    def optionsFrame(self):
        """The frame below the buttons of the effects."""
        if self._frame is None:
            self._frame = qt.QFrame()
            self._frame.setLayout(qt.QFormLayout())
        return self._frame

    def optionsLayout(self):
        """Its layout."""
        return self.optionsFrame().layout()

    def addOptionsWidget(self, widget):
        """A row of it."""
        self.optionsLayout().addRow(widget)

    def addLabeledOptionsWidget(self, text, widget):
        """A row of it, with a text in front."""
        label = qt.QLabel(text)
        self.optionsLayout().addRow(label, widget)
        return label

    def parameterSetNode(self):
        """vtkMRMLSegmentEditorNode."""
        return self._editor.mrmlSegmentEditorNode() if self._editor is not None else None

    def scene(self):
        """The scene."""
        node = self.parameterSetNode()
        return node.GetScene() if node is not None else None

    def selectEffect(self, name):
        """Another effect, or none."""
        self._editor.setActiveEffectByName(name)

    def saveStateForUndo(self):
        """One more state to go back to."""
        self._editor.saveStateForUndo()

    def confirmCurrentSegmentVisible(self):
        """Hidden segments may be edited."""
        return self.ConfirmedWithoutDialog

    def defaultModifierLabelmap(self):
        """vtkOrientedImageData, empty, of the reference geometry."""
        self._editor.logic.ResetModifierLabelmapToDefault()
        return self._editor.logic.GetModifierLabelmap()

    def modifySelectedSegmentByLabelmap(self, labelmap, mode):
        """Change the selected segment by the rules of masking."""
        node, logic = self.parameterSetNode(), self._editor.logic
        modes = (logic.ModificationModeSet, logic.ModificationModeAdd, logic.ModificationModeRemove)
        logic.UpdateMaskLabelmap()
        segmentation, segment = node.GetSegmentationNode(), node.GetSelectedSegmentID()
        logic.ModifySegmentByLabelmap(segmentation, segment, labelmap, modes[mode], True, False)

    @staticmethod
    def cursorOff(viewWidget):
        """There is no cursor here."""

    cursorOn = cursorOff


for _source in (Parameters, Coordinates):
    for _name, _function in vars(_source).items():
        if not _name.startswith("__"):
            setattr(qSlicerSegmentEditorScriptedEffect, _name, _function)


class qMRMLSegmentEditorWidget(qt.QWidget):
    """The part of the segment editor that effects and tests use."""

    editors: list = []  # noqa: RUF012 - all there are

    def __init__(self, parent=None):
        super().__init__(parent)
        self.editors.append(self)
        self.logic = slicer.vtkSlicerSegmentEditorLogic()
        self._node, self._active, self._views, self._tags = None, None, (), []
        self._nodeTag, self._ready = None, set()
        self.setLayout(qt.QVBoxLayout())

    def setMRMLScene(self, scene):
        """The scene it edits in."""
        self.logic.SetMRMLScene(scene)

    def setMRMLSegmentEditorNode(self, node):
        """Where its choices are kept."""
        if self._node is not None:
            self._node.RemoveObserver(self._nodeTag)
        self._node = node
        self.logic.SetSegmentEditorNode(node)
        if node is not None:
            self._nodeTag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._onNodeModified)
        else:
            self.setActiveEffectByName("")

    def mrmlSegmentEditorNode(self):
        """vtkMRMLSegmentEditorNode."""
        return self._node

    def setSegmentationNode(self, node):
        """What is edited."""
        self.logic.SetSegmentationNode(node)

    def setSourceVolumeNode(self, node):
        """The volume it is drawn on."""
        self.logic.SetSourceVolumeNode(node)
        if self._active is not None:
            self._active.call("sourceVolumeNodeChanged")

    def setCurrentSegmentID(self, identifier):
        """The segment that is edited."""
        self.logic.SetCurrentSegmentID(identifier)

    def setViews(self, widgets):
        """The slice widgets whose events reach the effect."""
        self._views = tuple(widgets)

    def saveStateForUndo(self):
        """One more state to go back to."""
        self.logic.SaveStateForUndo()

    def undo(self):
        """Go back."""
        self.logic.Undo()

    def redo(self):
        """Go forth."""
        self.logic.Redo()

    def activeEffect(self):
        """The effect that has the mouse, or None."""
        return self._active

    def effectByName(self, name):
        """The effect of that name, or None."""
        return next((effect for effect in EffectFactory.effects if effect.name == name), None)

    def setActiveEffectByName(self, name):
        """Give another effect the mouse, or none."""
        if self._active is not None:
            effect, self._active = self._active, None
            self._removeObservers()
            effect.deactivate()
        effect = self.effectByName(name)
        if effect is None:
            return
        effect.host(self)
        if effect not in self._ready:
            self._ready.add(effect)
            effect.call("setupOptionsFrame")
            self.layout().addWidget(effect.optionsFrame())
        self._active = effect
        effect.call("setMRMLDefaults")
        effect.activate()
        effect.call("updateGUIFromMRML")
        self._addObservers()

    def _onNodeModified(self, _caller, _event):
        if self._active is not None:
            self._active.call("updateGUIFromMRML")

    def _addObservers(self):
        for widget in self._views:
            for event in EVENTS:
                self._observe(widget, widget.interactor(), event, self._onInteraction)
            self._observe(widget, widget.mrmlSliceNode(), "ModifiedEvent", self._onViewNode)

    def _observe(self, widget, target, event, function):
        number = vtk.vtkCommand.GetEventIdFromString(event)
        place = len(self._tags)
        tag = target.AddObserver(event, lambda caller, _e: function(place, caller, number, widget), ABOVE_THE_VIEW)
        self._tags.append((target, tag))

    def _onInteraction(self, place, caller, number, widget):
        if self._active is None:
            return
        handled = self._active.call("processInteractionEvents", caller, number, widget)
        if not isinstance(handled, bool):
            raise TypeError(f"processInteractionEvents is expected to return a boolean, not {handled!r}.")
        if handled:
            target, tag = self._tags[place]
            target.GetCommand(tag).SetAbortFlag(1)

    def _onViewNode(self, _place, caller, number, widget):
        if self._active is not None:
            self._active.call("processViewNodeEvents", caller, number, widget)

    def _removeObservers(self):
        for target, tag in self._tags:
            target.RemoveObserver(tag)
        self._tags = []


def forget() -> None:
    """Close every segment editor, and let the effects go."""
    while qMRMLSegmentEditorWidget.editors:
        editor = qMRMLSegmentEditorWidget.editors.pop()
        editor.setMRMLSegmentEditorNode(None)
        editor.hide()
        editor.deleteLater()
    while EffectFactory.effects:
        EffectFactory.effects.pop().call("cleanup")


def install() -> None:
    """Put the stand-ins where effects and the modules that register them find them."""
    effects = types.ModuleType("qSlicerSegmentationsEditorEffectsPythonQt")
    effects.qSlicerSegmentEditorScriptedEffect = qSlicerSegmentEditorScriptedEffect
    sys.modules[effects.__name__] = effects
    base = types.ModuleType("SegmentEditorEffects")
    base.AbstractScriptedSegmentEditorEffect = AbstractScriptedSegmentEditorEffect
    sys.modules[base.__name__] = base
    for cls in (qSlicerSegmentEditorScriptedEffect, qMRMLSegmentEditorWidget):
        cls.__module__ = "slicer"
        setattr(slicer, cls.__name__, cls)
    slicer.qSlicerSegmentEditorAbstractEffect = qSlicerSegmentEditorScriptedEffect
    slicer.qSlicerSegmentEditorEffectFactory = EffectFactory
