"""SR-ICL: its parts as inference and training use them, against the paper's formulas."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate, layer_norm, linear, max_pool2d, relu

from InContextSegLib.examples import weak
from InContextSegLib.models import sricl
from InContextSegLib.models.networks import SliceSegmenter
from InContextSegLib.models.sricl import SRICL, Context
from InContextSegLib.training.losses import sricl_loss

TINY = {"widths": (4, 6, 8, 12), "decoder_width": 8, "channels": 16, "attention_width": 16}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return SRICL(**TINY).eval()


def examples(count, size=64, groups=1):
    images = torch.rand(groups, count, 1, size, size)
    return images, (images > 0.7).float()


def answer(network, images, support, masks):
    return network.segment(network.encode(images), network.condition(support, masks))


def close(one, other, tolerance=1e-5):
    for field in fields(Context):
        torch.testing.assert_close(getattr(one, field.name), getattr(other, field.name), rtol=tolerance, atol=tolerance)


# --- what inference asks of a network ---


def test_it_is_a_slice_segmenter_that_takes_no_prompts(network):
    assert isinstance(network, SliceSegmenter)
    assert network.promptable is False


def test_the_usual_network_has_under_two_million_parameters():
    assert 1e6 < sum(each.numel() for each in SRICL().parameters()) < 2e6


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(32, 32), (64, 96), (128, 64)])
def test_logits_have_the_size_of_the_image(network, shape):
    support = torch.rand(1, 3, 1, *shape)
    assert answer(network, torch.rand(2, 1, *shape), support, (support > 0.5).float()).shape == (2, 1, *shape)


@torch.inference_mode()
@pytest.mark.parametrize("split", [(1, 1, 1, 1, 1), (2, 3), (4, 1)])
def test_contexts_joined_from_parts_equal_the_context_of_all(network, split):
    images, masks = examples(5)
    parts = zip(images.split(split, dim=1), masks.split(split, dim=1), strict=True)
    close(network.join([network.condition(*part) for part in parts]), network.condition(images, masks))


@torch.inference_mode()
def test_the_order_of_the_examples_does_not_matter(network):
    (images, masks), query, order = examples(6), torch.rand(1, 1, 64, 64), torch.randperm(6)
    there = answer(network, query, images, masks)
    torch.testing.assert_close(answer(network, query, images[:, order], masks[:, order]), there, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_sixty_four_examples_are_their_weighted_mean_and_take_the_room_of_one(network):
    images, masks = examples(64)
    context = network.condition(images, masks)
    tokens = network.encode(images[0]).tokens
    weights = avg_pool2d(masks[0], 32).flatten(1)[:, :, None]
    for indicator, weight in zip(context.indicators[0], (weights, 1 - weights), strict=True):
        torch.testing.assert_close(indicator, (weight * tokens).sum((0, 1)) / (1 + weight.sum()), rtol=1e-4, atol=1e-6)
    assert context.size_bytes == network.condition(images[:, :1], masks[:, :1]).size_bytes
    assert context.size_bytes == 2 * (8 * 16 + 8 * 8 + 8 + 1) * 4


@torch.inference_mode()
def test_examples_encoded_in_small_lots_give_the_same_context(network, monkeypatch):
    images, masks = examples(5)
    whole = network.condition(images, masks)
    monkeypatch.setattr(sricl, "ENCODED_AT_ONCE", 2)
    close(network.condition(images, masks), whole)


@torch.inference_mode()
def test_several_slices_at_once_give_what_each_gives_alone(network):
    (images, masks), targets = examples(4), torch.rand(3, 1, 64, 64)
    together = answer(network, targets, images, masks)
    for number in range(3):
        alone = answer(network, targets[number : number + 1], images, masks)
        torch.testing.assert_close(alone[0], together[number], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_queries_with_examples_of_their_own_give_what_each_gives_alone(network):
    (images, masks), targets = examples(4, groups=3), torch.rand(3, 1, 64, 64)
    together = answer(network, targets, images, masks)
    for number in range(3):
        own = slice(number, number + 1)
        alone = answer(network, targets[own], images[own], masks[own])
        torch.testing.assert_close(alone[0], together[number], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_the_parts_give_what_the_forward_call_gives(network):
    (images, masks), targets = examples(3, groups=2), torch.rand(2, 1, 64, 64)
    final = network(targets, images, masks)[:, 0]
    torch.testing.assert_close(answer(network, targets, images, masks), final[:, :1] - final[:, 1:])


@torch.inference_mode()
def test_segmenting_changes_neither_embedding_nor_context(network):
    embedding, context = network.encode(torch.rand(1, 1, 64, 64)), network.condition(*examples(3))
    first = network.segment(embedding, context)
    assert torch.equal(network.segment(embedding, context), first)


# --- against the formulas ---


@torch.no_grad()
@pytest.mark.parametrize(("contrast", "sure_of"), [(1, []), (8, [0])])
def test_maps_are_what_the_formulas_say_place_by_place(contrast, sure_of):
    torch.manual_seed(1)
    network = SRICL(**TINY).eval()
    network.decoder.norm.weight.mul_(contrast)
    own = network.self_reference
    support, masks = examples(3)
    query = torch.rand(1, 1, 64, 64)
    embedding, context = network.encode(query), network.condition(support, masks)
    features, tokens = embedding.features[0], embedding.tokens[0]

    def applied(vector):
        first, second, last = vector[: 8 * 16].view(8, 16), vector[8 * 16 : 8 * 24].view(8, 8), vector[8 * 24 :]
        out = torch.empty(features.shape[1:])
        for y, x in np.ndindex(*out.shape):
            out[y, x] = last @ relu(second @ relu(first @ features[:, y, x]))
        return out

    references = context.indicators[0]
    prior = torch.stack([applied(vector) for vector in references])
    chances = torch.softmax(avg_pool2d(prior[None], 8)[0], dim=0).flatten(1)
    assert [side for side in (0, 1) if (chances[side] > 0.7).any()] == sure_of
    means = []
    for chance in chances:
        sure = torch.nonzero(chance > 0.7)[:, 0]
        means.append(tokens[sure if len(sure) else chance.argsort(descending=True)[:3]].mean(dim=0))
    queries = [linear(mean, own.query.weight).view(8, 2) for mean in means]
    keys = [linear(tokens, key.weight).view(-1, 8, 2) for key in (own.foreground_key, own.background_key)]
    values = linear(tokens, own.value.weight).view(-1, 8, 2)
    scores = [(keys[n] * queries[n]).sum(dim=2) / 2**0.5 for n in range(2)]
    for n, sign in ((0, 1), (1, -1)):
        attention = torch.softmax(sign * (scores[0] - scores[1]), dim=0)
        refined = means[n] + own.out((attention[:, :, None] * values).sum(dim=0).flatten())
        refined = layer_norm(refined, refined.shape, own.norm.weight, own.norm.bias)
        refined = refined + own.feed[1](nn.functional.gelu(own.feed[0](refined)))
        final = applied(0.7 * references[n] + 0.3 * refined)
        wanted = interpolate(torch.stack([final, prior[n]])[None], scale_factor=4, mode="bilinear")[0]
        torch.testing.assert_close(network(query, support, masks)[0, :, n], wanted, rtol=1e-4, atol=1e-5)


def test_places_are_sure_from_seventy_per_cent_on_and_else_the_three_surest():
    chance = torch.tensor([[[0.9, 0.71, 0.69, 0.1, 0.2], [0.1, 0.29, 0.31, 0.6, 0.5]]])
    assert sricl._sure(chance)[0].tolist() == [
        [True, True, False, False, False],
        [False, False, True, True, True],
    ]
    assert sricl._sure(torch.tensor([[[0.4], [0.6]]])).all()  # a grid of a single place


# --- masks ---


@torch.inference_mode()
def test_soft_masks_weigh_in_proportion(network):
    images, masks = examples(2)
    full, half = network.condition(images, masks), network.condition(images, 0.5 * masks)
    torch.testing.assert_close(half.sums[:, 0], 0.5 * full.sums[:, 0])
    torch.testing.assert_close(half.weights[:, 0], 0.5 * full.weights[:, 0])
    torch.testing.assert_close(half.sums.sum(dim=1), full.sums.sum(dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_masks_that_are_empty_or_full_give_finite_answers_and_gradients(network, value):
    images, masks = examples(2)
    maps = network(torch.rand(1, 1, 64, 64), images, torch.full_like(masks, value))
    assert maps.isfinite().all()
    sricl_loss(maps, torch.zeros(1, 1, 64, 64)).backward()
    assert all(each.grad.isfinite().all() for each in network.parameters())
    empty = network.condition(images, torch.full_like(masks, value)).indicators[0, int(value)]
    assert not empty.any()


@torch.inference_mode()
def test_a_mark_of_the_foreground_counts_in_full_however_small_and_the_background_has_what_it_leaves(network):
    images, marks = torch.rand(1, 1, 1, 64, 64), torch.zeros(1, 1, 2, 64, 64)
    marks[0, 0, 0, 5, 7] = 1  # one pixel of the first place
    marks[0, 0, 1, :, 32:] = 1  # both places on the right
    marks[0, 0, 1, 32:48, :32] = 1  # half of the place below the first
    marks[0, 0, 1, :16, :32] = 1  # half of the first place, which is taken
    context, tokens = network.condition(images, marks), network.encode(images[0]).tokens[0]
    torch.testing.assert_close(context.sums[0, 0], tokens[0])
    torch.testing.assert_close(context.sums[0, 1], tokens[1] + 0.5 * tokens[2] + tokens[3])
    assert context.weights.flatten().tolist() == [1, 2.5]


@torch.inference_mode()
def test_every_weak_reference_is_taken_and_labels_and_marks_join(network):
    image = torch.rand(1, 1, 1, 128, 128)
    mask = np.zeros((128, 128), bool)
    mask[40:90, 30:80] = True
    contexts = []
    for kind in weak.KINDS:
        drawn = torch.from_numpy(weak.weakened(kind, mask, np.random.default_rng(0)))
        contexts.append(network.condition(image, drawn[None, None]))
        assert (contexts[-1].weights > 0).all(), kind
    joined = network.join(contexts)
    torch.testing.assert_close(joined.weights, sum(context.weights for context in contexts))
    assert network.segment(network.encode(image[0]), joined).isfinite().all()


def test_points_reach_the_grid_by_their_maximum():
    marks = torch.from_numpy(weak.points(np.pad(np.ones((40, 40), bool), 44), np.random.default_rng(0)))[None]
    assert torch.equal(sricl._on_grid(marks)[:, :1], max_pool2d(marks[:, :1], 32))


# --- training ---


def test_gradients_reach_every_parameter_and_the_backbone_by_way_of_the_query_alone(network):
    images, masks = examples(3, groups=2)
    images.requires_grad_()
    query, wanted = torch.rand(2, 1, 64, 64), (torch.rand(2, 1, 64, 64) > 0.5).float()
    sricl_loss(network(query, images, masks), wanted).backward()
    without = [name for name, each in network.named_parameters() if each.grad is None or not each.grad.any()]
    assert without == []
    assert images.grad is None


def test_what_makes_numbers_of_an_example_learns_from_it_and_its_backbone_does_not(network):
    network.condition(*examples(2)).indicators.square().sum().backward()
    reached = {name.split(".")[0] for name, each in network.named_parameters() if each.grad is not None}
    assert reached == {"indicator"}
    assert all(each.grad.any() for each in network.indicator.parameters())


def test_in_bfloat16_it_gives_nearly_the_same_and_learns_all_the_same(network):
    (images, masks), query = examples(3, groups=2), torch.rand(2, 1, 64, 64)
    exact = answer(network, query, images, masks)
    with torch.autocast("cpu", torch.bfloat16):
        # In this order, as a backbone first used without gradient must not stay so.
        context = network.condition(images, masks)
        logits = network.segment(network.encode(query), context)
    assert context.sums.dtype == logits.dtype == torch.float32
    assert 0 < (logits - exact).abs().max() < 0.1 * exact.abs().max()
    logits.square().sum().backward()
    assert [name for name, each in network.named_parameters() if each.grad is None or not each.grad.any()] == []


def test_it_starts_with_logits_of_ordinary_size():
    torch.manual_seed(0)
    images, masks = examples(4, size=128, groups=2)
    with torch.no_grad():
        assert SRICL()(torch.rand(2, 1, 128, 128), images, masks).abs().max() < 10


def disks(count, size, generator):
    """Images of a bright and a dark disk each, and a mask of either (n, 2, 1, h, w)."""
    y, x = np.indices((size, size)) / size
    images, masks = generator.normal(0.5, 0.05, (count, 1, size, size)), np.zeros((count, 2, 1, size, size))
    for number in range(count):
        for which, brightness in enumerate((0.9, 0.1)):
            row, column = generator.uniform((0.25, 0.25 + 0.4 * which), (0.75, 0.35 + 0.4 * which))
            masks[number, which, 0] = (y - row) ** 2 + (x - column) ** 2 < 0.15**2
            images[number, masks[number, which] > 0] = brightness
    return torch.from_numpy(images).float(), torch.from_numpy(masks).float()


def test_it_learns_from_a_few_pictures_to_segment_what_the_examples_show():
    torch.manual_seed(0)
    network = SRICL((16, 24, 32, 48), decoder_width=32, channels=32, attention_width=32)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-4)
    images, masks = disks(6, 64, np.random.default_rng(0))
    # The same two queries, once with examples of the bright and once of the dark disk.
    query, wanted = images[:2].repeat(2, 1, 1, 1), torch.cat([masks[:2, 0], masks[:2, 1]])
    shown = images[None, 2:].expand(4, -1, -1, -1, -1)
    labels = torch.stack([masks[2:, which] for which in (0, 0, 1, 1)])
    losses = []
    for _ in range(100):
        loss = sricl_loss(network(query, shown, labels), wanted)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.4 * losses[0]
    with torch.no_grad():
        found = (answer(network, query, shown, labels) > 0).float()
    dice = 2 * (found * wanted).sum((1, 2, 3)) / (found + wanted).sum((1, 2, 3))
    assert dice.min() > 0.8


# --- what does not fit ---


def test_a_size_that_the_deepest_grid_does_not_divide_is_refused(network):
    with pytest.raises(ValueError, match="multiples of 32, and got 48 x 64 pixels"):
        network.encode(torch.rand(1, 1, 48, 64))
    with pytest.raises(ValueError, match="multiples of 32, and got 64 x 80 pixels"):
        network.condition(torch.rand(1, 2, 1, 64, 80), torch.rand(1, 2, 1, 64, 80))


def test_an_empty_support_set_is_refused(network):
    with pytest.raises(ValueError, match="at least one labelled example"):
        network.condition(torch.rand(1, 0, 1, 32, 32), torch.rand(1, 0, 1, 32, 32))


def test_a_mask_of_three_channels_is_refused(network):
    with pytest.raises(ValueError, match=r"one channel .* or two .*, not 3"):
        network.condition(torch.rand(1, 1, 1, 32, 32), torch.rand(1, 1, 3, 32, 32))


def test_no_examples_are_refused(network):
    with pytest.raises(ValueError, match="from labelled examples alone, and got no labelled example"):
        network.segment(network.encode(torch.rand(1, 1, 32, 32)), None)


def test_prompts_are_refused(network):
    query, context = network.encode(torch.rand(1, 1, 32, 32)), network.condition(*examples(2, size=32))
    with pytest.raises(ValueError, match="from labelled examples alone, and got prompts"):
        network.segment(query, context, torch.zeros(1, 4, 32, 32))


def test_an_attention_that_its_heads_do_not_share_evenly_is_refused():
    with pytest.raises(ValueError, match="attention_width: asked for a multiple of 8, got 20"):
        SRICL(attention_width=20)


class Pyramid(nn.Module):
    """A backbone of one's own: the image itself, made smaller."""

    def __init__(self, channels=(1, 1, 1, 1), first=4):
        super().__init__()
        self.channels, self.first = channels, first

    def forward(self, images):
        return [avg_pool2d(images, self.first * 2**level) for level in range(4)]


