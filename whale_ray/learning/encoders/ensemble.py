"""Ensemble encoder: the concatenated embeddings of several encoders.

`rebuild_from_recipe` builds any encoder, single or ensemble, from its recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from whale_ray.errors import EncoderError
from whale_ray.learning.encoders.layers import Whiten
from whale_ray.learning.encoders.registry import WHITENED, Encoder, rebuild_encoder

ENSEMBLE = "ensemble"


class Ensemble(nn.Module):
    """Concatenated unit embeddings of several encoders: RGB images from 0 to 1, float, (B, 3, H, W) to (B, sum of D).

    Args:
        members: The encoders.
        recipe: The recipe of the ensemble.
    """

    def __init__(self, members: Sequence[Encoder], recipe: dict[str, Any]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.whitening: nn.Module = nn.Identity()
        self.embedding_size = sum(member.embedding_size for member in members)
        self.recipe = recipe
        if WHITENED in recipe:
            self.whitening = Whiten(self.embedding_size, recipe[WHITENED])
            self.embedding_size = recipe[WHITENED]

    def forward(self, images: Tensor) -> Tensor:
        """Return the concatenated embeddings of a batch of images."""
        parts = [F.normalize(member(images).float()) for member in self.members]
        embeddings: Tensor = self.whitening(torch.cat(parts, dim=1))
        return embeddings


def join_encoders(
    recipes: Sequence[dict[str, Any]], weights: Sequence[Mapping[str, Tensor]]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the recipe and the weights of an ensemble.

    Args:
        recipes: Recipe of each member.
        weights: State dict of each member, in the same order.

    Raises:
        EncoderError: If the members have different image sizes.
    """
    sizes = {tuple(recipe["image_size"]) for recipe in recipes}
    if len(sizes) != 1:
        raise EncoderError(f"the encoders of an ensemble see the same pictures, but theirs are {sorted(sizes)}")
    joined = {f"members.{place}.{name}": part for place, one in enumerate(weights) for name, part in one.items()}
    return {"name": ENSEMBLE, "image_size": list(recipes[0]["image_size"]), "members": list(recipes)}, joined


def rebuild_from_recipe(recipe: dict[str, Any]) -> Encoder | Ensemble:
    """Return an encoder or ensemble of the recipe's architecture with random weights.

    Raises:
        EncoderError: If this version cannot build what the recipe names.
    """
    if recipe["name"] != ENSEMBLE:
        return rebuild_encoder(recipe)
    return Ensemble([rebuild_encoder(one) for one in recipe["members"]], dict(recipe))
