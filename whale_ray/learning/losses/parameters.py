"""Parameters of the losses: type, default and limits, read from the signature of a builder."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite
from typing import Annotated, Any, get_args, get_origin


@dataclass(frozen=True)
class Limits:
    """Least and greatest value of a number, both allowed."""

    low: float
    high: float = inf


Positive = Annotated[float, Limits(1e-6)]
NonNegative = Annotated[float, Limits(0.0)]
Cosine = Annotated[float, Limits(-1.0, 1.0)]
CosineMargin = Annotated[float, Limits(0.0, 2.0)]
Distance = Annotated[float, Limits(0.0, 2.0)]
Degrees = Annotated[float, Limits(0.0, 180.0)]
Count = Annotated[int, Limits(1)]


@dataclass(frozen=True)
class LossParameter:
    """One parameter of a loss.

    Attributes:
        kind: `int`, `float` or `str`.
        default: Value if none is given.
        choices: Values of a parameter of the kind `str`.
        limits: Limits of a number.
    """

    kind: type
    default: Any
    choices: tuple[str, ...]
    limits: Limits

    def accepts(self, value: Any) -> bool:
        """Return whether the loss can be built with a value."""
        if self.choices:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, (int,) if self.kind is int else (int, float)):
            return False
        return isfinite(value) and self.limits.low <= value <= self.limits.high

    def rule(self) -> str:
        """Return the words that follow "must be"."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        number = "a whole number" if self.kind is int else "a number"
        if self.limits.high == inf:
            return f"{number} of at least {self.limits.low:g}"
        return f"{number} from {self.limits.low:g} to {self.limits.high:g}"


def read_parameters(build: Callable[..., Any], *, without: tuple[str, ...]) -> dict[str, LossParameter]:
    """Return the parameters of a builder by name.

    Args:
        build: The builder. Its annotations are objects: a `Literal` of texts, or a number with `Limits`.
        without: Parameters to leave out.

    Raises:
        TypeError: If a number has no limits.
    """
    signature = inspect.signature(build).parameters.values()
    return {one.name: _read(build, one) for one in signature if one.name not in without}


def _read(build: Callable[..., Any], parameter: inspect.Parameter) -> LossParameter:
    annotation = parameter.annotation
    if get_origin(annotation) is not Annotated:
        choices = get_args(annotation)
        if not choices:
            raise TypeError(f"{build.__name__}.{parameter.name} must have limits, as Annotated[float, Limits(0.0)]")
        return LossParameter(str, parameter.default, choices, Limits(-inf))
    kind, limits = get_args(annotation)
    return LossParameter(kind, parameter.default, (), limits)
