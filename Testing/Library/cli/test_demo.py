"""The demonstration, on patients small enough to wait for."""

import json

import pytest

from InContextSegLib.cli import demo
from InContextSegLib.cli.main import main
from InContextSegLib.cli.phantom import LABEL_NAMES, phantom
from InContextSegLib.progress import Report
from Testing.Library.fake_segmenter import SIZE, Threshold, use


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    use(monkeypatch, Threshold(), SIZE)
    monkeypatch.setattr(demo, "phantom", lambda seed: phantom(seed, (12, 48, 48), (16.0, 7.3, 7.3)))


def test_the_demonstration_writes_its_patients_and_compares_with_the_truth(tmp_path):
    record, text = demo.run_demo(tmp_path, Report())
    assert set(record["scores"]) == set(LABEL_NAMES.values())
    assert all(name in text for name in LABEL_NAMES.values())
    assert len(list((tmp_path / "examples" / "images").iterdir())) == 3
    assert {"new_patient.nii.gz", "new_patient_labels.nii.gz", "new_patient_labels_picture.png"} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_the_demonstration_can_be_repeated_in_its_folder_and_said_as_json(tmp_path, capfd):
    for _ in range(2):
        assert main(["demo", "--output", str(tmp_path / "demo"), "--json"]) == 0
    last = capfd.readouterr().out.splitlines()[-1]
    assert set(json.loads(last)["scores"]) == set(LABEL_NAMES.values())
