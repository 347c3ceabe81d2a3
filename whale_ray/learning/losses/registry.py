"""Loss registry: name, parameters and builder of every loss.

Every loss is a module `(embeddings (B, D), labels (B,)) -> scalar`. Embeddings are not normalised and are compared in
float32. The proxies of a loss are its `parameters()`, drawn from torch's default generator. Labels are 0 to num_classes
- 1. Losses in `ACCEPTS_NEGATIVES` also accept -1, an unknown individual: a negative of every proxy and every named
image, neither positive nor negative of another -1. Reading names and parameters imports no torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whale_ray.errors import InputError
from whale_ray.learning.losses.pair_losses import contrastive, multi_similarity, supcon, triplet
from whale_ray.learning.losses.parameters import LossParameter, read_parameters
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


@dataclass(frozen=True)
class LossEntry:
    """One row of the loss table.

    Attributes:
        build: Builder of the loss.
        compares_images: The loss compares images with images; otherwise with proxies.
        accepts_negatives: The loss accepts the label -1. A softmax over individuals has no answer "none of them".
        ordered: Pairs of parameters of which the first must not be larger than the second.
    """

    build: Callable[..., nn.Module]
    compares_images: bool = False
    accepts_negatives: bool = False
    ordered: tuple[tuple[str, str], ...] = ()


LOSSES: dict[str, LossEntry] = {
    "arcface": LossEntry(arcface),
    "subcenter_arcface": LossEntry(subcenter_arcface),
    "dynamic_arcface": LossEntry(dynamic_arcface, ordered=(("margin_degrees_low", "margin_degrees_high"),)),
    "cosface": LossEntry(cosface),
    "proxy_anchor": LossEntry(proxy_anchor, accepts_negatives=True),
    "proxy_nca": LossEntry(proxy_nca),
    "multi_similarity": LossEntry(multi_similarity, compares_images=True, accepts_negatives=True),
    "triplet": LossEntry(triplet, compares_images=True, accepts_negatives=True),
    "supcon": LossEntry(supcon, compares_images=True, accepts_negatives=True),
    "contrastive": LossEntry(contrastive, compares_images=True, accepts_negatives=True),
}

PAIR_LOSSES = frozenset(name for name, loss in LOSSES.items() if loss.compares_images)
"""Losses that compare images with images; all others compare them with proxies, one or more per individual."""

ACCEPTS_NEGATIVES = frozenset(name for name, loss in LOSSES.items() if loss.accepts_negatives)
"""Losses that accept the label -1."""

DATA_PARAMETERS = ("num_classes", "embedding_size", "class_counts")
"""Parameters of a builder that come from photographs and encoder, not from the sweep file."""


def loss_parameters(name: str) -> dict[str, LossParameter]:
    """Return the parameters of a loss that can be set, by name.

    Raises:
        InputError: If no loss has that name.
    """
    if name not in LOSSES:
        raise InputError(f"no loss is called {name!r}; there are {', '.join(LOSSES)}{_nearest(name, LOSSES)}")
    return read_parameters(LOSSES[name].build, without=DATA_PARAMETERS)


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
        elif not known[key].accepts(value):
            faults[key] = f"{name}.{key} must be {known[key].rule()}, but got {value!r}"
    for low, high in LOSSES[name].ordered:
        if not faults:
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
    if "class_counts" in inspect.signature(LOSSES[name].build).parameters:
        sizes["class_counts"] = _checked_counts(name, class_counts, num_classes)
    loss = LOSSES[name].build(**sizes, **parameters)
    return _remembering(loss, memory, embedding_size) if memory else loss


def _checked_counts(name: str, counts: Sequence[int] | None, num_classes: int) -> Sequence[int]:
    if counts is None or len(counts) != num_classes or min(counts, default=0) < 1:
        came = "nothing" if counts is None else f"{len(counts)} counts, the least {min(counts, default=0)}"
        raise InputError(
            f"{name} needs how many images each of {num_classes} individuals has, but got {came}. Give class_counts"
        )
    return counts


def _remembering(loss: nn.Module, memory: int, embedding_size: int) -> nn.Module:
    from whale_ray.learning.losses.loss_modules import CrossBatchMemory, MinedPairs

    assert isinstance(loss, MinedPairs)
    return CrossBatchMemory(loss, size=memory, embedding_size=embedding_size)


def _nearest(name: str, names: Iterable[str]) -> str:
    hint = suggest(name, names)
    return f". {hint}" if hint else ""
