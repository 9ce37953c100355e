"""Results of a batch in the scene: how segments are to look, and a finished case opened for review."""

from collections.abc import Sequence
from pathlib import Path

import slicer

from InContextSegLib.errors import InputError
from InContextSegSlicer.scene import bridge
from InContextSegSlicer.scene.examples import ExampleRow


def looksOf(rows: Sequence[ExampleRow]) -> dict[str, tuple[tuple[float, float, float], str]]:
    """By name of a segment its colour and terminology, as the first example in the scene has them."""
    found: dict[str, tuple] = {}
    for row in rows:
        if row.segmentation is None:
            continue
        for identifier, name in bridge.segmentNames(row.segmentation).items():
            segment = row.segmentation.GetSegmentation().GetSegment(identifier)
            found.setdefault(name, (segment.GetColor(), bridge.terminologyOf(row.segmentation, identifier)))
    return found


def openCase(image: str, result: str) -> None:
    """Load an image with its result and show both.

    Raises:
        InputError: if either cannot be loaded.
    """
    try:
        volume = slicer.util.loadVolume(image)
        segmentation = slicer.util.loadSegmentation(result)
    except RuntimeError as error:
        raise InputError(
            f"The case {Path(image).name} could not be opened ({error}); are its files still there?"
        ) from error
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
