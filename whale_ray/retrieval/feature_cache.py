"""Cache of frozen-encoder features: computed once per machine and shared by all trials as a memory map."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from whale_ray.atomic_files import replaced_atomically
from whale_ray.data.pixel_cache import DecodedImages
from whale_ray.errors import DataError
from whale_ray.learning.encoders.layers import CHANNELS
from whale_ray.learning.encoders.registry import Encoder
from whale_ray.retrieval.embed import evaluation_mode, finite_unit_vectors, image_batch
from whale_ray.retrieval.file_lock import lock_file

_VERSION = 1
# What of a recipe decides the features; the neck does not.
_DECIDING = ("name", "pool", "layers", "image_size", "mean", "std")


def frozen_features(
    encoder: Encoder,
    pixels: DecodedImages,
    *,
    flipped: bool,
    cache: Path,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    on_batch: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Return the features that the neck of a frozen encoder sees: a memory map, float32, shape (N, C), row by row.

    They are computed once per backbone, weights, pooling, images, geometry and view. If several processes need the same
    features, one of them computes them.

    Args:
        encoder: An encoder with a frozen backbone.
        pixels: The decoded images.
        flipped: Features of the mirrored images.
        cache: Cache folder of this machine.
        batch_size: Images per forward pass.
        device: Device of the encoder.
        on_batch: Called before each batch, and while another process is awaited.

    Raises:
        DataError: If the disk is full.
    """
    path = cache / f"{_fingerprint(encoder, pixels, flipped=flipped)}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with lock_file(path.with_suffix(".lock"), on_wait=on_batch):
            if not path.exists():
                _compute(encoder, pixels, path, flipped, batch_size, torch.device(device), on_batch)
    features: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return features


def embed_features(encoder: Encoder, features: np.ndarray, *, device: torch.device | str = "cpu") -> np.ndarray:
    """Return the unit embeddings of features, float16, shape (n, D), equal to what `embed` returns for their images.

    Args:
        encoder: The encoder.
        features: Shape (n, C).
        device: Device of the encoder.

    Raises:
        TrainingError: If an embedding is not finite.
    """
    with evaluation_mode(encoder), torch.inference_mode():
        return finite_unit_vectors(encoder(torch.from_numpy(np.array(features)).to(device)))


def _fingerprint(encoder: Encoder, pixels: DecodedImages, *, flipped: bool) -> str:
    recipe = {name: encoder.recipe.get(name) for name in _DECIDING}
    recipe |= {key: encoder.recipe[key] for key in (CHANNELS, "config") if key in encoder.recipe}
    digest = hashlib.sha256(json.dumps([_VERSION, recipe, pixels.fingerprint, flipped]).encode())
    for part in (encoder.trunk, encoder.head.pool):
        for name, tensor in part.state_dict().items():
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]


def _compute(
    encoder: Encoder,
    pixels: DecodedImages,
    path: Path,
    flipped: bool,
    batch_size: int,
    device: torch.device,
    on_batch: Callable[[], None],
) -> None:
    parts = []
    with evaluation_mode(encoder), torch.inference_mode():
        for start in range(0, len(pixels.array), batch_size):
            on_batch()
            crops = image_batch(pixels.array[start : start + batch_size], pixels.geometry, device, flipped=flipped)
            parts.append(encoder.features(crops).float().cpu().numpy())
    try:
        with replaced_atomically(path) as draft, draft.open("wb") as stream:
            np.save(stream, np.concatenate(parts), allow_pickle=False)
    except OSError as error:
        size = sum(part.nbytes for part in parts)
        raise DataError(
            f"the features of the frozen encoder need {size / 1e9:.2f} GB in {path.parent}, but: {error.strerror}. "
            "Make room, or name another folder in WHALE_RAY_CACHE"
        ) from error
