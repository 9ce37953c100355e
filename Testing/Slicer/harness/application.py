"""`slicer.app` and what hangs on it: settings, layout, reading and writing files."""

import contextlib
import shutil
import tempfile
import types
import warnings
from pathlib import Path

import slicer
from PySide6.QtCore import Signal

from .pythonqt import qt

STORAGE = {
    "VolumeFile": ("vtkMRMLVolumeArchetypeStorageNode", "vtkMRMLScalarVolumeNode"),
    "SegmentationFile": ("vtkMRMLSegmentationStorageNode", "vtkMRMLSegmentationNode"),
    "MarkupsFile": ("vtkMRMLMarkupsJsonStorageNode", "vtkMRMLMarkupsFiducialNode"),
    "TransformFile": ("vtkMRMLTransformStorageNode", "vtkMRMLTransformNode"),
}
ORIENTATIONS = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}
LONG_SUFFIXES = (".seg.nrrd", ".mrk.json", ".nii.gz")
FORMATS = ("NRRD (.nrrd)", "NIfTI (.nii.gz)", "NIfTI (.nii)", "MetaImage (.mha)", "Segmentation (.seg.nrrd)")


class ScriptedModule:
    """What `parent` is in the constructor of a module; setting what Slicer does not know is an error."""

    __slots__ = (
        "acknowledgementText", "associatedNodeTypes", "categories", "contributors", "dependencies", "helpText",
        "hidden", "icon", "index", "instance", "logicObject", "moduleName", "name", "path", "title", "widgetObject",
    )  # fmt: skip

    def __init__(self, name, path="", logic=None):
        self.name = self.moduleName = self.title = name
        self.path = path
        self.logicObject, self.instance, self.widgetObject = logic, None, None
        self.hidden = False

    def logic(self):
        """The logic of a module written in C++."""
        return self.logicObject

    def widgetRepresentation(self):
        """The panel, an object whose `self()` is the Python one."""
        return types.SimpleNamespace(self=lambda: self.widgetObject)


class _ModuleManager(qt.QObject):
    moduleAboutToBeUnloaded = Signal(str)
    moduleLoaded = Signal(str)


class LayoutManager(qt.QObject):
    """Slice widgets by name, made when first asked for."""

    layoutChanged = Signal(int)
    threeDViewCount = 0

    def __init__(self):
        super().__init__()
        self._widgets = {}

    def sliceViewNames(self):
        """The views of the conventional layout."""
        return tuple(ORIENTATIONS)

    def sliceWidget(self, name):
        """The widget of a view, or None where the layout has none of that name."""
        if name not in self._widgets:
            if name not in ORIENTATIONS:
                return None
            from .views import SliceWidget

            self._widgets[name] = SliceWidget(name, ORIENTATIONS[name])
        return self._widgets[name]

    def add(self, name, widget):
        """A view made by a test."""
        self._widgets[name] = widget

    def mrmlSliceLogics(self):
        """vtkCollection of the slice logics there are."""
        return slicer.app.applicationLogic().GetSliceLogics()

    def resetSliceViews(self):
        """Fit every view to its volume."""
        for widget in self._widgets.values():
            widget.fitSliceToBackground()

    def clear(self):
        """Give up all views."""
        while self._widgets:
            self._widgets.popitem()[1].release()


class IOManager:
    """Reads and writes nodes and scenes through MRML's own storage nodes."""

    def fileType(self, path):
        """Which reader a file needs."""
        name = str(path).lower()
        if name.endswith((".mrb", ".mrml")):
            return "SceneFile"
        if name.endswith((".seg.nrrd", ".seg.nhdr")):
            return "SegmentationFile"
        if name.endswith(".mrk.json"):
            return "MarkupsFile"
        return "TransformFile" if name.endswith((".h5", ".tfm")) else "VolumeFile"

    def loadNodes(self, kind, properties, loaded, _messages=None):
        """Read a file into the scene; False where that fails."""
        path = str(properties["fileName"])
        if kind == "SceneFile":
            return read_scene(path, clear=bool(properties.get("clear", False)))
        storage_class, node_class = STORAGE[kind]
        if properties.get("labelmap"):
            node_class = "vtkMRMLLabelMapVolumeNode"
        name = properties.get("name") or Path(path).name.split(".")[0]
        node = slicer.mrmlScene.AddNewNodeByClass(node_class, name)
        storage = slicer.mrmlScene.AddNewNodeByClass(storage_class)
        storage.SetFileName(path)
        if not storage.ReadData(node):
            slicer.mrmlScene.RemoveNode(node)
            slicer.mrmlScene.RemoveNode(storage)
            return False
        node.SetAndObserveStorageNodeID(storage.GetID())
        node.CreateDefaultDisplayNodes()
        loaded.AddItem(node)
        return True

    def fileWriterFileType(self, node, _path=""):
        """Which writer a node needs; here its class."""
        return node.GetClassName()

    def saveNodes(self, kind, properties, _messages=None):
        """Write a node or the scene; False where that fails."""
        path = str(properties["fileName"])
        if kind == "SceneFile":
            return write_scene(path)
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode(path)
        storage = node.GetStorageNode()
        storage.SetFileName(path)
        if "useCompression" in properties:
            storage.SetUseCompression(bool(properties["useCompression"]))
        return bool(storage.WriteData(node))

    def extractKnownExtension(self, path, _node):
        """`.nii.gz` rather than `.gz`."""
        name = str(path).lower()
        return next((suffix for suffix in LONG_SUFFIXES if name.endswith(suffix)), Path(name).suffix)

    def fileWriterExtensions(self, _node):
        """Formats that can be written."""
        return list(FORMATS)

    def exportNodes(self, identifiers, paths, _properties, _harden=False, _messages=None):
        """Write nodes without changing where they are stored."""
        for identifier, path in zip(identifiers, paths, strict=True):
            node = slicer.mrmlScene.GetNodeByID(identifier)
            storage = node.CreateDefaultStorageNode()
            storage.UnRegister(None)
            storage.SetScene(slicer.mrmlScene)
            storage.SetFileName(str(path))
            if not storage.WriteData(node):
                return False
        return True


