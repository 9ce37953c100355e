"""The closed-form head: moments that add, and the regression that they solve."""

import torch

from InContextSegLib.models.ridge import applied, click_moments, moments, solved


def pictures(count, channels=6, size=8):
    embedding = torch.randn(1, count, channels, size, size)
    masks = (embedding[:, :, :1] + 0.3 * embedding[:, :, 1:2] > 0.4).float()
    return embedding, masks


def test_moments_of_examples_add_and_subtract():
    embedding, masks = pictures(5)
    single = [moments(embedding[:, n : n + 1], masks[:, n : n + 1]) for n in range(5)]
    together = moments(embedding, masks)
    total = sum(single[1:], start=single[0])
    assert torch.allclose(total.inside, together.inside, atol=1e-4)
    left = together - single[2]
    rest = [0, 1, 3, 4]
    without = moments(embedding[:, rest], masks[:, rest])
    assert torch.allclose(left.inside, without.inside, atol=1e-3)
    assert torch.allclose(left.outside, without.outside, atol=1e-3)


def test_the_solution_is_that_of_the_weighted_normal_equations():
    embedding, masks = pictures(3)
    x = embedding[0].permute(0, 2, 3, 1).reshape(-1, 6).double()
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    inside = masks[0].reshape(-1).double()
    weight = inside * 0.5 / inside.sum() + (1 - inside) * 0.5 / (1 - inside).sum()
    root = weight.sqrt()[:, None]
    strength = 0.01
    rows = torch.cat([root * x, strength**0.5 * torch.eye(7)])
    wanted = torch.cat([root[:, 0] * (2 * inside - 1), torch.zeros(7)])
    expected = torch.linalg.lstsq(rows, wanted[:, None]).solution[:, 0]
    found = solved(moments(embedding, masks), torch.tensor(strength))[0]
    assert torch.allclose(found.double(), expected, atol=1e-4)


def test_what_separates_linearly_is_separated_in_a_new_picture():
    embedding, masks = pictures(6)
    coefficients = solved(moments(embedding[:, :5], masks[:, :5]), torch.tensor(1e-3))
    answer = applied(coefficients, embedding[:, 5])
    assert ((answer > 0) == (masks[:, 5] > 0.5)).float().mean() > 0.9


def test_a_label_that_no_example_shows_is_answered_by_outside_everywhere():
    embedding, masks = pictures(2)
    answer = applied(solved(moments(embedding, torch.zeros_like(masks)), torch.tensor(1e-3)), embedding[:, 0])
    assert (answer < 0).all()


def test_a_small_label_still_pulls_the_solution_to_it():
    embedding, _ = pictures(2)
    masks = torch.zeros(1, 2, 1, 8, 8)
    masks[:, :, :, 2, 3] = 1
    embedding[:, :, 0, 2, 3] = 8.0
    answer = applied(solved(moments(embedding, masks), torch.tensor(1e-3)), embedding[:, 0])
    assert answer[0, 0].argmax() == 2 * 8 + 3


def test_clicked_pixels_count_as_labelled_ones():
    embedding, masks = pictures(1)
    clicked = click_moments(embedding[:, 0], masks[:, 0], 1 - masks[:, 0])
    labelled = moments(embedding, masks)
    assert torch.allclose(clicked.inside, labelled.inside, atol=1e-4)
    assert torch.allclose(clicked.outside, labelled.outside, atol=1e-3)


def test_moments_and_their_solution_keep_full_precision_where_the_rest_has_half():
    embedding, masks = pictures(2)
    exact = moments(embedding, masks)
    with torch.autocast("cpu", torch.bfloat16):
        found = moments(embedding.bfloat16().float(), masks)
        coefficients = solved(moments(embedding, masks), torch.tensor(1e-3))
    assert found.inside.dtype == coefficients.dtype == torch.float32
    assert torch.equal(solved(exact, torch.tensor(1e-3)), coefficients)
