"""Mixed precision: the number format of a training."""

from __future__ import annotations

import torch

from whale_ray.device import has_bfloat16

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
        precision = "bf16" if has_bfloat16(device) else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32
