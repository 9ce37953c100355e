"""An offscreen slice view on the displayable managers of MRML, which a slice widget wraps in Slicer."""

import contextlib
import os
import sys

import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

DISPLAYABLE_MANAGERS = (
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
)

if sys.platform == "linux" and not os.environ.get("DISPLAY"):
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")  # else VTK complains before it falls back


class SliceWidget(slicer.qMRMLWidget):
    """The slice widget of one view name, rendered into memory."""

    def __init__(self, name="Red", orientation="Axial", size=(512, 512)):
        super().__init__()
        scene, application = slicer.mrmlScene, slicer.app.applicationLogic()
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
        if not scene.GetFirstNodeByClass("vtkMRMLCrosshairNode"):
            scene.AddNewNodeByClass("vtkMRMLCrosshairNode").SetCrosshairName("default")
        self._make_window(size)
        self._group = self._make_managers(application)
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLApplicationLogic(application)
        application.GetSliceLogics().AddItem(self._logic)
        self._logic.SetMRMLScene(scene)
        existing = scene.GetSingletonNode(name, "vtkMRMLSliceNode")
        if existing is not None:
            self._logic.SetSliceNode(existing)
        self._node = existing or self._logic.AddSliceNode(name)
        self._node.SetOrientation(orientation)
        self._group.SetMRMLDisplayableNode(self._node)
        self._style = slicer.vtkMRMLSliceViewInteractorStyle()
        self._style.SetSliceLogic(self._logic)
        self._style.SetDisplayableManagers(self._group)
        self._style.SetInteractor(self._interactor)
        self._logic.ResizeSliceNode(*size)
        self.setMRMLScene(scene)

    def _make_window(self, size):
        self._renderer = vtk.vtkRenderer()
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetSize(*size)
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())
        self._interactor.Initialize()
        mapper = vtk.vtkImageMapper()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(mapper)
        self._actor.GetProperty().SetDisplayLocationToBackground()
        self._renderer.AddViewProp(self._actor)

    def _make_managers(self, application):
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(application)
        for name in DISPLAYABLE_MANAGERS:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        group = slicer.vtkMRMLDisplayableManagerGroup()
        group.SetRenderer(self._renderer)
        group.Initialize(factory, self._renderer)
        return group

    def sliceLogic(self):
        """vtkMRMLSliceLogic."""
        return self._logic

    def mrmlSliceNode(self):
        """vtkMRMLSliceNode."""
        return self._node

    def sliceView(self):
        """The view, here this widget itself."""
        return self

    def interactor(self):
        """vtkRenderWindowInteractor."""
        return self._interactor

    def interactorStyle(self):
        """vtkMRMLSliceViewInteractorStyle."""
        return self._style

    def renderWindow(self):
        """vtkRenderWindow."""
        return self._window

    def fitSliceToBackground(self):
        """Show the whole background volume."""
        self._logic.FitSliceToBackground()

    def showVolume(self, volumeNode):
        """Put a volume in the background, fit it, and snap to its nearest slice."""
        self._logic.GetSliceCompositeNode().SetBackgroundVolumeID(volumeNode.GetID())
        self._logic.ResizeSliceNode(*self._window.GetSize())
        self._logic.FitSliceToBackground()
        self._logic.SnapSliceOffsetToIJK()
        self.forceRender()

    def forceRender(self):
        """Render now."""
        port = self._logic.GetImageDataConnection()
        self._actor.GetMapper().SetInputConnection(port)
        self._actor.SetVisibility(bool(port))
        self._window.Render()

    def image(self):
        """(height, width, 3) uint8: what the view shows, top row first."""
        self.forceRender()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self._window)
        grab.ReadFrontBufferOff()
        grab.Update()
        picture = grab.GetOutput()
        width, height, _ = picture.GetDimensions()
        return vtk_to_numpy(picture.GetPointData().GetScalars()).reshape(height, width, -1)[::-1].copy()

    def xyOfRas(self, ras):
        """Pixel (x, y) of the view where a point of the world is shown."""
        matrix = vtk.vtkMatrix4x4()
        matrix.DeepCopy(self._node.GetXYToRAS())
        matrix.Invert()
        return matrix.MultiplyPoint((*ras, 1))[:2]

    def mouse(self, event, x, y, control=False, shift=False):
        """One event of the mouse at a pixel, counted from below."""
        self._interactor.SetEventInformation(round(x), round(y), int(control), int(shift))
        self._interactor.InvokeEvent(event)

    def click(self, x, y, **keys):
        """Press and release the left button at a pixel, perhaps with `control` or `shift` held."""
        self.drag((x, y), **keys)

    def drag(self, *places, **keys):
        """Press the left button at the first pixel, move over the others, and release it at the last."""
        self.mouse("LeftButtonPressEvent", *places[0], **keys)
        for place in places[1:]:
            self.mouse("MouseMoveEvent", *place, **keys)
        self.mouse("LeftButtonReleaseEvent", *places[-1], **keys)

    def key(self, symbol, control=False, shift=False):
        """Press and release a key over the view, by its name in VTK."""
        for event in ("KeyPressEvent", "KeyReleaseEvent"):
            self._interactor.SetKeyEventInformation(int(control), int(shift), "\0", 0, symbol)
            self._interactor.InvokeEvent(event)

    def release(self):
        """Let go of the scene, so that the next test starts with none of this."""
        slicer.app.applicationLogic().GetSliceLogics().RemoveItem(self._logic)
        self._style.SetInteractor(None)
        self._group.SetMRMLDisplayableNode(None)
        self._logic.SetMRMLScene(None)
        self._window.Finalize()
        with contextlib.suppress(RuntimeError):  # Qt may have deleted it with its parent
            self.delete()
