"""Backbone module: a network without its classifier, from images to features. Includes the `tiny` backbone.

The setting `model.freeze: trunk` freezes the backbone; saved weights call it `trunk`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from whale_ray.errors import EncoderError
from whale_ray.learning.encoders.backbones.weight_files import load_strictly, read_weights
from whale_ray.learning.encoders.layers import small_network
from whale_ray.learning.encoders.model_errors import describe_error

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """A network without its classifier: normalised images (B, C', H, W) to a map (B, C, h, w) or tokens (B, T, C).

    Args:
        body: The network.
        norm: The normalisation that the original classifier applies after pooling (ConvNeXt, MaxViT); None for none.
        class_token: The first token is a class token.
        prefix: Number of tokens that belong to no image patch, if the network declares it; None to count them.
        patch: Height and width of a patch in pixels, for networks with tokens.
        mean: Mean of the training images, by channel, from 0 to 1.
        std: Standard deviation of the training images.
        channels: Planes of the input, see `select_channels`.
        trained_size: Height and width of the training images; named if another size fails.
        origin: What the recipe records about the weights.

    Attributes:
        features: Number of features C, set by `measure`.
        prefix: Number of tokens that belong to no image patch, set by `measure` if the network does not declare it.
        layers: Number of maps that `maps` returns.
    """

    def __init__(
        self,
        body: nn.Module,
        *,
        norm: nn.Module | None = None,
        class_token: bool = False,
        prefix: int | None = None,
        patch: tuple[int, int] | None = None,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        channels: str = "RGB",
        trained_size: tuple[int, int] = (224, 224),
        origin: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.norm = norm or nn.Identity()
        self.class_token = class_token
        self.mean, self.std, self.channels = mean, std, channels
        self.trained_size = trained_size
        self.origin = origin or {}
        self.features, self.prefix, self.layers = 0, prefix or 0, 1
        self._patch, self._declares_prefix = patch, prefix is not None

    @property
    def pools(self) -> bool:
        """True if the network returns features that it has pooled itself, shape (B, C)."""
        return isinstance(self.body, PoolingBody) and self.body.pools

    def leave_pooling(self) -> None:
        """Return features before the network's own pooling from now on; its last normalisation follows the pooling."""
        if isinstance(self.body, PoolingBody):
            self.norm = self.body.leave_pooling() or nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of normalised images."""
        features: Tensor = self.body(images)
        return features

    def maps(self, images: Tensor, layers: int | None = None) -> list[Tensor]:
        """Return the last feature map, then the last map of each larger size.

        Args:
            images: Normalised images.
            layers: Number of maps; fewer are returned if the network has fewer sizes. None for those of the encoder.
        """
        layers = layers or self.layers
        if layers == 1:
            return [self(images)]
        maps: list[Tensor] = []
        for layer in flatten_sequential(self.body):
            images = layer(images)
            if maps and maps[-1].shape[2:] == images.shape[2:]:
                maps.pop()
            maps.append(images)
        return maps[: -layers - 1 : -1]

    def measure(self, image_size: tuple[int, int], *, name: str, layers: int = 1) -> None:
        """Set the number of features and of prefix tokens from one black image.

        Args:
            image_size: Height and width in pixels.
            name: Name of the encoder, for messages.
            layers: Number of maps to pool.

        Raises:
            EncoderError: If images of that size do not pass, or the network gives something else or fewer maps.
        """
        self.layers = layers
        try:
            maps = self._maps_of_black(image_size)
        except EncoderError:
            raise
        except Exception as error:
            raise self._explain_failure(name, image_size, error) from error
        features = maps[0]
        if features.ndim not in ((2,) if self.pools else (3, 4)) or len(features) != 1:
            wanted = "pooled features (1, C)" if self.pools else "a map (1, C, h, w) or tokens (1, T, C)"
            raise EncoderError(
                f"an encoder gives {wanted} for a picture, but {name} gives {tuple(features.shape)}. "
                f"{'Write another model.pool, or choose' if isinstance(self.body, PoolingBody) else 'Choose'} "
                "another encoder"
            )
        if len(maps) < layers or (layers > 1 and features.ndim != 4):
            sizes = len(maps) if features.ndim == 4 else 1
            raise EncoderError(
                f"`model.layers: {layers}` joins the last maps of {layers} sizes, but {name} gives {sizes}. "
                "Write a smaller number, or take an encoder that is a chain of convolutions."
            )
        self.features = sum(one.shape[1] for one in maps) if features.ndim == 4 else features.shape[-1]
        if isinstance(self.body, PoolingBody) and self.features != self.body.width:
            raise EncoderError(
                f"{name} declares {self.body.width} features, but gives {self.features}: its layout "
                f"{tuple(features.shape)} is not the one that it declares. Choose another encoder"
            )
        self.class_token = self.class_token and features.ndim == 3
        if self.class_token and not self._declares_prefix:
            self.prefix = features.shape[1] - self._places(image_size) if self._patch else 1
        self.train()

    def _maps_of_black(self, image_size: tuple[int, int]) -> list[Tensor]:
        if isinstance(self.body, ResizableBody):
            self.body.adapt_to(image_size)
        with torch.no_grad():
            return self.eval().maps(torch.zeros(1, len(self.channels), *image_size))

    def _explain_failure(self, name: str, image_size: tuple[int, int], error: Exception) -> EncoderError:
        """Return the error for a size that fails: another size is the remedy only if it passes."""
        sizes = [size for size in (self.trained_size, (224, 224)) if size != image_size]
        for size in dict.fromkeys(sizes):
            try:
                self._maps_of_black(size)
            except Exception:  # the first failure is the one to report
                continue
            return image_size_error(name, image_size, error, such_as=size)
        tried = " and ".join("{}x{}".format(*size) for size in dict.fromkeys((image_size, *sizes)))
        return EncoderError(f"{name} fails on pictures of {tried}: {describe_error(error)}. Choose another encoder")

    def _places(self, image_size: tuple[int, int]) -> int:
        height, width = self._patch or image_size
        return (image_size[0] // height) * (image_size[1] // width)


def flatten_sequential(body: nn.Module) -> list[nn.Module]:
    """Return the modules that an image passes in order: nested `Sequential`s are opened, all else stays whole."""
    if not isinstance(body, nn.Sequential):
        return [body]
    return [layer for child in body for layer in flatten_sequential(child)]


class ResizableBody(nn.Module):
    """A network that adapts to the size of its images."""

    def adapt_to(self, image_size: tuple[int, int]) -> None:
        """Prepare for images of this height and width in pixels."""


class PoolingBody(nn.Module):
    """A network that can pool its features itself.

    Attributes:
        pools: It returns pooled features (B, C), which it does at first; else a map or tokens.
    """

    pools = True

    @property
    def width(self) -> int:
        """Number of features that the network declares."""
        raise NotImplementedError

    def leave_pooling(self) -> nn.Module | None:
        """Return a map or tokens from now on; remove and return the normalisation that followed the pooling."""
        raise NotImplementedError


def flat_layer_norm(layer: nn.LayerNorm) -> nn.LayerNorm:
    """Return a layer normalisation of maps as one of vectors, with the same weights."""
    flat = nn.LayerNorm(layer.normalized_shape, eps=layer.eps)
    flat.load_state_dict(layer.state_dict())
    return flat


def image_size_error(
    name: str, image_size: tuple[int, int], error: Exception, *, such_as: tuple[int, int] = (224, 224)
) -> EncoderError:
    """Return the error for an image size that a network cannot process.

    Args:
        name: Name of the encoder.
        image_size: Height and width in pixels.
        error: What the network raised.
        such_as: A size that it can process.
    """
    height, width = image_size
    size = str(such_as[0]) if such_as[0] == such_as[1] else f"{such_as[0]}x{such_as[1]}"
    return EncoderError(
        f"{name} cannot take pictures of {height}x{width}: {describe_error(error)}. Choose another data.image_size, "
        f"such as {size}."
    )


def tiny_backbone(name: str, *, weights: str, image_size: tuple[int, int]) -> Backbone:
    """Return the small convolutional network. It has no pretrained weights; `pretrained` starts at random too.

    Args:
        name: Unused; every family has the same signature.
        weights: `pretrained`, `random` or the path of a file.
        image_size: Height and width in pixels; unused.

    Raises:
        EncoderError: If the file of weights is missing or does not fit.
    """
    body = small_network()
    if weights not in ("pretrained", "random"):
        load_strictly(body, read_weights(Path(weights)), source=weights, target="tiny")
    return Backbone(body, origin={"weights": "random" if weights == "pretrained" else weights})
