"""NIfTI-1 files, in which ITK reads the place but not the voxels: it hides missing bytes and NaN behind zeros."""

import gzip
import io
import logging
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own documentation uses this name

from InContextSegLib.errors import InputError
from InContextSegLib.volumes.geometry import Geometry, itk_geometry

_log = logging.getLogger(__name__)

# ITK's own limit: it rounds smaller cosines between two axes away and refuses larger ones, or takes another position.
SHEAR_TOLERANCE = 1.0001e-4

_HEADER_BYTES = 348
_NIFTI2_HEADER_BYTES = 540
_CHUNK_BYTES = 1 << 20
# The best that gzip can do; a header that promises more than this is wrong, and nothing is allocated for it.
_LARGEST_COMPRESSION = 1100
_MILLIMETRES_OR_UNKNOWN = (0, 2)
_DISAGREEMENT_MM = 0.01
_NUMBER_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"
}  # fmt: skip
_COMPLEX_TYPES = (32, 1792, 2048)
_COLOUR_TYPES = (128, 2304)


@dataclass(frozen=True, eq=False)
class Header:
    """The part of a NIfTI-1 header that is used here.

    Attributes:
        raw: the header's 348 bytes.
        order: "<" or ">", the byte order.
        sizes: number of values along each dimension, (i, j, k, ...), at least three.
        number_type: of the stored values.
        offset_bytes: where the voxels begin.
        scale: slope and intercept, or None when the stored values are meant as they are.
        sform: (4, 4) from (i, j, k, 1) to RAS millimetres, or None when the file gives none.
    """

    raw: bytes
    order: str
    sizes: tuple[int, ...]
    number_type: np.dtype
    offset_bytes: int
    scale: tuple[float, float] | None
    sform: np.ndarray | None


