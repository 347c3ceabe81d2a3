"""The service on Ray Serve with several replicas: shadow, exchange, killed processes, autoscaling and load."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from drawn_photographs import draw, encode
from load_generator import PAUSE, PHOTOGRAPHS, load
from served_models import Running, serve
from services import contents
from waiting import wait_until

from whale_ray.inference.predictor import Bundle

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair(make: Callable[..., Path]) -> Iterator[Running]:
    """Two replicas, whose bundle calls nobody new, and a silent one that calls half of the load's photographs so."""
    scores = sorted(one.candidates[0].score for one in Bundle.load(make("tiny-new")).identify(PHOTOGRAPHS))
    shadow = make("tiny-next", threshold=float(np.mean(scores[2:4])))
    yield from serve(str(make("tiny-live", threshold=0.0)), "--set", "replicas=2", "--set", f"shadow={shadow}")


def test_a_shadow_is_measured_silently_and_its_agreement_is_in_the_model_card(pair: Running) -> None:
    with load(pair.url, clients=len(PHOTOGRAPHS)) as seen:
        seen.wait_for(60)
    assert {one.bundle for one in seen.seen} == {"tiny-live"}
    wait_until(lambda: pair.model()["shadow"]["compared"], rest=0.2)  # type: ignore[index]
    shadow = dict(pair.model()["shadow"])  # type: ignore[call-overload]
    assert shadow["id"] == "tiny-next"
    assert shadow["agreement"] == shadow["agreed"] / shadow["compared"]
    assert 0.2 < float(str(shadow["agreement"])) < 0.8
    assert shadow["failed"] == 0


def test_a_killed_replica_fails_only_its_own_calls(pair: Running) -> None:
    with load(pair.url, pause=PAUSE) as seen:
        seen.wait_for(20)
        killed = pair.processes("whale_ray")[0]
        os.kill(killed, signal.SIGKILL)
        pair.wait_for_replicas(2, without=killed)
        seen.wait_for(40)
    assert len({*pair.processes("whale_ray")} - {killed}) == 2
    assert len(seen.failed) <= 8  # the calls of all clients at one moment


def test_an_exchange_under_load_fails_no_call_and_a_damaged_bundle_never_serves(
    pair: Running, make: Callable[..., Path]
) -> None:
    whole = contents()
    wrong = make("tiny-wrong", golden_vectors=-whole.golden_vectors)
    with load(pair.url, pause=PAUSE) as seen:
        seen.wait_for(20)
        refused = pair.deploy(wrong)
        assert refused.returncode == 2
        assert "the golden images must give their embeddings" in refused.stderr
        exchanged = pair.deploy(make("tiny-new"))
        assert exchanged.returncode == 0, exchanged.stderr
        changed = time.monotonic()
        seen.wait_for(20)
    assert seen.failed == []
    assert {one.bundle for one in seen.seen} == {"tiny-live", "tiny-new"}
    assert {one.bundle for one in seen.seen if one.ended - one.seconds > changed} == {"tiny-new"}


def test_a_deployment_and_autoscaling_add_and_remove_replicas_without_a_failed_call(
    pair: Running, make: Callable[..., Path]
) -> None:
    options = ("replicas=1", "max_replicas=2", "busy=3", "upscale_delay=1", "downscale_delay=3")
    with load(pair.url, clients=4, pause=PAUSE) as seen:  # not enough for a second replica
        deployed = pair.deploy(make("tiny-new"), *(word for option in options for word in ("--set", option)))
        assert deployed.returncode == 0, deployed.stderr
        seen.wait_for(20)
    assert seen.failed == []
    for clients, replicas in ((1, 1), (8, 2), (1, 1)):
        with load(pair.url, clients=clients) as seen:
            pair.wait_for_replicas(replicas)
            seen.wait_for(20)
        assert seen.failed == []


def test_a_deployment_switches_the_page_off_and_adds_keys_without_which_calls_fail(
    pair: Running, make: Callable[..., Path], tmp_path: Path
) -> None:
    key, photograph = "k" * 40, encode(draw(1, 0), "PNG")
    (tmp_path / "keys").touch(mode=0o600)
    (tmp_path / "keys").write_text(f"boat identify {key}\n")
    assert httpx.get(f"{pair.url}/page/en/").status_code == 200  # the page has survived exchanges
    assert httpx.post(f"{pair.url}/v1/identify", files={"image": photograph}).status_code == 200
    settings = ("--set", f"keys={tmp_path / 'keys'}")
    deployed = pair.deploy(make("tiny-new"), *settings, "--set", "page=off")
    assert deployed.returncode == 0, deployed.stderr
    assert httpx.get(f"{pair.url}/").headers["location"] == "/docs"
    for headers, status in (({}, 401), ({"Authorization": f"Bearer {key}"}, 200)):
        answer = httpx.post(f"{pair.url}/v1/identify", files={"image": photograph}, headers=headers)
        assert answer.status_code == status, answer.text
    assert httpx.get(f"{pair.url}/page/en/", headers=headers).status_code == 404
    (tmp_path / "keys").write_text(f"boat identify {'n' * 40}\n")
    renewed = pair.deploy(make("tiny-new"), *settings)
    assert renewed.returncode == 0, renewed.stderr
    answer = httpx.post(f"{pair.url}/v1/identify", files={"image": photograph}, headers=headers)
    assert answer.status_code == 401  # the old key of the same file
    assert key not in deployed.stdout + deployed.stderr
    new = {"Authorization": f"Bearer {'n' * 40}"}
    assert httpx.get(f"{pair.url}/page/en/", headers=new).status_code == 404  # `page` stays off
