"""Backbones of timm: models by timm's own names, from the Hugging Face Hub, or from a folder. MiewID is among them.

Weights are read as tensors only, whatever the model's repository has beside them, and every tensor must fit.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from whale_ray.errors import EncoderError
from whale_ray.learning.encoders.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, image_size_error
from whale_ray.learning.encoders.backbones.hub_files import ModelSource, commit_of, locate_model
from whale_ray.learning.encoders.backbones.image_processors import PixelFormat, as_channels
from whale_ray.learning.encoders.backbones.miewid import MiewIdModel, miewid_tensors
from whale_ray.learning.encoders.backbones.timm_body import TimmBody
from whale_ray.learning.encoders.backbones.timm_config import MIEWID, read_model_config, registry_config
from whale_ray.learning.encoders.backbones.weight_files import load_strictly, read_weights
from whale_ray.learning.encoders.layers import CHANNELS
from whale_ray.learning.encoders.model_errors import describe_error, named_model_errors
from whale_ray.suggestions import suggest

_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
_OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_HUB, _FOLDER = "hf-hub:", "local-dir:"


def timm_backbone(
    name: str, *, weights: str, image_size: tuple[int, int], config: dict[str, Any] | None = None
) -> Backbone:
    """Return a model of timm, or a MiewID, without its classifier.

    Args:
        name: timm's name, `hf-hub:owner/model`, `hf-hub:owner/model@revision` or a folder.
        weights: `pretrained`, `random` or the path of a file.
        image_size: Height and width in pixels.
        config: The plain config from a recipe. With it the weights are random and nothing is looked up.

    Raises:
        EncoderError: If the model is unknown, has a config of another library, cannot be fetched, or its weights do
            not fit.
    """
    label = f"timm:{name}"
    if config is not None:
        return _as_backbone(_build(config, None, image_size, label), config, label, origin={"config": config})
    origin: dict[str, Any] = {"weights": weights}
    if (source := _source(name, label)) is None:
        config, published = _registered(name, label)
    else:
        config, published = read_model_config(source.config(), label=label), (source, _WEIGHTS)
        # one revision for config and weights, even if the hub's own changes in between
        revision = commit_of(source.find("config.json") or Path())
        published = (ModelSource(label, source.location, revision or source.revision), _WEIGHTS)
        origin["revision"] = revision
    tensors = None
    if weights != "random":
        tensors = read_weights(_published_file(*published, label) if weights == "pretrained" else Path(weights))
    config = _with_classes_of(tensors, config)
    model = _build(config, tensors, image_size, label)
    _check_statements(model, config, label)
    return _as_backbone(model, config, label, origin=origin | {"config": config})


def check_timm_name(name: str) -> None:
    """Check a model's name as far as that needs no hub.

    Raises:
        EncoderError: If timm has no such model or weights, or the folder does not exist.
    """
    if _source(name, f"timm:{name}") is None:
        _registered(name, f"timm:{name}")


def timm_names() -> list[str]:
    """Return the names of all architectures of timm."""
    return [str(name) for name in _timm().list_models()]


def _timm() -> Any:
    import whale_ray.learning.encoders.backbones._torchvision_compat  # noqa: F401  # isort: skip
    import timm

    return timm


def _source(name: str, label: str) -> ModelSource | None:
    """Return the folder or repository that a name means; None if it is one of timm's own names."""
    if name.startswith(_HUB):
        return locate_model(name.removeprefix(_HUB), label=label)
    plain = name.removeprefix(_FOLDER)
    if plain != name or Path(plain).expanduser().is_dir() or plain.startswith((".", "/", "~")):
        folder = Path(plain).expanduser()
        if not folder.is_dir():
            raise EncoderError(f"{label} must be a folder with config.json and weights, but there is no such folder")
        return ModelSource(label, str(folder))
    if "/" in plain:
        raise EncoderError(f"timm has no model {plain!r}. For a model of the hub write timm:hf-hub:{plain}")
    return None


def _registered(name: str, label: str) -> tuple[dict[str, Any], tuple[ModelSource, tuple[str, ...]]]:
    """Return the plain config of one of timm's names, and the repository of its weights with their file names."""
    models = _timm().models
    architecture, _ = models.split_model_name_tag(name)
    if not models.is_model(architecture):
        raise EncoderError(
            f"timm has no model {architecture!r}. {suggest(architecture, timm_names(), count=3)}".rstrip()
        )
    try:
        facts = models.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = _timm().list_pretrained(f"{architecture}.*")
        hint = suggest(name, tags, count=3) or f"It has {', '.join(tags) or 'none'}"
        raise EncoderError(f"timm has no weights {name!r}. {hint}") from error
    facts = facts.to_dict() if facts is not None else {}
    own = (str(facts["hf_hub_filename"]),) if facts.get("hf_hub_filename") else ()
    files = (*own, *_WEIGHTS, *_OPEN_CLIP_WEIGHTS)
    location = "" if facts.get("custom_load") else str(facts.get("hf_hub_id") or "")
    return registry_config(architecture, facts), (ModelSource(label, location), files)


def _published_file(source: ModelSource, files: tuple[str, ...], label: str) -> Path:
    if not source.location:
        raise EncoderError(
            f"timm publishes no weights for {label} on the hub. Write weights: random, give a file as model.weights, "
            "or choose another model"
        )
    if (path := source.find(*files)) is None:
        raise EncoderError(
            f"{label} must have its weights as tensors in {' or '.join(files[:2])}, but {source.location} has none of "
            "them. Convert them with safetensors.torch.save_file, or name another model"
        )
    return path