def read_header(path: Path) -> Header:
    """Read and check the header, without looking at the voxels.

    Raises:
        InputError: if the file is no single-file NIfTI-1, is damaged, or holds complex numbers or colours.
    """
    try:
        with _opened(path) as stream:
            raw = stream.read(_HEADER_BYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damage(path) from error
    order = _byte_order(path, raw)
    dimensions = struct.unpack_from(order + "8h", raw, 40)
    (offset,) = struct.unpack_from(order + "f", raw, 108)
    if not 1 <= dimensions[0] <= 7 or not 0 <= offset < 2**40:
        raise InputError(f"{path} is damaged: its header makes no sense.")
    sizes = tuple(max(size, 1) for size in dimensions[1 : 1 + dimensions[0]])
    return Header(
        raw=raw,
        order=order,
        sizes=(*sizes, 1, 1)[: max(len(sizes), 3)],
        number_type=_number_type(path, raw, order),
        offset_bytes=max(int(offset), _HEADER_BYTES),
        scale=_scale(raw, order),
        sform=_sform(raw, order),
    )


def read_voxels(path: Path, header: Header) -> np.ndarray:
    """The values (k, j, i) of a file with three dimensions that count; scaled ones as floating point.

    Raises:
        InputError: if voxels are missing or the checksum of a compressed file is wrong.
    """
    count_bytes = math.prod(header.sizes) * header.number_type.itemsize
    if header.offset_bytes + count_bytes > path.stat().st_size * _LARGEST_COMPRESSION:
        raise _damage(path)
    content = np.empty(count_bytes, np.uint8)
    try:
        with _opened(path) as stream:
            stream.seek(header.offset_bytes)
            found_bytes = _fill(stream, memoryview(content))
            # The checksum of a compressed file stands at its end.
            while stream.read(_CHUNK_BYTES):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damage(path) from error
    if found_bytes < count_bytes:
        raise _damage(path)
    stored = content.view(header.number_type).reshape(header.sizes[2::-1])
    values = stored.astype(header.number_type.newbyteorder("="), copy=False)
    if header.scale is None:
        return values
    slope, intercept = header.scale
    precise = values.dtype.itemsize <= 2 or values.dtype == np.float32
    return values.astype(np.float32 if precise else np.float64) * slope + intercept


def read_geometry(path: Path, header: Header) -> Geometry:
    """The grid as ITK, and thereby 3D Slicer and ITK-SNAP, sees it; a disagreeing second position is logged.

    Raises:
        InputError: if the axes are sheared or ITK cannot make sense of the position.
    """
    sform = _as_geometry(header)
    # ITK takes the qform without a word when only the sform is sheared, and so would differ from other programs.
    if sform is not None and sform.shear > SHEAR_TOLERANCE:
        raise refusal_of_shear(path)
    try:
        geometry = _geometry_of_itk(path, header)
    except (RuntimeError, InputError) as error:
        raise InputError(f"{path} gives its voxels no usable position; write its header again.") from error
    if sform is not None and not geometry.matches(sform, _DISAGREEMENT_MM):
        _log.warning("%s gives two positions that disagree; the qform was used, as in 3D Slicer and ITK-SNAP.", path)
    return geometry


def refusal_of_shear(path: Path) -> InputError:
    """The error for a grid whose axes are not perpendicular."""
    return InputError(
        f"{path} has sheared axes (an affine transform was saved into its header), which medical image viewers cannot "
        "show; resample it to a grid with perpendicular axes."
    )


def _damage(path: Path) -> InputError:
    return InputError(f"{path} is damaged or incomplete: voxels are missing or changed; copy or download it again.")


def _opened(path: Path) -> io.BufferedIOBase:
    with path.open("rb") as stream:
        compressed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if compressed else path.open("rb")


def _fill(stream: io.BufferedIOBase, buffer: memoryview) -> int:
    """Read until the buffer is full or the file ends; the number of bytes read."""
    found = 0
    while found < len(buffer) and (count := stream.readinto(buffer[found : found + _CHUNK_BYTES])):
        found += count
    return found


def _byte_order(path: Path, raw: bytes) -> str:
    for order in "<>":
        if raw[:4] == struct.pack(order + "i", _NIFTI2_HEADER_BYTES):
            raise InputError(f"{path} is a NIfTI-2 file, which cannot be read; save it as NIfTI-1, NRRD or MHA.")
        if raw[:4] == struct.pack(order + "i", _HEADER_BYTES) and len(raw) == _HEADER_BYTES:
            return order
    raise InputError(f"{path} is not a NIfTI image, although its name says so.")


def _number_type(path: Path, raw: bytes, order: str) -> np.dtype:
    (code,) = struct.unpack_from(order + "h", raw, 70)
    if code in _COMPLEX_TYPES:
        raise InputError(f"{path} holds complex numbers; save their magnitude instead.")
    if code in _COLOUR_TYPES:
        raise InputError(f"{path} holds colours, several values per voxel, but one is needed; save it as grey values.")
    if code not in _NUMBER_TYPES:
        raise InputError(
            f"{path} holds numbers of an unusual type (NIfTI code {code}); save it as integers or float32."
        )
    return np.dtype(order + _NUMBER_TYPES[code])


def _scale(raw: bytes, order: str) -> tuple[float, float] | None:
    slope, intercept = struct.unpack_from(order + "2f", raw, 112)
    meaningful = math.isfinite(slope) and math.isfinite(intercept) and slope != 0 and (slope, intercept) != (1, 0)
    return (slope, intercept) if meaningful else None


def _sform(raw: bytes, order: str) -> np.ndarray | None:
    (code,) = struct.unpack_from(order + "h", raw, 254)
    in_millimetres = (raw[123] & 7) in _MILLIMETRES_OR_UNKNOWN
    if code <= 0 or not in_millimetres:
        return None
    return np.vstack([np.reshape(struct.unpack_from(order + "12f", raw, 280), (3, 4)), [0, 0, 0, 1]])


def _as_geometry(header: Header) -> Geometry | None:
    if header.sform is None:
        return None
    try:
        return Geometry(header.sizes[2::-1], header.sform)
    except InputError:
        # ITK may still find a usable qform; otherwise it is refused there.
        return None


def _geometry_of_itk(path: Path, header: Header) -> Geometry:
    if struct.unpack_from(header.order + "h", header.raw, 40)[0] > 2:
        return _read_position(path)
    # ITK drops the third axis of a two-dimensional file, and with it the height and tilt of the slice.
    raw = bytearray(header.raw)
    struct.pack_into(header.order + "8h", raw, 40, 3, *header.sizes, 1, 1, 1, 1)
    (thickness_mm,) = struct.unpack_from(header.order + "f", raw, 88)
    if not thickness_mm > 0:
        step_mm = 0.0 if header.sform is None else float(np.linalg.norm(header.sform[:3, 2]))
        struct.pack_into(header.order + "f", raw, 88, step_mm or 1.0)
    with TemporaryDirectory(prefix="incontextseg-") as folder:
        copy = Path(folder) / "header.nii"
        copy.write_bytes(raw + bytes(4))
        return _read_position(copy)


def _read_position(path: Path) -> Geometry:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return itk_geometry(reader)
