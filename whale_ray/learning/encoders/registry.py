"""Encoders: backbone, pooling and neck, built by name or rebuilt from a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from whale_ray.errors import EncoderError
from whale_ray.learning.encoders.backbone_families import ENCODERS, split_encoder_name
from whale_ray.learning.encoders.backbones.backbone import Backbone
from whale_ray.learning.encoders.encoder_checks import check_embeddings
from whale_ray.learning.encoders.layers import CHANNELS, NECKS, OWN_POOL, POOLS, OwnPool, Whiten, select_channels
from whale_ray.learning.encoders.model_errors import named_model_errors

WHITENED = "whitened_size"
"""The recipe's key for the dimensions of an encoder that whitens; absent where it does not."""


class Head(nn.Module):
    """Head of an encoder: pooling and neck.

    Args:
        pool: Pooling module.
        neck: Module from pooled features to the embedding.
    """

    def __init__(self, pool: nn.Module, neck: nn.Module) -> None:
        super().__init__()
        self.pool = pool
        self.neck = neck


class Encoder(nn.Module):
    """Embedding network: RGB images from 0 to 1, float, (B, 3, H, W), to embeddings (B, D), not normalised.

    With `freeze="trunk"` backbone and pooling take no gradient and stay in evaluation mode, batch statistics included.
    The `features` of an image are then constant, and `forward` accepts them, float, (B, C), instead of images.

    Args:
        trunk: The backbone.
        head: Pooling and neck.
        embedding_size: D.
        recipe: JSON-able description from which `rebuild_encoder` builds the architecture; the weights are the
            `state_dict`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, trunk: Backbone, head: Head, *, embedding_size: int, recipe: dict[str, Any]) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.whitening: nn.Module = nn.Identity()
        self.embedding_size = embedding_size
        self.recipe = recipe
        self.register_buffer("mean", torch.tensor(recipe["mean"]).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(recipe["std"]).view(1, -1, 1, 1), persistent=False)
        if self.is_frozen:
            self.trunk.requires_grad_(False)
            self.head.pool.requires_grad_(False)
        self.train()

    @property
    def is_frozen(self) -> bool:
        """True if the backbone and the pooling are frozen."""
        return bool(self.recipe["freeze"] == "trunk")

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings of a batch of images, or of their features."""
        features = images if images.ndim == 2 else self.features(images)
        embeddings: Tensor = self.whitening(self.head.neck(features))
        return embeddings

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled and normalised backbone features, shape (B, C).

        With several layers, their unit vectors are concatenated.
        """
        return self.pool_maps(self.maps(images), self.head.pool)

    def maps(self, images: Tensor, layers: int | None = None) -> list[Tensor]:
        """Return the backbone's last feature maps, as `Backbone.maps` does.

        Args:
            images: As in `forward`.
            layers: Number of maps; None for those that the encoder pools.
        """
        channels = select_channels(images, self.trunk.channels)
        return self.trunk.maps((channels - self.mean) / self.std, layers)

    def pool_maps(self, maps: Sequence[Tensor], pool: nn.Module) -> Tensor:
        """Return the features that a pooling makes of maps, shape (B, C), as `features` does.

        Args:
            maps: The last feature map first.
            pool: The pooling.
        """
        last, *others = [pool(one, self.trunk.prefix) for one in maps]
        if not others:
            pooled: Tensor = self.trunk.norm(last)
            return pooled
        return torch.cat([F.normalize(part.float()) for part in (self.trunk.norm(last), *others)], dim=1)

    def train(self, mode: bool = True) -> Encoder:
        """Set training mode; a frozen trunk stays in evaluation mode."""
        super().train(mode)
        if self.is_frozen:
            self.trunk.eval()
        return self


def build_encoder(
    name: str,
    *,
    embedding_size: int | None,
    pool: str = "auto",
    neck: str = "linear",
    weights: str = "pretrained",
    freeze: str = "none",
    layers: int = 1,
    image_size: tuple[int, int] = (224, 224),
) -> Encoder:
    """Build an encoder. Random initial weights come from torch's default generator.

    Args:
        name: `tiny`, or a family and a model such as `torchvision:resnet18`, see `backbone_families`.
        embedding_size: D; None keeps the backbone's number of features.
        pool: `avg`, `gem`, `cls` or `auto` (the model's own pooling; class token or average for families without).
        neck: `linear`, `bnneck` or `none` (the pooled features).
        weights: `pretrained`, `random` or the path of a file (.safetensors, or .pth with tensors only).
        freeze: `none` or `trunk` (the backbone).
        layers: Number of feature-map sizes that are pooled and concatenated.
        image_size: Height and width in pixels.

    Raises:
        EncoderError: If a name or option is unknown, weights cannot be loaded or do not fit, the model's code fails,
            the images are too small, or a picture has not always the same embedding.
    """
    _check_choice("pool", pool, ("auto", *POOLS))
    _check_choice("neck", neck, ("none", *NECKS))
    _check_choice("freeze", freeze, ("none", "trunk"))
    family, model = split_encoder_name(name)
    height, width = image_size
    with named_model_errors(name, "cannot be built", remedy="Choose another encoder"):
        trunk = ENCODERS[family](model, weights=weights, image_size=(height, width))
    options = {"pool": pool, "neck": neck, "freeze": freeze, "layers": layers, "image_size": [height, width]}
    statistics = {"mean": list(trunk.mean), "std": list(trunk.std)}
    recipe = {"name": name, "embedding_size": embedding_size, **options, **statistics, **trunk.origin}
    encoder = _assemble(trunk, recipe)
    size, is_random = encoder.embedding_size, recipe.get("weights") == "random"
    check_embeddings(encoder, name=name, image_size=(height, width), embedding_size=size, is_random=is_random)
    return encoder


def rebuild_encoder(recipe: dict[str, Any]) -> Encoder:
    """Build an encoder of the recipe's architecture with random weights. Needs neither network nor files.

    Raises:
        EncoderError: If this version cannot build what the recipe names.
    """
    family, model = split_encoder_name(recipe["name"])
    height, width = recipe["image_size"]
    known = {"config": recipe["config"]} if "config" in recipe else {}
    with named_model_errors(recipe["name"], "cannot be built from its recipe"):
        trunk = ENCODERS[family](model, weights="random", image_size=(height, width), **known)
    trunk.channels = recipe.get(CHANNELS, "RGB")
    encoder = _assemble(trunk, {key: value for key, value in recipe.items() if key != WHITENED})
    if WHITENED in recipe:
        encoder.whitening = Whiten(encoder.embedding_size, recipe[WHITENED])
        encoder.embedding_size = recipe[WHITENED]
        encoder.recipe = dict(recipe)
    return encoder


def add_whitening(
    recipe: dict[str, Any], weights: Mapping[str, Tensor], *, mean: np.ndarray, matrix: np.ndarray
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return recipe and weights of the encoder followed by a whitening.

    Args:
        recipe: Recipe of the encoder.
        weights: State dict of the encoder.
        mean: Subtracted from each embedding, shape (D,).
        matrix: Multiplied to it, shape (D, d).
    """
    parts = {"whitening.mean": mean, "whitening.matrix": matrix}
    tensors = {name: torch.from_numpy(part.astype(np.float32)).contiguous() for name, part in parts.items()}
    return {**recipe, WHITENED: matrix.shape[1]}, {**weights, **tensors}


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise EncoderError(f"model.{key} must be one of {', '.join(choices)}, but got {value!r}")


def _assemble(trunk: Backbone, recipe: dict[str, Any]) -> Encoder:
    if recipe["pool"] not in ("auto", OWN_POOL):
        trunk.leave_pooling()
    trunk.measure(tuple(recipe["image_size"]), name=recipe["name"], layers=recipe.get("layers", 1))
    if recipe["pool"] == "auto":
        recipe["pool"] = OWN_POOL if trunk.pools else "cls" if trunk.class_token else "avg"
    if recipe["pool"] == "cls" and not trunk.class_token:
        raise EncoderError(f"{recipe['name']} has no class token for `pool: cls`. Set model.pool to avg or gem.")
    size = recipe["embedding_size"] or trunk.features
    neck = _build_neck(recipe["neck"], trunk.features, size, name=recipe["name"])
    pool = OwnPool() if recipe["pool"] == OWN_POOL else POOLS[recipe["pool"]]()
    head = Head(pool, neck)
    return Encoder(trunk, head, embedding_size=size, recipe=recipe | {"embedding_size": size})


def _build_neck(kind: str, features: int, embedding_size: int, *, name: str) -> nn.Module:
    if kind != "none":
        return NECKS[kind](features, embedding_size)
    if embedding_size != features:
        raise EncoderError(
            f"`neck: none` returns the {features} features of {name}, but embedding_size is "
            f"{embedding_size}. Write embedding_size: null, or choose neck linear or bnneck."
        )
    return nn.Identity()
