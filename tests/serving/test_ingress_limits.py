from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from drawn_photographs import draw, encode
from fastapi import FastAPI
from services import LIMITS, plain_server, web_service
from test_routes_identify import JPEG, check_problem

from whale_ray.serving.auth.host_origin import HostOriginMiddleware
from whale_ray.serving.http.problems import ProblemMiddleware, add_problem_handlers
from whale_ray.serving.http.uploads import Limits


def test_an_unhandled_exception_is_a_503_problem_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    add_problem_handlers(app)
    app.add_middleware(HostOriginMiddleware, hosts=frozenset({"host"}))
    app.add_middleware(ProblemMiddleware)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("the secret of the service")

    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
            return await client.get("/broken")

    with caplog.at_level(logging.ERROR):
        answer = asyncio.run(call())
    check_problem(answer, 503, "Try again")
    assert "secret" not in answer.text
    assert answer.headers["retry-after"] == "5"
    assert "the secret of the service" in caplog.text


@pytest.fixture(scope="module")
def narrow(bundle: Path) -> Iterator[httpx.Client]:
    """A service that answers one call at a time and waits half a second for a body."""
    limits = Limits(LIMITS.image_bytes, LIMITS.image_pixels, LIMITS.call_bytes, LIMITS.images, seconds=0.5)
    service = web_service(bundle, limits=limits, most_calls=1)
    with plain_server(service) as address, httpx.Client(base_url=address) as caller:
        yield caller


def stalled(client: httpx.Client, go_on: threading.Event, begun: threading.Event) -> httpx.Response:
    def body() -> Iterator[bytes]:
        yield b"x"
        begun.set()
        go_on.wait(1)

    return client.post("/v1/identify", content=body(), headers=JPEG)


@pytest.mark.integration
def test_a_body_that_stalls_is_a_408_problem(narrow: httpx.Client) -> None:
    check_problem(stalled(narrow, go_on := threading.Event(), threading.Event()), 408, "0.5 s")
    go_on.set()


def test_calls_above_the_limit_get_503_with_retry_after(narrow: httpx.Client) -> None:
    body = encode(draw(0, 0), "PNG")
    with ThreadPoolExecutor(8) as callers:
        calls = [callers.submit(narrow.post, "/v1/identify", content=body, headers=JPEG) for _ in range(40)]
        answers = [call.result() for call in calls]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 0 < len(refused) < 40
    check_problem(refused[0], 503, "Try again")
    assert refused[0].headers["retry-after"] == "1"
    assert narrow.get("/healthz").status_code == 200
    assert narrow.post("/v1/identify", content=body, headers=JPEG).status_code == 200
