"""Losses that compare images with proxies, one or more an individual, which are learned: their builders.

Reading their names and parameters imports no torch.
"""
# Annotations stay objects here (no `from __future__ import annotations`): `loss_parameters` hands them out.

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def arcface(*, num_classes: int, embedding_size: int, margin_degrees: float = 28.6, scale: float = 64.0) -> "nn.Module":
    """Return ArcFace: a softmax over cosines, the margin added to the own angle (Deng et al., CVPR 2019)."""
    from pytorch_metric_learning.losses import ArcFaceLoss

    from whale_ray.learning.losses.modules import NamedOnly

    return NamedOnly(ArcFaceLoss(num_classes, embedding_size, margin=margin_degrees, scale=scale))


def subcenter_arcface(
    *,
    num_classes: int,
    embedding_size: int,
    margin_degrees: float = 28.6,
    scale: float = 64.0,
    sub_centers: int = 3,
) -> "nn.Module":
    """Return ArcFace with several centres an individual; the nearest counts (Deng et al., ECCV 2020)."""
    from pytorch_metric_learning.losses import SubCenterArcFaceLoss

    from whale_ray.learning.losses.modules import NamedOnly

    sizes = {"num_classes": num_classes, "embedding_size": embedding_size}
    return NamedOnly(SubCenterArcFaceLoss(margin=margin_degrees, scale=scale, sub_centers=sub_centers, **sizes))


def dynamic_arcface(
    *,
    num_classes: int,
    embedding_size: int,
    class_counts: Sequence[int],
    margin_degrees_low: float = 2.9,
    margin_degrees_high: float = 28.6,
    power: float = 0.25,
    scale: float = 64.0,
    sub_centers: int = 3,
) -> "nn.Module":
    """Return sub-center ArcFace with a margin that falls with an individual's images n: low + (high - low) / n^power.

    An individual with one image has the high margin (Ha et al., 2020, "Google Landmark Recognition 2020", third place).
    """
    import torch

    from whale_ray.learning.losses.modules import MarginEach

    counts = torch.as_tensor(class_counts, dtype=torch.float32)
    margins = margin_degrees_low + (margin_degrees_high - margin_degrees_low) * counts.pow(-power)
    sizes = {"num_classes": num_classes, "embedding_size": embedding_size}
    centres = subcenter_arcface(**sizes, scale=scale, sub_centers=sub_centers)
    return MarginEach(centres.loss, torch.deg2rad(margins))


def cosface(*, num_classes: int, embedding_size: int, margin: float = 0.35, scale: float = 64.0) -> "nn.Module":
    """Return CosFace: a softmax over cosines, the own one less the margin (Wang et al., CVPR 2018)."""
    from pytorch_metric_learning.losses import CosFaceLoss

    from whale_ray.learning.losses.modules import NamedOnly

    return NamedOnly(CosFaceLoss(num_classes, embedding_size, margin=margin, scale=scale))


def proxy_anchor(*, num_classes: int, embedding_size: int, margin: float = 0.1, alpha: float = 32.0) -> "nn.Module":
    """Return Proxy-Anchor: each proxy pulls its images, harder ones more (Kim et al., CVPR 2020)."""
    from whale_ray.learning.losses.modules import ProxyAnchor

    return ProxyAnchor(num_classes, embedding_size, margin=margin, alpha=alpha)


def proxy_nca(*, num_classes: int, embedding_size: int, softmax_scale: float = 9.0) -> "nn.Module":
    """Return ProxyNCA++: a softmax over squared distances to proxies (Teh et al., ECCV 2020, scale 9)."""
    from pytorch_metric_learning.losses import ProxyNCALoss

    from whale_ray.learning.losses.modules import NamedOnly

    return NamedOnly(ProxyNCALoss(num_classes, embedding_size, softmax_scale=softmax_scale))
