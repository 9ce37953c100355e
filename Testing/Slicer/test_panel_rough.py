"""The panel treated roughly: things deleted behind its back, odd volumes and names, workers that fail."""

import pytest

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
