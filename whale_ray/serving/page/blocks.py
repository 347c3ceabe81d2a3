"""The web page: drop photographs, see whom they may show, confirm or reject. Made with Gradio, once for each language.

Knows Gradio, the page's words and its desk; knows no bundle and no Ray. It loads nothing from elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
from fastapi import FastAPI
from gradio import processing_utils

from whale_ray.serving.auth.middleware import HostOriginMiddleware, ProblemMiddleware
from whale_ray.serving.auth.scopes import AccessPolicy
from whale_ray.serving.http.access_log import AccessLogMiddleware, open_access_log
from whale_ray.serving.http.uploads import Limits
from whale_ray.serving.page import cards
from whale_ray.serving.page.cards import Asked
from whale_ray.serving.page.gradio_guard import ASSETS, FOLDER_VARIABLE, Fence
from whale_ray.serving.page.service_client import Desk
from whale_ray.serving.schemas import RefusalError
from whale_ray.serving.translations import LANGUAGES, Words

_EVENT: Any = {"api_visibility": "private", "concurrency_limit": None}  # no reader waits for another


def build_page(
    transport: httpx.AsyncBaseTransport, policy: AccessPolicy, limits: Limits, *, echoed: bool = False
) -> FastAPI:
    """The page as a web application: `/en/` and `/ru/`. transport: leads to the service that it asks.

    limits: of the photographs that come at once. They lie in the folder that GRADIO_TEMP_DIR names.
    echoed: as of AccessLogMiddleware.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    processing_utils.async_ssrf_protected_download = _refuse_download  # Gradio fetches what a caller names
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    desk = Desk(transport, limits)
    for language, words in LANGUAGES.items():
        blocks = _Page(words, desk).blocks
        blocks.has_launched = True  # else Gradio takes any file of the machine that a caller names for an upload
        gr.mount_gradio_app(
            app,
            blocks,
            path=f"/{language}",
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            max_file_size=limits.image_bytes,
            theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css=(ASSETS / "page.css").read_text(),
            head=_head(language),
        )
        _look_less_often(blocks)
    app.add_middleware(HostOriginMiddleware, hosts=policy.hosts)
    app.add_middleware(ProblemMiddleware)
    app.add_middleware(Fence, keys=policy.keys, upload_bytes=limits.call_bytes, upload_seconds=limits.seconds)
    app.add_middleware(
        AccessLogMiddleware,
        logger=open_access_log(policy.access_log),
        routes=app.routes,
        stage="page",
        echoed=echoed,
    )
    return app


def _look_less_often(blocks: gr.Blocks) -> None:
    """Has Gradio look less often whether somebody has clicked: a thousand times a second take 5 % of a core.

    20 times, as it does by itself on Windows.
    """
    blocks._queue.sleep_when_free, blocks._queue.progress_update_sleep_when_free = 0.05, 0.1


def _head(language: str) -> str:
    return f"<script>const LANGUAGE = {json.dumps(language)};\n{(ASSETS / 'page.js').read_text()}</script>"


async def _refuse_download(url: str, cache_dir: str) -> str:
    raise RefusalError(403, f"the page fetches nothing, but was given the address {url[:100]!r}. Send the photograph")


