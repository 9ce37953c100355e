"""The training module on small invented data sets, with the real worker behind it."""

import json
import os
import signal

import numpy as np
import pytest
import slicer
import torch

from InContextSegLib.models.weights import load_weights
from InContextSegLib.training.runfolder import open_run
from InContextSegLib.training.site.datasets import DataSet, Site
from Testing.Slicer.harness import app
from Testing.Slicer.radiologist import Radiologist
from Testing.Slicer.trainee import Trainee, columns, log_of, looked, small

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("ownFolders")]
qt = app.qt
ASKED = "QMessageBox.question"


def weights_of(folder):
    return load_weights(folder / "weights.safetensors", None)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def become_a_model(trainee, folder):
    """A finished run gets a name, and is a model that can be chosen in the panel."""
    gone = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slicer.util, "selectModule", gone.append)
        _become_a_model(trainee, folder)
    assert gone == ["InContextSeg"]


def _become_a_model(trainee, folder):
    trainee.parameters.name = "default"
    assert trainee.train() == "failed" and "default" in trainee.status
    trainee.parameters.name = "our-organs"
    assert trainee.train() == "done", trainee.status
    assert "in the list of models as 'our-organs'" in trainee.status
    kept = sorted(path.name for path in (folder / "models/our-organs").iterdir())
    assert {"card.md", "curves.png", "weights.safetensors"} <= set(kept), kept
    doctor = Radiologist()
    trainee.press("Use")
    assert doctor.panel.parameters.model == "our-organs"
    assert doctor.ui.modelBox.itemData(doctor.ui.modelBox.currentIndex) == "our-organs"
    doctor.close()


def pause_at(trainee, step):
    trainee.press("Start")
    assert trainee.until(lambda: trainee.controller.step >= step), trainee.status
    trainee.press("Pause")
    return trainee.wait()


@pytest.mark.slow
def test_from_an_empty_module_to_a_trained_model(trainee, data, tmp_path):
    assert not trainee.ui.trainingStartButton.enabled and not trainee.ui.trainingLookButton.enabled
    trainee.picture("empty")
    trainee.addFolder(data)
    trainee.ui.trainingSetsTable.item(0, 1).setText("1 organ, 2 spot")
    small(trainee, tmp_path / "run", steps=6)
    assert not trainee.ui.trainingStartButton.enabled, "nobody has looked at the data"
    trainee.look()
    assert [row[0] for row in trainee.tasks()] == ["clinic/organ", "clinic/spot"], trainee.status
    assert trainee.tasks()[0][1:4] == ["3 pat., 18 sl.", "1 pat., 6 sl.", "3 × 1"]
    assert trainee.ui.trainingSetsTable.item(0, 3).text() == "4 of 4"
    trainee.picture("found")
    view = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotViewNode")
    view.SetMappedInLayout(1)
    trainee.press("Start")
    assert trainee.until(lambda: trainee.controller.step >= 3)
    assert trainee.until(lambda: trainee.controller.plots.chart is not None)
    assert view.GetPlotChartNodeID() == trainee.controller.plots.chart.GetID(), "shown where there is a plot view"
    assert "of 6" in trainee.ui.trainingProgressBar.format
    assert trainee.wait() == "done", trainee.status
    trainee.picture("done")
    log = log_of(tmp_path / "run")
    plots = trainee.controller.plots
    assert columns(plots.losses)["step"] == [line["step"] for line in log] == list(range(1, 7))
    assert columns(plots.losses)["loss"] == [line["loss"] for line in log]
    dice = columns(plots.dice)
    judged = [line for line in log if "validation" in line]
    assert dice["step"] == [line["step"] for line in judged] == [2, 4, 6]
    assert dice["clinic/organ"] == [line["validation"]["clinic/organ"] for line in judged]
    assert "Finished after 6 steps" in trainee.status and str(tmp_path / "run") in trainee.status
    record = json.loads((tmp_path / "run/training.json").read_text(encoding="utf-8"))
    assert trainee.tasks()[0][4] == f"{record['dice']['clinic/organ']['dice']:.2f}"
    assert not trainee.ui.trainingExamplesLabel.isHidden()
    view.SetMappedInLayout(0)
    layout = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLayoutNode")
    before = layout.GetViewArrangement()
    trainee.press("Plots")
    assert layout.GetViewArrangement() not in (before, 0), "a layout with a plot"
    assert not trainee.ui.trainingStartButton.enabled, "it is finished"
    assert not trainee.ui.trainingUseButton.enabled, "it has no name"
    become_a_model(trainee, tmp_path)
    trainee.parameters.steps, trainee.parameters.name = 8, "our-organs-longer"
    assert trainee.train() == "done" and [line["step"] for line in log_of(tmp_path / "run")] == list(range(1, 9))


