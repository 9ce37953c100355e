"""Puts pictures of the whole session beside one another, for the documentation.

INCONTEXTSEG_SCREENSHOTS=shots python -m pytest Testing/Slicer/test_whole_session.py
python -m Testing.Slicer.compose_screenshot shots docs/images/panel.png
"""

import sys
from pathlib import Path

from PIL import Image

GAP_PX = 12
VIEWS = ("segmented_Red", "uncertainty_Red")


def main(folder: Path, output: Path) -> None:
    panel = Image.open(next(folder.glob("*_segmented.png")))
    edge = (panel.height - (len(VIEWS) - 1) * GAP_PX) // len(VIEWS)
    whole = Image.new("RGB", (panel.width + GAP_PX + edge, panel.height), "white")
    whole.paste(panel, (0, 0))
    for row, name in enumerate(VIEWS):
        view = Image.open(next(folder.glob(f"*_{name}.png"))).resize((edge, edge), Image.Resampling.LANCZOS)
        whole.paste(view, (panel.width + GAP_PX, row * (edge + GAP_PX)))
    whole.quantize(256).save(output, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
