"""Embeddings of a trial's photographs: both views, through cached features if the trunk is frozen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from whale_ray.data.pixel_cache import DecodedImages
from whale_ray.sweep.trials.embeddings_io import Views

if TYPE_CHECKING:
    import torch

    from whale_ray.learning.encoders.registry import Encoder

_TIMED_IMAGES = 32


class TrialEmbedder:
    """Embeds photographs with the encoder of a trial.

    Args:
        pixels: The decoded photographs.
        feature_cache: Folder of the features of frozen trunks on this machine.
        batch_size: Number of images per batch.
        device: Device of the encoder.
        on_batch: Called before each batch.
        poolings: `pool` and `layers` of other frozen trials; their features come from the same pass.
    """

    def __init__(
        self,
        pixels: DecodedImages,
        *,
        feature_cache: Path,
        batch_size: int,
        device: torch.device,
        on_batch: Callable[[], None],
        poolings: Sequence[tuple[str, int]] = (),
    ) -> None:
        self.pixels, self.feature_cache = pixels, feature_cache
        self.batch_size, self.device, self.on_batch = batch_size, device, on_batch
        self.poolings = poolings
        self._features: dict[bool, np.ndarray] = {}

    def embed(self, encoder: Encoder, rows: np.ndarray, *, flipped: bool) -> np.ndarray:
        """Return the embeddings of photographs.

        Args:
            encoder: The encoder.
            rows: Rows of the photographs, int64, shape (N,).
            flipped: Embed the mirrored images.

        Returns:
            Unit vectors, float16, shape (N, D).

        Raises:
            TrainingError: If an embedding is not finite.
        """
        from whale_ray.retrieval.feature_cache import embed_features

        if encoder.is_frozen:
            return embed_features(encoder, self.features(encoder, flipped=flipped)[rows], device=self.device)
        return self._embed_pixels(encoder, rows, flipped=flipped)

    def embed_views(self, encoder: Encoder, rows: np.ndarray) -> Views:
        """Return the embeddings of the plain and the flipped images, for any retrieval setting scored later.

        Args:
            encoder: The encoder.
            rows: Rows of the photographs, int64, shape (N,).
        """
        return {name: self.embed(encoder, rows, flipped=name == "flip") for name in ("plain", "flip")}

    def images_per_second(self, encoder: Encoder, rows: np.ndarray) -> float:
        """Return the measured speed from pixels to embeddings.

        Args:
            encoder: The encoder.
            rows: Rows of the photographs; the first ones are timed.
        """
        timed = rows[:_TIMED_IMAGES]
        started = time.perf_counter()
        self._embed_pixels(encoder, timed, flipped=False)
        return len(timed) / (time.perf_counter() - started)

    def features(self, encoder: Encoder, *, flipped: bool) -> np.ndarray:
        """Return what the neck of a frozen encoder gets of every photograph, float32, shape (N, C).

        Looked up once: to find them, all weights of the trunk are hashed.

        Args:
            encoder: The encoder.
            flipped: Features of the mirrored images.
        """
        from whale_ray.retrieval.feature_cache import frozen_features

        if flipped not in self._features:
            self._features[flipped] = frozen_features(
                encoder,
                self.pixels,
                flipped=flipped,
                cache=self.feature_cache,
                poolings=self.poolings,
                batch_size=self.batch_size,
                device=self.device,
                on_batch=self.on_batch,
            )
        return self._features[flipped]

    def _embed_pixels(self, encoder: Encoder, rows: np.ndarray, *, flipped: bool) -> np.ndarray:
        from whale_ray.retrieval.embed import embed

        return embed(
            encoder,
            self.pixels.array,
            self.pixels.geometry,
            rows,
            flipped=flipped,
            batch_size=self.batch_size,
            device=self.device,
            on_batch=self.on_batch,
        )
