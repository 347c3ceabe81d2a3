"""Load shedding: bounds on calls in progress and on uploads in progress; further calls get 503 with Retry-After."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

from whale_ray.serving.problem_details import RefusalError

_GUARANTEED_SECONDS = 5.0  # that a body may take, however many wait


def _overloaded(detail: str) -> RefusalError:
    return RefusalError(503, f"{detail}. Try again shortly", {"Retry-After": "1"})


class AdmissionController:
    """Admits calls with at most `most` images together, or a single larger call; further calls get 503."""

    def __init__(self, most: int) -> None:
        self._most, self._inside = most, 0

    def check_capacity(self, photographs: int = 1) -> None:
        """Raise RefusalError 503 if there is no capacity for a call with this number of images."""
        if self._inside and self._inside + photographs > self._most:
            detail = f"at most {self._most} photographs are processed at once, and this limit is reached"
            raise _overloaded(detail)

    @contextmanager
    def admit(self, photographs: int = 1) -> Iterator[None]:
        """Hold the capacity of a call during the block.

        Raises:
            RefusalError: 503 if there is no capacity.
        """
        self.check_capacity(photographs)
        self._inside += photographs
        try:
            yield
        finally:
            self._inside -= photographs


@dataclass
class _ActiveUpload:
    """A body in transfer: start by `time.monotonic` and bytes received so far."""

    began: float
    bytes: int = 0


class UploadBudget:
    """Limits the bodies in transfer: at most `most` bodies with `most_bytes` bytes together, each within `seconds`.

    When the budget is used up, the oldest body is ended to make room, unless it is younger than 5 s.
    """

    def __init__(self, most: int, *, most_bytes: int, seconds: float) -> None:
        self._most, self._most_bytes, self._seconds = most, most_bytes, seconds
        self._arriving: dict[asyncio.Timeout, _ActiveUpload] = {}  # the oldest first

    @asynccontextmanager
    async def receive_upload(self) -> AsyncIterator[Callable[[int], None]]:
        """Hold a body in transfer during the block; the yielded function counts the bytes of each part.

        Raises:
            RefusalError: 503 without budget, 408 if the body takes too long.
        """
        if len(self._arriving) >= self._most:
            self._end_oldest(f"{self._most} request bodies are in transfer already")
        deadline, arrival = asyncio.timeout(self._seconds), _ActiveUpload(time.monotonic())

        def take(count: int) -> None:
            while self._arrived + count > self._most_bytes:
                detail = f"{self._most_bytes:,} bytes of request bodies are in transfer already"
                self._end_oldest(detail, besides=deadline)
            arrival.bytes += count

        self._arriving[deadline] = arrival
        try:
            async with deadline:
                yield take
        except TimeoutError:
            detail = (
                f"the body must arrive within {self._seconds:g} s, sooner where many wait, but did not. Send it again"
            )
            raise RefusalError(408, detail) from None
        finally:
            self._arriving.pop(deadline, None)

    @property
    def _arrived(self) -> int:
        return sum(arrival.bytes for arrival in self._arriving.values())

    def _end_oldest(self, detail: str, *, besides: asyncio.Timeout | None = None) -> None:
        """End the oldest body, or raise RefusalError 503 with this detail if none is old enough."""
        oldest = next((deadline for deadline in self._arriving if deadline is not besides), None)
        if oldest is None or time.monotonic() - self._arriving[oldest].began < _GUARANTEED_SECONDS:
            raise _overloaded(detail)
        del self._arriving[oldest]
        with suppress(RuntimeError):  # its time is over at this moment
            oldest.reschedule(asyncio.get_running_loop().time())
