"""What the web page asks of the service, in its reader's name: the calls that any other program would make.

Knows HTTP and the contract's addresses; knows no Gradio, no bundle and no Ray.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from whale_ray.serving.http.uploads import Limits
from whale_ray.serving.schemas import RefusalError

SECONDS = 60.0
_TRIES = 4
_PAUSE = 0.5  # seconds before a call is made again, each time twice as many
_OF_THE_READER = ("cookie", "host", "authorization")


class Desk:
    """Asks the service that `transport` leads to, within the limits of one call.

    Each call is made with the reader's own cookie and Host, so that the service lets in whom it would let in.
    Raises: RefusalError with what the service says where it refuses.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, limits: Limits) -> None:
        self._limits = limits
        self._client = httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=SECONDS)

    async def model(self, reader: Mapping[str, str], model: str = "") -> dict[str, Any]:
        """What answers: the model card."""
        return await self._ask("GET", "/v1/model", reader, model)

    async def examples(self, reader: Mapping[str, str], model: str) -> list[dict[str, Any]]:
        """The bundle's examples, each with the individual that it shows and its address."""
        found: list[dict[str, Any]] = (await self._ask("GET", "/v1/examples", reader, model))["examples"]
        return found

    async def fetch(self, reader: Mapping[str, str], address: str) -> bytes:
        """What lies at an address that the service named."""
        return (await self._reply("GET", address, reader, {})).content

    async def identify(
        self, reader: Mapping[str, str], model: str, photographs: Sequence[Path]
    ) -> tuple[str, list[dict[str, Any]]]:
        """The id of the bundle that answered, and a result or a problem for each photograph."""
        answer = await self._ask("POST", "/v1/identify", reader, model, photographs)
        return answer["model"], answer["results"]

    async def enrol(self, reader: Mapping[str, str], model: str, individual: str, photograph: Path) -> dict[str, Any]:
        """What became of the photograph that is enrolled."""
        address = f"/v1/individuals/{quote(individual, safe='')}/images"
        enrolled: dict[str, Any] = (await self._ask("POST", address, reader, model, [photograph]))["images"][0]
        return enrolled

    async def _ask(
        self, method: str, address: str, reader: Mapping[str, str], model: str, photographs: Sequence[Path] = ()
    ) -> dict[str, Any]:
        query = {"model": model} if model else {}
        files = await asyncio.to_thread(self._read, photographs)
        answer: dict[str, Any] = (await self._reply(method, address, reader, query, files)).json()
        return answer

    def _read(self, photographs: Sequence[Path]) -> list[tuple[str, tuple[str, bytes]]]:
        if len(photographs) > self._limits.images:
            raise RefusalError(413, f"at most {self._limits.images} photographs are asked about at once. Choose fewer")
        if sum(path.stat().st_size for path in photographs) > self._limits.call_bytes:
            raise RefusalError(413, f"at most {self._limits.call_bytes:,} bytes are asked about at once. Choose fewer")
        return [("image", (path.name, path.read_bytes())) for path in photographs]

    async def _reply(
        self, method: str, address: str, reader: Mapping[str, str], query: dict[str, str], files: Any = ()
    ) -> httpx.Response:
        """The answer; a call that was cut or came when there were too many is made again, for all of them are
        idempotent: a photograph is enrolled once, however often it comes.
        """
        headers = {name: reader[name] for name in _OF_THE_READER if name in reader}
        for attempt in range(_TRIES):
            try:
                reply = await self._client.request(
                    method, address, params=query or None, headers=headers, files=files or None
                )
                if reply.status_code != 503 or attempt == _TRIES - 1:
                    break
            except httpx.TransportError as error:
                if attempt == _TRIES - 1 or isinstance(error, httpx.TimeoutException):
                    raise RefusalError(503, f"the service must answer, but: {error}. Try again") from error
            await asyncio.sleep(_PAUSE * 2**attempt)
        if reply.is_error:
            raise RefusalError(reply.status_code, reply.json()["detail"])
        return reply
