"""Puts the parts of the panel together: process, client, controller, installation, widgets."""

import slicer

from InContextSegSlicer.batchtab import BatchTab
from InContextSegSlicer.controller import Controller
from InContextSegSlicer.install import Installer
from InContextSegSlicer.installpanel import InstallPanel
from InContextSegSlicer.outside import SlicerOutside
from InContextSegSlicer.panel import Panel
from InContextSegSlicer.review import looksOf, openCase
from InContextSegSlicer.sharedworker import SharedWorker
from InContextSegSlicer.sliceviews import SliceViews


def assemble(ui) -> Panel:
    """The panel over the widgets `ui`, for the scene of the application."""
    scene = slicer.mrmlScene
    worker = SharedWorker.join()
    controller = Controller(worker.client, scene, editorNode(scene))
    controller.handover, controller.release = worker.handover, worker.leave
    outside = SlicerOutside()
    install = InstallPanel(Installer(outside, slicer.app.userSettings()), card=outside.graphicsCard())
    ui.installFrame.layout().addWidget(install.widget)
    panel = Panel(ui, controller, SliceViews(scene), install)
    panel.batch = BatchTab(
        ui.batchTab,
        panel.task,
        controller.askAlongside,
        controller.client.cancel,
        openCase,
        lambda: looksOf(panel.order().examples),
    )
    return panel


def editorNode(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLSegmentEditorNode:
    """The node of the Segment Editor, so that its overwrite mode, mask and intensity range hold here too."""
    tag = "SegmentEditor"
    node = scene.GetSingletonNode(tag, "vtkMRMLSegmentEditorNode")
    if node is None:
        node = slicer.vtkMRMLSegmentEditorNode()
        node.SetSingletonTag(tag)
        node = scene.AddNode(node)
    return node
