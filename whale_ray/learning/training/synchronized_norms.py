"""Batch normalization over the images of all workers of a training.

`torch.nn.SyncBatchNorm` runs on GPUs only and, put in the place of a layer, drops what subclasses add, such as the
activation in timm's `BatchNormAct2d`. Here the function that all of them call is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class SynchronizedBatchNorm(TorchFunctionMode):
    """Context in which `torch.nn.functional.batch_norm` normalizes by the mean and variance over all workers.

    The workers of torch.distributed's default process group must normalize the same layers in the same order.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, or `synchronized_batch_norm` in place of a batch normalization in training mode."""
        kwargs = kwargs or {}
        is_training = kwargs.get("training", args[5] if len(args) > 5 else False)
        return (synchronized_batch_norm if func is F.batch_norm and is_training else func)(*args, **kwargs)


def synchronized_batch_norm(
    features: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return the features normalized by the statistics of all workers, with the arguments of `F.batch_norm`.

    Args:
        features: Shape (B, C, …); at least one image per worker.
        running_mean: Running mean of each channel, updated; None for none.
        running_var: Running variance of each channel, updated; None for none.
        weight: Scale of each channel; None for 1.
        bias: Shift of each channel; None for 0.
        training: True.
        momentum: Share of the new statistics in the running ones.
        eps: Added to the variance.

    Returns:
        The shape and dtype of `features`.
    """
    precise = features.float()
    places = [0, *range(2, features.ndim)]
    variance, mean = torch.var_mean(precise, places, correction=0)
    # Sums are taken of differences from the running mean: E[x²] - E[x]² of large values would lose digits.
    offset = torch.zeros_like(mean).detach() if running_mean is None else running_mean.clone()
    size = precise.new_full((1,), features.numel() / features.shape[1])
    difference = mean - offset
    sums: Tensor = _AllReduce.apply(  # type: ignore[no-untyped-call]
        torch.cat([size, size * difference, size * (variance + difference.square())])
    )
    count, totals = sums[0], sums[1:].view(2, -1)
    difference, square = totals / count
    mean, variance = offset + difference, (square - difference.square()).clamp(min=0.0)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean, momentum)
        if running_var is not None:
            running_var.lerp_(variance * count / (count - 1).clamp(min=1.0), momentum)
    scale = torch.rsqrt(variance + eps) if weight is None else weight * torch.rsqrt(variance + eps)
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = [1, -1, *[1] * (features.ndim - 2)]
    return torch.addcmul(shift.view(shape), precise, scale.view(shape)).to(features.dtype)


class _AllReduce(torch.autograd.Function):
    """Sum over all workers, whose gradient is the sum of all workers' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """Return the sum of the workers' values, in their shape."""
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the sum of the workers' gradients, in the shape of the values."""
        total = gradients[0].contiguous().clone()
        torch.distributed.all_reduce(total)
        return total