class _Page:
    """The page in one language."""

    def __init__(self, words: Words, desk: Desk) -> None:
        self._words, self._desk = words, desk
        with gr.Blocks(title=words.title, analytics_enabled=False) as self.blocks:
            self._lay_out()

    def _lay_out(self) -> None:
        words = self._words
        gr.Markdown(f"# {words.title}\n\n{words.lead}\n\n{_other_languages(words)}", elem_id="header")
        self._photographs = gr.Gallery(
            label=words.photographs,
            interactive=True,
            sources=["upload", "clipboard"],
            file_types=["image"],
            type="filepath",
            columns=6,
            fit_columns=False,
            object_fit="contain",
            height=260,
            buttons=[],
            elem_classes="photographs",
        )
        self._model = gr.Radio(label=words.model, visible=False)
        identify = gr.Button(words.identify, variant="primary")
        self._note = gr.Markdown(elem_id="note", latex_delimiters=[])
        self._asked = gr.State([])
        gr.render(inputs=[self._asked], concurrency_limit=None, show_progress="hidden")(self._answers)
        self._examples = gr.Gallery(
            label=words.examples,
            visible=False,
            interactive=False,
            allow_preview=False,
            columns=6,
            height=220,
            elem_classes="photographs",
            buttons=[],
        )
        gr.Markdown(f"[{words.for_programs}](/docs)")
        inputs, outputs = [self._photographs, self._model], [self._asked, self._note]
        identify.click(self._identify, inputs, outputs, **_EVENT)
        self.blocks.load(
            self._open,
            None,
            [self._model, self._examples, self._note],
            **_EVENT,
        )
        self._model.input(self._show_examples, [self._model], [self._examples, self._note], **_EVENT)
        self._examples.select(self._take, [self._examples], [self._photographs], **_EVENT)

    async def _open(self, request: gr.Request) -> tuple[Any, Any, str]:
        try:
            card = await self._desk.model(request.headers)
        except RefusalError as refused:
            return gr.skip(), gr.skip(), cards.refusal(self._words, refused.problem)
        names, default = list(card["models"]), card["default"]
        model = gr.Radio(choices=names, value=default, visible=len(names) > 1)
        return model, *await self._show_examples(default, request)

    async def _show_examples(self, model: str, request: gr.Request) -> tuple[Any, str]:
        try:
            found = await self._desk.examples(request.headers, model)
            pictures = [(await self._example(one["address"], request), one["individual"]) for one in found]
        except RefusalError as refused:
            return gr.skip(), cards.refusal(self._words, refused.problem)
        return gr.Gallery(value=pictures, visible=bool(pictures), selected_index=None), ""

    async def _example(self, address: str, request: gr.Request) -> str:
        data = await self._desk.fetch(request.headers, address)
        folder = Path(os.environ[FOLDER_VARIABLE]) / hashlib.sha256(data).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        picture = folder / "example.jpg"
        picture.write_bytes(data)
        return str(picture)

    def _take(self, examples: list[tuple[str, str | None]], event: gr.SelectData) -> list[str]:
        return [examples[event.index][0]]

    async def _identify(
        self, photographs: list[tuple[str, str | None]] | None, model: str | None, request: gr.Request
    ) -> tuple[list[Asked], str]:
        if not photographs:
            return [], cards.note(self._words.choose_first, is_problem=True)
        paths = [path for path, _ in photographs]
        if not all(Path(path).exists() for path in paths):
            return [], cards.note(self._words.gone, is_problem=True)
        try:
            bundle, results = await self._desk.identify(request.headers, model or "", list(map(Path, paths)))
        except RefusalError as refused:
            return [], cards.refusal(self._words, refused.problem)
        asked = [Asked(path, result) for path, result in zip(paths, results, strict=True)]
        return asked, cards.note(self._words.answered_by.format(bundle))

    def _answers(self, asked: list[Asked]) -> None:
        for place, one in enumerate(asked):
            with gr.Column(elem_classes="answer"):
                self._answer(place, one)

    def _answer(self, place: int, one: Asked) -> None:
        gr.Markdown(cards.verdict(self._words, one), container=False, latex_delimiters=[])
        with gr.Row(elem_classes="pair"):
            with gr.Column(scale=2, min_width=250, elem_classes="yours"):
                gr.Markdown(cards.query(self._words, one), container=False, latex_delimiters=[])
                if one.is_open:
                    self._new_one(place)
            with gr.Column(scale=3, min_width=250), gr.Row(elem_classes="candidates"):
                for candidate in one.candidates if one.is_open else ():
                    self._candidate(place, candidate)

    def _candidate(self, place: int, candidate: dict[str, Any]) -> None:
        individual, words = candidate["individual"], self._words

        async def confirm(asked: list[Asked], model: str | None, request: gr.Request) -> tuple[list[Asked], str]:
            return await self._enrol(asked, place, individual, model, request.headers)

        def reject(asked: list[Asked]) -> tuple[list[Asked], str]:
            one = replace(asked[place], struck=(*asked[place].struck, individual))
            return _with(asked, place, one), cards.note(words.rejected.format(individual=individual))

        outputs = [self._asked, self._note]
        with gr.Column(min_width=0):
            gr.Markdown(cards.candidate(words, candidate), container=False, latex_delimiters=[])
            yes = gr.Button(words.confirm.format(individual), size="sm", variant="primary")
            no = gr.Button(words.reject.format(individual), size="sm")
        yes.click(confirm, [self._asked, self._model], outputs, **_EVENT)
        no.click(reject, [self._asked], outputs, **_EVENT)

    def _new_one(self, place: int) -> None:
        async def enrol(
            asked: list[Asked], name: str | None, model: str | None, request: gr.Request
        ) -> tuple[list[Asked], str]:
            name = unicodedata.normalize("NFC", (name or "").strip())  # None where nobody has touched it yet
            if not name:
                return asked, _warning(self._words.name_it)
            return await self._enrol(asked, place, name, model, request.headers)

        name = gr.Textbox(label=self._words.name_of_new, max_lines=1, key=f"name {place}")
        new = gr.Button(self._words.enrol, size="sm")
        gr.on(
            [new.click, name.submit],
            enrol,
            [self._asked, name, self._model],
            [self._asked, self._note],
            **_EVENT,
        )

    async def _enrol(
        self, asked: list[Asked], place: int, individual: str, model: str | None, reader: Mapping[str, str]
    ) -> tuple[list[Asked], str]:
        one = asked[place]
        if not Path(one.path).exists():
            return asked, _warning(self._words.gone)
        try:
            enrolled = await self._desk.enrol(reader, model or "", individual, Path(one.path))
        except RefusalError as refused:
            problem = refused.problem
            short = self._words.refusals.get(problem.status, problem.detail)
            return asked, _warning(short, cards.refusal(self._words, problem))
        words = self._words.enrolled if enrolled["status"] == "enrolled" else self._words.already
        said = words.format(filename=one.name, individual=individual)
        return _with(asked, place, replace(one, said=said)), cards.note(said)


def _with(asked: list[Asked], place: int, one: Asked) -> list[Asked]:
    asked[place] = one  # of the list that is remembered: another click may be under way
    return list(asked)


def _warning(text: str, whole: str = "") -> str:
    """A problem that stands out wherever on the page its reader is; what is said in its place, `whole` or the same."""
    gr.Warning(escape(text))
    return whole or cards.note(text, is_problem=True)


def _other_languages(words: Words) -> str:
    others = ((language, one) for language, one in LANGUAGES.items() if one != words)
    return " · ".join(
        f'<a href="../{language}/" lang="{language}">{escape(one.language)}</a>' for language, one in others
    )
