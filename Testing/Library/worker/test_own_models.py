"""A user's own models at work, with weights by chance: the worker answers from them what they can answer."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from InContextSegLib.cli.phantom import phantom
from InContextSegLib.errors import InputError, WeightsError
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.inference.loop import Loop
from InContextSegLib.inference.settings import InferenceSettings
from InContextSegLib.models.catalog import find, remove
from InContextSegLib.models.entry import PROMPTS, Capability, CatalogEntry, Weights
from InContextSegLib.models.loading import Model, load_model
from InContextSegLib.models.own import keep
from InContextSegLib.models.sricl import SRICL
from InContextSegLib.models.universeg import UniverSeg
from InContextSegLib.models.weights import save_weights
from InContextSegLib.progress import Report
from InContextSegLib.worker.answers import ANSWERS
from InContextSegLib.worker.cache import WorkerCache
from InContextSegLib.worker.protocol import (
    ArrayRef,
    Correct,
    ExampleRef,
    Neighbours,
    Prepare,
    Preview,
    PromptsRef,
    Propagate,
    Segment,
    TaskSpec,
)
from InContextSegLib.worker.protocol import Weights as AskWeights
from InContextSegLib.worker.shared_arrays import SharedFolder

SHAPE, SPACING_MM = (6, 48, 48), (30.0, 7.0, 7.0)
SMALL = {"widths": (8, 12, 16, 24), "decoder_width": 16, "channels": 32, "attention_width": 16}
NAMES = ["ours", "tuned"]


def kept(folder, name, network, arguments, capability, **others):
    path = folder / f"{name}.safetensors"
    save_weights(path, network.state_dict())
    weights = Weights(path=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    model = "sricl" if isinstance(network, SRICL) else "universeg"
    return keep(CatalogEntry(name, "", model, capability, weights, "", "", arguments), {}, **others)


def sricl(seed=0):
    torch.manual_seed(seed)
    network = SRICL(**SMALL)
    # What it answers is chance, but somewhere it answers something.
    with torch.no_grad():
        network.decoder.norm.weight.mul_(8)
    return network


@pytest.fixture
def models(tmp_path):
    """A new SR-ICL, and a promptable network trained further, at sizes of their own."""
    kept(tmp_path, "ours", sricl(), SMALL, Capability(64, "required"))
    arguments = {"widths": (8, 8, 8), "promptable": True}
    kept(tmp_path, "tuned", UniverSeg(**arguments), arguments, Capability(32, "optional", tuple(PROMPTS)))


@pytest.fixture
def cache(tmp_path, models, monkeypatch):
    monkeypatch.setenv("INCONTEXTSEG_CACHE", str(tmp_path / "cache"))
    return WorkerCache(SharedFolder.make(tmp_path), ANSWERS)


def ref(cache, volume):
    return ArrayRef.of(cache.shared.write(volume.array), volume.geometry, volume.kind)


def example(cache, seed, **others):
    return ExampleRef(*(ref(cache, each) for each in phantom(seed, SHAPE, SPACING_MM)), f"patient {seed}", **others)


def task(cache, model, *seeds, **settings):
    settings = InferenceSettings(**{"supports": 4, "draws": 1, "axes": ("axial",)} | settings)
    return TaskSpec(tuple(example(cache, seed) for seed in seeds), ((1, "liver"),), settings, model=model)


def target(cache):
    return ref(cache, phantom(9, SHAPE, SPACING_MM)[0])


def ask(cache, request):
    return cache.answer(request, Report())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_found_is_the_same_again_and_names_the_model(cache, name):
    asked = Segment(task(cache, name, 0, 1, draws=2, style=True), target(cache))
    found = ask(cache, asked)
    model = found["provenance"]["model"]
    assert model == {"entry": name, "weights_sha256": find(name).weights.sha256}
    cache.forget()
    again = ask(cache, asked)
    for part in ("block", "uncertainty"):
        np.testing.assert_array_equal(*(cache.shared.read(each[part]["array"]) for each in (found, again)))
    assert ask(cache, Preview(asked.task, asked.target, 3))["supports"] == 4


@pytest.mark.parametrize("name", NAMES)
def test_examples_calibrate_and_the_network_adapts_to_them(cache, name):
    about = task(cache, name, 0, 1, 2, calibrate=True, adapt_seconds=3.0)
    found = ask(cache, Prepare(about, target(cache)))
    assert found["size"] in (find(name).capability.input_size, 2 * find(name).capability.input_size)
    assert found["expected"]["liver"]["units"] >= 2 and "Dice" in found["adaptation"]["why"]
    record = ask(cache, Segment(about, target(cache)))["provenance"]["calibration"]
    assert {each["size"] for each in record["tried"]} == {32, 64} if name == "tuned" else {64, 128}


def test_a_replaced_model_is_loaded_anew_and_a_removed_one_is_refused(cache, tmp_path):
    asked = Segment(task(cache, "ours", 0), target(cache))
    before = ask(cache, asked)["provenance"]["model"]["weights_sha256"]
    kept(tmp_path, "ours", sricl(seed=1), SMALL, Capability(64, "required"), replacing=True)
    after = ask(cache, asked)["provenance"]["model"]["weights_sha256"]
    assert before != after == find("ours").weights.sha256
    assert ask(cache, AskWeights("ours", "remove")) == {"removed": True, "seconds": pytest.approx(0, abs=5)}
    with pytest.raises(InputError, match='There is no model "ours" in the catalogue; choose one of default, '):
        ask(cache, asked)


def test_a_model_without_prompts_answers_from_applied_slices_and_carries_them_on(cache):
    image, labels = phantom(9, SHAPE, SPACING_MM)
    here = ref(cache, image)
    drawn = ExampleRef(here, ref(cache, labels), "target", slices=(2,))
    about = TaskSpec((drawn, example(cache, 0)), ((1, "liver"),), model="ours")
    opening = Correct(here, "axial", 3, PromptsRef(), task=about)
    found = ask(cache, opening)
    assert found["context"] == 4 and cache.shared.read(found["probability"]["array"]).std() > 0
    assert ask(cache, Neighbours(here, "axial", 3, radius=1, task=about))["ready"] == [3, 4, 2]
    carried = ask(cache, Propagate(here, "axial", about, stop_below=0.0))
    assert set(carried["slices"]) <= {0, 1, 3, 4, 5}
    click = PromptsRef(points=((tuple(image.geometry.to_world((3.0, 20.0, 20.0)).tolist()), True),))
    with pytest.raises(InputError, match="The model 'ours' takes labelled examples, but clicks came"):
        ask(cache, replace(opening, prompts=click))


def test_a_network_trained_further_takes_clicks(cache):
    image = phantom(9, SHAPE, SPACING_MM)[0]
    click = PromptsRef(points=((tuple(image.geometry.to_world((3.0, 20.0, 20.0)).tolist()), True),))
    found = ask(cache, Correct(ref(cache, image), "axial", 3, click, model="tuned"))
    assert cache.shared.read(found["probability"]["array"]).shape == (1, 48, 48)


def test_an_entry_that_does_not_describe_its_weights_is_refused(models, tmp_path):
    entry = find("ours")
    for arguments, model, why in (
        ({"height": 3}, "sricl", "do not fit the model 'wrong'"),
        ({}, "sricl", "do not fit the model 'wrong'"),
        ({}, "neuroverse", "asks for a model 'neuroverse'; this version has incontext, universeg, sricl"),
    ):
        wrong = replace(entry, name="wrong", arguments=arguments, model=model)
        keep(wrong, {}, replacing=True)
        with pytest.raises(WeightsError, match=why):
            load_model(Model("wrong"))
    remove(find("wrong"), tmp_path)


@pytest.fixture
def looked(monkeypatch):
    """How often which mirroring was looked at, and the pictures of slices under correction."""
    flips, pictures, embed, slice_of = [], [], CachedSegmenter.embed, Loop.slice

    def looking(self, images, flip=(), positions=None):
        flips.append(flip)
        return embed(self, images, flip, positions)

    def cutting(self, number, box):
        pictures.append(box)
        return slice_of(self, number, box)

    monkeypatch.setattr(CachedSegmenter, "embed", looking)
    monkeypatch.setattr(Loop, "slice", cutting)
    return flips, pictures


@pytest.mark.parametrize("anyhow", [True, False])
def test_only_a_model_that_knows_them_is_shown_mirrored_pictures_and_parts(cache, tmp_path, looked, anyhow):
    kept(tmp_path, "ours", sricl(), SMALL, Capability(64, "required", any_view=anyhow), replacing=True)
    found = ask(cache, Segment(task(cache, "ours", 0, draws=4), target(cache)))
    assert set(looked[0]) == ({(), (-1,), (-2,), (-2, -1)} if anyhow else {()})
    assert cache.shared.read(found["uncertainty"]["array"]).any()
    image, labels = phantom(9, SHAPE, SPACING_MM)
    here = ref(cache, image)
    spot = np.zeros_like(labels.array)
    spot[2, 20:26, 20:26] = 1
    drawn = ExampleRef(here, ref(cache, replace(labels, array=spot)), "target", slices=(2,))
    ask(cache, Correct(here, "axial", 3, PromptsRef(), task=TaskSpec((drawn,), ((1, "spot"),), model="ours")))
    assert any(looked[1]) is anyhow
