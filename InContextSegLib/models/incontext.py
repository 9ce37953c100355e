"""In-context segmentation on pretrained features: a frozen backbone, a learnt embedding, ridge heads, a decoder.

* `encode`: feature maps of a frozen backbone, mixed with their place in the picture by two layers of self-attention at
  stride 16, become an embedding of every pixel at strides 4 and 8.
* `condition`: the moments of the examples' embeddings (`ridge.py`) at both strides, and the sum of their masks.
* `join`: contexts add.
* `segment`: both regressions are solved (with what clicks say of the picture itself) and applied; a small U-Net sees
  their values, the mean mask of the examples, the prompts and the features, and gives logits at full resolution.

Embedding, ridge strength and decoder are trained through the solution, in episodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import pi

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, normalize, relu, scaled_dot_product_attention

from InContextSegLib.models.efficientnet import EfficientNetLite
from InContextSegLib.models.ridge import Moments, applied, click_moments, moments, solved

PROMPT_CHANNELS = 4  # positive, negative, box; tanh(logits / 2) of the previous answer
FINE, COARSE = 4, 8  # strides of the two heads
FREQUENCIES = (1, 2, 4)
PLACE_CHANNELS = 2 + 4 * len(FREQUENCIES)
PRIOR_WINDOW = 9
CLICKED_SHARE = 0.5  # of the weight, for pixels that a user spoke of where there are examples too


@dataclass(frozen=True, eq=False)
class Embedding:
    """What depends on the pictures alone."""

    fine: Float[Tensor, "b d h4 w4"]
    coarse: Float[Tensor, "b e h8 w8"]
    trunk: Float[Tensor, "b c h4 w4"]
    shallow: Float[Tensor, "b s h2 w2"]
    pictures: Float[Tensor, "b 3 h w"]

    @property
    def size_bytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in vars(self).values())


@dataclass(frozen=True, eq=False)
class Context:
    """What depends on the examples alone: moments at both strides, the sum of the masks, how many there are."""

    fine: Moments
    coarse: Moments
    masks: Float[Tensor, "g 1 h4 w4"]
    count: int

    @property
    def size_bytes(self) -> int:
        return self.fine.size_bytes + self.coarse.size_bytes + self.masks.numel() * self.masks.element_size()

    def __add__(self, other: "Context") -> "Context":
        return Context(
            self.fine + other.fine, self.coarse + other.coarse, self.masks + other.masks, self.count + other.count
        )

    def __sub__(self, other: "Context") -> "Context":
        """Without examples that are part of it."""
        return Context(
            self.fine - other.fine, self.coarse - other.coarse, self.masks - other.masks, self.count - other.count
        )


class InContextNet(nn.Module):
    """The network; pictures in [0, 1] with one channel or three, height and width multiples of 32.

    Args:
        width: channels of the trunk and of the decoder.
        fine, coarse: channels of the embeddings at strides 4 and 8.
        context: channels of the self-attention.
        variant: of the backbone, see `efficientnet.VARIANTS`.
    """

    promptable = True
    channels = 3

    def __init__(self, width: int = 64, fine: int = 96, coarse: int = 128, context: int = 128, variant: str = "lite0"):
        super().__init__()
        self.backbone = EfficientNetLite(variant).requires_grad_(False)
        s2, s4, s8, s16, s32 = self.backbone.channels
        self.scales = nn.ModuleList(nn.BatchNorm2d(channels, affine=False) for channels in self.backbone.channels)
        self.at16 = nn.Conv2d(s16 + s32 + PLACE_CHANNELS, context, 1)
        self.attention = nn.ModuleList(_Attention(context) for _ in range(2))
        self.at8 = nn.Conv2d(s8 + context, context, 1)
        self.mix8 = nn.Sequential(_Residual(context, depthwise=True), _Residual(context, 2, depthwise=True))
        self.at4 = nn.Conv2d(s4 + 3 + 3 + context, width, 1)
        self.mix4 = nn.Sequential(_Residual(width), _Residual(width, 2))
        self.to_fine, self.to_coarse = nn.Conv2d(width, fine, 1), nn.Conv2d(context, coarse, 1)
        self.fine_strength, self.coarse_strength = (nn.Parameter(torch.tensor(-7.0)) for _ in range(2))
        self.fine_scale, self.coarse_scale = (nn.Parameter(torch.tensor([4.0, 0.0])) for _ in range(2))
        self.decoder = _Decoder(width, s2, fine)
        self.to(memory_format=torch.channels_last)

    @classmethod
    def fitting(cls, state: Mapping[str, Tensor]) -> "InContextNet":
        """A network of the widths that a state dict has; its values are not loaded.

        Raises:
            KeyError: if it is not the state dict of such a network.
        """
        widths = {
            name: len(state[layer + ".weight"])
            for name, layer in (("width", "at4"), ("fine", "to_fine"), ("coarse", "to_coarse"), ("context", "at16"))
        }
        return cls(**widths)

    @property
    def arguments(self) -> dict[str, int | str]:
        """What another network of this form is built with."""
        return {
            "width": self.at4.out_channels,
            "fine": self.to_fine.out_channels,
            "coarse": self.to_coarse.out_channels,
            "context": self.at16.out_channels,
            "variant": self.backbone.variant,
        }

    def train(self, mode: bool = True) -> "InContextNet":
        super().train(mode)
        self.backbone.eval()
        self.scales.eval()  # set once, from pictures of the training
        return self

    @torch.no_grad()
    def features(self, pictures: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The backbone's feature maps, which no training of ours changes."""
        pictures = pictures.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        return self.backbone(pictures)

    def encode(self, images: Float[Tensor, "b c h w"]) -> Embedding:
        return self.embed(images, self.features(images))

    def embed(self, images: Float[Tensor, "b c h w"], features: Sequence[Tensor]) -> Embedding:
        """What `encode` does behind the backbone."""
        pictures = images.expand(-1, 3, -1, -1)
        f2, f4, f8, f16, f32 = (scale(each) for scale, each in zip(self.scales, features, strict=True))
        place = _place(f16).to(f16)
        context = self.at16(torch.cat([f16, _up(f32, f16), place], dim=1))
        for layer in self.attention:
            context = layer(context)
        middle = self.mix8(self.at8(torch.cat([f8, _up(context, f8)], dim=1)))
        grey = avg_pool2d(pictures, FINE)
        around = _around(grey, 11)
        trunk = self.mix4(self.at4(torch.cat([f4, 4 * grey, 4 * around, _up(middle, f4)], dim=1)))
        return Embedding(
            fine=_unit(self.to_fine(relu(trunk))),
            coarse=_unit(self.to_coarse(relu(middle))),
            trunk=trunk,
            shallow=torch.cat([f2, 4 * avg_pool2d(pictures, 2)], dim=1),
            pictures=pictures,
        )

    def condition(self, images: Float[Tensor, "g s c h w"], masks: Float[Tensor, "g s 1 h w"]) -> Context:
        """The context of labelled pictures.

        Raises:
            ValueError: if there is no example, for which there is no context but None.
        """
        if images.shape[1] == 0:
            raise ValueError("A context needs at least one labelled example, and got none.")
        return self.context_of(self.encode(images.flatten(0, 1)), masks)

    def conditions(self, image: Float[Tensor, "1 c h w"], masks: Float[Tensor, "k 1 h w"]) -> list[Context]:
        """The contexts of one picture for each of several labels."""
        embedding = self.encode(image)
        return [self.context_of(embedding, mask[None, None]) for mask in masks]

    def context_of(self, embedding: Embedding, masks: Float[Tensor, "g s 1 h w"]) -> Context:
        """The same of embedded pictures, those of one context after the other."""
        shape = masks.shape[:2]
        fine, coarse = (
            avg_pool2d(masks.flatten(0, 1), stride).unflatten(0, shape).float() for stride in (FINE, COARSE)
        )
        return Context(
            moments(embedding.fine.float().unflatten(0, shape), fine),
            moments(embedding.coarse.float().unflatten(0, shape), coarse),
            fine.sum(dim=1),
            shape[1],
        )

    def join(self, contexts: Sequence[Context]) -> Context:
        total = contexts[0]
        for context in contexts[1:]:
            total = total + context
        return total

    def segment(
        self, embedding: Embedding, context: Context | None, prompts: Float[Tensor, "b 4 h w"] | None = None
    ) -> Float[Tensor, "b 1 h w"]:
        """Logits at the pictures' resolution.

        Args:
            context: None for no examples; prompts, or the lack of any, then decide alone.
            prompts: 1 where there is a positive prompt, a negative one, inside a box; tanh(logits / 2) of the previous
                answer, 0 where there is none. None is the same as zeros.
        """
        return self.answers(embedding, context, prompts)[-1]

    def answers(
        self, embedding: Embedding, context: Context | None, prompts: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the coarse head, of the fine head and of the decoder, each at its own resolution."""
        pictures = embedding.pictures
        if prompts is None:
            prompts = pictures.new_zeros(len(pictures), PROMPT_CHANNELS, *pictures.shape[2:])
        fine = self._head(embedding.fine, context and context.fine, prompts, FINE)
        coarse = self._head(embedding.coarse, context and context.coarse, prompts, COARSE)
        fine = fine * self.fine_scale[0] + self.fine_scale[1]
        coarse = coarse * self.coarse_scale[0] + self.coarse_scale[1]
        prior = torch.zeros_like(fine) if context is None else (context.masks / context.count).expand_as(fine)
        known = torch.full_like(fine, float(context is not None))
        return coarse, fine, self.decoder(embedding, fine, coarse, prior, known, prompts)

    def forward(
        self,
        target_image: Float[Tensor, "b c h w"],
        support_images: Float[Tensor, "b s c h w"],
        support_labels: Float[Tensor, "b s 1 h w"],
        prompts: Float[Tensor, "b 4 h w"] | None = None,
    ) -> Float[Tensor, "b 1 h w"]:
        """Logits, every query with examples of its own, none where `s` is 0."""
        context = self.condition(support_images, support_labels) if support_images.shape[1] else None
        return self.segment(self.encode(target_image), context, prompts)

    def _head(self, embedding: Tensor, found: Moments | None, prompts: Tensor, stride: int) -> Float[Tensor, "b 1 h w"]:
        """Values of a regression, 0 where neither examples nor prompts tell both of inside and outside."""
        embedding = embedding.float()
        said = avg_pool2d(prompts[:, :2].float(), stride)
        strength = (self.fine_strength if stride == FINE else self.coarse_strength).exp()
        if not said.any():
            if found is None:
                return embedding.new_zeros(len(embedding), 1, *embedding.shape[2:])
            return applied(solved(found, strength), embedding)
        clicked = click_moments(embedding, *said.split(1, dim=1))
        found = clicked if found is None else _blended(found, clicked)
        told = (found.inside[:, -1, -1] > 0) & (found.outside[:, -1, -1] > 0)
        return applied(solved(found, strength), embedding) * told[:, None, None, None]


class _Decoder(nn.Module):
    """A U-Net at strides 4, 8 and 16, and two steps of detail at strides 2 and 1."""

    def __init__(self, width: int, shallow: int, fine: int):
        super().__init__()
        self.enter = nn.Conv2d(width + fine + 4 + 4 + 2 * PROMPT_CHANNELS, width, 1)
        self.mix4, self.mix8 = _Residual(width), _Residual(width, 2)
        self.mix16 = nn.Sequential(_Residual(width), _Residual(width, 2))
        self.down8, self.down16 = (nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(2))
        self.up8, self.up4 = _Residual(width), _Residual(width)
        self.narrow = nn.Conv2d(width, 24, 1)
        self.at2 = nn.Conv2d(24 + shallow + 3 + PROMPT_CHANNELS + 1, 24, 3, padding=1)
        self.out2 = nn.Conv2d(24, 9, 3, padding=1)
        self.at1 = nn.Conv2d(8 + 3 + PROMPT_CHANNELS, 8, 3, padding=1)
        self.out1 = nn.Conv2d(8, 1, 3, padding=1)
        nn.init.zeros_(self.out1.weight)
        nn.init.zeros_(self.out1.bias)

    def forward(
        self, embedding: Embedding, fine: Tensor, coarse: Tensor, prior: Tensor, known: Tensor, prompts: Tensor
    ) -> Tensor:
        area = prior.mean(dim=(2, 3), keepdim=True).sqrt().expand_as(prior)
        coarse = _up(coarse, fine)
        heads = [torch.tanh(fine / 4), torch.tanh(fine), torch.tanh(coarse / 4), torch.tanh(coarse)]
        # A click is a few pixels wide: the maximum says that it is there, the mean how much of it.
        said = [avg_pool2d(prompts, FINE), max_pool2d(prompts, FINE)]
        x = torch.cat(
            [embedding.trunk, embedding.fine, *heads, prior, _around(prior, PRIOR_WINDOW), area, known, *said], dim=1
        )
        four = self.mix4(self.enter(x))
        eight = self.mix8(self.down8(relu(four)))
        sixteen = self.mix16(self.down16(relu(eight)))
        eight = self.up8(eight + _up(sixteen, eight))
        four = self.up4(four + _up(eight, four))
        shallow = embedding.shallow
        detail = [_up(relu(self.narrow(relu(four))), shallow), shallow, avg_pool2d(prompts, 2), _up(fine, shallow)]
        two = self.out2(relu(self.at2(torch.cat(detail, dim=1))))
        one = _up(two, embedding.pictures)
        logits, carried = one[:, :1], one[:, 1:]
        detail = torch.cat([carried, 4 * embedding.pictures, prompts], dim=1)
        return logits + self.out1(relu(self.at1(detail))) + _up(fine, embedding.pictures)


class _Residual(nn.Module):
    """x + Conv1x1(ReLU(Conv3x3(ReLU(GroupNorm(x))))), the last convolution beginning with zeros."""

    def __init__(self, channels: int, dilation: int = 1, depthwise: bool = False):
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        groups = channels if depthwise else 1
        self.wide = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, groups=groups)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(relu(self.wide(relu(self.norm(x)))))


class _Attention(nn.Module):
    """A transformer layer over the pixels of a map, normalised before each part."""

    def __init__(self, channels: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm, self.norm_two = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.feed = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))
        for last in (self.out, self.feed[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        height = x.shape[2]
        tokens = rearrange(x, "b c h w -> b (h w) c")
        q, k, v = rearrange(self.qkv(self.norm(tokens)), "b p (n h c) -> n b h p c", n=3, h=self.heads)
        tokens = tokens + self.out(rearrange(scaled_dot_product_attention(q, k, v), "b h p c -> b p (h c)"))
        tokens = tokens + self.feed(self.norm_two(tokens))
        return rearrange(tokens, "b (h w) c -> b c h w", h=height)


def _blended(examples: Moments, clicked: Moments) -> Moments:
    """Moments of both, in which what was clicked has `CLICKED_SHARE` of the weight of its class."""

    def both(of_examples: Tensor, of_clicks: Tensor) -> Tensor:
        total, said = of_examples[:, -1:, -1:], of_clicks[:, -1:, -1:]
        share = CLICKED_SHARE * (said > 0)
        share = torch.where(total > 0, share, (said > 0).float())
        per_click = torch.where(said > 0, total.clamp(min=1.0) / said.clamp(min=1e-6), torch.zeros_like(said))
        return (1 - share) * of_examples + share * per_click * of_clicks

    return Moments(both(examples.inside, clicked.inside), both(examples.outside, clicked.outside))


def _place(like: Float[Tensor, "b c h w"]) -> Float[Tensor, "b p h w"]:
    """Where a pixel lies in the picture: coordinates in [-1, 1], and sines and cosines of them."""
    height, width = like.shape[2:]
    rows = ((torch.arange(height, device=like.device) + 0.5) / height * 2 - 1)[:, None].expand(height, width)
    columns = ((torch.arange(width, device=like.device) + 0.5) / width * 2 - 1)[None].expand(height, width)
    waves = [wave(pi * n * axis) for axis in (rows, columns) for n in FREQUENCIES for wave in (torch.sin, torch.cos)]
    return torch.stack([rows, columns, *waves])[None].expand(len(like), -1, -1, -1)


def _unit(embedding: Tensor) -> Tensor:
    return 3 * normalize(embedding, dim=1)


def _up(x: Tensor, like: Tensor) -> Tensor:
    return interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def _around(x: Tensor, window: int) -> Tensor:
    """The mean over a square window, of the pixels of the picture alone."""
    return avg_pool2d(x, window, stride=1, padding=window // 2, count_include_pad=False)
