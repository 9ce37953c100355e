"""What networks learnt from examples, as small files that are kept within a budget and may be passed on."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors import SafetensorError

from InContextSegLib.errors import OutputError, WeightsError
from InContextSegLib.files import make_folder
from InContextSegLib.inference.adapt import Adaptation, AdaptSettings
from InContextSegLib.inference.expectation import Expected, Trial
from InContextSegLib.inference.leave_out import units
from InContextSegLib.inference.rehearsal import Rehearsal
from InContextSegLib.models.weights import load_weights, save_weights
from InContextSegLib.support import SupportSet

log = logging.getLogger(__name__)

VERSION = 1  # of the file and of how networks adapt; another one is another key
BUDGET_BYTES = 256 << 20


def key_of(support: SupportSet, weights_sha256: str, rehearsal: Rehearsal, settings: AdaptSettings) -> str:
    """SHA-256 (hex) of all that an adaptation depends on: examples, which belong together, weights and settings."""
    names = list(units(support))
    about = {
        "version": VERSION,
        "support": support.fingerprint,
        "together": [names.index(name) for name in names],
        "weights": weights_sha256,
        "shown": rehearsal.shown,
        "shifts": {str(value): round(shift, 6) for value, shift in sorted(rehearsal.shifts.items())},
        "settings": [settings.seconds, settings.seed, settings.steps],
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def remembered(
    folder: Path, key: str, rehearsal: Rehearsal, adapt_now: Callable[[], Adaptation], budget_bytes: int = BUDGET_BYTES
) -> Adaptation:
    """The adaptation under a key: read from the folder, or computed now and kept there.

    The files unused for longest go when all of them take more than the budget. What cannot be read, or not be kept, is
    said in the log, and the adaptation is computed.
    """
    path = folder / f"{key}.safetensors"
    if path.is_file():
        try:
            found = load_adaptation(path, key, rehearsal)
            path.touch()
            return found
        except (WeightsError, OSError) as error:
            log.warning("%s The network adapts again.", error)
    adaptation = adapt_now()
    try:
        make_folder(folder)
        save_adaptation(path, key, adaptation)
        _forget_oldest(folder, budget_bytes)
    except (OutputError, OSError) as error:
        log.warning("What was learnt from the examples is not kept: %s", error)
    return adaptation


def save_adaptation(path: Path, key: str, adaptation: Adaptation) -> None:
    """Write an adaptation, whole or not at all; no name or path of an example is in the file.

    Raises:
        OutputError: if it cannot be written.
    """
    about = adaptation.record | {
        "key": key,
        "shown": adaptation.rehearsal.shown,
        "shifts": {str(value): shift for value, shift in adaptation.rehearsal.shifts.items()},
        "trials": [[each.value, each.index, each.overlap.tolist(), each.separation] for each in adaptation.trials],
        "exact": {
            way: {str(value): [each.dice, each.spread, each.units] for value, each in found.items()}
            for way, found in (("before", adaptation.before), ("after", adaptation.after))
        },
    }
    # A file of tensors needs one, also where nothing was worth learning.
    save_weights(path, adaptation.differences or {"nothing": torch.zeros(1)}, {"adaptation": json.dumps(about)})


def load_adaptation(path: Path, key: str, rehearsal: Rehearsal) -> Adaptation:
    """Read an adaptation of the examples, network and settings that a key stands for.

    Raises:
        WeightsError: if the file is damaged, no adaptation, or one of other examples, weights or settings.
    """
    tensors = load_weights(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = json.loads(json.loads((file.metadata() or {})["notes"])["adaptation"])
        if about["key"] != key:
            raise WeightsError(
                f"{path} was learnt from other examples, other weights or with other settings; adapt anew."
            )
        names = units(rehearsal.support)
        return Adaptation(
            differences=tensors if about["helped"] else {},
            helped=about["helped"],
            why=about["why"],
            rehearsal=replace(rehearsal, shifts={int(value): shift for value, shift in about["shifts"].items()}),
            before=_expectations(about["exact"]["before"]),
            after=_expectations(about["exact"]["after"]),
            trials=tuple(
                Trial(value, index, names[index], np.array(overlap), separation)
                for value, index, overlap, separation in about["trials"]
            ),
            steps=about["steps"],
            seconds=about["seconds"],
        )
    except (KeyError, ValueError, TypeError, IndexError, SafetensorError) as error:
        raise WeightsError(f"{path} holds no adaptation of a network, or a damaged one; adapt anew.") from error


def _expectations(found: dict[str, list]) -> dict[int, Expected]:
    return {int(value): Expected(*numbers) for value, numbers in found.items()}


def _forget_oldest(folder: Path, budget_bytes: int) -> None:
    files = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
    used = 0
    for path in files:
        used += path.stat().st_size
        if used > budget_bytes and path != files[0]:
            path.unlink(missing_ok=True)