@torch.inference_mode()
def test_a_backbone_of_ones_own_is_used(network):
    own = SRICL(**TINY, backbone=Pyramid())
    (images, masks), query = examples(2), torch.rand(1, 1, 64, 64)
    assert answer(own, query, images, masks).shape == (1, 1, 64, 64)
    assert not [name for name in own.state_dict() if name.startswith("backbone")]


def test_a_backbone_that_does_not_keep_what_it_promises_is_refused():
    with pytest.raises(ValueError, match=r"strides 4, 8, 16, 32 in 'channels', and this one names 3"):
        SRICL(backbone=Pyramid(channels=(1, 1, 1)))
    with pytest.raises(ValueError, match=r"names 0; see models/backbone\.py"):
        SRICL(backbone=nn.Identity())
    with pytest.raises(ValueError, match=r"this one gave \[\(32, 32\), .*\] for 64 x 64 pixels"):
        SRICL(**TINY, backbone=Pyramid(first=2)).encode(torch.rand(1, 1, 64, 64))


def test_a_network_fits_the_state_dict_of_another_of_any_widths(network):
    other = SRICL.fitting(network.state_dict())
    other.load_state_dict(network.state_dict())
    (images, masks), query = examples(2), torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        assert torch.equal(answer(other.eval(), query, images, masks), answer(network, query, images, masks))


def test_a_state_dict_of_something_else_fits_no_network():
    with pytest.raises(KeyError, match="0 levels of a small backbone"):
        SRICL.fitting({"weight": torch.zeros(1)})
