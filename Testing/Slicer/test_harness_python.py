"""The stand-ins for Slicer's own Python files refuse what the originals refuse."""

import enum
from pathlib import Path
from typing import Annotated

import ctk
import pytest
import qt
import slicer
import slicer.packaging
from slicer import i18n
from slicer.parameterNodeWrapper import (
    Choice,
    Decimals,
    Default,
    Maximum,
    Minimum,
    SingleStep,
    WithinRange,
    isParameterNodeWrapper,
    parameterNodeWrapper,
)

from Testing.Slicer.harness import app


class Colour(enum.Enum):
    RED = 1


@parameterNodeWrapper
class Everything:
    axis: Annotated[str, Choice(["axial", "coronal"])] = "axial"
    size: Annotated[int, Minimum(1)] = 5
    share: Annotated[float, WithinRange(0, 1), Decimals(2), SingleStep(0.1), Default(0.5)]
    limit: Annotated[int, Maximum(9)]
    note: str
    folder: Path
    ready: bool
    free: float
    volume: slicer.vtkMRMLScalarVolumeNode | slicer.vtkMRMLVectorVolumeNode | None


WIDGETS = [
    ("axis", qt.QComboBox, lambda w: w.setCurrentIndex(1), "coronal"),
    ("size", qt.QSpinBox, lambda w: w.setValue(17), 17),
    ("share", ctk.ctkSliderWidget, lambda w: w.setValue(0.25), 0.25),
    ("free", qt.QDoubleSpinBox, lambda w: w.setValue(2.5), 2.5),
    ("note", qt.QLineEdit, lambda w: w.setText("x"), "x"),
    ("note", qt.QTextEdit, lambda w: w.setPlainText("y"), "y"),
    ("folder", ctk.ctkPathLineEdit, lambda w: w.setCurrentPath("/data"), Path("/data")),
    ("ready", qt.QCheckBox, lambda w: w.setChecked(True), True),
    ("ready", qt.QPushButton, lambda w: w.click(), True),
]


@pytest.fixture
def everything(scene):
    return Everything(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))


def test_parameters_start_with_their_defaults(everything):
    values = [everything.getValue(name) for name in everything.allParameters]
    assert values == ["axial", 5, 0.5, 0, "", Path(), False, 0.0, None]
    assert everything.default("share").value == 0.5
    assert isParameterNodeWrapper(everything) and not isParameterNodeWrapper(Colour)


@pytest.mark.parametrize(("name", "kind", "act", "value"), WIDGETS, ids=[f"{w[0]}-{w[1].__name__}" for w in WIDGETS])
def test_a_widget_and_a_parameter_follow_each_other(everything, name, kind, act, value):
    widget = kind()
    widget.setProperty("SlicerParameterName", name)
    panel = qt.QWidget()
    qt.QVBoxLayout(panel).addWidget(widget)
    everything.connectGui(panel)
    act(widget)
    assert everything.getValue(name) == value


@pytest.mark.parametrize(("name", "kind", "act", "value"), WIDGETS, ids=[f"{w[0]}-{w[1].__name__}" for w in WIDGETS])
def test_a_parameter_stops_to_follow_a_widget(everything, name, kind, act, value):
    widget = kind()
    before = everything.getValue(name)
    tag = everything.connectParametersToGui({name: widget})
    act(widget)
    assert everything.getValue(name) == value
    everything.disconnectGui(tag)
    everything.setValue(name, before)
    act(widget)
    assert everything.getValue(name) == before


@pytest.mark.parametrize(
    ("name", "widget", "sentence"),
    [
        ("limit", qt.QSlider, "limit is unbounded"),
        ("free", ctk.ctkSliderWidget, "free is unbounded"),
        ("note", qt.QComboBox, r"needs Annotated\[…, Choice"),
        ("size", qt.QLineEdit, "cannot be tied to a QLineEdit"),
        ("axis", ctk.ctkComboBox, "cannot be tied to a ctkComboBox"),
    ],
)
def test_a_widget_that_does_not_suit_is_refused(everything, name, widget, sentence):
    with pytest.raises(RuntimeError, match=sentence):
        everything.connectParametersToGui({name: widget()})


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [("axis", "oblique", "is not one of"), ("size", 0, "is not within"), ("limit", 10, "is not within")],
)
def test_a_value_outside_the_annotation_is_refused(everything, name, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        everything.setValue(name, value)


@pytest.mark.parametrize(("value", "error"), [(None, ValueError), ("3", TypeError), (1.5, TypeError)])
def test_a_value_of_another_kind_is_refused(everything, value, error):
    with pytest.raises(error, match="it takes int"):
        everything.size = value


def test_a_type_that_cannot_be_kept_is_refused():
    with pytest.raises(TypeError, match="the harness stores"):
        parameterNodeWrapper(type("Odd", (), {"__annotations__": {"colour": Colour}}))


def test_a_name_that_every_wrapper_has_is_refused():
    with pytest.raises(ValueError, match="choose another name"):
        parameterNodeWrapper(type("Odd", (), {"__annotations__": {"getValue": int}}))


def test_a_node_box_offers_the_classes_of_the_parameter(everything, scene):
    box = slicer.qMRMLNodeComboBox()
    box.setMRMLScene(scene)
    everything.connectParametersToGui({"volume": box})
    assert list(box.nodeTypes) == ["vtkMRMLScalarVolumeNode", "vtkMRMLVectorVolumeNode"]
    node = box.addNode("vtkMRMLVectorVolumeNode")
    assert everything.volume is node


def test_a_text_is_translated_to_itself():
    assert i18n.tr("Segment") == i18n.translate("InContextSeg", "Segment") == "Segment"
    with pytest.raises(TypeError, match="written out"):
        i18n.tr(3)


def test_requirements_are_read(tmp_path):
    (tmp_path / "requirements.txt").write_text("# needed\nnumpy>=1\n--index-url x\neinops\n", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["numpy>=1"]\n', encoding="utf-8")
    (tmp_path / "empty.toml").write_text("", encoding="utf-8")
    names = [requirement.name for requirement in slicer.packaging.load_requirements(tmp_path / "requirements.txt")]
    assert names == ["numpy", "einops"]
    assert len(slicer.packaging.load_pyproject_dependencies(tmp_path / "pyproject.toml")) == 1
    with pytest.raises(KeyError, match=r"no \[project\] table"):
        slicer.packaging.load_pyproject_dependencies(tmp_path / "empty.toml")


def test_what_suits_is_not_asked_for(scene):
    markers = ["numpy", "nothing; python_version < '3'"]
    slicer.packaging.pip_ensure(markers)
    slicer.app.testing = True
    slicer.packaging.pip_ensure("surely-not-installed")
    assert slicer.packaging.calls == app.answers.shown == []


def test_an_installation_can_fail_and_can_be_watched(scene):
    lines, codes = [], []
    slicer.packaging.failures.extend([OSError("disk full"), OSError("proxy")])
    with pytest.raises(OSError, match="disk full"):
        slicer.packaging.pip_install("einops")
    watch = {"blocking": False, "logCallback": lines.append, "completedCallback": codes.append}
    slicer.packaging.pip_install("einops", **watch)
    slicer.packaging.pip_install(["einops"], **watch)
    slicer.packaging.pip_uninstall("einops", blocking=False, completedCallback=codes.append)
    assert codes == [1, 0, 0]
    assert lines[0] == "Collecting einops"
    assert not slicer.packaging.isPipInstallInProgress()
    with pytest.raises(ValueError, match="skip_packages goes neither"):
        slicer.packaging.pip_install("einops", skip_packages=["torch"], blocking=False)
