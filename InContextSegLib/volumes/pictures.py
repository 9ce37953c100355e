"""Two-dimensional pictures (PNG, JPEG, TIFF, BMP) as grey values or as label indices."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own documentation uses this name

from InContextSegLib.errors import InputError
from InContextSegLib.volumes.colour import ColourMix
from InContextSegLib.volumes.geometry import Geometry, Kind, picture_geometry

# Dots per inch that cameras, scanners and office programs write without having measured anything.
_PRINT_DENSITIES = (72, 75, 96, 100, 120, 144, 150, 180, 200, 220, 240, 300, 350, 360, 400, 600, 720, 1200, 2400, 4800)
# JPEG and BMP know nothing but such densities; TIFF and PNG (sCAL) can carry a measured size.
_MEASURED_FORMATS = (".tif", ".tiff", ".png")
_SMALLEST_PIXEL_MM, _LARGEST_PIXEL_MM = 1e-6, 10.0
# ITK turns palettes and bits into colours and grey levels, reads CMYK as RGBA, and does not know grey with alpha.
_PILLOW_READS_BETTER = ("P", "PA", "1", "CMYK", "LA")
_LOSSY_FORMATS = ("JPEG", "MPO")


@dataclass(frozen=True, eq=False)
class _Decoded:
    format: str
    array: np.ndarray | None  # (pages, rows, columns[, channels]) where Pillow is the better reader


def read_picture(path: Path, kind: Kind) -> tuple[np.ndarray, Geometry]:
    """Read a picture as (pages, rows, columns[, channels]) and its grid; a plain picture has one page.

    Pixels are taken as stored: a camera's orientation note (EXIF) is not applied, as labels belong to stored pixels.
    The size of a pixel is 1 mm unless a TIFF or PNG holds a measured one.

    Raises:
        InputError: if the picture is damaged, or cannot be labels because it is lossy (JPEG).
    """
    decoded = _decode_with_pillow(path, kind)
    if decoded is not None and decoded.format in _LOSSY_FORMATS and kind is Kind.LABELS:
        raise InputError(
            f"{path} is a JPEG, which alters label values; labels must be index images saved as PNG or TIFF."
        )
    array, spacing_mm = _read_with_itk(path, only_header=decoded is not None and decoded.array is not None)
    if decoded is not None and decoded.array is not None:
        array = decoded.array
    return array, picture_geometry(array.shape[:3], spacing_mm)


def colours_of(channels: np.ndarray) -> np.ndarray | None:
    """(..., 3) red, green and blue out of (..., channels); None where these are grey[, alpha] or three times the same.

    Alpha is ignored.
    """
    if channels.shape[-1] < 3:
        return None
    red = channels[..., 0]
    grey = np.array_equal(red, channels[..., 1]) and np.array_equal(red, channels[..., 2])
    return None if grey else channels[..., :3]


def grey_values(channels: np.ndarray, kind: Kind, path: Path | str, mix: ColourMix) -> np.ndarray:
    """One value per voxel out of (..., channels): the grey that is there, or for INTENSITY the colours as `mix` says.

    Raises:
        InputError: for LABELS in colours.
    """
    colours = colours_of(channels)
    if colours is None:
        return channels[..., 0]
    if kind is Kind.LABELS:
        raise InputError(
            f"{path} shows its labels as colours, but labels must be an index image in which the value of a pixel is "
            "its label: save it with one channel or as palette PNG."
        )
    return mix.grey(colours)


def _decode_with_pillow(path: Path, kind: Kind) -> _Decoded | None:
    """Pillow's view of the file, or None where only ITK may know it; ITK alone would not notice missing bytes."""
    # Only pictures need Pillow, and only here: volumes must be readable where it is not installed.
    from PIL import Image, ImageSequence  # noqa: PLC0415 - see above

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None
        with image:
            try:
                image.load()
                if image.mode not in _PILLOW_READS_BETTER:
                    return _Decoded(image.format, None)
                pages = [_pixels(page, kind) for page in ImageSequence.Iterator(image)]
                return _Decoded(image.format, np.stack(pages))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise InputError(f"{path} is damaged or incomplete and cannot be read as a picture.") from error


def _pixels(page, kind: Kind) -> np.ndarray:
    if page.mode == "1":
        return np.asarray(page).astype(np.uint8)
    if page.mode in ("P", "PA"):
        if kind is Kind.LABELS:
            return np.asarray(page) if page.mode == "P" else np.asarray(page)[..., 0]
        return np.asarray(page.convert("RGB"))
    return np.asarray(page.convert("RGB") if page.mode == "CMYK" else page)


def _read_with_itk(path: Path, only_header: bool) -> tuple[np.ndarray | None, tuple[float, float]]:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        spacing_mm = _credible_spacing(path, reader.GetSpacing())
        image = None if only_header else reader.Execute()
    except RuntimeError as error:
        if only_header:
            return None, (1.0, 1.0)
        raise InputError(f"{path} is damaged or not a picture, although its name says so.") from error
    if image is None:
        return None, spacing_mm
    array = sitk.GetArrayFromImage(image)
    return (array[np.newaxis] if image.GetDimension() == 2 else array), spacing_mm


def _credible_spacing(path: Path, spacing_mm: tuple[float, ...]) -> tuple[float, float]:
    """Height and width of a pixel in millimetres; 1 mm when the file only repeats a printing density."""
    column_mm, row_mm = spacing_mm[:2]
    believable = path.suffix.lower() in _MEASURED_FORMATS and all(
        _SMALLEST_PIXEL_MM <= size_mm <= _LARGEST_PIXEL_MM and not _is_print_density(size_mm)
        for size_mm in (row_mm, column_mm)
    )
    return (row_mm, column_mm) if believable else (1.0, 1.0)


def _is_print_density(size_mm: float) -> bool:
    return any(abs(25.4 / size_mm - density) < 0.005 * density for density in _PRINT_DENSITIES)
