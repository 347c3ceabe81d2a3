"""Configs of timm and MiewID models: which architecture a config.json means, and refusal of any other.

timm itself ignores keys that it does not know. Here they are errors, because they could mean another architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from whale_ray.errors import EncoderError
from whale_ray.suggestions import suggest

TIMM, MIEWID = "timm", "miewid"
MIEWID_ARCHITECTURE: Final = "efficientnetv2_rw_m"
"""timm's name of the backbone of the published MiewID models."""
_KEYS = {"architecture", "num_classes", "num_features", "global_pool", "pretrained_cfg", "model_args"}
_LABELS = {"label_names", "label_descriptions", "labels"}
_TRANSFORMERS_KEYS = {"model_type", "architectures", "transformers_version", "torch_dtype", "dtype", "do_pooling"}
_TRANSFORMERS_KEYS |= {"initializer_range", "num_labels", "id2label", "label2id"}
# What else an argument of timm's create_model may do is decided by whale_ray alone: checkpoint_path would read pickles.
_RESERVED = {"model_name", "pretrained", "checkpoint_path", "cache_dir", "features_only", "out_indices", "pruned"}
_RESERVED |= {"pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "pretrained_filter_fn", "num_classes"}
_RESERVED |= {"pretrained_model_args", "feature_cfg", "kwargs_filter", "scriptable", "exportable", "no_jit"}
_PREPROCESSING = ("input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
_KEPT = (*_PREPROCESSING, "pool_size", "first_conv", "classifier", "num_classes")


def model_kind(config: Mapping[str, Any]) -> str | None:
    """Return `timm` or `miewid` for the content of a config.json; None if it belongs to neither."""
    named = [*(config.get("architectures") or ()), *dict(config.get("auto_map") or {}).values()]
    if config.get("model_type") == MIEWID or any("miewid" in str(name).lower() for name in named):
        return MIEWID
    return TIMM if "architecture" in config and config.get("model_type") in (None, "timm_wrapper") else None


def read_model_config(config: Mapping[str, Any], *, label: str) -> dict[str, Any]:
    """Return the plain config of a timm or MiewID model, as recipes hold it.

    Args:
        config: Content of a config.json.
        label: Name of the encoder, for messages.

    Returns:
        `kind`, `architecture`, `model_args`, `pretrained_cfg`, and `num_features` and `global_pool` if it states them.

    Raises:
        EncoderError: If the config belongs to another library, or has a key that could mean another architecture.
    """
    kind = model_kind(config)
    if kind is None:
        found = f"model_type {config['model_type']!r}" if "model_type" in config else "no architecture"
        other = f"Write {label.replace('timm:hf-hub:', 'hf:').replace('timm:', 'hf:')}, or name another model"
        raise EncoderError(f"{label} must have a config of timm or MiewID, but it has {found}. {other}")
    return _miewid_config(config, label) if kind == MIEWID else _timm_config(config, label)


def registry_config(architecture: str, pretrained_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain config of a model that timm knows by name.

    Args:
        architecture: timm's name of the architecture.
        pretrained_cfg: timm's facts about the pretrained weights.
    """
    return {"kind": TIMM, "architecture": architecture, "model_args": {}, "pretrained_cfg": _kept(pretrained_cfg)}


def _miewid_config(config: Mapping[str, Any], label: str) -> dict[str, Any]:
    if config.get("use_fc"):
        raise EncoderError(f"{label} is a MiewID with `use_fc: true`, whose extra layer is not supported. Name another")
    facts = {"input_size": [3, 440, 440], "interpolation": "bilinear", "crop_pct": 1.0, "num_classes": 0}
    architecture = config.get("model_name") or config.get("architecture") or MIEWID_ARCHITECTURE
    return {"kind": MIEWID, "architecture": architecture, "model_args": {}, "pretrained_cfg": facts}


def _timm_config(config: Mapping[str, Any], label: str) -> dict[str, Any]:
    from timm.models import PretrainedCfg

    fields = set(PretrainedCfg.__dataclass_fields__)
    if "pretrained_cfg" not in config:  # the flat form of timm before 0.9
        known = fields | {"architecture", "num_features", "global_pool"}
        facts = {key: value for key, value in config.items() if key in fields}
    else:
        known, facts = _KEYS, dict(config["pretrained_cfg"])
    _check_keys(config, known | _LABELS | _TRANSFORMERS_KEYS, label, "config.json")
    _check_keys(facts, fields, label, "pretrained_cfg")
    if config.get("num_classes") is not None:
        facts["num_classes"] = config["num_classes"]
    arguments = dict(config.get("model_args") or {})
    if reserved := sorted(_RESERVED & set(arguments)):
        raise EncoderError(f"{label} must not set {', '.join(reserved)} in model_args of its config.json. Remove them")
    stated = {key: config[key] for key in ("num_features", "global_pool") if isinstance(config.get(key), (int, str))}
    plain = {"kind": TIMM, "architecture": str(config["architecture"]), "model_args": arguments, **stated}
    return plain | {"pretrained_cfg": _kept(facts)}


def _kept(facts: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: facts[key] for key in _KEPT if facts.get(key) is not None}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in kept.items()}


def _check_keys(found: Mapping[str, Any], known: set[str], label: str, place: str) -> None:
    foreign = sorted(key for key in found if key not in known and not key.startswith("_"))
    if foreign:
        hint = suggest(foreign[0], sorted(known)) or "Remove what does not change the network"
        raise EncoderError(
            f"{label} has {', '.join(foreign)} in its {place}, which timm would ignore: the network could be another "
            f"than its author meant. {hint}"
        )
