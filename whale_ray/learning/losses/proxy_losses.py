"""Builders of losses that compare images with learned proxies, one or more per individual.

Reading their names and parameters imports no torch.
"""
# Annotations stay objects here (no `from __future__ import annotations`): `loss_parameters` hands them out.

from collections.abc import Sequence
from typing import TYPE_CHECKING

from whale_ray.learning.losses.parameters import CosineMargin, Count, Degrees, NonNegative, Positive

if TYPE_CHECKING:
    from torch import nn


def arcface(
    *, num_classes: int, embedding_size: int, margin_degrees: Degrees = 28.6, scale: Positive = 64.0
) -> "nn.Module":
    """Return ArcFace: softmax over cosines with an angular margin (Deng et al., CVPR 2019).

    Args:
        num_classes: Number of individuals.
        embedding_size: D.
        margin_degrees: Angular margin in degrees.
        scale: Scale of the cosines.
    """
    from pytorch_metric_learning.losses import ArcFaceLoss

    from whale_ray.learning.losses.loss_modules import NamedLabelsOnly

    return NamedLabelsOnly(ArcFaceLoss(num_classes, embedding_size, margin=margin_degrees, scale=scale))


def subcenter_arcface(
    *,
    num_classes: int,
    embedding_size: int,
    margin_degrees: Degrees = 28.6,
    scale: Positive = 64.0,
    sub_centers: Count = 3,
) -> "nn.Module":
    """Return sub-center ArcFace: several centers per individual, the nearest counts (Deng et al., ECCV 2020).

    Args:
        num_classes: Number of individuals.
        embedding_size: D.
        margin_degrees: Angular margin in degrees.
        scale: Scale of the cosines.
        sub_centers: Centers per individual.
    """
    from pytorch_metric_learning.losses import SubCenterArcFaceLoss

    from whale_ray.learning.losses.loss_modules import NamedLabelsOnly

    sizes = {"num_classes": num_classes, "embedding_size": embedding_size}
    return NamedLabelsOnly(SubCenterArcFaceLoss(margin=margin_degrees, scale=scale, sub_centers=sub_centers, **sizes))


def dynamic_arcface(
    *,
    num_classes: int,
    embedding_size: int,
    class_counts: Sequence[int],
    margin_degrees_low: Degrees = 2.9,
    margin_degrees_high: Degrees = 28.6,
    power: NonNegative = 0.25,
    scale: Positive = 64.0,
    sub_centers: Count = 3,
) -> "nn.Module":
    """Return sub-center ArcFace with a margin per individual: low + (high - low) / n^power for n images.

    An individual with one image has the high margin. Ha et al., "Google Landmark Recognition 2020", third place.

    Args:
        num_classes: Number of individuals.
        embedding_size: D.
        class_counts: Images of each individual.
        margin_degrees_low: Margin of an individual with many images, in degrees.
        margin_degrees_high: Margin of an individual with one image, in degrees.
        power: Exponent of the number of images.
        scale: Scale of the cosines.
        sub_centers: Centers per individual.
    """
    import torch

    from whale_ray.learning.losses.loss_modules import PerClassMarginArcFace

    counts = torch.as_tensor(class_counts, dtype=torch.float32)
    margins = margin_degrees_low + (margin_degrees_high - margin_degrees_low) * counts.pow(-power)
    sizes = {"num_classes": num_classes, "embedding_size": embedding_size}
    centres = subcenter_arcface(**sizes, scale=scale, sub_centers=sub_centers)
    return PerClassMarginArcFace(centres.loss, torch.deg2rad(margins))


def cosface(
    *, num_classes: int, embedding_size: int, margin: CosineMargin = 0.35, scale: Positive = 64.0
) -> "nn.Module":
    """Return CosFace: softmax over cosines with a margin on the cosine (Wang et al., CVPR 2018).

    Args:
        num_classes: Number of individuals.
        embedding_size: D.
        margin: Margin on the cosine.
        scale: Scale of the cosines.
    """
    from pytorch_metric_learning.losses import CosFaceLoss

    from whale_ray.learning.losses.loss_modules import NamedLabelsOnly

    return NamedLabelsOnly(CosFaceLoss(num_classes, embedding_size, margin=margin, scale=scale))


def proxy_anchor(
    *, num_classes: int, embedding_size: int, margin: CosineMargin = 0.1, alpha: Positive = 32.0
) -> "nn.Module":
    """Return Proxy-Anchor: each proxy pulls its images, harder ones more (Kim et al., CVPR 2020).

    Args:
        num_classes: Number of individuals.
        embedding_size: D.
        margin: Margin on the cosine.
        alpha: Scale of the exponents.
    """
    from whale_ray.learning.losses.loss_modules import ProxyAnchor

    return ProxyAnchor(num_classes, embedding_size, margin=margin, alpha=alpha)


def proxy_nca(*, num_classes: int, embedding_size: int, softmax_scale: Positive = 9.0) -> "nn.Module":
    """Return ProxyNCA++: softmax over squared distances to proxies (Teh et al., ECCV 2020).

    Args:
        num_classes: Number of individuals.
        embedding_size: D.
        softmax_scale: Scale of the softmax; 9 in the paper.
    """
    from pytorch_metric_learning.losses import ProxyNCALoss

    from whale_ray.learning.losses.loss_modules import NamedLabelsOnly

    return NamedLabelsOnly(ProxyNCALoss(num_classes, embedding_size, softmax_scale=softmax_scale))
