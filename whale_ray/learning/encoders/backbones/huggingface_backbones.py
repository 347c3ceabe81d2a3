"""Backbones from the Hugging Face Hub or a saved folder: every vision model that transformers' AutoModel loads.

Code from a model repository is never run (`trust_remote_code` is off), and weights are read as tensors only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from whale_ray.errors import EncoderError
from whale_ray.learning.encoders.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone
from whale_ray.learning.encoders.backbones.hub_files import ModelSource, explain_hub_error, locate_model, require_hub
from whale_ray.learning.encoders.backbones.huggingface_body import HuggingFaceBody, as_pair, trained_size
from whale_ray.learning.encoders.backbones.image_processors import NO_PROCESSOR, PixelFormat, as_channels, pixel_format
from whale_ray.learning.encoders.backbones.timm_config import model_kind
from whale_ray.learning.encoders.backbones.weight_files import load_strictly, read_weights
from whale_ray.learning.encoders.layers import CHANNELS
from whale_ray.learning.encoders.model_errors import named_model_errors

PROCESSOR_FILE = "preprocessor_config.json"
_CLASS_TOKENS = ("cls_token", "class_embedding", "class_token")
_NORMS_AFTER_POOLING = {"ConvNext": "layernorm", "CLIPVision": "post_layernorm"}


def huggingface_backbone(
    name: str, *, weights: str, image_size: tuple[int, int], config: dict[str, Any] | None = None
) -> Backbone:
    """Return a vision model by its hub id (`owner/model` or `owner/model@revision`) or its folder.

    Args:
        name: Hub id or folder.
        weights: `pretrained`, `random` or the path of a file.
        image_size: Height and width in pixels.
        config: The model's configuration from a recipe. With it the weights are random and nothing is looked up.

    Raises:
        EncoderError: If the model is unknown, is no vision model, cannot be fetched, or the weights do not fit.
    """
    if config is not None:
        return _as_backbone(_from_config(name, _config_from(config)), image_size, origin={"config": config})
    place = locate_model(name, label=f"hf:{name}")
    source, revision = place.location, place.revision
    _check_family(place, name)
    with _quiet_transformers(), named_model_errors(f"hf:{name}", "cannot be loaded"):
        settings = _fetch(_transformers().AutoConfig, source, revision=revision)
        found = getattr(settings, "_commit_hash", None)
        # one revision for all parts of a model, even if the hub's own changes meanwhile
        revision = found or revision
        model = _from_config(name, settings) if weights != "pretrained" else _pretrained(source, revision)
        pixels = _pixel_format(source, revision, name=f"hf:{name}")
    if weights not in ("pretrained", "random"):
        load_strictly(model, read_weights(Path(weights)), source=weights, target=f"hf:{name}")
    origin = {
        "weights": weights,
        "config": _plain(model.config),
        "revision": found,
        "preprocessing": pixels.source,
    }
    pixels = as_channels(pixels, getattr(model.config, "num_channels", None) or 3, name=f"hf:{name}")
    origin |= {} if pixels.channels == "RGB" else {CHANNELS: pixels.channels}
    facts = {"mean": pixels.mean, "std": pixels.std, "channels": pixels.channels}
    return _as_backbone(model, image_size, origin=origin, **facts)


def _as_backbone(model: Any, image_size: tuple[int, int], **facts: Any) -> Backbone:
    if getattr(model, "main_input_name", "") != "pixel_values":
        raise EncoderError(f"an encoder must take pictures, but {type(model).__name__} does not. Name a vision model.")
    if getattr(model, "pooler", None) is not None and any(True for _ in model.pooler.parameters()):
        model.pooler = None
    norm = _norm_after_pooling(model)
    patch = getattr(model.config, "patch_size", None)
    return Backbone(
        HuggingFaceBody(model, image_size),
        norm=norm,
        class_token=_has_class_token(model),
        patch=as_pair(patch) if patch is not None else None,
        trained_size=trained_size(model, (224, 224)),
        **facts,
    )


def _has_class_token(model: Any) -> bool:
    # DINOv3's ConvNeXt puts its pooled features before its places
    names = (name.rpartition(".")[2] for name, _ in model.named_parameters())
    return type(model).__name__ == "DINOv3ConvNextModel" or any(name in _CLASS_TOKENS for name in names)


def _norm_after_pooling(model: Any) -> nn.Module | None:
    """Remove and return the last normalisation of a model that applies it after pooling."""
    for kind, name in _NORMS_AFTER_POOLING.items():
        if type(model).__name__.startswith(kind):
            norm: nn.Module = getattr(model, name)
            setattr(model, name, nn.Identity())
            return norm
    return None


def _transformers() -> Any:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # without this, transformers asks a service to convert weights that are not safetensors
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    import whale_ray.learning.encoders.backbones._torchvision_compat  # noqa: F401  # isort: skip
    import transformers

    return transformers


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    logging = _transformers().utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _fetch(kind: Any, source: str, **options: Any) -> Any:
    """Load a part of a model from its folder or the local cache, else from the hub."""
    options["trust_remote_code"] = False
    try:
        return kind.from_pretrained(source, local_files_only=True, **options)
    except OSError:
        if Path(source).is_dir():
            raise
        require_hub(source)
    try:
        return kind.from_pretrained(source, **options)
    except OSError as error:
        if (refusal := explain_hub_error(error, source, options.get("revision"))) is None:
            raise
        raise refusal from error


def _check_family(place: ModelSource, name: str) -> None:
    """Refuse the config of a timm or MiewID model, which transformers would read as another network or not at all."""
    if kind := model_kind(place.config()):
        other = f"timm:{name}" if place.is_folder else f"timm:hf-hub:{name}"
        raise EncoderError(f"hf:{name} must be a model of transformers, but its config is one of {kind}. Write {other}")


def _config_from(plain: dict[str, Any]) -> Any:
    settings = {key: value for key, value in plain.items() if key != "model_type"}
    return _transformers().AutoConfig.for_model(plain["model_type"], **settings)


def _plain(config: Any) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in settings.items() if key not in ("_name_or_path", "dtype")}


def _from_config(name: str, config: Any) -> Any:
    with _quiet_transformers(), named_model_errors(f"hf:{name}", "cannot be loaded"):
        model = _transformers().AutoModel.from_config(config, trust_remote_code=False, dtype=torch.float32)
    return _vision_part(model)


def _vision_part(model: Any) -> Any:
    """Return the part that takes images, without the random masks of a masked autoencoder."""
    if getattr(model.config, "mask_ratio", None):
        model.config.mask_ratio = 0.0
    return getattr(model, "vision_model", model)


def _pretrained(source: str, revision: str | None) -> Any:
    options = {"weights_only": True, "dtype": torch.float32, "output_loading_info": True}
    model, report = _fetch(_transformers().AutoModel, source, revision=revision, **options)
    lacking = sorted(name for name in report["missing_keys"] if "pooler" not in name.split("."))
    if lacking:
        shown = ", ".join(lacking[:4])
        raise EncoderError(f"the weights of hf:{source} lack {len(lacking)} tensors of its own config ({shown}, …)")
    return _vision_part(model)


def _pixel_format(source: str, revision: str | None, *, name: str) -> PixelFormat:
    """Return the pixel format of the model's image processor; that of ImageNet if it brings none."""
    try:
        processor = _fetch(_transformers().AutoImageProcessor, source, revision=revision)
    except OSError:
        if (Path(source) / PROCESSOR_FILE).is_file():
            raise
        return PixelFormat(IMAGENET_MEAN, IMAGENET_STD, NO_PROCESSOR)
    except ValueError:  # a class that transformers does not have
        processor = _fetch(_transformers().ViTImageProcessor, source, revision=revision)
    written, _ = processor.get_image_processor_dict(source, revision=revision, local_files_only=True)
    return pixel_format(processor, written, name=name)
