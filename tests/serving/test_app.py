"""The service on Ray Serve as a person starts and stops it."""

from __future__ import annotations

import dataclasses
import importlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import ray
from pictures import draw, encode
from pydantic import ValidationError
from ray.serve import Application
from services import KEY, TOP, contents, free_port, process, serving

from whale_ray.bundle import write_bundle
from whale_ray.errors import BundleError, InputError
from whale_ray.serving.app import build, build_from_environment, serve_bundle
from whale_ray.serving.settings import ServeSettings


def test_a_folder_that_is_no_bundle_is_refused_before_ray_starts(tmp_path: Path) -> None:
    before = ray.is_initialized()
    with pytest.raises(BundleError, match=r"bundle\.json"):
        serve_bundle(tmp_path, port=free_port())
    assert ray.is_initialized() == before


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "whales.example"])
def test_another_host_without_a_key_is_refused_with_the_ways_out(
    bundle: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHALE_RAY_API_KEY", "")
    with pytest.raises(InputError, match=r"WHALE_RAY_API_KEY.*127\.0\.0\.1.*--insecure"):
        serve_bundle(bundle, host=host)


def test_a_port_that_is_taken_is_refused_before_ray_starts(bundle: Path) -> None:
    before = ray.is_initialized()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"127\.0\.0\.1:{port} must be free.*--port"):
            serve_bundle(bundle, port=port)
    assert ray.is_initialized() == before


def test_a_setting_that_does_not_exist_is_refused(bundle: Path) -> None:
    with pytest.raises(ValidationError, match="treads"):
        serve_bundle(bundle, port=free_port(), treads=2)


def test_the_builder_takes_typed_settings_and_makes_an_application(bundle: Path) -> None:
    assert isinstance(build(ServeSettings(bundle=bundle, threads=2)), Application)


def test_the_application_of_serve_run_is_that_of_the_bundle_in_the_environment(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHALE_RAY_BUNDLE", str(bundle))
    monkeypatch.syspath_prepend(TOP)
    assert isinstance(importlib.import_module("serve_app").app, Application)


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


def listening_on(port: int) -> set[str]:
    """The addresses, as the kernel writes them, on which this port listens."""
    rows = [row.split() for file in ("tcp", "tcp6") for row in Path(f"/proc/net/{file}").read_text().splitlines()[1:]]
    local = [row[1].rsplit(":", 1) for row in rows if row[3] == "0A"]
    return {address for address, found in local if int(found, 16) == port}


@pytest.mark.slow
def test_serve_run_asks_for_the_key_and_listens_on_loopback_alone_in_haproxys_mode_too(bundle: Path) -> None:
    assert not listening_on(8000), "port 8000, which `serve run` takes, is in use"
    command = (str(Path(sys.executable).parent / "serve"), "run", "serve_app:build", "threads=1")
    variables = {
        "WHALE_RAY_API_KEY": KEY,
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
    }
    with (
        process(*command, f"bundle={os.path.relpath(bundle, TOP)}", ready="is ready at", **variables),
        httpx.Client(base_url="http://127.0.0.1:8000", timeout=30) as client,
    ):
        assert listening_on(8000) == {"0100007F"}
        photograph = {"image": encode(draw(1, 0), "PNG")}
        assert client.post("/v1/identify", files=photograph).status_code == 401
        answer = client.post("/v1/identify", files=photograph, headers={"Authorization": f"Bearer {KEY}"})
        assert answer.json()["results"][0]["candidates"][0]["individual"] == "w_01"
