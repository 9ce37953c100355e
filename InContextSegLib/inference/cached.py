"""A network on its device, remembering what depends on an image or on an example alone, within budgets of memory."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from InContextSegLib.examples.support import Example
from InContextSegLib.models.networks import SliceSegmenter

CONTEXT_BYTES = 768 << 20
JOINED_BYTES = 256 << 20  # apart, as one of them is as large as all its parts, which other slices need again
EMBEDDING_BYTES = 256 << 20


class BoundedCache:
    """Values with a `size_bytes`, kept up to `budget_bytes` in all. Not for use by several threads at once."""

    def __init__(self, budget_bytes: int):
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._values: OrderedDict[Hashable, Any] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def get(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """The value under `key`, computed now if it is not there. A value larger than the budget is not kept."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = compute()
        if value.size_bytes <= self.budget_bytes:
            self._values[key] = value
            self.used_bytes += value.size_bytes
            while self.used_bytes > self.budget_bytes:
                self.used_bytes -= self._values.popitem(last=False)[1].size_bytes
        return value


class CachedSegmenter:
    """A `SliceSegmenter` whose embeddings and contexts are computed once.

    Every example is conditioned alone and kept under its digest: support sets that share examples share their contexts,
    and of a thousand examples no picture is kept where a network makes two vectors of each. Dimensions named in `flip`
    are mirrored, in images and masks alike; the answer is then mirrored too.

    Args:
        segmenter: the network, with its weights.
        device: where it computes; it is moved there.
        share: of the usual budgets.

    Attributes:
        additive: whether contexts are sums, whose size does not grow with the examples.
        fitted: whether the network was fitted to labels, which it has to be told.
        channels: of the pictures that the network takes, 1 or 3.
        any_view: whether the network may be shown pictures mirrored or in part; one that says nothing of it may.
    """

    def __init__(self, segmenter: SliceSegmenter, device: torch.device, share: float = 1.0):
        self.segmenter, self.device = segmenter.to(device), device
        self.any_view = getattr(segmenter, "any_view", True)
        self.additive = hasattr(segmenter, "conditions")
        self.fitted = hasattr(segmenter, "values")
        self.channels = getattr(segmenter, "channels", 1)
        self.positioned = getattr(segmenter, "positioned", False)
        self.contexts = BoundedCache(int(share * CONTEXT_BYTES))
        self.joined = BoundedCache(int(share * JOINED_BYTES))
        self.embeddings = BoundedCache(int(share * EMBEDDING_BYTES))
        self._digests: WeakKeyDictionary[Example, bytes] = WeakKeyDictionary()

    def embed(self, images: Tensor, flip: tuple[int, ...] = (), positions: Sequence[float | None] | None = None) -> Any:
        """The embedding of images (b, c, h, w).

        Args:
            positions: of the slices along their axis, for a network that is told of them; None: unknown.
        """
        flipped = images.flip(flip)
        told = (list(positions or [None] * len(images)),) if self.positioned else ()
        # The shape too: four dark images are the same bytes as one of twice the size.
        key = (
            images.shape,
            hashlib.blake2b(flipped.cpu().numpy().tobytes(), digest_size=16).digest(),
            *map(tuple, told),
        )
        return self.embeddings.get(key, lambda: self._computed(self.segmenter.encode, flipped, *told))

    def context(self, examples: Sequence[Example], label: int, flip: tuple[int, ...] = ()) -> Any:
        """The context of examples for the label of that value, joined from those that tell of it: at least one."""
        telling = tuple(example for example in examples if example.tells(label))
        if len(telling) == 1:
            return self._single(telling[0], label, flip)
        key = (tuple(map(self._digest, telling)), label, flip)
        return self.joined.get(key, lambda: self.join([self._single(each, label, flip) for each in telling]))

    def picture(self, example: Example) -> Tensor:
        """(c, h, w): what the network sees of an example, with as many channels as it takes."""
        picture = example.picture if self.channels == 3 else example.image[None].copy()
        return torch.from_numpy(picture).to(self.device)

    def condition(self, images: Tensor, masks: Tensor, flip: tuple[int, ...] = ()) -> Any:
        """The context of examples (s, 1, h, w), which is not kept."""
        return self._computed(self.segmenter.condition, images[None].flip(flip), masks[None].flip(flip))

    def _single(self, example: Example, label: int, flip: tuple[int, ...]) -> Any:
        def computed() -> Any:
            image = self.picture(example)
            mask = torch.from_numpy(example.labels == label).to(image)
            return self.condition(image[None], mask[None, None], flip)

        digest = self._digest(example)
        if not self.additive:
            return self.contexts.get((digest, label, flip), computed)
        if (digest, label, flip) not in self.contexts:
            # Of all labels that it shows at once: its picture is then embedded once.
            values = sorted({*np.unique(example.labels).tolist(), label} - {0})
            image = self.picture(example)[None].flip(flip)
            masks = (
                torch.from_numpy(np.stack([example.labels == value for value in values])).to(image)[:, None].flip(flip)
            )
            found = self._computed(self.segmenter.conditions, image, masks)
            for value, context in zip(values, found, strict=True):
                self.contexts.get((digest, value, flip), partial(_itself, context))
        return self.contexts.get((digest, label, flip), computed)

    def _digest(self, example: Example) -> bytes:
        """Of its picture and labels: a key that keeps neither in memory."""
        if example not in self._digests:
            digest = hashlib.blake2b(digest_size=16)
            for picture in (*example.pictures, example.labels):
                digest.update(np.ascontiguousarray(picture).tobytes())
            self._digests[example] = digest.digest()
        return self._digests[example]

    def join(self, contexts: Sequence[Any]) -> Any:
        return contexts[0] if len(contexts) == 1 else self._computed(self.segmenter.join, contexts)

    def logits(self, embedding: Any, context: Any, *prompts: Tensor, label: int | None = None) -> Tensor:
        """Logits (b, 1, h, w) in float32; `prompts` (b, 4, h, w) for a network that takes them.

        Args:
            label: the value of what is asked for, for a network that knows some.
        """
        asked = {"label": label} if self.fitted else {}
        return self._computed(partial(self.segmenter.segment, **asked), embedding, context, *prompts).float()

    def _computed(self, function, *arguments):
        # bfloat16 is emulated and slow on most processors, and what a GPU is made for.
        gpu = self.device.type == "cuda"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=gpu):
            return function(*arguments)


class Interruptible(TorchFunctionMode):
    """Within it `check` is called before whatever torch does: what it raises ends a computation, and nothing is kept.

    A network takes a tenth of a second, which is long for somebody who waits for another answer.
    """

    def __init__(self, check: Callable[[], None]):
        super().__init__()
        self._check = check

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self._check()
        return func(*args, **(kwargs or {}))


def _itself(value: Any) -> Any:
    return value
