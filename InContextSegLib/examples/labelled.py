"""An image with its labels: what is wrong with the two, and what they tell."""

from dataclasses import dataclass

import numpy as np

from InContextSegLib.errors import InputError
from InContextSegLib.slices.plan import SliceChoice
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume
from InContextSegLib.volumes.values import looks_like_image


@dataclass(frozen=True, eq=False)
class LabelledVolume:
    """An image, its labels on the same grid, a name for messages; not `may_be_finished`: its gaps are unlabelled.

    `slices` are those that become examples (see `SupportSet.from_volumes`); None: as is chosen for all volumes. Where
    they are indices, they count along `axis`; empty: along the one that the volume is cut along. `known` are the labels
    that they tell of (see `Example`).
    """

    image: Volume
    labels: Volume
    source: str
    may_be_finished: bool = True
    slices: SliceChoice | None = None
    axis: str = ""
    known: frozenset[int] | None = None


def known_labels(pair: LabelledVolume) -> frozenset[int] | None:
    """Values of the labels that the slices of a volume tell of, where they are and where not; None: of all.

    A volume that shows some labels and nowhere another one was labelled in part, as most collections of scans are: that
    it lacks the organ cannot be meant. One without any label was looked at and has nothing; pictures, and slices that a
    person chose or labelled in the target itself, are as that person wants them.
    """
    chosen = isinstance(pair.slices, tuple) or not pair.may_be_finished
    volume = pair.labels.kind is Kind.LABELS and pair.labels.geometry.shape[0] > 1
    if pair.known is not None or chosen or not volume:
        return pair.known
    held = frozenset().union(*(np.unique(plane).tolist() for plane in pair.labels.array)) - {0}
    return held or None


def require_labels(pair: LabelledVolume) -> None:
    if pair.labels.kind is not Kind.LABELS:
        raise InputError(f"The labels of {pair.source} were read as intensities; read that file as labels.")
    if looks_like_image(pair.labels.array):
        raise InputError(
            f"The labels of {pair.source} look like an image: they hold hundreds of values that change from voxel to "
            "voxel; perhaps image and labels were given in the wrong order."
        )


def mismatch(pair: LabelledVolume) -> str:
    image, labels = pair.image.geometry, pair.labels.geometry
    return (
        f"Image and labels of {pair.source} do not lie on the same grid (image: {extent(image)}; labels: "
        f"{extent(labels)}); choose the labels that belong to this image or resample them onto it."
    )


def extent(geometry: Geometry) -> str:
    size = " x ".join(str(length) for length in reversed(geometry.shape))
    spacing = " x ".join(f"{edge:.4g}" for edge in reversed(geometry.spacing_mm))
    centre = ", ".join(f"{mm:.1f}" for mm in geometry.to_world((np.array(geometry.shape) - 1) / 2))
    return f"{size} voxels of {spacing} mm about ({centre}) mm RAS"
