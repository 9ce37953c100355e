"""How a segmentation is computed: numbers a user may choose, and three named choices of them."""

from dataclasses import asdict, dataclass

from InContextSegLib.errors import InputError
from InContextSegLib.slicing import AXES

AUTO_AXIS = "auto"


@dataclass(frozen=True)
class InferenceSettings:
    """Numbers behind a segmentation.

    Attributes:
        supports: labelled examples shown to the network for every slice (N).
        draws: independent draws of them, averaged (K); their spread is the uncertainty.
        axes: directions along which the volume is sliced, the results averaged; ("auto",): across the thickest slices.
        cascade: let confidently segmented neighbour slices join the examples.
        threshold: probability from which a voxel belongs to a label.
        seed: of every random choice.
        slices_at_once: neighbouring slices that share one choice of examples and one pass.
        rehearse: let the examples predict one another first, which chooses how many to show, image size and thresholds.
        style: bring a target from another scanner to the style of the examples, where they say that it helps.

    Raises:
        InputError: if a number is out of its range, or the axes are unknown or named twice.
    """

    supports: int = 16
    draws: int = 2
    axes: tuple[str, ...] = (AUTO_AXIS,)
    cascade: bool = False
    threshold: float = 0.5
    seed: int = 0
    slices_at_once: int = 4
    rehearse: bool = False
    style: bool = False

    def __post_init__(self):
        for name in ("supports", "draws", "slices_at_once"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: asked for at least 1, got {getattr(self, name)}.")
        if not 0 < self.threshold < 1:
            raise InputError(f"threshold: asked for a number between 0 and 1, got {self.threshold}.")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed: asked for a whole number from 0 to 4294967295, got {self.seed}.")
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


PRESETS = {
    "fast": {"supports": 8, "draws": 1},
    "normal": {"supports": 16, "draws": 2, "rehearse": True},
    "best": {"supports": 32, "draws": 4, "rehearse": True},
}
