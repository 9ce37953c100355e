"""Fixtures of everything that runs in the harness; without slicer-core and PySide6 these tests are skipped."""

import sys

import pytest

from Testing.Slicer import harness
from Testing.Slicer.harness.errors import Errors

REASON = harness.missing()


class Skipped(pytest.Module):
    """A test file that cannot be imported here."""

    def collect(self):
        """Skip with the reason."""
        pytest.skip(REASON, allow_module_level=True)


def pytest_configure(config):
    """Qt 6 calls old what Qt 5 has no other name for."""
    config.addinivalue_line("filterwarnings", "ignore:.*marked as deprecated:DeprecationWarning")


def pytest_pycollect_makemodule(module_path, parent):
    """Test files of this folder may import qt, ctk and slicer at their head, but for those of the packaging."""
    if module_path.parent.name == "packaging":
        return None
    if REASON:
        return Skipped.from_parent(parent, path=module_path)
    from Testing.Slicer.harness import app

    app.start()
    return None


@pytest.fixture(autouse=True)
def strictErrors():
    """Fail the test on any exception in a slot, an event handler or an observer; `take()` those that are expected."""
    errors = Errors()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "excepthook", errors.note)
        previous = None
        if not REASON:
            from PySide6.QtCore import qInstallMessageHandler

            previous = qInstallMessageHandler(errors.warn)
        yield errors
        if not REASON:
            qInstallMessageHandler(previous)
    if errors.seen:
        pytest.fail(f"Qt or VTK swallowed this:\n{errors.report()}", pytrace=False)


@pytest.fixture(scope="session")
def application():
    """`slicer.app` of the harness."""
    import slicer

    yield slicer.app
    slicer.app.close()


@pytest.fixture(scope="module")
def standingWorker(application):
    """One worker process for all tests of a file, which takes seconds to start."""
    from InContextSegSlicer.worker.shared import SharedWorker

    worker = SharedWorker.join()
    yield worker
    worker.leave()


@pytest.fixture
def scene(application, strictErrors):
    """`slicer.mrmlScene`, empty but for what Slicer puts there at its start; panels are closed after the test."""
    import slicer

    from Testing.Slicer.harness import app

    app.clean()
    app.let_go()
    yield slicer.mrmlScene
    app.clean()


@pytest.fixture
def sliceView(scene):
    """A function that makes an offscreen slice view: `sliceView("Red", "Axial", (512, 512))`."""
    import slicer

    from Testing.Slicer.harness.views import SliceWidget

    def make(name="Red", orientation="Axial", size=(512, 512)):
        widget = SliceWidget(name, orientation, size)
        slicer.app.layoutManager().add(name, widget)
        return widget

    return make


@pytest.fixture
def ownFolders(tmp_path, monkeypatch):
    """Where slices and models of the user's own are kept; the worker inherits both."""
    monkeypatch.setenv("INCONTEXTSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("INCONTEXTSEG_MODELS", str(tmp_path / "models"))


@pytest.fixture
def data(tmp_path):
    """Four patients with an organ and a spot in it."""
    from Testing.Library.site_data import volume

    for number in range(4):
        volume(tmp_path / "clinic", f"patient{number}", seed=number)
    return tmp_path / "clinic"


@pytest.fixture
def trainee(scene, ownFolders):
    """A person before the training module."""
    from Testing.Slicer.trainee import Trainee

    trainee = Trainee()
    yield trainee
    trainee.close()
