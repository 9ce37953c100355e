"""Several answers averaged: those of a network that reads examples, and of heads fitted to them, each at its size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from InContextSegLib.models.fitted import FittedHead
from InContextSegLib.models.incontext import Context, Embedding, InContextNet

NETWORK = "network"
AUGMENTED = ", augmented"  # the end of a head's name


@dataclass(frozen=True, eq=False)
class FittedAt:
    """A head, the size of the pictures that it was fitted at, and whether to changed copies of them as well."""

    size: int
    head: FittedHead
    augmented: bool = False

    @property
    def name(self) -> str:
        return f"fitted at {self.size}" + (AUGMENTED if self.augmented else "")


@dataclass(frozen=True, eq=False)
class CombinedEmbedding:
    """What the members make of pictures of `size` pixels before any example is looked at.

    Attributes:
        network: the network's embedding.
        fitted: logits of every fitted head, by its name.
    """

    network: Embedding
    fitted: Mapping[str, Float[Tensor, "b k h w"]]
    size: int

    @property
    def size_bytes(self) -> int:
        return self.network.size_bytes + sum(each.numel() * each.element_size() for each in self.fitted.values())


class Combined(nn.Module):
    """A `SliceSegmenter` whose logits are the weighted mean of its members'; a label has weights of its own.

    Pictures may be of any size; every member sees them at its own.

    Args:
        network: reads examples, at pictures of `size` pixels.
        heads: fitted to the examples, an output for each of `values`.
        values: of the labels.
        weights: by label value and name of the member; a label that is not named has equal weights.
    """

    promptable = True
    channels = 3
    any_view = False  # heads know places in the picture as it was fitted
    positioned = True

    def __init__(
        self,
        network: InContextNet,
        size: int,
        heads: Sequence[FittedAt] = (),
        values: Sequence[int] = (),
        weights: Mapping[int, Mapping[str, float]] | None = None,
    ):
        super().__init__()
        self.network, self.size, self.values = network, size, tuple(values)
        self.heads = tuple(heads)
        self._modules_of_heads = nn.ModuleList(each.head for each in heads)
        names = [NETWORK, *(each.name for each in self.heads)]
        equal = dict.fromkeys(names, 1 / len(names))
        self.weights = {value: dict((weights or {}).get(value, equal)) for value in values}

    def encode(
        self, images: Float[Tensor, "b c h w"], positions: Sequence[float | None] | None = None
    ) -> CombinedEmbedding:
        positions = positions or [None] * len(images)
        own = resized(images, self.size)
        features = {self.size: self.network.features(own)}
        fitted = {}
        for each in self.heads:
            pictures = resized(images, each.size).expand(-1, 3, -1, -1)
            if each.size not in features:
                features[each.size] = self.network.features(pictures)
            fitted[each.name] = each.head(features[each.size], pictures, positions)
        return CombinedEmbedding(self.network.embed(own, features[self.size]), fitted, images.shape[-1])

    def condition(self, images: Float[Tensor, "g s c h w"], masks: Float[Tensor, "g s 1 h w"]) -> Context:
        shape = images.shape[:2]
        small = [resized(each.flatten(0, 1), self.size).unflatten(0, shape) for each in (images, masks)]
        return self.network.condition(*small)

    def conditions(self, image: Float[Tensor, "1 c h w"], masks: Float[Tensor, "k 1 h w"]) -> list[Context]:
        """The contexts of one picture for each of several labels."""
        return self.network.conditions(resized(image, self.size), resized(masks, self.size))

    def join(self, contexts: Sequence[Context]) -> Context:
        return self.network.join(contexts)

    def segment(
        self,
        embedding: CombinedEmbedding,
        context: Context | None,
        prompts: Float[Tensor, "b 4 h w"] | None = None,
        label: int | None = None,
    ) -> Float[Tensor, "b 1 h w"]:
        """Logits at the pictures' resolution.

        Args:
            label: the value of what is asked for; None, or one that no head was fitted to: the network's answer alone.
        """
        weights = self.weights.get(label, {NETWORK: 1.0})
        answers: list[tuple[float, Any]] = []
        if weights.get(NETWORK, 0):
            small = None if prompts is None else resized(prompts, self.size)
            answers.append((weights[NETWORK], self.network.segment(embedding.network, context, small)))
        for name, logits in embedding.fitted.items():
            if weights.get(name, 0):
                number = self.values.index(label)
                answers.append((weights[name], logits[:, number : number + 1]))
        return sum(weight * resized(each, embedding.size) for weight, each in answers)

    @property
    def record(self) -> dict:
        """For the provenance of an output."""
        return {str(value): {name: round(each, 4) for name, each in own.items()} for value, own in self.weights.items()}


def resized(images: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "b c {size} {size}"]:
    """Pictures at another size: smoothed first where they shrink."""
    if images.shape[-1] == size:
        return images
    shrinks = images.shape[-1] > size
    return interpolate(images.float(), size=(size, size), mode="bilinear", align_corners=False, antialias=shrinks)
