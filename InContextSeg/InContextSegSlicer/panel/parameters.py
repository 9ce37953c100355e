"""What a person chose in the panel, kept in the scene."""

from typing import Annotated

from slicer import (
    vtkMRMLMarkupsROINode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLScene,
    vtkMRMLScriptedModuleNode,
    vtkMRMLSegmentationNode,
)
from slicer.parameterNodeWrapper import Minimum, WithinRange, parameterNodeWrapper


@parameterNodeWrapper
class InContextSegParameterNode:
    """The settings of the panel; its examples are beside them in the same node, see `examples.ExampleList`.

    Attributes:
        target: the volume to segment.
        output: receives the segments; none: a new segmentation is made for the target.
        region: only inside it; none: everywhere.
        axis: along which the volume is cut; "auto": as the examples were drawn, else across the thickest slices.
        preset: "fast", "normal" or "best".
        adaptSeconds: for which the network learns from the examples first, where `adapt` says so.
        useRange, firstSlice, lastSlice: only these slices, both included.
        useWindow, windowLow, windowHigh: grey values that become black and white; else percentiles of each volume.
        model, device: by their names.
        existing: what happens to what is in a segment already: "made" (by InContextSeg is replaced, the rest stays),
            "nothing" (is replaced) or "all".
        showUncertainty: as an overlay.
        segments: what to produce, as JSON; see `order.wantedSegments`.
    """

    target: vtkMRMLScalarVolumeNode
    output: vtkMRMLSegmentationNode
    region: vtkMRMLMarkupsROINode
    axis: str = "auto"
    preset: str = "normal"
    adapt: bool = False
    # Ends are given here, as those in the .ui file are forgotten when widget and parameter are connected.
    adaptSeconds: Annotated[float, WithinRange(1, 3600)] = 15.0
    useRange: bool = False
    firstSlice: Annotated[int, Minimum(0)] = 0
    lastSlice: Annotated[int, Minimum(0)] = 0
    useWindow: bool = False
    windowLow: float = -160.0
    windowHigh: float = 240.0
    model: str = "default"
    device: str = "auto"
    existing: str = "made"
    showUncertainty: bool = False
    segments: str = "{}"


def parameterNode(scene: vtkMRMLScene) -> vtkMRMLScriptedModuleNode:
    """The node of the panel in a scene, made as the panel itself does where there is none."""
    module = "InContextSeg"
    node = scene.GetSingletonNode(module, "vtkMRMLScriptedModuleNode")
    if node is None:
        node = vtkMRMLScriptedModuleNode()
        node.SetSingletonTag(module)
        node.SetName(scene.GenerateUniqueName(module))
        node = scene.AddNode(node)
    node.SetAttribute("ModuleName", module)
    return node
