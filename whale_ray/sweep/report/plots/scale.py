"""Scales of a plot: limits, ticks and number formats."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """One axis of a plot.

    Attributes:
        low: Lower end.
        high: Upper end.
        label: Label of the axis.
        log: Logarithmic scale.
        percent: Tick labels in percent.
        marks: Ticks; None for automatic ones.
    """

    low: float
    high: float
    label: str
    log: bool = False
    percent: bool = False
    marks: tuple[float, ...] = ()

    def share(self, value: float) -> float:
        """Return the position of a value: 0 at `low`, 1 at `high`."""
        low, high, at = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return (at - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Places and texts of the ticks."""
        return [(value, self.text(value)) for value in self.marks or _ticks(self.low, self.high, log=self.log)]

    def text(self, value: float) -> str:
        """Return a value as short text."""
        return f"{100 * value:.3g} %" if self.percent else f"{value:.4g}"

    def difference(self, value: float) -> str:
        """Return a difference of two values as short text."""
        return f"{100 * value:.1f} points" if self.percent else f"{value:.3g}"


def scale_of(
    values: Iterable[float], label: str, *, log: bool = False, percent: bool = False, zero: bool = False
) -> Scale:
    """Return a scale that contains all finite values with some margin.

    >>> scale_of([0.12, 0.48], "recall@1", zero=True).high
    0.5

    Args:
        values: The values.
        label: Label of the axis.
        log: Logarithmic scale.
        percent: Tick labels in percent.
        zero: Start at 0.
    """
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = (0.0 if zero else min(finite)), max(finite)
    if high <= low:
        low, high = (low / 2, low * 2) if log else (low - 0.05, high + 0.05)
    if log:
        return Scale(low / 1.1, high * 1.1, label, log=True, percent=percent)
    step = _step(high - low)
    return Scale(math.floor(low / step) * step, math.ceil(round(high / step, 6)) * step, label, percent=percent)


def _step(span: float) -> float:
    """Return the round number that divides a span into four to eight parts."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return next(power * part for part in (1, 2, 2.5, 5, 10) if span / (power * part) <= 6)


def _ticks(low: float, high: float, *, log: bool) -> list[float]:
    if not log:
        step = _step(high - low)
        return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    whole = [10.0**power for power in powers if low <= 10.0**power <= high]
    fine = [part * 10.0**power for power in powers for part in (1, 2, 5) if low <= part * 10.0**power <= high]
    return whole if len(whole) >= 3 else fine or [low, high]
