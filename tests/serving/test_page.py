"""The page and /docs in a real browser that is cut off from everything but the service."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import services
from pictures import draw
from playwright.sync_api import Page, Request, sync_playwright
from services import KEY, plain_server, web_service

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="a browser is needed: chromium")]


@pytest.fixture(scope="module")
def address(bundle: Path) -> Iterator[str]:
    with plain_server(web_service(bundle), services.locked()) as address:
        yield address


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    """A page of the browser; what it asks of anybody else than the service fails the test."""
    elsewhere: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith((address, "blob:", "data:")):
            elsewhere.append(request.url)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", note)
        yield page
        browser.close()
    assert not elsewhere


def test_the_page_exchanges_the_key_for_a_cookie_and_answers(page: Page, address: str, tmp_path: Path) -> None:
    draw(2, 0).save(tmp_path / "fluke.png")
    page.goto(address)
    page.set_input_files("#photographs", tmp_path / "fluke.png")
    page.get_by_role("button", name="Identify").click()
    page.get_by_text("needs the service's key").wait_for()
    page.fill("#key", KEY)
    page.get_by_role("button", name="Identify").click()
    page.get_by_text("Answered by tiny-00000000").wait_for()
    assert page.locator("tbody tr").count() == 5
    page.locator("tbody img").first.wait_for()
    assert page.input_value("#key") == ""
    assert page.evaluate("document.cookie") == ""
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert KEY not in cookie["value"]


def test_the_docs_open_with_the_pages_cookie_and_load_nothing_from_elsewhere(page: Page, address: str) -> None:
    page.goto(address)
    page.fill("#key", KEY)
    page.evaluate("enter()")
    page.goto(f"{address}/docs")
    page.get_by_text("/v1/identify").first.wait_for()
