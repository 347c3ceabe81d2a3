"""The review page in a real browser: keys, undo, contradictions, a phone."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright
from threshold_grouping import COUNT, little_session

from whale_ray.discovery.review_server.app import build_review_app
from whale_ray.discovery.session import DiscoverySession

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="a browser is needed: chromium")]
PHONE = {"width": 360, "height": 740}
expect.set_options(timeout=120_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def session(tmp_path: Path) -> Iterator[DiscoverySession]:
    with little_session(tmp_path) as session:
        yield session


@pytest.fixture
def page(browser: Browser, session: DiscoverySession) -> Iterator[Page]:
    """The page of a session; an error of a script or of the policy fails the test."""
    app = build_review_app(session, token="secret", person="Ana")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    errors: list[str] = []
    context = browser.new_context()
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda one: errors.append(one.text) if one.type == "error" else None)
    page.goto(f"http://127.0.0.1:{port}/?token=secret")
    expect(page.locator("#first img").first).to_be_visible()
    yield page
    context.close()
    server.should_exit = True
    thread.join()
    assert not errors


def verdicts(session: DiscoverySession) -> list[tuple[str, str, str]]:
    return [(one.first[0], one.second[0], one.verdict) for one in session.log.valid]


def test_keys_answer_undo_and_move(page: Page, session: DiscoverySession) -> None:
    assert "token" not in page.url
    progress, first, second = page.locator("#progress"), page.locator("#first"), page.locator("#second")
    for count, (key, shown) in enumerate([("s", "2<b>.png"), ("d", "3<b>.png"), ("n", "4<b>.png")], start=1):
        page.keyboard.press(key)
        expect(progress).to_contain_text(f"{count} answer")
        expect(second.locator("figcaption")).to_contain_text(shown)
    assert verdicts(session) == [("0", "1", "same"), ("0", "2", "different"), ("0", "3", "cannot tell")]
    assert session.log.valid[0].person == "Ana"
    page.keyboard.press("u")
    expect(progress).to_contain_text("2 answers")
    expect(second.locator("figcaption")).to_contain_text("3<b>.png")
    page.keyboard.press("ArrowRight")
    expect(second.locator("figcaption")).to_contain_text("4<b>.png")
    page.keyboard.press("ArrowLeft")
    expect(second.locator("figcaption")).to_contain_text("3<b>.png")
    expect(first.locator("img").first).to_have_attribute("alt", "0<b>.png")
    expect(page.locator("#matches figcaption")).to_contain_text("matched keypoint")


def test_keys_in_the_field_of_the_name_are_letters(page: Page, session: DiscoverySession) -> None:
    page.locator("#person").fill("")
    page.locator("#person").press_sequentially("Dunns Und")
    expect(page.locator("#person")).to_have_value("Dunns Und")
    page.locator("h1").click()
    page.get_by_role("button", name="Same animal").click()
    expect(page.locator("#progress")).to_contain_text("1 answer saved")
    assert [one.person for one in session.log.valid] == ["Dunns Und"]


def test_a_contradiction_is_shown_and_taken_back(page: Page, session: DiscoverySession) -> None:
    first, second = session.images[1:3]
    session.add_answers([(first, second, "same", "Ben"), (second, first, "different", "Eva")])
    page.reload()
    section = page.get_by_role("region", name="Contradictions")
    expect(section).to_contain_text("Eva")
    section.get_by_role("button").last.click()
    expect(section).to_be_hidden()
    assert verdicts(session) == [("1", "2", "same")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_its_buttons_have_names(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.evaluate("[...document.images].filter(one => one.src && !one.alt).length") == 0
    for name in ("Same animal", "Different animals", "Cannot tell, skip"):
        expect(page.get_by_role("button", name=name)).to_be_in_viewport()


def test_the_end_is_said(page: Page, session: DiscoverySession) -> None:
    for first in range(COUNT):
        for second in range(first + 1, COUNT):
            session.answer(first, second, "different", person="")
    session.wait()
    page.reload()
    expect(page.get_by_role("heading", name="No pair is left to ask")).to_be_visible()
