"""The table of losses: what each is called, which parameters it really has, and how it is built.

Reading names and parameters imports no torch. Knows nothing of encoders, training or the sweep file.

Every loss is a module `(embeddings (B, D), labels (B,)) -> scalar`. Embeddings come as the encoder gives
them, not normalised, and are compared in float32. Where a loss has proxies, they are its `parameters()`,
drawn from torch's default generator. Labels are 0 … num_classes - 1; the losses in `ACCEPTS_NEGATIVES` also take -1, an
unknown whale: negative to every proxy and every named image, neither positive nor negative to another -1.
"""
# Annotations stay objects here (no `from __future__ import annotations`): `loss_parameters` hands them out.

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, get_args

from whale_ray.errors import InputError

if TYPE_CHECKING:
    from torch import nn

Mining = Literal["semihard", "hard", "all", "batch_hard"]


def arcface(*, num_classes: int, embedding_size: int, margin_degrees: float = 28.6, scale: float = 64.0) -> "nn.Module":
    """Return ArcFace: a softmax over cosines, the margin added to the own angle (Deng et al., CVPR 2019)."""
    from pytorch_metric_learning.losses import ArcFaceLoss

    from whale_ray.learning.layers import NamedOnly

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

    from whale_ray.learning.layers import NamedOnly

    sizes = {"num_classes": num_classes, "embedding_size": embedding_size}
    return NamedOnly(SubCenterArcFaceLoss(margin=margin_degrees, scale=scale, sub_centers=sub_centers, **sizes))


def cosface(*, num_classes: int, embedding_size: int, margin: float = 0.35, scale: float = 64.0) -> "nn.Module":
    """Return CosFace: a softmax over cosines, the own one less the margin (Wang et al., CVPR 2018)."""
    from pytorch_metric_learning.losses import CosFaceLoss

    from whale_ray.learning.layers import NamedOnly

    return NamedOnly(CosFaceLoss(num_classes, embedding_size, margin=margin, scale=scale))


def proxy_anchor(*, num_classes: int, embedding_size: int, margin: float = 0.1, alpha: float = 32.0) -> "nn.Module":
    """Return Proxy-Anchor: each proxy pulls its images, harder ones more (Kim et al., CVPR 2020)."""
    from whale_ray.learning.layers import ProxyAnchor

    return ProxyAnchor(num_classes, embedding_size, margin=margin, alpha=alpha)


def proxy_nca(*, num_classes: int, embedding_size: int, softmax_scale: float = 9.0) -> "nn.Module":
    """Return ProxyNCA++: a softmax over squared distances to proxies (Teh et al., ECCV 2020, scale 9)."""
    from pytorch_metric_learning.losses import ProxyNCALoss

    from whale_ray.learning.layers import NamedOnly

    return NamedOnly(ProxyNCALoss(num_classes, embedding_size, softmax_scale=softmax_scale))


def multi_similarity(
    *,
    num_classes: int,
    embedding_size: int,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float = 0.1,
) -> "nn.Module":
    """Return the Multi-Similarity loss with its mining of pairs within epsilon (Wang et al., CVPR 2019)."""
    from pytorch_metric_learning.losses import MultiSimilarityLoss
    from pytorch_metric_learning.miners import MultiSimilarityMiner

    from whale_ray.learning.layers import MinedPairs

    loss = MultiSimilarityLoss(alpha=alpha, beta=beta, base=base)
    return MinedPairs(loss, MultiSimilarityMiner(epsilon=epsilon), unknown_anchors=False)


def triplet(*, num_classes: int, embedding_size: int, margin: float = 0.2, mining: Mining = "semihard") -> "nn.Module":
    """Return the triplet loss on distances of unit vectors (FaceNet: Schroff et al., CVPR 2015).

    `mining` picks the triplets: those inside the margin that are ordered rightly (semihard), wrongly (hard),
    both (all), or for each image its farthest positive and nearest negative (batch_hard, Hermans 2017).
    """
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.miners import BatchHardMiner, TripletMarginMiner

    from whale_ray.learning.layers import MinedPairs

    hardest = mining == "batch_hard"
    miner = BatchHardMiner() if hardest else TripletMarginMiner(margin=margin, type_of_triplets=mining)
    return MinedPairs(TripletMarginLoss(margin=margin), miner, unknown_anchors=False)


def supcon(*, num_classes: int, embedding_size: int, temperature: float = 0.1) -> "nn.Module":
    """Return the supervised contrastive loss, over images that have a positive (Khosla et al., 2020)."""
    from pytorch_metric_learning.losses import SupConLoss

    from whale_ray.learning.layers import MinedPairs, all_pairs

    return MinedPairs(SupConLoss(temperature=temperature), all_pairs, unknown_anchors=True)


