"""How deep in a trunk each of its parameters lies; knows how networks are stacked, no network by name.

A trunk's main chain is its largest `Sequential` or `ModuleList`: torchvision's stages, the layers of a
transformer. What comes before the chain (embeddings, class token) is a block of its own, what follows it (the last
normalisation) belongs to the last block.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Required, TypedDict

import torch
from torch import nn

from whale_ray.learning.encoders.registry import Encoder

# A chain of which one link holds more than this is only the wrapping of that link's own chain.
_NEARLY_ALL = 0.9


def blocks_of(trunk: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters of a trunk, block after block from the picture upwards, each of them once."""
    links = _links(_main_chain(trunk))
    blocks: list[list[nn.Parameter]] = [[] for _ in range(len(links) + 1)]
    place = {id(parameter): depth for depth, link in enumerate(links, 1) for parameter in link}
    deepest = 0
    for parameter in trunk.parameters():
        deepest = max(deepest, place.get(id(parameter), 0))
        blocks[place.get(id(parameter), deepest and len(links))].append(parameter)
    return [block for block in blocks if block]


def _main_chain(trunk: nn.Module) -> nn.Module | None:
    found = max(_chains(trunk), key=_size, default=None)
    while found is not None:
        largest = max(found.children(), key=_size)
        inner = max(_chains(largest), key=_size, default=None)
        if inner is None or _size(inner) < _NEARLY_ALL * _size(found):
            return found
        found = inner
    return None


def _chains(module: nn.Module) -> Iterator[nn.Module]:
    """The containers inside a module, outermost first, in which two links or more follow each other."""
    for part in module.modules():
        if isinstance(part, (nn.Sequential, nn.ModuleList)) and len(_links(part)) > 1:
            yield part


def _links(chain: nn.Module | None) -> list[list[nn.Parameter]]:
    """The parameters of each link; one without a matrix or kernel (a normalisation) belongs to the link before."""
    links: list[list[nn.Parameter]] = []
    for child in chain.children() if chain is not None else ():
        own = list(child.parameters())
        if links and not _weighs(own):
            links[-1] += own
        elif own:
            links.append(own)
    return links


def _weighs(parameters: Iterable[nn.Parameter]) -> bool:
    return any(parameter.ndim > 1 for parameter in parameters)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


PROXY_FACTOR = 100.0
SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class Schedule:
    """What share of its peak a learning rate has at each step (from 0): a line upwards, then `kind`.

    steps: of an epoch. warmup_epochs: of the line. head_epochs: in these the trunk waits; its own line begins after
    them, under the same curve.
    """

    epochs: int
    steps: int
    warmup_epochs: float = 1.0
    head_epochs: int = 0
    kind: str = "cosine"

    def factor(self, step: int, *, waits: bool = False) -> float:
        """Return the share at a step; `waits`: of the trunk, which begins after the head."""
        begins = self.head_epochs * self.steps if waits else 0
        warmup, total = self.warmup_epochs * self.steps, self.epochs * self.steps
        line = (step - begins + 1) / (warmup + 1)
        return max(0.0, min(1.0, line)) * self._curve((step - warmup) / max(1.0, total - warmup))

    def _curve(self, done: float) -> float:
        if self.kind == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * max(0.0, min(1.0, done))))


class Rates(TypedDict, total=False):
    """What `build_optimiser` takes as keywords."""

    learning_rate: Required[float]
    head_learning_rate: float | None
    proxy_learning_rate: float | None
    layer_decay: float
    weight_decay: float


def build_optimiser(
    encoder: Encoder,
    loss: nn.Module,
    *,
    learning_rate: float,
    head_learning_rate: float | None = None,
    proxy_learning_rate: float | None = None,
    layer_decay: float = 1.0,
    weight_decay: float = 1e-4,
) -> torch.optim.AdamW:
    """Return AdamW over all that learns; biases and normalisations do not decay.

    learning_rate: of the trunk's last block; each block before has `layer_decay` times the rate of the next (ELECTRA:
    Clark et al., ICLR 2020; for pictures BEiT: Bao et al., ICLR 2022). head_learning_rate: of pooling and neck; None
    is `learning_rate`. proxy_learning_rate: of the loss's proxies; None is 100 times it (Kim et al., CVPR 2020).
    Raises:
        ValueError: nothing has a parameter to learn.
    """
    head = learning_rate if head_learning_rate is None else head_learning_rate
    proxies = PROXY_FACTOR * learning_rate if proxy_learning_rate is None else proxy_learning_rate
    trunk = [list(encoder.trunk.parameters())] if layer_decay == 1 else blocks_of(encoder.trunk)[::-1]
    parts = [(block, learning_rate * layer_decay**height, True) for height, block in enumerate(trunk)]
    parts += [(list(encoder.head.parameters()), head, False), (list(loss.parameters()), proxies, False)]
    groups = [group for part in parts for group in _groups(*part, weight_decay=weight_decay)]
    if not groups:
        raise ValueError("something must be left to train, but trunk, head and loss have no free parameter")
    return torch.optim.AdamW(groups, fused=True)


def _groups(
    parameters: Iterable[nn.Parameter], rate: float, waits: bool, *, weight_decay: float
) -> list[dict[str, object]]:
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    decayed = [parameter for parameter in learned if parameter.ndim > 1]
    plain = [parameter for parameter in learned if parameter.ndim <= 1]
    return [
        {"params": parameters, "lr": rate, "peak": rate, "waits": waits, "weight_decay": decay}
        for parameters, decay in ((decayed, weight_decay), (plain, 0.0))
        if parameters
    ]


def set_rates(optimiser: torch.optim.Optimizer, schedule: Schedule, step: int) -> None:
    """Set each group's learning rate to its share of its peak at a step, counted from 0 over all epochs."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * schedule.factor(step, waits=group["waits"])
