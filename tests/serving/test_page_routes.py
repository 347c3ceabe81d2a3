"""Routes and files of the web page: texts of both languages, content policy and public access."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest
import services
from drawn_photographs import draw, encode
from services import LIMITS, plain_server, web_service

from whale_ray.serving.page.languages import ASSETS, LANGUAGES

SCRIPTS = tuple(
    f"{name}.js" for name in ("answers", "api", "boxes", "dom", "matches", "page", "photographs", "texts", "waiting")
)


@pytest.fixture(scope="module")
def locked(bundle: Path) -> Iterator[str]:
    with plain_server(web_service(bundle), services.locked()) as address:
        yield address


def keys_of(texts: Mapping[str, object]) -> set[str]:
    return {*texts, *(f"refusals.{status}" for status in dict(texts["refusals"]))}  # type: ignore[call-overload]


def test_every_language_has_every_text_with_the_same_placeholders() -> None:
    english = LANGUAGES["en"]
    for texts in LANGUAGES.values():
        assert keys_of(texts) == keys_of(english)
        for key in english:
            places = [set(re.findall(r"\{\w+\}", str(one[key]))) for one in (texts, english)]
            assert places[0] == places[1], key


def test_the_page_uses_every_text_and_no_other() -> None:
    sources = [(ASSETS / name).read_text("utf-8") for name in (*SCRIPTS, "index.html.j2")]
    used = {name for source in sources for name in re.findall(r"\bwords\.(\w+)", source)}
    assert used == set(LANGUAGES["en"]) - {"language"}  # the switch shows it


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_is_public_and_allows_nothing_but_its_own_files(locked: str, language: str) -> None:
    answer = httpx.get(f"{locked}/page/{language}/")
    assert answer.status_code == 200
    assert f'<html lang="{language}" data-image-bytes="{LIMITS.image_bytes}">' in answer.text
    assert not re.findall(r"(?:https?:)?//[a-z]|\son\w+=|style=|<style|<script>", answer.text)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    files = re.findall(r'(?:src|href)="(/page/assets/[^"]+)"', answer.text)
    assert len(files) == 3
    for file in (*files, *(f"/page/assets/{name}" for name in (*SCRIPTS, f"{language}.json"))):
        found = httpx.get(f"{locked}{file}")
        assert found.status_code == 200
        assert found.headers["x-content-type-options"] == "nosniff"
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", found.text)


@pytest.mark.parametrize(
    "call",
    [
        "GET /v1/model",
        "GET /v1/session",
        "GET /v1/proposals",
        "GET /v1/proposals/1/thumbnail",
        "POST /v1/proposals/1/approve",
        "DELETE /v1/proposals/1",
        "GET /v1/queries",
        "GET /v1/queries/d1/thumbnail",
        "POST /v1/queries/d1/confirm",
        "DELETE /v1/queries/d1",
        "GET /v1/individuals/-",
        "GET /v1/examples",
        "GET /v1/examples/0",
        "GET /v1/images/w_00%2F0.jpg",
        "POST /v1/identify",
        "POST /v1/individuals/w_00/images",
        "POST /v1/session",
    ],
)
def test_no_call_of_the_page_is_answered_without_a_key(locked: str, call: str) -> None:
    method, _, path = call.partition(" ")
    answer = httpx.request(method, f"{locked}{path}", files={"image": b"x"} if method == "POST" else None)
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/page/de/",
        "/page/en/config",
        "/page/assets/index.html.j2",
        "/page/assets/..%2Froutes_page.py",
        "/page/assets/%2Fetc%2Fpasswd",
        "/page/en/gradio_api/file=/etc/passwd",
    ],
)
def test_unknown_page_paths_are_404(plain: str, path: str) -> None:
    answer = httpx.get(f"{plain}{path}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_page_accepts_get_only(plain: str) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert httpx.request(method, f"{plain}/page/en/").status_code == 405


@pytest.mark.parametrize("named", ["/etc/passwd", "https://example.org/a.jpg"])
def test_a_path_or_a_url_is_no_photograph(plain: str, named: str) -> None:
    answer = httpx.post(f"{plain}/v1/identify", files={"image": (None, named)})
    assert answer.status_code == 400
    assert "must be a file" in answer.json()["detail"]


def test_more_bytes_than_a_call_may_have_are_refused(plain: str) -> None:
    files = [("image", (f"{number}.jpg", bytes(300_000))) for number in range(8)]
    assert httpx.post(f"{plain}/v1/identify", files=files).status_code == 413


def test_other_origins_can_neither_call_nor_read_the_service(plain: str) -> None:
    for origin, host in (("https://evil.example", "192.0.2.7"), ("http://localhost:1", "127.0.0.1")):
        headers = {"Origin": origin, "Host": host}
        answer = httpx.get(f"{plain}/page/en/", headers=headers)
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert httpx.post(f"{plain}/v1/identify", files={"image": b"x"}, headers=headers).status_code == 403


def test_identified_photographs_are_not_stored(plain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    answer = httpx.post(f"{plain}/v1/identify", files={"image": encode(draw(1, 0), "PNG")})
    assert answer.status_code == 200
    assert list(tmp_path.iterdir()) == []
