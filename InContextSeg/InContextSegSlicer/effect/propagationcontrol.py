"""What a person does to carry a segment on, and to accept or discard what came of it: options in, propagation out."""

from collections.abc import Callable

import slicer
from slicer.i18n import tr as _

from InContextSegSlicer.effect.prompting import Place, sliceIn
from InContextSegSlicer.effect.propagation import Wish
from InContextSegSlicer.effect.propagationoptions import PropagationOptions
from InContextSegSlicer.scene import bridge
from InContextSegSlicer.scene.sliceviews import SliceViews


class PropagationControl:
    """Connects the widgets with the propagation of an effect.

    Args:
        effect: with `correction`, `scriptedEffect` and `segmentPlace`.
        whileActive: makes of a slot one that does nothing while the effect is not active.
    """

    def __init__(self, effect, options: PropagationOptions, whileActive: Callable[[Callable], Callable]):
        self._effect, self._options = effect, options
        self._correction, self._propagation = effect.correction, effect.correction.propagation
        self._slices = SliceViews(slicer.mrmlScene)
        options.chosen, options.selectionChanged = whileActive(self.onChosen), whileActive(effect.refresh)
        options.start.connect("clicked()", whileActive(self.onStart))
        options.uncertainty.connect("toggled(bool)", whileActive(self.onUncertainty))
        for name, slot in (("accept", self.onAccept), ("acceptAll", self.onAcceptAll), ("discard", self.onDiscard)):
            options.buttons[name].connect("clicked()", whileActive(slot))

    def onStart(self) -> None:
        """Carry the segment on, or stop doing so."""
        place = self._correction.place
        if self._propagation.working:
            self._propagation.cancel()
        elif place is not None and self._effect.scriptedEffect.confirmCurrentSegmentVisible():
            self._propagation.start(self._wish(place))

    def onChosen(self, index: int) -> None:
        place = self._effect.segmentPlace()
        if place is not None:
            axis = self._propagation.marked(place).axis
            self._slices.jump(slicer.mrmlScene.GetNodeByID(place.volume), axis, index)

    def onAccept(self) -> None:
        self._accept(self._chosenSlices())

    def onAcceptAll(self) -> None:
        self._accept(self._propagation.marked(self._effect.segmentPlace()).confidence)

    def onDiscard(self) -> None:
        place = self._effect.segmentPlace()
        if place is not None:
            self._propagation.discard(self._wish(place), self._chosenSlices())

    def onUncertainty(self, checked: bool) -> None:
        place = self._effect.segmentPlace() if checked else None
        volume = slicer.mrmlScene.GetNodeByID(place.volume) if place is not None else None
        self._slices.showOverlay(bridge.uncertaintyOf(slicer.mrmlScene, volume))

    def leave(self) -> None:
        """The effect is left: the views are as they were before."""
        self._options.uncertainty.setChecked(False)
        self._slices.showOverlay(None)

    def show(self, there: bool) -> None:
        """Show what was carried on, and how far a propagation is.

        Args:
            there: whether a slice is under correction.
        """
        propagation, place, learns = self._propagation, self._correction.place, self._correction.context.learns
        marked = propagation.marked(self._effect.segmentPlace())
        displayed = place.index if there and propagation.waits(place) else None
        status = propagation.message
        if propagation.working:
            done, total, words = propagation.progress
            status = _("{words} ({done} of {total})").format(words=words, done=done, total=total) if total else words
        self._options.show(marked, displayed, status, propagation.working, there and learns)
        self._options.start.setToolTip("" if learns else self._effect.options.limits.text)
        if self._options.uncertainty.checked:
            self.onUncertainty(True)

    def views(self) -> list:
        """The slice widgets, where there is something to tell of a slice."""
        if not self._propagation.marked(self._effect.segmentPlace()).confidence:
            return []
        layout = slicer.app.layoutManager()
        return [layout.sliceWidget(name) for name in layout.sliceViewNames()]

    def told(self, sliceNode: slicer.vtkMRMLSliceNode) -> str:
        """What a view says of the slice it shows, where that was carried on and nobody has accepted it."""
        place = self._effect.segmentPlace()
        marked = self._propagation.marked(place)
        if marked.confidence:
            axis, index = sliceIn(sliceNode, slicer.mrmlScene.GetNodeByID(place.volume)) or ("", -1)
            if axis == marked.axis and index in marked.confidence:
                return _("Propagated, {sure:.0f} % sure; not accepted").format(sure=100 * marked.confidence[index])
        return ""

    def _chosenSlices(self) -> list[int]:
        """Those that are chosen in the list, or else the displayed one."""
        place = self._correction.place
        shown = [place.index] if place is not None and self._propagation.waits(place) else []
        return self._options.selected or shown

    def _accept(self, indices) -> None:
        place = self._effect.segmentPlace()
        if place is not None:
            self._propagation.accept(place, indices)
            self._correction.look()

    def _wish(self, place: Place) -> Wish:
        reach = self._options.reach
        effect = self._effect.scriptedEffect
        node, save = effect.parameterSetNode(), effect.saveStateForUndo
        return Wish(place, reach.itemData(reach.currentIndex) or None, self._correction.threshold, node, save)