def _with_classes_of(tensors: Mapping[str, Tensor] | None, config: dict[str, Any]) -> dict[str, Any]:
    """Return the config with as many classes as the classifier in the tensors has; without tensors as it states."""
    if tensors is None or config["kind"] == MIEWID:
        return config
    names = config["pretrained_cfg"].get("classifier")
    layers = [names] if isinstance(names, str) else list(names or ())
    layers += [layer.removesuffix(".fc") for layer in layers]  # as Swin's was called before timm 0.9
    found = (tensors[key] for layer in layers if (key := f"{layer}.weight") in tensors)
    classes = next((len(matrix) for matrix in found), 0)
    return config | {"pretrained_cfg": config["pretrained_cfg"] | {"num_classes": classes}}


def _build(
    config: Mapping[str, Any], tensors: dict[str, Tensor] | None, image_size: tuple[int, int], label: str
) -> nn.Module:
    with named_model_errors(label, "cannot be built"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of torch about timm's code that resizes position biases
        if config["kind"] == MIEWID:
            miewid = MiewIdModel(_create(config, {"num_classes": 0}, None, label))
            if tensors is not None:
                load_strictly(miewid, miewid_tensors(tensors), source="the model", target=label)
            return miewid
        model: Any = _at_size(config, tensors, image_size, label)
        model.reset_classifier(0)
        return cast(nn.Module, model)


def _at_size(
    config: Mapping[str, Any], tensors: dict[str, Tensor] | None, image_size: tuple[int, int], label: str
) -> Any:
    """Return the model for this image size: timm resizes position embeddings and windows when it loads."""
    facts, arguments = config["pretrained_cfg"], config["model_args"]
    own = {"num_classes": facts.get("num_classes", 1000)}
    is_dynamic = arguments.get("dynamic_img_size") or arguments.get("strict_img_size") is False
    if not ("img_size" in arguments or (facts.get("fixed_input_size") and not is_dynamic)):
        return _create(config, own, tensors, label)
    try:
        return _create(config, {**own, "img_size": tuple(image_size)}, tensors, label)
    except EncoderError:
        raise
    except Exception as error:
        trained = tuple(facts.get("input_size", (3, 224, 224))[-2:])
        if trained == tuple(image_size):
            raise
        _create(config, {**own, "img_size": trained}, None, label)  # raises if another size is no remedy
        raise image_size_error(label, image_size, error, such_as=trained) from error


def _create(config: Mapping[str, Any], options: dict[str, Any], tensors: dict[str, Tensor] | None, label: str) -> Any:
    timm, name = _timm(), config["architecture"]
    facts = {**config["pretrained_cfg"], "num_classes": options["num_classes"], "architecture": name}
    facts |= {} if tensors is None else {"state_dict": tensors}
    options = {**config["model_args"], **options}
    if not timm.models.is_model(name):
        hint = suggest(name, timm_names(), count=3)
        raise EncoderError(f"{label} is a model that timm does not have: {name!r}. {hint}".rstrip())
    try:
        model = timm.create_model(name, pretrained=tensors is not None, pretrained_cfg=facts, **options)
    except (RuntimeError, KeyError) as error:
        if tensors is None:
            raise
        timm.create_model(name, pretrained_cfg=facts | {"state_dict": None}, **options)  # raises if the size fails
        raise EncoderError(
            f"the weights of {label} do not fit its architecture {name}: {describe_error(error)}. "
            "Choose the encoder that they were trained for, or other weights."
        ) from error
    model.pretrained_cfg = model.default_cfg = {key: value for key, value in facts.items() if key != "state_dict"}
    return model


def _check_statements(model: Any, config: Mapping[str, Any], label: str) -> None:
    """Check that the network has the number of features and the pooling that its config states."""
    pool = getattr(model, "global_pool", None)
    facts = {"num_features": model.num_features, "global_pool": getattr(pool, "pool_type", pool)}
    for key, found in facts.items():
        if key in config and isinstance(found, (int, str)) and config[key] != found:
            raise EncoderError(
                f"{label} states {key} {config[key]!r} in its config.json, but its architecture "
                f"{config['architecture']} has {found!r}. Write model_args for what differs, or name another model"
            )


def _as_backbone(model: Any, config: Mapping[str, Any], label: str, *, origin: dict[str, Any]) -> Backbone:
    facts = config["pretrained_cfg"]
    body = TimmBody(model, label=label)
    size = facts.get("input_size", (3, 224, 224))
    mean, std = tuple(facts.get("mean", IMAGENET_MEAN)), tuple(facts.get("std", IMAGENET_STD))
    shown = {"input_size": f"{size[-2]}x{size[-1]}", **{key: facts.get(key) for key in ("crop_pct", "interpolation")}}
    replaced = ", ".join(f"{key} {value}" for key, value in shown.items() if value is not None)
    note = f"pretrained_cfg; data.image_size and data.resize replace {replaced}"
    pixels = PixelFormat(mean, std, note, channels="L" if len(mean) == 1 else "RGB")
    pixels = as_channels(pixels, int(size[0]), name=label)
    origin = origin | {"preprocessing": note}
    origin |= {} if pixels.channels == "RGB" else {CHANNELS: pixels.channels}
    return Backbone(
        body,
        class_token=body.has_class_token,
        prefix=body.prefix,
        mean=pixels.mean,
        std=pixels.std,
        channels=pixels.channels,
        trained_size=(int(size[-2]), int(size[-1])),
        origin=json.loads(json.dumps(origin)),
    )
