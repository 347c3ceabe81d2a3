"""AdamW with groups, and the schedule of its rates; knows parameters, not what they are trained on."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

PROXY_FACTOR = 100.0
SCHEDULES = ("cosine", "constant")


def build_optimiser(parts: Iterable[tuple[nn.Module, float]], *, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW over the modules, each with its own peak learning rate; biases and norms do not decay.

    Raises:
        ValueError: no module has a parameter to learn.
    """
    groups = [group for module, rate in parts for group in _groups(module, rate, weight_decay)]
    if not groups:
        raise ValueError("something must be left to train, but trunk, head and loss have no free parameter")
    return torch.optim.AdamW(groups, fused=True)


def _groups(module: nn.Module, rate: float, weight_decay: float) -> list[dict[str, object]]:
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in learned if parameter.ndim > 1]
    plain = [parameter for parameter in learned if parameter.ndim <= 1]
    return [
        {"params": parameters, "lr": rate, "peak": rate, "weight_decay": decay}
        for parameters, decay in ((decayed, weight_decay), (plain, 0.0))
        if parameters
    ]


def set_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to a share of its peak."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor


def schedule_factor(step: int, *, warmup: float, total: int, schedule: str) -> float:
    """Return the share of the peak learning rate at a step (from 0): a line, then the schedule."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1.0, total - warmup))))
