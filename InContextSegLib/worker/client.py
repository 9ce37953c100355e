"""The side of the panel: asks a worker process, never waits for it, and starts another one where it dies."""

import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from InContextSegLib.config import to_mapping
from InContextSegLib.errors import InputError
from InContextSegLib.worker.protocol import arrays_of, decode_line, encode_line
from InContextSegLib.worker.shared_arrays import SharedFolder, new_name
from InContextSegLib.worker.transport import Transport

GRACE_S = 3.0
_PAUSE_S = 0.005
_COMPLAINT_CHARACTERS = 4000
_WORDS_CHARACTERS = 300
_ANSWERS_KEPT = 64
CANCELLED = {"is": "cancelled", "kind": "Cancelled", "message": "It was cancelled."}


@dataclass(eq=False)
class _Request:
    """One request and how far it came.

    `begun`: the worker said so. `again`: it was asked of an earlier worker already, which died. `told`: whoever asked
    knows how it ended.
    """

    number: int
    message: dict[str, Any]
    on_progress: Callable[[int, int, str], None] | None = None
    on_done: Callable[[dict], None] | None = None
    on_failed: Callable[[str, str], None] | None = None
    sent: bool = False
    begun: bool = False
    again: bool = False
    told: bool = False
    cancelled_at: float | None = None
    grace_s: float | None = None

    @property
    def dropped(self) -> bool:
        """Whether nobody wants the answer any more."""
        return self.told or self.cancelled_at is not None


