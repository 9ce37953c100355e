"""A few validation slices with their label and the network's answer as outlines, in one picture.

Drawn with Pillow, which Slicer's Python brings.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from InContextSegLib.volumes.colour import COLOURS
from InContextSegLib.volumes.files import whole_file

MOST, COLUMNS = 6, 3
ANSWER, LABEL = COLOURS[:2]
_TILE, _GAP, _CAPTION, _LEGEND = 128, 6, 16, 20
_PAPER, _INK = "#16181c", "#e8e8e8"
_LETTERS = 22  # of a caption; more would not fit below its slice


@dataclass(frozen=True, eq=False)
class Shown:
    """A slice in [0, 1], what it is labelled as, what the network answers, and their Dice."""

    name: str
    image: Float[np.ndarray, "h w"]
    label: Bool[np.ndarray, "h w"]
    answer: Bool[np.ndarray, "h w"]
    dice: float


def draw_examples(path: Path, shown: Sequence[Shown], step: int) -> None:
    """Write the picture as PNG, whole or not at all; the first `MOST` of the slices.

    Raises:
        OutputError: if it could not be written.
    """
    shown = shown[:MOST]
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    across, down = _TILE + _GAP, _TILE + _CAPTION + _GAP
    sheet = Image.new("RGB", (columns * across + _GAP, rows * down + _LEGEND + _GAP), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for place, each in enumerate(shown):
        left, top = _GAP + place % columns * across, _LEGEND + _GAP + place // columns * down
        sheet.paste(Image.fromarray(_tile(each)), (left, top))
        caption = f"{_short(each.name, {other.name for other in shown})} {each.dice:.2f}"
        pen.text((left, top + _TILE + 1), caption, fill=_INK, font=font)
    pen.text((_GAP, 4), f"step {step:,}: ", fill=_INK, font=font)
    beside = _GAP + pen.textlength(f"step {step:,}: ", font=font)
    pen.text((beside, 4), "label (dashed)", fill=LABEL, font=font)
    pen.text((beside + pen.textlength("label (dashed)  ", font=font), 4), "answer (with Dice)", fill=ANSWER, font=font)
    with whole_file(path) as temporary:
        sheet.save(temporary, format="PNG")


def _short(name: str, names: Collection[str]) -> str:
    """A task's name "set/label" in `_LETTERS` with a Dice: whole, or the label if that tells it apart, or its end."""
    label = name.rsplit("/", 1)[-1]
    alone = sum(other.rsplit("/", 1)[-1] == label for other in names) == 1
    best = name if len(name) <= _LETTERS - 5 or not alone else label
    return best if len(best) <= _LETTERS - 5 else f"…{best[5 - _LETTERS + 1 :]}"


def _tile(each: Shown) -> np.ndarray:
    """(tile, tile, 3) uint8: the slice, with both outlines on top, the label's in dashes so that both can be seen."""
    size = each.image.shape[0]
    grey = Image.fromarray(np.rint(np.clip(each.image, 0, 1) * 255).astype(np.uint8))
    picture = np.asarray(grey.resize((_TILE, _TILE), Image.Resampling.BILINEAR).convert("RGB")).copy()
    place = np.arange(_TILE) * size // _TILE
    for mask, colour, dashed in ((each.answer, ANSWER, False), (each.label, LABEL, True)):
        inside = mask[np.ix_(place, place)]
        edge = inside & ~ndimage.binary_erosion(inside, iterations=2, border_value=1)
        if dashed:
            rows, columns = np.indices(edge.shape)
            edge &= (rows + columns) % 10 < 6
        picture[edge] = tuple(bytes.fromhex(colour.removeprefix("#")))
    return picture
