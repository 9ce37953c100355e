"""Divides patients into those a network learns from and those it is validated with, for all tasks together."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

Side = Literal["train", "validation"]
TRAIN, VALIDATION = SIDES = ("train", "validation")


def divided(
    patients: Mapping[str, Iterable[str]], fixed: Mapping[str, Side], share: float, seed: int
) -> dict[str, Side]:
    """The side of every patient: the same in all tasks, and the same whatever the order in which tasks come.

    Tasks that few patients show choose first. Each gets `share` of its patients to validate with, rounded, but at least
    one, and keeps at least one to learn from, as far as there are two and `fixed` allows it.

    Args:
        patients: of every task, those who show it.
        fixed: sides that somebody has chosen.
    """
    shown = {task: sorted(set(names), key=lambda name: _rank(name, seed)) for task, names in patients.items()}
    sides = {name: side for name, side in fixed.items() if any(name in names for names in shown.values())}
    validating = {name for name, side in sides.items() if side == VALIDATION}
    for _, names in sorted(shown.items(), key=lambda item: (len(item[1]), item[0])):
        wanted = min(max(1, round(share * len(names))), len(names) - 1)
        for name in names:
            if len(validating.intersection(names)) >= wanted:
                break
            if name not in sides and not _last_to_learn_from(name, shown, validating):
                sides[name] = VALIDATION
                validating.add(name)
    return {name: sides.get(name, TRAIN) for name in sorted({name for names in shown.values() for name in names})}


def _rank(name: str, seed: int) -> str:
    """A place in a random order that depends on no other name, so that a new patient moves nobody."""
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()


def _last_to_learn_from(name: str, shown: Mapping[str, list[str]], validating: set[str]) -> bool:
    return any(name in names and set(names) <= validating | {name} for names in shown.values())
