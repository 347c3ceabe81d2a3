"""Building blocks of the losses, as modules `(embeddings, labels) -> scalar`.

Embeddings are not normalised. The label -1 is an unknown individual.
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


class NamedLabelsLoss(nn.Module):
    """A loss for named individuals only: (embeddings (B, D), labels (B,)) to a scalar.

    The label -1 would count as the last class in some losses and vanish in others, so it is refused.
    """

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss.

        Args:
            embeddings: Shape (B, D).
            labels: Shape (B,), each at least 0.

        Raises:
            ValueError: If a label is negative.
        """
        if bool((labels < 0).any()):
            raise ValueError("this loss takes labels of named individuals only, but got the label -1")
        return self._compute(embeddings.float(), labels)

    def _compute(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError


class NamedLabelsOnly(NamedLabelsLoss):
    """A loss of pytorch-metric-learning for named individuals only.

    Args:
        loss: The loss: (embeddings (B, D), labels (B,)) to a scalar.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def _compute(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.loss(embeddings, labels)
        return loss


class PerClassMarginArcFace(NamedLabelsLoss):
    """ArcFace with one margin per individual.

    If angle and margin together exceed pi, the cosine continues linearly, as in the original ArcFace code.

    Args:
        centres: Supplies the cosines to each individual's nearest center.
        margins: Margin of each individual in radians, shape (C,).
    """

    margins: Tensor

    def __init__(self, centres: SubCenterArcFaceLoss, margins: Tensor) -> None:
        super().__init__()
        self.centres = centres
        self.register_buffer("margins", margins, persistent=False)

    def _compute(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        cosines: Tensor = self.centres.get_cosine(embeddings)
        place, margin = labels[:, None], self.margins[labels][:, None]
        own = cosines.gather(1, place).clamp(-1 + 1e-7, 1 - 1e-7)
        angle = own.acos()
        line = own - margin * margin.sin()
        pushed = torch.where(angle + margin <= math.pi, (angle + margin).cos(), line)
        return F.cross_entropy(self.centres.scale * cosines.scatter(1, place, pushed), labels)


def all_pairs(
    embeddings: Tensor, labels: Tensor, others: Tensor | None = None, other_labels: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Return the indices of all pairs: (anchor, positive, anchor, negative).

    Args:
        embeddings: Shape (B, D); unused, as pytorch-metric-learning's miners have the same signature.
        labels: Shape (B,).
        others: Embeddings to compare with; None for the batch itself.
        other_labels: Labels of `others`.
    """
    same = labels[:, None] == (labels if other_labels is None else other_labels)
    itself = torch.eye(*same.shape, dtype=torch.bool, device=labels.device)
    return (*torch.where(same & ~itself), *torch.where(~same))


class MinedPairs(nn.Module):
    """A loss over pairs or triplets: (embeddings (B, D), labels (B,)) to a scalar.

    Pairs whose positives are two unknown individuals are dropped. An unknown individual is a negative of every named
    image and is ignored by other unknown ones.

    Args:
        loss: The loss of pytorch-metric-learning.
        pairs: Returns pairs (anchor, positive, anchor, negative) or triplets.
        lone_anchors: Keep anchors without a positive.
    """

    def __init__(self, loss: nn.Module, pairs: Callable[..., tuple[Tensor, ...]], *, lone_anchors: bool) -> None:
        super().__init__()
        self.loss = loss
        self.pairs = pairs
        self.lone_anchors = lone_anchors
        self._positives: Tensor | int = 0  # on the device of the labels: reading it would make the host wait
        self._kept_pairs = 0

    def forward(
        self, embeddings: Tensor, labels: Tensor, others: Tensor | None = None, theirs: Tensor | None = None
    ) -> Tensor:
        """Return the loss; zero, with zero gradient, if there is no pair.

        Args:
            embeddings: Shape (B, D).
            labels: Shape (B,).
            others: Embeddings that the batch is compared with; they begin with the batch itself. None for the batch.
            theirs: Labels of `others`.
        """
        embeddings = embeddings.float()
        compared = () if others is None else (others, theirs)
        found = self.pairs(embeddings, labels, *compared)
        kept = self._kept(found, labels, theirs)
        self._positives += _count_positives(labels, labels if theirs is None else theirs)
        self._kept_pairs += len(kept[0])
        loss: Tensor = self.loss(embeddings, labels, kept, *compared)
        return loss

    def take_counts(self) -> tuple[int, int]:
        """Return the positive pairs that the batches held since the last call, and those of them that were used."""
        counts = int(self._positives), self._kept_pairs
        self._positives, self._kept_pairs = 0, 0
        return counts

    def _kept(self, found: tuple[Tensor, ...], labels: Tensor, theirs: Tensor | None) -> tuple[Tensor, ...]:
        # found[0] == found[1] is an image with itself: it has the same place in the batch and in `others`
        real = (labels[found[0]] >= 0) & (found[0] != found[1])
        if len(found) == 3:
            return tuple(index[real] for index in found)
        fellows = (labels[:, None] == (labels if theirs is None else theirs)).sum(1)
        against = (self.lone_anchors | ((fellows > 1) & (labels >= 0)))[found[2]]
        return found[0][real], found[1][real], found[2][against], found[3][against]


def _count_positives(labels: Tensor, others: Tensor) -> Tensor:
    """Return the number of pairs of a named image with another one of its individual; `others` begin with `labels`."""
    fellows = (labels[:, None] == others).sum(1) - 1
    return fellows[labels >= 0].sum()


class CrossBatchMemory(nn.Module):
    """A pair loss with a memory of earlier batches (XBM): (embeddings (B, D), labels (B,)) to a scalar.

    Each image is compared with its batch and with the last `size` embeddings of earlier batches. Wang et al.,
    "Cross-batch memory for embedding learning", CVPR 2020. The memory is part of the state.

    Args:
        loss: The pair loss.
        size: Number of embeddings to remember.
        embedding_size: D.
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
        """Return the loss, then remember the batch.

        Args:
            embeddings: Shape (B, D).
            labels: Shape (B,).
        """
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
    """Proxy-Anchor loss (Kim et al., CVPR 2020): (embeddings (B, D), labels (B,)) to a scalar.

    Each individual's proxy is an anchor: log(1 + sum exp(-alpha (cos - margin))) over its images in the batch, averaged
    over the individuals in the batch, plus log(1 + sum exp(alpha (cos + margin))) over all other images, averaged over
    all individuals. An unknown individual (-1) is an other image of every proxy. pytorch-metric-learning's code has no
    room for that.

    Args:
        num_classes: Number of individuals C.
        embedding_size: D.
        margin: Margin on the cosine.
        alpha: Scale of the exponents.
    """

    def __init__(self, num_classes: int, embedding_size: int, *, margin: float, alpha: float) -> None:
        super().__init__()
        self.proxies = nn.Parameter(torch.empty(num_classes, embedding_size))
        nn.init.kaiming_normal_(self.proxies, mode="fan_out")
        self.margin = margin
        self.alpha = alpha

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss.

        Args:
            embeddings: Shape (B, D).
            labels: Shape (B,), each from -1 to C - 1.
        """
        cosines = F.normalize(embeddings.float()) @ F.normalize(self.proxies).T
        own = labels[:, None] == torch.arange(len(self.proxies), device=labels.device)
        pull = _log_one_plus_sum(-self.alpha * (cosines - self.margin), own)
        push = _log_one_plus_sum(self.alpha * (cosines + self.margin), ~own)
        return pull.sum() / own.any(0).sum().clamp(min=1) + push.mean()


def _log_one_plus_sum(exponents: Tensor, chosen: Tensor) -> Tensor:
    """Return log(1 + Σ exp(exponents)) over the chosen rows of each column: (B, C) → (C,)."""
    masked = exponents.masked_fill(~chosen, float("-inf"))
    return torch.logsumexp(torch.cat([masked, torch.zeros_like(masked[:1])]), dim=0)
