"""The harness itself: it lets no error pass, and its `qt` is PythonQt's."""

import os
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import ctk
import numpy as np
import pytest
import qt
import slicer
import slicer.packaging
import slicer.util
import vtk

from Testing.Slicer import harness
from Testing.Slicer.harness import app


def volume(name="CT", shape=(4, 5, 6)):
    return slicer.util.addVolumeFromArray(np.zeros(shape, np.int16), name=name)


def messages(strictErrors):
    return [str(error) for error in strictErrors.take()]


# Nothing is swallowed


def test_an_exception_in_a_slot_is_seen(strictErrors):
    button = qt.QPushButton("go")
    button.connect("clicked()", lambda: 1 / 0)
    button.click()
    assert messages(strictErrors) == ["division by zero"]


def test_an_exception_in_an_observer_is_seen(scene, strictErrors):
    def complain(caller, event):
        raise ValueError("from the observer")

    node = volume()
    node.AddObserver(vtk.vtkCommand.ModifiedEvent, complain)
    node.SetName("other")
    assert "from the observer" in messages(strictErrors)


def test_an_exception_in_a_timer_and_in_a_painter_is_seen(strictErrors):
    class Painter(qt.QWidget):
        def paintEvent(self, event):
            raise ValueError("from the painter")

    qt.QTimer.singleShot(0, lambda: 1 / 0)
    app.pump(0.02)
    assert messages(strictErrors) == ["division by zero"]
    with pytest.raises(ValueError, match="from the painter"):
        Painter().grab()


def test_a_warning_of_qt_about_the_code_is_seen(strictErrors):
    widget = qt.QWidget()
    qt.QVBoxLayout(widget)
    qt.QVBoxLayout(widget)
    assert "already has a layout" in messages(strictErrors)[0]


def test_what_was_swallowed_fails_the_test(tmp_path):
    folder = tmp_path / "inner"
    folder.mkdir()
    (folder / "test_inner.py").write_text(
        textwrap.dedent("""
            import qt
            def test_slot():
                button = qt.QPushButton("go")
                button.connect("clicked()", lambda: 1 / 0)
                button.click()
        """)
    )
    (folder / "conftest.py").write_text(
        "from Testing.Slicer.conftest import strictErrors\nfrom Testing.Slicer.harness import app\napp.start()\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "Qt or VTK swallowed this" in result.stdout
    assert "ZeroDivisionError" in result.stdout


# `qt` is PythonQt's


def test_properties_are_read_and_written_without_parentheses():
    box = qt.QSpinBox()
    box.maximum = 7
    box.value = 9
    assert (box.value, box.maximum, box.name) == (7, 7, "")


@pytest.mark.parametrize("signature", ["clicked", "pressed(bool)", "nothing()"])
def test_a_connection_needs_the_exact_signature(signature):
    with pytest.raises(ValueError, match="has no signal"):
        qt.QPushButton("go").connect(signature, print)


def test_a_connection_needs_something_to_call():
    with pytest.raises(TypeError, match="something that can be called"):
        qt.QPushButton("go").connect("clicked()", None)


def test_a_slot_gets_as_many_values_as_it_takes():
    got = []
    button = qt.QPushButton("go")
    button.checkable = True
    button.connect("clicked(bool)", got.append)
    button.connect("clicked(bool)", lambda: got.append("none"))
    button.connect("clicked()", lambda *values: got.append(values))
    button.click()
    assert got == [True, "none", ()]


def test_a_connection_ends():
    got = []
    button = qt.QPushButton("go")
    button.connect("clicked()", got.append)
    assert button.disconnect("clicked()", got.append)
    assert not button.disconnect("clicked()", got.append)
    button.click()
    assert got == []


@pytest.mark.parametrize("name", ["Signal", "Slot", "Property", "QTextCodec", "QRegExp"])
def test_what_pythonqt_lacks_is_missing(name):
    with pytest.raises(AttributeError, match="PythonQt has no qt"):
        getattr(qt, name)


def test_what_nobody_has_is_missing():
    with pytest.raises(AttributeError, match="has no attribute"):
        qt.QNothing  # noqa: B018
    with pytest.raises(AttributeError, match="write a stand-in"):
        ctk.ctkNothing  # noqa: B018


def test_what_came_with_qt_6_is_missing():
    with pytest.raises(ValueError, match="came with Qt 6"):
        qt.QCheckBox("x").connect("checkStateChanged(Qt::CheckState)", print)


def test_constructors_take_no_keywords():
    with pytest.raises(TypeError, match="no keyword arguments"):
        qt.QPushButton(text="go")


def test_a_widget_made_in_a_thread_is_refused():
    seen = []

    def work():
        with pytest.raises(RuntimeError, match="in the main thread") as caught:
            qt.QLabel("x")
        seen.append(str(caught.value))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "QLabel" in seen[0]


def test_enumerations_compare_with_numbers():
    item = qt.QTableWidgetItem("x")
    item.setCheckState(qt.Qt.Checked)
    assert item.checkState() == 2
    assert item.checkState() == qt.Qt.Checked


def test_a_process_talks_through_its_signals():
    process, said, ended = qt.QProcess(), [], []
    process.connect("readyReadStandardOutput()", lambda: said.append(process.readAllStandardOutput().data()))
    process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: ended.append((code, status)))
    process.start(sys.executable, ["-c", "print('hello'); raise SystemExit(3)"])
    assert app.pump(until=lambda: ended)
    assert b"".join(said).strip() == b"hello"
    assert ended == [(3, qt.QProcess.NormalExit)]


