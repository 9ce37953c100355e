"""What the examples' own shapes forbid in a result: as nnU-Net keeps the largest component where the training data do.

In how many pieces a label comes is counted in the completely labelled examples; of a result that many pieces stay, and
all others that are not small.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from scipy.ndimage import find_objects, label

from InContextSegLib.examples.support import Label, LabelledVolume

SPECK = 0.05  # of the largest piece: less than that in an example is a slip of the pen
SMALL = 0.1  # of the largest piece: only less than that is taken off a result
NEIGHBOURS = np.ones((3, 3, 3))


def pieces_of(volumes: Iterable[LabelledVolume], labels: Iterable[Label]) -> dict[int, int]:
    """By label value in how many pieces it comes at most; a label that no volume shows is left out.

    Args:
        volumes: that are labelled completely; single slices are passed over.
    """
    found: dict[int, int] = {}
    for volume in volumes:
        array = volume.labels.array
        boxes = find_objects(array) if min(array.shape) > 1 else []
        for value in [each.value for each in labels if each.value <= len(boxes) and boxes[each.value - 1]]:
            sizes = _sizes(label(array[boxes[value - 1]] == value, NEIGHBOURS)[0])
            found[value] = max(found.get(value, 0), int((sizes >= SPECK * sizes.max()).sum()))
    return found


def volumes_of(volumes: Iterable[LabelledVolume], labels: Iterable[Label]) -> dict[int, tuple[float, float]]:
    """By label value its least and largest volume in millilitres; a label that no volume shows is left out.

    Args:
        volumes: that are labelled completely; single slices are passed over.
    """
    found: dict[int, list[float]] = {}
    for volume in volumes:
        array = volume.labels.array
        for value in (each.value for each in labels if min(array.shape) > 1):
            count = int(sum(np.count_nonzero(plane == value) for plane in array))
            if count:
                found.setdefault(value, []).append(volume.labels.geometry.millilitres(count))
    return {value: (min(each), max(each)) for value, each in found.items()}


def without_islands(mask: np.ndarray, pieces: Mapping[int, int]) -> tuple[np.ndarray, dict[str, dict[str, int]]]:
    """A label map (k, j, i) without the small pieces of a label that are more than the examples have; and what went.

    Args:
        pieces: by label value in how many pieces it comes.
    """
    cleaned, record, boxes = mask.copy(), {}, find_objects(mask)
    for value, count in pieces.items():
        box = boxes[value - 1] if value <= len(boxes) else None
        if box is None:
            continue
        components = label(mask[box] == value, NEIGHBOURS)[0]
        sizes = _sizes(components)
        order = np.argsort(-sizes, kind="stable")
        gone = [int(number) for number in order[count:] if sizes[number] < SMALL * sizes[order[0]]]
        cleaned[box][np.isin(components, np.add(gone, 1))] = 0
        record[str(value)] = {"pieces": count, "removed": len(gone), "voxels": int(sizes[gone].sum())}
    return cleaned, record


def _sizes(components: np.ndarray) -> np.ndarray:
    return np.bincount(components.ravel())[1:]
