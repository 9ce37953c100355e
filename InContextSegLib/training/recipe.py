"""What a training run is made of, as a recipe file states it."""

from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class Architecture:
    """The network to train: channels of its encoder blocks from full resolution down, and whether it takes prompts."""

    widths: tuple[int, ...] = (32, 32, 64, 64, 64)
    promptable: bool = True

    def __post_init__(self):
        _at_least("number of widths", len(self.widths), 2)
        for width in self.widths:
            _at_least("widths", width, 1)


@dataclass(frozen=True)
class Stage:
    """A stretch of training.

    Every step draws one size from `sizes` (pixels per side) and one number of supports from `supports`, and as many
    episodes as `pixels_per_step` allows: memory and time per step stay the same whatever was drawn.

    Args:
        prompted: share of the steps in which a simulated user gives prompts; without supports it always does.
        rounds: how often the user may speak, one number drawn for every step; the loss is that of the last answer.
    """

    steps: int
    sizes: tuple[int, ...]
    pixels_per_step: int
    supports: tuple[int, ...]
    prompted: float = 0.0
    rounds: tuple[int, ...] = (1, 1, 2, 3)

    def __post_init__(self):
        _at_least("steps", self.steps, 1)
        for size in self.sizes:
            _at_least("sizes", size, 16)
        for count in self.supports:
            _at_least("supports", count, 0)
        for count in self.rounds:
            _at_least("rounds", count, 1)
        if not self.sizes or not self.supports or not self.rounds:
            raise ValueError("sizes, supports, rounds: asked for at least one of each, got none.")
        _at_least("pixels_per_step", self.pixels_per_step, (max(self.supports) + 1) * max(self.sizes) ** 2)
        if not 0 <= self.prompted <= 1:
            raise ValueError(f"prompted: asked for a share from 0 to 1, got {self.prompted}.")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every training run has. The learning rate rises over `warmup_steps`, holds, and falls over `decay_steps`."""

    name: str
    seed: int
    learning_rate: float
    warmup_steps: int
    decay_steps: int
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    average_decay: float = 0.998
    checkpoint_every: int = 250
    loader_processes: int = 1

    def __post_init__(self):
        _at_least("warmup_steps", self.warmup_steps, 1)
        _at_least("decay_steps", self.decay_steps, 1)
        _at_least("checkpoint_every", self.checkpoint_every, 1)
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate: asked for a number between 0 and 1, got {self.learning_rate}.")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay: asked for a number in [0, 1), got {self.average_decay}.")

    @property
    def steps(self) -> int:
        """Of the whole run."""
        raise NotImplementedError

    def learning_rate_at(self, step: int) -> float:
        rise = min(1.0, (step + 1) / self.warmup_steps)
        fall = min(1.0, (self.steps - step) / self.decay_steps)
        return self.learning_rate * rise * fall


@dataclass(frozen=True, kw_only=True)
class Recipe(Run):
    """Training of a UniverSeg on invented tasks."""

    architecture: Architecture
    stages: tuple[Stage, ...]

    def __post_init__(self):
        super().__post_init__()
        if not self.stages:
            raise ValueError("stages: asked for at least one stage, got none; add a [[stages]] table.")
        if not self.architecture.promptable and any(stage.prompted or 0 in stage.supports for stage in self.stages):
            raise ValueError("stages: asked for prompts or no supports, which a network that is not promptable lacks.")

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        """The stage that step number `step` (from 0) belongs to."""
        ends = accumulate(stage.steps for stage in self.stages)
        return next(stage for stage, end in zip(self.stages, ends, strict=True) if step < end)


@dataclass(frozen=True, kw_only=True)
class EpisodicRecipe(Run):
    """Training of an `InContextNet` in episodes of invented tasks, open data and superpixels.

    Attributes:
        steps_in_all: of the run.
        open_data: a TOML file that lists the data sets, beside the recipe; empty: invented tasks alone.
        sizes: of pictures in pixels, one of them for every group.
        pictures: in a group.
        groups_per_step, episodes: groups of pictures in a step, and queries asked of each.
        prompted: share of the groups in which a simulated user speaks; alone: that in which there are no examples.
        rounds: how often the user may speak, one number drawn for every group.
    """

    steps_in_all: int
    open_data: str = ""
    sizes: tuple[int, ...] = (128, 192, 192, 256)
    pictures: int = 6
    groups_per_step: int = 2
    episodes: int = 4
    prompted: float = 0.25
    alone: float = 0.15
    rounds: tuple[int, ...] = (1, 1, 2, 3, 5)

    def __post_init__(self):
        super().__post_init__()
        _at_least("steps_in_all", self.steps_in_all, 1)
        _at_least("pictures", self.pictures, 2)
        for name in ("groups_per_step", "episodes"):
            _at_least(name, getattr(self, name), 1)
        if not self.sizes or any(size < 32 or size % 32 for size in self.sizes):
            raise ValueError(f"sizes: asked for multiples of 32, got {self.sizes}.")
        if not self.rounds or min(self.rounds) < 1:
            raise ValueError(f"rounds: asked for whole numbers from 1 up, got {self.rounds}.")
        if not (self.prompted >= 0 and self.alone >= 0 and self.prompted + self.alone <= 1):
            raise ValueError(
                f"prompted, alone: asked for shares that are at most 1 together, got {self.prompted} and {self.alone}."
            )

    @property
    def steps(self) -> int:
        return self.steps_in_all


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name}: asked for at least {least}, got {value}.")
