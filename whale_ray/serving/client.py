"""HTTP client of a running service (`whale-ray identify URL`); it retries calls that were cut or refused for load."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import stamina

from whale_ray.data.decoding.box_arguments import format_box, pair_boxes
from whale_ray.data.image_io import Box
from whale_ray.errors import InputError

_RETRY_SECONDS = 45.0  # the time in which Ray Serve replaces a process that died
_CONNECT_SECONDS = 8.0  # a refused connection is retried for a shorter time: mostly no service runs there
_MAX_WAIT_SECONDS = 10.0
_RETRYABLE = {429, 500, 502, 503, 504}  # 500: Ray's proxy after a call was cut
logging.getLogger("stamina").addHandler(logging.NullHandler())  # only the last failure is reported


class _RetryableAnswerError(Exception):
    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(f"status {answer.status_code}")
        self.answer = answer


def ask_service(
    url: str,
    images: list[Path],
    *,
    top: int = 5,
    encounter: bool = False,
    boxes: Sequence[Box] = (),
    view: str = "",
    species: str = "",
) -> list[dict[str, Any]]:
    """Return the service's result for each photograph, in their order, with the `model` that gave it.

    The API key is read from WHALE_RAY_API_KEY. Identifying changes nothing, so failed calls are retried for 45 s.

    Args:
        url: Base URL of the service.
        images: Image files.
        top: Number of candidates per photograph, 1 to 50.
        encounter: The photographs show one animal: one result for all of them, and a problem for each unusable one.
        boxes: Boxes in the only photograph, or one box for each photograph; each box has its own result.
        view: Viewpoint of the animals; "" for unknown.
        species: Species of the animals, likewise.

    Raises:
        InputError: If a file cannot be read, or the service does not answer or refuses.
    """
    key = os.environ.get("WHALE_RAY_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    pairs = pair_boxes(images, boxes)
    calls = [([image], [] if box is None else [box]) for image, box in pairs]
    if encounter:
        calls = [(images, list(boxes))]
    traits = {name: value for name, value in (("view", view), ("species", species)) if value}
    query = {"top": top, "encounter": encounter, **traits}
    with httpx.Client(base_url=url, headers=headers, timeout=60.0) as client:
        return [result for call in calls for result in _identify(client, *call, query)]


def _identify(
    client: httpx.Client, images: list[Path], boxes: list[Box], query: dict[str, Any]
) -> list[dict[str, Any]]:
    files = [("image", (str(image), _read_image(image))) for image in images]
    answer = _post(client, files, {**query, "box": [format_box(box) for box in boxes]})
    if answer.is_redirect:
        raise InputError(f"{client.base_url} leads to {answer.headers.get('Location')}. Name the service's own address")
    if answer.is_error:
        raise InputError(f"{client.base_url} refuses {', '.join(map(str, images))}: {_problem_detail(answer)}")
    try:
        body = answer.json()
        return [{"model": body["model"], **result} for result in body["results"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{client.base_url} must be a whale_ray service, but its answer has another form. Name another URL"
        ) from error


def _read_image(image: Path) -> bytes:
    try:
        return image.read_bytes()
    except OSError as error:
        raise InputError(f"{image} must be a readable file, but: {error.strerror}. Name a photograph") from error


def _post(client: httpx.Client, files: list[tuple[str, tuple[str, bytes]]], query: dict[str, Any]) -> httpx.Response:
    started = time.monotonic()

    def retry_delay(error: Exception) -> bool | float:
        """Return whether to retry, or the seconds to wait before it."""
        if isinstance(error, _RetryableAnswerError):
            return min(_retry_after(error.answer), _MAX_WAIT_SECONDS) or True
        if isinstance(error, httpx.ConnectError):
            return time.monotonic() - started < _CONNECT_SECONDS
        return isinstance(error, httpx.TransportError)

    try:
        for attempt in stamina.retry_context(
            retry_delay, attempts=None, timeout=_RETRY_SECONDS, wait_initial=0.25, wait_max=8.0, wait_jitter=0.1
        ):
            with attempt:
                answer = client.post("/v1/identify", params=query, files=files)
                if answer.status_code in _RETRYABLE:
                    raise _RetryableAnswerError(answer)
    except _RetryableAnswerError as error:
        return error.answer
    except httpx.TransportError as error:
        raise InputError(f"a service must answer at {client.base_url}, but: {error}. Is it running?") from error
    return answer


def _retry_after(answer: httpx.Response) -> float:
    """Return the seconds of Retry-After; 0 if the header is missing or a date."""
    value = answer.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else 0.0


def _problem_detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json().get("detail", answer.status_code))
    except ValueError:
        return f"status {answer.status_code}"
