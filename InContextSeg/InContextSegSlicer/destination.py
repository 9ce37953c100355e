"""Where a result goes: the part of the output that may change, and the segment that receives it."""

from collections.abc import Mapping

import slicer

from InContextSegSlicer import bridge, grid
from InContextSegSlicer.order import Order


def regionOf(order: Order, output: slicer.vtkMRMLSegmentationNode, answer: Mapping) -> bridge.Region:
    """Where an answer may change the output: as far as was asked, and not on slices that the person drew in it."""
    inside = order.box
    if order.sliceRange is not None:
        inside = grid.slab(order.target, answer["axis"], *order.sliceRange)
    own = [row for row in order.examples if row.volume is order.target and row.segmentation is output]
    drawn = {index for row in own if isinstance(row.slices, tuple) for index in row.slices}
    kept = drawn.union(answer["given"]) if own else ()
    return bridge.Region(inside, tuple(grid.slab(order.target, answer["axis"], index, index) for index in sorted(kept)))


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
