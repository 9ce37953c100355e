"""Long work of the window's own thread, cut into pieces so short that nobody feels them."""

import logging
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass

from slicer.i18n import tr as _

from InContextSegLib.errors import InputError

log = logging.getLogger(__name__)

# One tick works this long at most, besides the piece it is in: below what an eye or a mouse notices.
BUDGET_S = 0.01


@dataclass(frozen=True, eq=False)
class _Waiting:
    number: int
    steps: Generator
    onDone: Callable
    onFailed: Callable


class TaskQueue:
    """Generators that yield after every short piece of work, run one after the other.

    A task is a generator; what it returns is handed to `onDone`, what it raises to `onFailed`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._number = 0
        self.longestStepS = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, steps: Generator, onDone: Callable, onFailed: Callable) -> int:
        """Queue a task; the number it gets serves to drop it."""
        self._number += 1
        self._waiting.append(_Waiting(self._number, steps, onDone, onFailed))
        return self._number

    def drop(self, number: int | None = None) -> None:
        """Forget one task, or all of them; neither of its callbacks is called."""
        for task in [each for each in self._waiting if number in (None, each.number)]:
            self._waiting.remove(task)
            task.steps.close()

    def tick(self) -> None:
        """Work for `BUDGET_S` at most, and to the end of the piece begun."""
        end = self._clock() + BUDGET_S
        while self._waiting and self._clock() < end:
            self._step(self._waiting[0])

    def _step(self, task: _Waiting) -> None:
        before = self._clock()
        try:
            next(task.steps)
        except StopIteration as finished:
            self._end(task, task.onDone, finished.value)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must reach the person who waits
            self._end(task, task.onFailed, error)
        finally:
            self.longestStepS = max(self.longestStepS, self._clock() - before)

    def _end(self, task: _Waiting, callback: Callable, what) -> None:
        # A task that dropped itself while it ran is gone already.
        if task in self._waiting:
            self._waiting.remove(task)
            callback(what)


def said(error: Exception) -> str:
    """Why a task failed, in a sentence."""
    if isinstance(error, (InputError, OSError)):
        return str(error)
    log.error("Unexpected", exc_info=error)
    return _("Something unexpected went wrong ({kind}: {error}); the log has the details, please report it.").format(
        kind=type(error).__name__, error=error
    )
