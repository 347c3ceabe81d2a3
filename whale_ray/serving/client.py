"""Asks a running service over HTTP, as any other program would; tries again where that can help."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import httpx

from whale_ray.errors import InputError

_PATIENCE = 45.0  # seconds for which a call is made again: a process that died has another in its place by then
_TRY_AGAIN = {429, 500, 502, 503, 504}  # 500 is Ray's proxy, of a call that was cut


def ask_service(url: str, images: list[Path], *, top: int = 5, encounter: bool = False) -> list[dict[str, Any]]:
    """An answer for each photograph, in their order, from the service at `url`; each says which `model` gave it.

    encounter: the photographs are views of one animal; one answer for all, and a problem for each that cannot be used.
    The key is read from WHALE_RAY_API_KEY. Identifying changes nothing, so a call that was cut is made again.
    Raises: InputError where the service cannot be reached or refuses.
    """
    key = os.environ.get("WHALE_RAY_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    calls = [images] if encounter else [[image] for image in images]
    with httpx.Client(base_url=url, headers=headers, timeout=60.0) as client:
        return [answer for call in calls for answer in _ask(client, call, top=top, encounter=encounter)]


def _ask(client: httpx.Client, images: list[Path], *, top: int, encounter: bool) -> list[dict[str, Any]]:
    files = [("image", (str(image), _read(image))) for image in images]
    answer = _post(client, files, {"top": top, "encounter": encounter})
    if answer.is_redirect:
        raise InputError(f"{client.base_url} leads to {answer.headers.get('Location')}. Name the service's own address")
    if answer.is_error:
        raise InputError(f"{client.base_url} refuses {', '.join(map(str, images))}: {_detail(answer)}")
    try:
        body = answer.json()
        return [{"model": body["model"], **result} for result in body["results"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{client.base_url} must be a whale_ray service, but answers otherwise. Name another"
        ) from error


def _read(image: Path) -> bytes:
    try:
        return image.read_bytes()
    except OSError as error:
        raise InputError(f"{image} must be a readable file, but: {error.strerror}. Name a photograph") from error


def _post(client: httpx.Client, files: list[tuple[str, tuple[str, bytes]]], query: dict[str, Any]) -> httpx.Response:
    until, wait = time.monotonic() + _PATIENCE, 0.25
    while True:
        last = time.monotonic() + wait > until
        try:
            answer = client.post("/v1/identify", params=query, files=files)
            if answer.status_code not in _TRY_AGAIN or last:
                return answer
            pause = _seconds(answer.headers.get("Retry-After")) or wait
        except httpx.TransportError as error:
            if last or (isinstance(error, httpx.ConnectError) and wait > 4.0):
                raise InputError(f"a service must answer at {client.base_url}, but: {error}. Is it running?") from error
            pause = wait
        time.sleep(min(pause, 10.0))
        wait = min(2 * wait, 8.0)


def _seconds(retry_after: str | None) -> float:
    """The seconds of `Retry-After`; 0 where it says a date, or nothing."""
    return float(retry_after) if retry_after and retry_after.isdigit() else 0.0


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json().get("detail", answer.status_code))
    except ValueError:
        return f"status {answer.status_code}"
