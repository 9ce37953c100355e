"""Trains on real data in the module of Slicer and puts what was seen beside the plot, for the documentation.

python -m Testing.Slicer.training_screenshot docs/images/training.png
"""

import os
import sys
import tempfile
from pathlib import Path

from PIL import Image

from Testing.Slicer.harness import app

STEPS, GAP_PX, PLOT_PX = 120, 12, (560, 360)
FOLD_PX = 835  # where the panel is cut: what is chosen to the left, how it goes to the right, with the plot below
DATA = {"kidney_t2_mr": ("kidneys, MR", "any kidney", r"^([^_]+)_"), "fetal_head_us": ("fetal heads, US", "1 head", "")}


def main(output: Path) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "InContextSeg"))
    app.start()
    from Testing.Slicer import trainee as driver

    driver.TIMEOUT_S = 3600
    with tempfile.TemporaryDirectory() as folder:
        trainee = driver.Trainee(size=(560, 1340))
        for row, (name, texts) in enumerate(DATA.items()):
            trainee.addFolder(Path(os.environ["INCONTEXTSEG_DATA"]) / name)
            for column, text in enumerate(texts):
                trainee.ui.trainingSetsTable.item(row, column).setText(text)
        chosen = trainee.parameters
        chosen.model, chosen.steps, chosen.validateEvery, chosen.learningRate = "default", STEPS, 10, 0.0003
        chosen.references, chosen.queries = 8, 2
        chosen.folder, chosen.name = str(Path(folder) / "kidneys-heads"), "our-kidneys-and-heads"
        trainee.look()
        trainee.press("Start")
        assert trainee.until(lambda: trainee.controller.step >= STEPS - 5), trainee.status
        seen = app.screenshot(trainee.widget.parent, Path(folder) / "panel.png")
        plot = Image.fromarray(driver.plotted(trainee.controller.plots.chart, PLOT_PX)[..., :3])
        trainee.press("Pause")
        trainee.wait()
        trainee.close()
        with Image.open(seen) as panel:
            whole = folded(panel, plot)
    whole.quantize(128).save(output, optimize=True)


def folded(panel: Image.Image, plot: Image.Image) -> Image.Image:
    """The panel in two columns, the plot below the second."""
    end = FOLD_PX + FOLD_PX - plot.height
    whole = Image.new("RGB", (panel.width * 2 + GAP_PX, FOLD_PX), "white")
    whole.paste(panel.crop((0, 0, panel.width, FOLD_PX)), (0, 0))
    whole.paste(panel.crop((0, FOLD_PX, panel.width, end)), (panel.width + GAP_PX, 0))
    whole.paste(plot, (panel.width + GAP_PX, FOLD_PX - plot.height))
    return whole


if __name__ == "__main__":
    main(Path(sys.argv[1]))
