"""What the host of an effect knows: parameters in the node of the segment editor, and places in slice views."""

import slicer
import vtk

from .pythonqt import qt


class Parameters:
    """Values an effect keeps in the scene, as attributes `Effect.name` of the segment editor's node."""

    def parameterDefined(self, name):
        """Whether it was ever set."""
        node = self.parameterSetNode()
        return node is not None and node.GetAttribute(f"{self.name}.{name}") is not None

    def parameter(self, name):
        """As text; empty where there is none."""
        node = self.parameterSetNode()
        return (node.GetAttribute(f"{self.name}.{name}") if node is not None else None) or ""

    def integerParameter(self, name):
        """As a whole number."""
        return int(float(self.parameter(name) or 0))

    def doubleParameter(self, name):
        """As a number."""
        return float(self.parameter(name) or 0)

    def setParameter(self, name, value):
        """Keep a value."""
        node = self.parameterSetNode()
        if node is not None:
            node.SetAttribute(f"{self.name}.{name}", str(value))

    def setParameterDefault(self, name, value):
        """Keep a value where there is none."""
        if not self.parameterDefined(name):
            self.setParameter(name, value)


class Coordinates:
    """Places of slice views, and what lies in them."""

    @staticmethod
    def renderWindow(viewWidget):
        """vtkRenderWindow."""
        return viewWidget.renderWindow()

    @staticmethod
    def renderer(viewWidget):
        """vtkRenderer."""
        return viewWidget.renderWindow().GetRenderers().GetFirstRenderer()

    @staticmethod
    def viewNode(viewWidget):
        """vtkMRMLSliceNode."""
        return viewWidget.mrmlSliceNode()

    def addActor2D(self, viewWidget, actor):
        """Show an actor in a view."""
        self.renderer(viewWidget).AddViewProp(actor)

    def removeActor2D(self, viewWidget, actor):
        """Show it no longer."""
        self.renderer(viewWidget).RemoveViewProp(actor)

    @staticmethod
    def scheduleRender(viewWidget):
        """Views render when asked here."""

    @staticmethod
    def forceRender(viewWidget):
        """Render now."""
        viewWidget.forceRender()

    @staticmethod
    def xyToRas(xy, viewWidget):
        """QVector3D in the world of a QPoint in the view."""
        ras = viewWidget.mrmlSliceNode().GetXYToRAS().MultiplyPoint((xy.x(), xy.y(), 0, 1))
        return qt.QVector3D(*ras[:3])

    @staticmethod
    def rasToXy(ras, viewWidget):
        """QPoint in the view of a QVector3D in the world."""
        x, y = viewWidget.xyOfRas((ras.x(), ras.y(), ras.z()))
        return qt.QPoint(round(x), round(y))

    @staticmethod
    def xyToIjk(xy, viewWidget, image, parentTransformNode=None):
        """QVector3D of the voxel of a vtkOrientedImageData below a QPoint in the view."""
        ras = viewWidget.mrmlSliceNode().GetXYToRAS().MultiplyPoint((xy.x(), xy.y(), 0, 1))[:3]
        between, worldToImage = vtk.vtkGeneralTransform(), vtk.vtkMatrix4x4()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, parentTransformNode, between)
        image.GetWorldToImageMatrix(worldToImage)
        ijk = worldToImage.MultiplyPoint((*between.TransformPoint(ras), 1))
        return qt.QVector3D(*[round(value) for value in ijk[:3]])
