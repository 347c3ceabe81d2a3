"""Layers of encoders: pooling, necks and whitening.

Features are a map (B, C, h, w), or tokens (B, prefix + N, C) whose first `prefix` tokens (class token, registers)
belong to no image patch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AveragePool(nn.Module):
    """Mean over the places of a picture: features → (B, C)."""

    def forward(self, features: Tensor, prefix: int) -> Tensor:
        """Return the mean of a map over height and width, or of tokens without their prefix.

        Args:
            features: Map or tokens.
            prefix: Number of prefix tokens.
        """
        return features.mean((2, 3)) if features.ndim == 4 else features[:, prefix:].mean(1)


class GeneralisedMeanPool(nn.Module):
    """Generalised mean over the places of a picture, its power learned: features → (B, C).

    mean(max(x, eps)^p)^(1/p): p = 1 is the average, p → ∞ the maximum (Radenović, Tolias, Chum, 2018,
    "Fine-tuning CNN image retrieval with no human annotation"). Negative activations count as eps.
    """

    def __init__(self, power: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor([power]))
        self.eps = eps

    def forward(self, features: Tensor, prefix: int) -> Tensor:
        """Return the generalised mean, computed in float32: bfloat16 lacks the precision for powers.

        Args:
            features: Map or tokens.
            prefix: Number of prefix tokens.
        """
        places = features.flatten(2) if features.ndim == 4 else features[:, prefix:].transpose(1, 2)
        with torch.autocast(features.device.type, enabled=False):
            return places.float().clamp(min=self.eps).pow(self.power).mean(2).pow(1.0 / self.power)


class ClassTokenPool(nn.Module):
    """Class token, the first token: (B, prefix + N, C) to (B, C)."""

    def forward(self, features: Tensor, prefix: int) -> Tensor:
        """Return the first token.

        Args:
            features: Tokens.
            prefix: Number of prefix tokens.
        """
        return features[:, 0]


class OwnPool(nn.Module):
    """Features that the network has pooled itself, unchanged: (B, C)."""

    def forward(self, features: Tensor, prefix: int) -> Tensor:
        """Return the features.

        Args:
            features: Pooled features.
            prefix: Unused.
        """
        return features


OWN_POOL = "own"
"""What `pool: auto` becomes in the recipe of an encoder that pools its features itself."""
POOLS: dict[str, type[nn.Module]] = {"avg": AveragePool, "gem": GeneralisedMeanPool, "cls": ClassTokenPool}


def linear_neck(features: int, embedding_size: int) -> nn.Module:
    """Return one linear layer, (B, features) to (B, embedding_size), with zero initial bias.

    Args:
        features: Number of input features.
        embedding_size: Number of output features.
    """
    layer = nn.Linear(features, embedding_size)
    nn.init.zeros_(layer.bias)
    return layer


def batch_norm_neck(features: int, embedding_size: int) -> nn.Module:
    """Return a linear layer and a batch normalisation whose shift stays zero (BNNeck).

    Luo et al., "Bag of tricks and a strong baseline for deep person re-identification", CVPR workshops 2019. Without a
    shift the embeddings stay centred on the origin, as a cosine requires. Loss and search both use the normalised
    embedding.

    Args:
        features: Number of input features.
        embedding_size: Number of output features.
    """
    norm = nn.BatchNorm1d(embedding_size)
    norm.bias.requires_grad_(False)
    return nn.Sequential(nn.Linear(features, embedding_size, bias=False), norm)


NECKS: dict[str, Callable[[int, int], nn.Module]] = {"linear": linear_neck, "bnneck": batch_norm_neck}


CHANNELS = "channels"
"""A recipe's key for the planes of the encoder's input, such as BGR; absent for RGB."""
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's mode L


def select_channels(images: Tensor, channels: str) -> Tensor:
    """Return RGB images, (B, 3, H, W), as (B, C, H, W) with other channels.

    Args:
        images: RGB images.
        channels: The C planes in their order: R, G, B, or L for gray; "BGR" for models trained with OpenCV.
    """
    if channels == "RGB":
        return images
    red, green, blue = (images[:, plane : plane + 1] for plane in range(3))
    gray = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    planes = {"R": red, "G": green, "B": blue, "L": gray}
    return torch.cat([planes[plane] for plane in channels], dim=1)


class Whiten(nn.Module):
    """Linear map of unit vectors, (B, D) to (B, d); the result is not normalised.

    Args:
        features: D.
        whitened: d.

    Attributes:
        mean: Subtracted from each vector, shape (D,).
        matrix: Multiplied to it, shape (D, d).
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, features: int, whitened: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("matrix", torch.zeros(features, whitened))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the whitened embeddings, in float32 always."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return (F.normalize(embeddings.float()) - self.mean) @ self.matrix


@contextmanager
def settled_norms(module: nn.Module) -> Iterator[None]:
    """Let batch normalisations use what they have learned so far: a batch of one image has no statistics."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    switched = [layer.eval() for layer in norms if layer.training]
    try:
        yield
    finally:
        for layer in switched:
            layer.train()


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, halving the map: (B, C, h, w) → (B, C', h/2, w/2)."""

    def __init__(self, channels: int, widened: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, widened, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(widened),
            nn.ReLU(),
            nn.Conv2d(widened, widened, 3, padding=1, bias=False),
            nn.BatchNorm2d(widened),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=True),
            nn.Conv2d(channels, widened, 1, bias=False),
            nn.BatchNorm2d(widened),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return the halved and widened map."""
        return F.relu(self.convolutions(features) + self.shortcut(features))


def small_network() -> nn.Sequential:
    """Return a residual network of 335,000 parameters: (B, 3, H, W) → (B, 128, H/16, W/16), rounded up."""
    stem = nn.Sequential(nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
    stages = [
        ("stem", stem),
        ("stage1", Residual(32, 48)),
        ("stage2", Residual(48, 64)),
        ("stage3", Residual(64, 128)),
    ]
    return nn.Sequential(OrderedDict(stages))
