"""Vectors of photographs: the one place where retrieval runs an encoder.

Knows decoded pixels and an encoder as a function of images. Knows neither names nor what is near to what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from whale_ray.data.image_io import Geometry, center_crop
from whale_ray.errors import InputError, TrainingError

PRECISIONS = ("auto", "fp32", "bf16")


def embed(
    encoder: nn.Module,
    array: np.ndarray,
    geometry: Geometry,
    rows: np.ndarray,
    *,
    flipped: bool = False,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    precision: str = "auto",
    on_batch: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Unit vectors, float16 (n, D), of the centre crops of `array[rows]`, in the order of `rows`.

    encoder: on `device`, takes float (B, 3, height, width) in [0, 1]; it is run in evaluation mode and left in the
    mode it had. array: uint8 (N, H, W, 3), margin included. flipped: mirrored left to right. precision: `bf16` runs
    channels-last autocast; `auto` is fp32, so that a photograph has the same vector wherever it is embedded. on_batch:
    called before each batch.

    Raises: TrainingError where a vector is not finite; InputError for another precision.
    """
    if precision not in PRECISIONS:
        raise InputError(f"a precision is one of {', '.join(PRECISIONS)}, but got {precision!r}. Name one of them")
    target, parts = torch.device(device), []
    with evaluating(encoder), torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            on_batch()
            images = picture_batch(array[rows[start : start + batch_size]], geometry, target, flipped=flipped)
            parts.append(unit_vectors(_forward(encoder, images, half=precision == "bf16")))
    if not parts:
        return np.zeros((0, int(getattr(encoder, "embedding_size", 0))), dtype=np.float16)
    return np.concatenate(parts)


@contextmanager
def evaluating(encoder: nn.Module) -> Iterator[None]:
    """The encoder in evaluation mode; afterwards each part is in the mode that it had."""
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def picture_batch(pixels: np.ndarray, geometry: Geometry, device: torch.device, *, flipped: bool) -> Tensor:
    """The centre crops of uint8 (B, H, W, 3), margin included, as float (B, 3, H, W) in [0, 1] on the device."""
    images = torch.from_numpy(np.array(center_crop(pixels, geometry))).to(device).permute(0, 3, 1, 2).float().div_(255)
    return (images.flip(-1) if flipped else images).contiguous()


def _forward(encoder: nn.Module, images: Tensor, *, half: bool) -> Tensor:
    if not half:
        return torch.as_tensor(encoder(images))
    with torch.autocast(images.device.type, dtype=torch.bfloat16):
        return torch.as_tensor(encoder(images.contiguous(memory_format=torch.channels_last)))


def unit_vectors(vectors: Tensor) -> np.ndarray:
    """float16 (B, D), unit length, on the CPU. Raises: TrainingError where one is not finite."""
    precise = vectors.double()
    if not bool(torch.isfinite(precise).all()):
        raise TrainingError(
            "an embedding must be finite, but the encoder gave NaN or infinity: its weights are spoilt. "
            "Lower train.learning_rate or set train.clip"
        )
    return np.asarray(nn.functional.normalize(precise, dim=1).half().cpu().numpy())
