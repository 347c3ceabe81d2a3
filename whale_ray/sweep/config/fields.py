"""Settings of a sweep file: kind of value, limits, default, and the check of one value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from whale_ray.suggestions import did_you_mean, suggest

ENCODER_FAMILIES: Final = ("tiny", "torchvision", "hf")
WEIGHTS_WORDS: Final = ("pretrained", "random")


class Default(Enum):
    """Marker of a setting without a default."""

    REQUIRED = "required"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One key of a sweep file.

    Attributes:
        key: Dotted key.
        kind: A key of `KINDS`.
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
        nouns = {"int": "a whole number", "float": "a number", "choice": "one of " + ", ".join(self.choices)}
        words = nouns.get(self.kind, RULES.get(self.kind, self.kind)) + self._limits()
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
            return self._within_limits(KINDS[self.kind](self, value))
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
    """Return a value as YAML writes it, at most 60 characters long."""
    if value is None or isinstance(value, bool):
        return "nothing" if value is None else str(value).lower()
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "…" + text[-1]


def image_size(value: int | str) -> tuple[int, int]:
    """Return height and width in pixels of `256` or `"256x512"`.

    Raises:
        ValueError: If it is neither, or a side is not from 16 to 4096.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", str(value))
    if not match:
        raise ValueError("Write 256, or '256x512' as height x width.")
    height, width = int(match[1]), int(match[2] or match[1])
    if not all(16 <= side <= 4096 for side in (height, width)):
        raise ValueError
    return height, width


def _whole(setting: Setting, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(_unquote(value))
    return value


def _number(setting: Setting, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(_unquote(value))
    if not math.isfinite(value):
        raise ValueError("It must be finite.")
    return float(value)


def _unquote(value: Any) -> str:
    return "Take the quotes away." if isinstance(value, str) and re.fullmatch(r"[-+.\deE]*\d", value) else ""


def _truth(setting: Setting, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _choice(setting: Setting, value: Any) -> str:
    if value not in setting.choices:
        raise ValueError(suggest(str(value), setting.choices))
    return str(value)


def _text(setting: Setting, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("" if value is None else "Write it in quotes.")
    if not value.strip() or "\0" in value:
        raise ValueError
    return value


def _folder_name(setting: Setting, value: Any) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_]([\w.-]{0,62}[A-Za-z0-9_])?", _text(setting, value), re.ASCII):
        raise ValueError("It names the run folder.")
    return str(value)


def _size(setting: Setting, value: Any) -> int | str:
    height, width = image_size(value)
    return height if height == width else f"{height}x{width}"


def _encoder(setting: Setting, value: Any) -> str:
    family, colon, name = _text(setting, value).partition(":")
    if family not in ENCODER_FAMILIES:
        raise ValueError(suggest(family, ENCODER_FAMILIES) or did_you_mean([f"torchvision:{value}"]))
    if (family == "tiny") == bool(colon) or (colon and not name):
        raise ValueError("`tiny` takes no name, every other family needs one.")
    return str(value)


def _weights(setting: Setting, value: Any) -> str:
    text = _text(setting, value)
    if text not in WEIGHTS_WORDS and not re.search(r"[./\\]", text):
        raise ValueError(suggest(text, WEIGHTS_WORDS) or f"A file here would be written ./{text}")
    return text


KINDS: dict[str, Callable[[Setting, Any], Any]] = {
    "int": _whole,
    "float": _number,
    "bool": _truth,
    "choice": _choice,
    "text": _text,
    "folder_name": _folder_name,
    "size": _size,
    "encoder": _encoder,
    "weights": _weights,
}

RULES: dict[str, str] = {
    "bool": "true or false",
    "text": "text",
    "folder_name": "1 to 64 letters, digits, . _ or -, beginning and ending with a letter or digit",
    "size": "a side in pixels or 'HEIGHTxWIDTH', each side from 16 to 4096",
    "encoder": "tiny, torchvision:NAME or hf:NAME (a hub id or a folder)",
    "weights": "pretrained, random or the path of a file",
}
