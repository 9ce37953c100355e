"""Heads fitted to pixels of examples."""

import torch
from torch.nn.functional import interpolate

from InContextSegLib.models.fitted import FittedHead, Pixels, _parts, fit_head, pixels_of

CHANNELS = (4, 6, 5, 3)


def features(size=64):
    sizes = [size // stride for stride in (2, 4, 8, 16)]
    maps = [torch.randn(1, channels, side, side) for channels, side in zip(CHANNELS, sizes, strict=True)]
    return maps, torch.rand(1, 3, size, size)


def masks_of(maps, size=64):
    found = torch.stack([maps[0][0, 0] > 0.5, maps[0][0, 1] > 0.8]).float()
    return interpolate(found[None], size=(size, size), mode="nearest")[0]


def sample(seed=0, position=None, known=(True, True)):
    torch.manual_seed(seed)
    maps, picture = features()
    generator = torch.Generator().manual_seed(seed)
    return pixels_of(maps, picture, masks_of(maps), position, known, generator), maps, picture


def test_a_head_learns_what_single_features_tell():
    learnt = [sample(seed)[0] for seed in range(4)]
    head = fit_head(learnt, CHANNELS, torch.Generator().manual_seed(0))
    _, maps, picture = sample(9)
    wanted = masks_of(maps)[:, ::2, ::2] > 0.5
    found = head(maps, picture, [None])[0] > 0
    for label in range(2):
        overlap = 2 * (found[label] & wanted[label]).sum() / (found[label].sum() + wanted[label].sum())
        assert overlap > 0.85


def test_the_same_seed_gives_the_same_head():
    learnt = [sample(seed)[0] for seed in range(2)]
    one, two = (fit_head(learnt, CHANNELS, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.last.weight, two.last.weight)


def test_features_at_their_own_resolution_give_what_enlarged_ones_do():
    maps, picture = features()
    torch.manual_seed(0)
    head = FittedHead(CHANNELS, 2).eval()
    head.mean, head.spread = torch.randn(head.mean.shape), torch.rand(head.spread.shape) + 0.5
    size = (32, 32)
    whole = torch.cat([interpolate(part, size=size, mode="bilinear") for part in _parts(maps, picture, [0.25])], dim=1)
    x = (whole[0].flatten(1).T - head.mean) / head.spread
    expected = head.last(torch.relu(head.first(x))).T.reshape(1, 2, *size)
    assert torch.allclose(head(maps, picture, [0.25]), expected, atol=1e-4)


def test_sampled_pixels_stand_for_all_of_them():
    found, _, _ = sample()
    assert torch.isclose(found.weight.sum(), torch.tensor(1.0), atol=0.15)  # a pixel of two labels counts for each
    assert found.labels.any(dim=0).all()
    assert (~found.labels.any(dim=1)).any()


def test_an_example_that_does_not_tell_of_a_label_teaches_nothing_about_it():
    told, _, _ = sample(0)
    untold = Pixels(told.features, ~told.labels, told.weight, torch.tensor([True, False]))
    both = [Pixels(told.features, told.labels, told.weight, told.known), untold]
    head = fit_head(both, CHANNELS, torch.Generator().manual_seed(0))
    alone = fit_head([told], CHANNELS, torch.Generator().manual_seed(0))
    x = (told.features - alone.mean) / alone.spread
    second = alone.last(torch.relu(alone.first(x)))[:, 1] > 0
    y = (told.features - head.mean) / head.spread
    assert (head.last(torch.relu(head.first(y)))[:, 1] > 0).eq(second).float().mean() > 0.9


def test_the_position_along_the_axis_is_a_feature():
    maps, picture = features()
    here, nowhere = (_parts(maps, picture, [position])[-1] for position in (0.75, None))
    assert here[0, 2:, 0, 0].tolist() == [0.5, 1.0]
    assert nowhere[0, 2:, 0, 0].tolist() == [0.0, 0.0]


def test_a_position_that_all_examples_share_counts_for_nothing_elsewhere():
    """All from one slice: what the head makes of another slice must not depend on where it lies."""
    learnt = [sample(seed, position=0.5)[0] for seed in range(2)]
    head = fit_head(learnt, CHANNELS, torch.Generator().manual_seed(0))
    _, maps, picture = sample(9)
    assert torch.equal(head(maps, picture, [0.5]), head(maps, picture, [0.9]))
    assert torch.equal(head(maps, picture, [0.5]), head(maps, picture, [None]))


def test_a_line_one_pixel_wide_is_learnt():
    maps, picture = features()
    mask = torch.zeros(1, 64, 64)
    mask[0, 20] = 1
    found = pixels_of(maps, picture, mask, None, [True], torch.Generator().manual_seed(0))
    assert found.labels.sum() == 32


def test_a_label_that_few_pixels_show_is_learnt_beside_one_that_many_show():
    """Of 10,240 pixels one shows it, in noise: fitted by number alone, a head says that it is nowhere."""
    torch.manual_seed(2)
    maps = [torch.zeros(1, channels, 8, 8) for channels in CHANNELS]

    def drawn(shown):
        small, big = torch.zeros(2, 64, 64)
        big[:, 32:] = 1
        if shown:
            small[20:24, 40:44] = 1
        noise = interpolate(torch.randn(1, 3, 16, 16), size=(64, 64))
        return 0.5 * torch.stack([small, big, torch.zeros(64, 64)])[None] + 0.1 * noise, torch.stack([small, big])

    learnt = []
    for number in range(60):
        picture, masks = drawn(number % 10 == 0)
        generator = torch.Generator().manual_seed(number)
        learnt.append(pixels_of(maps, picture, masks, None, [True, True], generator, 0.66))
    head = fit_head(learnt, CHANNELS, torch.Generator().manual_seed(0))
    common = total = 0
    for _ in range(10):
        picture, masks = drawn(shown=True)
        found, wanted = head(maps, picture, [None])[0, 0] > 0, masks[0, ::2, ::2] > 0
        common, total = common + 2 * (found & wanted).sum(), total + found.sum() + wanted.sum()
    assert common / total > 0.6
