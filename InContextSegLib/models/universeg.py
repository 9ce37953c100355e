"""UniverSeg (Butoi et al., ICCV 2023) in a factorised form whose logits equal the published network's.

A CrossBlock mixes the query `u` with every support `v_i` by one convolution over their concatenation, *without* an
activation behind it. Being linear it splits, `z_i = Wq*u + Ws*v_i + b`, and everything up to the next LeakyReLU splits
with it. What follows from that, and what this file is:

* `Wq*u` is computed once per query and never repeated for every support;
* the query stream needs only the *mean* of the supports;
* in the first block, `conv_support(Ws*v_i)` depends on the support alone (`condition`), `conv_target(Wq*u)` and
  `conv_support(Wq*u)` on the query alone (`encode`): a slice of a volume starts behind the first block;
* behind the last block the support stream is not needed, and up-sampling, concatenation and mean are linear: the last
  block costs the same for any number of supports;
* supports pass through every level in chunks that fit the processor's cache.

A promptable network has four further query channels: clicks, boxes and scribbles, and its own last answer (as in
ScribblePrompt, Wong et al., ECCV 2024). They enter linearly too, so an image stays encoded from click to click; and it
answers without any support, when the means above are zero.

The plain form is kept in `Testing/Parity/plain_universeg.py`, where it serves as the oracle.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, leaky_relu, leaky_relu_, max_pool2d

SLOPE = 0.01
PROMPT_CHANNELS = 4  # positive, negative, box; tanh(logits / 2) of the previous answer
# Bytes of one feature tensor that still travels through a laptop's last-level cache together with its result.
CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, eq=False)
class Embedding:
    """What depends on the query images alone: the query's share of the first block, behind its second convolutions."""

    target: Float[Tensor, "b c h w"]
    support: Float[Tensor, "b c h w"]

    @property
    def size_bytes(self) -> int:
        return _size_bytes(self.target, self.support)


@dataclass(frozen=True, eq=False)
class Context:
    """What depends on the supports alone. `g` is 1 (one context for every query) or the number of queries."""

    inputs: Float[Tensor, "g s 2 h w"]
    support: Float[Tensor, "g s c h w"]

    @property
    def size_bytes(self) -> int:
        return _size_bytes(self.inputs, self.support)


