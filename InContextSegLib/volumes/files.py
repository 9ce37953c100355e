"""Volumes in and out of files: every doubt about an input is an error, and every output appears whole or not at all."""

import errno
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own documentation uses this name

from InContextSegLib.errors import InputError, OutputError
from InContextSegLib.volumes import nifti, segnrrd
from InContextSegLib.volumes.colour import LUMINANCE, ColourMix
from InContextSegLib.volumes.dicom import is_dicom, read_series
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume, itk_geometry, itk_image, laid_onto
from InContextSegLib.volumes.pictures import colours_of, read_picture
from InContextSegLib.volumes.segnrrd import Segment
from InContextSegLib.volumes.values import volume_of

_NIFTI = (".nii.gz", ".nii")
_ITK_VOLUMES = (segnrrd.ENDING, ".nrrd", ".nhdr", ".mha", ".mhd")
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_DICOM = (".dcm", ".dicom", ".ima")
READABLE = _NIFTI + _ITK_VOLUMES + _PICTURES + _DICOM
WRITABLE = (".nii.gz", ".nii", segnrrd.ENDING, ".nrrd", ".mha", ".png", ".tif", ".tiff")
_WRITABLE_PICTURES = (".png", ".tif", ".tiff")

_SHEAR_TOLERANCE = 5e-3  # direction cosines that a header rounds to two or three digits
_NEARLY_FULL_BYTES = 1 << 20

_Read = tuple[np.ndarray, Geometry]  # (k, j, i), or (k, j, i, channels) where the file may hold colours


def read_volume(path: str | Path, kind: Kind = Kind.INTENSITY, mix: ColourMix = LUMINANCE) -> Volume:
    """Read an image or a label map with its place in the patient.

    NIfTI-1, NRRD, MetaImage, a folder with one DICOM series (`folder#SERIES_UID` picks one of several), one DICOM file,
    and pictures (PNG, JPEG, TIFF, BMP), which become one slice with 1 mm pixels unless the file holds a measured size.

    INTENSITY keeps the file's integers and turns other numbers into float32; colours become grey as `mix` says; NaN and
    infinite voxels become the smallest finite value, which is logged as a warning. LABELS become uint8, or uint16
    above 255.

    Raises:
        InputError: if the file is missing, damaged, of an unknown type, has more than one value per voxel or more than
            three dimensions, has sheared axes, or (LABELS) holds anything but whole numbers from 0 to 65535.
    """
    array, geometry = _load(path, kind)
    return volume_of(array, geometry, kind, path, mix)


def read_segments(path: str | Path) -> tuple[Segment, ...]:
    """What the segments of a label map are called, with the values that `read_volume` gives them.

    Only a .seg.nrrd knows, and tells in its header; the voxels are not read.

    Raises:
        InputError: if the file is missing or damaged.
    """
    if ending_of(path) != segnrrd.ENDING:
        return ()
    return tuple(each.segment for each in _layered(_opened(Path(path)), Path(path)))


def read_header(path: str | Path) -> dict[str, str]:
    """What the header of a NRRD or MetaImage file says besides its geometry; the voxels are not read.

    Raises:
        InputError: if the file is missing or damaged.
    """
    reader = _opened(Path(path))
    return {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}


def read_labels(path: str | Path, geometry: Geometry) -> Volume:
    """Read the label map of an image on `geometry`.

    3D Slicer saves of a segmentation only the part that is not empty, perhaps with its axes reversed; it is laid onto
    the image's grid where its voxels are voxels of that grid. What lies on another grid comes as it is.

    Raises:
        InputError: as `read_volume` does.
    """
    labels = read_volume(path, Kind.LABELS)
    return laid_onto(labels, geometry) if ending_of(path) == segnrrd.ENDING else labels


def read_colours(path: str | Path) -> np.ndarray | None:
    """Read the colours (k, j, i, 3) of a picture or a single DICOM file as it holds them; None where it is grey.

    Other types of file hold no colours, and DICOM series next to never; they are not opened, and None as well.

    Raises:
        InputError: as `read_volume` does.
    """
    location, _ = _located(str(path))
    if location.is_dir() or ending_of(location) in _NIFTI + _ITK_VOLUMES:
        return None
    array, _ = _load(path, Kind.INTENSITY)
    return colours_of(array) if array.ndim == 4 else None


