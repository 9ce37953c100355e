"""Long work of the window's own thread, cut into pieces so short that nobody feels them."""

import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass

# One tick works this long at most, besides the piece it is in: below what an eye or a mouse notices.
BUDGET_S = 0.01


@dataclass(frozen=True, eq=False)
class _Waiting:
    number: int
    steps: Generator
    onDone: Callable
    onFailed: Callable


class ChoreQueue:
    """Generators that yield after every short piece of work, run one after the other.

    A chore is a generator; what it returns is handed to `onDone`, what it raises to `onFailed`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._number = 0
        self.longestStepS = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, steps: Generator, onDone: Callable, onFailed: Callable) -> int:
        """Queue a chore; the number it gets serves to drop it."""
        self._number += 1
        self._waiting.append(_Waiting(self._number, steps, onDone, onFailed))
        return self._number

    def drop(self, number: int | None = None) -> None:
        """Forget one chore, or all of them; neither of its callbacks is called."""
        for chore in [each for each in self._waiting if number in (None, each.number)]:
            self._waiting.remove(chore)
            chore.steps.close()

    def tick(self) -> None:
        """Work for `BUDGET_S` at most, and to the end of the piece begun."""
        end = self._clock() + BUDGET_S
        while self._waiting and self._clock() < end:
            self._step(self._waiting[0])

    def _step(self, chore: _Waiting) -> None:
        before = self._clock()
        try:
            next(chore.steps)
        except StopIteration as finished:
            self._end(chore, chore.onDone, finished.value)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must reach the person who waits
            self._end(chore, chore.onFailed, error)
        finally:
            self.longestStepS = max(self.longestStepS, self._clock() - before)

    def _end(self, chore: _Waiting, callback: Callable, what) -> None:
        # A chore that dropped itself while it ran is gone already.
        if chore in self._waiting:
            self._waiting.remove(chore)
            callback(what)
