"""Axes that would change nothing, since another setting of the same sweep leaves them without effect.

Knows settings that are right by themselves (`reading`). Only what was given is a fault: a default harms nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from whale_ray.sweep.reading import Reading


@dataclass(frozen=True)
class _Idle:
    """Keys (or what they begin with), what leaves them without effect, and whether that holds."""

    keys: tuple[str, ...]
    reason: str
    holds: Callable[[Reading], bool]


def _trains_nothing(reading: Reading) -> bool:
    return set(reading.possible("train.epochs")) == {0}


def _searches_only(key: str, value: object) -> Callable[[Reading], bool]:
    return lambda reading: set(reading.retrieval.get(key, ())) == {value}


def _no_vote_has_a_temperature(reading: Reading) -> bool:
    from whale_ray.retrieval.ranking import VOTES  # and with it numpy, which a sweep file seldom needs

    votes = set(reading.retrieval.get("vote", ()))
    return bool(votes) and not any(VOTES[str(vote)].has_temperature for vote in votes)


_RULES = (
    _Idle(("train.",), "`epochs: 0`, which trains nothing", _trains_nothing),
    _Idle(
        ("train.layer_decay",), "`freeze: trunk`", lambda reading: set(reading.possible("model.freeze")) == {"trunk"}
    ),
    _Idle(
        ("train.images_per_individual",),
        "`sampler: shuffle`",
        lambda reading: set(reading.possible("train.sampler")) == {"shuffle"},
    ),
    _Idle(("retrieval.whitened_size",), "`whiten: none`", _searches_only("whiten", "none")),
    _Idle(("retrieval.rerank_",), "`rerank: none`", _searches_only("rerank", "none")),
    _Idle(("retrieval.temperature",), "votes that have none", _no_vote_has_a_temperature),
)


def check_idle(reading: Reading) -> None:
    """Adds a fault for each axis without effect: its values would be compared, and none could differ."""
    axes = [axis.name for axis in reading.axes]
    axes += [f"retrieval.{name}" for name, values in reading.retrieval.items() if len(values) > 1]
    for rule in _RULES:
        concerned = [name for name in axes if name.startswith(rule.keys)]
        if concerned and rule.holds(reading):
            for name in concerned:
                reading.fault(
                    name,
                    f"`{name}` has several values, but no effect with {rule.reason}. Give it one, or leave it out.",
                )
