"""Asks a running service over HTTP, as any other program would; tries again where that can help."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import httpx

from whale_ray.errors import InputError

_TRIES = 5
_TRY_AGAIN = {429, 502, 503, 504}


def ask_service(url: str, images: list[Path], *, top: int = 5) -> list[dict[str, Any]]:
    """An answer for each photograph, in their order, from the service at `url`.

    The key is read from WHALE_RAY_API_KEY. Identifying changes nothing, so a call that was cut is made again.
    Raises: InputError where the service cannot be reached or refuses.
    """
    key = os.environ.get("WHALE_RAY_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=url, headers=headers, timeout=60.0) as client:
        return [_ask(client, image, top) for image in images]


def _ask(client: httpx.Client, image: Path, top: int) -> dict[str, Any]:
    try:
        data = image.read_bytes()
    except OSError as error:
        raise InputError(f"{image} must be a readable file, but: {error.strerror}. Name a photograph") from error
    answer = _post(client, data, top)
    if answer.is_error:
        raise InputError(f"{client.base_url} refuses {image}: {_detail(answer)}")
    return dict(answer.json()["results"][0])


def _post(client: httpx.Client, data: bytes, top: int) -> httpx.Response:
    for tried in range(1, _TRIES + 1):
        try:
            answer = client.post("/v1/identify", params={"top": top}, content=data)
            if answer.status_code not in _TRY_AGAIN or tried == _TRIES:
                return answer
            wait = float(answer.headers.get("Retry-After", "1"))
        except httpx.TransportError as error:
            if tried == _TRIES:
                raise InputError(f"a service must answer at {client.base_url}, but: {error}. Is it running?") from error
            wait = 0.2 * 2**tried
        time.sleep(min(wait, 10.0))
    raise AssertionError("the last try returns or raises")


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json().get("detail", answer.status_code))
    except ValueError:
        return f"status {answer.status_code}"
