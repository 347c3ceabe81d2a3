"""Load shedding: overload and stalled callers do not delay accepted calls; health under stuck stages."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import quantiles
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from load_generator import PHOTOGRAPHS, Load, load
from services import LIMITS, plain_server, web_service
from waiting import wait_until

from whale_ray.serving.engine import micro_batcher
from whale_ray.serving.engine.micro_batcher import StallDetector
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore
from whale_ray.serving.http import load_shedding
from whale_ray.serving.http.load_shedding import AdmissionController, UploadBudget
from whale_ray.serving.http.uploads import Limits
from whale_ray.serving.problem_details import RefusalError

pytestmark = pytest.mark.integration

MOST = 4


@pytest.fixture(scope="module")
def narrow(bundle: Path) -> Iterator[str]:
    """A service that answers four calls at once and waits a minute for a body."""
    limits = Limits(LIMITS.image_bytes, LIMITS.image_pixels, LIMITS.call_bytes, LIMITS.images)
    with plain_server(web_service(bundle, limits=limits, most_calls=MOST)) as address:
        yield address


def p99(seen: Load) -> float:
    return quantiles([one.seconds for one in seen.seen if one.status == 200], n=100, method="inclusive")[98]


def is_bounded(address: str) -> bool:
    """Return whether 99 % of the answers under fourfold load come about as soon as those under the full load."""
    with load(address, clients=MOST) as within:
        within.wait_for(150)
    with load(address, clients=4 * MOST) as beyond:
        beyond.wait_for(600)
    assert within.failed == []
    assert {one.status for one in beyond.failed} == {503}
    for refused in beyond.failed:
        assert refused.headers["content-type"] == "application/problem+json"
        assert int(refused.headers["retry-after"]) >= 1
        assert "at most 4 photographs" in str(refused.answer["detail"])
    return p99(beyond) < 8 * p99(within) + 0.5


def test_latency_is_bounded_under_fourfold_load_and_the_rest_get_503(
    narrow: str,
) -> None:
    assert any(is_bounded(narrow) for _ in range(3)), "other load of the machine slows one of the three at most"
    with load(narrow, clients=1) as after:
        after.wait_for(3)
    assert after.failed == []


@contextmanager
def stalled(address: str, count: int) -> Iterator[None]:
    """So many callers that announce a photograph and send half of it."""
    port = int(address.rpartition(":")[2])
    head = b"POST /v1/identify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\nContent-Length: 1000\r\n\r\n"
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    for connection in connections:
        connection.sendall(head + b"x" * 500)
    try:
        yield
    finally:
        for connection in connections:
            connection.close()


def test_stalled_callers_do_not_delay_others(narrow: str) -> None:
    with stalled(narrow, 3 * MOST), load(narrow, clients=MOST) as seen:
        time.sleep(0.2)
        seen.wait_for(20)
    assert seen.failed == []


def test_stalled_callers_are_dropped_when_the_limit_is_reached(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with plain_server(web_service(bundle, most_calls=MOST)) as address, stalled(address, 4 * MOST):
        answers: list[httpx.Response] = []

        def is_full() -> bool:  # they are still coming
            answers.append(httpx.post(f"{address}/v1/identify", content=b"x"))
            return answers[-1].status_code == 503

        wait_until(is_full)
        assert "16 request bodies are in transfer already" in answers[-1].json()["detail"]
        monkeypatch.setattr(load_shedding, "_GUARANTEED_SECONDS", 0.0)
        with load(address, clients=1) as seen:
            seen.wait_for(10)
        assert seen.failed == []


def health_while_stuck(address: str, may: threading.Event, *, clients: int, calls: int) -> httpx.Response:
    """What /healthz says while calls wait for `may`; before and after it is well, and no call fails."""
    with httpx.Client(base_url=address) as client:
        assert client.get("/healthz").status_code == 200
        with load(address, clients=clients) as seen:
            answers: list[httpx.Response] = []

            def is_stuck() -> bool:
                answers.append(client.get("/healthz"))
                return answers[-1].status_code != 200

            try:
                wait_until(is_stuck)
            finally:
                may.set()
            seen.wait_for(calls)
        assert client.get("/healthz").status_code == 200
    assert seen.failed == []
    return answers[-1]


@pytest.mark.parametrize(
    ("stage", "reason"), [("embed", "a forward pass does not end"), ("rank", "a search does not end")]
)
def test_health_fails_while_a_stage_is_stuck(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, stage: str, reason: str
) -> None:
    monkeypatch.setattr(micro_batcher, "_STALL_SECONDS", 0.2)
    service, may = web_service(bundle), threading.Event()
    run = getattr(service.bundle, stage)
    monkeypatch.setattr(service.bundle, stage, lambda *args, **options: may.wait(180) and run(*args, **options))
    with plain_server(service) as address:
        red = health_while_stuck(address, may, clients=2, calls=4)
    assert red.status_code == 503
    assert reason in red.json()["detail"]


def test_health_fails_while_the_database_does_not_answer(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, may = EnrolmentStore(f"sqlite:///{tmp_path}/enrolled.db"), threading.Event()
    with plain_server(web_service(bundle, store=store)) as address:
        version, well = store.version, iter([True])  # for the first look at its health
        monkeypatch.setattr(store, "version", lambda: (next(well, False) or may.wait(180)) and version())
        red = health_while_stuck(address, may, clients=1, calls=2)
    assert red.status_code == 503
    assert "the database of enrolments does not answer" in red.json()["detail"]
    store.close()


def test_a_slow_encoder_is_not_stuck_if_batches_take_their_usual_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(micro_batcher, "time", SimpleNamespace(monotonic=lambda: clock.now))
    pace, found = StallDetector(), []
    with pace.running(1):
        clock.now += 30.0
    for items, seconds in ((3, 90.0), (1, 300.0)):
        with pace.running(items):
            clock.now += seconds
            found.append(pace.is_stuck)
    assert found == [False, True]
    assert not pace.is_stuck


def test_an_overload_is_refused_before_the_body_is_read(bundle: Path) -> None:
    service = web_service(bundle, most_calls=MOST)
    with plain_server(service) as address, service.admission.admit(MOST):
        host, _, port = address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=10) as caller:
            caller.sendall(b"POST /v1/identify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n")
            assert caller.recv(100).startswith(b"HTTP/1.1 503")
        assert httpx.post(f"{address}/v1/identify?model=default", content=b"x").status_code == 503
        assert httpx.post(f"{address}/v1/identify?model=unknown", content=b"x").status_code == 404
        assert httpx.get(f"{address}/v1/model").status_code == 200


def test_a_call_occupies_one_place_per_photograph() -> None:
    admission = AdmissionController(4)
    with admission.admit(3), pytest.raises(RefusalError, match="at most 4 photographs"), admission.admit(2):
        pass
    with admission.admit(3), admission.admit(1):
        pass
    with admission.admit(9), pytest.raises(RefusalError), admission.admit(1):
        pass
    with admission.admit(4):
        pass


def test_bodies_in_flight_have_a_common_memory_limit() -> None:
    async def scene() -> None:
        budget = UploadBudget(4, most_bytes=100, seconds=10.0)
        async with budget.receive_upload() as first, budget.receive_upload() as second:
            first(60)
            second(40)
            with pytest.raises(RefusalError, match="100 bytes of request bodies are in transfer already"):
                second(1)
        async with budget.receive_upload() as third:
            third(100)

    asyncio.run(scene())


def test_slow_bodies_release_their_memory_after_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_shedding, "_GUARANTEED_SECONDS", 0.05)
    ended: list[int] = []

    async def stalled(budget: UploadBudget, number: int) -> None:
        with suppress(RefusalError):
            async with budget.receive_upload() as take:
                take(50)
                await asyncio.sleep(30)
        ended.append(number)

    async def scene() -> None:
        budget = UploadBudget(10, most_bytes=100, seconds=10.0)
        callers = [asyncio.create_task(stalled(budget, number)) for number in range(2)]
        await asyncio.sleep(0.1)
        async with budget.receive_upload() as take:
            take(40)  # one of them goes for it, the older
            await asyncio.sleep(0.01)
            assert ended == [0]
            take(20)
            await asyncio.sleep(0.01)
            assert ended == [0, 1]
        await asyncio.gather(*callers)

    asyncio.run(scene())


def test_health_fails_while_forward_passes_fail_and_recovers(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service, broken = web_service(bundle), True
    embed = service.bundle.embed

    def sometimes(arrays: Any) -> Any:
        if broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return embed(arrays)

    monkeypatch.setattr(service.bundle, "embed", sometimes)
    with plain_server(service) as address, httpx.Client(base_url=address) as client:
        headers = {"Content-Type": "image/jpeg"}
        for health in (200, 200, 503):
            answer = client.post("/v1/identify", content=PHOTOGRAPHS[0], headers=headers)
            assert answer.status_code == 503
            assert "CUDA" not in answer.text
            assert client.get("/healthz").status_code == health
        assert "forward passes fail" in client.get("/healthz").json()["detail"]
        broken = False
        assert client.post("/v1/identify", content=PHOTOGRAPHS[0], headers=headers).status_code == 200
        assert client.get("/healthz").status_code == 200


def test_an_idle_encoder_is_healthy(bundle: Path) -> None:
    encoder = web_service(bundle).recognizer.encoder
    assert asyncio.run(encoder.fault()) is None
