"""How a segmentation is computed: numbers a user may choose, and three named choices of them."""

from dataclasses import asdict, dataclass

from InContextSegLib.errors import InputError
from InContextSegLib.slices.plan import AXES

AUTO_AXIS = "auto"
ADAPT_SECONDS, MOST_SECONDS = 15.0, 24 * 3600.0
# Of the budget; a quick computer takes no more, so that it learns the same every time.
STEPS_PER_SECOND = 6
FEWEST_STEPS = 4  # one for every copy, on its fold's rest and on all examples


@dataclass(frozen=True)
class AdaptSettings:
    """How long and by what chance a network is adapted.

    Attributes:
        seconds: to spend, judging included. A computer too slow for `STEPS_PER_SECOND` takes fewer steps.
        seed: of every random choice. The same seed and number of steps give the same network on the same computer.
        steps: of training in all; None: as many as the time allows, at most `STEPS_PER_SECOND` each second.

    Raises:
        InputError: if a number is out of its range.
    """

    seconds: float = 15.0
    seed: int = 0
    steps: int | None = None

    def __post_init__(self):
        if not 1 <= self.seconds <= MOST_SECONDS:
            raise InputError(f"Adapting takes from 1 to {MOST_SECONDS:g} seconds, but {self.seconds:g} were asked for.")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"Adapting takes at least 1 step, but {self.steps} were asked for.")

    @property
    def most_steps(self) -> int:
        return self.steps or max(FEWEST_STEPS, round(self.seconds * STEPS_PER_SECOND))


@dataclass(frozen=True)
class InferenceSettings:
    """Numbers behind a segmentation.

    Attributes:
        supports: labelled examples shown to the network for every slice (N).
        draws: independent draws of them, averaged (K); their spread is the uncertainty.
        axes: directions along which the volume is sliced, the results averaged; ("auto",): across the thickest slices.
        threshold: probability from which a voxel belongs to a label.
        seed: of every random choice.
        slices_at_once: neighbouring slices that share one choice of examples and one pass.
        calibrate: show volumes of other patients in one field of view (`slices.body`) and at their places along the
            body (`adaptation.levels`), and let the examples predict one another first, to choose what answers (the
            default model: heads fitted to them too), how many to show at most, image size and thresholds. The presets
            `normal` and `best` do.
        adapt_seconds: time for which the network learns from the examples first; 0: it stays as it is.
        style: bring a target from another scanner to the style of the examples, where they say that it helps.
        smooth: let neighbouring slices agree: logits are smoothed along the axis, over less than a slice to either side
            and over 1.5 mm at most.
        postprocess: leave out small pieces where a label comes in more of them than in any completely labelled example.
        extend: beyond the outermost slices labelled in the target itself, let labels go on as far as the network sees
            them, as they may where a box or a range of slices is given; else they narrow by 45 degrees on either side.

    Raises:
        InputError: if a number is out of its range, or the axes are unknown or named twice.
    """

    supports: int = 16
    draws: int = 2
    axes: tuple[str, ...] = (AUTO_AXIS,)
    threshold: float = 0.5
    seed: int = 0
    slices_at_once: int = 4
    calibrate: bool = False
    adapt_seconds: float = 0.0
    style: bool = False
    smooth: bool = False
    postprocess: bool = False
    extend: bool = False

    def __post_init__(self):
        for name in ("supports", "draws", "slices_at_once"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: asked for at least 1, got {getattr(self, name)}.")
        if not 0 < self.threshold < 1:
            raise InputError(f"threshold: asked for a number between 0 and 1, got {self.threshold}.")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed: asked for a whole number from 0 to 4294967295, got {self.seed}.")
        if self.adapt_seconds:
            AdaptSettings(self.adapt_seconds, self.seed)  # refuses what makes no sense
        self._check_axes()

    def _check_axes(self) -> None:
        known = self.axes == (AUTO_AXIS,) or set(self.axes) <= set(AXES)
        if not self.axes or not known or len(set(self.axes)) != len(self.axes):
            raise InputError(
                f"axes: asked for '{AUTO_AXIS}' or different ones of {', '.join(AXES)}, got {', '.join(self.axes)}."
            )

    @property
    def members(self) -> int:
        """Predictions that are averaged; from two on there is a spread to report."""
        return self.draws * len(self.axes)

    def to_mapping(self) -> dict:
        return asdict(self) | {"axes": list(self.axes)}


AGREEING = {"smooth": True, "postprocess": True}
PRESETS = {
    "fast": {"supports": 8, "draws": 1},
    "normal": {"supports": 16, "draws": 2, "calibrate": True, **AGREEING},
    "best": {"supports": 32, "draws": 2, "calibrate": True, **AGREEING, "adapt_seconds": ADAPT_SECONDS},
}
