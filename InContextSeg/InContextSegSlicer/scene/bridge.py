"""The bridge between the scene and arrays: what the rest of the extension uses of it, under one name."""

from InContextSegSlicer.scene.display import displayedIndex, jumpTo, showUncertainty, thumbnail, uncertaintyOf
from InContextSegSlicer.scene.reading import (
    arrayOf,
    copySegmentLook,
    ensureSegment,
    ensureSegmentation,
    geometryOf,
    labelsOnGrid,
    labelsOnSlices,
    segmentNames,
    terminologyOf,
)
from InContextSegSlicer.scene.writing import Region, SegmentWriter

__all__ = [
    "Region",
    "SegmentWriter",
    "arrayOf",
    "copySegmentLook",
    "displayedIndex",
    "ensureSegment",
    "ensureSegmentation",
    "geometryOf",
    "jumpTo",
    "labelsOnGrid",
    "labelsOnSlices",
    "segmentNames",
    "showUncertainty",
    "terminologyOf",
    "thumbnail",
    "uncertaintyOf",
]
