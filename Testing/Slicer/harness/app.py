"""Start the harness, load a module, open its panel, let time pass, take pictures."""

import gc
import importlib.util
import os
import sys
import tempfile
import time
import types
from pathlib import Path

import slicer
import slicer.util
import vtk

from . import answers as dialogs
from . import ctkwidgets, effects
from .pythonqt import qt

ctkwidgets.install()
dialogs.replace_dialogs(qt)
answers = dialogs.answers

HERE = Path(__file__).parent
LOGICS = {
    "Colors": "vtkMRMLColorLogic",  # the first: the others want its tables
    "Units": "vtkSlicerUnitsLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
    "Plots": "vtkSlicerPlotsLogic",
}
_panels = []


def use_python_of_slicer(source: str | None) -> None:
    """Find `slicer.i18n` and the like: Slicer's own files in a checkout, else the stand-ins beside this file.

    `slicer.packaging` always is the stand-in, because the original installs what it is asked for.
    """
    slicer.__path__.append(str(HERE / "slicer_python"))
    importlib.import_module("slicer.packaging")
    if source:
        originals = Path(source) / "Base" / "Python" / "slicer"
        if not (originals / "i18n.py").is_file():
            raise FileNotFoundError(f"SLICER_SOURCE_DIR is {source}, which has no Base/Python/slicer; name a checkout.")
        slicer.__path__.insert(0, str(originals))
        # The originals name widgets that no panel of ours has.
        views = sys.modules["qSlicerSubjectHierarchyModuleWidgetsPythonQt"] = types.ModuleType("standin")
        views.qMRMLSubjectHierarchyTreeView = type("qMRMLSubjectHierarchyTreeView", (), {})
        ctkwidgets.ctk.__getattr__ = lambda name: type(qt.QWidget)(name, (qt.QWidget,), {})


def start() -> None:
    """Make `slicer.app`, `slicer.modules` and `slicer.mrmlScene`; a second call changes nothing."""
    if getattr(slicer, "app", None) is not None:
        return
    application = qt.QApplication.instance() or qt.QApplication(["Slicer"])
    from . import application as parts
    from . import qmrml

    qmrml.install()
    effects.install()
    use_python_of_slicer(os.environ.get("SLICER_SOURCE_DIR"))
    dialogs.replace_displays(slicer.util)
    scene = slicer.mrmlScene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerApplicationLogic()
    slicer.app = parts.Application(application, logic)
    _prepare_files(scene, logic)
    logic.SetSliceLogics(vtk.vtkCollection())
    logic.SetViewLogics(vtk.vtkCollection())
    logic.SetMRMLScene(scene)
    slicer.modules = sys.modules["slicer.modules"] = types.ModuleType("slicer.modules")
    slicer.moduleNames = types.SimpleNamespace()
    for name, cls in LOGICS.items():
        if hasattr(slicer, cls):
            _add_logic(parts.ScriptedModule, name, getattr(slicer, cls)())
    add_defaults()


def _prepare_files(scene, logic) -> None:
    """What reading and writing bundles needs."""
    cache = slicer.vtkCacheManager()
    cache.SetRemoteCacheDirectory(tempfile.mkdtemp(dir=slicer.app.temporaryPath))
    files = slicer.vtkDataIOManager()
    files.SetCacheManager(cache)
    scene.SetCacheManager(cache)
    scene.SetDataIOManager(files)
    logic.SetTemporaryPath(slicer.app.temporaryPath)


def _add_logic(module_class, name, logic) -> None:
    application = slicer.app.applicationLogic()
    logic.SetMRMLApplicationLogic(application)
    logic.SetMRMLScene(slicer.mrmlScene)
    application.SetModuleLogic(name, logic)
    setattr(slicer.modules, name.lower(), module_class(name, logic=logic))
    setattr(slicer.moduleNames, name, name)


def add_defaults() -> None:
    """What a scene of Slicer has from its start."""
    slicer.app.applicationLogic().GetModuleLogic("Colors").AddDefaultColorNodes()
    scene = slicer.mrmlScene
    for cls, tag in (("vtkMRMLSelectionNode", "Singleton"), ("vtkMRMLInteractionNode", "Singleton")):
        if scene.GetSingletonNode(tag, cls) is None:
            node = scene.CreateNodeByClass(cls)
            node.UnRegister(None)
            node.SetSingletonTag(tag)
            scene.AddNode(node)


