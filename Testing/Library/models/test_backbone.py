"""The small backbone: maps at the strides it promises, of every image by itself."""

import pytest
import torch

from InContextSegLib.models.backbone import STRIDES, SmallBackbone, group_norm


def test_the_maps_lie_at_their_strides_with_the_channels_that_are_named():
    backbone = SmallBackbone((4, 6, 8, 12))
    maps = backbone(torch.rand(2, 1, 64, 96))
    assert [each.shape for each in maps] == [
        (2, width, 64 // stride, 96 // stride) for width, stride in zip((4, 6, 8, 12), STRIDES, strict=True)
    ]
    assert backbone.channels == (4, 6, 8, 12)


@torch.no_grad()
def test_an_image_has_the_same_features_whatever_stands_beside_it():
    backbone, images = SmallBackbone((4, 6, 8, 12)), torch.rand(3, 1, 64, 64)
    for together, alone in zip(backbone(images), backbone(images[1:2]), strict=True):
        torch.testing.assert_close(together[1:2], alone)


@pytest.mark.parametrize(("width", "groups"), [(64, 8), (12, 6), (9, 3), (8, 4), (11, 1), (1, 1)])
def test_a_width_is_normalised_in_as_many_groups_of_two_channels_or_more_as_divide_it(width, groups):
    assert group_norm(width).num_groups == groups


def test_a_backbone_has_a_width_for_every_stride():
    with pytest.raises(ValueError, match="4 widths, one for every stride, and 3 came"):
        SmallBackbone((8, 16, 32))
