"""In which precision a device computes gradients best."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

_P, _R = ParamSpec("_P"), TypeVar("_R")


def full_precision(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A function that computes in the precision of its arguments, also where the rest is computed in half of it.

    Sums over many pixels, and the solution of equations, lose their small differences in bfloat16.
    """

    @wraps(function)
    def exact(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return exact


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself; emulated, it is many times slower than float32."""
    if device.type == "cpu":
        # Older versions of torch do not tell; float32 is right everywhere.
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return device.type == "cuda"
