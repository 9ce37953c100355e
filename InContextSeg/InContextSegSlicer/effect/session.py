"""What a person said about one segment on one slice, and what was answered, for as long as one can go back to it."""

from dataclasses import dataclass, field, replace

import numpy as np

from InContextSegLib.worker.client import WorkerClient
from InContextSegSlicer.effect.prompting import History, Step


@dataclass(frozen=True, eq=False)
class Answer:
    """What the network makes of a step: probability (k, j, i), 255 for 1; its logits, by name; examples it saw."""

    probability: np.ndarray
    cornerKji: tuple[int, ...]
    logits: str | None
    context: int


@dataclass
class Session:
    """What was said on one slice, and answered; `source` is what the volume was like then, see `stateOf`."""

    source: tuple = ()
    history: History = field(default_factory=History)
    answers: dict[Step, Answer] = field(default_factory=dict)

    def previous(self, step: Step) -> str | None:
        """The logits that a step goes on from: of the last answer before it."""
        before = step.follows
        while before is not None and before not in self.answers:
            before = before.follows
        return self.answers[before].logits if before is not None else None

    def forget(self, client: WorkerClient, keep: set[Step] | None = None) -> None:
        """Let go of answers that nothing goes back to: not of those that a step to keep still follows."""
        kept = set(keep or ())
        for step in keep or ():
            before = step.follows
            while before is not None:
                kept.add(before)
                before = before.follows
        for step in [step for step in self.answers if step not in kept]:
            logits = self.answers.pop(step).logits
            if logits is not None:
                client.forget(logits)

    def startAnew(self, client: WorkerClient) -> None:
        """Keep the answers, but let the next one lean on none of them."""
        for step, answer in self.answers.items():
            if answer.logits is not None:
                client.forget(answer.logits)
            self.answers[step] = replace(answer, logits=None)
