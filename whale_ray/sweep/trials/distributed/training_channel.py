"""Message channel (a Ray actor) between the first of several workers of a trial and the trial's own process.

The worker sends signs of life, epochs and the result; the process answers each epoch whether the trial continues.

This module imports no PyTorch: the process of a channel starts without it.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any


class Channel:
    """Actor between the first worker and the trial's process: epochs one way, answers the other way."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._answers: asyncio.Queue[bool] = asyncio.Queue()

    async def send(self, kind: str, value: Any) -> None:
        """Hand a message to the trial's process."""
        await self._messages.put((kind, value))

    async def receive(self, seconds: float) -> tuple[str, Any] | None:
        """Return the next message; None if there is none within `seconds`."""
        if not self._messages.empty():
            return self._messages.get_nowait()
        try:
            return await asyncio.wait_for(self._messages.get(), seconds)
        except TimeoutError:
            return None

    async def answer(self, may_continue: bool) -> None:
        """Answer a message."""
        await self._answers.put(may_continue)

    async def wait_for_answer(self) -> bool:
        """Return whether the trial continues."""
        return await self._answers.get()


def open_channel(trial: str) -> tuple[str, Any]:
    """Start a channel that ends with this process, and return its name and its handle.

    Args:
        trial: ID of the trial.
    """
    import ray

    name = f"channel of trial {trial} {secrets.token_hex(4)}"
    return name, ray.remote(num_cpus=0)(Channel).options(name=name).remote()


def own_places() -> str:
    """Return the ID of the placement group in which this worker runs."""
    import ray

    return str(ray.util.get_current_placement_group().id.hex())
