"""How many calls are looked at, and how many bodies arrive, at once: others are told to come again.

Knows problems and time; knows no photograph and no bundle.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from whale_ray.serving.contract import RefusalError

_FAIR_SECONDS = 5.0  # that a body may take, however many wait


def _no_room(detail: str) -> RefusalError:
    return RefusalError(503, f"{detail}. Try again shortly", {"Retry-After": "1"})


class Door:
    """Lets in calls of at most `most` photographs at once, or one larger call; others are told to come again."""

    def __init__(self, most: int) -> None:
        self._most, self._inside = most, 0

    def check_room(self, photographs: int = 1) -> None:
        """Raises RefusalError 503 where there is no room for a call."""
        if self._inside and self._inside + photographs > self._most:
            detail = f"at most {self._most} photographs are looked at once, and there are as many"
            raise _no_room(detail)

    @contextmanager
    def passed_by(self, photographs: int = 1) -> Iterator[None]:
        """Holds a call inside. Raises: RefusalError 503 where there is no room for it."""
        self.check_room(photographs)
        self._inside += photographs
        try:
            yield
        finally:
            self._inside -= photographs


class Mailbox:
    """Takes bodies that arrive: `most` at once, which together have at most `most_bytes`, each within `seconds`.

    Where it is full, the one that takes longest makes room for the next.
    """

    def __init__(self, most: int, *, most_bytes: int, seconds: float) -> None:
        self._most, self._most_bytes, self._seconds = most, most_bytes, seconds
        self._began: dict[asyncio.Timeout, float] = {}  # the oldest first
        self._bytes = 0

    @asynccontextmanager
    async def receiving(self) -> AsyncIterator[Callable[[int], None]]:
        """Holds a call; what it gives is told of every part that comes.

        Raises: RefusalError 503 without room, 408 where the body takes too long.
        """
        self._make_room()
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            if self._bytes + count > self._most_bytes:
                detail = f"{self._most_bytes:,} bytes of photographs are arriving already"
                raise _no_room(detail)
            taken += count
            self._bytes += count

        deadline = asyncio.timeout(self._seconds)
        self._began[deadline] = time.monotonic()
        try:
            async with deadline:
                yield take
        except TimeoutError:
            detail = (
                f"the body must arrive within {self._seconds:g} s, sooner where many wait, but did not. Send it again"
            )
            raise RefusalError(408, detail) from None
        finally:
            self._began.pop(deadline, None)
            self._bytes -= taken

    def _make_room(self) -> None:
        if len(self._began) < self._most:
            return
        oldest, began = next(iter(self._began.items()))
        if time.monotonic() - began < _FAIR_SECONDS:
            raise _no_room(f"{self._most} bodies are arriving already")
        del self._began[oldest]
        with suppress(RuntimeError):  # its time is over at this moment
            oldest.reschedule(asyncio.get_running_loop().time())
