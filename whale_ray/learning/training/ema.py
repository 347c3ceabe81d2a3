"""A moving average of an encoder's weights, which is evaluated and kept in its place.

Knows encoders and steps; knows nothing of losses and schedules.
"""

from __future__ import annotations

from copy import deepcopy

import torch

from whale_ray.learning.encoders.registry import Encoder


class Average:
    """An exponential moving average of an encoder over the steps of its training (Polyak and Juditsky, 1992).

    The first steps count less of the past, min(decay, (1 + step) / (10 + step)), so that the random start is
    forgotten in a short training too. Batch statistics are averaged as the weights are: they belong to them.
    `encoder` is the averaged one; it takes no gradient.
    """

    def __init__(self, encoder: Encoder, decay: float) -> None:
        self.encoder = deepcopy(encoder).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, encoder: Encoder, step: int) -> None:
        """Take in the weights after a step, the steps counted from 0 over the whole training."""
        share = 1.0 - min(self.decay, (1 + step) / (10 + step))
        kept, present = self.encoder.state_dict().values(), encoder.state_dict().values()
        pairs = list(zip(kept, present, strict=True))
        averaged = [(old, new) for old, new in pairs if old.is_floating_point()]
        torch._foreach_lerp_([old for old, _ in averaged], [new for _, new in averaged], share)
        for old, new in pairs:
            if not old.is_floating_point():  # how many batches a normalisation has seen
                old.copy_(new)
