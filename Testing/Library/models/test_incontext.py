"""The in-context network on pretrained features, with random weights."""

import pytest
import torch

from InContextSegLib.models.incontext import InContextNet, _blended
from InContextSegLib.models.ridge import Moments


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = InContextNet(width=16, fine=12, coarse=16, context=16).eval()
    for parameter in network.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


def examples(count, size=64, channels=1):
    images = torch.rand(1, count, channels, size, size)
    return images, (images.mean(dim=2, keepdim=True) > 0.6).float()


@torch.inference_mode()
def test_contexts_add_to_the_context_of_all_examples_and_subtract_again(network):
    images, masks = examples(4)
    single = [network.condition(images[:, n : n + 1], masks[:, n : n + 1]) for n in range(4)]
    query = network.encode(torch.rand(2, 1, 64, 64))
    together = network.segment(query, network.condition(images, masks))
    assert torch.allclose(network.segment(query, network.join(single)), together, atol=2e-3)
    without = network.segment(query, network.condition(images[:, :3], masks[:, :3]))
    assert torch.allclose(network.segment(query, network.join(single) - single[3]), without, atol=2e-3)


@torch.inference_mode()
def test_grey_pictures_are_the_same_three_times(network):
    images, masks = examples(2)
    context = network.condition(images, masks)
    grey = torch.rand(1, 1, 64, 64)
    one, three = (network.segment(network.encode(x), context) for x in (grey, grey.expand(-1, 3, -1, -1)))
    assert torch.equal(one, three)


@torch.inference_mode()
def test_answers_have_the_resolution_of_the_pictures_and_sizes_may_differ(network):
    context = network.condition(*examples(1))
    assert network.segment(
        network.encode(torch.rand(2, 1, 96, 128)),
        context.__class__(context.fine, context.coarse, torch.zeros(1, 1, 24, 32), 1),
    ).shape == (2, 1, 96, 128)


@torch.inference_mode()
def test_it_answers_without_examples_and_prompts_change_the_answer(network):
    query = network.encode(torch.rand(1, 1, 64, 64))
    silent = network.segment(query, None)
    prompts = torch.zeros(1, 4, 64, 64)
    assert torch.equal(silent, network.segment(query, None, prompts))
    prompts[:, 0, 20:24, 20:24] = 1
    positive = network.segment(query, None, prompts)
    prompts[:, 1, 40:44, 40:44] = 1
    both = network.segment(query, None, prompts)
    assert not torch.equal(silent, positive)
    assert not torch.equal(positive, both)


@torch.inference_mode()
def test_clicks_on_either_side_move_the_heads_to_them(network):
    context = network.condition(*examples(3))
    query = network.encode(torch.rand(1, 1, 64, 64))
    prompts = torch.zeros(1, 4, 64, 64)
    prompts[:, 0, 16:20, 16:20], prompts[:, 1, 48:52, 48:52] = 1, 1
    before, after = (network.answers(query, context, said)[1] for said in (None, prompts))
    assert after[0, 0, 4, 4] > before[0, 0, 4, 4]
    assert after[0, 0, 12, 12] < before[0, 0, 12, 12]


def test_clicks_have_half_the_weight_of_their_class_beside_examples():
    of_examples = Moments(torch.eye(2)[None] * 100, torch.eye(2)[None] * 1000)
    clicked = Moments(torch.eye(2)[None] * 4, torch.zeros(1, 2, 2))
    found = _blended(of_examples, clicked)
    assert torch.allclose(found.inside, of_examples.inside)  # half of either, at the examples' total
    assert torch.equal(found.outside, of_examples.outside)


def test_no_example_is_no_context(network):
    with pytest.raises(ValueError, match="at least one labelled example"):
        network.condition(torch.zeros(1, 0, 1, 64, 64), torch.zeros(1, 0, 1, 64, 64))


def test_a_network_is_rebuilt_from_its_state_dict(network):
    again = InContextNet.fitting(network.state_dict())
    again.load_state_dict(network.state_dict())
    assert again.arguments == network.arguments


def test_training_changes_nothing_of_the_backbone(network):
    network.train()
    names = {name for name, each in network.named_parameters() if each.requires_grad}
    assert not any(name.startswith("backbone.") for name in names)
    assert not network.backbone.training
    network.eval()


def test_gradients_reach_embedding_and_ridge_through_the_solution(network):
    network.train()
    images, masks = examples(2)
    logits = network(torch.rand(1, 1, 64, 64), images, masks)
    network.zero_grad()
    logits.square().mean().backward()
    for parameter in (network.to_fine.weight, network.fine_strength, network.at16.weight):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
    network.eval()
