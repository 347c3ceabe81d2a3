"""The parameters of each loss as settings, from the signatures of the losses; what a trial's settings are with them.

Knows the losses by name only, without importing torch; the keys that every sweep has are `reference`'s.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, get_args

from whale_ray.learning.losses.registry import LIMITS, loss_parameters
from whale_ray.sweep.config.fields import Setting
from whale_ray.sweep.config.schema import NO_LOSS, SETTINGS, TRIAL_SECTIONS


def loss_settings(name: str) -> dict[str, Setting]:
    """The parameters of one loss as settings, each of which may be an axis."""
    parameters = {} if name == NO_LOSS else loss_parameters(name)
    return {key: _parameter_setting(parameter) for key, parameter in parameters.items()}


def completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a trial, those that came after it was written at their defaults."""
    whole = {section: dict(part) if isinstance(part, Mapping) else part for section, part in settings.items()}
    for setting in (*SETTINGS, *loss_settings(settings["loss"]["name"]).values()):
        if setting.section in whole and setting.section in TRIAL_SECTIONS:
            whole[setting.section].setdefault(setting.short, setting.default)
    return whole


def _parameter_setting(parameter: inspect.Parameter) -> Setting:
    choices = get_args(parameter.annotation)
    low, high = LIMITS.get(parameter.name, (None, None))
    return Setting(
        key=f"loss.{parameter.name}",
        kind="choice" if choices else parameter.annotation.__name__,
        meaning="a parameter of the loss",
        default=parameter.default,
        choices=choices,
        low=low,
        high=None if high is None or math.isinf(high) else high,
        axis=True,
        identity=True,
    )
