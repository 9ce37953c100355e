"""Draws clicks, boxes and scribbles in slice views."""

import math
from collections.abc import Sequence

import slicer
import vtk

from InContextSegSlicer.effect.prompting import BOX, POINT, Mark, Place, Position, outline

RADIUS_PX = 6
CORNERS = 16
FONT_SIZE = 15
GREEN, RED, YELLOW, WHITE = (60, 200, 90), (225, 70, 60), (245, 205, 60), (255, 255, 255)


class PromptView:
    """The marks of one slice view, and what is said of its slice, as actors in pixels.

    Attributes:
        actors: whoever owns the view shows them.
    """

    def __init__(self):
        drawing, self._text = vtk.vtkActor2D(), vtk.vtkTextActor()
        self.actors = (drawing, self._text)
        self._mapper = vtk.vtkPolyDataMapper2D()
        drawing.SetMapper(self._mapper)
        drawing.GetProperty().SetLineWidth(2)
        drawing.SetLayerNumber(1)  # over the preview, whichever came first
        look = self._text.GetTextProperty()
        look.SetFontSize(FONT_SIZE)
        look.SetColor(*(part / 255 for part in YELLOW))
        look.SetShadow(True)
        look.SetJustificationToCentered()
        self._text.GetPositionCoordinate().SetCoordinateSystemToNormalizedViewport()
        self._text.SetPosition(0.5, 0.92)  # Slicer's own texts lie in the corners
        self.tell("")
        self.show((), None, None, None)

    def show(
        self,
        marks: Sequence[Mark],
        sliceNode: slicer.vtkMRMLSliceNode | None,
        volume: slicer.vtkMRMLScalarVolumeNode | None,
        place: Place | None,
    ) -> None:
        """Draw these marks of a place in the volume, and no others."""
        drawing = _Drawing()
        rasToXy = vtk.vtkMatrix4x4()
        if marks:
            vtk.vtkMatrix4x4.Invert(sliceNode.GetXYToRAS(), rasToXy)
        for mark in marks:
            colour = YELLOW if mark.kind == BOX else GREEN if mark.positive else RED
            pixels = [_pixel(rasToXy, each) for each in outline(mark, volume, place)]
            if mark.kind == POINT:
                drawing.disc(pixels[0], colour, mark.positive)
            else:
                drawing.line([*pixels, pixels[0]] if mark.kind == BOX else pixels, colour)
        self._mapper.SetInputData(drawing.finished())

    def tell(self, sentence: str) -> None:
        """Say something at the top; nothing where it is empty."""
        self._text.SetInput(sentence)
        self._text.SetVisibility(bool(sentence))


class _Drawing:
    """Lines and polygons in pixels, each of one colour."""

    def __init__(self):
        self._points, self._lines, self._discs = vtk.vtkPoints(), vtk.vtkCellArray(), vtk.vtkCellArray()
        self._ofLines: list[tuple] = []
        self._ofDiscs: list[tuple] = []

    def disc(self, pixel: tuple[float, float], colour: tuple, plus: bool) -> None:
        """A filled disc with a plus or a minus in it."""
        x, y = pixel
        angles = [2 * math.pi * number / CORNERS for number in range(CORNERS)]
        ring = [(x + RADIUS_PX * math.cos(angle), y + RADIUS_PX * math.sin(angle)) for angle in angles]
        self._fill(ring, colour)
        self.line([*ring, ring[0]], WHITE)
        for wide, high in ((4, 1), (1, 4)) if plus else ((4, 1),):  # lines would lie below the disc
            self._fill([(x + a * wide, y + b * high) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))], WHITE)

    def line(self, pixels: Sequence[tuple[float, float]], colour: tuple) -> None:
        """A line through pixels."""
        self._insert(self._lines, pixels)
        self._ofLines.append(colour)

    def _fill(self, pixels: Sequence[tuple[float, float]], colour: tuple) -> None:
        self._insert(self._discs, pixels)
        self._ofDiscs.append(colour)

    def _insert(self, cells: vtk.vtkCellArray, pixels: Sequence[tuple[float, float]]) -> None:
        cells.InsertNextCell(len(pixels))
        for x, y in pixels:
            cells.InsertCellPoint(self._points.InsertNextPoint(x, y, 0))

    def finished(self) -> vtk.vtkPolyData:
        """All of it; cells are coloured in the order of VTK, lines before polygons."""
        colours = vtk.vtkUnsignedCharArray()
        colours.SetNumberOfComponents(3)
        for colour in (*self._ofLines, *self._ofDiscs):
            colours.InsertNextTuple3(*colour)
        data = vtk.vtkPolyData()
        data.SetPoints(self._points)
        data.SetLines(self._lines)
        data.SetPolys(self._discs)
        data.GetCellData().SetScalars(colours)
        return data


def _pixel(rasToXy: vtk.vtkMatrix4x4, position: Position) -> tuple[float, float]:
    return rasToXy.MultiplyPoint((*position, 1))[:2]
