"""Which network segments and where: from the catalogue and its weights to a network, and the device it computes on."""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from InContextSegLib.errors import InputError, WeightsError
from InContextSegLib.models.catalog import cache_folder, ensure, find, pinned_sha256
from InContextSegLib.models.entry import CatalogEntry
from InContextSegLib.models.networks import SliceSegmenter, build, fitting
from InContextSegLib.models.weights import load_weights


@dataclass(frozen=True)
class Model:
    """Which network segments: a catalogue entry, and weights of one's own in place of the entry's."""

    name: str = "default"
    weights: Path | None = None


def load_model(model: Model) -> tuple[SliceSegmenter, dict[str, str], int]:
    """The network with its weights, what to say about them, and the size of its input in pixels.

    Raises:
        InputError: if there is no such model.
        WeightsError: if the weights are missing, changed or unsafe, or belong to another model.
    """
    entry = find(model.name)
    path, sha256 = model.weights, None
    if path is None:
        path = ensure(entry, cache_folder(), fetch=partial(_never_fetch, entry))
        sha256 = pinned_sha256(entry, cache_folder())
    state = load_weights(path, sha256)
    try:
        # Weights trained by oneself, from a model that can be trained further here, may be of other widths.
        own = model.weights is not None and entry.weights.url is None
        segmenter = fitting(entry, state) if own else build(entry)
        segmenter.load_state_dict(state)
        segmenter.any_view = entry.capability.any_view
    except ValueError as error:  # of a later version, as `build` says
        raise WeightsError(str(error)) from error
    except (RuntimeError, KeyError, TypeError) as error:
        raise WeightsError(
            f"The weights {path} do not fit the model '{entry.name}'; name the model they belong to."
        ) from error
    provenance = {"entry": entry.name, "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return segmenter, provenance, entry.capability.input_size


def answering_clicks(model: Model, entry: CatalogEntry) -> Model:
    """The model that answers clicks, boxes and scribbles: the chosen one, or the one that its entry names."""
    return Model(entry.clicks) if entry.clicks and not model.weights else model


def pretrained_backbone() -> dict[str, Tensor]:
    """The weights of the backbone that the default model holds, in single precision.

    Raises:
        WeightsError: if they are damaged.
    """
    state, prefix = load_weights(ensure(find("default"), cache_folder(), fetch=_never_fetch)), "backbone."
    return {name.removeprefix(prefix): each.float() for name, each in state.items() if name.startswith(prefix)}


def _never_fetch(entry: CatalogEntry, *_) -> None:
    # Only `weights ensure` goes to the network, where the licence is shown.
    raise WeightsError(
        f"The weights of '{entry.name}' are not on this computer; fetch them with 'incontextseg weights ensure "
        f"{entry.name}' (licence: {entry.licence})."
    )


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is a CUDA GPU where there is one, else the CPU.

    Raises:
        InputError: if the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or not (number.isdecimal() or name == kind):
        raise InputError(f"Asked to compute on '{name}', which is no device; use auto, cpu, cuda or cuda:NUMBER.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and int(number or 0) >= count:
        raise InputError(
            f"Asked to compute on '{name}', but torch finds {count} CUDA GPUs here; choose the device cpu."
        )
    return torch.device(name if kind == "cuda" else "cpu")
