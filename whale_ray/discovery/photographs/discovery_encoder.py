"""Encoder of a discovery: that of a bundle, or a frozen one with published weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from whale_ray.data.image_io import Geometry
from whale_ray.device import keep_freed_memory
from whale_ray.errors import EncoderError
from whale_ray.inference.predictor import Bundle
from whale_ray.learning.encoders.registry import Encoder, build_encoder
from whale_ray.retrieval.embed import embed
from whale_ray.retrieval.search.gallery_index import normalize_rows

DEFAULT_ENCODER = "torchvision:mobilenet_v2"
_SIDE = 224


class FrozenEncoder:
    """An encoder without a head whose weights stay as they were published.

    Args:
        encoder: The encoder.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.geometry = Geometry(_SIDE, _SIDE)

    def embed(self, arrays: Sequence[np.ndarray], /) -> np.ndarray:
        """Return unit embeddings, float32, shape (N, D), of prepared photographs."""
        return normalize_rows(embed(self._encoder, np.stack(arrays), self.geometry, np.arange(len(arrays))))


def open_frozen_encoder(name: str, *, weights: str = "pretrained") -> tuple[FrozenEncoder, str]:
    """Return a frozen encoder and its fingerprint.

    Args:
        name: Encoder as `model.encoder` of a sweep.
        weights: `pretrained` or the path of a file of weights.

    Raises:
        EncoderError: If the encoder does not exist or its weights cannot be had.
    """
    keep_freed_memory()
    try:
        encoder = build_encoder(
            name, embedding_size=None, neck="none", weights=weights, freeze="trunk", image_size=(_SIDE, _SIDE)
        )
    except EncoderError as error:
        raise EncoderError(
            f"without --bundle the photographs are embedded with {name}, but: {error} "
            "Name a bundle with --bundle, or a file of weights with --weights FILE"
        ) from None
    digest = "" if weights == "pretrained" else hashlib.sha256(Path(weights).read_bytes()).hexdigest()[:16]
    return FrozenEncoder(encoder), f"{name} {digest or weights}"


def bundle_fingerprint(bundle: Bundle) -> str:
    """Return what decides the embeddings of a bundle: its id, the hash of its weights and its views."""
    return f"{bundle.id} {bundle.card['files']['encoder.safetensors'][:16]} {bundle.setting.flip}"


def is_trained_on_gallery(bundle: Bundle) -> bool:
    """Return whether encoder or whitening were trained on the animals of the gallery.

    Pairs of these animals then look more different than pairs of other animals, and say nothing about them.
    """
    recipe = bundle.card["encoder"]
    members = recipe.get("members", [recipe])
    is_frozen = all(one.get("freeze") == "trunk" and one.get("neck") == "none" for one in members)
    return not is_frozen or bundle.setting.whiten == "learned"
