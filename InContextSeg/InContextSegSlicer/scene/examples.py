"""The labelled examples a person has chosen, kept in the scene."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import slicer

SliceChoice = str | int | tuple[int, ...]
PARAMETER = "Examples"


@dataclass(frozen=True)
class ExampleRow:
    """One labelled example: a volume and a segmentation of the scene, or two files.

    Attributes:
        key: names the row in the scene, whatever becomes of its nodes.
        slices: "auto", "labelled", "all", a step, or indices along `axis`.
        axis: in whose view single slices were chosen, "axial", "coronal" or "sagittal".
        names: of the labels in a file, by value, as far as they are known.
        told: slices of a file that tell of some of its labels only, and values of which; the others tell of all.
        applied: single slices that came because they were applied, and speak of those segments alone whose tags say so
            (`slicemarks`): of none where that was taken back.
    """

    key: str = ""
    volume: slicer.vtkMRMLScalarVolumeNode | None = None
    segmentation: slicer.vtkMRMLSegmentationNode | None = None
    imagePath: str = ""
    labelsPath: str = ""
    slices: SliceChoice = "auto"
    axis: str = ""
    enabled: bool = True
    names: tuple[tuple[int, str], ...] = ()
    told: tuple[tuple[int, tuple[int, ...]], ...] = ()
    applied: tuple[int, ...] = ()

    @property
    def fromFiles(self) -> bool:
        return bool(self.imagePath)

    @property
    def complete(self) -> bool:
        """Whether what it refers to is still there."""
        return self.fromFiles or (self.volume is not None and self.segmentation is not None)


class ExampleList:
    """Reads and writes the rows of a parameter node; node references follow a saved scene into another one.

    Args:
        node: the module's parameter node.
    """

    def __init__(self, node: slicer.vtkMRMLScriptedModuleNode):
        self._node = node

    def rows(self) -> tuple[ExampleRow, ...]:
        return tuple(self._row(stored) for stored in self._stored())

    def add(self, row: ExampleRow) -> ExampleRow:
        """Append a row under a key of its own; one that is there already, whatever its slices, is replaced."""
        rows = list(self.rows())
        for place, known in enumerate(rows):
            if _same(known, row):
                rows[place] = replace(row, key=known.key)
                self._store(rows)
                return rows[place]
        taken = [int(known.key.removeprefix("Example")) for known in rows]
        added = replace(row, key=f"Example{max(taken, default=0) + 1}")
        self._store([*rows, added])
        return added

    def change(self, key: str, **changes) -> None:
        self._store([replace(row, **changes) if row.key == key else row for row in self.rows()])

    def remove(self, keys: Sequence[str]) -> None:
        self._store([row for row in self.rows() if row.key not in keys])

    def _stored(self) -> list[dict]:
        return json.loads(self._node.GetParameter(PARAMETER) or "[]")

    def _row(self, stored: dict) -> ExampleRow:
        key, slices = stored["key"], stored["slices"]
        return ExampleRow(
            key=key,
            volume=self._node.GetNodeReference(f"{key}.volume"),
            segmentation=self._node.GetNodeReference(f"{key}.segmentation"),
            imagePath=stored["image"],
            labelsPath=stored["labels"],
            slices=tuple(slices) if isinstance(slices, list) else slices,
            axis=stored["axis"],
            enabled=stored["enabled"],
            names=tuple((value, name) for value, name in stored["names"]),
            told=tuple((index, tuple(values)) for index, values in stored.get("told", ())),
            applied=tuple(stored.get("applied", ())),
        )

    def _store(self, rows: Sequence[ExampleRow]) -> None:
        """All in one change of the node, so that whoever watches it sees whole lists only."""
        wasModifying = self._node.StartModify()
        try:
            for gone in {stored["key"] for stored in self._stored()} - {row.key for row in rows}:
                for role in ("volume", "segmentation"):
                    self._node.RemoveNodeReferenceIDs(f"{gone}.{role}")
            for row in rows:
                for role, node in (("volume", row.volume), ("segmentation", row.segmentation)):
                    self._node.SetNodeReferenceID(f"{row.key}.{role}", node.GetID() if node else None)
            self._node.SetParameter(PARAMETER, json.dumps([_plain(row) for row in rows]))
        finally:
            self._node.EndModify(wasModifying)


def _same(one: ExampleRow, other: ExampleRow) -> bool:
    if one.fromFiles or other.fromFiles:
        return (one.imagePath, one.labelsPath) == (other.imagePath, other.labelsPath)
    return one.complete and (one.volume, one.segmentation) == (other.volume, other.segmentation)


def _plain(row: ExampleRow) -> dict:
    return {
        "key": row.key,
        "image": row.imagePath,
        "labels": row.labelsPath,
        "slices": list(row.slices) if isinstance(row.slices, tuple) else row.slices,
        "axis": row.axis,
        "enabled": row.enabled,
        "names": [list(pair) for pair in row.names],
        "told": [list(pair) for pair in row.told],
        "applied": list(row.applied),
    }
