"""Loss registry: name, parameters and builder of every loss.

Every loss is a module `(embeddings (B, D), labels (B,)) -> scalar`. Embeddings are not normalised and are compared in
float32. The proxies of a loss are its `parameters()`, drawn from torch's default generator. Labels are 0 to num_classes
- 1. Losses in `ACCEPTS_NEGATIVES` also accept -1, an unknown individual: a negative of every proxy and every named
image, neither positive nor negative of another -1. Reading names and parameters imports no torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, get_args

from whale_ray.errors import InputError
from whale_ray.learning.losses.pair_losses import contrastive, multi_similarity, supcon, triplet
from whale_ray.learning.losses.proxy_losses import (
    arcface,
    cosface,
    dynamic_arcface,
    proxy_anchor,
    proxy_nca,
    subcenter_arcface,
)
from whale_ray.suggestions import suggest

if TYPE_CHECKING:
    from torch import nn

LOSSES: dict[str, Callable[..., nn.Module]] = {
    "arcface": arcface,
    "subcenter_arcface": subcenter_arcface,
    "dynamic_arcface": dynamic_arcface,
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

DATA_PARAMETERS = ("num_classes", "embedding_size", "class_counts")
"""What a builder learns from photographs and encoder, not from a person."""

LIMITS: dict[str, tuple[float, float]] = {
    "margin_degrees": (0.0, 180.0),
    "margin_degrees_low": (0.0, 180.0),
    "margin_degrees_high": (0.0, 180.0),
    "power": (0.0, float("inf")),
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

ORDERED = {"margin_degrees_low": "margin_degrees_high"}
"""Parameters that must not be larger than another of the same loss."""


def loss_parameters(name: str) -> dict[str, inspect.Parameter]:
    """Return the parameters of a loss that can be set: name to default and type (`Literal` for a choice).

    Raises:
        InputError: If no loss has that name.
    """
    if name not in LOSSES:
        raise InputError(f"no loss is called {name!r}; there are {', '.join(LOSSES)}{_nearest(name, LOSSES)}")
    parameters = inspect.signature(LOSSES[name]).parameters
    return {key: value for key, value in parameters.items() if key not in DATA_PARAMETERS}


def parameter_faults(name: str, parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return the fault of each parameter that cannot be used; empty if the loss can be built.

    Args:
        name: Name of the loss.
        parameters: Value by parameter.

    Raises:
        InputError: If no loss has that name.
    """
    known = loss_parameters(name)
    faults: dict[str, str] = {}
    for key, value in parameters.items():
        if key not in known:
            owned = f"; it has {', '.join(known)}"
            faults[key] = f"the loss {name} has no parameter {key!r}{owned}{_nearest(key, known)}"
        elif not _fits(key, value, known[key].annotation):
            faults[key] = f"{name}.{key} must be {_demand(key, known[key].annotation)}, but got {value!r}"
    for low, high in ORDERED.items():
        if low in known and not faults:
            smaller, larger = (parameters.get(key, known[key].default) for key in (low, high))
            if smaller > larger:
                faults[low] = f"{name}.{low} must not be larger than {high}, but got {smaller:g} and {larger:g}"
    return faults


def build_loss(
    name: str,
    *,
    num_classes: int,
    embedding_size: int,
    class_counts: Sequence[int] | None = None,
    memory: int = 0,
    **parameters: Any,
) -> nn.Module:
    """Return a loss as a module `(embeddings, labels) -> scalar`; its `parameters()` are the proxies.

    Args:
        name: Name of the loss.
        num_classes: Number of individuals.
        embedding_size: D.
        class_counts: Images of each individual, for losses that need them.
        memory: Embeddings of earlier batches that a pair loss also compares with; 0 for none.
        **parameters: Parameters of the loss.

    Raises:
        InputError: If the loss or a parameter is unknown, a value is out of range, or a proxy loss gets a memory.
    """
    if faults := parameter_faults(name, parameters):
        raise InputError("; ".join(faults.values()))
    if memory and name not in PAIR_LOSSES:
        able = ", ".join(sorted(PAIR_LOSSES))
        raise InputError(f"a memory is for losses that compare images ({able}), but got {name}. Leave it out")
    sizes: dict[str, Any] = {"num_classes": num_classes, "embedding_size": embedding_size}
    if "class_counts" in inspect.signature(LOSSES[name]).parameters:
        sizes["class_counts"] = _checked_counts(name, class_counts, num_classes)
    loss = LOSSES[name](**sizes, **parameters)
    return _remembering(loss, memory, embedding_size) if memory else loss


def _checked_counts(name: str, counts: Sequence[int] | None, num_classes: int) -> Sequence[int]:
    if counts is None or len(counts) != num_classes or min(counts, default=0) < 1:
        came = "nothing" if counts is None else f"{len(counts)} counts, the least {min(counts, default=0)}"
        raise InputError(
            f"{name} needs how many images each of {num_classes} individuals has, but got {came}. Give class_counts"
        )
    return counts


def _remembering(loss: nn.Module, memory: int, embedding_size: int) -> nn.Module:
    from whale_ray.learning.losses.modules import CrossBatchMemory, MinedPairs

    assert isinstance(loss, MinedPairs)
    return CrossBatchMemory(loss, size=memory, embedding_size=embedding_size)


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
    hint = suggest(name, names)
    return f". {hint}" if hint else ""
