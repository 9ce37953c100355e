"""A network that remembers: nothing is computed twice, and what is remembered is what would be computed."""

import gc
import weakref
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from InContextSegLib.examples.support import Example
from InContextSegLib.inference import cached
from InContextSegLib.inference.cached import CachedSegmenter
from Testing.Library.fake_segmenter import SIZE, Threshold

CPU = torch.device("cpu")


class Counting(Threshold):
    """Counts what is computed."""

    def __init__(self):
        super().__init__()
        self.encoded, self.conditioned, self.joined = 0, 0, 0

    def encode(self, images):
        self.encoded += 1
        return super().encode(images)

    def condition(self, images, masks):
        self.conditioned += images.shape[1]
        return super().condition(images, masks)

    def join(self, contexts):
        self.joined += 1
        return super().join(contexts)


@pytest.fixture
def network():
    return CachedSegmenter(Counting(), CPU)


def example(generator):
    image = generator.random((SIZE, SIZE), dtype=np.float32)
    return Example(image, (image > 0.5).astype(np.uint16) + (image > 0.8), None, "drawn")


def test_an_image_is_encoded_once(network):
    images = torch.rand(1, 1, SIZE, SIZE)
    assert network.embed(images) is network.embed(images.clone())
    assert network.segmenter.encoded == 1
    network.embed(images, flip=(-1,))
    network.embed(images + 0.1)
    assert network.segmenter.encoded == 3


def test_dark_images_of_different_sizes_are_told_apart(network):
    small, large = torch.zeros(4, 1, SIZE, SIZE), torch.zeros(1, 1, 2 * SIZE, 2 * SIZE)
    assert [network.embed(images).images.shape for images in (small, large)] == [small.shape, large.shape]


def test_an_example_is_conditioned_once_whatever_others_stand_beside_it(network, generator):
    one, two, three = (example(generator) for _ in range(3))
    network.context([one, two], 1)
    network.context([two, three, one], 1)
    assert (network.segmenter.conditioned, network.segmenter.joined) == (3, 2)
    network.context([one, two], 1)
    assert (network.segmenter.conditioned, network.segmenter.joined) == (3, 2)
    network.context([one], 2)
    assert network.segmenter.conditioned == 4


@pytest.mark.parametrize("flip", [(), (-1,), (-2, -1)])
def test_a_context_holds_the_examples_in_their_order_with_the_label_asked_for(network, generator, flip):
    examples = [example(generator) for _ in range(3)]
    context = network.context(examples, 2, flip)
    images, masks = (np.stack([getattr(each, name) for each in examples]) for name in ("image", "labels"))
    np.testing.assert_array_equal(context.images[0, :, 0].flip(flip), torch.from_numpy(images))
    np.testing.assert_array_equal(context.masks[0, :, 0].flip(flip), torch.from_numpy(masks == 2).float())


def test_memory_stays_within_its_budgets(monkeypatch, generator):
    monkeypatch.setattr(cached, "CONTEXT_BYTES", 6 * SIZE * SIZE * 4)
    monkeypatch.setattr(cached, "JOINED_BYTES", 7 * SIZE * SIZE * 4)
    monkeypatch.setattr(cached, "EMBEDDING_BYTES", 2 * SIZE * SIZE * 4)
    network = CachedSegmenter(Threshold(), CPU)
    examples = [example(generator) for _ in range(8)]
    for number in range(8):
        network.context(examples[number : number + 3], 1)
        network.embed(torch.rand(1, 1, SIZE, SIZE))
        assert network.contexts.used_bytes <= 6 * SIZE * SIZE * 4
        assert 0 < network.joined.used_bytes <= 7 * SIZE * SIZE * 4
        assert network.embeddings.used_bytes <= 2 * SIZE * SIZE * 4


class Learnt(Threshold):
    def __init__(self):
        super().__init__()
        self.offset = torch.nn.Parameter(torch.zeros(1))

    def segment(self, embedding, context):
        return super().segment(embedding, context) + self.offset


def test_nothing_records_gradients(generator):
    network = CachedSegmenter(Learnt(), CPU)
    context = network.context([example(generator)], 1)
    assert not network.logits(network.embed(torch.rand(1, 1, SIZE, SIZE)), context).requires_grad


def test_what_is_kept_of_an_example_holds_no_picture_of_it(generator):
    network = CachedSegmenter(Sums(), CPU)
    examples = [example(generator) for _ in range(3)]
    alive = [weakref.ref(each) for each in examples]
    network.context(examples, 1)
    assert network.segmenter.conditioned == 3
    same = [replace(each) for each in examples]
    del examples
    gc.collect()
    assert [each() for each in alive] == [None] * 3
    network.context(same, 1)
    assert (network.segmenter.conditioned, network.segmenter.joined) == (3, 1), "what looks the same is the same"


class Sums(Counting):
    """A network whose contexts are small, as SR-ICL's are."""

    def condition(self, images, masks):
        super().condition(images, masks)
        return Small(masks.sum())

    def join(self, contexts):
        self.joined += 1
        return Small(sum(each.total for each in contexts))


@dataclass(frozen=True)
class Small:
    total: torch.Tensor
    size_bytes: int = 4
