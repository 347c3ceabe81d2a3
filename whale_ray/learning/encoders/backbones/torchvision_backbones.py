"""Backbones from torchvision: every classification model without its classifier."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from whale_ray.errors import EncoderError
from whale_ray.learning.encoders.backbones.backbone import Backbone, flat_layer_norm, image_size_error
from whale_ray.learning.encoders.backbones.weight_files import load_strictly, read_weights
from whale_ray.suggestions import suggest


def torchvision_names() -> list[str]:
    """Return the names of all classification models of torchvision."""
    import whale_ray.learning.encoders.backbones._torchvision_compat  # noqa: F401  # isort: skip
    from torchvision import models

    return [str(name) for name in models.list_models(module=models)]


def torchvision_backbone(name: str, *, weights: str, image_size: tuple[int, int]) -> Backbone:
    """Return a torchvision classification model without pooling and classifier.

    Weights are first loaded strictly into the whole model, with any number of classes.

    Args:
        name: Name of the model in torchvision.
        weights: `pretrained`, `random` or the path of a file.
        image_size: Height and width in pixels.

    Raises:
        EncoderError: If the name is unknown, the weights cannot be fetched or do not fit, or the image size is
            impossible.
    """
    if name not in (names := torchvision_names()):
        hint = suggest(name, names, count=3) or f"It has {', '.join(names)}"
        raise EncoderError(f"torchvision has no classification model {name!r}. {hint}")
    tensors = _torchvision_weights(name, weights)
    model = _whole_model(name, tensors, image_size)
    if tensors is not None:
        load_strictly(model, tensors, source=weights, target=f"torchvision:{name}")
    mean, std = _torchvision_statistics(name)
    body, norm = _remove_head(model, image_size)
    patch = _patch(model)
    return Backbone(
        body,
        norm=norm,
        class_token=patch is not None,
        patch=patch,
        mean=mean,
        std=std,
        origin={"weights": weights},
    )


def _patch(model: Any) -> tuple[int, int] | None:
    return (model.patch_size, model.patch_size) if hasattr(model, "class_token") else None


def _torchvision_weights(name: str, weights: str) -> dict[str, Tensor] | None:
    if weights == "random":
        return None
    tensors = _fetch(name) if weights == "pretrained" else read_weights(Path(weights))
    if name.startswith("densenet"):
        # the published files are older than the present names of these layers
        pattern = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
        tensors = {pattern.sub(r"\1\2", key): value for key, value in tensors.items()}
    return tensors


def _fetch(name: str) -> dict[str, Tensor]:
    from torchvision import models

    published = models.get_model_weights(name).DEFAULT
    try:
        return dict(published.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except OSError as error:
        raise EncoderError(
            f"the pretrained weights of torchvision:{name} cannot be fetched ({error}). "
            f"Connect this machine, put {published.url.rpartition('/')[2]} into "
            f"{torch.hub.get_dir()}/checkpoints, give a file as model.weights, or set model.weights: random."
        ) from error


def _whole_model(name: str, tensors: dict[str, Tensor] | None, image_size: tuple[int, int]) -> nn.Module:
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = tensors is None
    if name.startswith("maxvit"):
        options["input_size"] = image_size
    if name.startswith("vit_") and tensors is not None:
        options["image_size"] = _trained_size(name, tensors)
    try:
        return _with_classes_of(tensors, name, options)
    except ValueError as error:
        raise image_size_error(f"torchvision:{name}", image_size, error) from error


def _with_classes_of(tensors: dict[str, Tensor] | None, name: str, options: dict[str, Any]) -> nn.Module:
    from torchvision import models

    model: nn.Module = models.get_model(name, weights=None, **options)
    heads = [key for key, layer in model.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    matrix = (tensors or {}).get(f"{heads[-1]}.weight")
    if matrix is None or matrix.shape == model.get_parameter(f"{heads[-1]}.weight").shape:
        return model
    return cast(nn.Module, models.get_model(name, weights=None, num_classes=len(matrix), **options))


def _trained_size(name: str, tensors: dict[str, Tensor]) -> int:
    """Return the side of the square that a ViT's position embeddings were learned for; 224 without them."""
    positions = tensors.get("encoder.pos_embedding")
    if positions is None or positions.ndim != 3:
        return 224
    side = round(math.sqrt(positions.shape[1] - 1))
    return int(name.rpartition("_")[2]) * side


def _torchvision_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    from torchvision import models

    if name in ("googlenet", "inception_v3"):
        # inside the published models a `transform_input` turns ImageNet's statistics into these
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    preset = models.get_model_weights(name).DEFAULT.transforms()
    return tuple(preset.mean), tuple(preset.std)


_HEAD_MODULES = ("avgpool", "dropout", "classifier", "fc", "head", "flatten")
_AUXILIARY_MODULES = ("aux1", "aux2", "AuxLogits")


def _remove_head(model: nn.Module, image_size: tuple[int, int]) -> tuple[nn.Module, nn.Module | None]:
    """Return what comes before the pooling, and the normalisation between pooling and classifier, if any."""
    if hasattr(model, "class_token"):
        return VisionTokens(model, image_size), None
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, child in model.named_children():
        if name in _HEAD_MODULES:
            break
        if name not in _AUXILIARY_MODULES:
            layers[name] = nn.Sequential(*child) if isinstance(child, nn.ModuleList) else child
    if type(model).__name__ == "DenseNet":
        layers["relu"] = nn.ReLU()
    return nn.Sequential(layers), _norm_before_classifier(model)


def _norm_before_classifier(model: nn.Module) -> nn.Module | None:
    classifier = getattr(model, "classifier", None)
    for layer in classifier if isinstance(classifier, nn.Sequential) else ():
        if isinstance(layer, nn.LayerNorm):
            return flat_layer_norm(layer)
        if not isinstance(layer, (nn.AdaptiveAvgPool2d, nn.Flatten)):
            break
    return None


class VisionTokens(nn.Module):
    """torchvision's vision transformer up to its last normalisation: (B, 3, H, W) → tokens (B, 1 + hw, C).

    Its position embeddings, learned for a square, are interpolated once to the grid of the image size.
    """

    def __init__(self, model: Any, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.conv_proj = model.conv_proj
        self.class_token = model.class_token
        self.encoder = model.encoder
        grid = (image_size[0] // model.patch_size, image_size[1] // model.patch_size)
        self.encoder.pos_embedding = nn.Parameter(_resize_positions(model.encoder.pos_embedding.detach(), grid))

    def forward(self, images: Tensor) -> Tensor:
        """Return the class token and one token a patch."""
        patches = self.conv_proj(images).flatten(2).transpose(1, 2)
        classes = self.class_token.expand(len(patches), -1, -1)
        tokens: Tensor = self.encoder(torch.cat([classes, patches], dim=1))
        return tokens


def _resize_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    side = round((positions.shape[1] - 1) ** 0.5)
    if grid == (side, side):
        return positions
    square = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=grid, mode="bicubic", align_corners=False, antialias=True)
    return torch.cat([positions[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)
