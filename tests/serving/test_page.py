"""The page and /docs in a real browser that can reach nothing but the service."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import services
from drawn_photographs import INDIVIDUALS, draw
from keypoint_bundles import spotted, write_local_bundle
from PIL import Image
from playwright.sync_api import Browser, Page, Request, Route, sync_playwright
from services import KEY, LIMITS, Running, plain_server, web_service

from whale_ray.inference.bundle import write_bundle
from whale_ray.retrieval.evaluation.calibration import Calibration, LogisticModel
from whale_ray.serving.auth.access_control import AccessPolicy
from whale_ray.serving.auth.api_keys import read_keys
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore

BOAT_KEY = "the-key-of-the-boat"
CHROMIUM = shutil.which("chromium")
CUT_OFF = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="a browser is needed: chromium")]
PHONE = {"width": 360, "height": 740}
ANSWER = {"model": "tiny", "results": [{"new_individual": {"decision": "new", "probability": None}, "candidates": []}]}


@pytest.fixture(scope="module")
def address(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = EnrolmentStore(f"sqlite:///{tmp_path_factory.mktemp('page')}/enrolled.db")
    with plain_server(web_service(bundle, store=store)) as address:
        yield address


@pytest.fixture(scope="module")
def locked(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service with two keys that keeps photographs for review: KEY may do everything, that of the boat proposes."""
    folder = tmp_path_factory.mktemp("locked")
    file = folder / "keys"
    file.write_text(f"boat identify,propose {BOAT_KEY}\n")
    file.chmod(0o600)
    store = EnrolmentStore(f"sqlite:///{folder}/enrolled.db")
    service = web_service(bundle, store=store, keep=True)
    service.bundle.threshold = 0.9999999  # random weights: all are near
    with plain_server(service, AccessPolicy(read_keys(file, KEY))) as address:
        yield address
    store.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", CUT_OFF])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of the browser; a call of another host, an error of a script or of the policy fails the test."""
    elsewhere: list[str] = []
    errors: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "blob:", "data:")):
            elsewhere.append(request.url)

    context = browser.new_context(locale="en-GB", permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.on("request", note)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda one: errors.append(one.text) if "Content Security Policy" in one.text else None)
    yield page
    context.close()
    assert not elsewhere
    assert not errors


def photograph(folder: Path, *, individual: int = 2, view: int = 0, name: str = "fluke.png") -> Path:
    draw(individual, view).save(folder / name)
    return folder / name


def choose(page: Page, *photographs: Path) -> None:
    page.get_by_role("button", name="Choose photographs").wait_for()
    page.set_input_files("input[type=file]", photographs)
    page.get_by_role("button", name=re.compile("^Remove (?!all)")).nth(len(photographs) - 1).wait_for()


def ask(page: Page, *photographs: Path) -> None:
    choose(page, *photographs)
    page.get_by_role("button", name="Identify").click()
    page.locator(".answer").nth(len(photographs) - 1).wait_for()


def wait_for_status(page: Page, text: str) -> None:
    """Wait until the status line, which screen readers read aloud, has this text."""
    page.get_by_role("status").get_by_text(text).first.wait_for()


def are_loaded(page: Page, pictures: str) -> bool:
    """Return whether all these pictures are loaded and have a text for readers who cannot see them."""
    found = page.locator(pictures)
    found.last.wait_for()
    page.wait_for_function(
        "all => [...document.querySelectorAll(all)].every(one => one.complete && one.naturalWidth > 0)", arg=pictures
    )
    return all(len(one.get_attribute("alt") or "") > 3 for one in found.all())


def test_candidates_are_shown_beside_the_photograph(page: Page, address: str, tmp_path: Path) -> None:
    page.goto(address)
    assert page.url == f"{address}/page/en/"
    ask(page, photograph(tmp_path))
    wait_for_status(page, "Answered by tiny-00000000")
    answer = httpx.post(f"{address}/v1/identify", content=photograph(tmp_path).read_bytes()).json()["results"][0]
    known = f"Probably known: {answer['candidates'][0]['individual']}"
    new = answer["new_individual"]["decision"] == "new"
    page.get_by_role("heading", name="Probably a new individual" if new else known).wait_for()
    page.locator(".match").nth(4).wait_for()
    assert page.locator(".match").count() == 5
    assert are_loaded(page, ".query img, .match img")
    yours, match = (page.locator(f"{kind} img").first.bounding_box() for kind in (".query", ".match"))
    assert yours
    assert match
    assert yours["x"] + yours["width"] <= match["x"]
    assert abs(yours["y"] - match["y"]) < 20
    page.get_by_text("Model tiny-00000000:").wait_for()


