"""Condition under which a setting has an effect: a value of another setting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Condition:
    """A key has an effect only under some values of another key.

    Attributes:
        key: The other key.
        only: Its values under which there is an effect; empty for all but `unless`.
        unless: Its values under which there is none.
    """

    key: str
    only: tuple[Any, ...] = ()
    unless: tuple[Any, ...] = ()

    def holds(self, value: Any) -> bool:
        """Return whether there is an effect under a value of the other key."""
        return value not in self.unless and (not self.only or value in self.only)
