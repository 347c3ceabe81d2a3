"""Class proxies of a trained loss: one or more vectors per individual that its logits compare images with.

Reading names imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whale_ray.learning.losses.registry import LOSSES, PAIR_LOSSES

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

PROXY_LOSSES = tuple(name for name in LOSSES if name not in PAIR_LOSSES)
"""Losses that compare photographs with proxies, one or more an individual; the others compare them with each other."""


def class_proxies(loss: nn.Module, *, num_classes: int) -> np.ndarray | None:
    """Return the proxies as unit vectors, float16, shape (num_classes, proxies per class, D); None if there are none.

    Args:
        loss: The trained loss.
        num_classes: Number of individuals.
    """
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
