"""The frozen backbone."""

import pytest
import torch
from torch.nn.functional import batch_norm, conv2d, pad, relu6

from InContextSegLib.models.efficientnet import BATCH_NORM_EPSILON, EfficientNetLite


def published_state(network):
    """A state dict of random numbers with the names and shapes of the published one."""
    state = {}

    def layer(conv, conv_name, norm_name):
        channels = len(conv.weight)
        state[conv_name + ".weight"] = torch.randn(conv.weight.shape) / conv.weight[0].numel() ** 0.5
        state[norm_name + ".weight"] = torch.rand(channels) + 0.5
        state[norm_name + ".bias"] = torch.randn(channels) * 0.1
        state[norm_name + ".running_mean"] = torch.randn(channels) * 0.1
        state[norm_name + ".running_var"] = torch.rand(channels) + 0.5

    layer(network.stem, "_conv_stem", "_bn0")
    for number, block in enumerate(block for stage in network.stages for block in stage):
        at = f"_blocks.{number}."
        if block.expand is not None:
            layer(block.expand, at + "_expand_conv", at + "_bn0")
        layer(block.depthwise, at + "_depthwise_conv", at + "_bn1")
        layer(block.project, at + "_project_conv", at + "_bn2")
    return state


def plain(state, x, name, norm, stride=1, groups=1):
    """A convolution with TensorFlow's padding, and batch normalisation behind it, as the published network has them."""
    weight = state[name + ".weight"]
    kernel = weight.shape[-1]
    missing = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in (x.shape[3], x.shape[2])]
    x = pad(x, (missing[0] // 2, missing[0] - missing[0] // 2, missing[1] // 2, missing[1] - missing[1] // 2))
    x = conv2d(x, weight, stride=stride, groups=groups)
    parts = [state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return batch_norm(x, *parts, eps=BATCH_NORM_EPSILON)


@torch.inference_mode()
def test_folded_layers_answer_as_convolution_and_normalisation_do():
    network = EfficientNetLite().eval()
    state = published_state(network)
    network.load_published(state)
    x = torch.rand(1, 3, 64, 96)
    first, second = network(x)[:2]
    out = relu6(plain(state, (x * 255 - 127) / 128, "_conv_stem", "_bn0", stride=2))
    out = relu6(plain(state, out, "_blocks.0._depthwise_conv", "_blocks.0._bn1", groups=32))
    out = plain(state, out, "_blocks.0._project_conv", "_blocks.0._bn2")
    assert torch.allclose(first, out, atol=1e-4)
    inner = relu6(plain(state, out, "_blocks.1._expand_conv", "_blocks.1._bn0"))
    inner = relu6(plain(state, inner, "_blocks.1._depthwise_conv", "_blocks.1._bn1", stride=2, groups=96))
    out = plain(state, inner, "_blocks.1._project_conv", "_blocks.1._bn2")
    inner = relu6(plain(state, out, "_blocks.2._expand_conv", "_blocks.2._bn0"))
    inner = relu6(plain(state, inner, "_blocks.2._depthwise_conv", "_blocks.2._bn1", groups=144))
    out = out + plain(state, inner, "_blocks.2._project_conv", "_blocks.2._bn2")
    assert torch.allclose(second, out, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("variant", ["lite0", "lite2"])
def test_feature_maps_have_the_strides_and_channels_that_it_says(variant):
    network = EfficientNetLite(variant).eval()
    maps = network(torch.rand(1, 3, 64, 64))
    assert [each.shape[1] for each in maps] == list(network.channels)
    assert [64 // each.shape[2] for each in maps] == [2, 4, 8, 16, 32]


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="asked for 'b7', and there are lite0"):
        EfficientNetLite("b7")


def test_another_state_dict_is_no_backbone():
    with pytest.raises(KeyError):
        EfficientNetLite().load_published({"conv.weight": torch.zeros(1)})
