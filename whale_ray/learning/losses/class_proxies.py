"""The proxies of a trained loss: the vectors that stand for individuals, which its logits compare a photograph with.

Knows losses by name and as modules; reading names imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whale_ray.learning.losses.registry import LOSSES, PAIR_LOSSES

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

PROXY_LOSSES = tuple(name for name in LOSSES if name not in PAIR_LOSSES)
"""Losses that compare photographs with proxies, one or more an individual; the others compare them with each other."""


def proxies_of(loss: nn.Module, *, num_classes: int) -> np.ndarray | None:
    """The proxies as unit vectors, float16 (num_classes, proxies of each, D); None where the loss has none."""
    import torch

    found = list(loss.named_parameters())
    if not found:
        return None
    (name, parameter), *others = found
    assert not others, f"a loss has proxies and nothing else to learn, but this one has {[one for one, _ in found]}"
    columns = name.rpartition(".")[2] == "W"  # pytorch-metric-learning's weights of a classifier: (D, proxies)
    rows = parameter.detach().double().T if columns else parameter.detach().double()
    vectors: np.ndarray = torch.nn.functional.normalize(rows, dim=1).half().cpu().numpy()
    return vectors.reshape(num_classes, -1, vectors.shape[1])
