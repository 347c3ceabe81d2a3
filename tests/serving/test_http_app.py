"""HTTP application: every call but identify, without Ray and, marked slow, on a real Ray Serve."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import services
from drawn_photographs import INDIVIDUALS, draw, encode
from fastapi.testclient import TestClient
from PIL import Image
from services import KEY, plain_server, web_service
from test_routes_identify import check_problem

from whale_ray.inference import predictor
from whale_ray.serving import query_parameters
from whale_ray.serving.http.app import build_app


def test_the_model_card_has_bundle_and_scores(client: httpx.Client) -> None:
    card = client.get("/v1/model").json()
    assert card["id"] == "tiny-00000000"
    assert card["encoder"] == "tiny"
    assert (card["individuals"], card["images"], card["embedding_size"]) == (6, 18, 32)
    assert card["threshold"] == 0.999
    assert card["scores"]["recall@1_low"] == 0.4


def test_individuals_are_listed_in_linked_pages(client: httpx.Client) -> None:
    address, found = "/v1/individuals?limit=4", []
    while address:
        page = client.get(address).json()
        assert page["total"] == 6
        found.append(page["individuals"])
        address = page["next"]
    assert [len(part) for part in found] == [4, 2]
    assert [one["id"] for part in found for one in part] == list(INDIVIDUALS)
    assert {one["images"] for part in found for one in part} == {3}


def test_an_individual_lists_its_photographs_in_pages(client: httpx.Client) -> None:
    first = client.get("/v1/individuals/w_01", params={"limit": 2}).json()
    second = client.get(first["next"]).json()
    assert (first["id"], first["total"]) == ("w_01", 3)
    assert first["images"] + second["images"] == ["w_01/3.jpg", "w_01/4.jpg", "w_01/5.jpg"]
    assert second["next"] is None


def test_a_thumbnail_is_a_jpeg(client: httpx.Client) -> None:
    answer = client.get("/v1/images/w_00%2F0.jpg")
    assert answer.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert picture.format == "JPEG"


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("/v1/individuals/nobody", "/v1/individuals"),
        ("/v1/individuals/", "/v1/individuals"),
        ("/v1/images/nothing.jpg", "/v1/individuals"),
        ("/v1/images/..%2F..%2Fbundle.json", "/v1/individuals"),
        ("/v1/images/w_05%2F17.jpg", "thumbnails: true"),
        ("/nowhere", "/docs"),
        ("/v1/model/", "/docs"),
        ("/docs/main.txt", "/docs"),
    ],
)
def test_an_unknown_path_is_a_404_problem(client: httpx.Client, address: str, word: str) -> None:
    check_problem(client.get(address), 404, word)


def test_another_method_is_a_405_problem_that_names_the_right_one(client: httpx.Client) -> None:
    answer = client.get("/v1/identify")
    check_problem(answer, 405, "POST")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "page=2"])
def test_a_malformed_page_is_a_400_problem(client: httpx.Client, query: str) -> None:
    check_problem(client.get(f"/v1/individuals?{query}"), 400, query.partition("=")[0])


def test_healthz_reports_ready(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok", "model": "tiny-00000000"}


def test_the_docs_load_no_external_resource(client: httpx.Client) -> None:
    answer = client.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert not re.findall(r"(?:https?:)?//[a-z]", answer.text)
    assert "http" not in answer.headers["content-security-policy"]
    for file in re.findall(r'(?:src|href)="(docs[^"]*)"', answer.text):
        assert client.get(f"/{file}").status_code == 200
    assert '"validatorUrl": null' in answer.text


@pytest.mark.parametrize(
    ("accepted", "language"), [("ru-RU,ru;q=0.9,en;q=0.8", "ru"), ("de-DE,en;q=0.5", "en"), ("", "en")]
)
def test_the_root_redirects_to_the_page_in_the_preferred_language(
    client: httpx.Client, accepted: str, language: str
) -> None:
    answer = client.get("/", headers={"Accept-Language": accepted})
    assert (answer.status_code, answer.headers["location"]) == (307, f"/page/{language}/")


def test_the_root_redirects_to_the_docs_without_a_page(bundle: Path) -> None:
    with TestClient(build_app({"default": web_service(bundle)}, page=False), base_url="http://localhost") as alone:
        answer = alone.get("/", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (307, "/docs")


def test_the_examples_of_the_bundle_are_served(client: httpx.Client) -> None:
    first, second = client.get("/v1/examples").json()["examples"]
    assert (first["individual"], second["individual"]) == (INDIVIDUALS[0], "new_whale")
    picture = client.get(first["address"])
    assert picture.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(picture.content)).format == "JPEG"
    check_problem(client.get("/v1/examples/2"), 404, "for the 2 that exist")


def test_openapi_announces_problems_and_never_the_frameworks_own_refusals(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    identify = schema["paths"]["/v1/identify"]["post"]
    assert set(identify["responses"]) == {
        "200",
        "400",
        "401",
        "403",
        "404",
        "408",
        "413",
        "415",
        "421",
        "422",
        "429",
        "503",
        "default",
    }
    assert set(identify["responses"]["422"]["content"]) == {"application/problem+json"}
    assert set(identify["requestBody"]["content"]) == {"image/*", "multipart/form-data"}
    top = next(one for one in identify["parameters"] if one["name"] == "top")
    assert (top["schema"]["minimum"], top["schema"]["maximum"]) == (1, 50)
    references = set(re.findall(r"#/components/schemas/(\w+)", client.get("/openapi.json").text))
    assert references <= set(schema["components"]["schemas"])


@pytest.fixture(scope="module")
def locked(bundle: Path) -> Iterator[httpx.Client]:
    with plain_server(web_service(bundle), services.locked()) as address, httpx.Client(base_url=address) as caller:
        yield caller


@pytest.mark.parametrize("address", ["/v1/model", "/docs", "/openapi.json", "/v1/images/w_00%2F0.jpg", "/nowhere"])
@pytest.mark.parametrize("header", [None, "", "Bearer", f"Basic {KEY}", KEY, f"Bearer {KEY}x", "Bearer \u00e9"])
def test_a_call_without_the_right_key_is_a_401_problem(locked: httpx.Client, address: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    answer = locked.get(address, headers=headers)
    check_problem(answer, 401, "Authorization: Bearer")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert KEY not in answer.text


def test_a_photograph_without_the_key_is_refused_before_it_is_read(locked: httpx.Client) -> None:
    check_problem(locked.post("/v1/identify", content=b"x", headers={"Content-Type": "text/plain"}), 401)


def test_a_valid_key_is_accepted_by_every_call(locked: httpx.Client) -> None:
    headers = {"Authorization": f"bearer {KEY}"}
    assert locked.get("/v1/model", headers=headers).status_code == 200
    body = encode(draw(0, 0), "PNG")
    assert locked.post("/v1/identify", files={"image": body}, headers=headers).status_code == 200


def test_readiness_and_the_page_need_no_key(locked: httpx.Client) -> None:
    assert locked.get("/healthz").status_code == 200
    assert locked.get("/").status_code == 307


def test_the_contract_allows_as_many_candidates_as_a_bundle_ranks() -> None:
    assert query_parameters.MOST_CANDIDATES == predictor.MOST_CANDIDATES


def test_an_answer_has_one_request_id_wherever_the_service_runs(client: httpx.Client) -> None:
    for path in ("/v1/model", "/v1/nowhere", "/page/en/"):
        (made,) = client.get(path).headers.get_list("x-request-id")
        assert re.fullmatch("[0-9a-f-]{32,36}", made)
        kept = client.get(path, headers={"X-Request-Id": "boat-7.a_B"}).headers.get_list("x-request-id")
        assert kept == ["boat-7.a_B"]
