"""Axes of a sweep: a list of values or a range in place of one value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from whale_ray.errors import Fault
from whale_ray.suggestions import suggest
from whale_ray.sweep.config.fields import Setting
from whale_ray.sweep.config.yaml_nodes import Node

RANGE_KEYS = ("low", "high", "log", "step")
MOST_STEPS = 10_000


@dataclass(frozen=True)
class Axis:
    """One dimension of the search space: a list of values (kind `choice`) or a range from low to high, both included.

    Attributes:
        name: Dotted key, such as `train.learning_rate`.
        kind: `choice`, `int` or `float`.
        values: Values of a list; None for a range.
        low: Least value of a range.
        high: Greatest value of a range.
        log: The range is searched on a logarithmic scale.
        step: Distance of two values of a range; None for any value.
        when: Name and value of another axis; this axis exists only where that one has that value.

    >>> Axis("train.affine", "float", low=0.1, high=0.4, step=0.1).listed()
    (0.1, 0.2, 0.3, 0.4)
    """

    name: str
    kind: str = "choice"
    values: tuple[Any, ...] | None = None
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    when: tuple[str, Any] | None = None

    def listed(self) -> tuple[Any, ...] | None:
        """Return all values in order; None for a range without a step."""
        if self.values is not None:
            return self.values
        if self.step is None:
            return None
        low, high, step = (Decimal(repr(number)) for number in (self.low, self.high, self.step))
        exact = (low + step * place for place in range(int((high - low) / step) + 1))
        return tuple(int(number) if self.kind == "int" else float(number) for number in exact)

    def canonical(self, value: Any) -> Any:
        """Return the value as the sweep file writes it, free of rounding such as 0.30000000000000004."""
        if self.kind == "choice":
            return next((own for own in self.values or () if own == value), value)
        if self.step is not None:
            return min(self.listed() or (value,), key=lambda own: abs(own - value))
        return int(value) if self.kind == "int" else float(value)

    def written(self) -> list[Any] | dict[str, Any]:
        """Return the axis as a sweep file writes it."""
        if self.values is not None:
            return list(self.values)
        optional = {"log": self.log or None, "step": self.step}
        return {"low": self.low, "high": self.high} | {key: own for key, own in optional.items() if own is not None}


def read_axis(setting: Setting, node: Node, faults: list[Fault], *, name: str) -> Axis | None:
    """Return the axis that a list or a mapping describes; None if it is invalid.

    Args:
        setting: The setting that varies.
        node: The list or mapping.
        faults: Receives every fault.
        name: Dotted key of the axis.
    """
    before = len(faults)
    if not setting.axis:
        came = "a list" if isinstance(node.value, list) else "a mapping"
        faults.append(node.fault(f"`{name}` takes one value and cannot be an axis, but got {came}. Give one value."))
        return None
    axis = _choices(setting, node, faults, name) if isinstance(node.value, list) else None
    if isinstance(node.value, dict):
        axis = _range(setting, node, faults, name)
    return axis if len(faults) == before else None


def _choices(setting: Setting, node: Node, faults: list[Fault], name: str) -> Axis:
    values: list[Any] = []
    for value in _checked(setting, node, faults, name):
        if value in values:
            faults.append(node.fault(f"`{name}` has the value {json.dumps(value)} twice. Keep one."))
        else:
            values.append(value)
    if not node.value:
        faults.append(node.fault(f"`{name}` is an empty list. Give at least one value, or leave the key out."))
    return Axis(name, values=tuple(values))


def _checked(setting: Setting, node: Node, faults: list[Fault], name: str) -> Iterator[Any]:
    for child in node.value:
        try:
            yield setting.check(child.value, name=name)
        except ValueError as error:
            faults.append(child.fault(str(error)))


def _range(setting: Setting, node: Node, faults: list[Fault], name: str) -> Axis | None:
    if setting.kind not in ("int", "float"):
        message = f"`{name}` must be {setting.rule()}, but got a mapping. Give one value, or a list of them."
        faults.append(node.fault(message))
        return None
    for key in [key for key in node.value if key not in RANGE_KEYS]:
        hint = suggest(key, RANGE_KEYS)
        message = f"`{name}` has no key `{key}`; a range is low, high and optionally log or step. {hint}".rstrip()
        faults.append(node.value[key].fault(message))
    ends = {key: _end(setting, node, key, faults, name) for key in ("low", "high")}
    step, log = _step(setting, node, faults, name), _log(node, faults, name)
    if None in ends.values():
        return None
    message = _fault_of_range(name, ends["low"], ends["high"], step, log)
    faults.extend([node.fault(message)] if message else [])
    return Axis(name, setting.kind, low=ends["low"], high=ends["high"], log=log, step=step)


def _end(setting: Setting, node: Node, key: str, faults: list[Fault], name: str) -> Any:
    child = node.get(key)
    if child is None:
        faults.append(node.fault(f"`{name}` is a range without `{key}`. Write {{low: …, high: …}}."))
        return None
    try:
        if child.value is None:
            raise ValueError(f"`{name}.{key}` must be {setting.rule()}, but got nothing.")
        return setting.check(child.value, name=f"{name}.{key}")
    except ValueError as error:
        faults.append(child.fault(str(error)))
        return None


def _step(setting: Setting, node: Node, faults: list[Fault], name: str) -> Any:
    child = node.get("step")
    if child is None or child.value is None:
        return None
    rule = Setting(key="step", kind=setting.kind, meaning="", above=0)
    try:
        return rule.check(child.value, name=f"{name}.step")
    except ValueError as error:
        faults.append(child.fault(str(error)))
        return None


def _log(node: Node, faults: list[Fault], name: str) -> bool:
    child = node.get("log")
    if child is None or isinstance(child.value, bool):
        return bool(child and child.value)
    faults.append(child.fault(f"`{name}.log` must be true or false."))
    return False


def _fault_of_range(name: str, low: float, high: float, step: float | None, log: bool) -> str:
    if low >= high:
        came = f"but got low={low!r}, high={high!r}"
        return f"`low < high` must hold for {name}, {came}. Swap them or give one value."
    if log and low <= 0:
        return f"`{name}` is a range with log, so its low must be > 0, but got {low!r}."
    if log and step is not None:
        return f"`{name}` has log and step; a range takes one of them. Leave one out, or write a list."
    if step is None:
        return ""
    steps = (Decimal(repr(high)) - Decimal(repr(low))) / Decimal(repr(step))
    if steps > MOST_STEPS:
        return f"`{name}` must have at most {MOST_STEPS} steps, but this range has more. Give it a larger step."
    if steps == int(steps):
        return ""
    last = Decimal(repr(low)) + int(steps) * Decimal(repr(step))
    return f"`{name}` must reach its high in whole steps, but the last one is at {last}. Write high: {last}."
