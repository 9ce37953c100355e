"""One picture of a result that a person can judge at a glance: slices, outlines, reference and uncertainty."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from InContextSegLib.errors import InputError
from InContextSegLib.examples.support import Label
from InContextSegLib.slices.intensities import WINDOWS, Intensities, Scale
from InContextSegLib.slices.plan import SlicePlan, same_grid, stored_axis
from InContextSegLib.volumes.colour import COLOURS
from InContextSegLib.volumes.files import whole_file
from InContextSegLib.volumes.geometry import Geometry, Volume

HEAT = "inferno"

_PAPER, _INK, _REFERENCE = "#16181c", "#e8e8e8", "#ffffff"
_BORDERS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}  # left, right, top, bottom
_PIXELS = 320
_PICTURE_INCH, _GAP_INCH, _CAPTION_INCH, _MARGIN_INCH, _BAR_INCH = 2.4, 0.08, 0.26, 0.12, 0.75
_LEGEND_INCH, _ENTRY_INCH = 0.22, 1.3
_DPI = 150
_FILL = 0.28
_LEAST_HEAT = 10.0  # percent
_CT_AIR = -500
# Surroundings shown on each side of what is drawn: a fraction of its extent, but not less than some millimetres.
_AROUND, _AROUND_MM = 0.25, 30.0


def montage(
    path: str | Path,
    volume: Volume,
    mask: Volume,
    labels: Sequence[Label],
    uncertainty: Volume | None = None,
    truth: Volume | None = None,
    axis: str = "axial",
) -> None:
    """Write `montage_figure` of these arguments as a PNG file, whole or not at all.

    Raises:
        InputError: as `montage_figure`, or if the path does not end in .png.
        OutputError: if the file cannot be written.
    """
    if Path(path).suffix.lower() != ".png":
        raise InputError(f"A montage is a PNG picture, but the path is {path}; let it end in .png.")
    figure = montage_figure(volume, mask, labels, uncertainty, truth, axis)
    with whole_file(path) as temporary:
        # Without the drawing program's name and version the same result is the same file.
        figure.savefig(temporary, format="png", metadata={"Software": None})


def montage_figure(
    volume: Volume,
    mask: Volume,
    labels: Sequence[Label],
    uncertainty: Volume | None = None,
    truth: Volume | None = None,
    axis: str = "axial",
    columns: int = 6,
) -> Figure:
    """Draw slices side by side, upright and never stretched, with the mask over them.

    The upper row shows the image, the mask as coloured areas with outlines and the truth as dashed white outlines; the
    lower row shows the uncertainty, with the mask's outlines. The slices lie evenly within the extent of mask and truth
    together, and show that part with some surroundings; of the whole volume when both are empty. Under each stands the
    array axis and index it has in the stored volume. Letters at the borders name the patient's sides, except on a
    volume of one slice, which may be no patient's.

    Args:
        volume: the image. What looks like Hounsfield units is shown in a window for soft tissue.
        mask: label values on the grid of `volume`.
        labels: which values of mask and truth are drawn, in the legend's order; other values are not shown.
        uncertainty: in percent, on the same grid.
        truth: label values on the same grid.
        axis: one of `slicing.AXES`; a volume with one slice is always shown along its stored axis.
        columns: slices at most.

    Raises:
        InputError: if the grids differ, the axis is unknown, or there is no label or no column to show.
    """
    if not labels or columns < 1:
        raise InputError(f"A montage needs at least one label and one column, but {len(labels)} and {columns} came.")
    for name, other in (("mask", mask), ("uncertainty", uncertainty), ("truth", truth)):
        if other is not None and not same_grid(volume.geometry, other.geometry):
            raise InputError(
                f"The {name} of {other.geometry.shape} voxels does not lie on the grid of the image of "
                f"{volume.geometry.shape}; bring it there with `resample`."
            )
    if volume.geometry.shape[0] == 1:
        axis = stored_axis(volume.geometry)
    plan, numbers = _chosen(volume.geometry, axis, _drawn(labels, mask, truth), columns)
    layers = _Layers.cut(plan, numbers, labels, mask, truth)
    images = plan.extract(volume, _scale(volume.array), numbers)
    letters = _BORDERS[axis] if volume.geometry.shape[0] > 1 else ""
    rows = 1 if uncertainty is None else 2
    sheet = _Sheet(len(numbers), rows, layers.rows_columns, len(labels) + (truth is not None))
    figure = sheet.figure()
    for column, number in enumerate(numbers):
        axes = sheet.axes(figure, 0, column)
        layers.draw_image(axes, images[column], column)
        _letter(axes, letters)
        caption = f"{'kji'[plan.array_axis]} = {plan.slice_index(number)}"
        axes.set_xlabel(caption, color=_INK, fontsize=9, labelpad=3)
    if uncertainty is not None:
        top = max(float(np.nanmax(uncertainty.array)), _LEAST_HEAT)
        heat = plan.extract(uncertainty, Scale(0.0, top), numbers)
        for column in range(len(numbers)):
            layers.draw_heat(sheet.axes(figure, 1, column), heat[column], column)
        sheet.heat_bar(figure, top)
    sheet.legend(figure, labels, truth is not None)
    return figure


@dataclass(frozen=True, eq=False)
class _Layers:
    """What lies over the pictures: label values of mask and truth, (n, size, size), and the part that is no padding."""

    labels: Sequence[Label]
    mask: np.ndarray
    truth: np.ndarray | None
    part: tuple[slice, slice]

    @classmethod
    def cut(
        cls, plan: SlicePlan, numbers: list[int], labels: Sequence[Label], mask: Volume, truth: Volume | None
    ) -> "_Layers":
        covered = [np.flatnonzero(plan.coverage.any(axis=1 - side)) for side in (0, 1)]
        part = tuple(slice(int(side[0]), int(side[-1]) + 1) for side in covered)
        cuts = (None if labelled is None else plan.extract_labels(labelled, numbers) for labelled in (mask, truth))
        return cls(labels, *cuts, part)

    @property
    def rows_columns(self) -> tuple[int, int]:
        rows, columns = self.part
        return rows.stop - rows.start, columns.stop - columns.start

    def draw_image(self, axes: Axes, image: np.ndarray, column: int) -> None:
        picture = np.repeat(image[self.part][..., None], 3, axis=2)
        drawn = self.mask[column][self.part]
        for label, colour in _coloured(self.labels):
            inside = drawn == label.value
            picture[inside] += _FILL * (np.array(to_rgb(colour), dtype=np.float32) - picture[inside])
        axes.imshow(picture, vmin=0, vmax=1, interpolation="nearest")
        for label, colour in _coloured(self.labels):
            _outline(axes, drawn == label.value, colour, 1.2)
            if self.truth is not None:
                reference = self.truth[column][self.part] == label.value
                _outline(axes, reference, _REFERENCE, 0.9, dashed=True)

    def draw_heat(self, axes: Axes, heat: np.ndarray, column: int) -> None:
        axes.imshow(heat[self.part], vmin=0, vmax=1, cmap=HEAT, interpolation="nearest")
        for label, colour in _coloured(self.labels):
            _outline(axes, self.mask[column][self.part] == label.value, colour, 0.8)


@dataclass(frozen=True)
class _Sheet:
    """Where on the paper everything stands, in inches; the pictures keep the ratio of `rows_columns`."""

    columns: int
    rows: int
    rows_columns: tuple[int, int]
    entries: int

    @property
    def _picture(self) -> tuple[float, float]:
        """Height and width of a picture."""
        return tuple(_PICTURE_INCH * side / max(self.rows_columns) for side in self.rows_columns)

    @property
    def _size(self) -> tuple[float, float]:
        """Height and width of the sheet; wide enough for two entries of the legend."""
        height, width = self._picture
        across = 2 * _MARGIN_INCH + self.columns * (width + _GAP_INCH) + (_BAR_INCH if self.rows > 1 else 0)
        across = max(across, 2 * _ENTRY_INCH + 2 * _MARGIN_INCH)
        gaps = _CAPTION_INCH + (self.rows - 1) * _GAP_INCH
        return 2 * _MARGIN_INCH + self.rows * height + gaps + self._header(across), across

    def _beside(self, across: float) -> int:
        """How many entries of the legend stand in a row."""
        return max(1, min(self.entries, int((across - 2 * _MARGIN_INCH) / _ENTRY_INCH)))

    def _header(self, across: float) -> float:
        return _LEGEND_INCH * -(-self.entries // self._beside(across)) + _GAP_INCH

    def figure(self) -> Figure:
        height, width = self._size
        figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=_PAPER)
        FigureCanvasAgg(figure)
        return figure

    def axes(self, figure: Figure, row: int, column: int) -> Axes:
        height, width = self._picture
        left = _MARGIN_INCH + column * (width + _GAP_INCH)
        axes = self._frame(figure, left, self._bottom(row), width, height)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        return axes

    def heat_bar(self, figure: Figure, top: float) -> None:
        height, width = self._picture
        left = _MARGIN_INCH + self.columns * (width + _GAP_INCH) + 0.04
        axes = self._frame(figure, left, self._bottom(1), 0.12, height)
        bar = figure.colorbar(ScalarMappable(Normalize(0, top), HEAT), cax=axes)
        bar.outline.set_visible(False)
        bar.set_label("uncertainty, %", color=_INK, fontsize=8)
        axes.tick_params(colors=_INK, labelsize=7, length=2)
        axes.locator_params(nbins=4)

    def legend(self, figure: Figure, labels: Sequence[Label], truth: bool) -> None:
        height, width = self._size
        handles = [
            Patch(facecolor=(*to_rgb(colour), 0.5), edgecolor=colour, label=str(label.value))
            for label, colour in _coloured(labels)
        ]
        if truth:
            handles.append(Line2D([], [], color=_REFERENCE, linestyle="--", linewidth=1, label="reference"))
        legend = figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(_MARGIN_INCH / width, 1 - _MARGIN_INCH / height),
            ncols=self._beside(width),
            labelcolor=_INK,
            frameon=False,
            borderpad=0,
            borderaxespad=0,
            fontsize=9,
        )
        # A name is the user's own text: no underscore at its start hides it, no dollar sign in it begins a formula.
        for text, label in zip(legend.get_texts(), labels, strict=False):
            text.set_parse_math(False)
            text.set_text(label.name)

    def _bottom(self, row: int) -> float:
        """Height of a row's lower edge; the caption stands under the first row."""
        height, _ = self._picture
        from_top = _MARGIN_INCH + self._header(self._size[1]) + (row + 1) * height + row * (_GAP_INCH + _CAPTION_INCH)
        return self._size[0] - from_top

    def _frame(self, figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
        down, across = self._size
        return figure.add_axes((left / across, bottom / down, width / across, height / down))


def _drawn(labels: Sequence[Label], mask: Volume, truth: Volume | None) -> np.ndarray:
    """(k, j, i) bool: the voxels that any outline will surround."""
    drawn = np.zeros(mask.array.shape, bool)
    for label in labels:  # `isin` takes many times the memory of a scan
        drawn |= mask.array == label.value
        if truth is not None:
            drawn |= truth.array == label.value
    return drawn


def _chosen(geometry: Geometry, axis: str, drawn: np.ndarray, columns: int) -> tuple[SlicePlan, list[int]]:
    """The part to show, and its slices to show: the middles of equal parts of the extent of what is drawn."""
    whole = SlicePlan.of(geometry, axis, size=_PIXELS)
    low, high = [0, 0, 0], list(geometry.shape)
    if drawn.any():
        for side, spacing_mm in enumerate(geometry.spacing_mm):
            found = np.flatnonzero(drawn.any(axis=tuple(other for other in range(3) if other != side)))
            first, stop = int(found[0]), int(found[-1]) + 1
            around = 0
            if side != whole.array_axis:
                around = round(max(_AROUND * (stop - first), _AROUND_MM / spacing_mm))
            low[side], high[side] = max(first - around, 0), min(stop + around, geometry.shape[side])
    plan = SlicePlan.of(geometry, axis, _PIXELS, (tuple(low), tuple(high)))
    count = min(columns, plan.count)
    return plan, [int((n + 0.5) * plan.count / count) for n in range(count)]


def _scale(array: np.ndarray) -> Scale:
    """Soft tissue for what can only be Hounsfield units, the image's own percentiles for the rest."""
    window = WINDOWS["ct-soft"] if array.min() < _CT_AIR else None
    return Intensities(window).of(array)


def _coloured(labels: Sequence[Label]) -> Iterator[tuple[Label, str]]:
    # The colours begin again when they run out.
    return zip(labels, cycle(COLOURS))


def _outline(axes: Axes, inside: np.ndarray, colour: str, width: float, dashed: bool = False) -> None:
    # A rim of background closes the outline where the area touches the border of the picture.
    rimmed = np.pad(inside, 1).astype(np.float32)
    if not rimmed.any():
        return
    rows, columns = (np.arange(-1, size + 1) for size in inside.shape)
    limits = axes.get_xlim(), axes.get_ylim()
    axes.contour(columns, rows, rimmed, [0.5], colors=[colour], linewidths=width, linestyles="--" if dashed else "-")
    axes.set(xlim=limits[0], ylim=limits[1])


def _letter(axes: Axes, letters: str) -> None:
    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"))
    places += ((0.5, 0.98, "center", "top"), (0.5, 0.02, "center", "bottom"))
    for letter, (x, y, horizontal, vertical) in zip(letters, places, strict=False):
        style = {"ha": horizontal, "va": vertical, "color": _INK, "fontsize": 7}
        style["path_effects"] = [withStroke(linewidth=2, foreground=_PAPER)]
        axes.text(x, y, letter, transform=axes.transAxes, **style)
