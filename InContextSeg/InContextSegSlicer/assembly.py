"""Puts the parts of the panel together: process, client, controller, widgets."""

import slicer

from InContextSegLib.client import WorkerClient
from InContextSegSlicer.controller import Controller
from InContextSegSlicer.panel import Panel
from InContextSegSlicer.process import QProcessTransport
from InContextSegSlicer.sliceviews import SliceViews


def assemble(ui, resourcePath) -> Panel:
    """The panel over the widgets `ui`, for the scene of the application."""
    scene = slicer.mrmlScene
    client = WorkerClient(QProcessTransport)
    controller = Controller(client, scene, editorNode(scene))
    return Panel(ui, controller, SliceViews(scene))


def editorNode(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLSegmentEditorNode:
    """The node of the Segment Editor, so that its overwrite mode, mask and intensity range hold here too."""
    tag = "SegmentEditor"
    node = scene.GetSingletonNode(tag, "vtkMRMLSegmentEditorNode")
    if node is None:
        node = slicer.vtkMRMLSegmentEditorNode()
        node.SetSingletonTag(tag)
        node = scene.AddNode(node)
    return node
