"""The in-context network in training: what is asked, what is learnt, and a run that is stopped and resumed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from InContextSegLib.errors import Cancelled, InputError
from InContextSegLib.models.efficientnet import EfficientNetLite
from InContextSegLib.models.weights import load_weights
from InContextSegLib.progress import Report
from InContextSegLib.training.courses import course_of
from InContextSegLib.training.episodic.course import OpenTasks, planned
from InContextSegLib.training.episodic.groups import Group
from InContextSegLib.training.recipe import EpisodicRecipe
from InContextSegLib.training.trainer import Trainer, train

CPU = torch.device("cpu")
NARROW = {"width": 8, "fine": 8, "coarse": 8, "context": 8}
TINY = EpisodicRecipe(
    name="tiny",
    seed=3,
    learning_rate=1e-3,
    warmup_steps=2,
    decay_steps=2,
    checkpoint_every=1,
    loader_processes=0,
    steps_in_all=3,
    sizes=(64,),
    pictures=3,
    groups_per_step=1,
    episodes=2,
    prompted=0.4,
    alone=0.3,
    rounds=(1, 2),
)


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return EfficientNetLite().state_dict()


def course(backbone, recipe=TINY):
    return OpenTasks(recipe, [], backbone, NARROW)


def stop_after(steps):
    def show(done, total, message):
        if done == steps:
            report.cancel()

    report = Report(show)
    return report


def test_a_run_that_was_stopped_and_resumed_ends_with_the_very_same_weights(tmp_path, backbone):
    train(course(backbone), tmp_path / "whole", CPU, Report())
    with pytest.raises(Cancelled):
        train(course(backbone), tmp_path / "parts", CPU, stop_after(1))
    train(course(backbone), tmp_path / "parts", CPU, Report())
    whole, parts = (load_weights(tmp_path / name / "weights.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert (tmp_path / "parts" / "losses.png").is_file()


def test_weights_hold_the_backbone_and_are_half_precision(tmp_path, backbone):
    train(course(backbone, replace(TINY, steps_in_all=1)), tmp_path, CPU, Report())
    weights = load_weights(tmp_path / "weights.safetensors")
    assert torch.equal(weights["backbone.stem.weight"], backbone["stem.weight"].half())
    assert "backbone.stem.weight" not in torch.load(tmp_path / "checkpoint.pt", weights_only=True)["network"]


def test_a_run_of_other_widths_is_not_continued(tmp_path, backbone):
    train(course(backbone, replace(TINY, steps_in_all=1)), tmp_path, CPU, Report())
    with pytest.raises(InputError, match="choose another folder"):
        Trainer(OpenTasks(TINY, [], backbone, NARROW | {"fine": 16}), tmp_path, CPU)


def group(units, shown):
    masks = torch.zeros(1, len(units), 1, 64, 64)
    for index in shown:
        masks[0, index, 0, :16, :16] = 1
    return Group(torch.rand(len(units), 3, 64, 64), masks, tuple(units))


def test_no_query_is_asked_by_the_help_of_its_own_patient():
    drawn = group([0, 0, 1, 2], [0, 1, 2])
    for seed in range(20):
        for _, query, taken in planned(drawn, 3, False, np.random.default_rng(seed)):
            assert query in (0, 1, 2)
            assert not {drawn.units[query]} & {drawn.units[index] for index in taken}


def test_some_example_always_shows_what_is_asked_for():
    drawn = group([0, 1, 2, 3, 4], [0, 4])
    for seed in range(20):
        episodes = planned(drawn, 2, False, np.random.default_rng(seed))
        assert len({len(taken) for _, _, taken in episodes}) == 1
        assert all({0, 4} & set(taken) for _, _, taken in episodes)


def test_a_recipe_that_names_open_data_asks_for_their_folder(tmp_path):
    mapping = {"name": "x", "seed": 1, "learning_rate": 0.1, "warmup_steps": 1, "decay_steps": 1, "steps_in_all": 1}
    with pytest.raises(InputError, match="name their folder with --data"):
        course_of(mapping | {"open_data": "open_data.toml"}, tmp_path / "recipe.toml", None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": (100,)}, "sizes: asked for multiples of 32"),
        ({"prompted": 0.7, "alone": 0.7}, "at most 1 together"),
        ({"pictures": 1}, "pictures: asked for at least 2"),
        ({"rounds": ()}, "rounds: asked for whole numbers"),
    ],
)
def test_nonsense_in_a_recipe_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)
