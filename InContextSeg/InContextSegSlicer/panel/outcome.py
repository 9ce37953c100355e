"""How far the work is, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from slicer.i18n import tr as _

NAMED = 8  # segments in a sentence


@dataclass(frozen=True)
class Progress:
    """How far the work is: `done` of `total` in words, and since when (by the controller's clock)."""

    message: str
    done: int = 0
    total: int = 0
    since: float = 0.0
    stepsSince: int = 0


@dataclass
class Outcome:
    """What is known after the last work, for the panel to show.

    Attributes:
        of: the key of the order it came of.
        target: identifies the volume it is about.
        expected: by segment name, see `Expected.record` of the library; of a result with what `Quality.record` adds.
        suspects: examples that disagree with the others, `example` is the key of its row.
        axis, nextSlice: where labelling helps most.
    """

    of: tuple = ()
    target: str = ""
    expected: Mapping[str, Mapping] = field(default_factory=dict)
    suspects: tuple[Mapping, ...] = ()
    axis: str = ""
    nextSlice: int | None = None


def summary(answer: Mapping) -> str:
    """A result in a sentence, with what the library remarked on."""
    amounts = [
        _("{name} {millilitres:.1f} ml").format(name=name, millilitres=amount["millilitres"])
        for name, amount in answer["labels"].items()
    ]
    more = [_("and {count} more").format(count=len(amounts) - NAMED)] if len(amounts) > NAMED else []
    done = _("Done in {seconds:.0f} s: {amounts}.").format(
        seconds=answer["seconds"], amounts=", ".join(amounts[:NAMED] + more)
    )
    return " ".join([done, *answer["remarks"]])


def waitingText(occupied: str) -> str:
    """What a request waits for, where the worker is occupied for long."""
    return _("Waiting for {what}.").format(what=occupied)
