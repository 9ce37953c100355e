"""In which precision a device computes gradients best."""

import torch


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself; emulated, it is many times slower than float32."""
    if device.type == "cpu":
        # Older versions of torch do not tell; float32 is right everywhere.
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return device.type == "cuda"
