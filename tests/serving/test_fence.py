"""What readers leave behind is erased after a while; and the page costs little while nobody is there."""

from __future__ import annotations

import asyncio
import os
import re
import time
from contextlib import suppress
from pathlib import Path

import httpx
from services import plain_server, web_service
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from whale_ray.serving.auth.api_keys import NO_KEYS
from whale_ray.serving.page.gradio_guard import FOLDER_VARIABLE, Fence, own_folder, sweep
from whale_ray.serving.translations import LANGUAGES


def test_photographs_are_erased_after_their_time_and_not_before(tmp_path: Path) -> None:
    old, young = tmp_path / "a" / "old.jpg", tmp_path / "b" / "young.jpg"
    for path in (old, young):
        path.parent.mkdir()
        path.write_bytes(b"pixels")
    now = time.time()
    os.utime(old, (now - 3700, now - 3700))
    sweep(tmp_path, now=now)
    assert not old.exists()
    assert young.exists()


def test_a_new_process_erases_what_ended_ones_have_left_and_nothing_of_those_that_run(tmp_path: Path) -> None:
    gone, other = tmp_path / "whale_ray-page-999999999-1", tmp_path / "another"
    running = own_folder(tmp_path)
    for folder in (gone, other):
        folder.mkdir()
        (folder / "a.jpg").write_bytes(b"pixels")
    mine = own_folder(tmp_path)
    assert mine.is_dir()
    assert mine.stat().st_mode & 0o077 == 0
    assert running.is_dir()
    assert (other / "a.jpg").exists()
    assert not gone.exists()


def test_the_page_seldom_looks_whether_somebody_has_clicked(bundle: Path) -> None:
    """Gradio by itself wakes a thousand times a second, in each language."""
    others = set(wakes())
    with plain_server(web_service(bundle), page=True) as address:
        for language in LANGUAGES:
            assert httpx.get(f"{address}/page/{language}/").status_code == 200
        before = wakes()
        time.sleep(2)
        new = {thread: count - before.get(thread, 0) for thread, count in wakes().items() if thread not in others}
    assert sum(new.values()) < 600


def test_no_other_site_may_read_the_page_and_each_of_its_answers_has_an_id(bundle: Path) -> None:
    with plain_server(web_service(bundle), page=True) as address:
        for origin, host in (("https://evil.example", "192.0.2.7"), ("http://localhost:1", "127.0.0.1")):
            headers = {"Origin": origin, "Host": host, "X-Request-Id": "mine"}
            answer = httpx.get(f"{address}/page/en/config", headers=headers)
            assert answer.status_code == 200
            assert not [name for name in answer.headers if name.startswith("access-control")]
            assert answer.headers["x-request-id"] == "mine"


def test_an_upload_that_does_not_go_on_is_ended_and_a_reader_who_stays_is_not() -> None:
    async def scene(*bodies: Message) -> list[Message]:
        left, sent = list(bodies), []

        async def receive() -> Message:
            await asyncio.sleep(0 if left else 0.3)
            return left.pop(0) if left else {"type": "http.disconnect"}

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            while (await receive())["type"] == "http.request":
                pass
            await PlainTextResponse("gone")(scope, receive, send)

        async def send(message: Message) -> None:
            sent.append(message)

        path = "/en/gradio_api/upload"
        scope = {"type": "http", "method": "POST", "path": path, "root_path": "", "headers": []}
        await Fence(app, keys=NO_KEYS, upload_bytes=100, upload_seconds=0.1)(scope, receive, send)
        return sent

    os.environ.setdefault(FOLDER_VARIABLE, "nowhere")
    part = {"type": "http.request", "body": b"part", "more_body": True}
    late = asyncio.run(scene(part))
    assert (late[0]["status"], (b"connection", b"close") in late[0]["headers"]) == (408, True)
    assert b"must arrive within 0.1 s" in late[1]["body"]
    assert asyncio.run(scene(part, part | {"more_body": False}))[0]["status"] == 200


def wakes() -> dict[str, int]:
    """Each thread of this process, and how often it has waited for something."""
    found = {}
    for path in Path("/proc/self/task").glob("*/status"):
        with suppress(OSError):  # it has ended meanwhile
            (count,) = re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", path.read_text(), re.M)
            found[path.parent.name] = int(count)
    return found
