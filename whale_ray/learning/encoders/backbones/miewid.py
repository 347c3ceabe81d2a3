"""MiewID: a backbone of timm, generalised-mean pooling and batch normalisation, without the hub's remote code.

Published by Wild Me and Conservation X Labs as `conservationxlabs/miewid-msv3` with timm's efficientnetv2_rw_m. The
file has the tensors `backbone.*`, the power of the pooling, `bn.*`, and `final.*` of the classifier, which is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from whale_ray.learning.encoders.layers import GeneralisedMeanPool

# The published file has the first, checkpoints of the training code (wbia-plugin-miew-id) the second.
_POWERS = ("backbone.global_pool.p", "pooling.p")
_CLASSIFIER = "final."


class MiewIdModel(nn.Module):
    """MiewID with the methods of a timm model: `forward_features` gives the map, `forward_head` the embedding.

    Args:
        backbone: Model of timm without classifier that gives maps (B, C, h, w).

    Attributes:
        num_features: C.
        head_hidden_size: C too.
    """

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_features = self.head_hidden_size = int(backbone.num_features)
        self.pooling = GeneralisedMeanPool()
        self.bn: nn.Module = nn.BatchNorm1d(self.num_features)

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the map, shape (B, C, h, w)."""
        features: Tensor = self.backbone.forward_features(images)
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """Return the pooled and normalised features, shape (B, C).

        Args:
            features: Map from `forward_features`.
            pre_logits: Unused: there is no classifier.
        """
        embeddings: Tensor = self.bn(self.pooling(features, 0))
        return embeddings


def miewid_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a published MiewID checkpoint under the names of `MiewIdModel`, without the classifier."""
    kept = {name: value for name, value in tensors.items() if not name.startswith(_CLASSIFIER)}
    return {"pooling.power" if name in _POWERS else name: value for name, value in kept.items()}
