"""How far two masks overlap: Dice and IoU."""

import numpy as np
from jaxtyping import Bool


def dice(found: Bool[np.ndarray, "*grid"], truth: Bool[np.ndarray, "*grid"]) -> float:
    """Twice the common voxels (of a slice: pixels) over the sum of both masks' voxels; 1 if both are empty."""
    total = np.count_nonzero(found) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(found & truth) / total if total else 1.0


def iou(found: Bool[np.ndarray, "*grid"], truth: Bool[np.ndarray, "*grid"]) -> float:
    """The common voxels over the voxels of either mask (Jaccard index); 1 if both are empty."""
    union = np.count_nonzero(found | truth)
    return np.count_nonzero(found & truth) / union if union else 1.0
