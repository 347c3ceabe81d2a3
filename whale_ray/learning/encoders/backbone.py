"""What a trunk is: a network without its classifier, from pictures to features; and the smallest one.

Knows nothing of model libraries, embeddings, pooling or training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from whale_ray.errors import EncoderError
from whale_ray.learning.encoders.layers import small_network
from whale_ray.learning.encoders.pretrained_weights import load_strictly, read_weights

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Trunk(nn.Module):
    """A network without classifier: normalised pictures (B, 3, H, W) → map (B, C, h, w) or tokens (B, T, C).

    `norm` is the normalisation that the network's own classifier sees after pooling (ConvNeXt, MaxViT), else
    nothing. `layers` counts the maps that `maps` gives. `prefix` counts the tokens that stand for no place;
    `class_token`: the first is a class token. `mean` and `std` are what the pictures, from 0 to 1, are normalised
    with. `origin` is for the recipe.
    """

    def __init__(
        self,
        body: nn.Module,
        *,
        norm: nn.Module | None = None,
        class_token: bool = False,
        patch: tuple[int, int] | None = None,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        origin: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.norm = norm or nn.Identity()
        self.class_token = class_token
        self.mean, self.std = mean, std
        self.origin = origin or {}
        self.features, self.prefix, self.layers = 0, 0, 1
        self._patch = patch

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of normalised pictures."""
        features: Tensor = self.body(images)
        return features

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the features of normalised pictures, then what the layers before gave last at each larger size."""
        if self.layers == 1:
            return [self(images)]
        maps: list[Tensor] = []
        for layer in chain_of(self.body):
            images = layer(images)
            if maps and maps[-1].shape[2:] == images.shape[2:]:
                maps.pop()
            maps.append(images)
        return maps[: -self.layers - 1 : -1]

    def measure(self, image_size: tuple[int, int], *, name: str, layers: int = 1) -> None:
        """Learn the number of features and of prefix tokens from one black picture.

        Raises:
            EncoderError: pictures of that size (height, width) do not pass, or there are not so many layers to take.
        """
        self.layers = layers
        try:
            with torch.no_grad():
                maps = self.eval().maps(torch.zeros(1, 3, *image_size))
        except (RuntimeError, ValueError, AssertionError) as error:
            raise wrong_size(name, image_size, error) from error
        features = maps[0]
        if len(maps) < layers or (layers > 1 and features.ndim != 4):
            sizes = len(maps) if features.ndim == 4 else 1
            raise EncoderError(
                f"`model.layers: {layers}` joins the last maps of {layers} sizes, but {name} gives {sizes}. "
                "Write a smaller number, or take an encoder that is a chain of convolutions."
            )
        self.features = sum(one.shape[1] for one in maps) if features.ndim == 4 else features.shape[2]
        self.class_token = self.class_token and features.ndim == 3
        if self.class_token:
            self.prefix = features.shape[1] - self._places(image_size) if self._patch else 1
        self.train()

    def _places(self, image_size: tuple[int, int]) -> int:
        height, width = self._patch or image_size
        return (image_size[0] // height) * (image_size[1] // width)


def chain_of(body: nn.Module) -> list[nn.Module]:
    """Return the modules that a picture passes one after the other: nested sequences opened, all else whole."""
    if not isinstance(body, nn.Sequential):
        return [body]
    return [layer for child in body for layer in chain_of(child)]


def wrong_size(name: str, image_size: tuple[int, int], error: Exception) -> EncoderError:
    """Return the error for pictures that a network cannot take."""
    height, width = image_size
    reason = str(error).strip().partition("\n")[0]
    return EncoderError(
        f"{name} cannot take pictures of {height}x{width}: {reason}. Choose another data.image_size, such as 224."
    )


def tiny_trunk(name: str, *, weights: str, image_size: tuple[int, int]) -> Trunk:
    """Return the small network; there are no pretrained weights of it, so `pretrained` starts at random too.

    Raises:
        EncoderError: a file of weights that is not there or does not fit.
    """
    body = small_network()
    if weights not in ("pretrained", "random"):
        load_strictly(body, read_weights(Path(weights)), source=weights, target="tiny")
    return Trunk(body, origin={"weights": "random" if weights == "pretrained" else weights})
