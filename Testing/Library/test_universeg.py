"""The network's parts as inference uses them."""

import pytest
import torch

from InContextSegLib.models import universeg
from InContextSegLib.models.universeg import UniverSeg


@pytest.fixture
def network():
    torch.manual_seed(0)
    return UniverSeg(width=8, depth=3).eval()


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
