"""The training module before anything is trained: data sets, what is found in them, and what a run is asked with."""

import shutil
from types import SimpleNamespace

import pytest
import slicer

from InContextSegLib.training.runfolder import open_run
from InContextSegLib.training.site.datasets import DataSet, Site, read_site
from InContextSegLib.volumes.files import write_volume
from InContextSegLib.volumes.geometry import Kind, Volume
from InContextSegSlicer.panel.parameters import InContextSegParameterNode, parameterNode
from Testing.Library.site_data import grid, labels_of
from Testing.Slicer.harness import app
from Testing.Slicer.trainee import small

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("ownFolders")]


def spoil(data):
    """A label without its image, an image that cannot be read, and one on another grid than its labels."""
    (data / "images/patient0.nii.gz").unlink()
    (data / "images/patient1.nii.gz").write_bytes(b"no volume")
    shutil.copy(data / "images/patient2.nii.gz", data / "images/patient4.nii.gz")
    moved = Volume(labels_of(), grid(at_mm=40.0), Kind.LABELS)
    write_volume(data / "labels/patient4.nii.gz", moved)


def test_bad_data_are_named_before_the_start_and_the_rest_can_be_trained_on(trainee, data):
    spoil(data)
    trainee.addFolder(data)
    trainee.look()
    trainee.picture("problems")
    said = trainee.problems()
    assert len(said) == 3
    for name, what in (("patient0", "no partner"), ("patient1", "damaged"), ("patient4", "grid")):
        (found,) = [text for text, _colour in said if name in text]
        assert what in found or what == "damaged" or "voxels" in found, found
    assert {colour for _text, colour in said} == {"#c0392b"}
    assert "Tasks: 2. Usable cases: 2. Problems: 3. What is red is left out" in trainee.ui.trainingFoundLabel.text
    assert trainee.ui.trainingSetsTable.item(0, 3).text() == "2 of 4"
    assert trainee.ui.trainingStartButton.enabled


def test_a_task_that_nobody_shows_is_named_and_nothing_can_be_started(trainee, data):
    trainee.addFolder(data)
    trainee.ui.trainingSetsTable.item(0, 1).setText("1 organ, 7 ghost")
    trainee.look()
    ((text, colour),) = [each for each in trainee.problems() if "ghost" in each[0]]
    assert "No usable case shows clinic/ghost" in text and colour == "#c0392b"
    assert not trainee.ui.trainingStartButton.enabled
    trainee.ui.trainingSetsTable.item(0, 1).setText("1 organ")
    assert not trainee.ui.trainingStartButton.enabled, "these data sets were not looked at"
    assert "Nobody has looked" in trainee.ui.trainingFoundLabel.text
    trainee.look()
    assert trainee.ui.trainingStartButton.enabled


def test_data_sets_are_typed_dropped_read_saved_and_removed(trainee, data, tmp_path):
    (tmp_path / "cases.csv").write_text("image,labels\nclinic/images/patient0.nii.gz,clinic/labels/patient0.nii.gz\n")
    assert app.drop(trainee.ui.trainingSetsTable.viewport(), data, tmp_path / "cases.csv")
    table = trainee.ui.trainingSetsTable
    assert [table.item(row, 0).text() for row in range(table.rowCount)] == ["clinic", "cases"]
    table.item(1, 0).setText("clinic")
    assert "There is a data set 'clinic' already" in trainee.status and table.item(1, 0).text() == "cases"
    table.item(0, 1).setText("organ 1")
    assert "as in: 1 liver, 2 spleen" in trainee.status and table.item(0, 1).text() == ""
    table.item(0, 1).setText("any thing")
    table.item(0, 2).setText("(patient")
    assert "is no regular expression" in trainee.status
    app.answers.give("QFileDialog.getSaveFileName", str(tmp_path / "site.toml"))
    trainee.press("Save")
    assert "Saved as" in trainee.status
    assert [each.name for each in read_site(tmp_path / "site.toml").datasets] == ["clinic", "cases"]
    table.selectRow(0)
    trainee.press("Remove")
    assert [table.item(row, 0).text() for row in range(table.rowCount)] == ["cases"]
    app.answers.give("QFileDialog.getOpenFileName", str(tmp_path / "site.toml"))
    trainee.press("Read")
    assert table.rowCount == 2 and table.item(0, 1).text() == "any thing"
    app.answers.give("QFileDialog.getOpenFileName", str(tmp_path / "gone.toml"))
    trainee.press("Read")
    assert "cannot be read" in trainee.status and table.rowCount == 2