class WorkerClient:
    """Asks a worker and hears its answers whenever `poll` is called; callbacks come from there and from nowhere else.

    A worker that died is replaced at the next request. What it was computing then has failed ("WorkerDied"); what
    waited behind is asked of the next one, once.

    Args:
        make_transport: for a worker of the folder that it is given.
        parent: where that folder is made; None: where temporary files are.
        grace_s: how long a running request may take to stop before its process is ended.

    Attributes:
        state: "stopped", "starting", "ready" or "failed" (the last one never became ready).
        complaint: the last words of the worker's stderr.
        occupied: what keeps the worker busy for long, in words for those who wait behind it; empty: nothing does.
        started: how many workers there have been; what one has computed the next does not know.
    """

    def __init__(
        self, make_transport: Callable[[Path], Transport], parent: Path | None = None, grace_s: float = GRACE_S
    ):
        self.state, self.complaint, self.started, self.occupied = "stopped", "", 0, ""
        self._make_transport, self._parent, self._grace_s = make_transport, parent, grace_s
        self._transport: Transport | None = None
        self._shared: SharedFolder | None = None
        self._numbers = count(1)
        self._pending: dict[int, _Request] = {}
        self._due: deque[Callable[[], None]] = deque()
        self._answers: dict[int, dict] = {}
        self._own: set[str] = set()  # arrays in the folder that somebody may still want

    @property
    def folder(self) -> Path:
        """The folder shared with the worker, made when it is needed first.

        Raises:
            OutputError: if it cannot be made.
        """
        return self._made().path

    def start(self) -> None:
        """Start a worker, if there is none.

        Raises:
            OutputError: if the shared folder cannot be made.
        """
        if self._transport is not None:
            return
        self.state, self._transport = "starting", self._make_transport(self.folder)
        self.started += 1
        try:
            self._made().new_turn()
            self._transport.start()
        except OSError as error:
            self._note(str(error))
            self._died()

    def ask(
        self,
        do: str,
        payload: Any = None,
        *,
        lane: str | None = None,
        on_progress: Callable[[int, int, str], None] | None = None,
        on_done: Callable[[dict], None] | None = None,
        on_failed: Callable[[str, str], None] | None = None,
    ) -> int:
        """Ask for something; starts a worker if there is none.

        Args:
            do: a name in `protocol.REQUESTS`.
            payload: the dataclass that belongs to it, or its mapping.
            lane: a newer request of a lane takes the place of the older, which is cancelled.
            on_progress: of done, total, message.
            on_done: of the answer.
            on_failed: of a kind and one sentence; also "Cancelled", and "WorkerDied".

        Returns:
            The request's number.

        Raises:
            OutputError: if the shared folder cannot be made.
        """
        fields = payload if isinstance(payload, Mapping) else {} if payload is None else to_mapping(payload)
        number = next(self._numbers)
        message = {"id": number, "do": do, **fields} | ({"lane": lane} if lane else {})
        self._made()
        for older in list(self._pending.values()):
            if lane and older.message.get("lane") == lane:
                self._supersede(older)
        self._pending[number] = _Request(number, message, on_progress, on_done, on_failed)
        self.start()
        self._send()
        return number

    def cancel(self, number: int, grace_s: float | None = None) -> None:
        """Stop a request: politely at first, and after a while by ending the process; the others are asked again.

        Args:
            grace_s: that while, for a request that has to bring something into safety; None: the client's.
        """
        request = self._pending.get(number)
        if request is None or request.cancelled_at is not None:
            return
        request.cancelled_at, request.grace_s = time.monotonic(), grace_s
        if request.sent:
            self._transport.write(encode_line({"id": next(self._numbers), "do": "cancel", "target": number}))
        else:
            self._end(request, CANCELLED)

    def poll(self) -> None:
        """Hear what came, notice a death, call whom it concerns. Never waits."""
        if self._transport is not None:
            running = self._transport.running()  # asked first, so that no last line is missed
            for line in self._transport.lines():
                self._hear(line)
            self._note(self._transport.complaints())
            if not running:
                self._died()
            elif any(self._overdue(request) for request in self._pending.values()):
                self._replace()
        if self._shared is not None:
            self._shared.delete()
        while self._due:
            self._due.popleft()()

    def wait(self, number: int, timeout_s: float = 60.0) -> dict:
        """Poll until a request is answered; for tests and the command line.

        Returns:
            The answer; what it "is" may be done, failed or cancelled.

        Raises:
            TimeoutError: if none comes in time.
        """
        deadline = time.monotonic() + timeout_s
        while number not in self._answers:
            if time.monotonic() > deadline:
                raise TimeoutError(f"No answer to request {number} came within {timeout_s:g} seconds.")
            time.sleep(_PAUSE_S)
            self.poll()
        return self._answers.pop(number)

    def close(self) -> None:
        """End the worker and remove the folder; nobody is called any more."""
        if self._transport is not None:
            self._transport.kill()
        if self._shared is not None:
            self._shared.remove()
        self._transport, self._shared, self.state = None, None, "stopped"
        for held in (self._pending, self._due, self._own):
            held.clear()

    def publishing(self, array: np.ndarray) -> Generator[None, None, str]:
        """Hand an array over in pieces of some milliseconds; returns its name.

        Raises:
            InputError: if it does not hold plain numbers.
            OutputError: if it cannot be written.
        """
        name = new_name()
        self._own.add(name)
        try:
            yield from self._made().writing(name, array)
        except BaseException:
            self._own.discard(name)
            raise
        return name

    def fetch(self, name: str) -> np.ndarray:
        """The array of that name, mapped into memory, for reading.

        Raises:
            InputError: if it is not there (any more).
        """
        return self._made().read(name)

    def forget(self, name: str) -> None:
        """Delete an array. Who has it mapped keeps it; on Windows it goes when nobody has."""
        self._own.discard(name)
        if self._shared is not None:
            self._shared.delete(name)

    def _made(self) -> SharedFolder:
        if self._shared is None:
            self._shared = SharedFolder.make(self._parent)
        return self._shared

    def _send(self) -> None:
        if self.state != "ready":
            return
        for request in self._pending.values():
            if not request.sent:
                request.sent = True
                self._transport.write(encode_line(request.message))

    def _hear(self, line: str) -> None:
        try:
            message = decode_line(line)
        except InputError as error:
            self._note(f"{error}\n")
            return
        request = self._pending.get(message.get("id"))
        if message.get("is") == "ready":
            self.state = "ready"
            self._send()
        elif request is None:
            self._note(message.get("message", ""))
        elif message["is"] == "progress":
            self._progress(request, message)
        else:
            self._end(request, message)

    def _progress(self, request: _Request, message: Mapping[str, Any]) -> None:
        request.begun = True
        if request.on_progress and not request.dropped:
            self._due.append(lambda: request.on_progress(message["done"], message["total"], message["message"]))

    def _supersede(self, request: _Request) -> None:
        """Drop a request of a lane; the worker does so too, when it hears of the newer one."""
        if not request.sent:
            self._end(request, CANCELLED)
        elif not request.told:
            self._tell(request, CANCELLED)

    def _end(self, request: _Request, answer: Mapping[str, Any]) -> None:
        """Nothing more will come for this request."""
        del self._pending[request.number]
        names = arrays_of(answer)
        if request.dropped or answer["is"] == "cancelled":
            for name in names:
                self.forget(name)
            answer = CANCELLED
        self._own.update(names if answer["is"] == "done" else ())
        if not request.told:
            self._tell(request, answer)

    def _tell(self, request: _Request, answer: Mapping[str, Any]) -> None:
        request.told = True
        answer = {**answer, "id": request.number}
        self._answers[request.number] = answer
        while len(self._answers) > _ANSWERS_KEPT:
            del self._answers[next(iter(self._answers))]
        if answer["is"] == "done" and request.on_done:
            self._due.append(lambda: request.on_done(answer))
        if answer["is"] != "done" and request.on_failed:
            self._due.append(lambda: request.on_failed(answer["kind"], answer["message"]))

    def _overdue(self, request: _Request) -> bool:
        grace_s = self._grace_s if request.grace_s is None else request.grace_s
        return request.cancelled_at is not None and time.monotonic() - request.cancelled_at > grace_s

    def _replace(self) -> None:
        """End a process that does not stop what was cancelled; another one goes on with the rest."""
        self._bury()
        for request in list(self._pending.values()):
            request.sent = request.begun = False
            if request.dropped:
                self._end(request, CANCELLED)
        if self._pending:
            self.start()

    def _died(self) -> None:
        was_ready = self.state == "ready"
        self._bury()
        self.state = "stopped" if was_ready else "failed"
        for request in list(self._pending.values()):
            request.sent = False
            if request.dropped:
                self._end(request, CANCELLED)
            elif was_ready and not request.begun and not request.again:
                request.again = True
            else:
                self._end(request, {"is": "failed", "kind": "WorkerDied", "message": self._obituary(was_ready)})
        if self._pending:
            self.start()

    def _bury(self) -> None:
        transport, self._transport, self.state = self._transport, None, "stopped"
        transport.kill()
        self._note(transport.complaints())
        self._shared.keep_only(self._own)

    def _obituary(self, was_ready: bool) -> str:
        what = "ended in the middle of its work" if was_ready else "could not start"
        words = self.complaint.strip().rsplit("\n", 1)[-1][:_WORDS_CHARACTERS]
        return f"The worker process {what}; {f'it said: {words}' if words else 'it gave no reason'}; ask again."

    def _note(self, text: str) -> None:
        self.complaint = (self.complaint + text)[-_COMPLAINT_CHARACTERS:]