def write_volume(
    path: str | Path, volume: Volume, segments: Sequence[Segment] = (), more: Mapping[str, str] | None = None
) -> None:
    """Write a volume, whole or not at all, with the geometry it has.

    The ending of the name decides: .nii.gz, .nii, .nrrd, .mha, .seg.nrrd (labels), and for a single slice .png (uint8,
    uint16) and .tif. Pictures keep the pixel size but not the position. float16 is stored as float32. The names and
    colours of `segments` stand in a .seg.nrrd only, and so does `more`, which goes into its header.

    Raises:
        InputError: if the ending is unknown or the format cannot hold this volume.
        OutputError: if it could not be written; an earlier file of that name is then untouched.
    """
    ending = ending_of(path)
    check_fits(path, volume)
    array = volume.array.astype(np.float32) if volume.array.dtype == np.float16 else volume.array
    image = itk_image(array, volume.geometry)
    if ending in _WRITABLE_PICTURES:
        image = image[:, :, 0]
    header = {**segnrrd.header_of(array, segments), **(more or {})} if ending == segnrrd.ENDING else {}
    for key, text in header.items():
        image.SetMetaData(key, text)
    with whole_file(path) as temporary:
        try:
            with _quiet_itk():
                sitk.WriteImage(image, str(temporary), ending != ".nii")
        except RuntimeError as error:
            raise _unfinished(temporary) from error
        if ending in _NIFTI and not _is_whole_nifti(temporary):
            raise _unfinished(temporary)


