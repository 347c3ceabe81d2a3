"""Start and stop of the service on Ray Serve, its sockets and its metrics."""

from __future__ import annotations

import dataclasses
import importlib
import ipaddress
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
import ray
from drawn_photographs import draw, encode
from pydantic import ValidationError
from ray.serve import Application
from server_processes import free_port
from services import KEY, TOP, Running, contents, descendants, process, serving
from waiting import SECONDS

from whale_ray.errors import BundleError, InputError
from whale_ray.inference.bundle import write_bundle
from whale_ray.serving.deployment.launcher import build, build_from_environment, serve_bundle
from whale_ray.serving.deployment.settings import ServeSettings
from whale_ray.serving.metrics import METRICS

# Ray Serve starts a replica that cannot start three times.
ONE_START = {"RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1"}


def test_a_folder_without_a_bundle_is_refused_before_ray_starts(tmp_path: Path) -> None:
    before = ray.is_initialized()
    with pytest.raises(BundleError, match=r"bundle\.json"):
        serve_bundle(tmp_path, port=free_port())
    assert ray.is_initialized() == before


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "whales.example"])
def test_another_host_without_a_key_is_refused_with_the_remedies(
    bundle: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHALE_RAY_API_KEY", "")
    with pytest.raises(InputError, match=r"WHALE_RAY_API_KEY.*127\.0\.0\.1.*--insecure"):
        serve_bundle(bundle, host=host)


def test_a_port_in_use_is_refused_before_ray_starts(bundle: Path) -> None:
    before = ray.is_initialized()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"127\.0\.0\.1:{port} must be free.*--port"):
            serve_bundle(bundle, port=port)
    assert ray.is_initialized() == before


@pytest.mark.slow
def test_missing_gpus_are_refused_at_once(bundle: Path) -> None:
    with pytest.raises(InputError, match=r"gpus=64 for each of 3 encoders must fit.*finds \d.*Lower gpus"):
        serve_bundle(bundle, port=free_port(), gpus=64, replicas=3)


def test_a_setting_that_does_not_exist_is_refused(bundle: Path) -> None:
    with pytest.raises(ValidationError, match="treads"):
        serve_bundle(bundle, port=free_port(), treads=2)


def test_build_returns_an_application(bundle: Path) -> None:
    assert isinstance(build(ServeSettings(bundle=bundle, threads=2)), Application)


@pytest.mark.parametrize("address", [str, Path.as_uri], ids=["folder", "url"])
def test_app_serves_the_bundle_of_the_environment_variable(
    address: Callable[[Path], str], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHALE_RAY_BUNDLE", address(bundle))
    monkeypatch.syspath_prepend(TOP)
    assert isinstance(importlib.import_module("serve_app").app, Application)


def test_app_without_the_environment_variable_is_refused_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WHALE_RAY_BUNDLE", raising=False)
    with pytest.raises(BundleError, match="WHALE_RAY_BUNDLE must name a bundle"):
        build_from_environment()


@pytest.mark.slow
def test_a_bundle_that_fails_its_golden_images_ends_the_service_with_the_reason(tmp_path: Path) -> None:
    whole = contents()
    wrong = dataclasses.replace(whole, golden_vectors=-whole.golden_vectors)
    bundle = write_bundle(wrong, tmp_path / "wrong")
    environment = os.environ | ONE_START
    command = serving(bundle, free_port())
    started = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, cwd=TOP, env=environment)
    assert started.returncode == 1
    assert "BundleError: the golden images must give their embeddings" in started.stderr.splitlines()[-1]


def listening(pid: int) -> set[tuple[str, str, int]]:
    """Return process, address and port of each socket on which this process or a descendant listens."""
    found = set()
    for one in {pid} | descendants(pid):
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(one)
            command = process.cmdline() or [process.name()]
            scripts = [Path(word).stem for word in command if word.endswith("/dashboard.py")]
            title = (scripts or command)[0]
            # Titles of Ray's actors: `ray::NAME:...`, and `ray::NAME.method` while they run one.
            of_actor = re.match(r"ray::(\w+)", title)
            name = of_actor[1] if of_actor else re.sub(r"^python[\d.]+$", "python", Path(title).name)
            sockets = [each for each in process.net_connections(kind="inet") if each.status == psutil.CONN_LISTEN]
            found |= {(name, each.laddr.ip, each.laddr.port) for each in sockets}
    return found


def reach(address: str) -> str:
    """Return the reach of an address in the words of the table of ports."""
    if ipaddress.ip_address(address).is_unspecified:
        return "every address"
    return "127.0.0.1" if ipaddress.ip_address(address).is_loopback else "this machine's network address"


@pytest.mark.slow
def test_the_ports_page_names_every_socket_on_which_the_service_listens(ray_service: Running) -> None:
    check_sockets(ray_service.pid, int(ray_service.address.rpartition(":")[2]), taking="ProxyActor")


