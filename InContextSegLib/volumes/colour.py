"""How the colours of a picture become one grey value, and which colours labels have."""

from dataclasses import dataclass

import numpy as np

from InContextSegLib.errors import InputError

# Of labels: Okabe and Ito's colours, told apart by colour-blind people too; those that stand out best from grey first.
COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")

# A pixel whose brightest channel is below this share of the picture's white is black and has no colour.
BLACK = 0.1
_WHITE_PERCENTILE = 99.5
_LOWEST_PERCENTILE = 0.5


def palette(number: int) -> tuple[float, float, float]:
    """Red, green and blue from 0 to 1 of the label at place `number`; the colours begin again when they run out."""
    red, green, blue = bytes.fromhex(COLOURS[number % len(COLOURS)].removeprefix("#"))
    return red / 255, green / 255, blue / 255


@dataclass(frozen=True)
class ColourMix:
    """Weights of red, green and blue in a grey value, and why these.

    Raises:
        InputError: if the weights are not three finite numbers, or all are zero.
    """

    weights: tuple[float, float, float]
    why: str

    def __post_init__(self) -> None:
        if len(self.weights) != 3 or not np.isfinite(self.weights).all() or not any(self.weights):
            raise InputError(f"Colours need three finite weights, not all of them zero, but {self.weights} came.")

    @property
    def record(self) -> dict:
        """What a record of a result says about the colours."""
        return {"weights_rgb": list(self.weights), "why": self.why}

    def grey(self, colours: np.ndarray) -> np.ndarray:
        """Mix (..., 3) colours into (...) float32, in which black is 0.

        A negative weight would take some colours below black. The greys are then raised until the picture's lowest (the
        0.5 percentile, black left aside) is 0; the raising fades out toward black, so that the corners round a field of
        view stay dark. Without a negative weight the map is linear.
        """
        mixed = colours.astype(np.float32) @ np.array(self.weights, dtype=np.float32)
        if min(self.weights) >= 0:
            return mixed
        brightness = colours.max(axis=-1) / np.float32(white_of(colours))
        seen = mixed[brightness > BLACK]
        lowest = float(np.percentile(seen, _LOWEST_PERCENTILE)) if seen.size else 0.0
        mixed += max(-lowest, 0.0) * np.minimum(brightness / BLACK, 1)
        return np.maximum(mixed, 0, out=mixed)


# ITU-R BT.709
LUMINANCE = ColourMix((0.2126, 0.7152, 0.0722), "luminance")


def white_of(colours: np.ndarray) -> float:
    """The brightest value of a picture, single hot pixels left aside; above 0."""
    return max(float(np.nanpercentile(colours.max(axis=-1), _WHITE_PERCENTILE)), float(np.finfo(np.float32).tiny))
