"""Mixed precision: the number format of a training."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from whale_ray.device import has_bfloat16
from whale_ray.learning.encoders.registry import Encoder

PRECISIONS = ("auto", "fp32", "bf16")

# Measured on a processor: encoders below it train faster in float32, all others in bfloat16.
_FEWEST_OPERATIONS = 90.0


def training_dtype(precision: str, device: torch.device | str, encoder: Encoder) -> torch.dtype:
    """Return bfloat16 or float32 for `auto`, `fp32` or `bf16`.

    `auto` is bfloat16 if the processor or GPU multiplies it in hardware; emulated bfloat16 is slower than float32. On a
    processor the encoder must also be one of many multiplications: one of depthwise convolutions (MobileNet,
    EfficientNet) spends its time on normalisations and activations, which take longer in bfloat16. The choice depends
    on the kind of device and the architecture alone, so that trials can be repeated.

    Args:
        precision: `auto`, `fp32` or `bf16`.
        device: Device of the training.
        encoder: The encoder that is trained, on that device.

    Raises:
        ValueError: If `precision` is unknown.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, but got {precision!r}")
    if precision == "auto":
        precision = "bf16" if has_bfloat16(device) and _pays(encoder, torch.device(device)) else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _pays(encoder: Encoder, device: torch.device) -> bool:
    return device.type != "cpu" or operations_per_output(encoder) >= _FEWEST_OPERATIONS


def operations_per_output(encoder: Encoder) -> float:
    """Return the mean number of multiplications for each number that a convolution or a linear layer puts out.

    Args:
        encoder: An encoder; it embeds one black image in evaluation mode.
    """
    operations, outputs = 0, 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal operations, outputs
        assert isinstance(layer.weight, Tensor)
        operations += output.numel() * layer.weight[0].numel()
        outputs += output.numel()

    layers = [one for one in encoder.modules() if isinstance(one, (nn.Conv1d, nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            encoder(torch.zeros(1, 3, *encoder.recipe["image_size"], device=encoder.mean.device))
    finally:
        encoder.train(was_training)
        for hook in hooks:
            hook.remove()
    return operations / outputs if outputs else math.inf
