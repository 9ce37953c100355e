"""The weights that come with the software still do what they are for."""

from dataclasses import replace
from pathlib import Path

import pytest

from InContextSegLib.config import from_mapping, read_toml
from InContextSegLib.evaluation.study import Run, Study, chosen_sets, run_study
from InContextSegLib.models.catalog import find
from InContextSegLib.models.loading import Model
from InContextSegLib.progress import Report

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_white_blood_cells_are_segmented_from_sixteen_examples(data_folder, tmp_path):
    file = ROOT / "Resources" / "Studies" / "development.toml"
    study = chosen_sets(from_mapping(Study, read_toml(file), str(file)), ["wbc_jtsc"])
    study = replace(study, supports=(16,), sets=(replace(study.sets[0], tests=8),))
    result, table = run_study(study, Run(data_folder, tmp_path / "run", Model()), Report())
    dice = {row["label"]: row["dice"]["mean"] for row in result["summaries"]}
    assert dice["nucleus"] > 0.8 and dice["cytoplasm"] > 0.65, table
    assert result["model"]["weights_sha256"] == find("default").weights.sha256


def test_the_model_card_names_the_weights_it_describes():
    card = (ROOT / "InContextSegLib" / "weights" / "default.md").read_text(encoding="utf-8")
    assert find("default").weights.sha256 in card