def clean() -> None:
    """An empty scene, no panels, no views, no settings, no answers."""
    while _panels:
        close_panel(_panels[-1])
    effects.forget()
    slicer.app.layoutManager().clear()
    scene = slicer.mrmlScene
    scene.Clear(True)
    for reset in (scene.SetSaveToXMLString, scene.SetLoadFromXMLString):
        reset(0)
    scene.SetURL("")
    add_defaults()
    slicer.app.settings().clear()
    slicer.app.testing = False
    slicer.app.restarts = 0
    slicer.packaging.forget()
    answers.clear()
    pump()


def let_go() -> None:
    """Free what the tests before have left, and look through the rest no more.

    Views, panels and their nodes hold one another, and Python does not see how large they are.
    """
    gc.collect()
    gc.freeze()


def load_module(path: str | os.PathLike) -> types.ModuleType:
    """Do what Slicer does with a scripted module at its start; the module of the file."""
    from .application import ScriptedModule

    path = Path(path).resolve()
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and Path(known.__file__).resolve() == path and hasattr(slicer.modules, name.lower()):
        return known
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    python = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(python)
    module = ScriptedModule(name, str(path))
    module.instance = getattr(python, name)(module)
    setattr(slicer.modules, name.lower(), module)
    setattr(slicer.modules, f"{name}Instance", module.instance)
    setattr(slicer.moduleNames, name, name)
    slicer.app.finish_startup()
    return python


def open_panel(python: types.ModuleType, size: tuple[int, int] = (420, 800)):
    """Open the panel of a loaded module, as choosing the module does; its `<Name>Widget`."""
    name = python.__name__
    parent = slicer.qMRMLWidget()
    parent.setLayout(qt.QVBoxLayout())
    parent.setMRMLScene(slicer.mrmlScene)
    panel = getattr(python, f"{name}Widget")(parent)
    panel.setup()
    module = getattr(slicer.modules, name.lower())
    module.widgetObject = panel
    setattr(slicer.modules, f"{name}Widget", panel)
    if hasattr(panel, "enter"):
        panel.enter()
    parent.resize(*size)
    parent.show()
    _panels.append(panel)
    pump()
    return panel


def close_panel(panel) -> None:
    """Leave the panel and unload it, as Slicer does when it quits."""
    _panels.remove(panel)
    if hasattr(panel, "exit"):
        panel.exit()
    slicer.app.moduleManager().moduleAboutToBeUnloaded.emit(panel.moduleName)
    panel.parent.hide()
    panel.parent.deleteLater()
    pump()


def pump(seconds: float = 0.0, until=None) -> bool:
    """Let Qt work that long, or (10 s at most, unless told) until the callable is true; whether it became true."""
    limit = seconds or (10.0 if until is not None else 0.0)
    end = time.monotonic() + limit
    while True:
        try:
            slicer.app.processEvents()
        except Exception:  # noqa: BLE001  PySide6 lets some of them through, where Slicer goes on
            sys.excepthook(*sys.exc_info())
        qt.QApplication.sendPostedEvents(None, qt.QEvent.DeferredDelete.value)
        if until is not None and until():
            return True
        if time.monotonic() >= end:
            return until is None
        time.sleep(0.002)


def drop(widget, *paths: str | os.PathLike) -> bool:
    """Drop files onto a widget; whether it took them."""
    data = qt.QMimeData()
    data.setUrls([qt.QUrl.fromLocalFile(str(path)) for path in paths])
    return drop_data(widget, data)


def drop_data(widget, data) -> bool:
    """Drop anything onto a widget; whether it took it."""
    place = widget.rect.center()
    common = (qt.Qt.CopyAction, data, qt.Qt.LeftButton, qt.Qt.NoModifier)
    enter = qt.QDragEnterEvent(place, *common)
    enter.ignore()
    qt.QApplication.sendEvent(widget, enter)
    if not enter.isAccepted():
        return False
    event = qt.QDropEvent(qt.QPointF(place), *common)
    qt.QApplication.sendEvent(widget, event)
    return event.isAccepted()


def screenshot(widget, path: str | os.PathLike) -> Path:
    """Write what a widget, or the panel of a module, looks like."""
    widget = widget.parent if hasattr(widget, "moduleName") else widget
    pump()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not widget.grab().save(str(path)):
        raise OSError(f"The picture {path} cannot be written; name a .png in a folder that can be written to.")
    return path
