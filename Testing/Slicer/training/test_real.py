"""The training module on a few real cases, from an empty widget to a model, every piece of the window's work timed."""

import json
import shutil
import time

import pytest

from InContextSegLib.models.catalog import find
from Testing.Slicer.harness import app
from Testing.Slicer.trainee import Trainee, columns

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]
CASES = 6
NOTICED_S = 0.1


@pytest.fixture
def few(data_folder, tmp_path, ownFolders):
    """Some patients of a real data set."""
    folder = data_folder / "msd_hippocampus"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    for kind in ("images", "labels"):
        (tmp_path / "hippocampus" / kind).mkdir(parents=True)
        for path in sorted((folder / kind).glob("*.nii.gz"))[:CASES]:
            shutil.copy(path, tmp_path / "hippocampus" / kind)
    return tmp_path / "hippocampus"


def test_a_real_data_set_becomes_a_model_paused_and_resumed_on_the_way(scene, few, tmp_path):
    trainee, pieces = Trainee(size=(560, 1450)), []
    timed, tick = time.thread_time, trainee.controller.tick

    def ticking():
        before = timed()
        tick()
        pieces.append(timed() - before)

    trainee.controller.tick = ticking
    trainee.addFolder(few)
    trainee.ui.trainingSetsTable.item(0, 1).setText("1 anterior, 2 posterior")
    chosen = trainee.parameters
    chosen.model, chosen.size, chosen.steps, chosen.validateEvery = "default", 128, 20, 5
    chosen.references, chosen.queries, chosen.learningRate = 4, 2, 0.0003
    chosen.folder, chosen.name, chosen.device = str(tmp_path / "run"), "hippocampus", "cpu"
    trainee.look()
    assert [row[0] for row in trainee.tasks()] == ["hippocampus/anterior", "hippocampus/posterior"], trainee.status
    trainee.picture("real_found")
    trainee.press("Start")
    assert trainee.until(lambda: trainee.controller.step >= 6), trainee.status
    trainee.picture("real_training")
    trainee.press("Pause")
    assert trainee.wait() == "paused", trainee.status
    trainee.picture("real_paused")
    assert trainee.train() == "done", trainee.status
    trainee.picture("real_done")
    assert trainee.ui.trainingUseButton.enabled and find("hippocampus").model == "incontext"
    assert "hippocampus/anterior" in (tmp_path / "models/hippocampus/card.md").read_text(encoding="utf-8")
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert columns(trainee.controller.plots.losses)["loss"] == [line["loss"] for line in log]
    dice = [line["validation"]["hippocampus/anterior"] for line in log if "validation" in line]
    assert len(log) == 20 and dice[-1] > dice[0] > 0
    assert max(pieces) < NOTICED_S, f"the window's thread worked {1e3 * max(pieces):.0f} ms at a time"
    longest = trainee.controller.queue.longestStepS
    print(f"{len(pieces)} ticks, longest {1e3 * max(pieces):.1f} ms on a core, longest task {1e3 * longest:.1f} ms")
    trainee.close()
    app.pump()
