"""Address of a Ray cluster: every form and origin, with and without a cluster behind it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import pytest

from whale_ray import ray_address
from whale_ray.errors import InputError
from whale_ray.ray_address import check_driver_address, check_ray_address, describe_mismatch, requested_address
from whale_ray.serving.deployment.launcher import serve_models
from whale_ray.serving.deployment.rollout import deploy
from whale_ray.serving.deployment.settings import ServeSettings
from whale_ray.sweep.execution.driver import run_sweep

SHORT, LONG = 0.3, 60.0


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has no Ray, and no address is set."""
    monkeypatch.setattr(ray_address, "is_ray_initialized", lambda: False)
    monkeypatch.setattr(ray_address, "SECONDS", LONG)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def closed() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def web_server() -> Iterator[str]:
    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def remote_calls() -> Iterator[str]:
    """A gRPC server that is none of Ray's."""
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


class TokenRequired(grpc.ServerInterceptor):
    """Refuses every call as a cluster does that wants a token."""

    def intercept_service(self, continuation: object, details: object) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "token missing")
        )


@pytest.fixture
def guarded() -> Iterator[str]:
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, interceptors=[TokenRequired()])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


def test_a_cluster_that_wants_a_token_gets_that_of_the_user(guarded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_address, "enable_token_auth_if_token_exists", lambda: True)
    with pytest.raises(InputError, match=rf"that at {guarded} \(--address\) refuses it. Set RAY_AUTH_TOKEN"):
        check_ray_address(guarded, seconds=LONG)
    monkeypatch.setattr(ray_address, "check_cluster_versions", lambda address: None)
    assert check_ray_address(guarded, seconds=LONG) == guarded
    monkeypatch.setattr(ray_address, "enable_token_auth_if_token_exists", lambda: False)
    with pytest.raises(InputError, match=r"it wants a token and there is none: set RAY_AUTH_MODE=token and RAY_AUTH"):
        check_ray_address(guarded, seconds=LONG)


@pytest.mark.parametrize(
    ("kind", "form", "said"),
    [
        ("closed", "{}", "none can be reached .Connection refused"),
        ("closed", "ray://{}", "none can be reached .Connection refused"),
        ("silent", "{}", "nothing answers within 0.3 s"),
        ("silent", "ray://{}", "nothing answers within 0.3 s"),
        ("web_server", "{}", "none can be reached"),
        ("web_server", "http://{}", "this is the address of a dashboard"),
        ("remote_calls", "{}", "another program answers there"),
    ],
)
@pytest.mark.parametrize("origin", ["--address", "RAY_ADDRESS"])
def test_an_address_without_a_cluster_is_refused_with_its_origin(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str, form: str, said: str, origin: str
) -> None:
    address = form.format(request.getfixturevalue(kind))
    if origin == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", address)
    remedy = "unset RAY_ADDRESS" if origin == "RAY_ADDRESS" else "leave --address out"
    with pytest.raises(InputError, match=rf"must answer at {address} \({origin}\), but {said}.*{remedy}"):
        check_ray_address(None if origin == "RAY_ADDRESS" else address, seconds=SHORT if kind == "silent" else LONG)


@pytest.mark.parametrize("address", ["head", "head:port", "host:1:2", "", " "])
def test_a_text_that_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="an address is HOST:PORT, ray://HOST:PORT, auto or local"):
        check_ray_address(address)


def test_a_client_server_of_ray_is_any_server_of_remote_calls(remote_calls: str) -> None:
    assert check_ray_address(f"ray://{remote_calls}", seconds=LONG) == f"ray://{remote_calls}"


@pytest.mark.parametrize("origin", ["--address", "RAY_ADDRESS"])
def test_a_sweep_by_ray_client_is_refused_with_the_two_ways_that_work(
    monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    if origin == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(InputError, match=rf"ray://head:10001 \({origin}\).* take head:6379.*http://head:8265"):
        check_driver_address("ray://head:10001" if origin == "--address" else None)


@pytest.mark.parametrize("named", [True, False])
def test_a_cluster_of_other_versions_is_refused_before_anything_starts(
    cluster: str, named: bool, write_sweep: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster says that it has other versions, as `ray start` of another Ray would have recorded."""
    metadata = {"ray_version": "2.59.0", "python_version": "3.12.1"}
    monkeypatch.setattr("ray._common.usage.usage_lib.get_cluster_metadata", lambda client: metadata)
    monkeypatch.setattr(ray_address, "recorded_cluster_address", lambda: cluster)
    with pytest.raises(
        InputError, match=rf"at {cluster} has Ray 2.59.0 and Python 3.12.1 and this machine Ray 2.60.\S+ and Python"
    ):
        run_sweep(write_sweep(), runs=tmp_path, address=cluster if named else None)
    assert not list(tmp_path.iterdir())


def test_an_error_of_ray_that_is_no_mismatch_stays_as_it_is() -> None:
    other = RuntimeError("something else")
    assert describe_mismatch(other, "head:6379") is other


def test_a_running_cluster_answers(cluster: str) -> None:
    assert check_ray_address(cluster) == cluster


@pytest.mark.parametrize(
    ("option", "variable", "value", "origin"),
    [
        (None, "a:1", "a:1", "RAY_ADDRESS"),
        ("auto", "a:1", "a:1", "RAY_ADDRESS"),
        ("b:2", "a:1", "b:2", "--address"),
        ("auto", "", "auto", "--address"),
    ],
)
def test_the_variable_counts_where_ray_follows_it(
    monkeypatch: pytest.MonkeyPatch, option: str | None, variable: str, value: str, origin: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", variable)
    found = requested_address(option)
    assert found
    assert (found.value, found.origin) == (value, origin)


@pytest.mark.parametrize("recorded", [None, "closed"])
def test_without_an_address_a_ray_of_this_process_starts_also_if_the_recorded_cluster_is_gone(
    monkeypatch: pytest.MonkeyPatch, closed: str, recorded: str | None
) -> None:
    monkeypatch.setattr(ray_address, "recorded_cluster_address", lambda: recorded and closed)
    assert check_ray_address(None) == "local"
    assert check_ray_address("local") == "local"


def test_auto_names_the_cluster_that_is_gone(monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    monkeypatch.setattr(ray_address, "local_cluster_address", lambda: closed)
    with pytest.raises(
        InputError, match=rf"at auto \(--address\), but at {closed}, where one ran on this machine, none"
    ):
        check_ray_address("auto")

    def none() -> str:
        raise ConnectionError

    monkeypatch.setattr(ray_address, "local_cluster_address", none)
    with pytest.raises(InputError, match="no cluster runs on this machine"):
        check_ray_address("auto")


@pytest.mark.parametrize("command", ["sweep", "deploy", "serve"])
def test_every_command_refuses_the_address_before_it_reads_or_starts_anything(
    command: str, monkeypatch: pytest.MonkeyPatch, closed: str, write_sweep: Callable[..., object], tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", closed)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("whale_ray.serving.deployment.rollout.read_manifest", lambda bundle: {})
    monkeypatch.setattr("ray.init", lambda **options: pytest.fail("Ray was started"))
    commands = {
        "sweep": lambda: run_sweep(write_sweep(), runs=tmp_path),
        "deploy": lambda: deploy(tmp_path),
        "serve": lambda: serve_models(ServeSettings(bundle=tmp_path)),
    }
    with pytest.raises(InputError, match=rf"must answer at {closed} \(RAY_ADDRESS\)"):
        commands[command]()
    assert not list(tmp_path.iterdir())
