"""Detector of the service, of the command `identify` and of the settings."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
from drawn_photographs import draw, encode
from onnx_detectors import write_detector
from PIL import Image
from services import LIMITS, contents, plain_server, web_service
from typer.testing import CliRunner

from whale_ray.cli import application
from whale_ray.errors import InputError
from whale_ray.inference.bundle import write_bundle
from whale_ray.inference.detection.detector import Detector
from whale_ray.serving.auth.api_keys import ApiKeys
from whale_ray.serving.deployment.application import build_application
from whale_ray.serving.deployment.settings import ServeSettings
from whale_ray.serving.engine.animal_finder import AnimalFinder
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore

pytestmark = pytest.mark.integration

SIZE = (200, 100)  # of the photographs; the detector's input is 100 x 100
BOXES = {"w_02": (104, 30, 200, 94), "w_01": (0, 0, 96, 64)}
ANIMALS = [(76, 56, 48, 32, 0.9, 0.8, 0, 0), (24, 41, 48, 32, 0.5, 0.8, 0, 0)]
"""The boxes in the letterbox: half the size, 25 pixels lower."""


def pod() -> bytes:
    picture = Image.new("RGB", SIZE)
    picture.paste(draw(2, 0), (104, 30))
    picture.paste(draw(1, 0), (0, 0))
    return encode(picture, "PNG")


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that was trained on crops."""
    whole = contents()
    table = whole.table.assign(file=whole.table["image"], x0=0.0, y0=0.0, x1=96.0, y1=64.0)
    return write_bundle(dataclasses.replace(whole, table=table), tmp_path_factory.mktemp("crops") / "bundle")


def write(folder: Path, rows: list[tuple[float, ...]]) -> Path:
    return write_detector(folder / f"detector{len(rows)}.onnx", rows, size=(100, 100))


@pytest.fixture
def server(crops: Path, tmp_path: Path) -> Iterator[str]:
    finder = AnimalFinder(Detector(write(tmp_path, ANIMALS)), bytes_=LIMITS.image_bytes, pixels=LIMITS.image_pixels)
    store = EnrolmentStore(f"sqlite:///{tmp_path}/enrolled.db")
    with plain_server(web_service(crops, finder=finder, store=store)) as address:
        yield address
    finder.decoders.close()
    store.close()


def ask(address: str, body: bytes, **params: object) -> list[dict[str, object]]:
    answer = httpx.post(f"{address}/v1/identify", content=body, params={"top": 1, **params})  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    return list(answer.json()["results"])


def first(result: dict[str, object]) -> str:
    return str(result["candidates"][0]["individual"])  # type: ignore[index]


def test_each_detected_animal_has_its_result_with_box_and_confidence(server: str) -> None:
    results = ask(server, pod())
    assert [first(result) for result in results] == list(BOXES)
    assert [result["detection"] for result in results] == [0.72, 0.4]
    for result, box in zip(results, BOXES.values(), strict=True):
        assert result["box"] == pytest.approx(box, abs=0.01)
        (again,) = ask(server, pod(), box=",".join(map(str, result["box"])))  # type: ignore[call-overload]
        assert "detection" not in again
        assert again["candidates"] == result["candidates"]


def test_several_photographs_and_an_encounter_are_detected(server: str) -> None:
    files = [("image", ("a.png", pod())), ("image", ("torn.png", pod()[:200])), ("image", ("b.png", pod()))]
    answer = httpx.post(f"{server}/v1/identify", files=files, params={"top": 1}).json()["results"]
    assert [one["filename"] for one in answer] == ["a.png", "a.png", "torn.png", "b.png", "b.png"]
    assert answer[2]["problem"]["status"] == 422
    assert "detection" not in answer[2]
    whole, _ = httpx.post(f"{server}/v1/identify", files=files, params={"encounter": True}).json()["results"]
    assert (whole["views"], first(whole)) == (2, "w_02")  # the most confident animal of each


def test_the_csv_has_the_confidence(server: str) -> None:
    headers = {"Accept": "text/csv"}
    answer = httpx.post(f"{server}/v1/identify", content=pod(), params={"top": 1}, headers=headers)
    assert pd.read_csv(io.StringIO(answer.text))["detection"].tolist() == [0.72, 0.4]


