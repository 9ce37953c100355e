"""Groups of pictures for training: what is drawn, and that it is the same every time."""

import numpy as np
import pytest
import torch

from InContextSegLib.training.episodic.groups import LEAST_PIXELS, GroupSource
from InContextSegLib.training.episodic.open_data import Case, LoadedSet, OpenSet
from InContextSegLib.training.episodic.rendering import Chance


def pictures(count=5):
    random = np.random.default_rng(0)
    cases = []
    for number in range(count):
        labels = np.zeros((1, 60, 80), np.uint8)
        labels[0, 15:40, 20 + number : 55] = 1
        image = (random.random((1, 60, 80, 3)) * 80 + 120 * labels[..., None]).astype(np.uint8)
        cases.append(Case(image, labels, (1.0, 1.0, 1.0), f"p{number // 2}"))
    return LoadedSet(OpenSet("pictures", "", "", ("any",), "CC0"), tuple(cases))


def volumes(count=3):
    cases = []
    for number in range(count):
        labels = np.zeros((12, 30, 40), np.uint8)
        labels[3:9, 8:20, 6:15], labels[3:9, 8:20, 25 + number : 34] = 1, 2
        image = (300 * (labels == 1) + 100 + 10 * number).astype(np.float16)
        cases.append(Case(image, labels, (3.0, 1.0, 1.0), f"v{number}"))
    return LoadedSet(OpenSet("volumes", "", "", (1,), "MIT", hounsfield_offset=0), tuple(cases))


@pytest.fixture(scope="module")
def source():
    return GroupSource([pictures(), volumes()], (64, 96), 4)


def test_a_seed_gives_the_same_group_twice(source):
    one, two = source.draw(7), source.draw(7)
    assert torch.equal(one.pictures, two.pictures)
    assert torch.equal(one.masks, two.masks)
    assert one.units == two.units


def test_every_mask_is_shown_by_pictures_of_two_units_at_least(source):
    for seed in range(12):
        group = source.draw(seed)
        assert group.pictures.shape == (4, 3, *group.pictures.shape[2:])
        assert 0 <= group.pictures.min() <= group.pictures.max() <= 1
        for mask in group.masks:
            showing = {unit for unit, each in zip(group.units, mask, strict=True) if each.sum() >= LEAST_PIXELS}
            assert len(showing) >= 2


def test_without_data_every_group_is_invented():
    group = GroupSource([], (64,), 3).draw(1)
    assert torch.equal(group.pictures[:, 0], group.pictures[:, 2])


def test_the_masks_of_a_volume_lie_where_its_picture_is_bright():
    source = GroupSource([volumes()], (64,), 4)
    found = [source._labelled(Chance.of(seed), 64) for seed in range(8)]
    assert sum(each is not None for each in found) >= 4
    for group in (each for each in found if each is not None):
        grey = group.pictures.mean(dim=1)
        mask = group.masks[0][:, 0] > 0.5
        contrast = grey[mask].mean() - grey[~mask].mean()
        assert contrast.abs() > 0.1
