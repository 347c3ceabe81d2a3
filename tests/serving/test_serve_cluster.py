"""The service on Ray Serve: several models, exchange, killed processes, autoscaling and load."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from drawn_photographs import draw, encode
from load_generator import PAUSE, PHOTOGRAPHS, load
from server_processes import free_port
from services import contents, descendants, process, write_named
from waiting import SECONDS, wait_until

from whale_ray.inference.predictor import Bundle
from whale_ray.serving.client import ask_service

pytestmark = pytest.mark.slow
COMMAND = (sys.executable, "-c", "from whale_ray.cli import main; main()")


@dataclass
class Running:
    """A service, where it listens, where its Ray listens, and its process."""

    url: str
    ray: str
    pid: int

    def model(self) -> dict[str, object]:
        return dict(httpx.get(f"{self.url}/v1/model").json())

    def deploy(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, "deploy", *map(str, arguments), "--address", self.ray]
        return subprocess.run(command, capture_output=True, text=True, timeout=540)

    def processes(self, deployment: str) -> list[int]:
        """The processes of a deployment's replicas."""
        found = []
        for pid in descendants(self.pid):
            try:
                name = Path(f"/proc/{pid}/cmdline").read_text()
            except OSError:
                continue
            if name.startswith(f"ray::ServeReplica:whale_ray:{deployment}"):
                found.append(pid)
        return found

    def wait_for_replicas(self, count: int, *, without: int = 0) -> None:
        """Return once there are so many; a killed process is listed for a moment."""
        wait_until(lambda: len({*self.processes("whale_ray")} - {without}) == count, rest=0.2)


def serve(*arguments: str) -> Iterator[Running]:
    output: list[str] = []
    port = free_port()
    with process(*COMMAND, "serve", *arguments, "--port", str(port), ready="/v1/identify", output=output) as running:
        (address,) = re.findall(r"--address (\S+)", "".join(output))
        yield Running(f"http://127.0.0.1:{port}", address, running.pid)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a bundle of this id; all of them have the same encoder and gallery."""
    folder = tmp_path_factory.mktemp("bundles")

    def write(name: str, **changes: object) -> Path:
        return folder / name if (folder / name).exists() else write_named(folder, name, **changes)

    return write


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
