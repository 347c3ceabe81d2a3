"""A service of several models whose encoders are deployments of their own: choice of the model, exchange, kills."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch
from drawn_photographs import draw, encode
from load_generator import PAUSE, load
from served_models import Running, serve
from waiting import SECONDS, wait_until

from whale_ray.serving.client import ask_service

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["processor", pytest.param("gpu", marks=pytest.mark.gpu)])
def split(make: Callable[..., Path], request: pytest.FixtureRequest) -> Iterator[Running]:
    models = (f"small={make('tiny-small')}", f"large={make('tiny-large')}")
    shares = ("--set", "gpus=0.3", "--set", "page=off") if request.param == "gpu" else ()
    yield from serve(*models, "--set", "shape=split", *shares)


def test_a_call_selects_its_model_and_the_model_card_names_the_default(split: Running) -> None:
    body = encode(draw(1, 0), "PNG")
    for query, bundle in (("", "tiny-small"), ("?model=large", "tiny-large"), ("?model=small", "tiny-small")):
        answer = httpx.post(f"{split.url}/v1/identify{query}", files={"image": body}).json()
        assert answer["model"] == bundle
        assert answer["results"][0]["candidates"][0]["individual"] == "w_01"
    assert split.model()["default"] == "small"
    assert split.model()["models"] == {"small": "tiny-small", "large": "tiny-large"}
    refused = httpx.post(f"{split.url}/v1/identify?model=huge", files={"image": body})
    assert refused.status_code == 404
    assert "small, large" in refused.json()["detail"]


def test_a_killed_encoder_is_hidden_by_retries_while_health_fails(split: Running) -> None:
    (encoder,) = split.processes("encoder-tiny-small")
    colours: list[int] = []
    with load(split.url, pause=PAUSE) as seen:
        seen.wait_for(20)
        os.kill(encoder, signal.SIGKILL)

        def is_back() -> bool:
            colours.append(httpx.get(f"{split.url}/healthz").status_code)
            return colours[-1] == 200 and 503 in colours

        wait_until(is_back, rest=0.1)
        seen.wait_for(20)
    assert seen.failed == []
    assert set(colours) == {200, 503}
    assert split.processes("encoder-tiny-small") != [encoder]


def test_calls_cut_by_a_killed_ingress_are_retried_by_the_client(split: Running, tmp_path: Path) -> None:
    (ingress,) = split.processes("whale_ray")
    photograph = tmp_path / "fluke.jpg"
    photograph.write_bytes(encode(draw(2, 0), "JPEG"))
    answers: list[dict[str, object]] = []
    asking = threading.Thread(
        target=lambda: answers.extend(ask_service(split.url, [photograph] * 60, top=1)), daemon=True
    )
    asking.start()
    time.sleep(0.2)
    os.kill(ingress, signal.SIGKILL)
    asking.join(SECONDS)
    assert len(answers) == 60


def test_separate_encoders_are_exchanged_under_load_and_old_ones_drain(
    split: Running, make: Callable[..., Path]
) -> None:
    with (
        load(split.url, clients=4, path="/v1/identify?model=large", pause=PAUSE) as seen,
        load(split.url, clients=2, pause=PAUSE) as others,
    ):
        seen.wait_for(10)
        exchanged = split.deploy(make("tiny-newer"), "--model", "large")
        assert exchanged.returncode == 0, exchanged.stderr
        seen.wait_for(20)
    assert seen.failed == others.failed == []
    assert {one.bundle for one in seen.seen} == {"tiny-large", "tiny-newer"}
    assert {one.bundle for one in others.seen} == {"tiny-small"}
    assert split.processes("encoder-tiny-large") == []
    assert len(split.processes("encoder-tiny-newer")) == 1


@pytest.mark.gpu
def test_a_bundle_on_a_share_of_a_gpu_is_exchanged_under_load(make: Callable[..., Path]) -> None:
    memory = torch.cuda.mem_get_info()[0]
    with contextmanager(serve)(str(make("tiny-live")), "--set", "gpus=0.4", "--set", "page=off") as running:
        assert torch.cuda.mem_get_info()[0] < memory - 100 * 2**20  # the encoder is there, and not on the processor
        with load(running.url) as seen:
            seen.wait_for(20)
            exchanged = running.deploy(make("tiny-new"))
            assert exchanged.returncode == 0, exchanged.stderr
            seen.wait_for(20)
    assert seen.failed == []
    assert {one.bundle for one in seen.seen} == {"tiny-live", "tiny-new"}
