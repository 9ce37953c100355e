"""Widgets of qMRML over the real scene: choose nodes and segments."""

import weakref

import slicer
from PySide6.QtCore import Property, Signal

from .ctkwidgets import remember
from .pythonqt import qt

CREATE = "@create"
SCENE_EVENTS = tuple(
    getattr(slicer.vtkMRMLScene, name)
    for name in ("NodeAddedEvent", "NodeRemovedEvent", "EndCloseEvent", "EndImportEvent", "EndRestoreEvent")
)
SEGMENT_EVENTS = tuple(
    getattr(slicer.vtkSegmentation, name) for name in ("SegmentAdded", "SegmentRemoved", "SegmentModified")
)


class Following:
    """Observers of one VTK object that end with the widget they belong to, as those in C++ do."""

    def __init__(self, widget, method):
        self._widget = weakref.ref(widget)
        self._method = method
        self._target, self._tags = None, []
        widget.destroyed.connect(self.end)

    def begin(self, target, events):
        """Observe this object and no other; None observes nothing."""
        self.end()
        if target is not None:
            self._target = target
            self._tags = [target.AddObserver(event, self._call) for event in events]

    def end(self):
        """Observe nothing."""
        for tag in self._tags:
            self._target.RemoveObserver(tag)
        self._target, self._tags = None, []

    def _call(self, _caller, _event):
        widget = self._widget()
        if widget is not None:
            getattr(widget, self._method)()


class qMRMLWidget(qt.QWidget):
    """A widget that knows a scene."""

    mrmlSceneChanged = Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None

    def setMRMLScene(self, scene):
        """Show the nodes of this scene."""
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self):
        """The scene, or None."""
        return self._scene


def _refreshing(name):
    def write(self, value):
        self.__dict__[f"_{name}"] = list(value) if isinstance(value, list | tuple) else value
        self._refresh()

    return write


NODE_OPTIONS = {
    "noneEnabled": False, "addEnabled": True, "removeEnabled": True, "renameEnabled": False, "editEnabled": False,
    "showChildNodeTypes": True, "showHidden": False, "selectNodeUponCreation": True, "baseName": "",
    "noneDisplay": "None", "nodeTypes": [], "hideChildNodeTypes": [], "interactionNodeSingletonTag": "",
}  # fmt: skip


