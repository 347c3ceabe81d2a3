"""Token-bucket rate limit per API key."""

from __future__ import annotations

import time
from collections.abc import Callable


class RateLimiter:
    """Token bucket per name: at most `per_minute` calls a minute, with bursts of the same size."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with a full bucket for every name.

        Args:
            per_minute: Calls a minute of each name; 0 sets no limit.
            clock: Monotonic clock in seconds.
        """
        self._capacity, self._clock = float(per_minute), clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait_seconds(self, name: str) -> float:
        """Count one call of this name and return 0, or the seconds until its next call is allowed."""
        if not self._capacity:
            return 0.0
        now, refill = self._clock(), self._capacity / 60.0
        tokens, since = self._buckets.get(name, (self._capacity, now))
        tokens = min(self._capacity, tokens + (now - since) * refill)
        is_allowed = tokens >= 1.0
        self._buckets[name] = (tokens - is_allowed, now)
        return 0.0 if is_allowed else (1.0 - tokens) / refill
