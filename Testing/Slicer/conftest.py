"""Fixtures of everything that needs Slicer's scene; without slicer-core these tests are skipped."""
# ruff: noqa: PLC0415

import importlib.util
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "InContextSeg"))
MISSING = importlib.util.find_spec("slicer") is None
collect_ignore_glob = [
    "test_chores.py",
    "test_examples.py",
    "test_whole_session.py",
    *(["test_*.py"] if MISSING else []),
]


@pytest.fixture(autouse=True)
def strictErrors(monkeypatch):
    """Fail the test on any exception in an observer."""
    seen = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: seen.append(error))
    yield seen
    assert not seen


@pytest.fixture(scope="session")
def application():
    """The scene and the logics that know one another."""
    import slicer
    import vtk

    scene = slicer.mrmlScene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerApplicationLogic()
    logic.SetMRMLScene(scene)
    logic.SetSliceLogics(vtk.vtkCollection())
    logic.SetViewLogics(vtk.vtkCollection())
    slicer.modules = types.SimpleNamespace()
    names = {
        "Colors": slicer.vtkMRMLColorLogic,
        "Volumes": slicer.vtkSlicerVolumesLogic,
        "Segmentations": slicer.vtkSlicerSegmentationsModuleLogic,
        "Markups": slicer.vtkSlicerMarkupsLogic,
    }
    for name, kind in names.items():
        module = kind()
        module.SetMRMLScene(scene)
        module.SetMRMLApplicationLogic(logic)
        logic.SetModuleLogic(name, module)
        setattr(slicer.modules, name.lower(), types.SimpleNamespace(logic=lambda module=module: module))
    return logic


@pytest.fixture
def scene(application):
    """An empty scene."""
    import slicer

    slicer.mrmlScene.Clear(1)
    application.GetModuleLogic("Colors").AddDefaultColorNodes()
    yield slicer.mrmlScene
    slicer.mrmlScene.Clear(1)
