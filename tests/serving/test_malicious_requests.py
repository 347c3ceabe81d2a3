"""Malicious and malformed requests, some generated from /openapi.json: none gets a 5xx."""

from __future__ import annotations

import dataclasses
import io
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis
from drawn_photographs import draw, encode
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from server_processes import free_port
from services import LIMITS, enrolment_server, process, serving
from test_routes_identify import check_problem

pytestmark = pytest.mark.integration

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module", params=["plain", pytest.param("on_ray", marks=pytest.mark.slow)])
def address(bundle: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the service listens: by itself, or behind Ray's proxy, which reads calls before it does."""
    folder = tmp_path_factory.mktemp("store")
    if request.param == "on_ray":  # one of its own: calls that are made up enrol and forget
        port = free_port()
        command = serving(bundle, port, **dataclasses.asdict(LIMITS), page=False)
        with process(*command, ready="/v1/identify", WHALE_RAY_STORE=f"sqlite:///{folder}/enrolled.db"):
            yield f"http://127.0.0.1:{port}"
        return
    with enrolment_server(bundle, folder) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address) as caller:
        yield caller
        assert caller.get("/healthz").status_code == 200


def test_calls_generated_from_openapi_get_documented_responses(address: str, client: httpx.Client) -> None:
    operations = [found.ok() for found in schemathesis.openapi.from_url(f"{address}/openapi.json").get_all_operations()]
    assert len(operations) >= 15
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def call(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS)

        call()


def raw(address: str, request: bytes, *, seconds: float = 5.0) -> bytes:
    """What comes back for these bytes."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(request)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except TimeoutError:
            pass
        return answer


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/examples/{}"), ("POST", "/v1/versions/{}/restore")], ids=["example", "version"]
)
def test_a_number_of_five_thousand_digits_is_a_400_problem(client: httpx.Client, method: str, path: str) -> None:
    check_problem(client.request(method, path.format("9" * 5000)), 400, "exceeded maximum size")


def test_ten_thousand_fields_are_refused_at_once(client: httpx.Client) -> None:
    body = (
        b"".join(b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n1\r\n' for _ in range(10_000)) + b"--x--"
    )
    began = time.monotonic()
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    check_problem(client.post("/v1/identify", content=body, headers=headers), 413, "Split it")
    assert time.monotonic() - began < 30


def test_an_endless_body_is_refused_at_the_limit(client: httpx.Client) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(10_000):  # 655 MB; the server's and the proxy's buffers take tens of them
            sent += 2**16
            yield bytes(2**16)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        answer = client.post("/v1/identify", content=endless(), headers={"Content-Type": "image/jpeg"})
        check_problem(answer, 413, "bytes")
    except httpx.TransportError:
        pass  # the connection was closed while this still wrote
    assert sent < 5_000 * 2**16
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize("length", [b"5", b"-1", b"1e9", b"99999999999999999999", b"0x10", b"+5", b"5, 6"])
def test_a_wrong_content_length_is_refused_or_cut(address: str, client: httpx.Client, length: bytes) -> None:
    request = b"POST /v1/identify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nConnection: close\r\n"
    answer = raw(address, request + b"Content-Length: " + length + b"\r\n\r\n" + b"x" * 50, seconds=3.0)
    assert not answer or answer.split()[1].startswith(b"4")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/images/../../bundle.json",
        "/v1/images/%2e%2e%2f%2e%2e%2fbundle.json",
        "/v1/images/..%5c..%5cbundle.json",
        "/v1/images//etc/passwd",
        "/v1/images/%00",
        "/v1/images/file:%2F%2F%2Fetc%2Fpasswd",
        "/docs/..%2f..%2fcontract.py",
        "/v1/individuals/%ff%fe",
        "/v1/individuals/" + "a" * 8000,
        "/v1/queries/..%2f..%2f/thumbnail",
        "//evil.example/v1/model",
    ],
)
def test_path_traversal_reaches_no_file(address: str, client: httpx.Client, path: str) -> None:
    answer = raw(address, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert answer.split()[1] in (b"404", b"400")
    assert b"root:" not in answer
    assert b"Traceback" not in answer


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "a\x00b", "a\r\nX-Evil: 1", "=cmd()", "<script>alert(1)</script>", "x" * 5000, "\ud83d"],
)
def test_a_misleading_file_name_is_only_echoed(client: httpx.Client, name: str) -> None:
    disposition = f'Content-Disposition: form-data; name="image"; filename="{name}"'.encode("utf-8", "surrogatepass")
    body = b"--x\r\n" + disposition + b"\r\n\r\n" + encode(draw(1, 0), "PNG") + b"\r\n--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    for accept in ("application/json", "text/csv"):
        answer = client.post("/v1/identify", content=body, headers={**headers, "Accept": accept})
        assert answer.status_code in (200, 400)
        assert "x-evil" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_no_header_can_be_injected_into_a_response(address: str, client: httpx.Client) -> None:
    for injected in (b"a\r\nX-Evil: 1", b"a%0d%0aX-Evil: 1", b"a\nX-Evil: 1"):
        request = (
            b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Request-Id: " + injected + b"\r\n\r\n"
        )
        head = raw(address, request).partition(b"\r\n\r\n")[0].lower()
        assert b"\nx-evil" not in head


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "x" * 5000]
)
def test_a_form_without_a_usable_boundary_is_a_problem(client: httpx.Client, kind: str) -> None:
    answer = client.post("/v1/identify", content=b"--x\r\n\r\n", headers={"Content-Type": kind})
    assert answer.status_code in (400, 413, 415)
    check_problem(answer, answer.status_code)


def test_a_polyglot_is_decoded_as_an_image_and_its_thumbnail_reencoded(client: httpx.Client) -> None:
    """A picture with a web page and an archive behind it: what comes back was drawn anew, and holds neither."""
    data = encode(draw(40, 0), "JPEG") + b"<script>alert(1)</script>PK\x03\x04"
    answer = client.post("/v1/individuals/w_40/images", content=data, headers={"Content-Type": "image/jpeg"}).json()
    thumbnail = client.get(f"/v1/images/{answer['images'][0]['image']}")
    assert (thumbnail.headers["content-type"], thumbnail.headers["x-content-type-options"]) == ("image/jpeg", "nosniff")
    assert b"script" not in thumbnail.content
    assert io.BytesIO(thumbnail.content).read(2) == b"\xff\xd8"
    client.delete("/v1/individuals/w_40")
