"""How the page asks the service: in its reader's name, again where a call was cut, and with the service's own words."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from whale_ray.serving.http.uploads import Limits
from whale_ray.serving.page import service_client
from whale_ray.serving.page.service_client import Desk
from whale_ray.serving.schemas import RefusalError

LIMITS = Limits(images=2, call_bytes=100)
ANSWER = {"model": "tiny", "results": [{"filename": "a.png"}]}


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_client, "_PAUSE", 0.0)


def identify(
    *replies: httpx.Response | Exception, photograph: Path, limits: Limits = LIMITS
) -> tuple[list[httpx.Request], object]:
    """The calls that were made until these replies were an answer, and that answer."""
    waiting, calls = list(replies), []

    def reply(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        one = waiting.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    reader = {"cookie": "whale_ray_session=x", "host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000"}
    return calls, asyncio.run(Desk(httpx.MockTransport(reply), limits).identify(reader, "large", [photograph]))


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(b"pixels")
    return tmp_path / "a.png"


def test_a_call_is_made_with_the_readers_cookie_and_host(photograph: Path) -> None:
    (call,), found = identify(httpx.Response(200, json=ANSWER), photograph=photograph)
    assert found == ("tiny", ANSWER["results"])
    assert call.headers["cookie"] == "whale_ray_session=x"
    assert call.headers["host"] == "127.0.0.1:8000"
    assert call.url.params["model"] == "large"
    assert b"pixels" in call.read()


def test_a_call_that_was_cut_or_came_when_there_were_too_many_is_made_again(photograph: Path) -> None:
    replies = (httpx.ConnectError("its process ended"), httpx.Response(503), httpx.Response(200, json=ANSWER))
    calls, found = identify(*replies, photograph=photograph)
    assert len(calls) == 3
    assert found == ("tiny", ANSWER["results"])


def test_a_service_that_does_not_answer_is_a_refusal(photograph: Path) -> None:
    with pytest.raises(RefusalError, match="the service must answer, but: its process ended"):
        identify(*[httpx.ConnectError("its process ended")] * 4, photograph=photograph)


def test_a_refusal_has_the_services_own_words_and_is_not_tried_again(photograph: Path) -> None:
    with pytest.raises(RefusalError, match="this call needs a key that may identify"):
        identify(httpx.Response(403, json={"detail": "this call needs a key that may identify"}), photograph=photograph)


def test_a_service_that_does_not_answer_in_time_is_not_asked_again(photograph: Path) -> None:
    with pytest.raises(RefusalError, match="the service must answer, but: no answer came"):
        identify(httpx.ReadTimeout("no answer came within 60 s"), photograph=photograph)


def test_more_than_a_call_may_bring_is_refused_before_it_is_read(photograph: Path) -> None:
    with pytest.raises(RefusalError, match="at most 5 bytes are asked about at once"):
        identify(photograph=photograph, limits=Limits(call_bytes=5))
    with pytest.raises(RefusalError, match="at most 0 photographs"):
        identify(photograph=photograph, limits=Limits(images=0))
