"""What a panel asks a worker about training on a site's own data, and how the run is told of."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from InContextSegLib.errors import InputError
from InContextSegLib.training.site.datasets import Site
from InContextSegLib.volumes.files import json_text


@dataclass(frozen=True)
class LookAtSite:
    """Asks what there is to train on -> sets, tasks, problems, usable: a `Survey` but for its single cases."""

    site: Site


@dataclass(frozen=True)
class TrainOnSite:
    """Asks to train, or to go on with the run that is in the folder already -> the record of the run.

    The message of its progress is a `TrainingStatus`. A cancelled run can be resumed by asking again.

    Attributes:
        run: folder of the run, absolute.
        settings: of `SiteTraining`, those that are not the usual ones.
        name: of the model of the user's own that the finished run becomes; empty: none.
    """

    site: Site
    run: str
    settings: dict[str, Any] = field(default_factory=dict)
    device: str = "auto"
    name: str = ""


@dataclass(frozen=True)
class TrainingStatus:
    """What is being done, and of a step of training its line in the log."""

    status: str
    line: Mapping[str, Any] | None = None

    @property
    def message(self) -> str:
        """As progress carries it."""
        return json_text({"status": self.status, "line": self.line})

    @classmethod
    def of(cls, message: str) -> "TrainingStatus":
        """Raises: InputError: if the message is no such thing."""
        try:
            found = json.loads(message)
            return cls(str(found["status"]), found["line"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"Progress of a training was expected, but {message[:60]!r} came.") from error
