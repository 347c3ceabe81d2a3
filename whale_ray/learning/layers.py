"""The modules that encoders and losses are put together from.

Knows tensors alone: neither names of encoders or losses, nor files, nor training.

Features come in two forms: a map (B, C, h, w), or tokens (B, prefix + N, C) where the first `prefix` tokens
(class token, registers) stand for no place in the picture.
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
        """Return the mean of a map over height and width, or of tokens without their prefix."""
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
        """Return the generalised mean, in float32 always: bfloat16 has no digits for powers."""
        places = features.flatten(2) if features.ndim == 4 else features[:, prefix:].transpose(1, 2)
        with torch.autocast(features.device.type, enabled=False):
            return places.float().clamp(min=self.eps).pow(self.power).mean(2).pow(1.0 / self.power)


class ClassTokenPool(nn.Module):
    """The class token, the first of the tokens: (B, prefix + N, C) → (B, C)."""

    def forward(self, features: Tensor, prefix: int) -> Tensor:
        """Return the first token."""
        return features[:, 0]


POOLS: dict[str, type[nn.Module]] = {"avg": AveragePool, "gem": GeneralisedMeanPool, "cls": ClassTokenPool}


def linear_neck(features: int, embedding_size: int) -> nn.Module:
    """Return one linear layer (B, features) → (B, embedding_size), its bias starting at zero."""
    layer = nn.Linear(features, embedding_size)
    nn.init.zeros_(layer.bias)
    return layer


def batch_norm_neck(features: int, embedding_size: int) -> nn.Module:
    """Return a linear layer and a batch normalisation whose shift stays zero (BNNeck: Luo et al., 2019).

    "Bag of Tricks and a Strong Baseline for Deep Person Re-Identification": without a shift the embeddings
    stay around the origin, which is what a cosine needs. Loss and search both see the normalised embedding.
    """
    norm = nn.BatchNorm1d(embedding_size)
    norm.bias.requires_grad_(False)
    return nn.Sequential(nn.Linear(features, embedding_size, bias=False), norm)


NECKS: dict[str, Callable[[int, int], nn.Module]] = {"linear": linear_neck, "bnneck": batch_norm_neck}


class Whiten(nn.Module):
    """A linear map of unit vectors: (B, D) → (B, d), not of unit length. mean: (D,). matrix: (D, d)."""

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


class NamedOnly(nn.Module):
    """A loss that knows named individuals only: (embeddings (B, D), labels (B,)) → scalar.

    A label -1 would count as the last class in some of these losses and vanish in others: it is refused.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss. Raises: ValueError for a label below zero."""
        if bool((labels < 0).any()):
            raise ValueError("this loss takes labels of named individuals only, but got the label -1")
        loss: Tensor = self.loss(embeddings.float(), labels)
        return loss


def all_pairs(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Return every pair of a batch: (anchor, positive, anchor, negative) indices, no image with itself."""
    same = labels[:, None] == labels
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return (*torch.where(same & ~itself), *torch.where(~same))


class MinedPairs(nn.Module):
    """A loss over pairs or triplets of one batch: (embeddings (B, D), labels (B,)) → scalar.

    `pairs` names the pairs (anchor, positive, anchor, negative) or triplets. Those whose positives are two
    unknown whales are left out, and with `unknown_anchors=False` all whose anchor is one: an unknown whale is
    a negative to each named image and nothing to another unknown whale.
    """

    def __init__(
        self, loss: nn.Module, pairs: Callable[[Tensor, Tensor], tuple[Tensor, ...]], *, unknown_anchors: bool
    ):
        super().__init__()
        self.loss = loss
        self.pairs = pairs
        self.unknown_anchors = unknown_anchors

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss; zero, with a gradient of zero, where the batch holds no pair."""
        embeddings = embeddings.float()
        found = self.pairs(embeddings, labels)
        named = labels[found[0]] >= 0
        if len(found) == 3:
            kept = tuple(index[named] for index in found)
        else:
            against = torch.ones_like(found[2], dtype=torch.bool) if self.unknown_anchors else labels[found[2]] >= 0
            kept = (found[0][named], found[1][named], found[2][against], found[3][against])
        loss: Tensor = self.loss(embeddings, labels, kept)
        return loss


class ProxyAnchor(nn.Module):
    """Proxy-Anchor loss (Kim et al., CVPR 2020): (embeddings (B, D), labels (B,)) → scalar.

    Each individual's proxy is an anchor: log(1 + Σ exp(-alpha (cos - margin))) over its images in the batch,
    averaged over the individuals that are in the batch, plus log(1 + Σ exp(alpha (cos + margin))) over all
    other images, averaged over all individuals. An unknown whale (-1) is an other image of every proxy: the
    formula has room for it, pytorch-metric-learning's code has not.
    """

    def __init__(self, num_classes: int, embedding_size: int, *, margin: float, alpha: float) -> None:
        super().__init__()
        self.proxies = nn.Parameter(torch.empty(num_classes, embedding_size))
        nn.init.kaiming_normal_(self.proxies, mode="fan_out")
        self.margin = margin
        self.alpha = alpha

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss; labels in -1 … num_classes - 1."""
        cosines = F.normalize(embeddings.float()) @ F.normalize(self.proxies).T
        own = labels[:, None] == torch.arange(len(self.proxies), device=labels.device)
        pull = _log_one_plus_sum(-self.alpha * (cosines - self.margin), own)
        push = _log_one_plus_sum(self.alpha * (cosines + self.margin), ~own)
        return pull.sum() / own.any(0).sum().clamp(min=1) + push.mean()


def _log_one_plus_sum(exponents: Tensor, chosen: Tensor) -> Tensor:
    """Return log(1 + Σ exp(exponents)) over the chosen rows of each column: (B, C) → (C,)."""
    masked = exponents.masked_fill(~chosen, float("-inf"))
    return torch.logsumexp(torch.cat([masked, torch.zeros_like(masked[:1])]), dim=0)
