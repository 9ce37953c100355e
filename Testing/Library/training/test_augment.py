"""Changes of appearance, on images whose outcome one can say beforehand."""

import pytest
import torch

from InContextSegLib.training.augment import (
    SHIFTS,
    another_scanner,
    blurred,
    chosen,
    enlarged,
    scanner_shift,
    smooth_noise,
    stretched,
    uniform,
)

SIGMAS = torch.tensor([0.3, 1.1])


def seeded(seed=5):
    return torch.Generator().manual_seed(seed)


def pictures(count=2, size=24):
    return torch.rand(count, size, size, generator=seeded(1))


def test_a_blur_keeps_the_sum_of_what_lies_away_from_the_border():
    images = torch.zeros(2, 24, 24)
    images[:, 9:15, 10:13] = 1.0
    assert torch.allclose(blurred(images, SIGMAS).sum(dim=(1, 2)), images.sum(dim=(1, 2)), rtol=1e-5)


def test_a_blur_leaves_constant_images_as_they_are_up_to_the_border():
    images = torch.full((2, 9, 9), 0.37)
    assert torch.allclose(blurred(images, SIGMAS), images, atol=1e-6)


def test_a_blur_of_sigma_0_is_the_identity():
    images = pictures()
    assert torch.allclose(blurred(images, torch.zeros(2)), images, atol=1e-6)


def test_every_image_is_blurred_by_its_own_sigma_alike_in_both_directions():
    images = torch.zeros(2, 9, 9)
    images[:, 4, 4] = 1.0
    rows = torch.exp(-(torch.arange(-4, 5) ** 2) / (2 * SIGMAS[:, None] ** 2))
    rows = rows / rows.sum(dim=1, keepdim=True)
    assert torch.allclose(blurred(images, SIGMAS), rows[:, :, None] * rows[:, None, :], atol=1e-5)


def test_enlarging_keeps_the_corner_knots_at_the_corner_pixels():
    knots = torch.randn(2, 3, 4, 4, generator=seeded())
    corners = enlarged(knots, 11)[..., ::10, ::10]
    assert torch.allclose(corners, knots[..., ::3, ::3], atol=1e-6)


def test_enlarging_passes_through_every_knot_that_falls_on_a_pixel():
    knots = torch.randn(2, 1, 5, 5, generator=seeded())
    assert torch.allclose(enlarged(knots, 17)[..., ::4, ::4], knots, atol=1e-6)


def test_enlarging_keeps_rows_and_columns_apart():
    knots = torch.tensor([0.0, 1.0, 2.0]).expand(1, 1, 3, 3)
    image = enlarged(knots, 9)[0, 0]
    assert torch.allclose(image, image[:1].expand(9, 9), atol=1e-6)
    assert (image[0].diff() > 0).all()


def test_smooth_noise_has_mean_0_and_variance_1_at_its_knots():
    at_knots = smooth_noise(3000, 2, 9, 3, seeded())[..., ::4, ::4]
    assert torch.allclose(at_knots.mean(dim=(0, 1)), torch.zeros(3, 3), atol=0.06)
    assert torch.allclose(at_knots.var(dim=(0, 1)), torch.ones(3, 3), atol=0.1)


def test_smooth_noise_of_images_and_channels_is_independent():
    at_corner = smooth_noise(3000, 2, 9, 3, seeded())[..., 0, 0]
    assert torch.corrcoef(at_corner.T)[0, 1].abs() < 0.06


def test_smooth_noise_of_few_cells_changes_little_from_pixel_to_pixel():
    steps = [smooth_noise(20, 1, 64, cells, seeded()).diff(dim=-1).abs().mean() for cells in (3, 9, 40)]
    assert steps[0] < steps[1] < steps[2]


def test_stretching_brings_every_image_to_0_and_1():
    images = torch.stack([5 + 2 * pictures(1)[0], -0.01 * pictures(1)[0]])
    result = stretched(images)
    assert result.amin(dim=(1, 2)).tolist() == [0, 0]
    assert result.amax(dim=(1, 2)).tolist() == pytest.approx([1, 1])
    # A negative factor turns bright into dark.
    assert torch.allclose(result[0], 1 - result[1], atol=1e-4)


def test_stretching_a_constant_image_gives_0():
    assert stretched(torch.full((1, 4, 4), 7.0)).eq(0).all()


def test_another_scanner_of_strength_0_changes_nearly_nothing():
    images = pictures()
    assert torch.allclose(scanner_shift(images, torch.zeros(2), seeded()), images, atol=1e-5)


def test_another_scanner_changes_each_image_by_its_own_strength():
    images = pictures(3)
    result = scanner_shift(images, torch.tensor([0.0, 0.2, 1.0]), seeded())
    change = (result - images).abs().mean(dim=(1, 2))
    assert change[0] < 1e-5
    assert 1e-3 < change[1] < change[2]


@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
def test_another_scanner_stays_within_0_and_1(grey):
    images = torch.cat([torch.full((20, 16, 16), grey), pictures(20, 16)])
    result = scanner_shift(images, torch.ones(40), seeded())
    assert torch.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 1


def ramp(height=24, width=31):
    return torch.linspace(0.1, 0.9, width).expand(2, height, width)


def test_another_scanner_changes_all_slices_of_a_volume_alike():
    one, other = another_scanner(ramp(), 1.0, seeded(), ("contrast", "field", "resolution"))
    assert torch.equal(one, other)
    assert (one - ramp()[0]).abs().max() > 0.1


@pytest.mark.parametrize("shift", SHIFTS)
def test_every_change_of_scanner_grows_with_its_strength_and_repeats_for_a_seed(shift):
    weak, strong, again = (another_scanner(ramp(), strength, seeded(), (shift,)) for strength in (0.2, 1.0, 1.0))
    assert torch.equal(strong, again) and strong.shape == ramp().shape
    assert torch.allclose(another_scanner(ramp(), 0.0, seeded(), (shift,)), ramp(), atol=1e-6)
    assert 0 < (weak - ramp()).abs().mean() < (strong - ramp()).abs().mean()


def test_another_contrast_keeps_the_order_of_greys_and_a_lower_resolution_loses_fine_stripes():
    assert (another_scanner(ramp(), 1.0, seeded(), ("contrast",)).diff(dim=-1) > 0).all()
    stripes = (torch.arange(30) % 2).float().expand(1, 30, 30)
    assert another_scanner(stripes, 1.0, seeded(), ("resolution",))[0, 10:20, 10:20].std() < 0.1


def test_the_same_generator_gives_the_same_result_and_another_another():
    images, strength = pictures(), torch.ones(2)
    first, again, other = (scanner_shift(images, strength, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(smooth_noise(2, 1, 9, 3, seeded(3)), smooth_noise(2, 1, 9, 3, seeded(3)))


def test_a_change_leaves_the_image_it_was_given_alone():
    images = pictures()
    before = images.clone()
    scanner_shift(images, torch.ones(2), seeded())
    blurred(images, SIGMAS)
    stretched(images)
    assert torch.equal(images, before)


def test_uniform_numbers_fill_their_range():
    numbers = uniform(-2.0, 6.0, (4000,), seeded())
    assert -2 <= numbers.min() < -1.9
    assert 5.9 < numbers.max() < 6
    assert numbers.mean().item() == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_things_are_chosen_as_often_as_asked(probability):
    assert chosen(probability, (4000,), seeded()).float().mean().item() == pytest.approx(probability, abs=0.03)