def test_a_timer_runs_and_stops():
    timer, ticks = qt.QTimer(), []
    timer.interval = 5
    timer.connect("timeout()", lambda: ticks.append(1))
    timer.start()
    assert app.pump(until=lambda: len(ticks) > 2)
    timer.stop()
    assert not timer.active


def test_waiting_for_what_never_happens_ends():
    assert not app.pump(0.01, until=lambda: False)


# Windows that wait


def test_a_file_dialog_takes_the_answer_of_the_test(scene):
    app.answers.give("QFileDialog.getOpenFileNames", ["a.nii.gz"])
    assert qt.QFileDialog.getOpenFileNames(None, "Choose") == ["a.nii.gz"]
    with pytest.raises(LookupError, match="Nobody answered"):
        qt.QFileDialog.getOpenFileNames(None, "Choose")


def test_a_menu_and_a_dialog_are_answered_by_a_function(scene):
    menu = qt.QMenu()
    action = menu.addAction("Remove")
    app.answers.give("QMenu.exec_", lambda menu: menu.actions()[0])
    assert menu.exec_(qt.QCursor.pos()) is action
    app.answers.give("QDialog.exec_", lambda dialog: dialog.windowTitle)
    dialog = qt.QDialog()
    dialog.windowTitle = "Sure"
    assert dialog.exec_() == "Sure"


def test_messages_are_remembered_and_confirmations_answered(scene):
    slicer.util.errorDisplay("too bad")
    app.answers.give("confirmYesNoDisplay", False)
    assert not slicer.util.confirmYesNoDisplay("really?")
    assert app.answers.texts("errorDisplay") == ["too bad"]
    with pytest.raises(ValueError, match="inner"), slicer.util.tryWithErrorDisplay("outer"):
        raise ValueError("inner")
    assert app.answers.texts("errorDisplay")[1:] == ["outer\n\ninner"]


def test_files_are_dropped(tmp_path):
    class Target(qt.QLabel):
        def dragEnterEvent(self, event):
            event.acceptProposedAction()

        def dropEvent(self, event):
            self.paths = [url.toLocalFile() for url in event.mimeData().urls()]
            event.acceptProposedAction()

    target = Target()
    target.acceptDrops = True
    assert app.drop(target, tmp_path / "a.nii")
    assert target.paths == [str(tmp_path / "a.nii")]
    assert not app.drop(qt.QLabel("no"), tmp_path)


def test_settings_are_forgotten_between_tests(scene):
    qt.QSettings().setValue("InContextSeg/device", "cpu")
    assert slicer.app.settings().value("InContextSeg/device") == "cpu"
    app.clean()
    assert not slicer.app.settings().contains("InContextSeg/device")


# Where the harness must not run


def test_a_pair_that_breaks_python_is_named():
    assert "corrupts" in harness.wrong_pair("6.12.0", (3, 11))
    assert harness.wrong_pair("6.12.0", (3, 12)) == harness.wrong_pair("6.11.1", (3, 11)) == ""


def test_the_lock_pins_a_pair_that_works():
    lock = (Path(harness.__file__).parents[3] / "requirements-slicer.lock").read_text(encoding="utf-8")
    version = re.search(r"^PySide6_Essentials==(.*)$", lock, re.MULTILINE)[1]
    assert [harness.wrong_pair(version, python) for python in ((3, 11), (3, 12))] == ["", ""]


def test_a_missing_package_is_the_reason(monkeypatch):
    def nothing(name):
        raise harness.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(harness.importlib.metadata, "version", nothing)
    assert harness.missing().startswith("slicer-core is not installed")


def test_without_slicer_core_the_tests_are_skipped_with_the_reason():
    script = """
import importlib.metadata, pytest, sys
known = importlib.metadata.version
def version(name):
    if name == "slicer-core":
        raise importlib.metadata.PackageNotFoundError(name)
    return known(name)
importlib.metadata.version = version
sys.exit(pytest.main(["-ra", "-p", "no:cacheprovider", sys.argv[1]]))
"""
    result = subprocess.run([sys.executable, "-c", script, __file__], capture_output=True, text=True, check=False)
    assert "1 skipped" in result.stdout
    assert "slicer-core is not installed" in result.stdout


def test_a_folder_without_slicer_is_no_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(slicer, "__path__", [])
    with pytest.raises(FileNotFoundError, match="name a checkout"):
        app.use_python_of_slicer(str(tmp_path))


def test_a_checkout_of_slicer_takes_the_place_of_the_stand_ins(tmp_path):
    originals = tmp_path / "Base" / "Python" / "slicer"
    originals.mkdir(parents=True)
    for name in ("i18n", "packaging"):
        (originals / f"{name}.py").write_text("ORIGINAL = True\n", encoding="utf-8")
    script = (
        "from Testing.Slicer.harness import app; app.start(); import ctk; from slicer import i18n, packaging; "
        "print(i18n.ORIGINAL, hasattr(packaging, 'ORIGINAL'), ctk.ctkDirectoryButton().className())"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"SLICER_SOURCE_DIR": str(tmp_path)},
        cwd=Path(harness.__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.split() == ["True", "False", "ctkDirectoryButton"], result.stderr


def test_a_scene_that_was_read_from_a_text_leaves_nothing_behind(scene):
    scene.SetLoadFromXMLString(1)
    scene.SetSaveToXMLString(1)
    scene.SetURL("/somewhere/scene.mrml")
    app.clean()
    assert (scene.GetLoadFromXMLString(), scene.GetSaveToXMLString(), scene.GetURL()) == (0, 0, "")
