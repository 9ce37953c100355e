"""The panel treated roughly: things deleted behind its back, odd volumes and names, workers that fail."""

import pytest

from Testing.Slicer.harness import app
from Testing.Slicer.impatient import Impatient


@pytest.fixture
def doctor(scene, monkeypatch):
    doctor = Impatient(monkeypatch)
    yield doctor
    doctor.close()


def test_chosen_examples_are_taken_off_the_list(doctor):
    doctor.ready()
    doctor.ui.examplesTable.selectRow(0)
    doctor.press("removeButton")
    assert doctor.panel.examples.rows() == ()


@pytest.mark.parametrize("table", ["examplesTable", "segmentsTable"])
def test_an_item_that_was_changed_is_not_replaced_while_qt_still_works_with_it(doctor, table):
    doctor.ready()
    item = getattr(doctor.ui, table).item(0, 0)
    item.setCheckState(app.qt.Qt.Unchecked)
    assert item.text()
    assert getattr(doctor.ui, table).item(0, 0).checkState() == app.qt.Qt.Unchecked
