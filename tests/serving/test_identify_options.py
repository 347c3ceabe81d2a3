"""Options of identify: encounters, CSV, thumbnails and probabilities; and the metrics of calls."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from drawn_photographs import draw, encode
from services import plain_server, web_service
from test_routes_identify import check_problem

from whale_ray.inference.predictor import Bundle
from whale_ray.retrieval.evaluation.calibration import Calibration, LogisticModel
from whale_ray.retrieval.evaluation.decisions import Decision
from whale_ray.retrieval.evaluation.encounters.encounter_calibration import EncounterCalibration
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.serving import metrics
from whale_ray.serving.http.content_negotiation import answer_csv
from whale_ray.serving.schemas import Answer


def photograph(individual: int, view: int) -> bytes:
    return encode(draw(individual, view), "PNG")


def ask(client: httpx.Client, *files: tuple[str, bytes], accept: str = "*/*", **query: object) -> httpx.Response:
    fields = [("image", file) for file in files]
    return client.post("/v1/identify", files=fields, params=query, headers={"Accept": accept})  # type: ignore[arg-type]


def test_an_encounter_is_ranked_by_the_mean_of_its_embeddings(client: httpx.Client, bundle: Path) -> None:
    views = [photograph(2, view) for view in (5, 6, 7)]
    body = ask(client, *((f"{at}.png", data) for at, data in enumerate(views)), encounter=True, top=3).json()
    (result,) = body["results"]
    assert (result["filename"], result["views"]) == (None, 3)
    alone = Bundle.load(bundle)
    vectors = alone.embed([alone.prepare(view) for view in views])
    (expected,) = alone.rank(normalize_rows(vectors.sum(axis=0)[None]), top=3)
    assert [one["individual"] for one in result["candidates"]] == [one.individual for one in expected.candidates]
    distances = [one["distance"] for one in result["candidates"]]
    assert distances == pytest.approx([one.distance for one in expected.candidates], abs=2e-6)


def test_probabilities_are_those_of_the_bundles_calibration(bundle: Path) -> None:
    service = web_service(bundle)
    service.bundle.calibration = Calibration(LogisticModel(-1.0, 2.0, 3.0, 0.5), LogisticModel(1.0, -3.0, 0.0, 0.0))
    with plain_server(service) as address, httpx.Client(base_url=address) as client:
        (result,) = ask(client, ("a.png", photograph(2, 5))).json()["results"]
        first, second = (1.0 - one["distance"] for one in result["candidates"][:2])
        probability = 1.0 / (1.0 + math.exp(1.0 - 2.0 * first - 3.0 * (first - second) - 0.5))
        assert result["candidates"][0]["probability"] == pytest.approx(probability, abs=1e-4)
        assert result["new_individual"]["probability"] == pytest.approx(
            1.0 / (1.0 + math.exp(3.0 * first - 1.0)), abs=1e-4
        )
        views = [("a.png", photograph(2, 5)), ("b.png", photograph(2, 6))]
        (together,) = ask(client, *views, encounter=True).json()["results"]
        assert {one["probability"] for one in [together["new_individual"], *together["candidates"]]} == {None}
        service.bundle.encounters = EncounterCalibration(service.bundle.calibration, 0.0, new_slope=4.0, threshold=0.5)
        service.bundle.decision = Decision("balanced", 0.5, 0.5)
        (together,) = ask(client, *views, encounter=True).json()["results"]
        first = 1.0 - together["candidates"][0]["distance"]
        probability = 1.0 / (1.0 + math.exp(3.0 * first - 1.0 - 4.0 * math.log(2)))
        assert together["new_individual"] == {
            "probability": pytest.approx(probability, abs=1e-4),
            "decision": "new" if probability >= 0.5 else "known",
        }
        assert None not in {one["probability"] for one in together["candidates"]}
        (alone,) = ask(client, views[0], encounter=True).json()["results"]
        assert alone["new_individual"]["probability"] != together["new_individual"]["probability"]


def test_unusable_images_of_an_encounter_are_listed_beside_its_result(client: httpx.Client) -> None:
    body = ask(client, ("a.png", photograph(2, 5)), ("b.txt", b"text"), ("c.png", photograph(2, 6)), encounter=True)
    whole, problem = body.json()["results"]
    assert whole["views"] == 2
    assert problem["filename"] == "b.txt"
    assert problem["problem"]["status"] == 415
    check_problem(ask(client, ("b.txt", b"text"), ("c.png", b""), encounter=True), 415)


def test_an_encounter_of_one_image_equals_a_single_identification(client: httpx.Client) -> None:
    one, alone = (ask(client, ("a.png", photograph(2, 5)), encounter=way).json()["results"][0] for way in (True, False))
    assert one | {"filename": "a.png"} == alone


def test_each_candidate_has_the_address_of_its_thumbnail_or_none(client: httpx.Client) -> None:
    (result,) = ask(client, ("a.png", photograph(5, 2)), top=6).json()["results"]
    by_image = {one["image"]: one["thumbnail"] for one in result["candidates"]}
    assert by_image["w_05/17.jpg"] is None
    others = [address for image, address in by_image.items() if image != "w_05/17.jpg"]
    assert len(others) == 5
    assert client.get(others[0]).headers["content-type"] == "image/jpeg"


def test_results_are_csv_on_request(client: httpx.Client) -> None:
    answer = ask(client, ("=1+1.png", photograph(2, 5)), ("b.txt", b"text"), accept="text/csv, */*;q=0.1", top=2)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    first, second, problem = csv.DictReader(io.StringIO(answer.text))
    assert (first["filename"], first["rank"], first["decision"]) == ("'=1+1.png", "1", "known")
    assert second["rank"] == "2"
    assert (problem["filename"], problem["individual"]) == ("b.txt", "")
    assert "JPEG" in problem["problem"]
    assert ask(client, ("a.png", photograph(2, 5))).headers["content-type"] == "application/json"


def test_no_csv_cell_is_a_formula() -> None:
    evil = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", 'a"\n=1']
    problem = {"title": "t", "status": 415, "detail": "=d"}
    results = [{"filename": name, "problem": problem} for name in evil]
    text = answer_csv(Answer.model_validate({"model": "=m", "results": results}))
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(rows) == len(evil)
    assert not [cell for row in rows for cell in row.values() if cell[:1] in tuple("=+-@\t\r")]


class Listener:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.stages: dict[str, list[float]] = {}
        self.batches: dict[str, list[float]] = {}

    def add(self, name: str, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(metrics.METRICS[name].tags)
        if name == "whale_ray_stage_seconds":
            self.stages.setdefault(tags["stage"], []).append(value)
        elif name == "whale_ray_batch_size":
            self.batches.setdefault(tags["stage"], []).append(value)
        else:
            self.counts[f"{name} {' '.join(tags.values())}"] += int(value)


@pytest.fixture
def heard() -> Iterator[Listener]:
    listener, before = Listener(), metrics._sink
    metrics.set_sink(listener)
    yield listener
    metrics.set_sink(before)


def test_metrics_count_calls_refusals_batches_stages_and_decisions(bundle: Path, heard: Listener) -> None:
    service = web_service(bundle)
    with plain_server(service) as address, httpx.Client(base_url=address) as client:
        ask(client, ("a.png", photograph(2, 5)), ("b.png", photograph(3, 5)))
        ask(client, ("b.txt", b"text"))
        client.request("BREW", "/v1/individuals/w_01")
        client.get("/v1/individuals/unknown")
    assert heard.counts["whale_ray_requests POST /v1/identify 200"] == 1
    assert heard.counts["whale_ray_requests POST /v1/identify 415"] == 1
    assert heard.counts["whale_ray_requests GET /v1/individuals/{id:path} 404"] == 1
    assert not [name for name in heard.counts if "BREW" in name]
    assert heard.counts["whale_ray_refusals 415"] == 1
    assert heard.counts["whale_ray_answers known"] + heard.counts["whale_ray_answers new"] == 2
    assert sum(heard.batches["embed"]) == sum(heard.batches["search"]) == 2
    assert {"decode", "embed", "search", "call"} == set(heard.stages)
    assert np.min(heard.stages["embed"]) > 0
