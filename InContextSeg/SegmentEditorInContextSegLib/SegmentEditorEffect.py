"""The effect "In-Context": events of slice views in, calls of the correction out."""

import time
from pathlib import Path

import qSlicerSegmentationsEditorEffectsPythonQt as effects
import qt
import slicer
import vtk
from SegmentEditorEffects import AbstractScriptedSegmentEditorEffect
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from InContextSegLib.errors import InputError
from InContextSegSlicer.effect.correction import Correction
from InContextSegSlicer.effect.effectoptions import EffectOptions
from InContextSegSlicer.effect.prompting import BOX, POINT, Mark, Place, placeIn
from InContextSegSlicer.effect.promptview import RADIUS_PX, PromptView
from InContextSegSlicer.effect.propagationcontrol import PropagationControl
from InContextSegSlicer.worker.shared import SharedWorker

BUSY_MS, IDLE_MS = 5, 100
PATIENCE_S = 1.0  # after which somebody who waits is told for what
LEAST_DRAG_PX = 3
FIELDS = ("QLineEdit", "QAbstractSpinBox", "QTextEdit", "QPlainTextEdit")
PRESS, MOVE = vtk.vtkCommand.LeftButtonPressEvent, vtk.vtkCommand.MouseMoveEvent
RELEASE, KEY = vtk.vtkCommand.LeftButtonReleaseEvent, vtk.vtkCommand.KeyPressEvent


class Drag:
    """What the mouse does between press and release: a new mark, or one that is moved."""

    def __init__(self, widget, xy, positive, moved):
        self.widget, self.path, self.positive, self.moved = widget, [xy], positive, moved

    @property
    def far(self):
        """Whether it is more than the trembling of a hand."""
        (x, y), (u, v) = self.path[0], self.path[-1]
        return max(abs(x - u), abs(y - v)) > LEAST_DRAG_PX