def test_what_the_module_offers_is_what_the_library_takes():
    from InContextSegLib.config import from_mapping
    from InContextSegLib.training.averaged import Settings
    from InContextSegLib.training.losses import LOSSES
    from InContextSegLib.training.site.train import SiteTraining
    from InContextSegSlicer.training import recipe

    assert set(recipe.LOSSES) == set(LOSSES)
    fields = Settings.__dataclass_fields__
    assert set(recipe.TRAINING.values()) | {"learning_rate", "loss", "checkpoint_every"} <= set(fields)
    assert set(recipe.TOP.values()) <= set(SiteTraining.__dataclass_fields__)
    for model, _words in recipe.modelChoices():
        assert from_mapping(SiteTraining, {"model": model, "training": {"loss": "auto"}}, "s").model == model
    for weak, _words in recipe.weakChoices():
        assert from_mapping(SiteTraining, {"weak": weak}, "s").weak == weak
    for balance, _words in recipe.balanceChoices():
        assert from_mapping(Settings, {"balance": balance}, "s").balance == balance


def test_every_choice_reaches_the_request_and_comes_back_with_the_run(trainee, data, tmp_path):
    from InContextSegSlicer.training import recipe

    trainee.addFolder(data)
    small(trainee, tmp_path / "run", learningRate=0.00123, balance="lagging", saveMemory=True, weak="box", patience=3)
    site, settings = recipe.siteOf(trainee.parameters), recipe.settingsOf(trainee.parameters)
    assert settings["training"]["learning_rate"] == 0.00123 and settings["weak"] == "box" and settings["draws"] == 2
    assert settings["training"]["warmup_steps"] == 1 and settings["training"]["checkpointing"] is True
    small(trainee, tmp_path / "other", learningRate=0.5e-4, weak="full", seed=9, saveMemory=False)
    trainee.parameters.datasets = "[]"
    recipe.takeOver(trainee.parameters, site, settings)
    assert (recipe.siteOf(trainee.parameters), recipe.settingsOf(trainee.parameters)) == (site, settings)
    trainee.ui.trainingModelBox.setCurrentIndex(trainee.ui.trainingModelBox.findData("default"))
    trainee.parameters.loss = "auto"
    assert recipe.settingsOf(trainee.parameters)["training"]["loss"] == "auto"
    assert not trainee.ui.trainingWeakBox.enabled


def test_what_cannot_be_chosen_here_is_said_and_changes_nothing(trainee, data, tmp_path):
    trainee.addFolder(data)
    (tmp_path / "site.toml").write_text(
        f'name = "other"\nvalidation_share = 0.95\n[[datasets]]\nname = "x"\nimages = "{data}"\nlabels = "{data}"\n',
        encoding="utf-8",
    )
    app.answers.give("QFileDialog.getOpenFileName", str(tmp_path / "site.toml"))
    trainee.press("Read")
    assert "validationShare is 0.95, beyond what can be chosen here" in trainee.status
    assert trainee.ui.trainingSetsTable.item(0, 0).text() == "clinic" and trainee.parameters.site == "our data"
    trainee.parameters.model = "a-model-that-is-gone"
    assert trainee.ui.trainingModelBox.currentIndex == -1, "any can be chosen, the first as well"
    trainee.parameters.datasets = '[{"name": "x", "of a later version": 1}]'
    assert "The list of data sets in this scene cannot be read" in trainee.status
    assert trainee.ui.trainingSetsTable.rowCount == 0 and not trainee.ui.trainingLookButton.enabled
    trainee.addFolder(data)
    assert trainee.ui.trainingSetsTable.rowCount == 1 and trainee.ui.trainingLookButton.enabled


def test_a_scene_that_names_a_model_of_another_computer_is_opened_with_one_sentence(trainee):
    trainee.parameters.model = "theirs"
    trainee.panel.setParameterNode(trainee.parameters)
    assert "The scene asks for model 'theirs', which is not known here" in trainee.status
    assert trainee.parameters.model == "sricl" and trainee.ui.trainingModelBox.currentIndex == 0


