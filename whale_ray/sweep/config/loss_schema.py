"""Parameters of each loss as settings. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from whale_ray.learning.losses.parameters import LossParameter
from whale_ray.learning.losses.registry import loss_parameters
from whale_ray.sweep.config.fields import Setting
from whale_ray.sweep.config.schema import NO_LOSS, SETTINGS, TRIAL_SECTIONS


def loss_settings(name: str) -> dict[str, Setting]:
    """Return the parameters of a loss as settings, by name; each may be an axis."""
    parameters = {} if name == NO_LOSS else loss_parameters(name)
    return {key: _parameter_setting(key, parameter) for key, parameter in parameters.items()}


def completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a trial with the defaults of keys that its version did not have."""
    whole = {section: dict(part) if isinstance(part, Mapping) else part for section, part in settings.items()}
    for setting in (*SETTINGS, *loss_settings(settings["loss"]["name"]).values()):
        if setting.section in whole and setting.section in TRIAL_SECTIONS:
            whole[setting.section].setdefault(setting.short, setting.default)
    return whole


def _parameter_setting(name: str, parameter: LossParameter) -> Setting:
    low, high = (bound if math.isfinite(bound) else None for bound in (parameter.limits.low, parameter.limits.high))
    return Setting(
        key=f"loss.{name}",
        kind="choice" if parameter.choices else parameter.kind.__name__,
        meaning="a parameter of the loss",
        default=parameter.default,
        choices=parameter.choices,
        low=low,
        high=high,
        axis=True,
        identity=True,
    )
