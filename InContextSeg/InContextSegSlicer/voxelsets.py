"""Sets of voxels kept small: what a write changed, and, in a segment's tag, what was written into it before."""

import base64
import binascii
import json
import zlib
from typing import Any

import numpy as np
import vtk

from InContextSegSlicer.lattice import Box, Chore, Grid, intersection, union

MADE_TAG = "InContextSeg.Made"
_LEVEL = 1  # masks are almost all runs: more effort saves little


class VoxelSet:
    """Voxels of one grid, as bits in boxes no larger than they need to be."""

    def __init__(self, parts: list[tuple[np.ndarray, tuple[int, int, int], np.ndarray]] | None = None):
        self._parts = [] if parts is None else parts

    def __bool__(self) -> bool:
        return bool(self._parts)

    @property
    def box(self) -> Box:
        """The box that holds them all."""
        box = (np.zeros(3, int), np.zeros(3, int))
        for low, shape, _ in self._parts:
            box = union(box, (low, low + shape))
        return box

    def add(self, low: np.ndarray, mask: np.ndarray) -> None:
        """Add the voxels of a mask (k, j, i) whose first voxel has the index `low`; they must be new to the set."""
        tight = tightBox(mask)
        if tight is not None:
            cropped = mask[tuple(map(slice, *tight))]
            self._parts.append((np.asarray(low) + tight[0], cropped.shape, np.packbits(cropped)))

    def within(self, low: np.ndarray, high: np.ndarray) -> np.ndarray | None:
        """The voxels of a box as a mask (k, j, i); None where there are none."""
        mask = None
        for corner, shape, bits in self._parts:
            first, last = intersection((low, high), (corner, corner + shape))
            if np.any(first >= last):
                continue
            mask = np.zeros(tuple(np.asarray(high) - low), dtype=bool) if mask is None else mask
            part = np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).view(bool)
            window = mask[tuple(map(slice, first - low, last - low))]
            np.logical_or(window, part[tuple(map(slice, first - corner, last - corner))], out=window)
        return mask

    def encoded(self, grid: Grid) -> Chore:
        """As text that a tag can hold."""
        head = {
            "affine": np.asarray(grid.affine).ravel().tolist(),
            "parts": [[*map(int, low), *map(int, shape)] for low, shape, _ in self._parts],
        }
        packer = zlib.compressobj(_LEVEL)
        packed = [packer.compress(json.dumps(head).encode() + b"\n")]
        for _, _, bits in self._parts:
            packed.append(packer.compress(bits.tobytes()))
            yield
        packed.append(packer.flush())
        return base64.b64encode(b"".join(packed)).decode("ascii")

    @classmethod
    def decoded(cls, text: str, grid: Grid) -> "VoxelSet":
        """The inverse of `encoded`; empty where the text is of another grid or of somebody else's making."""
        try:
            head, bits = zlib.decompress(base64.b64decode(text, validate=True)).split(b"\n", 1)
            described = json.loads(head)
            affine = np.array(described["affine"], dtype=float).reshape(4, 4)
            boxes = np.array(described["parts"], dtype=int).reshape(-1, 6)
        except (binascii.Error, zlib.error, ValueError, KeyError, TypeError):
            return cls()
        if not Grid(affine).isGridOf(Grid(grid.affine)):
            return cls()
        parts, at, data = [], 0, np.frombuffer(bits, dtype=np.uint8)
        for numbers in boxes:
            shape = tuple(numbers[3:].tolist())
            size = (int(np.prod(shape)) + 7) // 8
            parts.append((numbers[:3], shape, data[at : at + size]))
            at += size
        return cls(parts if at == len(data) else None)


def tagOf(segment: Any, name: str) -> str:
    """The value of a segment's tag, empty where there is none."""
    if not segment.HasTag(name):
        return ""
    found = vtk.reference("")
    segment.GetTag(name, found)
    return str(found)


def tightBox(mask: np.ndarray) -> Box | None:
    """The smallest box, in indices of the mask, that holds all of it; None for an empty one."""
    low, high = np.zeros(3, int), np.zeros(3, int)
    for axis in range(3):
        present = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if len(present) == 0:
            return None
        low[axis], high[axis] = present[0], present[-1] + 1
    return low, high