class qMRMLNodeComboBox(qt.QWidget):
    """Choose one node of some classes."""

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeAddedByUserAction = Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None
        self._following = Following(self, "_onScene")
        self._attributes = {}
        self._last = ""
        self._box = qt.QComboBox()
        self._box.sizeAdjustPolicy = qt.QComboBox.AdjustToMinimumContentsLengthWithIcon
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._box.currentIndexChanged.connect(self._onIndex)
        self._box.activated.connect(lambda _index: self.nodeActivated.emit(self.currentNode()))

    for _name, _first in NODE_OPTIONS.items():
        locals()[_name] = Property(
            "QStringList" if isinstance(_first, list) else type(_first),
            lambda self, name=_name, first=_first: self.__dict__.get(f"_{name}", first),
            _refreshing(_name),
        )
        locals()[f"set{_name[0].upper()}{_name[1:]}"] = _refreshing(_name)

    def setMRMLScene(self, scene):
        """Offer the nodes of this scene, and follow it."""
        self._scene = scene
        self._following.begin(scene, SCENE_EVENTS)
        self._refresh()

    def mrmlScene(self):
        """The scene, or None."""
        return self._scene

    def _onScene(self):
        if not self._scene.IsBatchProcessing():
            self._refresh()

    def _accepts(self, node):
        if node.GetHideFromEditors() and not self.showHidden:
            return False
        if any(node.IsA(hidden) for hidden in self.hideChildNodeTypes):
            return False
        return any(self._is(node, kind) for kind in self.nodeTypes)

    def _is(self, node, kind):
        if not (node.GetClassName() == kind or (self.showChildNodeTypes and node.IsA(kind))):
            return False
        wanted = [(name, value) for (of, name), value in self._attributes.items() if of == kind]
        return all(
            node.GetAttribute(name) is not None if value is None else node.GetAttribute(name) == value
            for name, value in wanted
        )

    def _refresh(self):
        current = self.currentNodeID
        blocked = self._box.blockSignals(True)
        self._box.clear()
        if self.noneEnabled:
            self._box.addItem(self.noneDisplay, "")
        for node in self.nodes():
            self._box.addItem(node.GetName(), node.GetID())
        if self.addEnabled and self._scene is not None:
            for kind in self.nodeTypes:
                self._box.addItem(f"Create new {self._scene.GetTagByClassName(kind) or kind}", CREATE)
        place = self._box.findData(current) if current else -1
        if place < 0 and self._box.count and self._box.itemData(0) != CREATE:
            place = 0
        self._box.setCurrentIndex(place)
        self._box.blockSignals(blocked)
        self._notify()

    def _onIndex(self, index):
        if index >= 0 and self._box.itemData(index) == CREATE:
            node = self.addNode(self.nodeTypes[index - self._box.findData(CREATE)])
            self.nodeAddedByUserAction.emit(node)
        else:
            self._notify()

    def _notify(self):
        current = self.currentNodeID
        if current != self._last:
            self._last = current
            self.currentNodeIDChanged.emit(current)
            self.currentNodeChanged.emit(self.currentNode())

    def nodes(self):
        """All nodes that can be chosen, in the order of the scene."""
        count = self._scene.GetNumberOfNodes() if self._scene is not None else 0
        return [node for node in (self._scene.GetNthNode(number) for number in range(count)) if self._accepts(node)]

    def nodeCount(self):
        """How many nodes can be chosen."""
        return len(self.nodes())

    def addNode(self, kind=""):
        """Add a node to the scene, as "Create new …" does."""
        kind = kind or self.nodeTypes[0]
        node = self._scene.AddNewNodeByClass(kind, self.baseName)
        for (of, name), value in self._attributes.items():
            if of == kind:
                node.SetAttribute(name, value)
        self._refresh()
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAdded.emit(node)
        self.nodeAddedByUser.emit(node)
        return node

    def currentNode(self):
        """The chosen node, or None."""
        return self._scene.GetNodeByID(self.currentNodeID) if self._scene is not None and self.currentNodeID else None

    def setCurrentNode(self, node):
        """Choose a node, by itself or by its ID; None chooses none."""
        self.setCurrentNodeID(node if isinstance(node, str) else node.GetID() if node else "")

    def setCurrentNodeID(self, identifier):
        """Choose a node by its ID."""
        none = 0 if self.noneEnabled and self._box.count else -1
        self._box.setCurrentIndex(self._box.findData(identifier) if identifier else none)

    def _currentID(self):
        data = self._box.currentData
        return data if data and data != CREATE else ""

    currentNodeID = Property(str, _currentID, setCurrentNodeID)

    def addAttribute(self, kind, name, value=None):
        """Offer only nodes of that class with this attribute."""
        self._attributes[kind, name] = value
        self._refresh()

    def removeAttribute(self, kind, name):
        """Undo `addAttribute`."""
        self._attributes.pop((kind, name), None)
        self._refresh()


