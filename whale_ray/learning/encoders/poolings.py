"""Poolings of a frozen backbone: several features from the maps of one forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from whale_ray.learning.encoders.backbones.backbone import PoolingBody
from whale_ray.learning.encoders.layers import OWN_POOL, POOLS

if TYPE_CHECKING:
    from whale_ray.learning.encoders.registry import Encoder


@dataclass(frozen=True)
class Pooling:
    """A pooling of the last feature maps.

    Attributes:
        name: `avg`, `gem`, `cls`, or `own` for features that the network has pooled itself.
        layers: Number of feature-map sizes that are pooled and concatenated.
        module: The layer.
    """

    name: str
    layers: int
    module: nn.Module

    def fits(self, maps: Sequence[Tensor]) -> bool:
        """Return whether a network that gives these maps has enough of them."""
        return self.layers == 1 or (self.layers <= len(maps) and maps[0].ndim == 4)


def pooling_of(encoder: Encoder) -> Pooling:
    """Return the pooling of an encoder."""
    return Pooling(encoder.recipe["pool"], encoder.trunk.layers, encoder.head.pool)


def poolings_of_backbone(encoder: Encoder, others: Iterable[tuple[str, int]]) -> list[Pooling]:
    """Return the pooling of an encoder, then the others that its backbone allows, each once.

    A network that pools its features itself gives no maps for another pooling.

    Args:
        encoder: The encoder.
        others: `pool` and `layers` of other encoders, as in `build_encoder`.
    """
    own = pooling_of(encoder)
    if own.name == OWN_POOL:
        return [own]
    device, found = encoder.mean.device, {(own.name, own.layers): own}
    for name, layers in others:
        chosen = _automatic(encoder) if name == "auto" else name
        if chosen in POOLS and (chosen != "cls" or encoder.trunk.class_token):
            found.setdefault((chosen, layers), Pooling(chosen, layers, POOLS[chosen]().to(device).eval()))
    return list(found.values())


def _automatic(encoder: Encoder) -> str:
    """Return what `pool: auto` means for the backbone."""
    if isinstance(encoder.trunk.body, PoolingBody):
        return OWN_POOL
    return "cls" if encoder.trunk.class_token else "avg"
