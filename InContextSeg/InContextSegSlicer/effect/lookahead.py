"""Lets the worker compute the slice on show and those beside it, while nobody waits for anything."""

from collections.abc import Callable, Generator

from InContextSegLib.config import to_mapping
from InContextSegLib.errors import InputError
from InContextSegLib.worker.client import WorkerClient
from InContextSegSlicer.effect.context import Context
from InContextSegSlicer.effect.prompting import Place
from InContextSegSlicer.scene.handover import Handover
from InContextSegSlicer.worker.task_queue import TaskQueue

LANE = "ahead"
CANCELLED = "Cancelled"
KEPT = 64


class LookAhead:
    """Asks for what clicks on a slice and beside it would need, once for every slice and what teaches there.

    The worker gives it up for anything else. What goes wrong here nobody hears of: a click meets it again, and says so.

    Args:
        queue: of whoever asks for answers, so that nothing is handed over twice at a time.
    """

    def __init__(self, client: WorkerClient, context: Context, handover: Handover, queue: TaskQueue):
        self._client, self._context, self._handover, self._queue = client, context, handover, queue
        self._asked: dict[tuple, None] = {}
        self._waiting: tuple | None = None
        self._worker = 0

    def wish(self, volume, segmentation, place: Place, idle: Callable[[], bool]) -> None:
        """Ask for a slice, if nobody waits for anything by the time its examples are handed over."""
        key = (place, volume.GetImageData().GetMTime(), self._context.key(volume, segmentation, place))
        if self._worker != self._client.started:  # which knows nothing of what the last one computed
            self.forget()
            self._worker = self._client.started
        if key in self._asked:
            return
        self._asked[key] = None
        while len(self._asked) > KEPT:
            del self._asked[next(iter(self._asked))]
        self._waiting = key
        self._queue.add(self._asking(volume, segmentation, key, idle), lambda _done: None, _silently)

    def drop(self) -> None:
        """Another slice is shown, and the queue was emptied."""
        self._asked.pop(self._waiting, None)
        self._waiting = None

    def forget(self) -> None:
        """The worker may know nothing of what it computed before."""
        self._asked.clear()

    def _asking(self, volume, segmentation, key: tuple, idle: Callable[[], bool]) -> Generator[None, None, None]:
        place = key[0]
        task = yield from self._context.task(volume, segmentation, place)
        target = yield from self._handover.volume(volume)
        self._waiting = None
        if not idle():
            self._asked.pop(key, None)
            return

        def failed(kind: str, _message: str) -> None:
            if kind == CANCELLED:  # it made way for something, after which it may be wanted still
                self._asked.pop(key, None)

        fields = {
            "target": to_mapping(target),
            "axis": place.axis,
            "index": place.index,
            "task": to_mapping(task) if task is not None else None,
            "label": 1,
            **self._context.choices,
        }
        self._client.ask("neighbours", fields, lane=LANE, on_failed=failed)
        self._worker = self._client.started


def _silently(error: Exception) -> None:
    if not isinstance(error, (InputError, OSError)):
        raise error
