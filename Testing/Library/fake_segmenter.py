"""A network whose answers one can see, for tests of what happens around a network."""

from dataclasses import dataclass

import numpy as np
import torch

from InContextSegLib.examples.support import Example, Label, SupportSet
from InContextSegLib.jobs import task as tasks
from InContextSegLib.volumes.files import write_volume
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume

SIZE = 32
BRIGHT = 0.6
SPACING_MM = (3.0, 1.0, 1.0)
CUBE = (slice(1, 5), slice(6, 16), slice(8, 20))
LABEL = Label(1, "cube")


@dataclass(frozen=True, eq=False)
class Held:
    """An embedding, or a context (images and masks of g x s examples)."""

    images: torch.Tensor
    masks: torch.Tensor | None = None

    @property
    def size_bytes(self) -> int:
        return self.images.numel() * self.images.element_size()


class Threshold(torch.nn.Module):
    """Where the image is bright the label is, surer the more examples there are; nothing is learnt from them."""

    promptable = False

    def __init__(self):
        super().__init__()
        self.calls, self.shown = 0, []

    def encode(self, images):
        return Held(images)

    def condition(self, images, masks):
        return Held(images, masks)

    def join(self, contexts):
        return Held(torch.cat([c.images for c in contexts], 1), torch.cat([c.masks for c in contexts], 1))

    def segment(self, embedding, context):
        self.calls += 1
        self.shown.append(context.masks.shape[1])
        return (embedding.images - BRIGHT) * 20


class Echo(Threshold):
    """The mean of the masks it is shown, so that examples can be told from the answer."""

    def segment(self, embedding, context):
        super().segment(embedding, context)
        mean = context.masks.float().mean(dim=1).expand(len(embedding.images), -1, -1, -1)
        return torch.logit(mean.clamp(1e-4, 1 - 1e-4))


class Brush(Threshold):
    """With examples: what is bright. Without: what was said to be, `REACH` pixels round positive clicks, and boxes.

    A negative click takes away its own disk. What the last answer held stays, so corrections add up.
    """

    REACH = 3
    promptable = True

    def __init__(self):
        super().__init__()
        self.prompts = []

    def segment(self, embedding, context, prompts=None):
        self.calls += 1
        self.shown.append(0 if context is None else context.masks.shape[1])
        if prompts is None:
            prompts = torch.zeros(len(embedding.images), 4, *embedding.images.shape[2:])
        self.prompts.append(prompts)
        positive, negative, box, previous = prompts.split(1, dim=1)
        inside = (embedding.images > BRIGHT) if context is not None else torch.zeros_like(box, dtype=torch.bool)
        inside |= (self.wide(positive) > 0) | (box > 0) | (previous > 0)
        return torch.where(inside & (negative == 0), 6.0, -6.0)

    def wide(self, channel):
        return torch.nn.functional.max_pool2d(channel, 2 * self.REACH + 1, stride=1, padding=self.REACH)


def use(monkeypatch, segmenter, size=SIZE):
    """Let every job load this network."""
    monkeypatch.setattr(tasks, "load_model", lambda model: (segmenter, {"entry": "fake", "weights_sha256": "0"}, size))
    return segmenter


def grid(shape=(6, 24, 24), spacing_mm=SPACING_MM, turned=False, left_handed=False):
    """A grid; turned about two axes, and with slices stored from superior to inferior, if asked."""
    k_mm, j_mm, i_mm = spacing_mm
    rotation = np.diag([-1.0, -1.0, 1.0])
    if turned:
        a, b = np.radians([20, 12])
        about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        rotation = about_z @ about_x @ rotation
    if left_handed:
        rotation = rotation @ np.diag([1.0, 1.0, -1.0])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([i_mm, j_mm, k_mm])
    affine[:3, 3] = (11.5, -7.25, 30.0)
    return Geometry(shape, affine)


def scan(seed=0, value=1, geometry=None):
    """A noisy dark volume with a bright cube, and the cube as label `value`."""
    geometry = geometry or grid()
    generator = np.random.default_rng(seed)
    image = generator.integers(10, 60, geometry.shape).astype(np.int16)
    labels = np.zeros(geometry.shape, np.uint8 if value < 256 else np.uint16)
    inside = tuple(
        slice(round(part.start * size / 24), round(part.stop * size / 24)) if size != 6 else CUBE[0]
        for part, size in zip((slice(4, 20), *CUBE[1:]), geometry.shape, strict=True)
    )
    inside = tuple(part if part.stop > part.start else slice(0, 1) for part in inside)
    image[inside] += 200
    labels[inside] = value
    return Volume(image, geometry, Kind.INTENSITY), Volume(labels, geometry, Kind.LABELS)


def saved(folder, name, image, labels):
    """Write a scan; the paths of the image and of its labels."""
    paths = folder / f"{name}.nii.gz", folder / f"{name}_labels.nii.gz"
    for path, volume in zip(paths, (image, labels), strict=True):
        write_volume(path, volume)
    return paths


class Learner(Threshold):
    """Finds what is brighter than a level that it can learn; it begins a little too high for `FAINT` things.

    It is so sure of itself that no threshold of its answer makes up for that.
    """

    FAINT = 0.62
    STEEPNESS = 400

    def __init__(self, level=0.63):
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(level))

    def segment(self, embedding, context):
        self.calls += 1
        return (embedding.images - self.level) * self.STEEPNESS


class Spoilt(Learner):
    """Right as it is, though not quite sure; whatever it learns makes it blind."""

    STEEPNESS = 20

    def __init__(self):
        super().__init__(0.5)
        self.twist = torch.nn.Parameter(torch.tensor(0.0))

    def segment(self, embedding, context):
        return super().segment(embedding, context) + self.twist - (self.twist.detach() * 5000) ** 2


def square(number, brightness=Learner.FAINT, value=1, size=SIZE, position=None, source=None):
    """An example: a square of that brightness on black, in another place for every number, and its label."""
    image, labels = np.zeros((size, size), np.float32), np.zeros((size, size), np.uint16)
    place = slice(2 + number % 5 * 3, 14 + number % 5 * 3), slice(4 + number % 3 * 3, 16 + number % 3 * 3)
    image[place], labels[place] = brightness, value
    return Example(image, labels, position, source or f"picture{number}")


def squares(count, **how):
    """A support set of so many squares, with one label."""
    examples = tuple(square(number, **how) for number in range(count))
    return SupportSet(examples, (LABEL,), "axial", examples[0].image.shape[0])