@pytest.mark.slow
def test_paused_and_resumed_in_another_session_it_ends_with_the_weights_of_an_unbroken_run(scene, data, tmp_path):
    first = Trainee()
    looked(first, data, tmp_path / "whole", steps=8)
    assert first.train() == "done", first.status
    first.parameters.folder = str(tmp_path / "parts")
    assert pause_at(first, 2) == "paused", first.status
    assert "Paused" in first.status and "Resume" in first.ui.trainingStartButton.text
    assert not (tmp_path / "parts/weights.safetensors").exists()
    paused = first.controller.step
    first.close()  # as Slicer is
    second = Trainee()
    app.answers.give("QFileDialog.getExistingDirectory", str(tmp_path / "parts"))
    second.press("Open")
    second.wait()
    assert (second.controller.state, second.controller.step) == ("paused", paused)
    assert columns(second.controller.plots.losses)["step"] == list(range(1, paused + 1))
    assert second.parameters.size == 32 and [row[0] for row in second.tasks()], "what was found is known"
    assert second.train() == "done", second.status
    assert same(weights_of(tmp_path / "parts"), weights_of(tmp_path / "whole"))
    steps = columns(second.controller.plots.losses)["step"]
    assert steps == [line["step"] for line in log_of(tmp_path / "parts")] == list(range(1, 9))
    second.close()


@pytest.mark.slow
def test_cancelling_asks_and_keeps_or_deletes_only_what_the_run_wrote(trainee, data, tmp_path):
    run = tmp_path / "run"
    looked(trainee, data, run, steps=1000)
    trainee.press("Start")
    assert trainee.until(lambda: trainee.controller.step >= 1), trainee.status
    (run / "notes.txt").write_text("mine", encoding="utf-8")
    app.answers.give(ASKED, qt.QMessageBox.Cancel)
    trainee.press("Cancel")
    assert trainee.controller.state == "training"
    app.answers.give(ASKED, qt.QMessageBox.Save)
    trainee.press("Cancel")
    assert trainee.wait() == "paused" and (run / "checkpoint.pt").exists()
    app.answers.give(ASKED, qt.QMessageBox.Discard)
    trainee.press("Cancel")
    assert trainee.controller.state == "idle", trainee.status
    assert [path.name for path in run.iterdir()] == ["notes.txt"]
    assert len(list(data.rglob("*.nii.gz"))) == 8 and "is deleted" in trainee.status
    trainee.press("Start")
    assert trainee.until(lambda: trainee.controller.step >= 1), trainee.status
    app.answers.give(ASKED, qt.QMessageBox.Discard)
    trainee.press("Cancel")
    assert trainee.wait() == "idle", trainee.status
    assert [path.name for path in run.iterdir()] == ["notes.txt"]


