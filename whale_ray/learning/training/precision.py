"""Mixed precision: the number format of a training."""

from __future__ import annotations

import torch

PRECISIONS = ("auto", "fp32", "bf16")


def training_dtype(precision: str, device: torch.device | str) -> torch.dtype:
    """Return bfloat16 or float32 for `auto`, `fp32` or `bf16`.

    `auto` is bfloat16 if the processor or GPU multiplies it in hardware; emulated bfloat16 is slower than float32.

    Args:
        precision: `auto`, `fp32` or `bf16`.
        device: Device of the training.

    Raises:
        ValueError: If `precision` is unknown.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, but got {precision!r}")
    if precision == "auto":
        precision = "bf16" if _has_bfloat16(torch.device(device)) else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))
