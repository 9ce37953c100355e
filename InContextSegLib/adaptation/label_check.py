"""Examples that disagree with the others: perhaps their label map is another patient's, mirrored, shifted or wrong."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from InContextSegLib.adaptation.expectation import Trial
from InContextSegLib.adaptation.leave_out import dice, threshold_of
from InContextSegLib.examples.support import Example
from InContextSegLib.inference.prior import Calibration, SuspectLabel

FEWEST = 5  # with fewer examples of a label none can be told from the usual spread
# Robust standard deviations by which an example falls behind the others, in the mean of both witnesses. With this one
# right example in forty is named, and most label maps that belong to another patient (docs/benchmarks.md).
SUSPECT = 1.75
LEAST, MOST = -1.0, 6.0  # of one witness: neither may outvote the other altogether
LEAST_SPREAD = {"separation": 0.3, "edges": 0.1}
RING_PX = 4


def check_labels(trials: Sequence[Trial], calibration: Calibration) -> tuple[SuspectLabel, ...]:
    """Pictures whose label is an outlier, the worst first; of a label that few pictures show none can be told.

    Two witnesses: how well the answer of the others separates the labelled pixels from the rest (log odds of the area
    under the ROC curve; Dice would be low for every example of a structure that is hard to find), and how much of an
    edge the label's border follows in its own image.
    """
    found = []
    for value in dict.fromkeys(trial.value for trial in trials):
        own = [trial for trial in trials if trial.value == value and not np.isnan(trial.separation)]
        examples = [calibration.support.examples[trial.index] for trial in own]
        # Slices near the end of a structure are unlike the others too, and were not measured: only pictures are judged.
        if len(own) < FEWEST or any(example.position is not None for example in examples):
            continue
        threshold = threshold_of(calibration.shifts.get(value, 0.0))
        scores = [float(dice(trial.overlap)[threshold]) for trial in own]
        area = np.clip([trial.separation for trial in own], 1e-4, 1 - 1e-4)
        behind = _behind(np.log(area / (1 - area)), LEAST_SPREAD["separation"])
        behind += _behind(np.array([_edges(each, value) for each in examples]), LEAST_SPREAD["edges"])
        found += [
            SuspectLabel(value, example.source, score, float(np.median(scores)), float(strength))
            for example, score, strength in zip(examples, scores, behind / 2, strict=True)
            if strength > SUSPECT
        ]
    return tuple(sorted(found, key=lambda suspect: -suspect.strength))


def _behind(values: Float[np.ndarray, " n"], least_spread: float) -> Float[np.ndarray, " n"]:
    """Robust standard deviations below the median, within limits."""
    median = np.median(values)
    spread = max(1.4826 * float(np.median(np.abs(values - median))), least_spread)
    return np.clip((median - values) / spread, LEAST, MOST)


def _edges(example: Example, value: int) -> float:
    """Log of the mean gradient along the label's border over that in the label and round it."""
    mask: Bool[np.ndarray, "h w"] = example.labels == value
    gradient = ndimage.gaussian_gradient_magnitude(example.image, 1.0)
    border = ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask)
    round_about = ndimage.binary_dilation(mask, iterations=RING_PX)
    return float(np.log((gradient[border].mean() + 1e-3) / (gradient[round_about].mean() + 1e-3)))