def test_without_a_folder_or_a_run_in_it_a_sentence_says_so(trainee, data, tmp_path):
    looked(trainee, data, "")
    trainee.press("Start")
    assert "Choose a folder for the run" in trainee.status and trainee.controller.state == "idle"
    app.answers.give("QFileDialog.getExistingDirectory", str(data))
    trainee.press("Open")
    assert "No training was begun in" in trainee.status
    (tmp_path / "run").mkdir()
    for name in ("site.toml", "settings.json"):
        (tmp_path / "run" / name).write_text("", encoding="utf-8")
    trainee.ui.trainingFolderEdit.setCurrentPath(str(tmp_path / "run"))
    assert "A training was begun in this folder" in trainee.status
    app.answers.give("QFileDialog.getExistingDirectory", str(tmp_path / "run"))
    trainee.press("Open")
    assert "site.toml: name: this key is missing" in trainee.status and trainee.controller.state == "idle"


@pytest.mark.slow
def test_another_run_in_the_folder_is_refused_and_cannot_be_deleted_by_cancelling(trainee, data, tmp_path):
    run = tmp_path / "run"
    looked(trainee, data, run)
    open_run(run, Site("another", (DataSet("a", images=str(data / "images"), labels=str(data / "labels")),)), {})
    (run / "weights.safetensors").write_bytes(b"a week's work")
    trainee.press("Start")
    trainee.press("Cancel")  # asks nothing: nobody knows yet whose run that is
    assert trainee.wait() == "paused", trainee.status
    assert not trainee.ui.trainingCancelButton.enabled
    assert trainee.train() == "failed" and "holds a run on other data sets" in trainee.status
    assert not trainee.ui.trainingCancelButton.enabled
    trainee.controller.cancel(delete=True)
    assert (run / "weights.safetensors").read_bytes() == b"a week's work"
    trainee.parameters.folder = str(tmp_path / "new")
    trainee.parameters.name = "default"
    assert trainee.train() == "failed" and trainee.ui.trainingStartButton.text == "Start", "nothing was begun"


@pytest.mark.slow
def test_what_is_segmented_in_the_scene_becomes_files_that_can_be_trained_on(trainee, scene, tmp_path):
    from Testing.Slicer.panel.test_panel import patient

    for number in range(3):
        patient(scene, f"Patient {number}", number)
    lonely = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "lonely")
    small(trainee, tmp_path / "run")
    trainee.press("AddScene")
    trainee.wait()
    assert "3 volumes of the scene were written to" in trainee.status and lonely.GetName() in trainee.status
    trainee.look()
    assert [row[0] for row in trainee.tasks()] == ["scene/ball"], trainee.status
    assert trainee.train() == "done", trainee.status
    trainee.press("AddScene")
    trainee.wait()
    assert trainee.ui.trainingSetsTable.item(1, 0).text() == "scene 2"
    scene.Clear()
    app.pump(0.2)
    trainee.parameters.folder = str(tmp_path / "run")
    trainee.press("AddScene")
    assert trainee.until(lambda: "The scene holds no segmentation" in trainee.status), trainee.status


@pytest.mark.slow
def test_a_worker_that_dies_is_told_of_and_the_run_goes_on(trainee, data, tmp_path):
    looked(trainee, data, tmp_path / "run", steps=1000)
    pause_at(trainee, 1)
    kept = trainee.controller.step
    trainee.press("Start")
    assert trainee.until(lambda: trainee.controller.step > kept + 1), trainee.status
    os.kill(trainee.controller.client._transport.pid, signal.SIGKILL)
    assert trainee.wait() == "failed"
    assert "ended in the middle of its work" in trainee.status and "Resume goes on" in trainee.status
    assert trainee.controller.client.occupied == ""
    trainee.press("Start")
    assert trainee.until(lambda: trainee.controller.step > kept + 2), trainee.status
    trainee.press("Pause")
    assert trainee.wait() == "paused", trainee.status
    steps = [line["step"] for line in log_of(tmp_path / "run")]
    assert columns(trainee.controller.plots.losses)["step"] == steps == list(range(1, len(steps) + 1))


