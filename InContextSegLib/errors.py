"""The few failures a caller can act on; each message is one sentence: what was asked, what came, what to do."""


class InputError(ValueError):
    """A file, an argument or a setting that the user gave cannot be used as it is."""


class OutputError(OSError):
    """A result could not be written; nothing half-written was left behind."""


class WeightsError(RuntimeError):
    """Model weights are missing, changed or unsafe to load."""


class TrainingError(RuntimeError):
    """Another process of a training run is gone; the run can be resumed."""


class Cancelled(Exception):  # noqa: N818 - the outcome a user asked for, not an error
    """The user stopped the work; raised from `Report.step`."""


def sentence_of(error: BaseException) -> str:
    """What to tell a user of anything that went wrong."""
    if isinstance(error, InputError | OutputError | WeightsError | TrainingError | Cancelled):
        return " ".join(str(error).split())
    # Other libraries' messages can be pages long.
    what = (str(error).strip().splitlines() or [""])[0]
    return f"unexpected error ({type(error).__name__}{f': {what}' if what else ''})"
