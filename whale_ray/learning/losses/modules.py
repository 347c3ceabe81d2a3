"""The modules that losses are put together from.

Knows tensors alone: neither names of losses, nor encoders, nor training. Embeddings come as they are, not normalised;
the label -1 is an unknown whale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from pytorch_metric_learning.losses import SubCenterArcFaceLoss


class NamedOnly(nn.Module):
    """A loss that knows named individuals only: (embeddings (B, D), labels (B,)) → scalar.

    A label -1 would count as the last class in some of these losses and vanish in others: it is refused.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss. Raises: ValueError for a label below zero."""
        refuse_unknown(labels)
        loss: Tensor = self.loss(embeddings.float(), labels)
        return loss


def refuse_unknown(labels: Tensor) -> None:
    """Return nothing where every label is a named individual's. Raises: ValueError for a label below zero."""
    if bool((labels < 0).any()):
        raise ValueError("this loss takes labels of named individuals only, but got the label -1")


class MarginEach(nn.Module):
    """ArcFace with a margin of its own for each individual: (embeddings (B, D), labels (B,)) → scalar.

    centres: gives the cosines to each individual's nearest centre. margins: (C,), radians. Where angle and margin
    exceed half a turn together, the cosine falls on in a line, as in ArcFace's own code.
    """

    margins: Tensor

    def __init__(self, centres: SubCenterArcFaceLoss, margins: Tensor) -> None:
        super().__init__()
        self.centres = centres
        self.register_buffer("margins", margins, persistent=False)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss. Raises: ValueError for a label below zero."""
        refuse_unknown(labels)
        cosines: Tensor = self.centres.get_cosine(embeddings.float())
        place, margin = labels[:, None], self.margins[labels][:, None]
        own = cosines.gather(1, place).clamp(-1 + 1e-7, 1 - 1e-7)
        angle = own.acos()
        line = own - margin * margin.sin()
        pushed = torch.where(angle + margin <= math.pi, (angle + margin).cos(), line)
        return F.cross_entropy(self.centres.scale * cosines.scatter(1, place, pushed), labels)


def all_pairs(
    embeddings: Tensor, labels: Tensor, others: Tensor | None = None, other_labels: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Return every pair of an image with another, of the batch or of `others`: (anchor, positive, anchor, negative)."""
    same = labels[:, None] == (labels if other_labels is None else other_labels)
    itself = torch.eye(*same.shape, dtype=torch.bool, device=labels.device)
    return (*torch.where(same & ~itself), *torch.where(~same))


class MinedPairs(nn.Module):
    """A loss over pairs or triplets: (embeddings (B, D), labels (B,)) → scalar.

    `pairs` names the pairs (anchor, positive, anchor, negative) or triplets. Those whose positives are two unknown
    whales are left out, and with `lone_anchors=False` all whose anchor has no positive, as an unknown whale has none:
    it is a negative to each named image and nothing to another unknown whale.
    """

    def __init__(self, loss: nn.Module, pairs: Callable[..., tuple[Tensor, ...]], *, lone_anchors: bool) -> None:
        super().__init__()
        self.loss = loss
        self.pairs = pairs
        self.lone_anchors = lone_anchors

    def forward(
        self, embeddings: Tensor, labels: Tensor, others: Tensor | None = None, theirs: Tensor | None = None
    ) -> Tensor:
        """Return the loss; zero, with a gradient of zero, where there is no pair.

        others, theirs: the embeddings that those of the batch are compared with, and their labels; they begin with the
        batch itself. Left out, they are the batch.
        """
        embeddings = embeddings.float()
        compared = () if others is None else (others, theirs)
        found = self.pairs(embeddings, labels, *compared)
        loss: Tensor = self.loss(embeddings, labels, self._kept(found, labels, theirs), *compared)
        return loss

    def _kept(self, found: tuple[Tensor, ...], labels: Tensor, theirs: Tensor | None) -> tuple[Tensor, ...]:
        # found[0] == found[1] is an image with itself: it has the same place in the batch and in `others`
        real = (labels[found[0]] >= 0) & (found[0] != found[1])
        if len(found) == 3:
            return tuple(index[real] for index in found)
        fellows = (labels[:, None] == (labels if theirs is None else theirs)).sum(1)
        against = (self.lone_anchors | ((fellows > 1) & (labels >= 0)))[found[2]]
        return found[0][real], found[1][real], found[2][against], found[3][against]


class Remembering(nn.Module):
    """A loss over pairs that also remembers: (embeddings (B, D), labels (B,)) → scalar.

    Each image is compared with those of its batch and with the last `size` embeddings of earlier batches, as they were
    then (cross-batch memory: Wang et al., CVPR 2020). What is remembered is part of the state.
    """

    embeddings: Tensor
    labels: Tensor
    seen: Tensor

    def __init__(self, loss: MinedPairs, *, size: int, embedding_size: int) -> None:
        super().__init__()
        self.loss = loss
        self.register_buffer("embeddings", torch.zeros(size, embedding_size))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, then remember the batch."""
        embeddings, filled = embeddings.float(), min(int(self.seen), len(self.labels))
        others = torch.cat([embeddings, self.embeddings[:filled]])
        loss: Tensor = self.loss(embeddings, labels, others, torch.cat([labels, self.labels[:filled]]))
        self._remember(embeddings.detach(), labels)
        return loss

    def _remember(self, embeddings: Tensor, labels: Tensor) -> None:
        size = len(self.labels)
        places = (self.seen + torch.arange(len(labels), device=labels.device)) % size
        self.embeddings[places[-size:]] = embeddings[-size:]
        self.labels[places[-size:]] = labels[-size:]
        self.seen += len(labels)


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