def test_matched_points_are_drawn_on_demand(page: Page, tmp_path: Path) -> None:
    local = write_local_bundle(tmp_path, "sift")
    spotted(3, 6).save(tmp_path / "spots.png")
    with plain_server(web_service(local)) as address:
        page.goto(address)
        ask(page, tmp_path / "spots.png")
        first = page.locator(".match").first
        points = int(re.findall(r"matched points: (\d+)", first.inner_text())[0])
        assert points > 10
        assert first.locator("canvas").count() == 0
        first.get_by_text("Show where they match").click()
        drawing = first.get_by_role("img", name=f"lines join {points} matched points")
        drawing.wait_for()
        assert drawing.evaluate("one => [one.width, one.height]") == [2 * 480 + 16, 320]
        pixels = "one => [60, one.width - 60].map(x => one.getContext('2d').getImageData(x, 100, 1, 1).data[3])"
        assert drawing.evaluate(pixels) == [255, 255]  # both photographs are there


def test_each_of_several_photographs_has_its_answer_or_its_problem(page: Page, address: str, tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(photograph(tmp_path).read_bytes()[:200])
    page.goto(address)
    ask(page, photograph(tmp_path), tmp_path / "torn.png")
    page.locator(".answer").nth(0).locator(".match").nth(4).wait_for()
    assert page.locator(".answer").nth(1).locator(".match").count() == 0
    assert "the picture is damaged" in page.locator(".answer").nth(1).locator(".problem").inner_text()


def test_more_photographs_than_a_call_may_have_are_all_answered(page: Page, address: str, tmp_path: Path) -> None:
    count = LIMITS.images + 2
    page.goto(address)
    ask(page, *(photograph(tmp_path, individual=one % 4, name=f"{one}.png") for one in range(count)))
    wait_for_status(page, "Answered by tiny-00000000")
    names = page.locator(".answer .query figcaption").all_inner_texts()
    assert names == [f"Your photograph {one}.png" for one in range(count)]
    page.get_by_role("button", name="Remove 3.png").click()
    assert page.locator("#chosen li").count() == count - 1
    page.get_by_role("button", name="Remove all").click()
    assert page.locator("#chosen li").count() == 0
    page.get_by_role("button", name="Identify").click()
    wait_for_status(page, "Choose a photograph first")


def test_a_confirmed_photograph_is_enrolled_and_the_next_identification_finds_it(
    page: Page, address: str, tmp_path: Path
) -> None:
    page.goto(address)
    ask(page, photograph(tmp_path, view=7))
    page.get_by_role("button", name=f"Yes, this is {INDIVIDUALS[2]}").click()
    wait_for_status(page, f"fluke.png is enrolled as {INDIVIDUALS[2]}")
    page.locator(".done").wait_for()
    assert page.locator(".match").count() == 0
    page.get_by_role("button", name="Identify").click()
    page.locator(".match").first.wait_for()
    first = page.locator(".match").first.inner_text()
    assert INDIVIDUALS[2] in first
    assert float(re.findall(r"distance ([\d.e-]+)", first)[0]) < 1e-3
    assert are_loaded(page, ".match img")
    page.get_by_role("button", name=f"Yes, this is {INDIVIDUALS[2]}").click()
    wait_for_status(page, f"fluke.png was enrolled as {INDIVIDUALS[2]} already")


def test_a_rejected_candidate_is_removed_and_the_gallery_is_unchanged(page: Page, address: str, tmp_path: Path) -> None:
    before = httpx.get(f"{address}/v1/model").json()["images"]
    page.goto(address)
    ask(page, photograph(tmp_path, individual=1))
    page.get_by_role("button", name=f"No, not {INDIVIDUALS[1]}").click()
    wait_for_status(page, f"{INDIVIDUALS[1]} is removed from this list")
    page.get_by_role("heading", name=f"You rejected: {INDIVIDUALS[1]}").wait_for()
    assert page.locator(".match").count() == 4
    for _ in range(4):
        page.get_by_role("button", name="No, not").first.click()
    page.get_by_text("No candidates are left to compare").wait_for()
    assert httpx.get(f"{address}/v1/model").json()["images"] == before


def test_a_new_individual_is_enrolled_by_the_name_that_is_typed(page: Page, address: str, tmp_path: Path) -> None:
    page.goto(address)
    ask(page, photograph(tmp_path, individual=3, view=9))
    wait_for_status(page, "Answered by")
    page.get_by_role("button", name="Enrol as new").click()
    wait_for_status(page, "Type a name for the new individual first")
    page.get_by_role("textbox", name="A name for a new individual").fill("a/b")
    page.get_by_role("button", name="Enrol as new").click()
    wait_for_status(page, "no slash")
    page.get_by_role("textbox", name="A name for a new individual").fill(" <i>Freya *&* 'Bo' ")
    page.keyboard.press("Enter")
    wait_for_status(page, "fluke.png is enrolled as <i>Freya *&* 'Bo'")
    page.get_by_role("button", name="Identify").click()
    page.locator(".match").filter(has_text="Freya").first.wait_for()
    assert "<i>Freya *&* 'Bo'" in page.locator(".match").first.inner_text()
    assert page.locator(".match i").count() == 0


def test_a_photograph_of_another_individual_is_refused_with_the_reason(
    page: Page, address: str, tmp_path: Path
) -> None:
    page.goto(address)
    ask(page, photograph(tmp_path, individual=3, view=21))
    wait_for_status(page, "Answered by")
    enrolled = httpx.post(
        f"{address}/v1/individuals/Ada/images", content=photograph(tmp_path, individual=3, view=21).read_bytes()
    )
    assert enrolled.status_code == 200
    page.get_by_role("button", name="Yes, this is").first.click()
    wait_for_status(page, "This photograph is enrolled as another individual")
    assert "Ada" in page.get_by_role("status").inner_text()
    assert page.locator(".match").count() == 5


def test_every_control_is_reachable_by_keyboard(page: Page, address: str, tmp_path: Path) -> None:
    page.goto(address)
    page.get_by_role("heading", name="Examples of this model").wait_for()
    with page.expect_file_chooser() as chooser:
        press(page, "Choose photographs")
    chooser.value.set_files(photograph(tmp_path, view=11))
    page.get_by_role("button", name="Remove fluke.png").wait_for()
    press(page, "Identify")
    wait_for_status(page, "Answered by")
    press(page, f"Yes, this is {INDIVIDUALS[2]}")
    wait_for_status(page, "is enrolled as")
    assert page.evaluate("document.activeElement.className") == "done"


def press(page: Page, name: str) -> None:
    """Press Tab until the button of this name has the focus, then Enter."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText")[:60].strip() == name:
            page.keyboard.press("Enter")
            return
    raise AssertionError(f"{name} is not reached")


def test_a_photograph_is_pasted_by_button_and_by_key(page: Page, address: str) -> None:
    page.goto(address)
    paste = page.get_by_role("button", name="Paste from clipboard")
    paste.wait_for()
    page.evaluate("navigator.clipboard.writeText('text')")
    paste.click()
    wait_for_status(page, "The clipboard has no picture")
    page.evaluate(
        """async () => {
          const canvas = Object.assign(document.createElement('canvas'), {width: 80, height: 60});
          canvas.getContext('2d').fillRect(10, 10, 30, 20);
          const blob = await new Promise(done => canvas.toBlob(done, 'image/png'));
          await navigator.clipboard.write([new ClipboardItem({'image/png': blob})]);
        }"""
    )
    paste.click()
    page.get_by_role("button", name="Remove clipboard.png").wait_for()
    page.keyboard.press("Control+V")
    page.locator("#chosen li").nth(1).wait_for()
    page.get_by_role("button", name="Identify").click()
    page.locator(".match").first.wait_for()


def test_a_photograph_is_dropped(page: Page, address: str, tmp_path: Path) -> None:
    page.goto(address)
    there = page.locator("#photographs")
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
    page.get_by_role("button", name="Remove fluke.png").wait_for()
    page.get_by_role("button", name="Identify").click()
    page.locator(".match").first.wait_for()


def test_a_box_is_drawn_typed_and_cleared(page: Page, address: str, tmp_path: Path) -> None:
    both = Image.new("RGB", (300, 64))
    both.paste(draw(31, 0), (0, 0))
    both.paste(draw(32, 0), (204, 0))
    both.save(tmp_path / "pod.png")
    page.goto(address)
    choose(page, tmp_path / "pod.png")
    page.get_by_role("button", name="Draw a box: pod.png").click()
    sides = [page.get_by_label(name, exact=True) for name in ("Left", "Top", "Right", "Bottom")]
    page.locator("#box-picture svg").wait_for()
    image = page.locator("#box-picture img").bounding_box()
    assert image
    scale = min(image["width"] / 300, image["height"] / 64)  # as object-fit: contain
    left, top = image["x"] + (image["width"] - 300 * scale) / 2, image["y"] + (image["height"] - 64 * scale) / 2

    def at(x: float, y: float) -> tuple[float, float]:
        return left + scale * x, top + scale * y

    def numbers() -> list[float]:
        return [float(side.input_value()) for side in sides]

    page.mouse.move(*at(96, 63.9))  # from corner to corner, either way
    page.mouse.down()
    page.mouse.move(*at(40, 20))
    page.mouse.move(left - 10, top - 10)  # beyond the photograph
    page.mouse.up()
    page.mouse.move(*at(60, 30))
    assert numbers() == [0, 0, 96, 64]
    touch = page.context.new_cdp_session(page)
    for kind, points in (("touchStart", [(204, 1)]), ("touchMove", [(290, 60)]), ("touchEnd", [])):
        touched = [dict(zip("xy", at(*point), strict=True)) for point in points]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touched})
    assert numbers() == [204, 1, 290, 60]
    page.get_by_role("button", name="Use this box").click()
    page.get_by_role("button", name="Change the box: pod.png").wait_for()
    assert page.evaluate("document.activeElement.innerText") == "Change the box"
    page.keyboard.press("Enter")
    assert numbers() == [204, 1, 290, 60]
    for side, text in zip(sides, ("204", "0", "100", "64"), strict=True):
        side.fill(text)
    page.keyboard.press("Enter")
    page.get_by_text("left smaller than right").wait_for()
    sides[2].fill("300")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Identify").click()
    page.get_by_text("Box 204, 0, 300, 64").wait_for()
    rect = page.locator(".query rect")
    assert [float(rect.get_attribute(name) or "") for name in ("x", "y", "width", "height")] == [204, 0, 96, 64]
    page.get_by_role("textbox", name="A name for a new individual").fill("Nut")
    page.get_by_role("button", name="Enrol as new").click()
    wait_for_status(page, "pod.png is enrolled as Nut")
    (image_name,) = httpx.get(f"{address}/v1/individuals/Nut").json()["images"]
    assert image_name.endswith("#204,0,300,64")
    draw(32, 0).save(tmp_path / "alone.png")
    found = httpx.post(f"{address}/v1/identify", content=(tmp_path / "alone.png").read_bytes()).json()["results"][0]
    assert found["candidates"][0]["image"] == image_name
    page.get_by_role("button", name="Change the box: pod.png").click()
    page.get_by_role("button", name="Clear box").click()
    page.get_by_role("button", name="Draw a box: pod.png").wait_for()
    page.get_by_role("button", name="Identify").click()
    page.locator(".match").first.wait_for()
    assert page.get_by_text("Box 204").count() == 0


def test_each_animal_that_a_detector_found_has_its_card(page: Page, address: str, tmp_path: Path) -> None:
    page.goto(address)
    (result,) = ANSWER["results"]
    found = [{**result, "box": [4, 8, 50, 60], "detection": 0.72}, {**result, "detection": None}]  # type: ignore[dict-item]
    answer_with(page, reply(200, {**ANSWER, "results": found}))
    choose(page, photograph(tmp_path))
    page.get_by_role("button", name="Identify").click()
    first, second = page.locator(".answer").nth(0), page.locator(".answer").nth(1)
    first.get_by_text("found by the detector, 72 %").wait_for()
    assert "Box 4, 8, 50, 60" in first.inner_text()
    assert first.locator("rect").get_attribute("width") == "46"
    second.get_by_text("The detector found no animal").wait_for()
    assert second.locator("rect").count() == 0


def test_the_selected_model_answers(page: Page, bundle: Path, tmp_path: Path) -> None:
    second = web_service(bundle, name="second")
    second.bundle.id = "another-00000001"
    with plain_server(web_service(bundle), second=second) as address:
        page.goto(address)
        page.get_by_role("radio", name="second").check()
        ask(page, photograph(tmp_path))
        wait_for_status(page, "Answered by another-00000001")
        assert "model=second" in (page.locator("#examples img").first.get_attribute("src") or "")
        page.get_by_role("radio", name="default").check()
        page.get_by_role("button", name="Identify").click()
        wait_for_status(page, "Answered by tiny-00000000")


def test_viewpoint_and_species_are_chosen_where_the_model_knows_them(page: Page, bundle: Path, tmp_path: Path) -> None:
    whole = services.contents()
    table = whole.table.assign(viewpoint=["left", "right", ""] * len(INDIVIDUALS))
    sides = write_bundle(dataclasses.replace(whole, table=table), tmp_path / "sides")
    plain = web_service(bundle, name="plain")
    with plain_server(web_service(sides), plain=plain) as address:
        page.goto(address)
        ask(page, photograph(tmp_path))
        page.get_by_text("Searched: all 18 photographs of 6 individuals.").wait_for()
        assert page.locator("#species").is_hidden()
        with page.expect_request(re.compile("/v1/identify")) as asked:
            page.get_by_label("Viewpoint").select_option("left")
            page.get_by_role("button", name="Identify").click()
        assert "view=left" in asked.value.url
        wait_for_status(page, "Answered by")
        page.get_by_role("radio", name="plain").check()
        page.locator("#animals").wait_for(state="hidden")


def test_a_probably_new_animal_is_shown_with_its_probability(page: Page, bundle: Path, tmp_path: Path) -> None:
    service = web_service(bundle)
    service.bundle.threshold = 0.9999999  # random weights: all are near
    service.bundle.calibration = Calibration(LogisticModel(-1.0, 0.0, 0.0, 0.0), LogisticModel(1.0, 0.0, 0.0, 0.0))
    with plain_server(service) as address:
        page.goto(address)
        ask(page, photograph(tmp_path, individual=40))
        page.get_by_role("heading", name="Probably a new individual").wait_for()
        page.get_by_text("Probability that it is new: 73 %").wait_for()
        page.locator(".match").first.get_by_text("27 %").wait_for()


def test_an_improbable_decision_is_shown_as_unsure(page: Page, bundle: Path, tmp_path: Path) -> None:
    """The threshold that scored best decides; the page must show where the probability says otherwise."""
    service = web_service(bundle)
    service.bundle.calibration = Calibration(LogisticModel(-1.0, 0.0, 0.0, 0.0), LogisticModel(-1.0, 0.0, 0.0, 0.0))
    with plain_server(service) as address:
        for threshold, verdict in ((1.1, "Not sure: perhaps a new individual"), (0.0, "Not sure: perhaps w_01")):
            service.bundle.threshold = threshold
            page.goto(address)
            ask(page, photograph(tmp_path, individual=1))
            page.get_by_role("heading", name=verdict).wait_for()
            page.get_by_text("Probability that it is new: 27 %").wait_for()


def test_an_example_of_the_bundle_is_tried(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_role("button", name=INDIVIDUALS[0]).click()
    page.get_by_role("button", name=f"Remove {INDIVIDUALS[0]}.jpg").wait_for()
    assert page.locator("#examples button").count() == 2
    page.get_by_role("button", name="Identify").click()
    page.locator(".match").first.wait_for()
    assert are_loaded(page, ".match img")


def test_the_page_fits_a_narrow_phone(page: Page, address: str, tmp_path: Path) -> None:
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page.goto(address)
    ask(page, photograph(tmp_path))
    assert are_loaded(page, ".match img")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_a_russian_browser_gets_the_russian_page(browser: Browser, address: str, tmp_path: Path) -> None:
    context = browser.new_context(locale="ru-RU")
    page = context.new_page()
    page.goto(address)
    assert page.url == f"{address}/page/ru/"
    page.get_by_role("heading", name="Кто этот кит?").wait_for()
    (tmp_path / "torn.png").write_bytes(photograph(tmp_path).read_bytes()[:200])
    page.get_by_role("button", name="Выбрать фотографии").wait_for()
    page.set_input_files("input[type=file]", [photograph(tmp_path), tmp_path / "torn.png"])
    page.get_by_role("button", name="Определить").click()
    page.get_by_role("heading", name="Вероятно").wait_for()
    problem = page.locator(".answer .problem").inner_text()
    assert problem.startswith("Файл повреждён или пуст")
    assert "the picture is damaged" in problem
    assert page.evaluate("document.documentElement.lang") == "ru"
    page.get_by_role("link", name="English").click()
    page.get_by_role("heading", name="Which whale is this?").wait_for()
    context.close()


def test_the_key_is_exchanged_for_a_cookie_that_no_script_can_read(page: Page, locked: str, tmp_path: Path) -> None:
    page.goto(locked)
    for wrong in ("another key", "ключ"):
        page.get_by_label("Key").fill(wrong)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_text("This key is unknown").wait_for()
        page.locator("#sign-in-problem").evaluate("problem => { problem.textContent = '' }")
    assert page.get_by_role("button", name="Identify").count() == 0
    page.get_by_label("Key").fill(KEY)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Identify").wait_for()
    ask(page, photograph(tmp_path))
    assert are_loaded(page, ".match img")
    assert page.evaluate("document.cookie") == ""
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert KEY not in cookie["value"]
    page.goto(f"{locked}/docs")
    page.get_by_text("/v1/identify").first.wait_for()


def test_a_session_that_ends_asks_for_the_key_and_keeps_the_photographs(
    page: Page, locked: str, tmp_path: Path
) -> None:
    sign_in(page, locked)
    choose(page, photograph(tmp_path))
    page.wait_for_load_state("networkidle")  # a call that is under way would end the session before the click
    page.context.clear_cookies()
    page.get_by_role("button", name="Identify").click()
    page.get_by_text("Your session has ended").wait_for()
    page.get_by_label("Key").fill(KEY)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Identify").click()
    page.locator(".match").first.wait_for()


def sign_in(page: Page, address: str, key: str = KEY) -> None:
    page.goto(address)
    page.get_by_label("Key").fill(key)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Examples of this model").wait_for()


def has_focus(page: Page) -> str:
    """Return the text of the element that has the focus."""
    return str(page.evaluate("document.activeElement.textContent"))


@pytest.fixture
def boat(locked: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {BOAT_KEY}"}
    with httpx.Client(base_url=locked, headers=headers) as client:
        yield client


@pytest.fixture
def office(locked: str) -> Iterator[httpx.Client]:
    """A client that decides; nothing waits at the beginning."""
    with httpx.Client(base_url=locked, headers={"Authorization": f"Bearer {KEY}"}) as client:
        for one in client.get("/v1/queries").json()["queries"]:
            client.delete(f"/v1/queries/{one['id']}")
        yield client


def test_proposals_are_decided_beside_the_pictures_of_the_individual(
    page: Page, locked: str, boat: httpx.Client, office: httpx.Client, tmp_path: Path
) -> None:
    known = INDIVIDUALS[1]
    names = ((office, "Own"), (boat, "Nut"), (boat, known))
    for number, (client, name) in enumerate(names):
        data = photograph(tmp_path, individual=50 + number).read_bytes()
        assert client.post(f"/v1/individuals/{name}/proposals", content=data).status_code == 200
    sign_in(page, locked)
    section = page.locator("#proposals")
    section.get_by_text("Waiting: 3.").wait_for()
    cards = section.get_by_role("article")
    cards.nth(0).get_by_text("Proposed by the key boat").wait_for()
    assert are_loaded(page, "#proposals .query img, #proposals .match img")
    assert cards.nth(0).locator(".match img").count() == 3
    cards.nth(1).get_by_text("The gallery has no photograph of Nut yet").wait_for()
    cards.nth(2).get_by_text("Another key has to approve").wait_for()
    assert cards.nth(2).get_by_role("button", name="Approve").count() == 0
    cards.nth(0).get_by_role("button", name=f"Approve as {known}").focus()
    page.keyboard.press("Enter")
    wait_for_status(page, f"The photograph is enrolled as {known}")
    assert has_focus(page) == "Proposed as Nut"
    for _ in range(2):  # past the approval
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    wait_for_status(page, "The proposal is rejected")
    section.get_by_text("Waiting: 1.").wait_for()
    approved, rejected = (
        [one["individual"] for one in office.get("/v1/proposals", params={"state": state}).json()["proposals"]]
        for state in ("approved", "rejected")
    )
    assert (approved, rejected) == ([known], ["Nut"])
    (own,) = office.get("/v1/proposals").json()["proposals"]
    office.delete(f"/v1/proposals/{own['number']}")
    cards.nth(0).get_by_role("button", name="Reject").click()
    wait_for_status(page, "it was decided meanwhile")
    section.get_by_text("Nothing waits here").wait_for()
    assert has_focus(page) == "Proposed enrolments"


def test_the_queue_shows_which_answers_have_changed_and_since_when(
    page: Page, locked: str, office: httpx.Client, tmp_path: Path
) -> None:
    pictures = [photograph(tmp_path, individual=60 + number).read_bytes() for number in range(2)]
    for data in pictures:
        (result,) = office.post("/v1/identify", content=data).json()["results"]
        assert result["new_individual"]["decision"] == "new"
    office.post("/v1/individuals/Moth/images", content=pictures[0])
    sign_in(page, locked)
    section = page.locator("#queue")
    refresh, cards = section.get_by_role("button", name="Refresh"), section.get_by_role("article")
    for _ in range(100):  # the search in the background takes a moment
        if section.get_by_text("Waiting: 1.").count():
            break
        page.wait_for_timeout(100)
        refresh.click()
    cards.get_by_role("heading", name="nearest Moth").wait_for()
    cards.get_by_text("First answer, ").wait_for()
    cards.get_by_text(re.compile(r"Since \w+ \d.*nearest Moth")).wait_for()
    assert are_loaded(page, "#queue .query img, #queue .match img")
    section.get_by_label("Only those whose answer has changed").uncheck()
    section.get_by_text("Waiting: 2.").wait_for()
    changed, other = (
        cards.filter(has=page.get_by_text("Since ")),
        cards.filter(has_not=page.get_by_text("Since ")),
    )
    other.get_by_label("A name for a new individual").fill("Crab")
    page.keyboard.press("Enter")
    wait_for_status(page, "The photograph is enrolled as Crab")
    assert office.get("/v1/individuals/Crab").json()["total"] == 1
    changed.get_by_role("button", name="Delete this photograph").press("Enter")
    wait_for_status(page, "The photograph is deleted")
    assert office.get("/v1/queries").json()["total"] == 0


def test_a_key_that_may_not_enrol_sees_nothing_that_waits(page: Page, locked: str) -> None:
    sign_in(page, locked, BOAT_KEY)
    page.wait_for_load_state("networkidle")
    assert page.locator(".waiting").count() == 2
    assert not page.locator(".waiting").first.is_visible()
    assert not page.locator(".waiting").last.is_visible()


def test_a_key_that_may_not_identify_is_refused_by_the_sign_in(page: Page, bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("office enrol 0123456789abcdef0123\n")
    file.chmod(0o600)
    with plain_server(web_service(bundle), AccessPolicy(read_keys(file, None))) as address:
        page.goto(address)
        page.get_by_text("This service needs a key").wait_for()
        page.get_by_label("Key").fill("0123456789abcdef0123")
        page.keyboard.press("Enter")
        page.get_by_text("does not allow identification").wait_for()
        assert page.get_by_role("button", name="Identify").count() == 0


def answer_with(page: Page, *answers: Callable[[Route], None]) -> list[Request]:
    """Answer the calls of /v1/identify with these, one after the other; return the calls that came."""
    waiting, calls = list(answers), []

    def handle(route: Route) -> None:
        calls.append(route.request)
        waiting.pop(0)(route)

    page.route("**/v1/identify*", handle)
    return calls


def reply(status: int, body: object) -> Callable[[Route], None]:
    return lambda route: route.fulfill(status=status, body=json.dumps(body))


def cut(route: Route) -> None:
    route.abort("connectionreset")


def test_interrupted_and_overload_calls_are_retried(page: Page, address: str, tmp_path: Path) -> None:
    page.goto(address)
    calls = answer_with(page, cut, reply(503, {}), reply(200, ANSWER))
    ask(page, photograph(tmp_path))
    wait_for_status(page, "Answered by tiny")
    assert len(calls) == 3


@pytest.mark.parametrize("answer", [cut, reply(503, {})], ids=["cut", "503"])
def test_an_unreachable_service_is_reported(
    page: Page, address: str, tmp_path: Path, answer: Callable[[Route], None]
) -> None:
    page.goto(address)
    calls = answer_with(page, *[answer] * 4)
    ask(page, photograph(tmp_path))
    page.locator(".answer .problem").get_by_text("The service is busy or does not answer").wait_for()
    assert len(calls) == 4


def test_a_refusal_shows_the_detail_and_is_not_retried(page: Page, address: str, tmp_path: Path) -> None:
    page.goto(address)
    calls = answer_with(page, reply(403, {"detail": "this call needs a key that may identify"}))
    ask(page, photograph(tmp_path))
    page.locator(".answer .problem").get_by_text("this call needs a key that may identify").wait_for()
    assert len(calls) == 1


def test_a_call_that_times_out_is_not_retried(page: Page, address: str, tmp_path: Path) -> None:
    page.clock.install()
    page.goto(address)
    calls = answer_with(page, lambda route: None)
    choose(page, photograph(tmp_path))
    with page.expect_request(re.compile("/v1/identify")):  # the page shows progress before it has read the photograph
        page.get_by_role("button", name="Identify").click()
    wait_for_status(page, "Identifying: 0 of 1 done")
    page.clock.fast_forward(121_000)
    page.locator(".answer .problem").get_by_text("The service is busy or does not answer").wait_for()
    assert len(calls) == 1


def test_a_photograph_above_the_limit_is_refused_before_it_is_sent(page: Page, address: str, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(bytes(LIMITS.image_bytes + 1))
    page.goto(address)
    page.get_by_role("button", name="Choose photographs").wait_for()
    page.set_input_files("input[type=file]", [large])
    wait_for_status(page, "large.png has 400,001 bytes, but this service accepts at most 400,000")
    assert page.locator("#chosen li").count() == 0


def test_an_idle_page_makes_no_calls(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_role("heading", name="Examples of this model").wait_for()
    page.wait_for_load_state("networkidle")
    calls: list[str] = []
    page.on("request", lambda request: calls.append(request.url))
    page.wait_for_timeout(2000)
    assert calls == []


def test_the_page_on_ray_answers_and_enrols(page: Page, ray_service: Running, tmp_path: Path) -> None:
    before = httpx.get(f"{ray_service.address}/v1/versions").json()["current"]
    page.goto(ray_service.address)
    assert page.url == f"{ray_service.address}/page/en/"
    ask(page, photograph(tmp_path, view=13))
    wait_for_status(page, "Answered by tiny-00000000")
    assert are_loaded(page, ".query img, .match img")
    page.get_by_role("button", name=f"Yes, this is {INDIVIDUALS[2]}").click()
    wait_for_status(page, f"fluke.png is enrolled as {INDIVIDUALS[2]}")
    # other tests use this service after this one
    assert httpx.post(f"{ray_service.address}/v1/versions/{before}/restore").status_code == 200