def check_sockets(pid: int, port: int, *, taking: str) -> None:
    """Check that this process takes calls on loopback only and the table of ports has every other socket."""
    rows = re.findall(
        r"^\| ([^|]+) \| ([^|]*`[^|]*) \| [^|]+ \| ([^|]+) \|$",
        (TOP / "docs" / "serving" / "ports.md").read_text(),
        re.M,
    )
    table = {(process, reaches.strip("* ")) for _, names, reaches in rows for process in re.findall(r"`(\w+)`", names)}
    found, deadline = listening(pid), time.monotonic() + SECONDS
    while not any(at == port for _, _, at in found) and time.monotonic() < deadline:
        time.sleep(0.2)  # a reload may replace HAProxy while its sockets are read
        found = listening(pid)
    assert {(name, address) for name, address, at in found if at == port} == {(taking, "127.0.0.1")}
    assert len(found) > 5
    for name, address, at in found:
        assert at == port or (name, reach(address)) in table, f"{name} listens on {address}:{at}"


@pytest.mark.slow
def test_the_metrics_of_the_service_are_among_rays_metrics(ray_service: Running) -> None:
    body = encode(draw(1, 0), "PNG")
    answer = httpx.post(f"{ray_service.address}/v1/identify", files={"image": body}, timeout=60)
    assert answer.status_code == 200
    assert httpx.post(f"{ray_service.address}/v1/identify", content=b"text", timeout=60).status_code == 415
    ports = {port for process, _, port in listening(ray_service.pid) if process == "DashboardAgent"}
    wanted = {f"ray_{name}" for name in METRICS}
    deadline, text = time.monotonic() + SECONDS, ""
    while not all(name in text for name in wanted) and time.monotonic() < deadline:
        time.sleep(1)
        for port in ports:
            with suppress(httpx.HTTPError):
                text += httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
    assert not {name for name in wanted if name not in text}
    assert re.search(r'ray_whale_ray_requests_total\{.*route="/v1/identify".*status="200"', text)


@pytest.mark.slow
def test_a_replica_on_another_host_without_a_key_does_not_become_healthy(bundle: Path) -> None:
    code = """
import ray, sys
from ray import serve
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from whale_ray.serving.metrics import METRICS
from whale_ray.serving.deployment.launcher import build
from whale_ray.serving.deployment.settings import ServeSettings
ray.init(address="local", num_cpus=1, namespace="serve", include_dashboard=False, logging_level="ERROR")
serve.start(http_options={"host": "0.0.0.0", "port": int(sys.argv[2])})
try:
    serve.run(build(ServeSettings(bundle=Path(sys.argv[1]), store="none")), name="whale_ray")
except RuntimeError:
    print(serve.status().applications["whale_ray"].status)
    print(serve.status().applications["whale_ray"].deployments["whale_ray"].message)
serve.shutdown()
"""
    command = [sys.executable, "-c", code, str(bundle), str(free_port())]
    variables = {**os.environ, **ONE_START, "WHALE_RAY_API_KEY": ""}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, cwd=TOP, env=variables)
    assert "DEPLOY_FAILED" in ended.stdout, ended.stderr
    assert "a service that other machines reach needs a key, but it listens on 0.0.0.0" in ended.stdout


def listening_on(port: int) -> set[str]:
    """Return the addresses on which this port listens, as the kernel writes them."""
    rows = [row.split() for file in ("tcp", "tcp6") for row in Path(f"/proc/net/{file}").read_text().splitlines()[1:]]
    local = [row[1].rsplit(":", 1) for row in rows if row[3] == "0A"]
    return {address for address, found in local if int(found, 16) == port}


@pytest.mark.slow
def test_haproxy_and_the_replica_behind_it_need_the_key_and_listen_on_loopback_only(bundle: Path) -> None:
    assert not listening_on(8000), "port 8000, which `serve run` takes, is in use"
    command = (str(Path(sys.executable).parent / "serve"), "run", "serve_app:build", "threads=1")
    variables = {
        "WHALE_RAY_API_KEY": KEY,
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(direct := free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(direct + 20),
    }
    with (
        process(*command, f"bundle={os.path.relpath(bundle, TOP)}", ready="is ready at", **variables) as running,
        httpx.Client(base_url="http://127.0.0.1:8000") as client,
    ):
        assert listening_on(8000) == {"0100007F"}
        check_sockets(running.pid, 8000, taking="haproxy")
        photograph = {"image": encode(draw(1, 0), "PNG")}
        assert client.post("/v1/identify", files=photograph).status_code == 401
        replica = f"http://127.0.0.1:{direct}/v1/identify"
        assert listening_on(direct) == {"0100007F"}
        assert client.post(replica, files=photograph).status_code == 401
        for address in ("/v1/identify", replica):
            answer = client.post(address, files=photograph, headers={"Authorization": f"Bearer {KEY}"})
            assert answer.json()["results"][0]["candidates"][0]["individual"] == "w_01"