@pytest.mark.slow
def test_a_scene_that_is_saved_closed_and_loaded_in_the_middle_disturbs_nothing(trainee, data, tmp_path):
    looked(trainee, data, tmp_path / "run", steps=1000)
    trainee.press("Start")
    assert trainee.until(lambda: trainee.controller.step >= 2), trainee.status
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear()
    app.pump(0.2)
    assert trainee.controller.state == "training"
    assert trainee.ui.trainingSetsTable.rowCount == 1 and trainee.parameters.folder == str(tmp_path / "run")
    reached = trainee.controller.step
    assert trainee.until(lambda: trainee.controller.step > reached + 1), trainee.status
    assert columns(trainee.controller.plots.losses)["step"][0] == 1
    trainee.widget.exit()
    app.pump(0.2)
    trainee.widget.enter()
    trainee.press("Pause")
    assert trainee.wait() == "paused"
    slicer.mrmlScene.Clear()
    app.pump(0.2)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    app.pump(0.3)
    assert trainee.controller.state == "paused" and trainee.controller.folder == tmp_path / "run"
    assert trainee.ui.trainingStartButton.enabled and trainee.ui.trainingStartButton.text == "Resume"
    steps = [line["step"] for line in log_of(tmp_path / "run")]
    assert columns(trainee.controller.plots.losses)["step"] == steps
    assert len(slicer.util.getNodesByClass("vtkMRMLPlotChartNode")) == 1


@pytest.mark.slow
def test_a_training_and_the_segmentation_panel_say_that_they_wait_for_each_other(trainee, data, scene, tmp_path):
    from Testing.Slicer.panel.test_panel import patient

    doctor = Radiologist()
    doctor.panel.parameters.preset = "fast"
    doctor.teach(*patient(scene, "Teacher", 0)[:2])
    target, _labels, _truth = patient(scene, "Target", 1)
    doctor.choose(target)
    looked(trainee, data, tmp_path / "run", steps=1000)
    doctor.press("segmentButton")
    assert app.pump(60, until=lambda: doctor.controller._request is not None)
    trainee.press("Start")
    app.pump(0.2)
    assert trainee.controller.state == "waiting" and "as soon as it is free" in trainee.status
    doctor.wait()
    assert doctor.output is not None, doctor.status
    assert trainee.until(lambda: trainee.controller.step >= 1), trainee.status
    doctor.press("segmentButton")
    app.pump(0.5)
    assert "Waiting for the training" in doctor.ui.progressBar.format
    trainee.press("Pause")
    assert trainee.wait() == "paused"
    doctor.wait()
    assert "Done in" in doctor.status
    doctor.close()


def test_an_answer_that_comes_after_a_module_was_closed_touches_none_of_its_widgets(scene):
    doctor, trainee = Radiologist(), Trainee()
    asked = trainee.controller.client._pending
    assert len(asked) == 2, "each wants to know what there is to compute with"
    doctor.close()
    assert app.pump(60, until=lambda: not asked)
    other = Radiologist()
    assert len(asked) == 1
    trainee.widget.exit()
    trainee.widget.enter()
    trainee.close()
    assert app.pump(60, until=lambda: not asked)
    other.close()


def test_long_logs_are_read_without_holding_the_window(trainee, data, tmp_path):
    looked(trainee, data, tmp_path / "run")
    run = tmp_path / "run"
    run.mkdir()
    generator = np.random.default_rng(0)
    with (run / "log.jsonl").open("w", encoding="utf-8") as log:
        for step in range(1, 5001):
            line = {"step": step, "loss": float(generator.random()), "losses": {f"t{n}": 0.5 for n in range(8)}}
            line |= {"seconds": 0.5} | ({"validation": {f"t{n}": 0.5 for n in range(8)}} if step % 50 == 0 else {})
            log.write(json.dumps(line) + "\n")
    trainee.controller.open(run)
    assert trainee.until(lambda: trainee.controller.step == 5000 and not trainee.controller.queue)
    assert len(columns(trainee.controller.plots.losses)["step"]) == 5000
    assert trainee.controller.queue.longestStepS < 0.1
    print(f"longest piece {1e3 * trainee.controller.queue.longestStepS:.1f} ms")
