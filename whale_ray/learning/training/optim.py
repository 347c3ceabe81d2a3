"""AdamW with parameter groups, layer-wise learning-rate decay and the learning-rate schedule.

For layer-wise decay a backbone is split into blocks along its largest `Sequential` or `ModuleList` (torchvision's
stages, the layers of a transformer). What precedes the chain (embeddings, class token) is a block by itself; what
follows it (the last normalisation) belongs to the last block.
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
_WRAPPER_SHARE = 0.9


def layer_blocks(trunk: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters of a backbone in blocks, from the image upwards."""
    links = _links(_main_chain(trunk))
    blocks: list[list[nn.Parameter]] = [[] for _ in range(len(links) + 1)]
    place = {id(parameter): depth for depth, link in enumerate(links, 1) for parameter in link}
    deepest = 0
    for parameter in trunk.parameters():
        deepest = max(deepest, place.get(id(parameter), 0))
        blocks[place.get(id(parameter), deepest and len(links))].append(parameter)
    return [block for block in blocks if block]


def _main_chain(trunk: nn.Module) -> nn.Module | None:
    found = max(_chains(trunk), key=_parameter_count, default=None)
    while found is not None:
        largest = max(found.children(), key=_parameter_count)
        inner = max(_chains(largest), key=_parameter_count, default=None)
        if inner is None or _parameter_count(inner) < _WRAPPER_SHARE * _parameter_count(found):
            return found
        found = inner
    return None


def _chains(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the containers inside a module, outermost first, that hold at least two links."""
    for part in module.modules():
        if isinstance(part, (nn.Sequential, nn.ModuleList)) and len(_links(part)) > 1:
            yield part


def _links(chain: nn.Module | None) -> list[list[nn.Parameter]]:
    """Return the parameters of each link. A link without a matrix (a normalisation) belongs to the previous one."""
    links: list[list[nn.Parameter]] = []
    for child in chain.children() if chain is not None else ():
        own = list(child.parameters())
        if links and not _has_weight_matrix(own):
            links[-1] += own
        elif own:
            links.append(own)
    return links


def _has_weight_matrix(parameters: Iterable[nn.Parameter]) -> bool:
    return any(parameter.ndim > 1 for parameter in parameters)


def _parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


PROXY_FACTOR = 100.0
SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class Schedule:
    """Learning-rate schedule: linear warm-up, then a cosine or a constant.

    Attributes:
        epochs: Number of epochs.
        steps: Steps per epoch.
        warmup_epochs: Epochs of the warm-up.
        head_epochs: Epochs in which the backbone is frozen; its own warm-up begins after them, under the same curve.
        kind: `cosine` or `constant`.
    """

    epochs: int
    steps: int
    warmup_epochs: float = 1.0
    head_epochs: int = 0
    kind: str = "cosine"

    def factor(self, step: int, *, waits: bool = False) -> float:
        """Return the share of the peak learning rate at a step.

        Args:
            step: Number of the step, from 0.
            waits: The parameters wait until the head epochs are over.
        """
        begins = self.head_epochs * self.steps if waits else 0
        warmup, total = self.warmup_epochs * self.steps, self.epochs * self.steps
        line = (step - begins + 1) / (warmup + 1)
        return max(0.0, min(1.0, line)) * self._curve((step - warmup) / max(1.0, total - warmup))

    def _curve(self, done: float) -> float:
        if self.kind == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * max(0.0, min(1.0, done))))


class Rates(TypedDict, total=False):
    """Keyword arguments of `build_optimizer`."""

    learning_rate: Required[float]
    head_learning_rate: float | None
    proxy_learning_rate: float | None
    layer_decay: float
    weight_decay: float


def build_optimizer(
    encoder: Encoder,
    loss: nn.Module,
    *,
    learning_rate: float,
    head_learning_rate: float | None = None,
    proxy_learning_rate: float | None = None,
    layer_decay: float = 1.0,
    weight_decay: float = 1e-4,
) -> torch.optim.AdamW:
    """Return AdamW over all parameters that learn. Biases and normalisations have no weight decay.

    Args:
        encoder: The encoder to train.
        loss: The loss; its parameters are the proxies.
        learning_rate: Peak rate of the backbone's last block.
        head_learning_rate: Peak rate of pooling and neck; None for `learning_rate`.
        proxy_learning_rate: Peak rate of the proxies; None for 100 times `learning_rate` (Kim et al., CVPR 2020).
        layer_decay: Factor of the rate from each block to the block before (Clark et al., ICLR 2020; Bao et al., ICLR
            2022).
        weight_decay: Weight decay of matrices.

    Raises:
        ValueError: If there is nothing to train.
    """
    head = learning_rate if head_learning_rate is None else head_learning_rate
    proxies = PROXY_FACTOR * learning_rate if proxy_learning_rate is None else proxy_learning_rate
    trunk = [list(encoder.trunk.parameters())] if layer_decay == 1 else layer_blocks(encoder.trunk)[::-1]
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
    """Set the learning rate of each group for a step.

    Args:
        optimiser: The optimizer.
        schedule: The schedule.
        step: Number of the step, from 0, over all epochs.
    """
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * schedule.factor(step, waits=group["waits"])
