"""What the panel shows is so: status, buttons, expectations, overlays; and it belongs to what is chosen now."""

import pytest

from Testing.Slicer.impatient import Impatient


@pytest.fixture
def doctor(scene, monkeypatch):
    doctor = Impatient(monkeypatch)
    yield doctor
    doctor.close()
