"""The grid of an image without its voxels, where the format keeps it in a header."""

from pathlib import Path

import SimpleITK as sitk  # noqa: N813 - its own documentation uses this name

from InContextSegLib.errors import InputError
from InContextSegLib.volumes import nifti
from InContextSegLib.volumes.files import ending_of, read_volume
from InContextSegLib.volumes.geometry import Geometry, itk_geometry

_NIFTI = (".nii.gz", ".nii")
_ITK_VOLUMES = (".nrrd", ".nhdr", ".mha", ".mhd")


def read_grid(path: str | Path) -> Geometry:
    """The grid of an image, as `read_volume` gives it.

    Of NIfTI, NRRD and MetaImage only the header is read, so missing voxels go unnoticed; other files are read.

    Raises:
        InputError: as `read_volume` does.
    """
    path = Path(path)
    quick = {**dict.fromkeys(_NIFTI, _of_nifti), **dict.fromkeys(_ITK_VOLUMES, _of_itk)}.get(ending_of(path))
    geometry = quick(path) if quick and path.is_file() else None
    # What is unusual about a file is said where files are read.
    return geometry or read_volume(path).geometry


def _of_nifti(path: Path) -> Geometry | None:
    try:
        header = nifti.read_header(path)
        return nifti.read_geometry(path, header) if all(size == 1 for size in header.sizes[3:]) else None
    except (InputError, OSError):
        return None


def _of_itk(path: Path) -> Geometry | None:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    plain = reader.GetNumberOfComponents() == 1 and all(size == 1 for size in reader.GetSize()[3:])
    try:
        geometry = itk_geometry(reader) if plain else None
    except InputError:
        return None
    return geometry if geometry and geometry.shear < nifti.SHEAR_TOLERANCE else None
