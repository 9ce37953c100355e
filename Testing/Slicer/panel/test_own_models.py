"""A user's own models in panel and effect: there when they are, gone when they are gone, deleted only when meant."""

import hashlib
import time
from dataclasses import replace

import pytest

from InContextSegLib.models.catalog import find, list_entries, remove
from InContextSegLib.models.entry import Capability, CatalogEntry, Weights
from InContextSegLib.models.own import keep
from InContextSegSlicer.effect.context import Context
from InContextSegSlicer.effect.effectoptions import limitsOf
from InContextSegSlicer.panel.parameters import InContextSegParameterNode, parameterNode
from Testing.Slicer.harness import app
from Testing.Slicer.impatient import Impatient

CONTENT = b"tensors" * 100_000
ABOUT = "SR-ICL trained on 'clinic <b>': 2 tasks, 30 patients. Dice on 8 validation patients: 0.81."


def kept(folder, name="ours", **others):
    path = folder / "run.safetensors"
    path.write_bytes(CONTENT)
    weights = Weights(path=str(path), sha256=hashlib.sha256(CONTENT).hexdigest(), size_bytes=len(CONTENT))
    entry = CatalogEntry(name, ABOUT, "sricl", Capability(128, "required"), weights, "your own, unstated", "")
    return keep(entry, {"card.md": "# Ours"}, **others)


@pytest.fixture
def doctor(scene, monkeypatch):
    monkeypatch.setattr("InContextSegSlicer.panel.panel.LOOK_EVERY_S", 0.0)
    doctor = Impatient(monkeypatch)
    yield doctor
    doctor.close()


def offered(doctor):
    box = doctor.ui.modelBox
    return [box.itemData(index) for index in range(box.count)]


def chosen(doctor):
    return doctor.ui.modelBox.itemData(doctor.ui.modelBox.currentIndex)


def test_a_model_trained_meanwhile_is_offered_and_says_what_it_is_worth(doctor, tmp_path, own_models):
    doctor.ready()
    assert offered(doctor) == ["default", "universeg", "universeg-v1"] and chosen(doctor) == "default"
    kept(tmp_path)
    assert app.pump(2, until=lambda: offered(doctor) == ["default", "universeg", "universeg-v1", "ours"])
    assert chosen(doctor) == "default" and not doctor.ui.modelButton.visible
    doctor.set(model="ours")
    assert chosen(doctor) == "ours"
    assert doctor.ui.modelText.text == f"{ABOUT} Licence: your own, unstated, 0.7 MB; kept in {own_models / 'ours'}."
    assert doctor.ui.modelText.textFormat == app.qt.Qt.PlainText and doctor.ui.modelButton.text == "Remove…"
    doctor.segment()
    assert doctor.panel.order().model == "ours" and "segment" in doctor.worker.asked


def test_a_replaced_model_says_what_it_is_worth_now(doctor, tmp_path):
    doctor.ready()
    kept(tmp_path)
    doctor.set(model="ours")
    entry = find("ours")
    (tmp_path / "run.safetensors").write_bytes(CONTENT)
    better = replace(
        entry, description="Better.", weights=replace(entry.weights, path=str(tmp_path / "run.safetensors"))
    )
    keep(better, {}, replacing=True)
    assert app.pump(2, until=lambda: doctor.ui.modelText.text.startswith("Better. "))
    assert chosen(doctor) == "ours"


def test_an_own_model_is_deleted_only_after_a_question(doctor, tmp_path, own_models):
    doctor.ready()
    kept(tmp_path)
    (own_models / "ours" / "notes.txt").write_text("mine")
    doctor.set(model="ours")
    app.answers.give("confirmOkCancelDisplay", False)
    doctor.press("modelButton")
    doctor.settle()
    assert "weights" not in doctor.worker.asked and find("ours")
    app.answers.give("confirmOkCancelDisplay", True)
    doctor.press("modelButton")
    doctor.settle()
    [_, (_question, (text, *_))] = app.answers.asked
    assert "Delete your model 'ours'" in text and "cannot be fetched again" in text
    assert app.pump(2, until=lambda: chosen(doctor) == "default")
    assert offered(doctor) == ["default", "universeg", "universeg-v1"] and doctor.panel.parameters.model == "default"
    assert [each.name for each in (own_models / "ours").iterdir()] == ["notes.txt"]


def test_a_model_that_was_removed_elsewhere_is_said_and_another_one_can_be_chosen(doctor, tmp_path):
    doctor.ready()
    kept(tmp_path)
    doctor.set(model="ours")
    remove(find("ours"), tmp_path)
    assert app.pump(2, until=lambda: "ours" not in offered(doctor))
    assert doctor.ui.modelText.text == "The model 'ours' is not on this computer any more; choose another one."
    assert doctor.ui.modelBox.currentIndex == -1 and not doctor.ui.modelButton.visible
    doctor.ui.modelBox.setCurrentIndex(0)
    app.pump(0.1)
    assert doctor.panel.parameters.model == "default" and doctor.ui.modelText.text.startswith(
        find("default").description
    )


def test_a_scene_that_names_a_model_of_another_computer_is_opened_with_one_sentence(doctor, scene):
    node = parameterNode(scene)
    InContextSegParameterNode(node).model = "theirs"
    doctor.panel.setParameterNode(InContextSegParameterNode(node))
    assert (
        doctor.status == "The scene asks for model 'theirs', which is not known here; the usual choice took its place."
    )
    assert chosen(doctor) == "default"


def test_the_effect_says_why_its_tools_are_off_for_a_model_that_takes_examples_alone(scene, tmp_path):
    InContextSegParameterNode(parameterNode(scene)).model = "ours"
    context = Context(scene, handover=None)
    assert context.capability is None and "is not in the catalogue" in limitsOf("ours", context.capability)
    kept(tmp_path)
    assert context.learns
    assert "It takes labelled examples, and needs an example before anything else" in limitsOf(
        "ours", context.capability
    )


def test_a_damaged_model_does_not_keep_the_panel_from_opening(doctor, tmp_path, own_models):
    kept(tmp_path)
    kept(tmp_path, "other")
    (own_models / "other" / "entry.json").write_text("{}")
    assert app.pump(2, until=lambda: offered(doctor) == ["default", "universeg", "universeg-v1", "ours"])


def test_twenty_models_are_listed_within_ten_milliseconds(tmp_path):
    for number in range(20):
        kept(tmp_path, f"model-{number}")
    assert len(list_entries()) == 23
    seconds = []
    for _ in range(5):
        since = time.perf_counter()
        list_entries()
        seconds.append(time.perf_counter() - since)
    print(f"{1000 * min(seconds):.2f} ms")
    assert min(seconds) < 0.01
