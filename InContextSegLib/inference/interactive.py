"""One slice that a user works on: clicks, boxes and scribbles in, probabilities out, correction by correction."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from InContextSegLib.errors import InputError
from InContextSegLib.examples.support import Example, SupportSet
from InContextSegLib.inference.cached import CachedSegmenter
from InContextSegLib.slices.intensities import Scale
from InContextSegLib.slices.plan import SlicePlan
from InContextSegLib.slices.prompts import Prompts, rasters
from InContextSegLib.volumes.geometry import Kind, Volume


@dataclass(frozen=True, eq=False)
class Answer:
    """What the network makes of a slice and its prompts.

    Attributes:
        logits: at network size; handed back as `previous` with the next prompt.
        probability: on the slice's own voxels, (k, j, i) with length 1 across the slice (`InteractiveSlice.geometry`).
    """

    logits: Float[np.ndarray, "h w"]
    probability: Float[np.ndarray, "k j i"]

    def mask(self, threshold: float = 0.5) -> Bool[np.ndarray, "k j i"]:
        """Where the probability reaches the threshold."""
        return self.probability >= threshold


class InteractiveSlice:
    """One slice of a volume before a promptable network; everything but the answer to a prompt is computed beforehand.

    The same prompts after the same answers give the same answer.

    Args:
        network: with its caches; slices and support sets of one task share it.
        volume: the image.
        scale: brings its intensities to [0, 1]; of the whole volume, so it is computed once for all slices.
        plan: how the volume is cut, at the network's size.
        number: the slice's number in the plan.

    Attributes:
        image: (size, size) float32 in [0, 1].
        channels: what a network with three channels sees instead (`Example.channels`).
        geometry: the grid of this slice alone, all that an answer may change of the volume.
    """

    def __init__(self, network: CachedSegmenter, volume: Volume, scale: Scale, plan: SlicePlan, number: int):
        self.plan, self.number = plan, number
        self.image = plan.extract(volume, scale, [number])[0]
        self.channels = plan.channels(volume, scale, [number])[0] if network.channels == 3 else None
        self._own = plan.part(number, number + 1)
        self.geometry = self._own.geometry
        self._network = network
        self._embed()

    def segment(
        self,
        prompts: Prompts,
        previous: Float[np.ndarray, "h w"] | None = None,
        examples: Sequence[Example] = (),
        label: int = 1,
    ) -> Answer:
        """The answer to all prompts so far, seen together with the last answer's logits and labelled examples.

        Args:
            previous: nothing to a network that takes no prompts.
            examples: pictures of the network's size; where none of them shows the label, they teach nothing and the
                network answers from the prompts alone.
            label: the value in the examples of what is to be segmented.

        Raises:
            InputError: if the network takes no prompts and there are some, a prompt lies outside the image, or an
                example has another size than the plan's pictures.
        """
        return self.answer(self.logits(prompts, previous, examples, label))

    def logits(
        self,
        prompts: Prompts,
        previous: Float[np.ndarray, "h w"] | None = None,
        examples: Sequence[Example] = (),
        label: int = 1,
    ) -> Float[np.ndarray, "h w"]:
        """The logits of that answer, as the network sees the slice. Raises: see `segment`."""
        promptable = self._network.segmenter.promptable
        if not promptable and not prompts.empty:
            raise InputError("This model takes no clicks, boxes or scribbles; choose one that does, such as 'default'.")
        for example in examples:
            if example.image.shape != self.image.shape:
                raise InputError(
                    f"The slice is a picture of {self.plan.size} pixels, but {example.source} has "
                    f"{example.image.shape[0]}; cut it to the same size."
                )
        shown = any((example.labels == label).any() for example in examples)
        context = self._network.context(examples, label) if shown else None
        said = (self._channels(prompts, previous),) if promptable else ()
        return self._network.logits(self._embed(), context, *said)[0, 0].cpu().numpy()

    def answer(self, logits: Float[np.ndarray, "h w"]) -> Answer:
        """What these logits say of the slice's own voxels."""
        probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
        return Answer(logits, np.clip(self._own.restore(probability[None]), 0, 1))

    def seen(self, values: Float[np.ndarray, "k j i"]) -> Float[np.ndarray, "h w"]:
        """Values from 0 to 1 on the slice's own voxels as the network sees them."""
        return self._own.extract(Volume(values, self.geometry, Kind.INTENSITY), Scale(0.0, 1.0))[0]

    def chosen(self, support: SupportSet, count: int) -> tuple[Example, ...]:
        """The `count` examples of a support set that resemble this slice most, by appearance and position."""
        return tuple(support.examples[index] for index in support.select(self.image, self.position, count))

    @property
    def position(self) -> float | None:
        """Where the slice lies along its axis; a single slice may come from anywhere in a patient."""
        lone = self.plan.geometry.shape[self.plan.array_axis] == 1
        return None if lone else float(self.plan.positions[self.number])

    def _channels(self, prompts: Prompts, previous: np.ndarray | None) -> torch.Tensor:
        channels = np.zeros((1, 4, *self.image.shape), np.float32)
        channels[0, :3] = rasters(prompts, self.plan, self.number)
        if previous is not None:
            channels[0, 3] = np.tanh(previous / 2)
        return torch.from_numpy(channels).to(self._network.device)

    def _embed(self):
        picture = torch.from_numpy(np.stack(self.channels or (self.image,)))[None]
        return self._network.embed(picture.to(self._network.device), positions=[self.position])
