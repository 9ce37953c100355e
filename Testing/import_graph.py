"""The rooms of both packages, their floors and the imports between them: `python -m Testing.import_graph`.

A room is what lies directly in a package: a folder with all that is in it, or a single module. A floor is as far above
the ground as the longest way of imports down from it.
"""

import graphlib
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"InContextSegLib": ROOT, "InContextSegSlicer": ROOT / "InContextSeg"}
FILES_PER_FOLDER = 15  # of Python, beside its __init__.py

Imports = frozenset[tuple[str, str]]  # dotted names: who imports, and what


@dataclass(frozen=True)
class House:
    """The rooms of a package by the names they have in it, and between which of them something is imported."""

    imports: dict[tuple[str, str], Imports]

    @classmethod
    def of(cls, imports: Imports) -> "House":
        between = defaultdict(set)
        for importer, imported in imports:
            if "" not in (pair := (room_of(importer), room_of(imported))) and pair[0] != pair[1]:
                between[pair].add((importer, imported))
        return cls({pair: frozenset(found) for pair, found in sorted(between.items())})

    @property
    def rooms(self) -> tuple[str, ...]:
        return tuple(sorted({room for pair in self.imports for room in pair}))

    def floors(self) -> tuple[tuple[str, ...], ...]:
        """The rooms of every floor, the lowest first.

        Raises:
            graphlib.CycleError: if rooms import one another in a circle.
        """
        below = _below(self.imports)
        graphlib.TopologicalSorter(below).prepare()

        @cache
        def height(room: str) -> int:
            return max((height(other) + 1 for other in below[room]), default=0)

        floors = defaultdict(list)
        for room in self.rooms:
            floors[height(room)].append(room)
        return tuple(tuple(floors[number]) for number in sorted(floors))

    def upwards(self, layers: Sequence[str]) -> list[tuple[str, str]]:
        """Imports between modules that do not lead to a lower one of these layers ("a | b", the highest first)."""
        place = {room.strip(): number for number, layer in enumerate(layers) for room in layer.split("|")}
        return sorted(
            found for (one, other), all_of in self.imports.items() if place[one] >= place[other] for found in all_of
        )


def imports_of(package: str) -> Imports:
    """All imports inside a package, those within functions too."""
    folder = str(PACKAGES[package])
    if folder not in sys.path:
        sys.path.insert(0, folder)
    graph = grimp.build_graph(package, cache_dir=None)
    return frozenset((one, other) for one in graph.modules for other in graph.find_modules_directly_imported_by(one))


def room_of(module: str) -> str:
    """The room in which a module lies; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


def circle_in(imports: Imports) -> list[str]:
    """Some modules that import one another in a circle; empty where none do."""
    try:
        graphlib.TopologicalSorter(_below(imports)).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def crowded(folder: Path) -> list[Path]:
    """Folders in this one that hold more than `FILES_PER_FOLDER` Python files."""
    inside = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    return [each for each in inside if sum(path.name != "__init__.py" for path in each.glob("*.py")) > FILES_PER_FOLDER]


def layers_of(package: str) -> list[str]:
    """The floors of a package as the import contracts in pyproject.toml name them, the highest first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    return next(each["layers"] for each in contracts if each.get("containers") == [package])


def _below(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    below = defaultdict(set)
    for one, other in pairs:
        below[one].add(other)
        below[other] |= set()
    return dict(below)


def main() -> None:
    for package in PACKAGES:
        imports = imports_of(package)
        house = House.of(imports)
        floors = house.floors()
        print(
            f"{package}: {len(house.rooms)} rooms on {len(floors)} floors, {len(house.imports)} imports between rooms, "
            f"{len(imports)} between modules"
        )
        for number, rooms in reversed(list(enumerate(floors))):
            print(f"{number:>4}  {', '.join(rooms)}")


if __name__ == "__main__":
    main()
