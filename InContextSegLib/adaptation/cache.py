"""What networks learnt from examples, as small files that are kept within a budget and may be passed on."""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors import SafetensorError

from InContextSegLib.adaptation.adapt import Adaptation
from InContextSegLib.adaptation.expectation import Trial
from InContextSegLib.errors import OutputError, WeightsError
from InContextSegLib.examples.origins import units
from InContextSegLib.examples.support import SupportSet
from InContextSegLib.inference.prior import Calibration, Expected
from InContextSegLib.inference.settings import InferenceSettings
from InContextSegLib.models.weights import load_weights, save_weights
from InContextSegLib.volumes.files import make_folder

log = logging.getLogger(__name__)

VERSION = 5  # of the file and of how networks adapt; another one is another key
BUDGET_BYTES = 256 << 20


def key_of(support: SupportSet, sizes: Sequence[int], weights_sha256: str, settings: InferenceSettings) -> str:
    """SHA-256 (hex) of all that an adaptation depends on: examples and which belong together, weights, settings.

    Args:
        support: the examples at the first of `sizes`.
    """
    names = list(units(support))
    about = {
        "version": VERSION,
        "support": support.fingerprint,
        "together": [names.index(name) for name in names],
        "weights": weights_sha256,
        "sizes": list(sizes),
        "settings": [settings.supports, settings.calibrate, settings.adapt_seconds, settings.seed],
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def remembered(
    folder: Path,
    key: str,
    cut: Callable[[int], SupportSet],
    adapt_now: Callable[[], Adaptation],
    budget_bytes: int = BUDGET_BYTES,
) -> Adaptation:
    """The adaptation under a key: read from the folder, or computed now and kept there.

    The files unused for longest go when all of them take more than the budget. What cannot be read, or not be kept, is
    said in the log, and the adaptation is computed. One that had too little time to tell is not kept.
    """
    path = folder / f"{key}.safetensors"
    try:
        if path.is_file():
            found = load_adaptation(path, key, cut)
            with suppress(OSError):
                path.touch()  # used now; where that cannot be noted the file serves all the same
            return found
    except (WeightsError, OSError) as error:
        log.warning("What was learnt from these examples earlier cannot be used, the network adapts again: %s", error)
    adaptation = adapt_now()
    if adaptation.cut_short:
        return adaptation
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
        "calibration": _flat(adaptation.calibration),
        "trials": [
            [each.value, each.index, each.overlap.tolist(), each.soft.tolist(), each.separation]
            for each in adaptation.trials
        ],
        "exact": {
            way: {str(value): [each.dice, each.spread, each.units, each.soft] for value, each in found.items()}
            for way, found in (("before", adaptation.before), ("after", adaptation.after))
        },
    }
    # A file of tensors needs one, also where nothing was worth learning.
    save_weights(path, adaptation.differences or {"nothing": torch.zeros(1)}, {"adaptation": json.dumps(about)})


def load_adaptation(path: Path, key: str, cut: Callable[[int], SupportSet]) -> Adaptation:
    """Read an adaptation of the examples, network and settings that a key stands for.

    Args:
        cut: makes the examples at a size.

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
        calibration = _calibration(about["calibration"], cut)
        names = units(calibration.support)
        return Adaptation(
            differences=tensors if about["helped"] else {},
            helped=about["helped"],
            why=about["why"],
            calibration=calibration,
            before=_expectations(about["exact"]["before"]),
            after=_expectations(about["exact"]["after"]),
            trials=tuple(
                Trial(value, index, names[index], np.array(overlap), np.array(soft), separation)
                for value, index, overlap, soft, separation in about["trials"]
            ),
            steps=about["steps"],
            seconds=about["seconds"],
        )
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, SafetensorError) as error:
        raise WeightsError(f"{path} holds no adaptation of a network, or a damaged one; adapt anew.") from error


def _flat(calibration: Calibration) -> dict:
    return {
        "size": calibration.support.size,
        "shown": calibration.shown,
        "shifts": list(calibration.shifts.items()),
        "dice": list(calibration.dice.items()),
        "tried": [[*choice, score] for choice, score in calibration.tried.items()],
    }


def _calibration(about: dict, cut: Callable[[int], SupportSet]) -> Calibration:
    tried = {(size, shown): score for size, shown, score in about["tried"]}
    return Calibration(cut(about["size"]), about["shown"], dict(about["shifts"]), dict(about["dice"]), tried)


def _expectations(found: dict[str, list]) -> dict[int, Expected]:
    return {int(value): Expected(*numbers) for value, numbers in found.items()}


def _forget_oldest(folder: Path, budget_bytes: int) -> None:
    ours = (path for path in folder.glob("*.safetensors") if re.fullmatch("[0-9a-f]{64}", path.stem))
    files = sorted(ours, key=lambda path: path.stat().st_mtime, reverse=True)
    used = 0
    for path in files:
        used += path.stat().st_size
        if used > budget_bytes and path != files[0]:
            path.unlink(missing_ok=True)
