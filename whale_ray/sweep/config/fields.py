"""Settings of a sweep file: key, kind of value, limits, default and meaning of each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from whale_ray.errors import hide_passwords
from whale_ray.sweep.config.value_kinds import RULES, check_kind


class Default(Enum):
    """Marker of a setting without a default."""

    REQUIRED = "required"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One key of a sweep file.

    Attributes:
        key: Dotted key.
        kind: A kind of `value_kinds.check_kind`.
        meaning: Text of the settings reference.
        default: Value if the key is missing.
        choices: Values of the kind `choice`.
        low: Least allowed value.
        above: Greatest value below the allowed ones.
        high: Greatest allowed value.
        below: Least value above the allowed ones.
        nullable: null is allowed.
        axis: A list or a range is allowed.
        identity: A trial with another value is another trial.
        earlier: Value that a missing key had in run folders of earlier versions; `Default.REQUIRED` if the default has
            not changed.
    """

    key: str
    kind: str
    meaning: str
    default: Any = Default.REQUIRED
    choices: tuple[str, ...] = ()
    low: float | None = None
    above: float | None = None
    high: float | None = None
    below: float | None = None
    nullable: bool = False
    axis: bool = False
    identity: bool = False
    earlier: Any = Default.REQUIRED

    @property
    def recorded_default(self) -> Any:
        """Value of a key that a run folder does not name."""
        return self.default if self.earlier is Default.REQUIRED else self.earlier

    @property
    def is_searched(self) -> bool:
        """A retrieval option, every value of which is scored without training."""
        return self.section == "retrieval" and self.axis

    @property
    def section(self) -> str:
        """The part before the dot; empty for a key at the top level."""
        return self.key.rpartition(".")[0]

    @property
    def short(self) -> str:
        """The part after the dot: the key inside its section."""
        return self.key.rpartition(".")[2]

    def rule(self) -> str:
        """Return the words that follow "must be" in an error message."""
        words = ("one of " + ", ".join(self.choices) if self.kind == "choice" else RULES[self.kind]) + self._limits()
        return words + (", or null" if self.nullable else "")

    def check(self, value: Any, *, name: str = "") -> Any:
        """Return a value in its canonical form: a float for a number, 256 for "256x256".

        Args:
            value: Value from the YAML file.
            name: Key for the message; empty for `key`.

        Raises:
            ValueError: If the value is not allowed; with rule, value and remedy.
        """
        if value is None and self.nullable:
            return None
        try:
            return self._within_limits(check_kind(self.kind, value, choices=self.choices))
        except ValueError as error:
            message = f"`{name or self.key}` must be {self.rule()}, but got {shown(value)}."
            raise ValueError(f"{message} {error}".rstrip()) from None

    def _within_limits(self, value: Any) -> Any:
        if not isinstance(value, int | float):
            return value
        outside = (
            (self.low is not None and value < self.low)
            or (self.above is not None and value <= self.above)
            or (self.high is not None and value > self.high)
            or (self.below is not None and value >= self.below)
        )
        if outside:
            raise ValueError
        return value

    def _limits(self) -> str:
        if self.low is not None and self.high is not None:
            return f" from {self.low:.10g} to {self.high:.10g}"
        signs = ((">=", self.low), (">", self.above), ("<=", self.high), ("<", self.below))
        given = [f"{sign} {limit:.10g}" for sign, limit in signs if limit is not None]
        return " " + " and ".join(given) if given else ""


_SIGNS: Final = {">=": "low", ">": "above", "<=": "high", "<": "below"}


def brief(key: str, takes: str, default: Any, meaning: str, **marks: bool) -> Setting:
    """Return a setting from its short form.

    Args:
        key: Dotted key.
        takes: Kind and limits ("int >= 1 <= 9 or null") or choices ("choice pad stretch").
        default: Value if the key is missing.
        meaning: Text of the settings reference.
        **marks: `axis` and `identity`.
    """
    kind, *rest = takes.removesuffix(" or null").split()
    choices, limits = (tuple(rest), []) if kind == "choice" else ((), rest)
    bounds = {_SIGNS[sign]: float(bound) for sign, bound in zip(limits[::2], limits[1::2], strict=True)}
    return Setting(
        key=key,
        kind=kind,
        meaning=meaning,
        default=default,
        choices=choices,
        nullable=takes.endswith(" or null"),
        **marks,
        **bounds,  # type: ignore[arg-type]
    )


def shown(value: Any) -> str:
    """Return a value as YAML writes it, at most 60 characters long, without passwords of URLs."""
    if value is None or isinstance(value, bool):
        return "nothing" if value is None else str(value).lower()
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    value = hide_passwords(value) if isinstance(value, str) else value
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "…" + text[-1]
