"""The network's parts as inference uses them."""

import pytest
import torch

from InContextSegLib.models import universeg
from InContextSegLib.models.universeg import UniverSeg


@pytest.fixture
def network():
    torch.manual_seed(0)
    return UniverSeg((8, 8, 12)).eval()


@pytest.fixture
def promptable():
    torch.manual_seed(0)
    return UniverSeg((8, 8, 12), promptable=True).eval()


def examples(count, size=32):
    images = torch.rand(1, count, 1, size, size)
    return images, (images > 0.5).float()


@torch.inference_mode()
def test_contexts_joined_from_single_examples_equal_the_context_of_all(network):
    images, masks = examples(5)
    singles = [network.condition(images[:, n : n + 1], masks[:, n : n + 1]) for n in range(5)]
    query = network.encode(torch.rand(2, 1, 32, 32))
    together = network.segment(query, network.condition(images, masks))
    assert torch.allclose(network.segment(query, network.join(singles)), together, atol=1e-6)


@torch.inference_mode()
def test_supports_in_small_chunks_give_the_same_logits(network, monkeypatch):
    images, masks = examples(7)
    query = network.encode(torch.rand(3, 1, 32, 32))
    whole = network.segment(query, network.condition(images, masks))
    monkeypatch.setattr(universeg, "CHUNK_BYTES", 1)
    assert torch.allclose(network.segment(query, network.condition(images, masks)), whole, atol=1e-6)


@torch.inference_mode()
def test_several_slices_at_once_give_what_each_gives_alone(network):
    context = network.condition(*examples(4))
    targets = torch.rand(3, 1, 32, 32)
    together = network.segment(network.encode(targets), context)
    for number in range(3):
        alone = network.segment(network.encode(targets[number : number + 1]), context)
        assert torch.allclose(alone[0], together[number], atol=1e-6)


@torch.inference_mode()
def test_the_order_of_the_examples_does_not_matter(network):
    images, masks = examples(6)
    query = network.encode(torch.rand(1, 1, 32, 32))
    order = torch.randperm(6)
    there = network.segment(query, network.condition(images, masks))
    assert torch.allclose(
        network.segment(query, network.condition(images[:, order], masks[:, order])), there, atol=1e-6
    )


def test_segmenting_changes_neither_embedding_nor_context(network):
    with torch.inference_mode():
        embedding, context = network.encode(torch.rand(1, 1, 32, 32)), network.condition(*examples(3))
        first = network.segment(embedding, context)
        assert torch.equal(network.segment(embedding, context), first)


def test_a_size_that_pooling_cannot_halve_is_refused(network):
    with pytest.raises(ValueError, match="multiples of 4, and got 30 x 32 pixels"):
        network.encode(torch.rand(1, 1, 30, 32))


def test_an_empty_support_set_is_refused(network):
    with pytest.raises(ValueError, match="at least one labelled example"):
        network.condition(torch.rand(1, 0, 1, 32, 32), torch.rand(1, 0, 1, 32, 32))


@torch.inference_mode()
def test_no_prompts_are_the_same_as_zeros(promptable):
    query, context = promptable.encode(torch.rand(2, 1, 32, 32)), promptable.condition(*examples(3))
    for known in (context, None):
        without = promptable.segment(query, known)
        assert torch.allclose(promptable.segment(query, known, torch.zeros(2, 4, 32, 32)), without, atol=1e-6)
        assert not torch.allclose(promptable.segment(query, known, torch.ones(2, 4, 32, 32)), without, atol=1e-3)


@torch.inference_mode()
def test_no_supports_are_what_a_support_stream_of_zeros_would_be(promptable):
    image, prompts = torch.rand(1, 1, 32, 32), torch.rand(1, 4, 32, 32)
    alone = promptable.segment(promptable.encode(image), None, prompts)
    for name, parameter in promptable.named_parameters():
        if "support" in name:
            parameter.zero_()  # whatever the examples show, nothing of it passes the first block
    first = promptable.enc_blocks[0].cross.cross_conv
    first.weight[:, 5:] = 0
    assert torch.allclose(promptable(image, *examples(3), prompts), alone, atol=1e-6)


def test_the_forward_call_without_supports_answers_from_prompts_alone(promptable):
    none = torch.zeros(2, 0, 1, 32, 32)
    image, prompts = torch.rand(2, 1, 32, 32), torch.rand(2, 4, 32, 32)
    alone = promptable.segment(promptable.encode(image), None, prompts)
    assert torch.equal(promptable(image, none, none, prompts), alone)


def test_a_network_that_is_not_promptable_refuses_prompts_and_no_supports(network):
    query, context = network.encode(torch.rand(1, 1, 32, 32)), network.condition(*examples(2))
    with pytest.raises(ValueError, match="from labelled examples alone, and got prompts"):
        network.segment(query, context, torch.zeros(1, 4, 32, 32))
    with pytest.raises(ValueError, match="from labelled examples alone, and got no labelled example"):
        network.segment(query, None)


def test_training_reaches_the_prompt_channels_with_and_without_supports(promptable):
    image, prompts = torch.rand(1, 1, 32, 32), torch.rand(1, 4, 32, 32)
    for count in (0, 2):
        promptable.zero_grad()
        promptable(image, *examples(count), prompts).square().sum().backward()
        assert promptable.enc_blocks[0].cross.cross_conv.weight.grad[:, 1:5].abs().amin(dim=(0, 2, 3)).min() > 0
