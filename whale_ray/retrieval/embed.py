"""Embedding of images: the only place where retrieval runs an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from whale_ray.data.image_io import Geometry, center_crop
from whale_ray.errors import TrainingError


def embed(
    encoder: nn.Module,
    array: np.ndarray,
    geometry: Geometry,
    rows: np.ndarray,
    *,
    flipped: bool = False,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    on_batch: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Return the unit embeddings of the center crops of `array[rows]`, float16, shape (n, D), in the order of `rows`.

    The encoder runs in float32 whatever `train.precision` is, so that an image has the same embedding on each machine.

    Args:
        encoder: Module on `device` that takes float images (B, 3, height, width) from 0 to 1. It runs in evaluation
            mode and keeps the mode it had.
        array: Decoded images with their border, uint8, shape (N, H', W', 3).
        geometry: Geometry of `array`.
        rows: Rows to embed, shape (n,).
        flipped: Mirror the images left to right.
        batch_size: Images per forward pass.
        device: Device of the encoder.
        on_batch: Called before each batch.

    Raises:
        TrainingError: If an embedding is not finite.
    """
    target, parts = torch.device(device), []
    with evaluation_mode(encoder), torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            on_batch()
            images = image_batch(array[rows[start : start + batch_size]], geometry, target, flipped=flipped)
            parts.append(finite_unit_vectors(torch.as_tensor(encoder(images))))
    if not parts:
        return np.zeros((0, int(getattr(encoder, "embedding_size", 0))), dtype=np.float16)
    return np.concatenate(parts)


@contextmanager
def evaluation_mode(encoder: nn.Module) -> Iterator[None]:
    """Run the block with the encoder in evaluation mode; afterwards every module has the mode it had."""
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def image_batch(pixels: np.ndarray, geometry: Geometry, device: torch.device, *, flipped: bool) -> Tensor:
    """Return center crops as a float batch (B, 3, height, width) from 0 to 1 on the device.

    Args:
        pixels: Images with their border, uint8, shape (B, H', W', 3).
        geometry: Geometry of `pixels`.
        device: Target device.
        flipped: Mirror the images left to right.
    """
    images = torch.from_numpy(np.array(center_crop(pixels, geometry))).to(device).permute(0, 3, 1, 2).float().div_(255)
    return (images.flip(-1) if flipped else images).contiguous()


def finite_unit_vectors(vectors: Tensor) -> np.ndarray:
    """Return the vectors normalised, float16, shape (B, D), on the CPU.

    Raises:
        TrainingError: If a vector is not finite.
    """
    precise = vectors.double()
    if not bool(torch.isfinite(precise).all()):
        raise TrainingError(
            "an embedding must be finite, but the encoder gave NaN or infinity: its weights are spoilt. "
            "Lower train.learning_rate or set train.clip"
        )
    return np.asarray(nn.functional.normalize(precise, dim=1).half().cpu().numpy())
