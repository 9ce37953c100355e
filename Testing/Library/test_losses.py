"""Losses on masks one can see."""

import math

import pytest
import torch

from InContextSegLib.losses import dice_and_cross_entropy, soft_dice_loss


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
