"""Identity of a trial: a hash of its photographs and of the settings that differ from their defaults."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from whale_ray.learning.losses.registry import LOSSES
from whale_ray.sweep.config.fields import Setting
from whale_ray.sweep.config.loss_schema import loss_settings
from whale_ray.sweep.config.schema.all_settings import SETTINGS
from whale_ray.sweep.config.value_kinds import WEIGHTS_WORDS


def trial_identity(settings: Mapping[str, Any], *, data_fingerprint: str) -> str:
    """Return the id of a trial, 8 hex digits: equal for equal photographs and settings, on any machine.

    It depends only on values that differ from the default that they had when they were introduced, so that a new key
    does not change the ids of older trials.
    A weights file counts by its content.

    Args:
        settings: Settings of the trial.
        data_fingerprint: Fingerprint of the photographs.
    """
    differing: dict[str, Any] = {"data_fingerprint": data_fingerprint}
    for setting in (*(one for one in SETTINGS if one.identity), *_loss_parameters(settings)):
        holder = settings.get(setting.section, {}) if setting.section else settings
        value = holder.get(setting.short, setting.recorded_default)
        if value != setting.recorded_default:
            differing[setting.key] = _content(value) if setting.key == "model.weights" else value
    text = json.dumps(differing, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _loss_parameters(settings: Mapping[str, Any]) -> list[Setting]:
    name = settings.get("loss", {}).get("name")
    return list(loss_settings(name).values()) if name in LOSSES else []


def _content(weights: str) -> str:
    path = Path(weights)
    if weights in WEIGHTS_WORDS or not path.is_file():
        return weights
    facts = path.stat()
    return _sha256(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
