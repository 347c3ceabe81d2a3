"""A vision model of transformers as a module from images to its last hidden state."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from whale_ray.learning.encoders.backbones.backbone import ResizableBody


class HuggingFaceBody(ResizableBody):
    """A vision model of transformers: images (B, C, H, W) to its last hidden state, a map or tokens.

    A masked autoencoder sees every patch, in order.

    Args:
        model: The transformers model.
        image_size: Height and width in pixels.
    """

    def __init__(self, model: Any, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self.options: dict[str, Any] = {}
        self.takes_noise = getattr(model.config, "mask_ratio", None) is not None and self._takes("noise")
        self.adapt_to(image_size)

    def _takes(self, parameter: str) -> bool:
        return parameter in inspect.signature(self.model.forward).parameters

    def adapt_to(self, image_size: tuple[int, int]) -> None:
        """Interpolate position embeddings if images have another size than the model was trained on."""
        is_other = trained_size(self.model, image_size) != tuple(image_size)
        other = self._takes("interpolate_pos_encoding") and is_other
        self.options = {"interpolate_pos_encoding": True} if other else {}

    def forward(self, images: Tensor) -> Tensor:
        """Return the last hidden state."""
        options = self.options | ({"noise": self._rising(images)} if self.takes_noise else {})
        features: Tensor = self.model(pixel_values=images, return_dict=True, **options).last_hidden_state
        return features

    def _rising(self, images: Tensor) -> Tensor:
        """Return the noise, shape (B, patches), by which a masked autoencoder sorts its patches: their order."""
        height, width = as_pair(self.model.config.patch_size)
        count = (images.shape[2] // height) * (images.shape[3] // width)
        return torch.linspace(0, 1, count, device=images.device).expand(len(images), count)


def trained_size(model: Any, default: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of the images that a model of transformers was trained on.

    Args:
        model: The model.
        default: The answer for a model that takes any size.
    """
    return as_pair(getattr(model.config, "image_size", None) or default)


def as_pair(size: Any) -> tuple[int, int]:
    """Return height and width from one number or a list of them."""
    values = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    return int(values[0]), int(values[-1])