class UniverSeg(nn.Module):
    """In-context segmentation of a grey image by labelled support images.

    Images are grey in [0, 1], masks 0 or 1; height and width are multiples of `2 ** (len(widths) - 1)`.
    The defaults are the published version 1 (four encoder and three decoder blocks of 64 channels) and the state dict
    has its 44 names. The paper's equation has an activation behind the cross convolution; the released network has
    none, and the factorisation needs there to be none, so there is no option for it.

    Args:
        widths: channels of the encoder blocks, from full resolution down; the decoder blocks mirror them.
        promptable: whether the query has `PROMPT_CHANNELS` channels besides its image.
    """

    def __init__(self, widths: Sequence[int] = (64, 64, 64, 64), promptable: bool = False):
        super().__init__()
        self.widths, self.promptable = tuple(widths), promptable
        inputs = 1 + PROMPT_CHANNELS if promptable else 1
        self.enc_blocks = nn.ModuleList([_CrossBlock(inputs, 2, widths[0])])
        self.enc_blocks.extend(_CrossBlock(above, above, width) for above, width in pairwise(widths))
        self.dec_blocks = nn.ModuleList(
            _CrossBlock(below + width, below + width, width) for below, width in pairwise(reversed(widths))
        )
        self.out_conv = nn.ModuleDict({"conv": nn.Conv2d(widths[0], 1, 1)})
        self.to(memory_format=torch.channels_last)

    @classmethod
    def fitting(cls, state: Mapping[str, Tensor]) -> "UniverSeg":
        """A network of the widths, and with the prompts, that a state dict has; its values are not loaded.

        Raises:
            KeyError: if it is not the state dict of such a network.
        """
        cross = "enc_blocks.{}.cross.cross_conv.weight".format
        levels = next(level for level in range(1 + len(state)) if cross(level) not in state)
        widths = [len(state[cross(level)]) for level in range(levels)]
        inputs = state[cross(0)].shape[1] - 2
        return cls(widths, promptable=inputs == 1 + PROMPT_CHANNELS)

    @property
    def arguments(self) -> dict[str, bool | tuple[int, ...]]:
        """What another network of this form is built with."""
        return {"widths": self.widths, "promptable": self.promptable}

    def encode(self, images: Float[Tensor, "b 1 h w"]) -> Embedding:
        """The query's share of the first block; depends on the images alone."""
        self._check_size(images)
        first = self.enc_blocks[0]
        query = first.query(images)
        return Embedding(first.target_conv(query), first.support_conv(query))

    def condition(self, images: Float[Tensor, "g s 1 h w"], masks: Float[Tensor, "g s 1 h w"]) -> Context:
        """The supports' share of the first block; depends on the supports alone.

        Raises:
            ValueError: if there is no support, for which there is no context but None.
        """
        if images.shape[1] == 0:
            raise ValueError("A context needs at least one labelled example, and got none.")
        self._check_size(images)
        first = self.enc_blocks[0]
        inputs = torch.cat([images, masks], dim=2)
        mixed = [first.support_conv(first.mix(chunk), bias=False) for chunk in self._chunks(_flat(inputs))]
        support = rearrange(torch.cat(mixed), "(g s) c h w -> g s c h w", s=inputs.shape[1])
        return Context(inputs, support)

    def join(self, contexts: Sequence[Context]) -> Context:
        """One context out of several, as if their supports had been conditioned together."""
        inputs = torch.cat([context.inputs for context in contexts], dim=1)
        support = torch.cat([context.support for context in contexts], dim=1)
        return Context(inputs, support)

    def segment(
        self,
        embedding: Embedding,
        context: Context | None,
        prompts: Float[Tensor, "b 4 h w"] | None = None,
    ) -> Float[Tensor, "b 1 h w"]:
        """Logits of the queries, every query seeing all supports of the context and its own prompts.

        Args:
            context: None for no supports, which a promptable network can do without.
            prompts: 1 where there is a positive prompt, a negative one, inside a box; tanh(logits / 2) of the previous
                answer, 0 where there is none. None is the same as zeros.

        Raises:
            ValueError: if the network is not promptable and there are prompts, or no supports.
        """
        if not self.promptable and (context is None or prompts is not None):
            what = "no labelled example" if context is None else "prompts"
            raise ValueError(f"This network answers from labelled examples alone, and got {what}; choose another one.")
        if prompts is not None:
            embedding = self._prompted(embedding, prompts)
        if context is None:
            return self._segment_alone(embedding)
        # Of a mean, so it takes little time, and would be as large as the share of a single support.
        query = leaky_relu_(embedding.target + self._target_context(context.inputs), SLOPE)
        supports, mean = self._first_supports(embedding, context)
        skips = [_Skip(query, None, mean)]
        for block in self.enc_blocks[1:]:
            query, mean = max_pool2d(query, 2), _mean(supports)
            query, supports, mean = self._encoder_block(block, query, supports, mean)
            skips.append(_Skip(query, supports, mean))
            if block is not self.enc_blocks[-1]:
                supports = self._pooled(supports)
        skips.pop()
        for block in self.dec_blocks[:-1]:
            query, supports, mean = self._decoder_block(block, query, supports, mean, skips.pop())
        query = self._last_block(self.dec_blocks[-1], query, mean, skips.pop())
        return self.out_conv["conv"](query)

    def forward(
        self,
        target_image: Float[Tensor, "b 1 h w"],
        support_images: Float[Tensor, "b s 1 h w"],
        support_labels: Float[Tensor, "b s 1 h w"],
        prompts: Float[Tensor, "b 4 h w"] | None = None,
    ) -> Float[Tensor, "b 1 h w"]:
        """Logits, every query with supports of its own (the published network's call), none where `s` is 0."""
        context = self.condition(support_images, support_labels) if support_images.shape[1] else None
        return self.segment(self.encode(target_image), context, prompts)

    def _prompted(self, embedding: Embedding, prompts: Float[Tensor, "b 4 h w"]) -> Embedding:
        first = self.enc_blocks[0]
        mixed = first.prompts(prompts)
        return Embedding(
            embedding.target + first.target_conv(mixed, bias=False),
            embedding.support + first.support_conv(mixed, bias=False),
        )

    def _segment_alone(self, embedding: Embedding) -> Float[Tensor, "b 1 h w"]:
        """The query's stream, with zeros for the mean of no supports."""
        query = leaky_relu(embedding.target, SLOPE)
        skips = [query]
        for block in self.enc_blocks[1:]:
            query = leaky_relu_(block.target_conv(block.query(max_pool2d(query, 2))), SLOPE)
            skips.append(query)
        skips.pop()
        for block in self.dec_blocks:
            mixed = block.query(torch.cat([_twice(query), skips.pop()], dim=1))
            query = leaky_relu_(block.target_conv(mixed), SLOPE)
        return self.out_conv["conv"](query)

    def _target_context(self, inputs: Float[Tensor, "g s 2 h w"]) -> Float[Tensor, "g c h w"]:
        first = self.enc_blocks[0]
        return first.target_conv(first.mix(_mean(inputs)), bias=False)

    def _first_supports(self, embedding: Embedding, context: Context) -> tuple[Tensor, Tensor]:
        """The supports behind the first block, pooled, and their mean before pooling.

        The supports at full resolution exist one chunk at a time.
        """
        count = context.support.shape[1]
        total, pooled = torch.zeros((), device=embedding.support.device), []
        for chunk in context.support.split(self._chunk_length(embedding.support, count), dim=1):
            supports = leaky_relu_(embedding.support[:, None] + chunk, SLOPE)
            total = total + _sum(supports)
            pooled.append(_each(max_pool2d, supports, 2))
        return _joined(pooled), total / count

    def _encoder_block(self, block: "_CrossBlock", query: Tensor, supports: Tensor, mean: Tensor):
        mixed_query = block.query(query)
        query = leaky_relu_(block.target_conv(mixed_query + block.mix(mean)), SLOPE)
        return query, *self._supports_through(block, mixed_query, supports)

    def _decoder_block(self, block: "_CrossBlock", query: Tensor, supports: Tensor, mean: Tensor, skip: "_Skip"):
        mixed_query = block.query(torch.cat([_twice(query), skip.query], dim=1))
        mixed_mean = block.mix(torch.cat([_twice(mean), skip.mean], dim=1))
        query = leaky_relu_(block.target_conv(mixed_query + mixed_mean), SLOPE)
        return query, *self._supports_through(block, mixed_query, supports, skip.supports)

    def _last_block(self, block: "_CrossBlock", query: Tensor, mean: Tensor, skip: "_Skip") -> Tensor:
        mixed_query = block.query(torch.cat([_twice(query), skip.query], dim=1))
        mixed_mean = block.mix(torch.cat([_twice(mean), skip.mean], dim=1))
        return leaky_relu_(block.target_conv(mixed_query + mixed_mean), SLOPE)

    def _supports_through(
        self, block: "_CrossBlock", mixed_query: Tensor, supports: Tensor, skips: Tensor | None = None
    ):
        """The supports behind one block, and their mean; `skips` joins them up-sampled in a decoder block."""
        step, out = self._chunk_length(mixed_query, supports.shape[1]), []
        beside = [None] * supports.shape[1] if skips is None else skips.split(step, dim=1)
        for chunk, skip in zip(supports.split(step, dim=1), beside, strict=False):
            length = chunk.shape[1]
            inputs = _flat(chunk) if skip is None else torch.cat([_twice(_flat(chunk)), _flat(skip)], dim=1)
            mixed = block.mix(inputs).unflatten(0, (-1, length)).add_(mixed_query[:, None])
            out.append(leaky_relu_(block.support_conv(mixed.flatten(0, 1)), SLOPE).unflatten(0, (-1, length)))
        supports = _joined(out)
        return supports, _mean(supports)

    def _pooled(self, supports: Tensor) -> Tensor:
        return _each(max_pool2d, supports, 2)

    def _chunk_length(self, features: Float[Tensor, "b c h w"], count: int) -> int:
        """Supports handled at once; all of them while gradients are recorded, where chunks would save nothing."""
        if torch.is_grad_enabled() or features.is_cuda:
            return count
        return max(1, min(count, CHUNK_BYTES // (features.numel() * features.element_size())))

    def _chunks(self, inputs: Float[Tensor, "n 2 h w"]) -> Sequence[Tensor]:
        if torch.is_grad_enabled() or inputs.is_cuda:
            return [inputs]
        return inputs.split(
            max(1, CHUNK_BYTES // (self.widths[0] * inputs.shape[-1] * inputs.shape[-2] * inputs.element_size()))
        )

    def _check_size(self, images: Tensor) -> None:
        multiple = 2 ** (len(self.widths) - 1)
        if images.shape[-1] % multiple or images.shape[-2] % multiple:
            raise ValueError(
                f"A UniverSeg of depth {len(self.widths)} takes images whose sides are multiples of {multiple}, "
                f"and got {images.shape[-2]} x {images.shape[-1]} pixels."
            )


@dataclass(frozen=True, eq=False)
class _Skip:
    query: Tensor
    supports: Tensor | None  # of the first block only the mean is ever needed
    mean: Tensor


class _Conv(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.vmapped = nn.ModuleDict({"conv": nn.Conv2d(width, width, 3, padding=1)})


class _Cross(nn.Module):
    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.cross_conv = nn.Conv2d(inputs, width, 3, padding=1)


class _CrossBlock(nn.Module):
    """One CrossBlock's parameters under their published names, and its convolutions split into their linear shares."""

    def __init__(self, query_channels: int, support_channels: int, width: int):
        super().__init__()
        self.query_channels = query_channels
        self.cross = _Cross(query_channels + support_channels, width)
        self.target = _Conv(width)
        self.support = _Conv(width)

    def query(self, query: Tensor) -> Tensor:
        """`Wq*u + b`; of a first block that takes prompts, the share of the image."""
        cross = self.cross.cross_conv
        return conv2d(_channels_last(query), cross.weight[:, : query.shape[1]], cross.bias, padding=1)

    def prompts(self, prompts: Tensor) -> Tensor:
        """The share of `Wq*u` that belongs to the prompts, which follow the image."""
        return conv2d(_channels_last(prompts), self.cross.cross_conv.weight[:, 1 : self.query_channels], padding=1)

    def mix(self, support: Tensor) -> Tensor:
        """`Ws*v`."""
        return conv2d(_channels_last(support), self.cross.cross_conv.weight[:, self.query_channels :], padding=1)

    def target_conv(self, mixed: Tensor, bias: bool = True) -> Tensor:
        conv = self.target.vmapped["conv"]
        return conv2d(mixed, conv.weight, conv.bias if bias else None, padding=1)

    def support_conv(self, mixed: Tensor, bias: bool = True) -> Tensor:
        conv = self.support.vmapped["conv"]
        return conv2d(mixed, conv.weight, conv.bias if bias else None, padding=1)


def _size_bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _channels_last(images: Tensor) -> Tensor:
    # Twice as fast as the default layout on the processors measured (docs/development/tried.md).
    return images.contiguous(memory_format=torch.channels_last)


def _sum(supports: Float[Tensor, "b s c h w"]) -> Float[Tensor, "b c h w"]:
    # Several times as fast as `supports.sum(dim=1)`, which reads this layout against the grain; and `unbind` has one
    # gradient, where every index would have one of the size of all supports.
    first, *others = supports.unbind(dim=1)
    total = first.clone()
    for support in others:
        total.add_(support)
    return total


def _mean(supports: Float[Tensor, "b s c h w"]) -> Float[Tensor, "b c h w"]:
    return _sum(supports) / supports.shape[1]


def _twice(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c 2*h 2*w"]:
    return interpolate(images, scale_factor=2, mode="bilinear", align_corners=True)


def _flat(supports: Float[Tensor, "b s c h w"]) -> Float[Tensor, "b*s c h w"]:
    return supports.flatten(0, 1)


def _each(function, supports: Float[Tensor, "b s c h w"], *arguments) -> Tensor:
    return function(_flat(supports), *arguments).unflatten(0, supports.shape[:2])


def _joined(chunks: list[Tensor]) -> Tensor:
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=1)
