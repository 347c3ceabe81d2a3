"""Parameters of each loss as settings. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from whale_ray.errors import Fault
from whale_ray.learning.losses.parameters import LossParameter
from whale_ray.learning.losses.registry import LOSSES, loss_parameters
from whale_ray.sweep.config.fields import Setting
from whale_ray.sweep.config.schema.all_settings import SETTINGS, TRIAL_SECTIONS
from whale_ray.sweep.config.schema.training_settings import NO_LOSS
from whale_ray.sweep.config.yaml_nodes import Node


def loss_settings(name: str) -> dict[str, Setting]:
    """Return the parameters of a loss as settings, by name; each may be an axis."""
    parameters = {} if name == NO_LOSS else loss_parameters(name)
    return {key: _parameter_setting(key, parameter) for key, parameter in parameters.items()}


def given_parameters(node: Node, faults: list[Fault]) -> dict[str, Setting]:
    """Return the parameters of a loss; of several losses the given ones, which all losses must have.

    Args:
        node: The section `loss`.
        faults: Receives a fault for each parameter that one of several losses lacks.
    """
    names = loss_names(node.get("name"))
    if len(names) == 1:
        return loss_settings(names[0])
    found: dict[str, Setting] = {}
    for key in [key for key in node.value if key != "name"]:
        owners = [name for name in names or LOSSES if key in loss_settings(name)]
        if not owners:
            continue
        found[key] = loss_settings(owners[0])[key]
        if without := ", ".join(name for name in names if name not in owners):
            remedy = "Give each loss its own parameters in a list of mappings: loss: [{name: …}, …]."
            faults.append(node.value[key].fault(f"{without} has no parameter `{key}`. {remedy}"))
    return found


def loss_names(node: Node | None) -> list[str]:
    """Return the losses that a node names."""
    children = node.value if node and isinstance(node.value, list) else [node] if node else []
    return [child.value for child in children if isinstance(child.value, str) and child.value in LOSSES]


def unknown_parameter(names: list[str]) -> str:
    """Return the start of the message about an unknown parameter; `{}` is its name."""
    if len(names) != 1:
        return f"none of {', '.join(names or LOSSES)} has a parameter `{{}}`."
    return f"{names[0]} has no parameter `{{}}`; it has {', '.join(loss_settings(names[0]))}."


def completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a trial with the defaults of keys that its version did not have."""
    whole = {section: dict(part) if isinstance(part, Mapping) else part for section, part in settings.items()}
    for setting in (*SETTINGS, *loss_settings(settings["loss"]["name"]).values()):
        if setting.section in whole and setting.section in TRIAL_SECTIONS:
            whole[setting.section].setdefault(setting.short, setting.recorded_default)
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
