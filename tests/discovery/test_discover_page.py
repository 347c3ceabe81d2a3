"""The review page by HTTP: access, answers, pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from threshold_grouping import COUNT, little_session

from whale_ray.discovery.review_server.app import build_review_app
from whale_ray.discovery.session import DiscoverySession

HOST = "http://127.0.0.1:8100"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[DiscoverySession]:
    with little_session(tmp_path) as session:
        yield session


@pytest.fixture
def stranger(session: DiscoverySession) -> TestClient:
    return TestClient(build_review_app(session, token="secret", person="<Ana>"), base_url=HOST)


@pytest.fixture
def page(stranger: TestClient) -> TestClient:
    stranger.get("/", params={"token": "secret"})
    return stranger


# Access


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/?token=wrong"),
        ("GET", "/state"),
        ("GET", "/assets/page.js"),
        ("GET", "/pictures/0"),
        ("GET", "/matches/0/1"),
        ("POST", "/answers"),
        ("POST", "/undo"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
    ],
)
def test_nothing_is_shown_without_the_token(stranger: TestClient, method: str, path: str) -> None:
    answer = stranger.request(method, path)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert "whale-ray discover" in answer.json()["detail"]


def test_the_token_becomes_a_strict_cookie_and_leaves_the_address(stranger: TestClient) -> None:
    answer = stranger.get("/?token=secret", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=strict" in answer.headers["set-cookie"]
    assert stranger.get("/").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.evil.example:8100"])
def test_a_foreign_host_is_refused(page: TestClient, host: str) -> None:
    assert page.get("/state", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": f"{HOST}1"}],
)
def test_a_page_of_another_site_changes_nothing(
    page: TestClient, session: DiscoverySession, headers: dict[str, str]
) -> None:
    body = {"first": 0, "second": 1, "verdict": "same", "person": ""}
    assert page.post("/answers", json=body, headers=headers).status_code == 403
    assert session.log.valid == []


@pytest.mark.parametrize("path", ["/", "/state", "/pictures/0", "/nothing"])
def test_every_response_has_a_strict_policy(page: TestClient, path: str) -> None:
    headers = page.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


# Content


def test_the_page_escapes_names(page: TestClient) -> None:
    assert "&lt;Ana&gt;" in page.get("/").text


def test_the_state_says_what_to_ask(page: TestClient) -> None:
    state = page.get("/state").json()
    assert (state["photographs"], state["clusters"], state["singletons"], state["answers"]) == (5, 5, 5, 0)
    assert state["questions"][0]["first"] == {
        "row": 0, "image": "0<b>.png", "name": "Ada", "size": 1, "mates": [],
    }  # fmt: skip


def test_an_answer_is_on_the_disk_and_its_pair_is_asked_no_more(page: TestClient, session: DiscoverySession) -> None:
    body = {"first": 0, "second": 1, "verdict": "different", "person": "Ana"}
    state = page.post("/answers", json=body).json()
    saved = json.loads(session.folder.answers.read_text())
    assert (saved["first"], saved["second"], saved["answer"], saved["person"]) == (
        "0<b>.png", "1<b>.png", "different", "Ana",
    )  # fmt: skip
    assert state["last"]["number"] == 1
    assert (state["questions"][0]["first"]["row"], state["questions"][0]["second"]["row"]) == (0, 2)


def test_an_undo_asks_the_pair_again(page: TestClient, session: DiscoverySession) -> None:
    page.post("/answers", json={"first": 0, "second": 1, "verdict": "different", "person": "Ana"})
    page.post("/undo", json={"number": 1, "person": "Ana"})
    session.wait()
    state = page.get("/state").json()
    assert (state["last"], state["answers"]) == (None, 0)
    assert (state["questions"][0]["first"]["row"], state["questions"][0]["second"]["row"]) == (0, 1)


def test_a_contradiction_names_the_answers_that_can_be_taken_back(page: TestClient, session: DiscoverySession) -> None:
    first, second = session.images[1:3]
    session.add_answers([(first, second, "same", "Ana"), (second, first, "different", "Ben")])
    (found,) = page.get("/state").json()["contradictions"]
    assert [(one["number"], one["verdict"], one["person"]) for one in found["answers"]] == [
        (1, "same", "Ana"),
        (2, "different", "Ben"),
    ]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/answers", {"first": 0, "second": COUNT, "verdict": "same", "person": ""}, 422),
        ("/answers", {"first": 0, "second": 0, "verdict": "same", "person": ""}, 422),
        ("/answers", {"first": 0, "second": 1, "verdict": "perhaps", "person": ""}, 422),
        ("/answers", {"first": 0, "second": 1, "verdict": "same", "person": "x" * 999}, 422),
        ("/answers", {"first": "zero"}, 422),
        ("/undo", {"number": 1, "person": ""}, 404),
    ],
)
def test_a_call_that_makes_no_sense_is_refused(
    page: TestClient, session: DiscoverySession, path: str, body: dict[str, object], status: int
) -> None:
    answer = page.post(path, json=body)
    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert "Reload the page" in answer.json()["detail"]
    assert not session.folder.answers.exists()


# Pictures


def test_photographs_and_pairs_are_pictures(page: TestClient) -> None:
    for path in ("/pictures/0", "/pictures/0?small=true", "/matches/0/1"):
        answer = page.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg"), path
        assert answer.content.startswith(b"\xff\xd8")
    assert page.get("/matches/0/0").headers["x-inliers"].isdigit()


@pytest.mark.parametrize("path", [f"/pictures/{COUNT}", "/pictures/-1", f"/matches/0/{COUNT}", "/assets/nothing.js"])
def test_a_picture_that_does_not_exist_is_refused(page: TestClient, path: str) -> None:
    assert page.get(path).status_code == 404


def test_a_photograph_that_disappears_is_shown_as_such(page: TestClient, session: DiscoverySession) -> None:
    (session.catalog.folder / session.images[0]).unlink()
    assert page.get("/pictures/0").content.startswith(b"\xff\xd8")
    assert page.get("/matches/0/1").status_code == 422
