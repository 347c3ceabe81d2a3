"""The service on Ray Serve as a person starts and stops it."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import ray
from conftest import KEY, TOP, contents, free_port, process, serving
from pictures import draw, encode
from pydantic import ValidationError
from ray.serve import Application

from whale_ray.bundle import write_bundle
from whale_ray.errors import BundleError, InputError
from whale_ray.serving.app import ServeSettings, build, build_from_environment, serve_bundle


def test_a_folder_that_is_no_bundle_is_refused_before_ray_starts(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"bundle\.json"):
        serve_bundle(tmp_path, port=free_port())
    assert not ray.is_initialized()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "whales.example"])
def test_another_host_without_a_key_is_refused_with_the_ways_out(
    bundle: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHALE_RAY_API_KEY", "")
    with pytest.raises(InputError, match=r"WHALE_RAY_API_KEY.*127\.0\.0\.1.*--insecure"):
        serve_bundle(bundle, host=host)


def test_a_port_that_is_taken_is_refused_before_ray_starts(bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"127\.0\.0\.1:{port} must be free.*--port"):
            serve_bundle(bundle, port=port)
    assert not ray.is_initialized()


def test_a_setting_that_does_not_exist_is_refused(bundle: Path) -> None:
    with pytest.raises(ValidationError, match="treads"):
        serve_bundle(bundle, port=free_port(), treads=2)


def test_the_builder_takes_typed_settings_and_makes_an_application(bundle: Path) -> None:
    assert isinstance(build(ServeSettings(bundle=bundle, threads=2)), Application)


def test_the_application_of_serve_run_says_which_variable_names_the_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WHALE_RAY_BUNDLE", raising=False)
    with pytest.raises(BundleError, match="WHALE_RAY_BUNDLE must name a bundle"):
        build_from_environment()


@pytest.mark.slow
def test_a_bundle_that_fails_its_golden_images_in_the_replica_ends_the_service_with_the_reason(tmp_path: Path) -> None:
    whole = contents()
    wrong = dataclasses.replace(whole, golden_vectors=-whole.golden_vectors)
    bundle = write_bundle(wrong, tmp_path / "wrong")
    started = subprocess.run(serving(bundle, free_port()), capture_output=True, text=True, timeout=120, cwd=TOP)
    assert started.returncode == 1
    assert "BundleError: the golden images must give their embeddings" in started.stderr.splitlines()[-1]


@pytest.mark.slow
def test_sigterm_ends_the_service_and_everything_it_started(bundle: Path) -> None:
    port = free_port()
    with process(*serving(bundle, port), ready="/v1/identify", WHALE_RAY_API_KEY=KEY) as running:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            assert client.get("/healthz").status_code == 200
            assert client.get("/v1/model").status_code == 401
            assert client.get("/v1/model", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
        session = descendants(running.pid)
        assert len(session) > 3
    assert running.returncode == 0
    deadline = time.monotonic() + 20
    while alive(session) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(session)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/healthz")


def descendants(pid: int) -> set[int]:
    """The processes below this one."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, size = {pid}, 0
    while len(found) > size:
        size = len(found)
        found |= {child for child, parent in parents.items() if parent in found}
    return found - {pid}


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


def listening_on(port: int) -> set[str]:
    """The addresses, as the kernel writes them, on which this port listens."""
    rows = [row.split() for file in ("tcp", "tcp6") for row in Path(f"/proc/net/{file}").read_text().splitlines()[1:]]
    local = [row[1].rsplit(":", 1) for row in rows if row[3] == "0A"]
    return {address for address, found in local if int(found, 16) == port}


@pytest.mark.slow
@pytest.mark.parametrize("proxy", ["default", "haproxy"])
def test_serve_run_answers_on_loopback_alone_in_every_mode_of_the_proxy(bundle: Path, proxy: str) -> None:
    assert not listening_on(8000), "port 8000, which `serve run` takes, is in use"
    command = (str(Path(sys.executable).parent / "serve"), "run")
    if proxy == "default":
        command += ("serve_app:build", f"bundle={os.path.relpath(bundle, TOP)}", "threads=1")
        variables = {}
    else:
        command += ("serve_app:app",)
        variables = {
            "WHALE_RAY_BUNDLE": str(bundle),
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        }
    with process(*command, ready="is ready at", **variables):
        answer = httpx.post("http://127.0.0.1:8000/v1/identify", files={"image": encode(draw(1, 0), "PNG")}, timeout=30)
        assert answer.json()["results"][0]["candidates"][0]["individual"] == "w_01"
        assert listening_on(8000) == {"0100007F"}
