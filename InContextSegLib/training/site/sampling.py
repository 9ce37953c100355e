"""Draws references and queries of a task out of the slices of a site."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from InContextSegLib.errors import InputError
from InContextSegLib.training.augment import moved, scanner_shift, uniform
from InContextSegLib.training.site.splits import TRAIN, Side
from InContextSegLib.training.site.store import SliceStore


@dataclass(frozen=True)
class Sampling:
    """How slices are drawn and changed.

    Attributes:
        empty_share: of the queries show nothing of the label, where there are such slices.
        place, scanner: how strongly position and appearance are changed at random (`augment.moved`, `scanner_shift`);
            0 leaves them alone.
    """

    empty_share: float = 0.1
    place: float = 1.0
    scanner: float = 0.5

    def __post_init__(self):
        for name in ("empty_share", "place", "scanner"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}: asked for a number from 0 to 1, got {getattr(self, name)}.")


AS_THEY_ARE = Sampling(empty_share=0.0, place=0.0, scanner=0.0)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Slices of one task, their masks, whose they are, and (n, 2) case and number in the store."""

    images: Float[Tensor, "n 1 h w"]
    masks: Float[Tensor, "n 1 h w"]
    patients: tuple[str, ...]
    places: np.ndarray


class TaskSampler:
    """Queries of one side of a task, and references, which always come from the side to learn from.

    All patients come equally often, whatever the number of their slices, and their slices too, none twice in a draw as
    long as there are others.

    Raises:
        InputError: if no slice of that side shows the task.
    """

    def __init__(self, store: SliceStore, task: str, side: Side = TRAIN, sampling: Sampling = Sampling()):
        self.store, self.task, self.sampling = store, task, sampling
        self._learnt, self._asked = store.slices(task, TRAIN), store.slices(task, side)
        self._empty = store.slices(task, side, shown=False) if sampling.empty_share else {}
        for found, aim in ((self._learnt, TRAIN), (self._asked, side)):
            if not found:
                raise InputError(f"No slice of the side '{aim}' shows {task}, so none can be drawn; change the split.")

    @property
    def patients(self) -> tuple[str, ...]:
        """Who may be asked about."""
        return tuple(self._asked)

    def queries(self, count: int, generator: Generator) -> Drawn:
        """Draw slices to segment, of at most so many patients that another one is left to take references from."""
        asked = list(self._asked)
        if set(self._learnt) <= set(asked) and len(asked) > 1:
            asked = [asked[place] for place in _order(len(asked), generator)[: max(1, len(asked) // 2)]]
        empty = int((torch.rand(count, generator=generator, device=generator.device) < self.sampling.empty_share).sum())
        clear = {patient: self._empty[patient] for patient in asked if patient in self._empty}
        empty = min(empty, count - 1) if clear else 0
        slices = self._drawn({patient: self._asked[patient] for patient in asked}, count - empty, generator)
        if empty:
            slices += self._drawn(clear, empty, generator)
        return self._read(slices, generator)

    def references(self, count: int, generator: Generator, asked: Drawn | None = None) -> Drawn:
        """Draw labelled slices, all of which show the task.

        Args:
            asked: queries that they are for, whose patients give none; where there is no other patient at all, other
                slices do, as far as there are any.

        Raises:
            InputError: if several patients are asked about, and these are all there are.
        """
        found = self._learnt
        if asked and len(found) > 1:
            found = {patient: slices for patient, slices in found.items() if patient not in asked.patients}
        elif asked:
            ((patient, slices),) = found.items()
            same = (slices[:, None] == asked.places[None]).all(axis=2).any(axis=1)
            found = {patient: slices if same.all() else slices[~same]}
        if not found:
            raise InputError(
                f"References for {self.task} were asked for without any of its {len(self._learnt)} patients; ask about "
                "fewer of them at once."
            )
        return self._read(self._drawn(found, count, generator), generator)

    def episode(self, queries: int, references: int, generator: Generator) -> tuple[Drawn, Drawn]:
        """Queries, and references of other patients."""
        asked = self.queries(queries, generator)
        return asked, self.references(references, generator, asked)

    def _drawn(
        self, by_patient: dict[str, np.ndarray], count: int, generator: Generator
    ) -> list[tuple[str, np.ndarray]]:
        """Patient and (case, number) of `count` slices; patients take turns, in random order."""
        turns, found = {}, []
        while len(found) < count:
            for place in _order(len(by_patient), generator)[: count - len(found)]:
                patient = list(by_patient)[place]
                if not turns.get(patient):
                    turns[patient] = _order(len(by_patient[patient]), generator)
                found.append((patient, by_patient[patient][turns[patient].pop()]))
        return found

    def _read(self, slices: list[tuple[str, np.ndarray]], generator: Generator) -> Drawn:
        places = np.stack([place for _, place in slices])
        read = self.store.read(self.task, places)
        images, masks = (torch.from_numpy(part)[:, None].to(generator.device) for part in read)
        if self.sampling.place:
            images, masks = moved(images, masks, self.sampling.place, generator)
        if self.sampling.scanner:
            strength = self.sampling.scanner * uniform(0.0, 1.0, (len(images),), generator)
            images = scanner_shift(images[:, 0], strength, generator)[:, None]
        return Drawn(images, masks, tuple(patient for patient, _ in slices), places)


def _order(count: int, generator: Generator) -> list[int]:
    """The numbers below `count` in random order."""
    return torch.randperm(count, generator=generator, device=generator.device).tolist()
