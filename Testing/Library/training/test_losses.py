"""Losses on masks one can see."""

import math

import pytest
import torch

from InContextSegLib.training.losses import (
    LOSSES,
    dice_and_cross_entropy,
    focal_and_dice,
    soft_dice_loss,
    sricl_loss,
    structure_loss,
)


def mask(*rows):
    return torch.tensor([[[[float(c == "#") for c in row] for row in rows]]])


def test_a_certain_and_right_answer_costs_nothing():
    truth = mask("##..", "##..")
    assert soft_dice_loss(40 * (2 * truth - 1), truth) == pytest.approx(0, abs=1e-6)
    assert dice_and_cross_entropy(40 * (2 * truth - 1), truth) == pytest.approx(0, abs=1e-6)


def test_half_the_object_costs_what_dice_says():
    truth, half = mask("##..", "##.."), mask("##..", "....")
    assert soft_dice_loss(40 * (2 * half - 1), truth) == pytest.approx(1 - (2 * 2 + 1) / (2 + 4 + 1), abs=1e-5)


def test_an_empty_mask_asks_for_an_empty_answer_with_a_finite_gradient():
    logits = torch.zeros(1, 1, 2, 4, requires_grad=True)
    loss = soft_dice_loss(logits, torch.zeros(1, 1, 2, 4))
    loss.backward()
    assert loss.item() == pytest.approx(1 - 1 / 5)
    assert (logits.grad > 0).all()


def test_an_undecided_answer_costs_half_a_bit_of_cross_entropy():
    truth = mask("#.#.")
    expected = soft_dice_loss(torch.zeros_like(truth), truth) + 0.5 * math.log(2)
    assert dice_and_cross_entropy(torch.zeros_like(truth), truth) == pytest.approx(float(expected))


def disk(size=48):
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return ((y - 20.0) ** 2 + (x - 9.0) ** 2 < 12**2).float()[None, None]


def test_the_structure_loss_is_what_its_formula_says_pixel_by_pixel():
    masks = torch.cat([disk(), disk().mT, torch.rand(1, 1, 48, 48)])
    logits = torch.randn(3, 1, 48, 48)
    losses = []
    for mask_, answer in zip(masks[:, 0], logits[:, 0], strict=True):
        weights, entropies, overlap, union = 0.0, 0.0, 0.0, 0.0
        for y in range(48):
            for x in range(48):
                around = mask_[max(y - 15, 0) : y + 16, max(x - 15, 0) : x + 16].mean()
                weight = 1 + 5 * abs(around - mask_[y, x])
                p = torch.sigmoid(answer[y, x])
                weights += weight
                entropies -= weight * (mask_[y, x] * p.log() + (1 - mask_[y, x]) * (1 - p).log())
                overlap += weight * p * mask_[y, x]
                union += weight * (p + mask_[y, x] - p * mask_[y, x])
        losses.append(entropies / weights + 1 - (overlap + 1) / (union + 1))
    assert structure_loss(logits, masks) == pytest.approx(float(sum(losses)) / 3, rel=1e-4)


def test_the_structure_loss_weighs_a_fault_at_the_border_more_than_one_far_from_it():
    truth = torch.zeros(1, 1, 96, 96)
    truth[..., :32] = 1
    near, far = 8 * (2 * truth - 1), 8 * (2 * truth - 1)
    near[..., 30, 33], far[..., 30, 90] = 8, 8
    assert structure_loss(near, truth) > structure_loss(far, truth) > structure_loss(8 * (2 * truth - 1), truth)


def test_the_rim_of_an_image_is_no_border_to_the_structure_loss():
    ones = torch.ones(1, 1, 40, 40)
    assert structure_loss(torch.zeros_like(ones), ones) == pytest.approx(math.log(2) + 1 - 801 / 1601, rel=1e-5)


def test_the_focal_loss_looks_at_pixels_as_far_as_they_are_wrong():
    truth, logits = mask("#.#."), torch.tensor([[[[2.0, 2.0, -3.0, -3.0]]]])
    p = torch.sigmoid(logits).flatten().tolist()
    expected = [
        (1 - p[0]) ** 2 * -math.log(p[0]), p[1] ** 2 * -math.log(1 - p[1]),
        (1 - p[2]) ** 2 * -math.log(p[2]), p[3] ** 2 * -math.log(1 - p[3]),
    ]  # fmt: skip
    dice = float(soft_dice_loss(logits, truth))
    assert focal_and_dice(logits, truth) == pytest.approx(sum(expected) / 4 + dice, rel=1e-5)


def test_the_loss_of_sricl_sums_structure_and_dice_over_both_maps_and_both_sides():
    truth = disk()
    maps = torch.randn(1, 2, 2, 48, 48)
    expected = sum(
        structure_loss(maps[:, n, side, None], wanted) + soft_dice_loss(maps[:, n, side, None], wanted)
        for n in range(2)
        for side, wanted in ((0, truth), (1, 1 - truth))
    )
    assert sricl_loss(maps, truth) == pytest.approx(float(expected), rel=1e-5)
    right = 40 * torch.cat([2 * truth - 1, 1 - 2 * truth], dim=1)[:, None].expand(-1, 2, -1, -1, -1)
    assert sricl_loss(right, truth) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_by_name_is_finite_and_differentiable_on_empty_full_and_soft_masks(name):
    shape = (3, 2, 2, 40, 40) if name == "sricl" else (3, 1, 40, 40)
    logits = (20 * torch.randn(shape)).requires_grad_()
    masks = torch.stack([torch.zeros(1, 40, 40), torch.ones(1, 40, 40), torch.rand(1, 40, 40)])
    loss = LOSSES[name](logits, masks)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all() and logits.grad.any()