def write_scene(path: str) -> bool:
    """Write the scene as a bundle (.mrb) or without its data (.mrml)."""
    scene = slicer.mrmlScene
    if not path.endswith(".mrb"):
        scene.SetURL(path)
        return bool(scene.Commit(path))
    for number in range(scene.GetNumberOfNodes()):
        node = scene.GetNthNode(number)
        if node.IsA("vtkMRMLStorableNode") and node.GetSaveWithScene() and node.GetStorageNode() is None:
            node.AddDefaultStorageNode()
    return bool(scene.WriteToMRB(path))


def read_scene(path: str, clear: bool) -> bool:
    """Read a scene or a bundle into the scene, or in its place."""
    scene = slicer.mrmlScene
    if path.endswith(".mrb"):
        return bool(scene.ReadFromMRB(path, clear))
    scene.SetURL(path)
    return bool(scene.Connect() if clear else scene.Import())


class Application(qt.QObject):
    """The part of qSlicerApplication that modules use."""

    startupCompleted = Signal()
    aboutToQuit = Signal()

    def __init__(self, application, logic):
        super().__init__()
        self._application = application
        self._logic = logic
        self._modules = _ModuleManager()
        self._io = IOManager()
        self._layout = LayoutManager()
        self.testing = False
        self.restarts = 0
        self.applicationName = "Slicer"
        self.applicationVersion = "5.12.4"
        self.majorVersion, self.minorVersion = 5, 12
        self.documentationBaseUrl = ""
        self.temporaryPath = self.slicerHome = tempfile.mkdtemp(prefix="slicer-harness-")
        settings_in(self.temporaryPath)

    def __getattr__(self, name):
        return getattr(self._application, name)  # setOverrideCursor, clipboard, style, …

    def mrmlScene(self):
        """The scene."""
        return slicer.mrmlScene

    def applicationLogic(self):
        """vtkSlicerApplicationLogic."""
        return self._logic

    def moduleManager(self):
        """Signals of modules that come and go."""
        return self._modules

    def coreIOManager(self):
        """Reads and writes files."""
        return self._io

    ioManager = coreIOManager

    def layoutManager(self):
        """The slice views."""
        return self._layout

    def settings(self):
        """The settings, in a temporary file."""
        return qt.QSettings()

    userSettings = revisionUserSettings = settings

    def translate(self, _context, text):
        """No language but the source's."""
        return text

    def testingEnabled(self):
        """False, so that code takes the way of a user, unless the test sets `slicer.app.testing`."""
        return self.testing

    def commandOptions(self):
        """Started as a user does."""
        return types.SimpleNamespace(testingEnabled=self.testing, noMainWindow=False)

    def processEvents(self, *_flags):
        """Let Qt work once."""
        self._application.processEvents()

    def thread(self):
        """The main thread."""
        return self._application.thread()

    def restart(self):
        """Counted, not done."""
        self.restarts += 1

    def moduleDocumentationUrl(self, name):
        """An address that shows what was asked for."""
        return f"https://example.org/{name}"

    def pauseRender(self):
        """Views render when asked here, never by themselves."""

    resumeRender = pauseRender

    def close(self):
        """Remove the temporary files."""
        shutil.rmtree(self.temporaryPath, ignore_errors=True)

    def finish_startup(self):
        """Tell the modules that were loaded since the last time that Slicer has started."""
        self.startupCompleted.emit()
        with warnings.catch_warnings(), contextlib.suppress(RuntimeError):  # nobody was connected
            warnings.simplefilter("ignore")
            self.startupCompleted.disconnect()


def settings_in(folder: str) -> None:
    """Have `qt.QSettings()` read and write a file there."""
    application = qt.QApplication.instance()
    application.setOrganizationName("SlicerHarness")
    application.setApplicationName("Slicer")
    settings = qt.QSettings
    settings.setDefaultFormat(settings.IniFormat)
    settings.setPath(settings.IniFormat, settings.UserScope, folder)
