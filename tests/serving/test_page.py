"""The page and /docs in a real browser that is cut off from everything but the service."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import services
from pictures import INDIVIDUALS, draw
from playwright.sync_api import Browser, FileChooser, Page, Request, Route, TimeoutError, sync_playwright
from services import KEY, Running, plain_server, web_service

from whale_ray.retrieval.evaluation.calibration import Calibration, LogisticModel
from whale_ray.serving.auth.api_keys import read_keys
from whale_ray.serving.auth.scopes import AccessPolicy
from whale_ray.serving.gallery.store import EnrolmentStore
from whale_ray.serving.page import gradio_guard

CHROMIUM = shutil.which("chromium")
CUT_OFF = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="a browser is needed: chromium")]
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def address(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = EnrolmentStore(f"sqlite:///{tmp_path_factory.mktemp('page')}/enrolled.db")
    with plain_server(web_service(bundle, store=store), page=True) as address:
        yield address


@pytest.fixture(scope="module")
def locked(bundle: Path) -> Iterator[str]:
    with plain_server(web_service(bundle), services.locked(), page=True) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", CUT_OFF])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of the browser; what it asks of anybody else than this machine fails the test."""
    elsewhere: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "blob:", "data:")):
            elsewhere.append(request.url)

    context = browser.new_context(locale="en-GB", permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.on("request", note)
    yield page
    context.close()
    assert not elsewhere


def photograph(folder: Path, *, individual: int = 2, view: int = 0, name: str = "fluke.png") -> Path:
    draw(individual, view).save(folder / name)
    return folder / name


def ask(page: Page, *photographs: Path) -> None:
    page.set_input_files("input[type=file]", photographs)
    page.get_by_role("button", name=f"Thumbnail {len(photographs)} of {len(photographs)}").wait_for()
    page.get_by_role("button", name="Identify").click()
    page.locator(".answer").nth(len(photographs) - 1).wait_for()


def said(page: Page, text: str) -> None:
    """Waits until the page says this where screen readers read it aloud."""
    page.get_by_role("status").get_by_text(text).first.wait_for()


def loaded(page: Page, pictures: str) -> bool:
    """Whether each of these pictures is there, with words for readers that cannot see it."""
    found = page.locator(pictures)
    found.last.evaluate("picture => picture.decode()")
    return all(one.evaluate("picture => picture.naturalWidth > 0 && picture.alt.length > 3") for one in found.all())


def test_the_matches_stand_with_their_pictures_beside_the_photograph(page: Page, address: str, tmp_path: Path) -> None:
    page.goto(address)
    assert page.url == f"{address}/page/en/"
    ask(page, photograph(tmp_path))
    said(page, "Answered by tiny-00000000")
    answer = httpx.post(f"{address}/v1/identify", content=photograph(tmp_path).read_bytes()).json()["results"][0]
    known = f"Probably known: {answer['candidates'][0]['individual']}"
    new = answer["new_individual"]["decision"] == "new"
    page.get_by_role("heading", name="Probably a new individual" if new else known).wait_for()
    page.locator(".match").nth(4).wait_for()
    assert page.locator(".match").count() == 5
    assert loaded(page, ".query img, .match img")
    yours, match = (page.locator(f"{kind} img").first.bounding_box() for kind in (".query", ".match"))
    assert yours
    assert match
    assert yours["x"] + yours["width"] <= match["x"]
    assert abs(yours["y"] - match["y"]) < 20


def test_each_of_several_photographs_has_its_answer_or_its_problem(page: Page, address: str, tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(photograph(tmp_path).read_bytes()[:200])
    page.goto(address)
    ask(page, photograph(tmp_path), tmp_path / "torn.png")
    page.locator(".answer").nth(0).locator(".match").nth(4).wait_for()
    assert page.locator(".answer").nth(1).locator(".match").count() == 0
    assert "the picture is damaged" in page.locator(".answer").nth(1).locator(".problem").inner_text()


def test_whoever_is_confirmed_is_enrolled_and_found_by_the_next_question(
    page: Page, address: str, tmp_path: Path
) -> None:
    page.goto(address)
    ask(page, photograph(tmp_path, view=7))
    page.get_by_role("button", name=f"Yes, this is {INDIVIDUALS[2]}").click()
    said(page, f"fluke.png is enrolled as {INDIVIDUALS[2]}")
    page.locator(".said").wait_for()
    assert page.locator(".match").count() == 0
    page.get_by_role("button", name="Identify").click()
    page.locator(".match").first.wait_for()
    first = page.locator(".match").first.inner_text()
    assert INDIVIDUALS[2] in first
    assert float(re.findall(r"distance ([\d.e-]+)", first)[0]) < 1e-3
    assert loaded(page, ".match img")


def test_whoever_is_rejected_leaves_the_list_and_the_gallery_as_it_is(page: Page, address: str, tmp_path: Path) -> None:
    before = httpx.get(f"{address}/v1/model").json()["images"]
    page.goto(address)
    ask(page, photograph(tmp_path, individual=1))
    page.get_by_role("button", name=f"No, not {INDIVIDUALS[1]}").click()
    said(page, f"{INDIVIDUALS[1]} is struck off")
    page.get_by_role("heading", name=f"You say: not {INDIVIDUALS[1]}").wait_for()
    assert page.locator(".match").count() == 4
    assert httpx.get(f"{address}/v1/model").json()["images"] == before


def test_a_new_individual_is_enrolled_by_the_name_that_is_typed(page: Page, address: str, tmp_path: Path) -> None:
    page.goto(address)
    ask(page, photograph(tmp_path, individual=3, view=9))
    page.get_by_role("button", name="Enrol as new").click()
    said(page, "Type a name for the new individual first")
    page.get_by_role("textbox", name="A name for a new individual").fill("a/b")
    page.get_by_role("button", name="Enrol as new").click()
    said(page, "without a slash")
    page.get_by_role("textbox", name="A name for a new individual").fill("<i>Freya *&* 'Bo'")
    page.keyboard.press("Enter")
    said(page, "fluke.png is enrolled as <i>Freya *&* 'Bo'")
    page.get_by_role("button", name="Identify").click()
    page.locator(".match").filter(has_text="Freya").first.wait_for()  # the answers before may still stand
    assert "<i>Freya *&* 'Bo'" in page.locator(".match").first.inner_text()
    assert page.locator(".match i").count() == 0


def test_a_name_that_was_never_touched_is_asked_for(page: Page, address: str, tmp_path: Path) -> None:
    def untouched(route: Route) -> None:
        asked = route.request.post_data_json
        asked["data"] = [None if value == "" else value for value in asked["data"]]  # as Gradio sends it now and then
        route.continue_(post_data=json.dumps(asked))

    page.goto(address)
    ask(page, photograph(tmp_path, individual=3, view=10))
    page.route("**/queue/join*", untouched)
    page.get_by_role("button", name="Enrol as new").click()
    said(page, "Type a name for the new individual first")


def test_everything_is_reached_by_keyboard(page: Page, address: str, tmp_path: Path) -> None:
    page.goto(address)
    page.get_by_text("Examples of this model").wait_for()  # all of the page is at work
    chosen_by_enter(page).set_files(photograph(tmp_path, view=11))
    page.get_by_role("button", name="Thumbnail 1 of 1").wait_for()
    press(page, "Identify")
    page.locator(".match").first.wait_for()
    press(page, f"Yes, this is {INDIVIDUALS[2]}")
    said(page, "is enrolled as")


def chosen_by_enter(page: Page) -> FileChooser:
    """What opens where Enter is pressed on the place for photographs; Gradio may still lay that out anew."""
    for _ in range(5):
        page.get_by_role("button", name="Click to upload or drop files").last.focus()
        try:
            with page.expect_file_chooser(timeout=4000) as chooser:
                page.keyboard.press("Enter")
        except TimeoutError:
            continue
        return chooser.value
    raise AssertionError("no file can be chosen by keyboard")


def press(page: Page, name: str) -> None:
    """Goes on by Tab until the button of this name has the focus, then presses Enter."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText")[:60].strip() == name:
            page.keyboard.press("Enter")
            return
    raise AssertionError(f"{name} is not reached")


def test_a_photograph_is_pasted(page: Page, address: str) -> None:
    page.goto(address)
    paste = page.get_by_role("button", name="Paste from Clipboard")
    paste.wait_for()
    page.evaluate(
        """async () => {
          const canvas = Object.assign(document.createElement('canvas'), {width: 80, height: 60});
          canvas.getContext('2d').fillRect(10, 10, 30, 20);
          const blob = await new Promise(done => canvas.toBlob(done, 'image/png'));
          await navigator.clipboard.write([new ClipboardItem({'image/png': blob})]);
        }"""
    )
    paste.click()
    page.get_by_role("button", name="Thumbnail 1 of 1").wait_for()
    page.get_by_role("button", name="Identify").click()
    page.locator(".match").first.wait_for()


def test_a_photograph_is_dropped(page: Page, address: str, tmp_path: Path) -> None:
    page.goto(address)
    there = page.locator("button:has(input[type=file])")
    there.wait_for()
    dropped = page.evaluate_handle(
        """data => {
          const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], 'fluke.png', {type: 'image/png'}));
          return transfer;
        }""",
        base64.b64encode(photograph(tmp_path).read_bytes()).decode(),
    )
    there.dispatch_event("drop", {"dataTransfer": dropped})
    page.get_by_role("button", name="Thumbnail 1 of 1").wait_for()
    page.get_by_role("button", name="Identify").click()
    page.locator(".match").first.wait_for()


def test_the_model_that_is_chosen_answers(page: Page, bundle: Path, tmp_path: Path) -> None:
    second = web_service(bundle, name="second")
    second.bundle.id = "another-00000001"
    with plain_server(web_service(bundle), page=True, second=second) as address:
        page.goto(address)
        page.get_by_role("radio", name="second").check()
        ask(page, photograph(tmp_path))
        said(page, "Answered by another-00000001")
        page.get_by_role("radio", name="default").check()
        page.get_by_role("button", name="Identify").click()
        said(page, "Answered by tiny-00000000")


def test_an_animal_that_is_probably_new_is_called_so_with_the_probability(
    page: Page, bundle: Path, tmp_path: Path
) -> None:
    service = web_service(bundle)
    service.bundle.threshold = 0.9999999  # random weights: all are near
    service.bundle.calibration = Calibration(LogisticModel(-1.0, 0.0, 0.0, 0.0), LogisticModel(1.0, 0.0, 0.0, 0.0))
    with plain_server(service, page=True) as address:
        page.goto(address)
        ask(page, photograph(tmp_path, individual=40))
        page.get_by_role("heading", name="Probably a new individual").wait_for()
        page.get_by_text("Probability that it is new: 73 %").wait_for()
        page.locator(".match").first.get_by_text("27 %").wait_for()


def test_a_decision_that_is_less_probable_than_not_is_called_a_perhaps(
    page: Page, bundle: Path, tmp_path: Path
) -> None:
    """Scores decide, by the threshold that was best for them; that may be against the odds, which is to be seen."""
    service = web_service(bundle)
    service.bundle.calibration = Calibration(LogisticModel(-1.0, 0.0, 0.0, 0.0), LogisticModel(-1.0, 0.0, 0.0, 0.0))
    with plain_server(service, page=True) as address:
        for threshold, verdict in ((1.1, "Not sure: perhaps a new individual"), (0.0, "Not sure: perhaps w_01")):
            service.bundle.threshold = threshold
            page.goto(address)
            ask(page, photograph(tmp_path, individual=1))
            page.get_by_role("heading", name=verdict).wait_for()
            page.get_by_text("Probability that it is new: 27 %").wait_for()


def test_an_example_of_the_bundle_is_tried(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_text(INDIVIDUALS[0]).wait_for()
    page.get_by_role("button", name="Thumbnail 1 of 2").click()
    page.get_by_role("button", name="Thumbnail 1 of 1").wait_for()
    page.get_by_role("button", name="Identify").click()
    page.locator(".match").first.wait_for()
    assert loaded(page, ".match img")


def test_a_narrow_phone_shows_all_of_it(page: Page, address: str, tmp_path: Path) -> None:
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page.goto(address)
    ask(page, photograph(tmp_path))
    assert loaded(page, ".match img")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_it_speaks_russian_to_those_whose_browser_does(browser: Browser, address: str, tmp_path: Path) -> None:
    context = browser.new_context(locale="ru-RU")
    page = context.new_page()
    page.goto(address)
    assert page.url == f"{address}/page/ru/"
    page.get_by_role("heading", name="Кто этот кит?").wait_for()
    (tmp_path / "torn.png").write_bytes(photograph(tmp_path).read_bytes()[:200])
    page.set_input_files("input[type=file]", [photograph(tmp_path), tmp_path / "torn.png"])
    page.get_by_role("button", name="Определить").click()
    page.get_by_role("heading", name="Вероятно").wait_for()
    problem = page.locator(".answer .problem").inner_text()
    assert problem.startswith("Файл повреждён или пуст.")
    assert "the picture is damaged" in problem
    assert page.evaluate("document.documentElement.lang") == "ru"
    page.get_by_role("link", name="English").click()
    page.get_by_role("heading", name="Which whale is this?").wait_for()
    context.close()


def test_the_key_is_exchanged_for_a_cookie_that_no_script_can_read(page: Page, locked: str, tmp_path: Path) -> None:
    page.goto(locked)
    page.get_by_label("Key").fill("another key")
    page.get_by_role("button", name="Enter").click()
    page.get_by_text("That is not a key of this service").wait_for()
    page.get_by_label("Key").fill("ключ")
    page.get_by_role("button", name="Enter").click()
    page.get_by_text("That is not a key of this service").wait_for()
    page.get_by_label("Key").fill(KEY)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Identify").wait_for()
    ask(page, photograph(tmp_path))
    assert loaded(page, ".match img")
    assert page.evaluate("document.cookie") == ""
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert KEY not in cookie["value"]
    page.goto(f"{locked}/docs")
    page.get_by_text("/v1/identify").first.wait_for()


@pytest.mark.parametrize(
    "call", ["GET config", "POST gradio_api/upload", "POST gradio_api/queue/join", "GET gradio_api/queue/data"]
)
def test_nothing_behind_the_page_answers_without_the_key(locked: str, call: str) -> None:
    method, _, path = call.partition(" ")
    answer = httpx.request(method, f"{locked}/page/en/{path}", files={"files": b"x"} if method == "POST" else None)
    assert answer.status_code == 401


def test_a_key_that_may_not_ask_leads_to_the_page_that_wants_one(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("office enrol 0123456789abcdef0123\n")
    file.chmod(0o600)
    with (
        plain_server(web_service(bundle), AccessPolicy(read_keys(file, None)), page=True) as address,
        httpx.Client() as caller,
    ):
        bearer = {"Authorization": "Bearer 0123456789abcdef0123"}
        assert caller.post(f"{address}/v1/session", headers=bearer).status_code == 204
        assert "This service wants a key" in caller.get(f"{address}/page/en/").text


@pytest.mark.parametrize(
    "call",
    [
        "GET gradio_api/file=/etc/passwd",
        "GET gradio_api/file=https://example.org/a.jpg",
        "GET gradio_api/proxy=https://example.org/a.jpg",
        "GET gradio_api/deep_link?session_hash=a",
        "GET monitoring",
        "POST gradio_api/process_recording",
        "POST gradio_api/vibe-edit",
        "POST gradio_api/call/identify",
        "PUT gradio_api/upload",
    ],
)
def test_of_gradios_addresses_only_those_that_the_page_needs_are_there(address: str, call: str) -> None:
    method, _, path = call.partition(" ")
    answer = httpx.request(method, f"{address}/page/en/{path}", json={} if method == "POST" else None)
    assert answer.status_code == 404
    assert "nothing at this address" in answer.json()["detail"]


@pytest.mark.parametrize("named", ["/etc/passwd", "https://example.org/a.jpg"])
def test_a_file_that_was_not_uploaded_cannot_be_named_as_a_photograph(address: str, named: str) -> None:
    config = httpx.get(f"{address}/page/en/config").json()
    events = config["dependencies"]
    galleries = {component["id"] for component in config["components"] if component["type"] == "gallery"}
    taking = [event["id"] for event in events if galleries & {*event["inputs"]}]
    assert len(taking) == 2  # photographs that are asked about, examples that are taken
    picture = [{"image": {"path": named, "meta": {"_type": "gradio.FileData"}}, "caption": None}]
    for event in taking:
        count = len(next(one for one in events if one["id"] == event)["inputs"])
        asked = {"data": [picture, *[None] * (count - 1)], "fn_index": event, "session_hash": f"x{event}"}
        asked["event_data"] = {"index": 0, "value": None, "selected": True}
        assert httpx.post(f"{address}/page/en/gradio_api/queue/join", json=asked).status_code == 200
        answered = read_events(f"{address}/page/en/gradio_api/queue/data?session_hash=x{event}")
        assert "gradio_api/file=" not in answered
        assert '"success":false' in answered.replace(" ", "")


def read_events(address: str) -> str:
    """What Gradio says until the work is done."""
    said = ""
    with httpx.stream("GET", address, timeout=20) as stream:
        for line in stream.iter_lines():
            said += line
            if "process_completed" in line or "close_stream" in line:
                break
    return said


def test_more_bytes_than_a_call_may_bring_are_not_taken(address: str) -> None:
    files = [("files", (f"{number}.jpg", bytes(300_000))) for number in range(8)]
    answer = httpx.post(f"{address}/page/en/gradio_api/upload", files=files)
    assert answer.status_code == 413
    assert "photographs come at once" in answer.json()["detail"]


def test_an_upload_is_refused_where_there_is_no_room_for_more(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradio_guard, "KEPT_BYTES", -1)
    answer = httpx.post(f"{address}/page/en/gradio_api/upload", files={"files": b"x"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
    assert "wait to be erased" in answer.json()["detail"]
    assert httpx.get(f"{address}/page/en/").status_code == 200


def test_a_page_of_another_site_cannot_use_it(address: str) -> None:
    answer = httpx.post(
        f"{address}/page/en/gradio_api/upload", files={"files": b"x"}, headers={"Origin": "http://x.org"}
    )
    assert answer.status_code == 403


def test_the_page_on_ray_answers_and_teaches(page: Page, ray_service: Running, tmp_path: Path) -> None:
    before = httpx.get(f"{ray_service.address}/v1/versions").json()["current"]
    page.goto(ray_service.address)
    assert page.url == f"{ray_service.address}/page/en/"
    ask(page, photograph(tmp_path, view=13))
    said(page, "Answered by tiny-00000000")
    assert loaded(page, ".query img, .match img")
    page.get_by_role("button", name=f"Yes, this is {INDIVIDUALS[2]}").click()
    said(page, f"fluke.png is enrolled as {INDIVIDUALS[2]}")
    # others ask this service after us
    assert httpx.post(f"{ray_service.address}/v1/versions/{before}/restore").status_code == 200
