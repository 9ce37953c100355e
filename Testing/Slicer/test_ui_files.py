"""The .ui files name only classes, properties, signals and slots that Qt, CTK and Slicer have."""

from pathlib import Path

import pytest

from Testing.Slicer import harness
from Testing.Slicer.harness import ui

ROOT = Path(__file__).resolve().parents[2]
TINY = Path(harness.__file__).parent / "tiny" / "Resources" / "UI" / "Tiny.ui"
FILES = [TINY, *sorted((ROOT / "InContextSeg").rglob("*.ui"))]

MISTAKES = [
    ('<property name="text"><string>Apply', '<property name="label"><string>Apply', "no property label"),
    ('<property name="collapsed">', '<property name="closed">', "no property closed"),
    ('class="QCheckBox"', 'class="QCheckMark"', "not in widgets.toml"),
    ('class="QLineEdit"', 'class="ctkSearchBox"', "ctkSearchBox is not declared"),
    ("qMRMLNodeComboBox.h", "qMRMLComboBox.h", "not declared with the header qMRMLNodeComboBox.h"),
    ('class="ctkSliderWidget"', 'class="QDoubleSpinBox"', "ctkSliderWidget is declared but not used"),
    ("<signal>mrmlSceneChanged(vtkMRMLScene*)", "<signal>sceneChanged(vtkMRMLScene*)", "no signal sceneChanged"),
    ("<slot>setMRMLScene(vtkMRMLScene*)", "<slot>setScene(vtkMRMLScene*)", "no slot setScene"),
    ("<receiver>volumeBox", "<receiver>volumesBox", "receiver volumesBox, which the file does not have"),
    ('name="nameEdit"', 'name="quickBox"', "2 elements are called quickBox"),
    ('"SlicerParameterName" stdset="0"><string>quick', '"SlicerParameterName"><string>quick', 'stdset="0"'),
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_ui_file_names_nothing_that_slicer_lacks(path):
    assert ui.checkUi(path) == []


@pytest.mark.parametrize(("right", "wrong", "complaint"), MISTAKES, ids=[mistake[2] for mistake in MISTAKES])
def test_a_mistake_in_a_ui_file_is_named(tmp_path, right, wrong, complaint):
    text = TINY.read_text(encoding="utf-8")
    assert right in text
    (tmp_path / "Tiny.ui").write_text(text.replace(right, wrong, 1), encoding="utf-8")
    assert any(complaint in sentence for sentence in ui.checkUi(tmp_path / "Tiny.ui"))


def test_a_class_has_what_it_inherits():
    assert {"text", "checkable", "toolTip", "flat"} <= ui.members("QPushButton", "properties")
    assert "mrmlSceneChanged(vtkMRMLScene*)" in ui.members("qMRMLSegmentsTableView", "signals")
