"""Files that are dropped on a widget."""

from collections.abc import Callable

import qt


class FileDrop(qt.QObject):
    """Lets a widget take files and folders from outside.

    Args:
        widget: that takes them; of a table it is the viewport.
        dropped: called with their paths.
    """

    def __init__(self, widget: qt.QWidget, dropped: Callable[[list[str]], None]):
        qt.QObject.__init__(self, widget)
        self._dropped = dropped
        widget.setAcceptDrops(True)
        widget.installEventFilter(self)

    def eventFilter(self, watched: qt.QObject, event: qt.QEvent) -> bool:
        """Called by Qt for each event of the widget; True keeps it from the widget itself."""
        if event.type() not in (qt.QEvent.DragEnter, qt.QEvent.DragMove, qt.QEvent.Drop):
            return False
        paths = [url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()]
        if not paths:
            return False
        event.acceptProposedAction()
        if event.type() == qt.QEvent.Drop:
            self._dropped(paths)
        return True