class SegmentEditorEffect(AbstractScriptedSegmentEditorEffect, VTKObservationMixin):
    """Clicks, boxes and scribbles on slices; the work is done in `InContextSegSlicer`."""

    def __init__(self, scriptedEffect):
        scriptedEffect.name = "In-Context"  # not translated, as modules find effects by it
        scriptedEffect.title = _("In-Context")
        scriptedEffect.perSegment = True
        AbstractScriptedSegmentEditorEffect.__init__(self, scriptedEffect)
        VTKObservationMixin.__init__(self)
        self.worker = self.correction = self.options = self.carry = None
        self._views, self._widget, self._drag, self._target = {}, None, None, None
        self._timer, self._shortcuts, self._seen, self._since = None, [], (), 0.0

    def clone(self):
        cloned = effects.qSlicerSegmentEditorScriptedEffect(None)
        cloned.setPythonSource(Path(__file__).as_posix())
        return cloned

    def icon(self):
        path = Path(__file__).parent.parent / "Resources" / "Icons" / "InContextSeg.png"
        return qt.QIcon(str(path)) if path.is_file() else qt.QIcon()

    def helpText(self):
        return _(
            "<html>Segment a slice by clicks and examples.<ul><li><b>Click</b>: the structure is here; with Ctrl or "
            "Shift: it is not.<li><b>Drag</b> a mark to move it; Delete takes the nearest away.<li><b>Enter</b> "
            "applies what is shown, and the slice becomes an example; <b>Esc</b> takes all marks away.</ul></html>"
        )

    def setupOptionsFrame(self):
        self.options = EffectOptions()
        self.scriptedEffect.addOptionsWidget(self.options.widget)
        self.options.thresholdChanged = self._on(self.onThreshold)
        self.options.removed = self._on(self.onRemove)
        self.options.replace.connect("toggled(bool)", self._on(self.onReplace))
        self.options.save.connect("clicked()", self._on(self.onSave))
        for name, slot in (
            ("apply", self.onApply),
            ("clear", self.onClear),
            ("undo", self.onUndo),
            ("redo", self.onRedo),
        ):
            self.options.buttons[name].connect("clicked()", self._on(slot))

    def activate(self):
        if self.worker is None:
            self.worker = SharedWorker.join()
            self.correction = Correction(self.worker.client, self.worker.handover, slicer.mrmlScene)
            self.correction.changed = self.correction.propagation.changed = self.refresh
            self.carry = PropagationControl(self, self.options.propagation, self._on)
            self._timer = qt.QTimer()
            self._timer.connect("timeout()", self.onTimer)
            slicer.app.connect("aboutToQuit()", self.onAboutToQuit)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.NodeRemovedEvent, self.onNodeRemoved)
        for key, slot in (("Return", self.onApply), ("Enter", self.onApply), ("Esc", self.onClear)):
            shortcut = qt.QShortcut(qt.QKeySequence(key), self.scriptedEffect.optionsFrame().window())
            for signal in ("activated()", "activatedAmbiguously()"):  # the Segment Editor knows Esc as well
                shortcut.connect(signal, self._on(slot))
            self._shortcuts.append(shortcut)
        self._timer.start(IDLE_MS)
        self._since = time.monotonic()
        self.refresh()

    def deactivate(self):
        self.removeObservers()
        for shortcut in self._shortcuts:
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._shortcuts = []
        self._timer.stop()
        self._drag = self._widget = None
        self.correction.leave()
        self.carry.leave()
        for widget, view in self._views.items():
            for actor in view.actors:
                self.scriptedEffect.removeActor2D(widget, actor)
            self.scriptedEffect.scheduleRender(widget)
        self._views = {}

    def cleanup(self):
        """The effect goes: nothing may hold it, nor the views and the editor that it knows."""
        if self.worker is not None:
            slicer.app.disconnect("aboutToQuit()", self.onAboutToQuit)
            self.onAboutToQuit()
            self._timer.disconnect("timeout()", self.onTimer)

    def onAboutToQuit(self):
        if self.worker is not None:
            self.removeObservers()
            self._timer.stop()
            self.correction.reset()
            self.worker.leave()
            self.worker = None

    def onTimer(self):
        self._leaveKeys()
        self.correction.tick()
        if not self.correction.working:
            self._notice()
        if not self.correction.working or self.correction.propagation.working:  # which has words of its own
            self._since = time.monotonic()
        elif time.monotonic() - self._since > PATIENCE_S and not self.options.status.text:
            self.options.status.setText(self._awaited())
        interval = BUSY_MS if self.correction.restless else IDLE_MS
        if self._timer.interval != interval:
            self._timer.setInterval(interval)

    def onSceneStartClose(self, _caller, _event):
        self._drag = self._widget = self._target = None
        self.correction.reset()
        if self.worker.alone:  # else it is for the panel to say, which may be in the middle of a batch
            self.worker.handover.forgetAll()

    def onNodeRemoved(self, _caller, _event):
        self.correction.check()

    def sourceVolumeNodeChanged(self):
        self.updateGUIFromMRML()

    def updateGUIFromMRML(self):
        """Another segment, segmentation or volume may have been chosen."""
        target = self._chosen()
        if self.correction is None or self.options is None or target == self._target:
            return
        if self._target is not None and (target is None or target[:2] != self._target[:2]):
            self.correction.propagation.cancel()  # what it would write could not be taken back here
        self._target, self._drag = target, None
        self.options.polarity["positive"].setChecked(True)
        self._look()

    def setMRMLDefaults(self):
        pass

    def updateMRMLFromGUI(self):
        pass

    def processViewNodeEvents(self, _caller, _eventId, viewWidget):
        if self._widget is viewWidget and self._drag is None:
            self._look()
        self._draw(viewWidget)

    def processInteractionEvents(self, callerInteractor, eventId, viewWidget):
        if not self.scriptedEffect.viewNode(viewWidget).IsA("vtkMRMLSliceNode"):
            return False
        xy = tuple(callerInteractor.GetEventPosition())
        if eventId == PRESS and not callerInteractor.GetAltKey():
            return self._press(viewWidget, xy, callerInteractor.GetControlKey() or callerInteractor.GetShiftKey())
        if eventId == MOVE and self._drag is not None and self._drag.widget is viewWidget:
            self._drag.path.append(xy)
            self._draw(viewWidget)
            return True
        if eventId == RELEASE and self._drag is not None:
            self._release(viewWidget, xy)
            return True
        return eventId == KEY and self._key(callerInteractor.GetKeySym(), viewWidget, xy)

    def onApply(self):
        if self.correction.place is not None and self.scriptedEffect.confirmCurrentSegmentVisible():
            self.correction.apply(self.scriptedEffect.parameterSetNode(), self.scriptedEffect.saveStateForUndo)

    def onClear(self):
        self._drag = None
        self.correction.clear()

    def onUndo(self):
        self.correction.undo()

    def onRedo(self):
        self.correction.redo()

    def onReplace(self, checked):
        self.correction.replaceSlice = checked

    def onSave(self):
        folder = qt.QFileDialog.getExistingDirectory(None, _("A new folder for the examples"))
        if folder:
            self.correction.saveExamples(folder)

    def onThreshold(self, value):
        self.correction.setThreshold(value)

    def onRemove(self, keys):
        self.correction.context.examples.remove(keys)
        self.refresh()

    def refresh(self):
        """Show what is the case."""
        correction, options = self.correction, self.options
        session, nodes = correction.session, correction.nodes
        there = session is not None and nodes is not None
        rows = correction.context.rows(*nodes, correction.place) if there else ()
        options.showExamples(rows)
        options.remove.setEnabled(bool(rows))
        options.save.setEnabled(bool(rows))
        options.status.setText(correction.message)
        able = {"apply": correction.answer is not None, "clear": bool(correction.marks)}
        able |= {"undo": there and session.history.canUndo, "redo": there and session.history.canRedo}
        for name, button in options.buttons.items():
            button.setEnabled(able[name])
        options.offer(correction.context.choices["model"], correction.context.capability)
        self.carry.show(there)
        for widget in self.carry.views():
            self._view(widget)  # it says which of its slices were carried on, whether it was clicked on or not
        for widget in self._views:
            self._draw(widget)
        if self._timer.isActive():
            self.onTimerDue()

    def _awaited(self):
        """Why an answer takes its time."""
        if self.worker.client.state == "starting":
            return _("The worker is starting, which takes some seconds.")
        return _("An answer is awaited; what the worker does already, such as a batch of the module, comes first.")

    def _leaveKeys(self):
        """Enter and Esc belong to a field that somebody writes in, as the name of a segment."""
        field = qt.QApplication.focusWidget()
        writing = field is not None and any(field.inherits(name) for name in FIELDS)
        for shortcut in self._shortcuts:
            shortcut.setEnabled(not writing)

    def _notice(self):
        """What is changed elsewhere: the model in the panel, a mark of a segment by the editor's undo."""
        seen = (self.correction.context.choices["model"], self.correction.propagation.marked(self.segmentPlace()))
        if seen != self._seen:
            before, self._seen = self._seen, seen
            self.refresh()
            if before and before[0] != seen[0]:
                self.correction.anew()

    def segmentPlace(self):
        """The segment that is edited, on no slice; None where none is."""
        chosen = self._chosen()
        return Place(*chosen, "", -1) if chosen is not None else None

    def onTimerDue(self):
        """Work that has just been asked for does not wait for the next tick of a slow timer."""
        if self.correction.restless and self._timer.interval != BUSY_MS:
            self._timer.start(BUSY_MS)

    def _on(self, slot):
        """A slot that does nothing while the effect is not active."""
        return lambda *what: slot(*what) if self.worker is not None and self.scriptedEffect.active() else None

    def _chosen(self):
        """IDs of volume, segmentation and segment of the editor; None where one is missing."""
        node = self.scriptedEffect.parameterSetNode()
        if node is None or node.GetScene() is None:
            return None
        volume, segmentation = node.GetSourceVolumeNode(), node.GetSegmentationNode()
        segment = node.GetSelectedSegmentID()
        if volume is None or segmentation is None or not segment:
            return None
        return volume.GetID(), segmentation.GetID(), segment

    def _look(self, position=None):
        """Work on the slice that the view in use shows."""
        chosen = self._chosen()
        if chosen is None or self._widget is None:
            self.correction.see(None)
            return
        volume = slicer.mrmlScene.GetNodeByID(chosen[0])
        try:
            place = placeIn(self.scriptedEffect.viewNode(self._widget), volume, chosen[1:], position)
        except InputError as error:
            self.correction.see(None)
            self.correction.message = str(error)
            self.refresh()
            return
        self.correction.see(place)

    def _press(self, widget, xy, opposite):
        self._widget = widget
        self._view(widget)
        position = tuple(self.xyToRas(xy, widget))
        self._look(position)
        if self.correction.session is None:
            return True
        nearest = None
        if not opposite:
            reach = self.xyToRas((xy[0] + RADIUS_PX, xy[1]), widget)
            within = sum((a - b) ** 2 for a, b in zip(position, reach, strict=True)) ** 0.5
            nearest = self.correction.session.history.now.nearest(position, within)
        self._drag = Drag(widget, xy, self.options.positive != bool(opposite), nearest)
        return True

    def _release(self, widget, xy):
        drag, self._drag = self._drag, None
        drag.path.append(xy)
        if drag.widget is not widget or self.correction.session is None:
            return
        if drag.moved is not None and drag.far:
            self.correction.move(drag.moved, self._shift(drag))
        elif drag.moved is None:
            mark = self._mark(drag)
            if mark is not None:
                self.correction.add(mark)
        self.refresh()

    def _shift(self, drag):
        start, end = (self.xyToRas(xy, drag.widget) for xy in (drag.path[0], drag.path[-1]))
        return tuple(b - a for a, b in zip(start, end, strict=True))

    def _mark(self, drag):
        """The mark that a drag makes; None where it makes none."""
        tool = self.options.tool
        if tool is None or (tool == BOX and not drag.far):
            return None
        if tool == POINT or (not drag.far and self.options.tools[POINT].enabled):
            return Mark(POINT, (tuple(self.xyToRas(drag.path[0], drag.widget)),), drag.positive)
        path = (drag.path[0], drag.path[-1]) if tool == BOX else dict.fromkeys(drag.path)
        return Mark(tool, tuple(tuple(self.xyToRas(xy, drag.widget)) for xy in path), tool == BOX or drag.positive)

    def _key(self, symbol, widget, xy):
        if symbol in ("Return", "KP_Enter"):
            self.onApply()
        elif symbol == "Escape":
            self.onClear()
        elif symbol in ("Delete", "BackSpace"):
            self.correction.removeNearest(tuple(self.xyToRas(xy, widget)))
        else:
            return False
        return True

    def _view(self, widget):
        if widget not in self._views:
            self._views[widget] = PromptView()
            for actor in self._views[widget].actors:
                self.scriptedEffect.addActor2D(widget, actor)
        return self._views[widget]

    def _draw(self, widget):
        """The marks of the slice under correction, in views that show it; and whether what they show was carried on."""
        view, place = self._views.get(widget), self.correction.place
        if view is None:
            return
        volume = slicer.mrmlScene.GetNodeByID(place.volume) if place is not None else None
        node, marks = self.scriptedEffect.viewNode(widget), ()
        if volume is not None and _shows(node, volume, place):
            marks = list(self.correction.marks)
            if self._drag is not None and self._drag.widget is widget and self._drag.far:
                if self._drag.moved is not None and self._drag.moved < len(marks):
                    marks[self._drag.moved] = marks[self._drag.moved].moved(self._shift(self._drag))
                elif self._drag.moved is None:
                    draft = self._mark(self._drag)
                    marks += [draft] if draft is not None else []
        view.show(marks, node, volume, place)
        view.tell(self.carry.told(node))
        self.scriptedEffect.scheduleRender(widget)


def _shows(sliceNode, volume, place):
    try:
        return placeIn(sliceNode, volume, (place.segmentation, place.segment)).isLike(place)
    except InputError:
        return False
