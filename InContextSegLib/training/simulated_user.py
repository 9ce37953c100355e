"""The simulated user of training: clicks, boxes and scribbles for a whole batch at once, and corrections of answers.

The protocol of interactive segmentation (Medical SAM Adapter, section 3.4; ScribblePrompt, Wong et al., ECCV 2024): a
first prompt at random in the structure, then prompts in what the last answer got wrong. Everything is in pixels of the
network's image, in the channels that `UniverSeg.segment` takes.
"""

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn.functional import max_pool2d

from InContextSegLib.slices.prompts import CLICK_RADIUS_PX
from InContextSegLib.training.augment import chosen, smooth_noise, uniform

DEPTHS_PX = (1, 2, 3, 5, 8, 12, 18, 26)  # distances from the border of a region that are told apart
FIRST_PROMPTS = (("click", 0.5), ("box", 0.25), ("scribble", 0.15), ("click and box", 0.1))
SCRIBBLED_CORRECTIONS = 0.2
FORGOTTEN_PRIOR = 0.1


class SimulatedUser:
    """Knows the truth of a batch, and what was said so far.

    Args:
        masks: the structures wanted, 0 or 1.
        generator: of all chance; the same state and the same answers give the same prompts.
    """

    def __init__(self, masks: Float[Tensor, "b 1 h w"], generator: Generator):
        self.truth = masks[:, 0] > 0.5
        self.generator = generator
        self._said = torch.zeros(len(masks), 3, *masks.shape[2:], device=masks.device)

    def begin(self, silent_share: float = 0.0) -> Float[Tensor, "b 4 h w"]:
        """First prompts: a click, box or scribble on the structure; a negative click where there is none.

        `silent_share` of the users wait for an answer first.
        """
        count = len(self.truth)
        kind = torch.multinomial(
            torch.tensor([often for _, often in FIRST_PROMPTS], device=self.truth.device),
            count,
            replacement=True,
            generator=self.generator,
        )
        speaks = ~chosen(silent_share, (count,), self.generator)
        shown = self.truth.any(dim=(1, 2))

        def of_kind(word: str) -> Bool[Tensor, " b"]:
            here = torch.tensor([word in name for name, _ in FIRST_PROMPTS], device=kind.device)[kind]
            return here & shown & speaks

        anywhere = _random_pixel(torch.where(shown[:, None, None], self.truth, True), self.generator)
        self._add(0, _disks(anywhere), of_kind("click"))
        self._add(1, _disks(anywhere), ~shown & speaks)
        self._add(2, self._boxes(), of_kind("box"))
        self._add(0, self._scribbles(self.truth), of_kind("scribble"))
        return self._with_prior(torch.zeros_like(self.truth, dtype=torch.float32))

    def correct(self, logits: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 4 h w"]:
        """What was said so far and, where the answer is not right, one more click or scribble in its larger fault."""
        answer = logits[:, 0] > 0
        missed, wrong = self.truth & ~answer, answer & ~self.truth
        depth_missed, depth_wrong = _depth(torch.cat([missed, wrong])).chunk(2)
        positive = depth_missed.amax(dim=(1, 2)) >= depth_wrong.amax(dim=(1, 2))
        fault = torch.where(positive[:, None, None], missed, wrong)
        depth = torch.where(positive[:, None, None], depth_missed, depth_wrong)
        # One of the innermost pixels of the widest fault, by chance.
        innermost = fault & (depth >= depth.amax(dim=(1, 2), keepdim=True) - 0.5)
        needed = fault.any(dim=(1, 2))
        click = _disks(_random_pixel(torch.where(needed[:, None, None], innermost, True), self.generator))
        scribbled = chosen(SCRIBBLED_CORRECTIONS, (len(answer),), self.generator)[:, None, None]
        mark = torch.where(scribbled, self._scribbles(fault), click)
        self._add(0, mark, needed & positive)
        self._add(1, mark, needed & ~positive)
        prior = torch.tanh(logits[:, 0] / 2)
        forgotten = chosen(FORGOTTEN_PRIOR, (len(answer), 1, 1), self.generator)
        return self._with_prior(torch.where(forgotten, 0.0, prior))

    def _add(self, channel: int, mark: Bool[Tensor, "b h w"], where: Bool[Tensor, " b"]) -> None:
        self._said[:, channel] = torch.maximum(self._said[:, channel], (mark & where[:, None, None]).float())

    def _with_prior(self, prior: Float[Tensor, "b h w"]) -> Float[Tensor, "b 4 h w"]:
        return torch.cat([self._said, prior[:, None]], dim=1)

    def _boxes(self) -> Bool[Tensor, "b h w"]:
        """The structure's bounding box with every side moved by up to a tenth of its extent."""
        inside = None
        for dim in (1, 2):
            along = self.truth.any(dim=3 - dim)
            size = along.shape[1]
            position = torch.arange(size, device=along.device)
            low = torch.where(along, position, size).amin(dim=1)
            high = torch.where(along, position, -1).amax(dim=1)
            play = 0.1 * (high - low + 1).clamp(min=1) + 1
            low, high = (end + play * uniform(-1.0, 1.0, end.shape, self.generator) for end in (low, high))
            within = (position >= low[:, None]) & (position <= high[:, None])
            within = within[:, :, None] if dim == 1 else within[:, None, :]
            inside = within if inside is None else inside & within
        return inside

    def _scribbles(self, region: Bool[Tensor, "b h w"]) -> Bool[Tensor, "b h w"]:
        """Winding strokes inside a region: contours of smooth noise, broken by other noise; all of a thin region."""
        count, size = len(region), region.shape[-1]
        noise = smooth_noise(count, 2, size, 6, self.generator)
        level = uniform(-0.5, 0.5, (count, 1, 1), self.generator)
        strokes = region & ((noise[:, 0] - level).abs() < 8 / size) & (noise[:, 1] > 0)
        return torch.where(strokes.any(dim=(1, 2), keepdim=True), strokes, region & (noise[:, 1] > 0))


def _disks(pixels: Float[Tensor, "b h w"]) -> Bool[Tensor, "b h w"]:
    """Disks of the click's radius round single pixels that are 1."""
    reach = int(CLICK_RADIUS_PX)
    offset = torch.arange(-reach, reach + 1, device=pixels.device)
    kernel = (offset[:, None] ** 2 + offset**2 <= CLICK_RADIUS_PX**2).to(pixels)
    return torch.nn.functional.conv2d(pixels[:, None], kernel[None, None], padding=reach)[:, 0] > 0.5


def _random_pixel(region: Bool[Tensor, "b h w"], generator: Generator) -> Float[Tensor, "b h w"]:
    """1 at one pixel of every region, each with equal chance."""
    chance = torch.rand(region.shape, generator=generator, device=region.device) * region
    place = chance.flatten(1).argmax(dim=1, keepdim=True)
    return torch.zeros_like(chance).flatten(1).scatter(1, place, 1.0).view_as(chance)


def _depth(region: Bool[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """How far every pixel of a region is from its outside, as the number of `DEPTHS_PX` that it has behind it."""
    outside = 1 - region[:, None].float()
    depth, reached = region.float(), 0
    for reach in DEPTHS_PX:
        window = 2 * (reach - reached) + 1
        outside = max_pool2d(max_pool2d(outside, (1, window), 1, (0, window // 2)), (window, 1), 1, (window // 2, 0))
        depth += 1 - outside[:, 0]
        reached = reach
    return depth
