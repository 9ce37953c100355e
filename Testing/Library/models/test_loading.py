"""An SR-ICL model of the catalogue, with weights by chance, goes the way of every other model."""

import hashlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from InContextSegLib.adaptation.episodes import EpisodeSampler
from InContextSegLib.adaptation.leave_out import LeaveOut
from InContextSegLib.cli.main import main
from InContextSegLib.cli.phantom import phantom
from InContextSegLib.errors import WeightsError
from InContextSegLib.examples.origins import units
from InContextSegLib.examples.support import Label, LabelledVolume, SupportSet
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.inference.session import Session
from InContextSegLib.inference.settings import InferenceSettings
from InContextSegLib.models import catalog
from InContextSegLib.models.catalog import find
from InContextSegLib.models.entry import Capability, CatalogEntry, Weights
from InContextSegLib.models.loading import Model, answering_clicks, load_model
from InContextSegLib.models.networks import build, fitting
from InContextSegLib.models.sricl import SRICL
from InContextSegLib.models.weights import save_weights
from InContextSegLib.progress import Report
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.volumes.files import write_volume

CPU = torch.device("cpu")
ARGUMENTS = {"widths": (8, 12, 16, 24), "decoder_width": 16, "channels": 32, "attention_width": 16}
LIVER = (Label(1, "liver"),)
SHAPE, SPACING_MM = (6, 48, 48), (30.0, 7.0, 7.0)


@pytest.fixture
def entry(tmp_path, monkeypatch):
    """An entry with embedded weights by chance, in the catalogue."""
    torch.manual_seed(0)
    network = SRICL(**ARGUMENTS)
    # What it answers is chance, but somewhere it answers something.
    with torch.no_grad():
        network.decoder.norm.weight.mul_(8)
    path = tmp_path / "chance.safetensors"
    save_weights(path, network.state_dict())
    entry = CatalogEntry(
        name="chance",
        description="",
        model="sricl",
        capability=Capability(input_size=128, support="required"),
        weights=Weights(file=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest()),
        licence="",
        citation="",
        arguments=ARGUMENTS,
    )
    real = catalog.list_entries()
    monkeypatch.setattr(catalog, "list_entries", lambda: (*real, entry))
    monkeypatch.setattr(catalog, "EMBEDDED_FOLDER", tmp_path)
    return entry


def examples(*seeds):
    pairs = [LabelledVolume(*phantom(seed, SHAPE, SPACING_MM), f"patient{seed}") for seed in seeds]
    return SupportSet.from_volumes(pairs, "axial", 128, "all", labels=LIVER)


def test_an_entry_is_built_with_its_arguments_and_loaded_with_its_weights(entry):
    built, (loaded, provenance, size) = build(entry), load_model(Model("chance"))
    assert isinstance(built, SRICL) and not built.training and not loaded.training
    assert {name: each.shape for name, each in built.state_dict().items()} == {
        name: each.shape for name, each in loaded.state_dict().items()
    }
    assert (provenance, size) == ({"entry": "chance", "weights_sha256": entry.weights.sha256}, 128)


def test_a_model_of_an_unknown_architecture_is_refused(entry):
    other = replace(entry, model="neuroverse")
    for make in (lambda: build(other), lambda: fitting(other, {})):
        with pytest.raises(
            ValueError, match="asks for a model 'neuroverse'; this version has incontext, universeg, sricl"
        ):
            make()


def test_weights_of_ones_own_may_be_of_other_widths(entry, tmp_path):
    save_weights(tmp_path / "own.safetensors", SRICL(**ARGUMENTS | {"channels": 16}).state_dict())
    network, provenance, _ = load_model(Model("chance", tmp_path / "own.safetensors"))
    assert network.decoder.out.out_channels == 16
    assert provenance["weights_sha256"] != entry.weights.sha256


def test_weights_of_one_architecture_do_not_pass_for_those_of_another(entry, tmp_path):
    with pytest.raises(WeightsError, match="do not fit the model 'default'; name the model they belong to"):
        load_model(Model("default", tmp_path / "chance.safetensors"))
    save_weights(tmp_path / "universeg.safetensors", build(find("default")).state_dict())
    with pytest.raises(WeightsError, match="do not fit the model 'chance'"):
        load_model(Model("chance", tmp_path / "universeg.safetensors"))


