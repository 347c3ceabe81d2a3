"""Recognizer: equal results when it searches on the embedding thread or on a separate one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_photographs import draw, encode
from services import web_service

from whale_ray.inference.predictions import Identification
from whale_ray.serving.engine.encoder import LocalEncoder
from whale_ray.serving.engine.recognizer import Recognizer


class RemoteEncoder:
    """An encoder that is not to be searched beside, as one in another process."""

    def __init__(self, encoder: LocalEncoder) -> None:
        self._encoder = encoder

    async def embed(self, array: np.ndarray) -> np.ndarray:
        return await self._encoder.embed(array)

    async def fault(self) -> str | None:
        return await self._encoder.fault()


@pytest.mark.parametrize(("place", "apart"), [("here", False), ("elsewhere", True), ("cuda", True)])
def test_the_search_runs_on_the_embedding_thread_or_on_its_own(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, place: str, apart: bool
) -> None:
    service, ran = web_service(bundle), {}

    def noted(name: str) -> Callable[..., Any]:
        method = getattr(service.bundle, name)

        def run(*args: Any, **options: Any) -> Any:
            ran[name] = threading.get_ident()
            return method(*args, **options)

        return run

    for name in ("embed", "rank"):
        monkeypatch.setattr(service.bundle, name, noted(name))
    encoder = service.recognizer.encoder
    assert isinstance(encoder, LocalEncoder)
    with monkeypatch.context() as device:
        device.setattr(service.bundle, "device", "cuda" if place == "cuda" else "cpu")
        recognizer = Recognizer(
            service.live_gallery,
            RemoteEncoder(encoder) if place == "elsewhere" else encoder,
            service.recognizer.decoders,
            threads=1,
            batch=4,
        )
    data = [encode(draw(individual, 7), "PNG") for individual in (1, 4, 40)]

    async def scene() -> list[Identification]:
        return await asyncio.gather(*(recognizer.identify(one, top=3) for one in data))

    found = asyncio.run(scene())
    assert (ran["embed"] == ran["rank"]) is not apart
    for one, expected in zip(found, service.bundle.identify(data, top=3), strict=True):
        assert [each.individual for each in one.candidates] == [each.individual for each in expected.candidates]
        distances = [each.distance for each in expected.candidates]
        assert [each.distance for each in one.candidates] == pytest.approx(distances, abs=2e-6)
    service.recognizer.decoders.close()
