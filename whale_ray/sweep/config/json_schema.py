"""JSON Schema of the sweep file, generated from the settings, for editors that complete and check YAML."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from whale_ray.learning.losses.registry import LOSSES
from whale_ray.retrieval.evaluation.score_names import OBJECTIVES
from whale_ray.sweep.config.fields import Default, Setting
from whale_ray.sweep.config.loss_schema import loss_settings
from whale_ray.sweep.config.schema.all_settings import SECTIONS, SELECTORS, section_settings
from whale_ray.sweep.config.schema.data_settings import SPLIT_VALUES
from whale_ray.sweep.config.schema.search_settings import SPEED
from whale_ray.sweep.config.value_kinds import KEYPOINT_WORDS

Schema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_BASES: dict[str, Schema] = {
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "text": {"type": "string", "minLength": 1},
    "weights": {"type": "string", "minLength": 1},
    "keypoints": {"type": "string", "pattern": rf"^({'|'.join(KEYPOINT_WORDS)}|.+\.onnx)$"},
    "folder_name": {"type": "string", "pattern": "^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?$"},
    "size": {
        "anyOf": [{"type": "integer", "minimum": 16, "maximum": 4096}, {"type": "string", "pattern": r"^\d+x\d+$"}]
    },
    "database_url": {"type": "string", "pattern": r"^(sqlite:///|postgresql(\+psycopg)?://)."},
    "server_url": {"type": "string", "pattern": "^https?://[^/]"},
    "encoder": {"type": "string", "pattern": "^(tiny|torchvision:.+|hf:.+|timm:.+)$"},
}
_BOUNDS = (("low", "minimum"), ("above", "exclusiveMinimum"), ("high", "maximum"), ("below", "exclusiveMaximum"))


def sweep_schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of a sweep file.

    It checks names, types and limits of every key. The rules between keys are checked by `load_sweep` alone.
    """
    properties = {key: _value_or_axis(setting) for key, setting in section_settings("").items()}
    properties |= {section: _section(section) for section in SECTIONS}
    return {
        "$schema": _DIALECT,
        "title": "whale_ray sweep file",
        **_object(properties),
        "required": [key for key, setting in section_settings("").items() if setting.default is Default.REQUIRED],
    }


def _section(name: str) -> Schema:
    settings = section_settings(name)
    properties = {key: _value_or_axis(setting) for key, setting in settings.items()}
    if name == "loss":
        properties |= _loss_parameters()
    if name == "search":
        both = {"type": "array", "items": {"enum": [*OBJECTIVES, SPEED]}, "minItems": 2, "maxItems": 2}
        properties["objective"] = {"anyOf": [properties["objective"], both]}
    section = _object(properties)
    if name == "split":
        short = {kind: _value(settings[key]) for kind, key in SPLIT_VALUES.items()}
        return {
            "anyOf": [_value(settings["kind"]), section, {**_object(short), "minProperties": 1, "maxProperties": 1}]
        }
    if name in SELECTORS:
        section["required"] = [SELECTORS[name]]
        return {"anyOf": [section, {"type": "array", "items": section, "minItems": 1}]}
    return section


def _loss_parameters() -> dict[str, Schema]:
    """Return the parameters of all losses; one that several losses have accepts the values of each."""
    found: dict[str, list[Schema]] = {}
    for loss in LOSSES:
        for key, setting in loss_settings(loss).items():
            schemas = found.setdefault(key, [])
            if (schema := _value_or_axis(setting)) not in schemas:
                schemas.append(schema)
    return {key: schemas[0] if len(schemas) == 1 else {"anyOf": schemas} for key, schemas in found.items()}


def _value_or_axis(setting: Setting) -> Schema:
    value, about = _value(setting), {"description": setting.meaning}
    if setting.default not in (Default.REQUIRED, None):
        about["default"] = setting.default
    if not setting.axis:
        return {**value, **about}
    forms = [value, {"type": "array", "items": value, "minItems": 1, "uniqueItems": True}]
    if setting.kind in ("int", "float"):
        positive = {**_BASES[setting.kind], "exclusiveMinimum": 0}
        parts = {"low": _value(setting), "high": _value(setting), "log": {"type": "boolean"}, "step": positive}
        forms.append({**_object(parts), "required": ["low", "high"]})
    return {"anyOf": forms, **about}


def _value(setting: Setting) -> Schema:
    """Return the schema of one value of the setting."""
    base = {"enum": list(setting.choices)} if setting.kind == "choice" else dict(_BASES[setting.kind])
    bounds = ((word, getattr(setting, side)) for side, word in _BOUNDS)
    base |= {word: int(bound) if bound == int(bound) else bound for word, bound in bounds if bound is not None}
    return {"anyOf": [base, {"type": "null"}]} if setting.nullable else base


def _object(properties: dict[str, Schema] | Iterable[tuple[str, Schema]]) -> Schema:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}