def contrastive(
    *, num_classes: int, embedding_size: int, pos_margin: float = 0.0, neg_margin: float = 1.0
) -> "nn.Module":
    """Return the contrastive loss on distances of unit vectors, 0 … 2 (Hadsell, Chopra, LeCun, CVPR 2006)."""
    from pytorch_metric_learning.losses import ContrastiveLoss

    from whale_ray.learning.layers import MinedPairs, all_pairs

    loss = ContrastiveLoss(pos_margin=pos_margin, neg_margin=neg_margin)
    return MinedPairs(loss, all_pairs, unknown_anchors=True)


LOSSES: dict[str, Callable[..., "nn.Module"]] = {
    "arcface": arcface,
    "subcenter_arcface": subcenter_arcface,
    "cosface": cosface,
    "proxy_anchor": proxy_anchor,
    "proxy_nca": proxy_nca,
    "multi_similarity": multi_similarity,
    "triplet": triplet,
    "supcon": supcon,
    "contrastive": contrastive,
}

PAIR_LOSSES = frozenset({"multi_similarity", "triplet", "supcon", "contrastive"})
"""Losses that compare images with images; all others compare them with proxies, one or more an individual."""

ACCEPTS_NEGATIVES = PAIR_LOSSES | {"proxy_anchor"}
"""Losses that can take the label -1. A softmax over individuals has no answer "none of them"."""

LIMITS: dict[str, tuple[float, float]] = {
    "margin_degrees": (0.0, 180.0),
    "scale": (1e-6, float("inf")),
    "softmax_scale": (1e-6, float("inf")),
    "sub_centers": (1, float("inf")),
    "margin": (0.0, 2.0),
    "alpha": (1e-6, float("inf")),
    "beta": (1e-6, float("inf")),
    "base": (-1.0, 1.0),
    "epsilon": (0.0, float("inf")),
    "temperature": (1e-6, float("inf")),
    "pos_margin": (0.0, 2.0),
    "neg_margin": (0.0, 2.0),
}
"""Least and greatest value of each parameter, both allowed; the same in every loss that has it."""


def loss_parameters(name: str) -> dict[str, inspect.Parameter]:
    """Return the parameters a person may set: name → default and type (`Literal` where it is a choice).

    Raises:
        InputError: no loss has that name.
    """
    if name not in LOSSES:
        raise InputError(f"no loss is called {name!r}{_nearest(name, LOSSES)}; there are {', '.join(LOSSES)}")
    parameters = inspect.signature(LOSSES[name]).parameters
    return {key: value for key, value in parameters.items() if key not in ("num_classes", "embedding_size")}


def parameter_faults(name: str, parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong with each parameter that is wrong; an empty dict where the loss can be built.

    Raises:
        InputError: no loss has that name.
    """
    known = loss_parameters(name)
    faults: dict[str, str] = {}
    for key, value in parameters.items():
        if key not in known:
            owned = f"; it has {', '.join(known)}"
            faults[key] = f"the loss {name} has no parameter {key!r}{_nearest(key, known)}{owned}"
        elif not _fits(key, value, known[key].annotation):
            faults[key] = f"{name}.{key} must be {_demand(key, known[key].annotation)}, but got {value!r}"
    return faults


def build_loss(name: str, *, num_classes: int, embedding_size: int, **parameters: Any) -> "nn.Module":
    """Return the loss as a module `(embeddings, labels) -> scalar`; its `parameters()` are the proxies.

    Raises:
        InputError: an unknown loss, a parameter that it does not have, or a value it cannot take.
    """
    if faults := parameter_faults(name, parameters):
        raise InputError("; ".join(faults.values()))
    return LOSSES[name](num_classes=num_classes, embedding_size=embedding_size, **parameters)


def _fits(key: str, value: Any, kind: Any) -> bool:
    if choices := get_args(kind):
        return value in choices
    if isinstance(value, bool) or not isinstance(value, (int,) if kind is int else (int, float)):
        return False
    low, high = LIMITS[key]
    return isfinite(value) and low <= value <= high


def _demand(key: str, kind: Any) -> str:
    if choices := get_args(kind):
        return f"one of {', '.join(choices)}"
    low, high = LIMITS[key]
    number = "a whole number" if kind is int else "a number"
    return f"{number} of at least {low:g}" if high == float("inf") else f"{number} from {low:g} to {high:g}"


def _nearest(name: str, names: Mapping[str, Any]) -> str:
    found = get_close_matches(name, names, n=1)
    return f" (did you mean {found[0]}?)" if found else ""
