"""Constant load on a service: clients that send the next call after each answer, and the record of all calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
from drawn_photographs import INDIVIDUALS, draw, encode
from waiting import wait_until

PAUSE = 0.2  # seconds between the calls of a client: the load leaves processor time for replicas to start
PHOTOGRAPHS = [encode(draw(number, 9), "JPEG") for number in range(len(INDIVIDUALS))]


@dataclass
class CallRecord:
    """One call: when it ended, how long it took, what came (status 0: no answer), and which bundle answered."""

    ended: float
    seconds: float
    status: int
    answer: dict[str, object] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def bundle(self) -> object:
        return self.answer.get("model")


class Load:
    """What the clients have seen so far."""

    def __init__(self) -> None:
        self.seen: list[CallRecord] = []

    @property
    def failed(self) -> list[CallRecord]:
        return [one for one in self.seen if one.status != 200]

    def wait_for(self, count: int) -> None:
        """Returns when so many more calls have ended."""
        wanted = len(self.seen) + count
        wait_until(lambda: len(self.seen) >= wanted, said=lambda: f"{len(self.seen)} calls of {wanted} ended")


@contextmanager
def load(address: str, *, clients: int = 8, pause: float = 0.0, path: str = "/v1/identify") -> Iterator[Load]:
    """Asks from so many clients at once until the block ends, each `pause` seconds after its last answer."""
    found, ending = Load(), threading.Event()

    def ask(number: int) -> None:
        with httpx.Client(base_url=address, timeout=60) as client:
            while not ending.wait(pause):
                started = time.monotonic()
                body = PHOTOGRAPHS[number % len(PHOTOGRAPHS)]
                try:
                    answer = client.post(path, content=body, headers={"Content-Type": "image/jpeg"})
                except httpx.TransportError:
                    found.seen.append(CallRecord(time.monotonic(), time.monotonic() - started, 0))
                    continue
                seconds, headers = time.monotonic() - started, dict(answer.headers)
                body = answer.json() if "json" in headers.get("content-type", "") else {}  # not what Ray itself says
                found.seen.append(CallRecord(time.monotonic(), seconds, answer.status_code, body, headers))

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        ending.set()
        for thread in threads:
            thread.join()
