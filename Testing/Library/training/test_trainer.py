"""Training: the recipe's numbers, the stream of episodes, and a run that is killed and resumed."""

from dataclasses import replace

import pytest
import torch

from InContextSegLib.errors import Cancelled, InputError
from InContextSegLib.models.precision import has_fast_bfloat16
from InContextSegLib.models.weights import load_weights
from InContextSegLib.progress import Report
from InContextSegLib.training.keeping import load_checkpoint
from InContextSegLib.training.recipe import Architecture, Recipe, Stage
from InContextSegLib.training.synthetic.course import InventedTasks
from InContextSegLib.training.synthetic.episodes import draw_episodes
from InContextSegLib.training.trainer import Trainer, train

CPU = torch.device("cpu")
TINY = Recipe(
    name="tiny",
    seed=5,
    architecture=Architecture((4, 4)),
    stages=(Stage(3, (16,), 6 * 16**2, (1, 2), prompted=0.5), Stage(3, (32,), 6 * 32**2, (0, 2))),
    learning_rate=1e-2,
    warmup_steps=2,
    decay_steps=2,
    checkpoint_every=2,
    loader_processes=0,
)


def stop_after(steps):
    def show(done, total, message):
        if done == steps:
            report.cancel()

    report = Report(show)
    return report


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut off", b"\x80\x02X\x01", b"\x80\x02."])
def test_a_run_whose_checkpoint_is_damaged_says_so(tmp_path, content):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"checkpoint\.pt is damaged or cannot be read; choose another folder"):
        load_checkpoint(tmp_path / "checkpoint.pt", CPU, "about")


@pytest.mark.parametrize("state", [{"seed": 0, "tasks": []}, {"about": ""}, [1]])
def test_a_checkpoint_of_another_kind_of_run_is_refused(tmp_path, state):
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match=r"checkpoint\.pt holds no run of this kind; choose another folder"):
        load_checkpoint(tmp_path / "checkpoint.pt", CPU, "about")


def test_a_run_that_was_stopped_and_resumed_ends_with_the_very_same_weights(tmp_path):
    train(InventedTasks(TINY), tmp_path / "whole", CPU, Report())
    with pytest.raises(Cancelled, match="Cancelled after 4 of 6"):
        train(InventedTasks(TINY), tmp_path / "parts", CPU, stop_after(3))
    train(InventedTasks(TINY), tmp_path / "parts", CPU, Report())
    whole, parts = (load_weights(tmp_path / name / "weights.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_a_run_killed_between_checkpoints_repeats_the_lost_steps_exactly(tmp_path):
    train(InventedTasks(TINY), tmp_path / "whole", CPU, Report())
    trainer = Trainer(InventedTasks(TINY), tmp_path / "killed", CPU)
    with pytest.raises(Cancelled):
        trainer.run(stop_after(1))
    checkpoint = (tmp_path / "killed" / "checkpoint.pt").read_bytes()
    with pytest.raises(Cancelled):
        Trainer(InventedTasks(TINY), tmp_path / "killed", CPU).run(stop_after(4))
    (tmp_path / "killed" / "checkpoint.pt").write_bytes(checkpoint)
    train(InventedTasks(TINY), tmp_path / "killed", CPU, Report())
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "killed")]
    assert logs[0] == logs[1]


def test_another_seed_gives_other_weights(tmp_path):
    first = train(InventedTasks(TINY), tmp_path / "a", CPU, Report())
    other = train(InventedTasks(replace(TINY, seed=6)), tmp_path / "b", CPU, Report())
    again = train(InventedTasks(TINY), tmp_path / "c", CPU, Report())
    assert first["sha256"] == again["sha256"] != other["sha256"]


def test_a_run_of_another_architecture_is_not_continued(tmp_path):
    train(InventedTasks(TINY), tmp_path, CPU, Report())
    with pytest.raises(InputError, match="choose another folder"):
        Trainer(InventedTasks(replace(TINY, architecture=Architecture((8, 8)))), tmp_path, CPU)


