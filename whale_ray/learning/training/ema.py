"""Exponential moving average (EMA) of an encoder's weights."""

from __future__ import annotations

from copy import deepcopy

import torch

from whale_ray.learning.encoders.registry import Encoder


class ExponentialMovingAverage:
    """Exponential moving average of an encoder over the steps of its training (Polyak and Juditsky, 1992).

    The weight of the past after a step is min(decay, (1 + step) / (10 + step)), so that a short training also forgets
    its random start. Batch statistics are averaged like the weights. The averaged encoder takes no gradient.

    Args:
        encoder: The encoder in training.
        decay: Weight of the past, 0 to 1.
    """

    def __init__(self, encoder: Encoder, decay: float) -> None:
        self.encoder = deepcopy(encoder).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, encoder: Encoder, step: int) -> None:
        """Include the weights after a step.

        Args:
            encoder: The encoder in training.
            step: Number of the step, from 0, over the whole training.
        """
        share = 1.0 - min(self.decay, (1 + step) / (10 + step))
        kept, present = self.encoder.state_dict().values(), encoder.state_dict().values()
        pairs = list(zip(kept, present, strict=True))
        averaged = [(old, new) for old, new in pairs if old.is_floating_point()]
        torch._foreach_lerp_([old for old, _ in averaged], [new for _, new in averaged], share)
        for old, new in pairs:
            if not old.is_floating_point():  # how many batches a normalisation has seen
                old.copy_(new)
