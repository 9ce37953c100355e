"""One DICOM series out of a folder, refused where its slices do not form a regular grid."""

import logging
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own documentation uses this name

from InContextSegLib.errors import InputError

_log = logging.getLogger(__name__)

_POSITION, _ORIENTATION, _PIXEL_SPACING = "0020|0032", "0020|0037", "0028|0030"
_MODALITY, _DESCRIPTION = "0008|0060", "0008|103e"
# Objects that point at images but are none; a folder with a CT and its contours still holds one series.
_NOT_IMAGES = ("RTSTRUCT", "RTPLAN", "RTRECORD", "SEG", "SR", "PR", "KO", "REG", "DOC")
_GAP_TOLERANCE = 0.05  # of the median gap; scanners round positions
_DRIFT_TOLERANCE = 0.5  # pixels that the last slice may be shifted sideways
_ORIENTATION_TOLERANCE = 1e-3


def read_series(folder: Path, series: str | None = None) -> sitk.Image:
    """Read a DICOM series; ITK applies rescale slope and intercept.

    Args:
        folder: the folder with the files; subfolders are not searched.
        series: the SeriesInstanceUID; None when the folder holds just one.

    Raises:
        InputError: if there is no series, several and none was chosen, no such series, or slices that are missing,
            doubled, tilted against each other, sheared by a tilted gantry, or of different sizes.
    """
    found = _image_series(folder)
    if not found:
        raise InputError(f"The folder {folder} holds no DICOM images (subfolders are not searched).")
    listing = "; ".join(f"{uid} ({what})" for uid, (_, what) in found.items())
    if series is not None and series not in found:
        raise InputError(f"The folder {folder} holds no DICOM series {series}; it holds {listing}.")
    if series is None and len(found) > 1:
        raise InputError(
            f"The folder {folder} holds {len(found)} DICOM series; pick one by writing {folder}#SERIES_UID: {listing}."
        )
    names, _ = found[series or next(iter(found))]
    try:
        _check_grid(folder, names)
        return sitk.ReadImage(names if len(names) > 1 else names[0])
    except RuntimeError as error:
        raise InputError(
            f"The DICOM series in {folder} cannot be read: a file is damaged, uses an unknown compression or "
            "differs in size from the others."
        ) from error


def is_dicom(path: Path) -> bool:
    """Whether the file carries DICOM's mark; such files often have no ending."""
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _image_series(folder: Path) -> dict[str, tuple[tuple[str, ...], str]]:
    """File names and a description of each series that holds images, by UID."""
    found = {}
    for uid in sorted(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))):
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)
        try:
            reader = _header(names[0])
        except RuntimeError:
            # Contours, plans and reports have no pixels.
            _log.debug("Series %s in %s holds no image.", uid, folder)
            continue
        if _tag(reader, _MODALITY) not in _NOT_IMAGES:
            words = (_tag(reader, _MODALITY), _tag(reader, _DESCRIPTION), f"{len(names)} files")
            found[uid] = names, ", ".join(word for word in words if word)
    return found


def _header(name: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(name)
    reader.ReadImageInformation()
    return reader


def _tag(reader: sitk.ImageFileReader, key: str) -> str:
    if not reader.HasMetaDataKey(key):
        return ""
    # Old files carry bytes that are no UTF-8; a terminal could not print them.
    return reader.GetMetaData(key).encode("utf-8", "replace").decode("utf-8").strip()


def _numbers(reader: sitk.ImageFileReader, key: str, count: int) -> list[float] | None:
    try:
        numbers = [float(number) for number in _tag(reader, key).split("\\")]
    except ValueError:
        return None
    return numbers if len(numbers) == count else None


def _check_grid(folder: Path, names: tuple[str, ...]) -> None:
    """Refuse slices that are no regular grid: ITK would stack them as if they were."""
    if len(names) < 2:
        return
    readers = [_header(name) for name in names]
    positions = [_numbers(reader, _POSITION, 3) for reader in readers]
    orientations = [_numbers(reader, _ORIENTATION, 6) for reader in readers]
    if None in positions or None in orientations:
        raise InputError(
            f"The DICOM series in {folder} does not say where its slices lie (ImagePositionPatient), so that they "
            "cannot be stacked; give the files one by one."
        )
    if np.ptp(orientations, axis=0).max() > _ORIENTATION_TOLERANCE:
        raise InputError(
            f"The DICOM series in {folder} holds slices of different orientation; export each stack on its own."
        )
    pixel_mm = min(_numbers(readers[0], _PIXEL_SPACING, 2) or [1.0])
    _check_positions(folder, np.asarray(positions), np.asarray(orientations[0]), pixel_mm)


def _check_positions(folder: Path, positions_mm: np.ndarray, orientation: np.ndarray, pixel_mm: float) -> None:
    rows, columns = orientation[:3], orientation[3:]
    offset_mm = positions_mm - positions_mm[0]
    gaps_mm = np.abs(np.diff(offset_mm @ np.cross(rows, columns)))
    median_mm = float(np.median(gaps_mm))
    if gaps_mm.min() < 1e-3:
        raise InputError(
            f"The DICOM series in {folder} holds several images at one position (time points or echoes); "
            "export one of them on its own."
        )
    if np.abs(gaps_mm - median_mm).max() > _GAP_TOLERANCE * median_mm:
        raise InputError(
            f"The DICOM series in {folder} has gaps of {gaps_mm.min():.3g} to {gaps_mm.max():.3g} mm between its "
            "slices: some are missing; export the series again or resample it."
        )
    if np.abs(offset_mm @ np.stack([rows, columns], axis=1)).max() > _DRIFT_TOLERANCE * pixel_mm:
        raise InputError(
            f"The DICOM series in {folder} is sheared (tilted gantry); resample it to a grid with perpendicular axes."
        )
