"""The small convolutional backbone that comes with SR-ICL, and what a backbone of one's own has to be.

A backbone is a module that turns grey images (b, 1, h, w) into four feature maps, at strides 4, 8, 16 and 32, and says
in `channels` how many channels each has. What it computes of an image must not depend on the other images of a batch
(no batch normalisation in training mode). A ConvNeXt with weights of one's own, which a package such as timm makes:

    class ConvNeXt(nn.Module):
        channels = (96, 192, 384, 768)

        def __init__(self):
            super().__init__()
            self.features = timm.create_model("convnext_tiny", pretrained=True, features_only=True)

        def forward(self, images):  # it was trained with colours, of ImageNet's mean and deviation
            return self.features((images.expand(-1, 3, -1, -1) - 0.45) / 0.225)

    network = SRICL(backbone=ConvNeXt())
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

STRIDES = (4, 8, 16, 32)
MOST_GROUPS = 8


class SmallBackbone(nn.Module):
    """Residual blocks with group normalisation, one at every stride: light enough for a processor, no licence but ours.

    Args:
        widths: channels at strides 4, 8, 16 and 32.

    Raises:
        ValueError: if there are not four widths.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 96, 160)):
        super().__init__()
        if len(widths) != len(STRIDES):
            raise ValueError(f"A backbone has {len(STRIDES)} widths, one for every stride, and {len(widths)} came.")
        self.channels = tuple(widths)
        self.stem = nn.Sequential(halving(1, widths[0]), group_norm(widths[0]), nn.GELU())
        self.halvings = nn.ModuleList(halving(*each) for each in pairwise((widths[0], *widths)))
        self.blocks = nn.ModuleList(_Block(width) for width in widths)

    def forward(self, images: Float[Tensor, "b 1 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Feature maps at strides 4, 8, 16 and 32."""
        # Faster than the default layout on the processors measured.
        features, maps = self.stem(images.contiguous(memory_format=torch.channels_last)), []
        for halve, block in zip(self.halvings, self.blocks, strict=True):
            features = block(halve(features))
            maps.append(features)
        return maps


class _Block(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.norms = nn.ModuleList(group_norm(width) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=n == 1) for n in range(2))

    def forward(self, features: Tensor) -> Tensor:
        hidden = features
        for norm, conv in zip(self.norms, self.convs, strict=True):
            hidden = conv(gelu(norm(hidden)))
        return features + hidden


def halving(inputs: int, outputs: int) -> nn.Conv2d:
    """A convolution that halves height and width."""
    return nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)


def group_norm(width: int) -> nn.GroupNorm:
    """Normalisation of every image by itself, in as many groups of channels as the width allows, up to `MOST_GROUPS`.

    Two channels at least share a group: at a single place one alone would always become 0.
    """
    groups = max(1, min(MOST_GROUPS, width // 2))
    return nn.GroupNorm(next(number for number in range(groups, 0, -1) if width % number == 0), width)
