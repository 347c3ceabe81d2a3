"""Authentication and access log: keys, scopes, sessions, rate limits, hosts, origins and request IDs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from itsdangerous import TimestampSigner
from services import KEY, enrolment_server, plain_server, web_service
from test_routes_gallery import enrol, photograph
from test_routes_identify import check_problem
from waiting import wait_until

from whale_ray.errors import InputError
from whale_ray.serving.auth.access_control import AccessPolicy
from whale_ray.serving.auth.api_keys import SCOPES, ApiKeys, read_keys
from whale_ray.serving.auth.rate_limit import RateLimiter
from whale_ray.serving.auth.sessions import COOKIE, SESSION_SECONDS, create_session, find_session_key
from whale_ray.serving.deployment.host_and_port_checks import check_exposure
from whale_ray.serving.http.access_log import open_access_log

IDENTIFY_KEY, ENROL_KEY, BOTH_KEY = "identify-identify-identify", "enrol-enrol-enrol-enrol", "both-both-both-both"
HERE = "http://127.0.0.1"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(
        f"# who, what, key\nboat identify {IDENTIFY_KEY}\n\noffice enrol {ENROL_KEY}\nlead identify,enrol {BOTH_KEY}\n"
    )
    file.chmod(0o600)
    return file


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "access.log"


@pytest.fixture(scope="module")
def address(bundle: Path, keys: Path, log: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    policy = AccessPolicy(read_keys(keys, None), frozenset({"whales.example"}), 0, str(log))
    with enrolment_server(bundle, tmp_path_factory.mktemp("store"), policy) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address) as caller:
        yield caller


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def identify(client: httpx.Client, **headers: str) -> httpx.Response:
    body = photograph(1)
    return client.post("/v1/identify", content=body, headers={"Content-Type": "image/png", **headers})


@pytest.mark.integration
def test_a_key_allows_the_calls_of_its_scopes_only(client: httpx.Client) -> None:
    client.headers = httpx.Headers(bearer(IDENTIFY_KEY))
    assert identify(client).status_code == 200
    assert client.get("/v1/versions").status_code == 200
    check_problem(enrol(client, "w_40", photograph(40)), 403, "scope `enrol`")
    check_problem(client.delete("/v1/individuals/w_01"), 403, "scope `enrol`")
    check_problem(client.post("/v1/versions/0/restore"), 403, "scope `enrol`")
    check_problem(client.get("/v1/queries"), 403, "scope `enrol`")
    client.headers = httpx.Headers(bearer(ENROL_KEY))
    check_problem(identify(client), 403, "scope `identify`")
    assert client.get("/v1/queries").status_code == 200
    assert enrol(client, "w_40", photograph(40)).status_code == 200
    client.headers = httpx.Headers(bearer(BOTH_KEY))
    assert identify(client).status_code == 200
    assert client.delete("/v1/individuals/w_40").status_code == 200


def test_a_session_cookie_is_http_only_and_same_site(client: httpx.Client) -> None:
    check_problem(client.post("/v1/session"), 401, "Authorization: Bearer")
    answer = client.post("/v1/session", headers=bearer(IDENTIFY_KEY))
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/", f"Max-Age={SESSION_SECONDS}"} <= set(cookie.split("; "))
    assert IDENTIFY_KEY not in cookie
    assert identify(client).status_code == 200
    check_problem(client.delete("/v1/individuals/w_01"), 403, "scope `enrol`")
    assert client.delete("/v1/session").status_code == 204
    check_problem(identify(client), 401, "API key is required")


def test_a_session_tells_what_its_key_may_do(client: httpx.Client, plain: str) -> None:
    check_problem(client.get("/v1/session"), 401, "Authorization: Bearer")
    found = client.get("/v1/session", headers=bearer(IDENTIFY_KEY)).json()
    assert found == {"key": "boat", "scopes": ["identify"], "enrolments": True, "review_queue": True}
    assert client.get("/v1/session", headers=bearer(ENROL_KEY)).json()["scopes"] == ["enrol"]
    with httpx.Client(base_url=plain) as keyless:
        found = keyless.get("/v1/session").json()
    assert found == {"key": None, "scopes": list(SCOPES), "enrolments": False, "review_queue": False}


def test_a_session_expires_and_cannot_be_forged(
    client: httpx.Client, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = read_keys(keys, None)
    key = known.find(IDENTIFY_KEY)
    assert key is not None
    now = 1_000_000
    with monkeypatch.context() as clock:
        clock.setattr(TimestampSigner, "get_timestamp", lambda signer: now)
        session = create_session(key)
        now += SESSION_SECONDS
        assert find_session_key(session, known) == key
        now += 1
        assert find_session_key(session, known) is None
        now -= 100
        payload, issued, signature = session.split(".")
        later = create_session(key).split(".")[1]
        assert later != issued
        assert find_session_key(f"{payload}.{later}.{signature}", known) is None
        assert find_session_key(session, ApiKeys(known.keys[1:])) is None
    forged = (
        "",
        ".",
        "x",
        f"{payload}.{issued}",
        f"{payload}.{issued}.{'0' * 43}",
        f"{payload}.é.{signature}",
        session,
    )
    for token in forged:
        client.cookies.set(COOKIE, token.encode("ascii", "replace").decode())
        assert identify(client).status_code == 401


@pytest.mark.parametrize(
    "origin",
    ["null", "https://evil.example", "http://127.0.0.1.evil.example", "http://localhost", "http://127.0.0.1:1"],
)
def test_cross_origin_calls_are_refused_whatever_their_key(client: httpx.Client, plain: str, origin: str) -> None:
    client.headers = httpx.Headers({**bearer(BOTH_KEY), "Origin": origin})
    for answer in (
        enrol(client, "w_40", photograph(40)),
        client.delete("/v1/individuals/w_01"),
        client.post("/v1/versions/0/restore"),
        client.post("/v1/session"),
        identify(client),
    ):
        check_problem(answer, 403, "only the service's own page")
    with httpx.Client(base_url=plain) as keyless:  # and where there is no key at all
        check_problem(identify(keyless, Origin=origin), 403, "only the service's own page")
        check_problem(identify(keyless, **{"Sec-Fetch-Site": "cross-site"}), 403, "only the service's own page")


def test_same_origin_calls_are_accepted_behind_a_proxy(client: httpx.Client) -> None:
    client.headers = httpx.Headers(bearer(BOTH_KEY))
    port = client.base_url.port
    assert identify(client, Origin=f"{HERE}:{port}").status_code == 200
    assert identify(client, Origin="https://whales.example", Host="whales.example").status_code == 200
    assert identify(client, **{"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_an_unknown_host_is_refused_against_dns_rebinding(client: httpx.Client) -> None:
    client.headers = httpx.Headers(bearer(BOTH_KEY))
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""):
        check_problem(client.get("/v1/model", headers={"Host": host}), 421, "hosts=NAME")
    for host in ("localhost:8000", "[::1]:8000", "192.0.2.7", "WHALES.example"):
        assert client.get("/v1/model", headers={"Host": host}).status_code == 200
    assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 200


def test_responses_have_no_cors_headers(client: httpx.Client) -> None:
    headers = {**bearer(BOTH_KEY), "Origin": "https://evil.example"}
    asked = client.options("/v1/identify", headers={**headers, "Access-Control-Request-Method": "POST"})
    for answer in (asked, client.get("/v1/model", headers=headers)):
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_valid_request_id_is_kept_and_others_are_replaced(client: httpx.Client) -> None:
    client.headers = httpx.Headers(bearer(BOTH_KEY))
    assert client.get("/v1/model", headers={"X-Request-Id": "boat-7.a_B"}).headers["x-request-id"] == "boat-7.a_B"
    made = set()
    for strange in (None, "", "a b", "x" * 65, "a;b", "é", '"}{"'):
        headers = {} if strange is None else {"X-Request-Id": strange.encode()}
        made.add(client.get("/nowhere", headers=headers).headers["x-request-id"])
    assert len(made) == 7
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


def wait_for_line(log: Path, request_id: str) -> None:
    """The line is written after the answer is sent."""
    wait_until(lambda: log.exists() and request_id in log.read_text())


def test_the_access_log_continues_in_a_new_file_after_rotation(client: httpx.Client, log: Path) -> None:
    client.get("/healthz", headers={"X-Request-Id": "before-rotation"})
    wait_for_line(log, "before-rotation")
    rotated = log.rename(log.with_suffix(".1"))
    client.get("/healthz", headers={"X-Request-Id": "after-rotation"})
    wait_for_line(log, "after-rotation")
    assert "after-rotation" not in rotated.read_text()


def test_an_access_log_that_cannot_be_written_is_refused_at_startup(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"access_log must be .* a writable file"):
        open_access_log(str(tmp_path / "nowhere" / "access.log"))


def test_the_access_log_has_one_line_per_call_without_keys_or_content(client: httpx.Client, log: Path) -> None:
    client.headers = httpx.Headers({**bearer(BOTH_KEY), "X-Request-Id": "of-the-log"})
    identify(client)
    client.get("/v1/images/nothing%09here?secret=1")
    client.post("/v1/session")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    asked, refused = [line for line in lines if line["request_id"] == "of-the-log"][:2]
    assert set(asked) == {
        "at", "request_id", "method", "path", "route", "status", "seconds", "key", "client",
    }  # fmt: skip
    assert (asked["method"], asked["path"], asked["status"], asked["key"]) == ("POST", "/v1/identify", 200, "lead")
    assert (refused["route"], refused["status"]) == ("/v1/images/{image:path}", 400)
    text = log.read_text()
    for secret in (IDENTIFY_KEY, ENROL_KEY, BOTH_KEY, "secret=1", "PNG", COOKIE):
        assert secret not in text


def test_an_unauthorized_call_is_logged_with_its_route(client: httpx.Client, log: Path) -> None:
    addresses = {
        "/v1/identify": "/v1/identify",
        "/v1/individuals/w_01/images": "/v1/individuals/{id:path}/images",
        "/v1/images/one/two.jpg": "/v1/images/{image:path}",
        "/v1/nowhere": "nowhere",
    }
    for _ in range(2):
        for address in addresses:
            assert client.post(address, headers={"X-Request-Id": "no-key"}).status_code == 401
    wait_until(lambda: log.read_text().count("no-key") >= 2 * len(addresses))  # a line is written after its answer
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["route"] for line in lines if line["request_id"] == "no-key"] == list(addresses.values()) * 2


def test_calls_above_the_rate_get_429_with_retry_after(bundle: Path, keys: Path) -> None:
    policy = AccessPolicy(read_keys(keys, None), calls_per_minute=3)
    with plain_server(web_service(bundle), policy) as address, httpx.Client(base_url=address) as client:
        answers = [client.get("/v1/model", headers=bearer(IDENTIFY_KEY)) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        check_problem(answers[-1], 429, "Retry-After")
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
        assert client.get("/v1/model", headers=bearer(BOTH_KEY)).status_code == 200
        assert client.get("/healthz").status_code == 200


def test_the_rate_limit_refills_with_time() -> None:
    now = 0.0
    limiter = RateLimiter(60, clock=lambda: now)
    assert [limiter.wait_seconds("a") for _ in range(61)][-2:] == [0.0, 1.0]
    now = 0.5
    assert limiter.wait_seconds("a") == pytest.approx(0.5)
    now = 1.0
    assert limiter.wait_seconds("a") == 0.0
    now = 1000.0
    assert [limiter.wait_seconds("a") for _ in range(61)][-2:] == [0.0, 1.0]
    assert not any(RateLimiter(0).wait_seconds("a") for _ in range(1000))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("boat identify", r"line 1: .* 2 words"),
        ("# none\n", r"the file has no key"),
        (f"boat read {KEY.replace(' ', '')}", r"scope must be one of identify, propose, enrol"),
        ("boat identify short", r"line 1: the key of boat must have at least 16"),
        (f"a identify {IDENTIFY_KEY}\na enrol {BOTH_KEY}", r"the name 'a' occurs twice"),
    ],
)
def test_an_invalid_keys_file_is_refused_without_a_key_in_the_message(tmp_path: Path, text: str, fault: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(InputError, match=fault) as caught:
        read_keys(file, None)
    assert not any(key in str(caught.value) for key in (IDENTIFY_KEY, BOTH_KEY, KEY.replace(" ", ""), "short"))


def test_a_keys_file_readable_by_others_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"a identify {IDENTIFY_KEY}")
    file.chmod(0o644)
    with pytest.raises(InputError, match=r"chmod 600"):
        read_keys(file, None)
    with pytest.raises(InputError, match=r"must be a readable text file"):
        read_keys(tmp_path / "nothing", None)


def test_a_short_key_in_the_environment_is_refused() -> None:
    with pytest.raises(InputError, match=r"at least 16 characters.*openssl"):
        read_keys(None, "whale")


def test_an_exposed_service_needs_keys_unless_insecure_is_set() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "whales.example"):
        with pytest.raises(InputError, match=r"needs a key.*--insecure"):
            check_exposure(["127.0.0.1", host], keyless=True, insecure=False)
        check_exposure([host], keyless=True, insecure=True)
        check_exposure([host], keyless=False, insecure=False)
    check_exposure(["127.0.0.1", "::1", "localhost"], keyless=True, insecure=False)
