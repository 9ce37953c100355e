"""Puts the parts of the panel together: process, client, controller, installation, widgets."""

import slicer

from InContextSegSlicer.install.environment import SlicerEnvironment
from InContextSegSlicer.install.install import Installer
from InContextSegSlicer.install.panel import InstallPanel
from InContextSegSlicer.panel.batchtab import BatchTab
from InContextSegSlicer.panel.controller import Controller
from InContextSegSlicer.panel.panel import Panel
from InContextSegSlicer.panel.review import looksOf, openCase
from InContextSegSlicer.scene.sliceviews import SliceViews
from InContextSegSlicer.worker.shared import SharedWorker


def assemble(ui) -> Panel:
    """The panel over the widgets `ui`, for the scene of the application."""
    scene = slicer.mrmlScene
    worker = SharedWorker.join()
    controller = Controller(worker.client, scene, editorNode(scene))
    controller.handover, controller.release = worker.handover, worker.leave
    environment = SlicerEnvironment()
    install = InstallPanel(Installer(environment, slicer.app.userSettings()), card=environment.graphicsCard())
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
