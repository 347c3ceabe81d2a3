"""Ray's private APIs: every name that whale_ray uses exists in the installed Ray."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from whale_ray.ray_private import (
    RAY_VERSION,
    free_agent_port,
    no_dashboard_process,
    poll_serve_each,
    set_default_http_host,
    set_deployment_version,
)

PACKAGE = Path(__file__).parents[1] / "whale_ray"
NAMES = {
    "ray._common.usage.usage_lib": "get_cluster_metadata",
    "ray._raylet": "GcsClient",
    "ray._private.authentication.authentication_utils": "is_token_auth_enabled",
    "ray._private.authentication.authentication_token_setup": "maybe_enable_token_auth_if_token_available",
    "ray._private.parameter": "RayParams",
    "ray._private.ray_constants": "KV_NAMESPACE_DASHBOARD",
    "ray._private.services": "canonicalize_bootstrap_address",
    "ray._private.state": "state",
    "ray._private.utils": "read_ray_address",
    "ray.exceptions": "AuthenticationError",
    "ray.serve._private.client": "CLIENT_POLLING_INTERVAL_S",
    "ray.serve.context": "_get_global_client",
    "ray.serve.config": "HTTPOptions",
    "ray.train.torch.config": "_TorchBackend",
}
REMEDY = "Check whale_ray/ray_private.py against the new Ray, then change RAY_VERSION and the pin in pyproject.toml."


def test_the_installed_ray_is_the_version_that_the_adapter_was_written_for() -> None:
    import ray

    rule = f"whale_ray/ray_private.py is written for Ray {RAY_VERSION}, but Ray {ray.__version__} is installed."
    assert ray.__version__.startswith(f"{RAY_VERSION}."), f"{rule} {REMEDY}"


@pytest.mark.parametrize(("module", "name"), NAMES.items())
def test_a_private_name_exists(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name), f"Ray has no {module}.{name} any more. {REMEDY}"


def test_private_parameters_and_fields_exist() -> None:
    from ray import serve
    from ray._private import services
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
    from ray.serve._private import api
    from ray.serve._private.client import ServeControllerClient
    from ray.serve._private.replica import SERVE_BUILD_ASGI_APP_METHOD
    from ray.serve.config import HTTPOptions

    assert "warn_if_disabled" in inspect.signature(maybe_enable_token_auth_if_token_available).parameters, REMEDY
    assert {"version", "_internal"} <= set(inspect.signature(serve.Deployment.options).parameters), REMEDY
    assert hasattr(ServeControllerClient, "http_config"), REMEDY
    assert "host" in HTTPOptions.model_fields, REMEDY
    start = inspect.signature(api._create_controller_and_proxy_refs).parameters
    wanted = ["http_options", "grpc_options", "global_logging_config", "global_tracing_config", "controller_options"]
    assert list(start)[:6] == [*wanted, "proxy_location"], REMEDY
    assert list(inspect.signature(services.start_api_server).parameters)[3:5] == ["gcs_address", "cluster_id_hex"], (
        REMEDY
    )
    # The ingress class defines this method; Ray calls it in each replica.
    assert SERVE_BUILD_ASGI_APP_METHOD == "__serve_build_asgi_app__", REMEDY


def test_the_agent_of_a_ray_that_starts_in_the_block_takes_any_port() -> None:
    from ray._private.parameter import RayParams

    with free_agent_port():
        assert RayParams(num_cpus=1).dashboard_agent_listen_port == 0
    assert RayParams(num_cpus=1).dashboard_agent_listen_port == 52365


def test_no_process_of_the_dashboard_starts_but_its_address_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray import _raylet
    from ray._private import services

    put: list[tuple[object, ...]] = []

    class Client:
        def __init__(self, *, address: str, cluster_id: str) -> None:
            put.append((address, cluster_id))

        def internal_kv_put(self, *row: object) -> None:
            put.append(row)

    monkeypatch.setattr(_raylet, "GcsClient", Client)
    before = services.start_api_server
    with no_dashboard_process():
        answer = services.start_api_server(False, False, "127.0.0.1", "1.2.3.4:5", "c0", port=None)  # type: ignore[call-arg]
    assert (answer, services.start_api_server) == ((None, None), before)
    assert put == [("1.2.3.4:5", "c0"), (b"dashboard", b"127.0.0.1:0", True, b"dashboard")]


def test_serve_run_looks_at_an_application_as_often_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve._private import client

    monkeypatch.setattr(client, "CLIENT_POLLING_INTERVAL_S", 1.0)
    poll_serve_each(0.25)
    assert client.CLIENT_POLLING_INTERVAL_S == 0.25


def test_the_default_http_host_is_the_given_one_unless_the_environment_names_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.serve.config import HTTPOptions

    before = HTTPOptions.model_fields["host"].default
    try:
        monkeypatch.delenv("RAY_SERVE_DEFAULT_HTTP_HOST", raising=False)
        set_default_http_host("127.0.0.2")
        assert HTTPOptions().host == "127.0.0.2"
        monkeypatch.setenv("RAY_SERVE_DEFAULT_HTTP_HOST", "127.0.0.3")
        set_default_http_host("127.0.0.2")
        assert HTTPOptions().host == "127.0.0.3"
    finally:
        HTTPOptions.model_fields["host"].default = before
        HTTPOptions.model_rebuild(force=True)


def test_a_deployment_takes_a_version_without_a_warning() -> None:
    from ray import serve

    @serve.deployment
    class Deployed:
        pass

    assert set_deployment_version(Deployed, "1").version == "1"


@pytest.mark.integration
def test_only_the_adapter_uses_private_names_of_ray() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "ray_private.py"
        for name in _imported_from_ray(path)
        if any(part.startswith("_") for part in name.split("."))
    ]
    assert found == []


def _imported_from_ray(path: Path) -> list[str]:
    """Return the dotted names that a file imports from Ray."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if name.partition(".")[0] == "ray"]


def test_importing_the_adapter_does_not_import_ray() -> None:
    code = "import sys, whale_ray.ray_private; print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
