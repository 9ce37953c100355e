"""One batch asked of a worker, case by case: what it tells, how long it takes, and how it goes on after a death."""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from InContextSegLib.errors import InputError, OutputError
from InContextSegLib.jobs.cases import Case, CaseStatus
from InContextSegLib.jobs.records import note_failure, write_table

# A worker may die by chance, but twice with the same case it is the case.
_DEATHS = 2

Ask = Callable[..., int]  # of do, payload, on_progress, on_done, on_failed; gives the number of the request


class BatchRun:
    """Asks for a batch and follows it.

    Args:
        ask: asks the worker, as `WorkerClient.ask` with its callbacks in place.
        request: of the protocol's "batch", but for the cases.
        cases: to segment.
        told: called with the place of a case whose status changed.
        ended: called once at the end, with a kind of failure and a sentence, both empty if all cases are settled.

    Attributes:
        statuses: of every case.
        share: of the running case that is done, from 0 to 1.
        number: of the request that runs; None: none does.
    """

    def __init__(
        self,
        ask: Ask,
        request: Mapping[str, Any],
        cases: Sequence[Case],
        told: Callable[[int], None],
        ended: Callable[[str, str], None],
    ):
        self.statuses = [CaseStatus(case) for case in cases]
        self.share = 0.0
        self.number: int | None = None
        self._ask, self._request, self._told, self._ended = ask, dict(request), told, ended
        self._places = {str(case.output): place for place, case in enumerate(cases)}
        self._deaths: Counter[int | None] = Counter()
        self._started, self._since = time.monotonic(), time.monotonic()

    def start(self) -> None:
        """Ask for all cases that are not settled yet."""
        left = [status.case for status in self.statuses if not status.settled]
        named = [{"image": str(case.image), "output": str(case.output)} for case in left]
        payload = {**self._request, "cases": named}
        self.number = self._ask("batch", payload, self._progressed, self._done, self._failed)

    @property
    def seconds_left(self) -> float | None:
        """What the rest takes if it goes on as before; None where nothing tells yet."""
        worked = [status.seconds for status in self.statuses if status.status == "done"]
        left = sum(not status.settled for status in self.statuses) - self.share
        if worked:
            return left * sum(worked) / len(worked)
        elapsed = time.monotonic() - self._since
        return left * elapsed / self.share if self.share > 0.05 else None

    def _progressed(self, done: int, total: int, message: str) -> None:
        with suppress(ValueError, KeyError, TypeError):
            status = CaseStatus.from_mapping(json.loads(message))
            self.share = done / total if total else 0.0
            self._note(self._places[str(status.case.output)], status)

    def _done(self, answer: Mapping[str, Any]) -> None:
        for mapping in answer["cases"]:
            status = CaseStatus.from_mapping(mapping)
            self._note(self._places[str(status.case.output)], status)
        self._end("", "")

    def _failed(self, kind: str, message: str) -> None:
        place = self._running()
        self._deaths[place] += 1
        if kind != "WorkerDied" or (place is None and self._deaths[place] >= _DEATHS):
            if place is not None:
                self._note(place, replace(self.statuses[place], status="waiting", message=""))
            self._end(kind, message)
            return
        if place is not None and self._deaths[place] >= _DEATHS:
            self._give_up(place, message)
        if all(status.settled for status in self.statuses):
            self._end("", "")
            return
        self.share = 0.0
        self.start()

    def _give_up(self, place: int, message: str) -> None:
        """Leave the record and the row that the worker could not write."""
        case = self.statuses[place].case
        status = CaseStatus(case, "failed", f"The worker process died twice with this case. {message}")
        note_failure(case, "", status.message)
        self._note(place, status)
        with suppress(InputError, OutputError):
            write_table(case.output.parent, self.statuses)

    def _running(self) -> int | None:
        return next((place for place, each in enumerate(self.statuses) if each.status == "running"), None)

    def _note(self, place: int, status: CaseStatus) -> None:
        if status.status == "running" and self.statuses[place].status != "running":
            self._since = time.monotonic()
        self.statuses[place] = status
        self._told(place)

    def _end(self, kind: str, message: str) -> None:
        self.number, self.share = None, 0.0
        self._ended(kind, message)