def test_contexts_cached_one_by_one_give_what_the_network_gives_directly(entry):
    network, _, _ = load_model(Model("chance"))
    cached, support = CachedSegmenter(network, CPU), examples(0, 1)
    slices = torch.from_numpy(np.stack([each.image for each in support.examples]))[:, None]
    masks = torch.from_numpy(np.stack([each.labels == 1 for each in support.examples]))[:, None].float()
    count, query = len(slices), torch.from_numpy(examples(2).examples[3].image.copy())[None, None]
    logits = cached.logits(cached.embed(query), cached.context(support.examples, 1))
    with torch.inference_mode():
        direct = network(query, slices[None], masks[None])[:, 0]
    torch.testing.assert_close(logits, direct[:, :1] - direct[:, 1:], rtol=1e-5, atol=1e-5)
    assert logits.abs().max() > 0.1
    # Two vectors and their weights for each.
    assert count == 12 and cached.contexts.used_bytes == count * cached.joined.used_bytes
    assert cached.joined.used_bytes == 2 * (8 * 32 + 8 * 8 + 8 + 1) * 4


def test_a_session_segments_a_phantom_and_looks_at_every_example_once(entry, monkeypatch):
    network, provenance, _ = load_model(Model("chance"))
    looked, condition = [], network.condition
    monkeypatch.setattr(network, "condition", lambda *given: looked.append(len(given[0])) or condition(*given))
    session = Session(network, [examples(0)], Intensities(), provenance, CPU)
    settings = InferenceSettings(supports=4, draws=1, axes=("axial",))
    volume = phantom(1, SHAPE, SPACING_MM)[0]
    predictions = [session.segment(volume, settings, Report(), keep_probabilities=True) for _ in range(2)]
    np.testing.assert_array_equal(predictions[0].mask.array, predictions[1].mask.array)
    assert predictions[0].probabilities[1].std() > 0
    assert 0 < len(looked) <= 6


@pytest.mark.parametrize("own", [False, True])
def test_the_command_line_segments_a_phantom_with_it(entry, tmp_path, capfd, own):
    for seed, name in ((0, "case"), (1, "target")):
        for volume, ending in zip(phantom(seed, SHAPE, SPACING_MM), ("", "_labels"), strict=True):
            write_volume(tmp_path / f"{name}{ending}.nii.gz", volume)
    weights = ["--weights", str(tmp_path / "chance.safetensors")] if own else []
    paths = [str(tmp_path / name) for name in ("target.nii.gz", "case.nii.gz", "case_labels.nii.gz", "mask.nii.gz")]
    words = ["--image", paths[0], "--support", *paths[1:3], "--output", paths[3], "--labels", "1=liver"]
    assert main(["segment", *words, "--model", "chance", *weights, "--supports", "3", "--draws", "2"]) == 0
    record = json.loads((tmp_path / "mask.json").read_text(encoding="utf-8"))
    assert record["provenance"]["model"] == {"entry": "chance", "weights_sha256": entry.weights.sha256}
    assert (tmp_path / "mask_picture.png").is_file()


def test_an_episode_teaches_every_part_of_it(entry):
    (network, _, _), support = load_model(Model("chance")), examples(0, 1)
    before = {name: each.clone() for name, each in network.state_dict().items()}
    sampler = EpisodeSampler(LeaveOut(support, support, units(support)), CPU, seed=0)
    assert sampler.train(network, range(len(support)), 2, math.inf, lambda step: None) == 2
    assert [name for name, each in network.state_dict().items() if torch.equal(each, before[name])] == []


def test_a_model_may_leave_clicks_to_another_but_weights_of_ones_own_answer_themselves(tmp_path):
    assert answering_clicks(Model("default"), find("default")) == Model("universeg")
    assert find("universeg").capability.prompts == find("default").capability.prompts
    assert answering_clicks(Model("universeg-v1"), find("universeg-v1")) == Model("universeg-v1")
    own = Model("default", tmp_path / "own.safetensors")
    assert answering_clicks(own, find("default")) is own
