"""Weights in and out of files, without ever running what a file contains."""

import hashlib
import io
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from InContextSegLib.errors import InputError, OutputError, WeightsError


def load_weights(path: str | Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .pt or .pth file that holds a plain state dict, on the CPU.

    The bytes that are checked are the bytes that are read, so the file cannot change in between; it is in memory twice
    for a moment.

    Args:
        sha256: what the file must have; None accepts any.

    Raises:
        WeightsError: if the file is missing, has another hash, is damaged, or holds anything but named tensors.
    """
    path = Path(path)
    parse = _PARSERS.get(path.suffix.lower())
    if parse is None:
        raise WeightsError(f"{path} is no weights file; its name must end in {', '.join(_PARSERS)}.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"The weights {path} cannot be read ({error.strerror or error}).") from error
    if sha256 is not None:
        actual = hashlib.sha256(content).hexdigest()
        if actual != sha256:
            raise WeightsError(f"The weights {path} should have sha256 {sha256} but have {actual}.")
    return parse(path, content)


def save_weights(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors and notes about them to a .safetensors file, whole or not at all.

    Raises:
        InputError: if the name does not end in .safetensors, or there is no tensor to write.
        OutputError: if the file cannot be written; an earlier file of that name is then still there.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise InputError(f"Weights are written as .safetensors, but the name asked for is {path.name}.")
    if not tensors:
        raise InputError(f"There is no tensor to write to {path}.")
    # safetensors refuses tensors that share memory or are views; a state dict may well hold such.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # One entry only: safetensors writes several in random order, and the same weights would have another sha256.
    notes = {"notes": json.dumps(dict(metadata), sort_keys=True)} if metadata else None
    content = safetensors.torch.save(copies, notes)
    aside = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        with aside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror or error}).") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def _parse_safetensors(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} is damaged, incomplete or no safetensors file; fetch it again.") from error
    return _named_tensors(path, tensors)


def _parse_pickle(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # A damaged or hostile pickle can raise anything at all.
        raise WeightsError(f"{path} is damaged or holds more than plain tensors, and was not loaded.") from error
    return _named_tensors(path, loaded)


def _named_tensors(path: Path, loaded: Any) -> dict[str, Tensor]:
    named = isinstance(loaded, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in loaded.items()
    )
    if not named or not loaded:
        raise WeightsError(f"{path} does not hold named tensors; a plain state dict is needed.")
    return {name: tensor.detach() for name, tensor in loaded.items()}


_PARSERS = {".safetensors": _parse_safetensors, ".pt": _parse_pickle, ".pth": _parse_pickle}
