"""Cache of frozen-encoder features: computed once per machine and shared by all trials as a memory map.

One pass over the images computes the features of every pooling that the trials of a sweep need.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from whale_ray.atomic_files import replaced_atomically
from whale_ray.data.pixel_cache import DecodedImages
from whale_ray.errors import DataError
from whale_ray.learning.encoders.layers import CHANNELS
from whale_ray.learning.encoders.poolings import Pooling, poolings_of_backbone
from whale_ray.learning.encoders.registry import Encoder
from whale_ray.retrieval.embed import evaluation_mode, finite_unit_vectors, image_batch
from whale_ray.retrieval.file_lock import lock_file

_VERSION = 2
# What of a recipe decides the maps; pooling and neck do not.
_DECIDING = ("name", "image_size", "mean", "std", CHANNELS, "config")


def frozen_features(
    encoder: Encoder,
    pixels: DecodedImages,
    *,
    flipped: bool,
    cache: Path,
    poolings: Iterable[tuple[str, int]] = (),
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
        poolings: `pool` and `layers` of further encoders with the same backbone, whose features the same pass computes.
            Those that the backbone does not allow are left out.
        batch_size: Images per forward pass.
        device: Device of the encoder.
        on_batch: Called before each batch, and while another process is awaited.

    Raises:
        DataError: If the disk is full.
    """
    maps = _maps_fingerprint(encoder, pixels, flipped=flipped)
    own, *others = (_features_file(cache, maps, one) for one in poolings_of_backbone(encoder, poolings))
    if not own[0].exists():
        cache.mkdir(parents=True, exist_ok=True)
        with lock_file(cache / f"{maps}.lock", on_wait=on_batch):
            if not own[0].exists():
                missing = dict([own, *(one for one in others if not one[0].exists())])
                layers = max(pooling.layers for pooling in missing.values())
                batches = _map_batches(encoder, pixels, layers, flipped, batch_size, torch.device(device), on_batch)
                _compute(encoder, batches, missing, images=len(pixels.array))
    features: np.ndarray = np.load(own[0], mmap_mode="r", allow_pickle=False)
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


def _maps_fingerprint(encoder: Encoder, pixels: DecodedImages, *, flipped: bool) -> str:
    recipe = {name: encoder.recipe[name] for name in _DECIDING if name in encoder.recipe}
    digest = hashlib.sha256(json.dumps([_VERSION, recipe, pixels.fingerprint, flipped]).encode())
    _add_weights(digest, encoder.trunk)
    return digest.hexdigest()[:24]


def _features_file(cache: Path, maps: str, pooling: Pooling) -> tuple[Path, Pooling]:
    """Return the file of the features that a pooling makes of the maps with this fingerprint, and the pooling."""
    digest = hashlib.sha256(json.dumps([maps, pooling.name, pooling.layers]).encode())
    _add_weights(digest, pooling.module)
    return cache / f"{digest.hexdigest()[:24]}.npy", pooling


def _add_weights(digest: hashlib._Hash, module: torch.nn.Module) -> None:
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())


def _map_batches(
    encoder: Encoder,
    pixels: DecodedImages,
    layers: int,
    flipped: bool,
    batch_size: int,
    device: torch.device,
    on_batch: Callable[[], None],
) -> Iterator[list[torch.Tensor]]:
    """Yield so many of the last maps of each batch."""
    for start in range(0, len(pixels.array), batch_size):
        on_batch()
        crops = image_batch(pixels.array[start : start + batch_size], pixels.geometry, device, flipped=flipped)
        yield encoder.maps(crops, layers)


def _compute(
    encoder: Encoder, batches: Iterable[Sequence[torch.Tensor]], wanted: Mapping[Path, Pooling], *, images: int
) -> None:
    """Write the features of each pooling that fits the maps."""
    files: dict[Path, BinaryIO] = {}
    try:
        with ExitStack() as drafts, evaluation_mode(encoder), torch.inference_mode():
            for maps in batches:
                for path, pooling in wanted.items():
                    if not pooling.fits(maps):
                        continue
                    features = encoder.pool_maps(maps[: pooling.layers], pooling.module).float().cpu().numpy()
                    if path not in files:
                        files[path] = drafts.enter_context(drafts.enter_context(replaced_atomically(path)).open("wb"))
                        _write_header(files[path], (images, features.shape[1]))
                    files[path].write(features.tobytes())
    except OSError as error:
        folder = next(iter(wanted)).parent
        raise DataError(
            f"the features of the frozen encoder need room for {images:,} images in {folder}, but: {error.strerror}. "
            "Make room, or name another folder in WHALE_RAY_CACHE"
        ) from error


def _write_header(stream: BinaryIO, shape: tuple[int, int]) -> None:
    """Write the start of an array file of float32 numbers."""
    kind = np.lib.format.dtype_to_descr(np.dtype(np.float32))
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