def test_without_an_animal_the_whole_photograph_is_identified(crops: Path, tmp_path: Path) -> None:
    finder = AnimalFinder(Detector(write(tmp_path, ANIMALS), confidence=0.9), bytes_=10**6, pixels=10**6)
    with plain_server(web_service(crops, finder=finder)) as address:
        (result,) = ask(address, encode(draw(3, 0), "PNG"))
        assert (first(result), result["detection"], "box" in result) == ("w_03", None, False)
        text = httpx.post(f"{address}/v1/identify", content=pod(), headers={"Accept": "text/csv"}).text
        assert set(pd.read_csv(io.StringIO(text))["detection"]) == {"none"}
    finder.decoders.close()


def test_the_command_identifies_detected_animals(crops: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "pod.png").write_bytes(pod())
    detector = str(write(tmp_path, ANIMALS))
    command = ["identify", str(crops), str(tmp_path / "pod.png"), "--detector", detector, "--top", "1"]
    result = CliRunner().invoke(application, command)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.output.splitlines()]
    assert [(first(line), line["detection"]) for line in lines] == [("w_02", 0.72), ("w_01", 0.4)]
    assert np.allclose([line["box"] for line in lines], list(BOXES.values()), atol=0.01)
    result = CliRunner().invoke(application, [*command, "--detector-confidence", "0.9"])
    (line,) = [json.loads(line) for line in result.output.splitlines()]
    assert (line["detection"], "box" in line) == (None, False)
    for words, reason in (
        (["--box", "0,0,9,9"], "--detector finds the boxes itself"),
        (["--detector", str(tmp_path / "none.onnx")], "is not there"),
    ):
        refused = CliRunner().invoke(application, [*command, *words])
        assert (refused.exit_code, reason in refused.output) == (2, True), refused.output
    for target, reason in ((str(bundle), "trained on whole"), ("http://127.0.0.1:9", "--set detector=FILE")):
        refused = CliRunner().invoke(application, [command[0], target, *command[2:]])
        assert refused.exit_code == 2
        assert reason in " ".join(refused.output.split())


def test_a_service_refuses_a_detector_that_it_cannot_use(crops: Path, bundle: Path, tmp_path: Path) -> None:
    good, bad = write(tmp_path, ANIMALS), tmp_path / "text.onnx"
    bad.write_text("no model")
    build_application(ServeSettings(bundle=crops, detector=good, store="none"), keys=ApiKeys(()))
    both = {"a": bundle, "b": crops}
    build_application(ServeSettings(models=both, detector=good, store="none"), keys=ApiKeys(()))
    with pytest.raises(InputError, match=r"text\.onnx cannot be the detector"):
        build_application(ServeSettings(bundle=crops, detector=bad, store="none"), keys=ApiKeys(()))
    with pytest.raises(InputError, match="trained on crops, but tiny-00000000 was trained on whole photographs"):
        build_application(ServeSettings(bundle=bundle, detector=good, store="none"), keys=ApiKeys(()))


def test_an_older_bundle_that_was_trained_with_boxes_takes_a_detector() -> None:
    whole = contents()
    assert not whole.is_trained_on_boxes
    settings = {"model": {}, "data": {"boxes": "boxes.csv"}}
    assert dataclasses.replace(whole, manifest=whole.manifest | {"settings": settings}).is_trained_on_boxes
    table = whole.table.assign(x0=["", *["1.0"] * (len(whole.table) - 1)])
    assert dataclasses.replace(whole, table=table).is_trained_on_boxes
    assert not dataclasses.replace(whole, table=whole.table.assign(x0="")).is_trained_on_boxes


def test_answers_without_boxes_or_a_detector_have_neither_field(plain: str) -> None:
    (result,) = ask(plain, pod())
    assert list(result) == ["filename", "views", "new_individual", "candidates"]
    fields = httpx.get(f"{plain}/openapi.json").json()["components"]["schemas"]["Identified"]["properties"]
    assert {"box", "detection", "filename", "candidates"} <= set(fields)
    assert "default" not in fields["detection"]
