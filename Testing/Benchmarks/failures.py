"""The worst test case of some data sets, as a picture for the model card.

`python -m Testing.Benchmarks.failures --data ../shared/data --output InContextSegLib/weights/failures.png`
"""

import argparse
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from InContextSegLib.config import from_mapping, read_toml
from InContextSegLib.evaluation.study import Run, Study, cases, chosen_sets, opened_session, wanted_labels
from InContextSegLib.inference.settings import InferenceSettings
from InContextSegLib.models.loading import Model, load_model
from InContextSegLib.progress import Report
from InContextSegLib.volumes.overlap import dice

STUDY = Path("Resources/Studies/development.toml")
# All of these are CC BY 4.0; their authors are named where the picture is shown.
SETS = ["fives_fundus", "carotid_us", "glomeruli_histo", "kidney_t2_mr"]
SHOWN = 16


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    study = chosen_sets(from_mapping(Study, read_toml(STUDY), str(STUDY)), SETS)
    run, model = Run(options.data, options.output, Model()), load_model(Model())
    figure = Figure(figsize=(2.6 * len(study.sets), 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, each in zip(figure.subplots(1, len(study.sets)), study.sets, strict=True):
        score, image, truth, found = min(answers(each, study, run, model), key=lambda answer: answer[0])
        axes.imshow(image, cmap="gray")
        axes.contour(truth, [0.5], colors="#56B4E9", linewidths=0.9)
        if found.any():
            axes.contour(found, [0.5], colors="#E69F00", linewidths=0.9)
        axes.set_title(f"{each.name}: Dice {score:.2f}", fontsize=9)
        axes.set_axis_off()
    figure.savefig(options.output, dpi=90)


def answers(each, study, run, model):
    """Dice, image, truth and answer of every test case."""
    settings, session = InferenceSettings(supports=SHOWN, draws=1), None
    for case in cases(each, study, run, SHOWN, (SHOWN,)):
        session = session or opened_session(case, each, model, SHOWN, run, Report())
        found = session.segment(case.pair.image, settings, Report()).mask.array[0]
        (label,) = wanted_labels(each)
        truth = case.pair.labels.array[0] == label.value
        if truth.any():
            yield dice(found == label.value, truth), case.pair.image.array[0], truth, found == label.value


if __name__ == "__main__":
    main()
