"""A model of timm as a module from images to pooled features, or to a map or tokens in one layout.

The layout is what the model declares: `output_fmt` for maps (NHWC for Swin), `num_prefix_tokens` for tokens.
`Backbone.measure` compares the number of features with the one that the model declares.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from whale_ray.errors import EncoderError
from whale_ray.learning.encoders.backbones.backbone import PoolingBody, flat_layer_norm
from whale_ray.learning.encoders.backbones.miewid import MiewIdModel


class TimmBody(PoolingBody):
    """A model of timm: images (B, C', H, W) to its own pooled features (B, C), or to a map or tokens.

    Args:
        model: The model, without classifier.
        label: Name of the encoder, for messages.
    """

    def __init__(self, model: Any, *, label: str) -> None:
        super().__init__()
        self.model = model
        self.label = label

    @property
    def width(self) -> int:
        """Number of features that the model declares."""
        features = self.model.num_features
        return int(getattr(self.model, "head_hidden_size", None) or features) if self.pools else int(features)

    @property
    def prefix(self) -> int:
        """Number of tokens before those of the patches."""
        return int(getattr(self.model, "num_prefix_tokens", None) or 0)

    @property
    def has_class_token(self) -> bool:
        """True if the first token is a class token."""
        names = (name.rpartition(".")[2] for name, _ in self.model.named_parameters())
        return self.prefix > 0 and "cls_token" in names

    def forward(self, images: Tensor) -> Tensor:
        """Return the model's own pooled features, or a map (B, C, h, w) or tokens (B, T, C)."""
        features = self.model.forward_features(images)
        if self.pools:
            pooled: Tensor = self.model.forward_head(features, pre_logits=True)
            return pooled
        return self._arrange(features)

    def leave_pooling(self) -> nn.Module | None:
        """Return features before the pooling from now on; remove and return the normalisation after the pooling."""
        self.pools = False
        for owner, name in ((self.model, "bn" if isinstance(self.model, MiewIdModel) else "fc_norm"), self._head_norm):
            norm = getattr(owner, name, None)
            if isinstance(norm, (nn.LayerNorm, nn.BatchNorm1d)):
                setattr(owner, name, nn.Identity())
                return flat_layer_norm(norm) if isinstance(norm, nn.LayerNorm) else norm
        return None

    @property
    def _head_norm(self) -> tuple[Any, str]:
        return getattr(self.model, "head", None), "norm"

    def _arrange(self, features: Any) -> Tensor:
        layout = str(getattr(self.model, "output_fmt", None) or "")
        if isinstance(features, Tensor) and features.ndim == 4:
            return features.permute(0, 3, 1, 2) if layout == "NHWC" else features
        is_tokens = isinstance(features, Tensor) and features.ndim == 3 and layout in ("", "NLC")
        is_declared = hasattr(self.model, "num_prefix_tokens") or getattr(self.model, "global_pool", "") != "token"
        if is_tokens and is_declared and features.shape[1] > self.prefix:
            tokens: Tensor = features
            return tokens
        raise EncoderError(
            f"`model.pool` other than auto needs one map or the tokens of the patches, but {self.label} gives neither. "
            "Write pool: auto, the model's own pooling"
        )
