"""Follows the tutorial of the documentation on a real volume, and leaves a picture of every step.

python -m Testing.Slicer.tutorial_screenshots docs/images
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from Testing.Slicer.harness import app

CASE, DRAWN, BETWEEN, CLICKED = "STS_050", (16, 22, 28, 34, 40), 25, 31
GAP_PX = 12
TIMEOUT_S = 300


def main(output: Path) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "InContextSeg"))
    app.start()
    from Testing.Slicer.radiologist import Radiologist, load, loadLabels, mask

    folder = Path(os.environ["INCONTEXTSEG_DATA"]) / "ibsi_sts"
    with tempfile.TemporaryDirectory() as shots:
        doctor = Radiologist(Path(shots))
        volume = load("Thigh", folder / "images_mr_t1" / f"{CASE}.nii.gz")
        truth = loadLabels("truth", folder / "labels_mr_t1" / f"{CASE}.nii.gz", volume, "tumour")
        wanted = mask(truth, volume, "tumour")
        truth.GetDisplayNode().SetVisibility(False)
        drawn = segmentationOf(volume, wanted, DRAWN)
        doctor.choose(volume)
        doctor.ui.outputSelector.setCurrentNode(drawn)
        doctor.teach(volume, drawn)
        doctor.scroll(volume, DRAWN[2])
        doctor.picture("taught")
        doctor.scroll(volume, BETWEEN)
        doctor.picture("between")
        doctor.press("segmentButton")
        doctor.wait()
        doctor.picture("segmented")
        doctor.ui.uncertaintyBox.setChecked(True)
        doctor.picture("uncertain")
        doctor.ui.uncertaintyBox.setChecked(False)
        seen = {path.stem[3:]: Image.open(path).copy() for path in Path(shots).glob("*.png")}
        drawn.GetDisplayNode().SetVisibility(False)
        doctor.close()
        seen |= clicked(volume, wanted, Path(shots))
    save(beside(seen["taught"], seen["taught_Red"], seen["between_Red"]), output / "step-teach.png")
    save(beside(seen["segmented"], seen["segmented_Red"], seen["uncertain_Red"]), output / "step-segment.png")
    save(inRow(seen["options"], seen["clicked"], seen["corrected"]), output / "effect.png")


def segmentationOf(volume, wanted: np.ndarray, slices: tuple[int, ...]):
    """A new segmentation of a volume, with what is wanted on some slices, as if somebody had drawn it there."""
    from InContextSegSlicer.scene import bridge
    from Testing.Slicer.patients import addSegmentation, draw

    segmentation = addSegmentation(volume.GetScene(), volume, segments=("tumour",))
    part = np.zeros_like(wanted)
    part[list(slices)] = wanted[list(slices)]
    draw(volume.GetScene(), segmentation, "tumour", part, bridge.geometryOf(volume).affine)
    return segmentation


def clicked(volume, wanted: np.ndarray, shots: Path) -> dict[str, Image.Image]:
    """A slice in the Segment Editor after a click on the structure, and after one on what does not belong to it."""
    from InContextSegLib.evaluation.user import correcting_click
    from Testing.Slicer.corrector import Corrector
    from Testing.Slicer.patients import addSegmentation

    corrector = Corrector(
        None, volume, addSegmentation(volume.GetScene(), volume, segments=("tumour",)), ("Red",), None
    )
    corrector.look("Red", CLICKED)
    answer, seen = np.zeros_like(wanted[[0]]), {}
    for name in ("clicked", "corrected"):
        click = correcting_click(answer, wanted[[CLICKED]], volume.GetSpacing()[::-1])
        corrector.click((CLICKED, *click.index_kji[1:]), control=not click.positive)
        assert app.pump(TIMEOUT_S, until=lambda: not corrector.correction.working), corrector.correction.message
        app.pump(0.5)
        answer = corrector.shown()[[CLICKED]]
        seen[name] = Image.fromarray(corrector.views["Red"].image()[..., :3])
    corrector.options.widget.resize(420, 560)
    seen["options"] = Image.open(app.screenshot(corrector.options.widget, shots / "options.png")).copy()
    return seen


def beside(panel: Image.Image, *views: Image.Image) -> Image.Image:
    """A panel, and views in a column of its height beside it."""
    edge = (panel.height - (len(views) - 1) * GAP_PX) // len(views)
    whole = Image.new("RGB", (panel.width + GAP_PX + edge, panel.height), "white")
    whole.paste(panel, (0, 0))
    for row, view in enumerate(views):
        small = view.resize((edge, edge), Image.Resampling.LANCZOS)
        whole.paste(small, (panel.width + GAP_PX, row * (edge + GAP_PX)))
    return whole


def inRow(panel: Image.Image, *views: Image.Image) -> Image.Image:
    """A panel, and views of its height beside it."""
    edge = panel.height
    whole = Image.new("RGB", (panel.width + len(views) * (GAP_PX + edge), edge), "white")
    whole.paste(panel, (0, 0))
    for column, view in enumerate(views):
        small = view.resize((edge, edge), Image.Resampling.LANCZOS)
        whole.paste(small, (panel.width + GAP_PX + column * (edge + GAP_PX), 0))
    return whole


def save(picture: Image.Image, path: Path) -> None:
    picture.quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
