"""SR-ICL (Unified Medical Lesion Segmentation via Self-referring Indicator, CVPR 2025): examples as two small networks.

The deepest features of the labelled examples become numbers, whose means over foreground and over background of
all examples *are* the weights of two tiny networks of 1x1 convolutions, the indicators: applied to the fine features of
a query they give a foreground and a background map, the prior. The query's own surest places then refine the indicators
(self-referring), which are applied again. What follows from that:

* a set of examples is two vectors, whatever their number, so a thousand cost a query no more than one;
* a context keeps sums and weights rather than means, so contexts join exactly and in any order;
* an example's embedding is computed without gradient, as published, but what makes numbers of it is trained.

The published head fails (an undefined module, 64 channels where it needs 128, a background that takes the foreground's
residual); this is the form that the paper describes. Choices of ours: the small backbone; masks averaged onto the grid;
an attention of smaller width than the vectors'; normalised features at stride 4, and the scale at which the indicators'
normalisation starts, with both of which training leaps less.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, gelu, interpolate, max_pool2d, relu

from InContextSegLib.models.backbone import STRIDES, SmallBackbone, group_norm

HIDDEN = 8  # channels between the 1x1 convolutions of an indicator
HEADS = 8
SURE, FEWEST_SURE = 0.7, 3  # a place of the query refers to itself from this probability on; if none does, so many
OF_REFERENCES, OF_ITSELF = 0.7, 0.3
ENCODED_AT_ONCE = 32  # examples; more at once would only take memory
FINEST, COARSEST = STRIDES[0], STRIDES[-1]


@dataclass(frozen=True, eq=False)
class Embedding:
    """What depends on the query images alone: features at stride 4, and the numbers of every place at stride 32."""

    features: Float[Tensor, "b c y x"]
    tokens: Float[Tensor, "b n m"]

    @property
    def size_bytes(self) -> int:
        return _size_bytes(self.features, self.tokens)


@dataclass(frozen=True, eq=False)
class Context:
    """What depends on the examples alone, for foreground and background. `g` is 1 or the number of queries.

    Attributes:
        sums: of the numbers at all places of all examples, each times its weight.
        weights: summed.
    """

    sums: Float[Tensor, "g 2 m"]
    weights: Float[Tensor, "g 2 1"]

    @property
    def indicators(self) -> Float[Tensor, "g 2 m"]:
        """Weighted means; the 1 below makes them zero, not undefined, where nothing has any weight."""
        return self.sums / (1 + self.weights)

    @property
    def size_bytes(self) -> int:
        return _size_bytes(self.sums, self.weights)


class SRICL(nn.Module):
    """In-context segmentation of a grey image by the indicators of labelled examples.

    Images are grey in [0, 1]; height and width are multiples of 32. Masks are in [0, 1], of one or two channels:

    * one channel is a full label, perhaps a soft one; what it lacks to 1 is background. On the grid of stride 32 it is
      averaged;
    * two channels are marks of foreground and of background, as `weak.points` makes them: there may be places of which
      they say nothing. On the grid a mark of the foreground counts in full however small it is (the maximum), the
      background by its share of what the foreground leaves.

    Args:
        widths: of the small backbone, at strides 4, 8, 16 and 32.
        decoder_width: channels of the decoder.
        channels: of the features at stride 4, to which the indicators are applied (the paper's C).
        attention_width: of queries, keys and values in the self-referring step; a multiple of 8, its heads.
        backbone: in place of the small one, as `models/backbone.py` describes it.

    Raises:
        ValueError: if a width does not fit, or the backbone does not say the channels of four feature maps.
    """

    promptable = False

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 96, 160),
        decoder_width: int = 64,
        channels: int = 128,
        attention_width: int = 64,
        backbone: nn.Module | None = None,
    ):
        super().__init__()
        if attention_width % HEADS:
            raise ValueError(f"attention_width: asked for a multiple of {HEADS}, got {attention_width}.")
        backbone = SmallBackbone(widths) if backbone is None else backbone
        given = tuple(getattr(backbone, "channels", ()))
        if len(given) != len(STRIDES):
            raise ValueError(
                f"A backbone names the channels of its feature maps at strides {', '.join(map(str, STRIDES))} in "
                f"'channels', and this one names {len(given)}; see models/backbone.py."
            )
        self.backbone = backbone
        self.decoder = _Decoder(given, decoder_width, channels)
        numbers = HIDDEN * (channels + HIDDEN + 1)
        self.indicator = nn.Sequential(nn.Linear(given[-1], numbers), _indicator_norm(channels))
        self.self_reference = _SelfReference(channels, attention_width)
        self.to(memory_format=torch.channels_last)

    @classmethod
    def fitting(cls, state: Mapping[str, Tensor]) -> "SRICL":
        """A network with the small backbone, of the widths that a state dict has; its values are not loaded.

        Raises:
            KeyError: if it is not the state dict of such a network.
        """
        levels = takewhile(state.__contains__, map("backbone.halvings.{}.weight".format, count()))
        widths = [len(state[name]) for name in levels]
        if len(widths) != len(STRIDES):
            raise KeyError(f"the state dict has {len(widths)} levels of a small backbone, not {len(STRIDES)}")
        return cls(
            widths,
            decoder_width=state["decoder.out.weight"].shape[1],
            channels=len(state["decoder.out.weight"]),
            attention_width=len(state["self_reference.query.weight"]),
        )

    @property
    def arguments(self) -> dict[str, int | tuple[int, ...]]:
        """What another network of this form is built with.

        Raises:
            ValueError: if its backbone is not the small one, which alone can be built by name.
        """
        if not isinstance(self.backbone, SmallBackbone):
            raise ValueError("An SR-ICL network with a backbone of your own cannot be built by name.")
        return {
            "widths": self.backbone.channels,
            "decoder_width": self.decoder.out.in_channels,
            "channels": self.decoder.out.out_channels,
            "attention_width": self.self_reference.query.out_features,
        }

    def encode(self, images: Float[Tensor, "b 1 h w"]) -> Embedding:
        """Features and numbers of the queries.

        Raises:
            ValueError: if a side is no multiple of 32, or the feature maps of the backbone are not at its strides.
        """
        maps = self._maps(images)
        return Embedding(self.decoder(maps), self._numbers(maps[-1]))

    def condition(self, images: Float[Tensor, "g s 1 h w"], masks: Float[Tensor, "g s c h w"]) -> Context:
        """The indicators' sums over all examples and places; the backbone is not trained by way of them.

        Raises:
            ValueError: if there is no example, for which there is no context, a mask has other than one or two
                channels, or as `encode`.
        """
        if images.shape[1] == 0:
            raise ValueError("A context needs at least one labelled example, and got none.")
        if masks.shape[2] not in (1, 2):
            raise ValueError(
                f"A mask has one channel (a label) or two (marks of foreground and background), not {masks.shape[2]}."
            )
        with torch.no_grad():
            deepest = torch.cat([self._maps(chunk)[-1] for chunk in images.flatten(0, 1).split(ENCODED_AT_ONCE)])
        weights = rearrange(_on_grid(masks.flatten(0, 1)), "(g s) o h w -> g o (s h w)", g=len(images))
        numbers = rearrange(self._numbers(deepest), "(g s) n m -> g (s n) m", g=len(images))
        # In full precision, as sums over thousands of places are.
        with torch.autocast(images.device.type, enabled=False):
            return Context(weights.float() @ numbers.float(), weights.float().sum(dim=2, keepdim=True))

    def join(self, contexts: Sequence[Context]) -> Context:
        """One context out of several, as if their examples had been conditioned together."""
        return Context(sum(context.sums for context in contexts), sum(context.weights for context in contexts))

    def segment(
        self, embedding: Embedding, context: Context | None, prompts: Tensor | None = None
    ) -> Float[Tensor, "b 1 h w"]:
        """Logits of the queries: the foreground map less the background map, so that 0 is where the larger changes.

        Raises:
            ValueError: if there are prompts, or no examples.
        """
        if context is None or prompts is not None:
            what = "no labelled example" if context is None else "prompts"
            raise ValueError(f"This network answers from labelled examples alone, and got {what}; choose another one.")
        _, final = self._answers(embedding, context)
        return _enlarged(final[:, :1] - final[:, 1:])

    def forward(
        self,
        images: Float[Tensor, "b 1 h w"],
        support_images: Float[Tensor, "b s 1 h w"],
        support_masks: Float[Tensor, "b s c h w"],
    ) -> Float[Tensor, "b 2 2 h w"]:
        """What training looks at: final (0) and prior (1) logit maps of foreground (0) and background (1).

        Every query has examples of its own; `losses.sricl_loss` takes the answer.
        """
        return self.maps(self.encode(images), self.condition(support_images, support_masks))

    def maps(self, embedding: Embedding, context: Context) -> Float[Tensor, "b 2 2 h w"]:
        """What `forward` gives; all queries may share one context."""
        prior, final = self._answers(embedding, context)
        return torch.stack([_enlarged(final), _enlarged(prior)], dim=1)

    def _answers(self, embedding: Embedding, context: Context) -> tuple[Tensor, Tensor]:
        """Prior and final logit maps (b, 2, h/4, w/4) of foreground and background."""
        prior = _applied(context.indicators, embedding.features)
        own = self.self_reference(embedding.tokens, avg_pool2d(prior, COARSEST // FINEST))
        fused = OF_REFERENCES * context.indicators + OF_ITSELF * own
        return prior, _applied(fused, embedding.features)

    def _maps(self, images: Tensor) -> Sequence[Tensor]:
        height, width = images.shape[-2:]
        if height % COARSEST or width % COARSEST:
            raise ValueError(
                f"An SR-ICL network takes images whose sides are multiples of {COARSEST}, and got {height} x {width} "
                "pixels."
            )
        maps = self.backbone(images)
        came = [tuple(each.shape[-2:]) for each in maps]
        if came != [(height // stride, width // stride) for stride in STRIDES]:
            raise ValueError(
                f"A backbone gives feature maps at strides {', '.join(map(str, STRIDES))}, and this one gave {came} "
                f"for {height} x {width} pixels; see models/backbone.py."
            )
        return maps

    def _numbers(self, deepest: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n m"]:
        return self.indicator(rearrange(deepest, "b c h w -> b (h w) c"))


class _Decoder(nn.Module):
    """From the deepest feature map up to the finest: enlarge, add what lies beside, mix.

    What comes out is normalised, as the logits are its product with three layers of weights that are no parameters: a
    bound on one of these factors allows for larger steps of training.
    """

    def __init__(self, inputs: Sequence[int], width: int, channels: int):
        super().__init__()
        self.beside = nn.ModuleList(nn.Conv2d(each, width, 1) for each in inputs)
        self.mixing = nn.ModuleList(_mixing(width) for _ in inputs)
        self.out = nn.Conv2d(width, channels, 3, padding=1, bias=False)
        self.norm = group_norm(channels)

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "b c h w"]:
        features = 0
        for each, beside, mixing in reversed(list(zip(maps, self.beside, self.mixing, strict=True))):
            if isinstance(features, Tensor):
                features = interpolate(features, scale_factor=2, mode="bilinear")
            features = mixing(features + beside(each))
        return self.norm(self.out(features))


class _SelfReference(nn.Module):
    """The query's surest places of foreground and background, refined by differential attention over all its places."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        numbers = HIDDEN * (channels + HIDDEN + 1)
        # No biases: to a key's the attention is blind.
        self.query, self.value = (nn.Linear(numbers, width, bias=False) for _ in range(2))
        self.foreground_key, self.background_key = (nn.Linear(numbers, width, bias=False) for _ in range(2))
        self.out = nn.Linear(width, numbers)
        self.norm = _indicator_norm(channels)
        self.feed = nn.ModuleList([nn.Linear(numbers, width), nn.Linear(width, numbers)])

    def forward(self, tokens: Float[Tensor, "b n m"], prior: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b 2 m"]:
        """Indicators of foreground and background from the query alone; `prior` are logits at the places of tokens."""
        sure = _sure(torch.softmax(prior.float(), dim=1).flatten(2)).to(tokens)
        means = sure @ tokens / sure.sum(dim=2, keepdim=True)
        query, value = _heads(self.query(means)), _heads(self.value(tokens))
        foreground, background = _heads(self.foreground_key(tokens)), _heads(self.background_key(tokens))
        scale = query.shape[-1] ** -0.5
        difference = scale * (query[:, :, :1] @ foreground.mT - query[:, :, 1:] @ background.mT)
        attention = torch.softmax(torch.cat([difference, -difference], dim=2), dim=-1)
        refined = self.norm(means + self.out(rearrange(attention @ value, "b a o d -> b o (a d)")))
        return refined + self.feed[1](gelu(self.feed[0](refined)))


def _sure(probability: Float[Tensor, "b 2 n"]) -> Tensor:
    """Which places (b, 2, n; bool) are surely foreground and background; the surest few where none is sure."""
    sure = probability > SURE
    surest = probability.topk(min(FEWEST_SURE, probability.shape[2]), dim=2).indices
    few = torch.zeros_like(sure).scatter(2, surest, True)
    return torch.where(sure.any(dim=2, keepdim=True), sure, few)


def _applied(indicators: Float[Tensor, "g 2 m"], features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 2 h w"]:
    """The indicators as networks: three 1x1 convolutions without biases, and ReLU between."""
    channels = features.shape[1]
    first, second, last = indicators.split([HIDDEN * channels, HIDDEN * HIDDEN, HIDDEN], dim=2)
    places = rearrange(features, "b c h w -> b 1 c (h w)")
    hidden = relu(first.unflatten(2, (HIDDEN, channels)) @ places)
    hidden = relu(second.unflatten(2, (HIDDEN, HIDDEN)) @ hidden)
    return (last.unflatten(2, (1, HIDDEN)) @ hidden)[:, :, 0].unflatten(2, features.shape[2:])


def _on_grid(masks: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 2 _ _"]:
    """Weights of foreground and background at stride 32; what the channels mean is said in `SRICL`."""
    if masks.shape[1] == 1:
        foreground = avg_pool2d(masks, COARSEST)
        return torch.cat([foreground, 1 - foreground], dim=1)
    foreground, background = max_pool2d(masks[:, :1], COARSEST), avg_pool2d(masks[:, 1:], COARSEST)
    return torch.cat([foreground, torch.minimum(background, 1 - foreground)], dim=1)


def _indicator_norm(channels: int) -> nn.LayerNorm:
    """Normalisation to the scale at which the weights of three convolutions usually start (He et al., ICCV 2015).

    At unit scale the first logits would be ten times as large.
    """
    numbers = (HIDDEN * channels, HIDDEN * HIDDEN, HIDDEN)
    norm = nn.LayerNorm(sum(numbers))
    scales = [(2 / inputs) ** 0.5 for inputs in (channels, HIDDEN, HIDDEN)]
    with torch.no_grad():
        norm.weight.copy_(torch.cat([torch.full((n,), scale) for n, scale in zip(numbers, scales, strict=True)]))
    return norm


def _mixing(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), group_norm(width), nn.GELU())


def _heads(vectors: Float[Tensor, "b n w"]) -> Float[Tensor, "b a n d"]:
    return rearrange(vectors, "b n (a d) -> b a n d", a=HEADS)


def _enlarged(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 4*h 4*w"]:
    return interpolate(maps.float(), scale_factor=FINEST, mode="bilinear")


def _size_bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