class _Segmented(qMRMLWidget):
    """A widget that follows one segmentation."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._node = None
        self._following = Following(self, "_refresh")

    def _follow(self, node):
        self._node = node
        self._following.begin(node, SEGMENT_EVENTS)
        self._refresh()

    def _segments(self):
        segmentation = self._node.GetSegmentation() if self._node is not None else None
        identifiers = segmentation.GetSegmentIDs() if segmentation is not None else ()
        return [(identifier, segmentation.GetSegment(identifier).GetName()) for identifier in identifiers]


SEGMENT_COLUMNS = ("visibilityColumnVisible", "colorColumnVisible", "opacityColumnVisible", "statusColumnVisible")


@remember(
    {name: True for name in (*SEGMENT_COLUMNS, "layerColumnVisible", "headerVisible", "filterBarVisible")}
    | {"readOnly": False, "jumpToSelectedSegmentEnabled": False}
)
class qMRMLSegmentsTableView(_Segmented):
    """The segments of a segmentation, some of them selected."""

    selectionChanged = Signal(object, object)
    segmentAboutToBeModified = Signal(str)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._table = qt.QListWidget()
        self._table.setSelectionMode(qt.QAbstractItemView.ExtendedSelection)
        layout = qt.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._table)
        self._table.selectionModel().selectionChanged.connect(lambda new, old: self.selectionChanged.emit(new, old))

    def setSegmentationNode(self, node):
        """Show the segments of this node."""
        self._follow(node)

    def segmentationNode(self):
        """The node, or None."""
        return self._node

    def _refresh(self):
        selected = self.selectedSegmentIDs()
        self._table.clear()
        for identifier, name in self._segments():
            item = qt.QListWidgetItem(name)
            item.setData(qt.Qt.UserRole, identifier)
            self._table.addItem(item)
        self.setSelectedSegmentIDs(selected)

    def _items(self):
        return [self._table.item(row) for row in range(self._table.count)]

    def selectedSegmentIDs(self):
        """The IDs of the selected segments, from top to bottom."""
        return [item.data(qt.Qt.UserRole) for item in self._items() if item.isSelected()]

    def setSelectedSegmentIDs(self, identifiers):
        """Select these and no others."""
        for item in self._items():
            item.setSelected(item.data(qt.Qt.UserRole) in identifiers)

    def clearSelection(self):
        """Select none."""
        self.setSelectedSegmentIDs([])

    def tableWidget(self):
        """The view inside."""
        return self._table

    def setSelectionMode(self, mode):
        """One segment, several, or none; a number, as in Slicer."""
        self._table.setSelectionMode(qt.QAbstractItemView.SelectionMode(int(mode)))

    selectionMode = Property(int, lambda self: self._table.selectionMode.value, setSelectionMode)
    segmentCount = Property(int, lambda self: self._table.count)


@remember({"noneEnabled": False})
class qMRMLSegmentSelectorWidget(_Segmented):
    """Choose a segmentation and one of its segments."""

    currentNodeChanged = Signal(object)
    currentSegmentChanged = Signal(str)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._nodes = qMRMLNodeComboBox()
        self._nodes.nodeTypes = ["vtkMRMLSegmentationNode"]
        self._nodes.addEnabled = False
        self._box = qt.QComboBox()
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._nodes)
        layout.addWidget(self._box)
        self._nodes.currentNodeChanged.connect(self._onNode)
        self._box.currentIndexChanged.connect(lambda _index: self.currentSegmentChanged.emit(self.currentSegmentID()))

    def setMRMLScene(self, scene):
        """Offer the segmentations of this scene."""
        super().setMRMLScene(scene)
        self._nodes.noneEnabled = self.noneEnabled
        self._nodes.setMRMLScene(scene)

    def _onNode(self, node):
        self._follow(node)
        self.currentNodeChanged.emit(node)

    def _refresh(self):
        current = self.currentSegmentID()
        blocked = self._box.blockSignals(True)
        self._box.clear()
        for identifier, name in self._segments():
            self._box.addItem(name, identifier)
        self._box.setCurrentIndex(max(self._box.findData(current), 0) if self._box.count else -1)
        self._box.blockSignals(blocked)
        if self.currentSegmentID() != current:
            self.currentSegmentChanged.emit(self.currentSegmentID())

    def currentNode(self):
        """The chosen segmentation, or None."""
        return self._nodes.currentNode()

    def currentNodeID(self):
        """Its ID, or an empty text."""
        return self._nodes.currentNodeID

    def currentSegmentID(self):
        """The ID of the chosen segment, or an empty text."""
        return self._box.currentData or ""

    def setCurrentNode(self, node):
        """Choose a segmentation."""
        self._nodes.setCurrentNode(node)

    def setCurrentNodeID(self, identifier):
        """Choose a segmentation by its ID."""
        self._nodes.setCurrentNodeID(identifier)

    def setCurrentSegmentID(self, identifier):
        """Choose a segment of the chosen segmentation."""
        self._box.setCurrentIndex(self._box.findData(identifier))

    def _setNodesVisible(self, visible):
        self._nodes.setVisible(visible)

    segmentationNodeSelectorVisible = Property(bool, lambda self: not self._nodes.isHidden(), _setNodesVisible)
    setSegmentationNodeSelectorVisible = _setNodesVisible


def install() -> None:
    """Put the widgets into `slicer`, where modules find them."""
    for cls in (qMRMLWidget, qMRMLNodeComboBox, qMRMLSegmentsTableView, qMRMLSegmentSelectorWidget):
        cls.__module__ = "slicer"
        setattr(slicer, cls.__name__, cls)
    slicer.qSlicerWidget = qMRMLWidget