def json_text(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    """JSON that every reader accepts: what is undefined (nan or infinite) becomes null."""
    return json.dumps(_defined(value), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def make_folder(path: str | Path) -> None:
    """Make a folder for results, with those above it; one that is there already is fine.

    Raises:
        OutputError: if it cannot be made, or a file has its name.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {path} could not be made: {reason_of(error)}.") from error


def write_text(path: str | Path, text: str) -> None:
    """Write a small text (UTF-8), whole or not at all.

    Raises:
        OutputError: if it could not be written; an earlier file of that name is then untouched.
    """
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with its ending; what is written there takes the name `path` at the end.

    If the block fails or is interrupted, the temporary file is removed and an earlier `path` stays as it was.

    Raises:
        OutputError: for any OSError in the block or in the last steps: no such folder, not allowed, disk full.
    """
    # Resolved, so that a symbolic link keeps pointing where it did and its target is replaced.
    target = Path(path).resolve()
    temporary = target.with_name(f".incontextseg-{secrets.token_hex(8)}{ending_of(target)}")
    try:
        if not target.parent.is_dir():
            raise OutputError(
                f"{path} could not be written: the folder {target.parent} does not exist; create it first."
            )
        temporary.open("xb").close()
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{path} could not be written: {reason_of(error)}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def ending_of(path: str | Path) -> str:
    """The ending of a file name in lower case, double endings such as .nii.gz whole."""
    name = Path(path).name.lower()
    return next((ending for ending in READABLE if name.endswith(ending)), Path(name).suffix)


def _defined(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _defined(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _located(path: str) -> tuple[Path, str | None]:
    """The path, and the DICOM series asked for behind the last "#" unless that is part of the name."""
    folder, mark, series = path.rpartition("#")
    if mark and not Path(path).exists():
        return Path(folder), series
    return Path(path), None


def _load(path: str | Path, kind: Kind) -> _Read:
    location, series = _located(str(path))
    if series is not None and not location.is_dir():
        raise InputError(f"{path} asks for a DICOM series, but {location} is not a folder.")
    try:
        with _quiet_itk():
            return _read(location, series, kind)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {reason_of(error)}.") from error


def _read(path: Path, series: str | None, kind: Kind) -> _Read:
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    if path.is_dir():
        return _from_itk(read_series(path, series), path, colours=True)
    ending = ending_of(path)
    if ending in _NIFTI:
        return _read_nifti(path)
    if ending in _PICTURES:
        return read_picture(path, kind)
    if ending == segnrrd.ENDING:
        return _read_segmentation(path)
    if ending in _ITK_VOLUMES:
        return _read_with_itk(path)
    if ending in _DICOM or is_dicom(path):
        return _read_with_itk(path, colours=True)
    raise InputError(f"{path} is of an unknown type; known endings are {' '.join(READABLE)}.")


def _read_nifti(path: Path) -> _Read:
    header = nifti.read_header(path)
    _check_dimensions(path, header.sizes)
    return nifti.read_voxels(path, header), nifti.read_geometry(path, header)


def _read_with_itk(path: Path, colours: bool = False) -> _Read:
    """Read any file ITK knows; `colours` says whether several channels may be colours."""
    return _from_itk(_image(_opened(path)), path, colours)


def _read_segmentation(path: Path) -> _Read:
    """One label map out of the layers of a .seg.nrrd; without segments several layers are no labels."""
    reader = _opened(path)
    found = _layered(reader, path)
    image = _image(reader)
    if image.GetNumberOfComponentsPerPixel() == 1 or not found:
        return _from_itk(image, path, colours=False)
    return segnrrd.merged(sitk.GetArrayFromImage(image), found, path), itk_geometry(image)


def _layered(reader: sitk.ImageFileReader, path: Path) -> list[segnrrd.Layered]:
    header = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}
    return segnrrd.segments_in(header, reader.GetNumberOfComponents(), path)


def _opened(path: Path) -> sitk.ImageFileReader:
    """A reader that has read the header."""
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with _quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise _damage(path) from error
    _check_dimensions(path, reader.GetSize())
    return reader


def _image(reader: sitk.ImageFileReader) -> sitk.Image:
    try:
        return reader.Execute()
    except RuntimeError as error:
        raise _damage(reader.GetFileName()) from error


def _damage(path: str | Path) -> InputError:
    return InputError(f"{path} is damaged, incomplete or not the kind of image its name says.")


def _check_dimensions(path: Path, size: tuple[int, ...]) -> None:
    if any(count > 1 for count in size[3:]):
        raise InputError(
            f"{path} has {len(size)} dimensions ({' x '.join(map(str, size))}), but an image with three is needed; "
            "save one time point or channel on its own."
        )


def _from_itk(image: sitk.Image, path: Path, colours: bool) -> _Read:
    channels = image.GetNumberOfComponentsPerPixel()
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"{path} holds complex numbers; save their magnitude instead.")
    if channels > 1 and not (colours and channels in (3, 4)):
        raise InputError(f"{path} holds {channels} values per voxel, but one is needed; save one of them on its own.")
    array = sitk.GetArrayFromImage(image)
    geometry = itk_geometry(image)
    if geometry.shear > _SHEAR_TOLERANCE:
        raise nifti.refusal_of_shear(path)
    return array.reshape(geometry.shape + ((channels,) if channels > 1 else ())), geometry


def check_fits(path: str | Path, volume: Volume) -> None:
    """See whether a file of that name can hold such a volume, without writing it.

    Raises:
        InputError: if the ending is unknown or the format cannot hold this volume.
    """
    ending = ending_of(path)
    if ending not in WRITABLE:
        raise InputError(f"{path} cannot be written: its ending is unknown; use one of {' '.join(WRITABLE)}.")
    if ending == segnrrd.ENDING and volume.kind is not Kind.LABELS:
        raise InputError(f"{path} cannot be written: it would hold segments, but the volume holds intensities.")
    # ITK would write a NIfTI with axes of its own choice.
    if volume.geometry.shear > (nifti.SHEAR_TOLERANCE if ending in _NIFTI else _SHEAR_TOLERANCE):
        raise InputError(f"{path} cannot be written: the axes of the volume are sheared; resample it first.")
    if ending not in _WRITABLE_PICTURES:
        return
    if volume.geometry.shape[0] != 1:
        raise InputError(
            f"{path} cannot be written: a picture holds one slice, but the volume has {volume.geometry.shape[0]}; "
            "use .nii.gz or .nrrd."
        )
    if ending == ".png" and volume.array.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"{path} cannot be written: PNG holds uint8 or uint16, but the volume is {volume.array.dtype}."
        )


def _is_whole_nifti(path: Path) -> bool:
    # ITK's NIfTI writer reports no error when the disk is full.
    try:
        nifti.read_voxels(path, nifti.read_header(path))
    except InputError:
        return False
    return True


def _unfinished(temporary: Path) -> OSError:
    """Why ITK may have failed, as it does not say itself."""
    if shutil.disk_usage(temporary.parent).free < _NEARLY_FULL_BYTES:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return OSError(errno.EIO, "the file came out incomplete, perhaps because the disk was full for a moment")


def reason_of(error: OSError) -> str:
    """Why a file could not be read or written, in words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "permission is missing"
    return error.strerror or str(error)


def _sync_folder(folder: Path) -> None:
    # The new name survives a power cut only once the folder is on disk; Windows cannot open folders.
    if os.name != "posix":
        return
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _quiet_itk() -> Iterator[None]:
    """Keep ITK's remarks about valid files off the terminal; what matters in them is checked here."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)
