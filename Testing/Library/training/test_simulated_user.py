"""The simulated user of training: what is said first, and what is said to an answer."""

import torch

from InContextSegLib.training.simulated_user import DEPTHS_PX, SimulatedUser, _depth

POSITIVE, NEGATIVE, BOX, PRIOR = range(4)


def user(masks, seed=0):
    return SimulatedUser(masks, torch.Generator().manual_seed(seed))


def square(count=1, size=48):
    masks = torch.zeros(count, 1, size, size)
    masks[:, :, 10:30, 20:40] = 1
    return masks


def certain(mask):
    return (mask.float() * 2 - 1) * 20


def test_the_first_prompts_point_at_the_structure():
    masks = square(200)
    prompts = user(masks).begin()
    assert not prompts[:, PRIOR].any() and not prompts[:, NEGATIVE].any()
    on, off = (prompts[:, POSITIVE] * masks[:, 0]).flatten(1).sum(1), prompts[:, POSITIVE] * (1 - masks[:, 0])
    boxed = prompts[:, BOX].flatten(1).any(1)
    assert ((on > 0) | boxed).all() and ((on > 0) & boxed).any() and (~boxed).any()
    # Only the rim of a disk at the border may lie outside.
    assert off.flatten(1).sum(1).max() <= 15


def test_a_box_holds_the_structure_within_a_tenth_of_its_extent():
    boxes = user(square(100)).begin()[:, BOX]
    boxes = boxes[boxes.flatten(1).any(1)]
    rows, columns = boxes.any(2), boxes.any(1)
    assert rows[:, 13:27].all() and not rows[:, :7].any() and not rows[:, 33:].any()
    assert columns[:, 23:37].all() and not columns[:, :17].any() and not columns[:, 43:].any()


def test_an_image_without_the_structure_gets_a_negative_click():
    prompts = user(torch.zeros(20, 1, 32, 32)).begin()
    assert prompts[:, NEGATIVE].flatten(1).any(1).all()
    assert not prompts[:, POSITIVE].any() and not prompts[:, BOX].any()


def test_silent_users_wait_for_an_answer():
    assert not user(square(30)).begin(silent_share=1.0).any()
    some = user(square(100)).begin(silent_share=0.5).flatten(1).any(1).float().mean()
    assert 0.3 < some < 0.7


def test_a_missed_structure_gets_a_positive_click_in_its_middle():
    asked = user(square(50))
    asked.begin(silent_share=1.0)
    prompts = asked.correct(certain(torch.zeros(50, 1, 48, 48)))
    assert not prompts[:, NEGATIVE].any()
    area = prompts[:, POSITIVE].flatten(1).sum(1)
    clicked = prompts[area == 21, POSITIVE]  # a disk of radius 2.5 has 21 pixels; the others are scribbles
    assert len(clicked) > 25
    assert clicked[:, 14:27, 24:37].flatten(1).sum(1).eq(21).all()


def test_the_larger_fault_is_corrected_first():
    answer = square()
    answer[:, :, 12:28, 0:16] = 1  # a large false thing
    answer[:, :, 15:18, 25:28] = 0  # a small hole
    asked = user(square())
    asked.begin(silent_share=1.0)
    prompts = asked.correct(certain(answer))
    assert prompts[0, NEGATIVE, 12:28, 0:16].any() and not prompts[0, POSITIVE].any()


def test_a_right_answer_gets_no_further_prompt_and_what_was_said_stays():
    asked = user(square(20))
    first = asked.begin()
    again = asked.correct(certain(square(20)))
    assert torch.equal(first[:, :PRIOR], again[:, :PRIOR])


def test_the_prior_is_the_last_answer_squashed_and_now_and_then_forgotten():
    logits = torch.randn(200, 1, 48, 48)
    prior = user(square(200)).correct(logits)[:, PRIOR]
    kept = prior.flatten(1).any(1)
    assert torch.allclose(prior[kept], torch.tanh(logits[kept, 0] / 2))
    assert 0.8 < kept.float().mean() < 0.98


def test_the_same_seed_says_the_same():
    masks, logits = square(10), torch.randn(10, 1, 48, 48)
    one, other = user(masks, 3), user(masks, 3)
    assert torch.equal(one.begin(), other.begin())
    assert torch.equal(one.correct(logits), other.correct(logits))
    assert not torch.equal(user(masks, 4).begin(), user(masks, 3).begin())


def test_depth_counts_the_distances_that_a_pixel_has_behind_it():
    region = torch.zeros(1, 21, 21, dtype=torch.bool)
    region[0, 5:16, 5:16] = True
    depth = _depth(region)
    assert depth[0, 0, 0] == 0 and depth[0, 5, 10] == 1
    assert depth[0, 10, 10] == 1 + sum(reach <= 5 for reach in DEPTHS_PX)
    assert torch.equal(depth, depth.flip(1)) and torch.equal(depth, depth.transpose(1, 2))
