"""Where a result goes: the part of the output that may change, and the segment that receives it."""

from collections import defaultdict
from collections.abc import Mapping

import slicer

from InContextSegSlicer.panel.order import Order
from InContextSegSlicer.scene import bridge, grid
from InContextSegSlicer.scene.slicemarks import spokenByName


def regionOf(
    order: Order, output: slicer.vtkMRMLSegmentationNode, answer: Mapping, into: Mapping[str, str]
) -> bridge.Region:
    """Where an answer may change the output: as far as was asked, and not on slices that the person drew in it.

    On a slice that was applied for some segments only, these stay as they are, and the others may change.

    Args:
        into: by the name in the examples the ID of the segment that receives it.
    """

    def slabs(indices) -> tuple:
        return tuple(grid.slab(order.target, answer["axis"], index, index) for index in sorted(indices))

    inside = order.box
    if order.sliceRange is not None:
        inside = grid.slab(order.target, answer["axis"], *order.sliceRange)
    own = [row for row in order.examples if row.volume is order.target and row.segmentation is output]
    chosen = [row for row in own if isinstance(row.slices, tuple)]
    kept, partly = set(answer["given"] if len(chosen) < len(own) else ()), defaultdict(set)
    named = [*((name, identifier) for identifier, name in bridge.segmentNames(output).items()), *into.items()]
    for row in chosen:
        spoken = spokenByName(row, [name for name, _id in named])
        for index, names in spoken.items():
            if into.keys() <= set(names):
                kept.add(index)
            else:
                kept.discard(index)
                for identifier in (identifier for name, identifier in named if name in names):
                    partly[identifier].add(index)
    return bridge.Region(inside, slabs(kept), {identifier: slabs(indices) for identifier, indices in partly.items()})


def ensureLike(order: Order, output: slicer.vtkMRMLSegmentationNode, name: str, into: str) -> str:
    """The ID of a segment of the output, made with the looks of the example's where there is none."""
    if into in bridge.segmentNames(output).values():
        return bridge.ensureSegment(output, into)
    made = bridge.ensureSegment(output, into)
    for row in order.examples:
        segmentation = row.segmentation
        if segmentation is None or segmentation.GetScene() is None:
            continue  # from files, or removed since it was handed over
        identifier = segmentation.GetSegmentation().GetSegmentIdBySegmentName(name)
        if identifier:
            bridge.copySegmentLook(segmentation, identifier, output, made, name=into)
            break
    return made
