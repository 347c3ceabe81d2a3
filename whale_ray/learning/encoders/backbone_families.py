"""Families of backbones and the names of encoders: `tiny`, or a family and a model such as `torchvision:resnet18`.

Reading the table imports none of torchvision, transformers and timm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from whale_ray.errors import EncoderError
from whale_ray.learning.encoders.backbones.backbone import Backbone, tiny_backbone
from whale_ray.learning.encoders.backbones.torchvision_backbones import torchvision_backbone, torchvision_names
from whale_ray.suggestions import suggest


def _huggingface(name: str, **options: Any) -> Backbone:
    from whale_ray.learning.encoders.backbones.huggingface_backbones import huggingface_backbone

    return huggingface_backbone(name, **options)


def _timm(name: str, **options: Any) -> Backbone:
    from whale_ray.learning.encoders.backbones.timm_backbones import timm_backbone

    return timm_backbone(name, **options)


ENCODERS: dict[str, Callable[..., Backbone]] = {
    "tiny": tiny_backbone,
    "torchvision": torchvision_backbone,
    "hf": _huggingface,
    "timm": _timm,
}
"""Family → builder of its backbones. Names: `tiny`, `torchvision:NAME`, `hf:ID`, `hf:FOLDER`, `timm:NAME`,
`timm:hf-hub:ID` and `timm:FOLDER`."""


def check_encoder_name(name: str) -> None:
    """Check that a name can be an encoder's. Hub ids and folders are looked up only when the encoder is built.

    Raises:
        EncoderError: If the family, or the model of torchvision or timm, is unknown; names the nearest.
    """
    family, model = split_encoder_name(name)
    if family == "torchvision" and model not in (names := torchvision_names()):
        raise EncoderError(f"torchvision has no classification model {model!r}{_nearest(model, names)}")
    if family == "timm":
        from whale_ray.learning.encoders.backbones.timm_backbones import check_timm_name

        check_timm_name(model)


def split_encoder_name(name: str) -> tuple[str, str]:
    """Return family and model of an encoder's name; the model of `tiny` is empty.

    Raises:
        EncoderError: If the family is unknown, or the model is missing; names the nearest.
    """
    family, colon, model = name.partition(":")
    if family in ENCODERS and (family == "tiny") != bool(colon and model):
        return family, model
    names = ["tiny", *(f"torchvision:{known}" for known in torchvision_names())]
    near = _nearest(name, names) or _nearest(f"torchvision:{name}", names) or _nearest(f"torchvision:{model}", names)
    raise EncoderError(f"an encoder is tiny or torchvision:NAME, hf:NAME or timm:NAME, but got {name!r}{near}")


def _nearest(name: str, names: list[str]) -> str:
    hint = suggest(name, names, count=3, cutoff=0.75)
    return f". {hint}" if hint else ""
