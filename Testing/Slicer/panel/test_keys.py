"""The panel without a mouse: letters, the order of Tab, Esc; and what each widget says of itself."""

import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from Testing.Slicer.harness.pythonqt import qt
from Testing.Slicer.impatient import Impatient

FOLDER = Path(__file__).resolve().parents[3] / "InContextSeg" / "Resources" / "UI"
TOLD = (qt.QAbstractButton, qt.QComboBox, qt.QAbstractSpinBox, qt.QTableWidget)


@pytest.fixture
def doctor(scene, monkeypatch):
    doctor = Impatient(monkeypatch)
    yield doctor
    doctor.close()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ui")), ids=lambda path: path.name)
def test_no_letter_leads_to_two_places(path):
    properties = [each for each in ElementTree.parse(path).iter("property") if each.get("name") == "text"]
    texts = [text.text or "" for each in properties for text in each.iter("string")]
    letters = Counter(letter.lower() for text in texts for letter in re.findall(r"&(\w)", text))
    assert [letter for letter, times in letters.items() if times > 1] == []


def test_tab_leads_out_of_the_tables_again(doctor):
    doctor.ready()
    for table in (doctor.ui.examplesTable, doctor.ui.segmentsTable):
        assert not table.tabKeyNavigation


def test_esc_is_the_panels_only_while_there_is_something_to_cancel(doctor):
    doctor.ready()
    assert not doctor.panel._escape.enabled
    doctor.worker.hold = True
    doctor.press("segmentButton")
    assert doctor.panel._escape.enabled
    doctor.panel._escape.activated.emit()
    doctor.settle()
    assert doctor.status == "Cancelled; nothing was changed."
    assert not doctor.panel._escape.enabled


def test_every_widget_that_can_be_used_says_what_for(doctor):
    found = [each for kind in TOLD for each in doctor.ui.segmentTab.findChildren(kind)]
    named = [
        each for each in found if "_" not in each.objectName and "Section" not in each.objectName and each.objectName
    ]
    assert len(named) > 20
    assert [each.objectName for each in named if not each.toolTip] == []
