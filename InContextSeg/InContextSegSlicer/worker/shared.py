"""One worker process for the panel and the effect, which ends when the last of them lets go of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from InContextSegLib.worker.client import WorkerClient
from InContextSegSlicer.scene.handover import Handover
from InContextSegSlicer.worker.process import QProcessTransport


@dataclass(frozen=True, eq=False)
class SharedWorker:
    """The client that everybody asks, polled by whoever waits, and what was handed over through it.

    Attributes:
        leave: to be called once, when the worker is no longer needed.
    """

    client: WorkerClient
    handover: Handover
    leave: Callable[[], None]

    users: ClassVar[list["SharedWorker"]] = []

    @property
    def alone(self) -> bool:
        """Whether nobody else uses the worker."""
        return self.users == [self]

    @classmethod
    def join(cls) -> "SharedWorker":
        """Use the worker; there is at most one, started by the first request."""
        if cls.users:
            client, handover = cls.users[0].client, cls.users[0].handover
        else:
            client = WorkerClient(QProcessTransport)
            handover = Handover(client)

        def leave() -> None:
            if joined in cls.users:
                cls.users.remove(joined)
                if not cls.users:
                    client.close()

        joined = cls(client, handover, leave)
        cls.users.append(joined)
        return joined
