"""Progress of long work, and the one place where it can be cancelled."""

from collections.abc import Callable, Generator, Mapping
from threading import Event
from typing import Any, TypeVar

from InContextSegLib.errors import Cancelled

Value = TypeVar("Value")


class Report:
    """Handed to long work, which calls `step`; whoever handed it over may call `cancel` from any thread.

    `show(done, total, message)` is called on the working thread after every step.

    Attributes:
        facts: what the last step was told with besides, for a `show` that can make use of it.
    """

    def __init__(self, show: Callable[[int, int, str], None] | None = None):
        self._show = show
        self._cancelled, self._hurried = Event(), Event()
        self.facts: Mapping[str, Any] | None = None

    def cancel(self) -> None:
        """Ask the work to stop: its next `step` raises `Cancelled`."""
        self._cancelled.set()

    def hurry(self) -> None:
        """Tell the work that a newer request of its kind has come: it may leave out what serves only itself."""
        self._hurried.set()

    @property
    def hurried(self) -> bool:
        return self._hurried.is_set()

    def worded(self, words: Callable[[str, Mapping[str, Any] | None], str]) -> "Report":
        """A report that stops with this one, and whose steps come out of it with what `words` makes of them."""
        other = Report(lambda done, total, message: self.step(done, total, words(message, other.facts)))
        other._cancelled, other._hurried = self._cancelled, self._hurried
        return other

    def silent(self) -> "Report":
        """A report that stops with this one and says nothing, for work within a step."""
        other = Report()
        other._cancelled, other._hurried = self._cancelled, self._hurried
        return other

    def check(self) -> None:
        """Raises: Cancelled: if `cancel` was called."""
        if self._cancelled.is_set():
            raise Cancelled("Cancelled.")

    def step(self, done: int, total: int, message: str = "", facts: Mapping[str, Any] | None = None) -> None:
        """Say that `done` of `total` steps are finished.

        Raises:
            Cancelled: if `cancel` was called; a report stays cancelled.
        """
        if self._cancelled.is_set():
            raise Cancelled(f"Cancelled after {done} of {total} steps.")
        self.facts = facts
        if self._show is not None:
            self._show(done, total, message)


def exhausted(pieces: Generator[None, None, Value]) -> Value:
    """Do all of it at once; what it returns."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return end.value
