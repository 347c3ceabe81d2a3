"""Client of a running service (`whale-ray identify URL`): results, retries and errors."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from documentation_pages import blocks, commands
from PIL import Image
from services import plain_server, web_service
from typer.testing import CliRunner

from whale_ray.cli import application
from whale_ray.errors import InputError
from whale_ray.serving import client
from whale_ray.serving.client import ask_service
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore

pytestmark = pytest.mark.integration


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("one.jpg", "two.jpg")]
    for shade, path in enumerate(paths):
        Image.new("RGB", (64, 48), (40 + 100 * shade, 90, 120)).save(path)
    return paths


def test_each_result_names_its_photograph(plain: str, photographs: list[Path]) -> None:
    result = CliRunner().invoke(application, ["identify", plain, *map(str, photographs), "--top", "2"])
    assert result.exit_code == 0, result.output
    answers = [json.loads(line) for line in result.output.splitlines()]
    assert [answer["filename"] for answer in answers] == [str(path) for path in photographs]
    assert all(len(answer["candidates"]) == 2 for answer in answers)


def test_several_images_of_one_animal_get_one_result(plain: str, photographs: list[Path]) -> None:
    (answer,) = ask_service(plain, photographs, encounter=True)
    assert (answer["views"], answer["model"]) == (2, "tiny-00000000")
    result = CliRunner().invoke(application, ["identify", "runs/x/best", str(photographs[0]), "--encounter"])
    assert result.exit_code == 2
    assert "--encounter needs a service" in result.output


def test_answers_are_printed_as_rows_for_a_spreadsheet(plain: str, bundle: Path, photographs: list[Path]) -> None:
    tables = []
    for target in (plain, str(bundle)):
        result = CliRunner().invoke(application, ["identify", target, *map(str, photographs), "--top", "2", "--csv"])
        assert result.exit_code == 0, result.output
        tables.append(list(csv.DictReader(io.StringIO(result.output))))
    assert tables[0] == tables[1]
    assert [(row["filename"], row["rank"]) for row in tables[0]] == [
        (str(path), rank) for path in photographs for rank in "12"
    ]


class ScriptedService:
    """A service that answers each call by the next of these statuses; 0 cuts the connection."""

    def __init__(self, statuses: list[int]) -> None:
        self.left = list(statuses)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        status = self.left.pop(0)
        if not status:
            raise httpx.ReadError("cut")
        body = {"model": "m", "results": [{"filename": "one.jpg"}], "detail": "too many"}
        return httpx.Response(status, json=body, headers={"Retry-After": "0"} if status != 502 else {})


@pytest.mark.parametrize("statuses", [[200], [503, 429, 200], [0, 200], [502, 200]])
def test_interrupted_and_rejected_calls_are_retried(
    monkeypatch: pytest.MonkeyPatch, photographs: list[Path], statuses: list[int]
) -> None:
    service = ScriptedService(statuses)
    original = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **options: original(transport=httpx.MockTransport(service), **options))
    assert ask_service("http://whales", photographs[:1])[0]["filename"] == "one.jpg"
    assert service.left == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (httpx.Response(301, headers={"Location": "https://whales/"}), r"leads to https://whales/\. Name"),
        (httpx.Response(200, html="<h1>Welcome</h1>"), r"must be a whale_ray service, but its answer has another form"),
        (httpx.Response(200, json=["other"]), r"must be a whale_ray service, but its answer has another form"),
    ],
)
def test_an_address_that_is_no_service_is_reported(
    monkeypatch: pytest.MonkeyPatch, photographs: list[Path], answer: httpx.Response, message: str
) -> None:
    client, transport = httpx.Client, httpx.MockTransport(lambda request: answer)
    monkeypatch.setattr(httpx, "Client", lambda **options: client(transport=transport, **options))
    with pytest.raises(InputError, match=message):
        ask_service("http://whales", photographs[:1])


def test_the_last_error_of_the_service_is_reported_when_retries_end(
    monkeypatch: pytest.MonkeyPatch, photographs: list[Path]
) -> None:
    monkeypatch.setattr(client, "_RETRY_SECONDS", 1.0)
    service = ScriptedService([503] * 9)
    original = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **options: original(transport=httpx.MockTransport(service), **options))
    with pytest.raises(InputError, match=r"refuses .*one\.jpg: too many"):
        ask_service("http://whales", photographs[:1])
    assert 0 < len(service.left) < 8


@pytest.fixture
def enrolling_service(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A service that takes enrolments, and a folder with the photographs that the pages name."""
    for name in ("fluke", "one", "two", "left", "right"):
        Image.new("RGB", (64, 48), (len(name) * 40, 90, 120)).save(tmp_path / f"{name}.jpg")
    (tmp_path / "two.jpg").write_bytes((tmp_path / "right.jpg").read_bytes())
    monkeypatch.chdir(tmp_path)
    store = EnrolmentStore(f"sqlite:///{tmp_path}/enrolled.db")
    with plain_server(web_service(bundle, store=store)) as address:
        yield address
    store.close()


def test_the_curl_lines_of_the_pages_run(enrolling_service: str) -> None:
    lines = [line for line in commands() if line.startswith("curl ")]
    lines = [line for line in lines if "synthetic/" not in line]
    assert len(lines) >= 8
    for line in lines:
        command = line.replace("http://127.0.0.1:8000", enrolling_service).replace(
            "curl ", "curl --fail-with-body -sS ", 1
        )
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{line}: {done.stdout} {done.stderr}"


def test_the_python_lines_of_the_pages_run(enrolling_service: str) -> None:
    (code,) = blocks("python", holding="httpx")
    command = [sys.executable, "-c", code.replace("http://127.0.0.1:8000", enrolling_service)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["1", "2", "3"], done.stderr


@pytest.mark.skipif(not shutil.which("node"), reason="JavaScript needs node")
def test_the_javascript_lines_of_the_pages_run(enrolling_service: str) -> None:
    (code,) = blocks("javascript", holding="fetch")
    command = ["node", "--input-type=module", "-e", code.replace("http://127.0.0.1:8000", enrolling_service)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["1", "2", "3"], done.stderr


def test_a_refusal_names_the_photograph_and_the_remedy(plain: str, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("a text")
    with pytest.raises(InputError, match=r"refuses .*text\.jpg"):
        ask_service(plain, [tmp_path / "text.jpg"])
    with pytest.raises(InputError, match=r"nothing\.jpg must be a readable file"):
        ask_service(plain, [tmp_path / "nothing.jpg"])
