"""HTTP clients that load a service: each sends its next call when it has an answer; counts answers and latencies.

They write HTTP/1.1 to a socket themselves, so that the clients need little CPU time beside the service.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

LOOPBACK = "127.0.0.1"
TIMEOUT = 60.0  # seconds after which a call counts as a broken connection


@dataclass
class Answers:
    """Results of the clients: seconds of each answer by status (0: broken connection), and the bundles that answered.

    failures: when (`time.perf_counter`) a call ended otherwise than with 200, and its status.
    """

    seconds: dict[int, list[float]] = field(default_factory=dict)
    bundles: dict[str, int] = field(default_factory=dict)
    failures: list[tuple[float, int]] = field(default_factory=list)
    lasted: float = 0.0

    @property
    def rate(self) -> float:
        """Return the successful answers per second."""
        return len(self.seconds.get(200, [])) / self.lasted

    @property
    def failed(self) -> dict[int, int]:
        """Return status → number of answers, for every status but 200."""
        return {status: len(each) for status, each in self.seconds.items() if status != 200}

    def milliseconds(self, percent: int) -> float:
        """Return a percentile of the latency of successful answers in milliseconds."""
        each = self.seconds.get(200, [])
        if len(each) < 2:
            return 1000 * each[0] if each else float("nan")
        return 1000 * quantiles(each, n=100, method="inclusive")[percent - 1]


def photograph_request(body: bytes, path: str = "/v1/identify") -> bytes:
    """Return the bytes of one call."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def ask_for(seconds: float, port: int, requests: list[bytes], *, clients: int, pause: float = 0.0) -> Answers:
    """Return the results of `clients` clients after `seconds`; each waits `pause` seconds between its calls."""
    until = time.perf_counter() + seconds
    return asyncio.run(ask_while(lambda: time.perf_counter() < until, port, requests, clients=clients, pause=pause))


async def ask_while(
    go_on: Callable[[], bool], port: int, requests: list[bytes], *, clients: int, pause: float = 0.0
) -> Answers:
    """Return the results of the clients, which call while `go_on` returns True."""
    answers, started = Answers(), time.perf_counter()
    each = [_ask(go_on, port, requests[number:] + requests[:number], pause, answers) for number in range(clients)]
    await asyncio.gather(*each)
    answers.lasted = time.perf_counter() - started
    return answers


async def _ask(go_on: Callable[[], bool], port: int, requests: list[bytes], pause: float, answers: Answers) -> None:
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    number = 0
    while go_on():
        started = time.perf_counter()
        try:
            connection = connection or await asyncio.open_connection(LOOPBACK, port)
            async with asyncio.timeout(TIMEOUT):
                status, body, kept = await _call(*connection, requests[number % len(requests)])
        except (OSError, EOFError):
            status, body, kept = 0, {}, False
        answers.seconds.setdefault(status, []).append(time.perf_counter() - started)
        if status == 200:
            bundle = str(body.get("model"))
            answers.bundles[bundle] = answers.bundles.get(bundle, 0) + 1
        else:
            answers.failures.append((time.perf_counter(), status))
        if not kept and connection:
            connection[1].close()
            connection = None
        number += 1
        await asyncio.sleep(pause if status == 200 else max(pause, 0.05))
    if connection:
        connection[1].close()


async def _call(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, dict[str, Any], bool]:
    """Return status, JSON body, and True if the connection can be reused."""
    writer.write(request)
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = b"".join([chunk async for chunk in _chunks(reader)])
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    found = json.loads(body) if "json" in headers.get("content-type", "") else {}
    return int(first.split()[1]), found, headers.get("connection", "").lower() != "close"


async def _chunks(reader: asyncio.StreamReader) -> Any:
    while size := int((await reader.readline()).split(b";")[0], 16):
        yield await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
