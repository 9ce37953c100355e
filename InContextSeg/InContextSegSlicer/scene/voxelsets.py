"""Sets of voxels kept small: what a write changed, and, in a segment's tag, what was written into it before."""

import base64
import binascii
import json
import zlib
from typing import Any

import numpy as np
import vtk

from InContextSegSlicer.scene.grid_mapping import Box, Grid, QueuedTask, union

MADE_TAG = "InContextSeg.Made"
_LEVEL = 6


class VoxelSet:
    """Voxels of one grid, as bits in boxes no larger than they need to be."""

    def __init__(self):
        self._lows: list[list[int]] = []
        self._highs: list[list[int]] = []
        self._parts: list[np.ndarray] = []  # (k, j, i / 8): bits along i
        self._box = ([0, 0, 0], [0, 0, 0])

    def __bool__(self) -> bool:
        return bool(self._parts)

    @property
    def box(self) -> Box:
        """The box that holds them all."""
        return np.array(self._box[0]), np.array(self._box[1])

    def add(self, low: np.ndarray, mask: np.ndarray) -> None:
        """Add the voxels of a mask (k, j, i) whose first voxel has the index `low`; they must be new to the set."""
        tight = tightBox(mask)
        if tight is not None:
            ends = ((np.asarray(low) + end).tolist() for end in tight)
            self._append(*ends, np.packbits(mask[tuple(map(slice, *tight))], axis=-1))

    def meets(self, low: np.ndarray, high: np.ndarray) -> bool:
        """Whether some of them may lie in a box."""
        return bool(self) and all(low[n] < self._box[1][n] and self._box[0][n] < high[n] for n in range(3))

    def within(self, low: np.ndarray, high: np.ndarray) -> np.ndarray | None:
        """The voxels of a box as a mask (k, j, i); None where there are none."""
        mask = None
        if not self.meets(low, high):
            return mask
        lows, highs = np.maximum(self._lows, low), np.minimum(self._highs, high)
        for number in np.flatnonzero((lows < highs).all(axis=1)):
            first, last, corner = lows[number], highs[number], np.array(self._lows[number])
            rows = self._parts[number][tuple(map(slice, (first - corner)[:2], (last - corner)[:2]))]
            part = np.unpackbits(rows, axis=-1, count=int(last[2] - corner[2])).view(bool)
            mask = np.zeros(tuple(np.asarray(high) - low), dtype=bool) if mask is None else mask
            window = mask[tuple(map(slice, first - low, last - low))]
            np.logical_or(window, part[..., first[2] - corner[2] :], out=window)
        return mask

    def _append(self, low: list[int], high: list[int], bits: np.ndarray) -> None:
        self._box = tuple(end.tolist() for end in union(self.box, (np.array(low), np.array(high))))
        self._lows.append(low)
        self._highs.append(high)
        self._parts.append(bits)

    def encoded(self, grid: Grid) -> QueuedTask:
        """As text that a tag can hold."""
        boxes = list(zip(self._lows, self._highs, strict=True))
        head = {"affine": np.asarray(grid.affine).ravel().tolist(), "boxes": boxes}
        packer = zlib.compressobj(_LEVEL)
        packed = [packer.compress(json.dumps(head).encode() + b"\n")]
        for bits in self._parts:
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
            boxes = np.array(described["boxes"], dtype=int).reshape(-1, 2, 3)
        except (binascii.Error, zlib.error, ValueError, KeyError, TypeError):
            return cls()
        shapes = boxes[:, 1] - boxes[:, 0]
        shapes[:, 2] = -(-shapes[:, 2] // 8)
        ends = np.cumsum(shapes.prod(axis=1))
        if not len(ends) or ends[-1] != len(bits) or not Grid(affine).isGridOf(Grid(grid.affine)):
            return cls()
        voxels = cls()
        for box, shape, end in zip(boxes, shapes, ends, strict=True):
            start = end - shape.prod()
            voxels._append(*box.tolist(), np.frombuffer(bits[start:end], dtype=np.uint8).reshape(shape))
        return voxels


def tagOf(segment: Any, name: str) -> str:
    """The value of a segment's tag, empty where there is none."""
    if not segment.HasTag(name):
        return ""
    found = vtk.reference("")
    segment.GetTag(name, found)
    return str(found)


def setTag(segment: Any, name: str, text: str) -> None:
    """Give a segment a tag; an empty one is none."""
    if text:
        segment.SetTag(name, text)
    elif segment.HasTag(name):
        segment.RemoveTag(name)


def cropped(block: np.ndarray, cornerKji: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """The part of labels that is not 0, and its corner: of what a labelmap holds the Segment Editor copies all."""
    box = tightBox(block > 0)
    if box is None:
        return block, cornerKji
    return block[tuple(map(slice, *box))], tuple((box[0] + cornerKji).tolist())


def tightBox(mask: np.ndarray) -> Box | None:
    """The smallest box, in indices of the mask, that holds all of it; None for an empty one."""
    low, high = np.zeros(3, int), np.zeros(3, int)
    for axis in range(3):
        present = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if len(present) == 0:
            return None
        low[axis], high[axis] = present[0], present[-1] + 1
    return low, high