def test_what_came_of_a_run_can_be_used_and_trained_further_at_once_by_its_name(trainee, tmp_path, monkeypatch):
    monkeypatch.setattr(slicer.util, "selectModule", lambda _name: None)
    from Testing.Slicer.panel.test_own_models import kept

    for name in ("a-earlier", "b-now"):
        entry = kept(tmp_path, name)
    record = {"steps": 9, "settings": {"training": {"steps": 9, "patience": 9}}, "dice": {}, "weights": "w"}
    record |= {"weights_sha256": entry.weights.sha256, "model": {"name": "b-now"}}
    trainee.controller.record, trainee.controller.state = record, "done"
    trainee.controller.changed()
    assert trainee.ui.trainingModelBox.findData("b-now") > 0
    trainee.press("Use")
    assert InContextSegParameterNode(parameterNode(slicer.mrmlScene)).model == "b-now"


def test_the_panel_says_what_to_do_next_until_it_can_start(trainee, data, tmp_path):
    assert "Next: add data sets" in trainee.status
    trainee.addFolder(data)
    assert "Next: press 'Look at the data'" in trainee.status
    trainee.look()
    assert "Looked at in" in trainee.status and "Next: choose a new folder" in trainee.status
    trainee.parameters.folder = str(tmp_path / "run")
    assert "only with a name" in trainee.status
    trainee.parameters.name = "ours"
    assert "Everything is ready to start" in trainee.status


def test_a_run_that_ended_early_says_so_and_goes_on_only_with_more_patience():
    from InContextSegSlicer.training import status

    chosen = SimpleNamespace(steps=2000, patience=10)
    record = {"steps": 800, "settings": {"training": {"steps": 2000, "patience": 10}}}
    record |= {"mean_dice": 0.7, "best_step": 300, "weights": "w"}
    assert "after 800 of 2000 steps, as validation found no gain" in status.resultText(record)
    assert status.isOver(record, chosen) and "A later end" in status.overText(record)
    chosen.patience = 20
    assert not status.isOver(record, chosen)
    record["settings"]["training"]["steps"] = 800
    assert "after 800 steps." in status.resultText(record) and "More steps" in status.overText(record)
    assert not status.isOver(record, chosen)
    chosen.steps = 800
    assert status.isOver(record, chosen)


def test_a_run_whose_files_are_damaged_is_not_shown_and_said(trainee, data, tmp_path):
    run = tmp_path / "run"
    open_run(run, Site("s", (DataSet("a", images=str(data / "images"), labels=str(data / "labels")),)), {})
    (run / "survey.json").write_text('{"tasks": ', encoding="utf-8")
    app.answers.give("QFileDialog.getExistingDirectory", str(run))
    trainee.press("Open")
    assert "survey.json is damaged or cannot be read" in trainee.status
    assert trainee.controller.state == "idle" and trainee.controller.folder != run
    (run / "survey.json").unlink()
    app.answers.give("QFileDialog.getExistingDirectory", str(run))
    trainee.press("Open")
    assert trainee.controller.state == "paused" and trainee.ui.trainingSetsTable.item(0, 0).text() == "a"


def test_dice_of_a_task_that_nobody_validates_is_in_brackets_and_says_so(trainee, data):
    (data / "labels/patient3.nii.gz").rename(data / "labels/other.nii.gz")
    for number in (1, 2):
        (data / f"labels/patient{number}.nii.gz").unlink()
    trainee.addFolder(data)
    trainee.look()
    assert [row[2] for row in trainee.tasks()] == ["0 pat., 0 sl."] * 2, trainee.status
    trainee.controller.dice = {"clinic/label 1": 0.934}
    trainee.panel.refresh()
    cell = trainee.ui.trainingTasksTable.item(0, 4)
    assert cell.text() == "(0.93)" and "nobody to validate with" in cell.toolTip()


def test_a_progress_bar_shows_names_with_a_percent_sign_as_they_are():
    from InContextSegSlicer.widgets.items import barText

    bar = app.qt.QProgressBar()
    bar.setRange(0, 8)
    bar.setValue(4)
    bar.setFormat("50%mild")
    assert bar.text == "508ild", "as Qt has it"
    bar.setFormat(barText("50%mild"))
    assert bar.text.replace("\u2060", "") == "50%mild"