def test_training_lowers_the_loss(tmp_path):
    recipe = replace(TINY, stages=(Stage(60, (16,), 24 * 16**2, (2,)),), decay_steps=20)
    trainer = Trainer(InventedTasks(replace(recipe, architecture=Architecture((8, 8, 8)))), tmp_path, CPU)
    losses = [trainer._one_step(draw_episodes(recipe, step % 2, CPU))["loss"] for step in range(60)]
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6])


def test_the_episodes_of_a_step_depend_on_seed_and_step_alone():
    first, again = draw_episodes(TINY, 3, CPU), draw_episodes(TINY, 3, CPU)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.support_masks, again.support_masks)
    assert not torch.equal(first.images, draw_episodes(TINY, 4, CPU).images)


def test_a_stage_begins_where_the_one_before_ends():
    assert [TINY.stage_at(step).sizes for step in range(6)] == [(16,)] * 3 + [(32,)] * 3


def test_the_learning_rate_rises_holds_and_falls_to_its_last_step():
    recipe = replace(
        TINY, stages=(Stage(10, (16,), 6 * 16**2, (1,)),), warmup_steps=2, decay_steps=4, learning_rate=0.8
    )
    rates = [round(recipe.learning_rate_at(step), 3) for step in range(10)]
    assert rates == [0.4, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.6, 0.4, 0.2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": ()}, "stages: asked for at least one stage"),
        ({"learning_rate": 0.0}, "learning_rate: asked for a number between 0 and 1"),
        ({"average_decay": 1.0}, "average_decay: asked for a number in"),
        ({"decay_steps": 0}, "decay_steps: asked for at least 1, got 0"),
    ],
)
def test_nonsense_in_a_recipe_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_a_step_too_small_for_one_episode_is_refused():
    with pytest.raises(ValueError, match="pixels_per_step: asked for at least 2304, got 2048"):
        Stage(1, (8 * 2, 16), 8 * 16**2, (2, 8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": ()}, "sizes, supports, rounds: asked for at least one of each"),
        ({"rounds": (0,)}, "rounds: asked for at least 1, got 0"),
        ({"sizes": (8,)}, "sizes: asked for at least 16, got 8"),
        ({"supports": (-1,)}, "supports: asked for at least 0, got -1"),
        ({"prompted": 1.5}, "prompted: asked for a share from 0 to 1, got 1.5"),
    ],
)
def test_nonsense_in_a_stage_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY.stages[0], **change)


@pytest.mark.parametrize(("widths", "message"), [((8,), "number of widths"), ((8, 0), "widths: asked for at least 1")])
def test_a_network_needs_two_levels_with_a_channel_each(widths, message):
    with pytest.raises(ValueError, match=message):
        Architecture(widths)


def test_a_network_without_prompt_channels_cannot_be_trained_with_a_user():
    with pytest.raises(ValueError, match="not promptable"):
        replace(TINY, architecture=Architecture((4, 4), promptable=False))


def test_without_supports_the_user_always_speaks():
    drawn = [draw_episodes(TINY, step, CPU) for step in range(3, 6)] * 4
    assert all(episodes.rounds > 0 for episodes in drawn if not episodes.support_images.shape[1])


def test_the_loss_is_that_of_the_last_answer_and_the_prior_is_the_one_before(tmp_path, monkeypatch):
    trainer = Trainer(InventedTasks(TINY), tmp_path, CPU)
    episodes = replace(draw_episodes(TINY, 3, CPU), rounds=3)
    seen, forward = [], trainer.network.forward

    def watched(*inputs):
        logits = forward(*inputs)
        seen.append((inputs[3], logits.detach().float()))
        return logits

    monkeypatch.setattr(trainer.network, "forward", watched)
    answer = trainer.course._answer(trainer.network, episodes, 0)
    assert len(seen) == 3
    assert torch.equal(answer.detach(), seen[2][1])
    assert not seen[0][0][:, 3].any()
    prior, told = seen[2][0][:, 3], torch.tanh(seen[1][1][:, 0] / 2)
    kept = prior.flatten(1).any(dim=1)
    assert kept.any() and torch.allclose(prior[kept], told[kept])


def test_an_old_torch_that_does_not_know_the_processor_trains_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not has_fast_bfloat16(CPU)
    assert has_fast_bfloat16(torch.device("cuda"))
