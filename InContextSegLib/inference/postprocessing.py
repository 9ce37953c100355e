"""What the examples' own shapes forbid in a result: as nnU-Net keeps the largest component where the training data do.

In how many pieces a label comes is counted in the completely labelled examples; of a result that many pieces stay, and
all others that are not small.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from scipy.ndimage import label

from InContextSegLib.examples.support import Label, LabelledVolume
from InContextSegLib.volumes.geometry import any_along

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
        for each in labels if min(volume.labels.array.shape) > 1 else ():
            sizes = _sizes(_components(volume.labels.array, each.value)[0])
            if len(sizes):
                found[each.value] = max(found.get(each.value, 0), int((sizes >= SPECK * sizes.max()).sum()))
    return found


def without_islands(mask: np.ndarray, pieces: Mapping[int, int]) -> tuple[np.ndarray, dict[str, dict[str, int]]]:
    """A label map (k, j, i) without the small pieces of a label that are more than the examples have; and what went.

    Args:
        pieces: by label value in how many pieces it comes.
    """
    cleaned, record = mask.copy(), {}
    for value, count in pieces.items():
        components, box = _components(mask, value)
        sizes = _sizes(components)
        order = np.argsort(-sizes, kind="stable")
        gone = [int(number) for number in order[count:] if sizes[number] < SMALL * sizes[order[0]]]
        cleaned[box][np.isin(components, np.add(gone, 1))] = 0
        record[str(value)] = {"pieces": count, "removed": len(gone), "voxels": int(sizes[gone].sum())}
    return cleaned, record


def _components(mask: np.ndarray, value: int) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Numbers of the pieces of a label, and the box that holds all of them."""
    here = mask == value
    extents = [np.flatnonzero(any_along(here, axis)) for axis in range(3)]
    box = tuple(slice(int(each[0]), int(each[-1]) + 1) if len(each) else slice(0) for each in extents)
    return label(here[box], NEIGHBOURS)[0], box


def _sizes(components: np.ndarray) -> np.ndarray:
    return np.bincount(components.ravel())[1:]
