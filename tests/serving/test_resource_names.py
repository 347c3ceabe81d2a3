"""Individuals and photographs of any name are addressed over HTTP by clients that normalise paths."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from drawn_photographs import INDIVIDUALS, draw, encode
from fastapi.testclient import TestClient
from services import contents, web_service
from test_routes_identify import check_problem

from whale_ray.inference.bundle import write_bundle
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore
from whale_ray.serving.http.app import build_app
from whale_ray.serving.resource_names import individual_path, thumbnail_path

NAMES = dict(zip(INDIVIDUALS, ["..", ".", "a/b", "a/images/b", "-", "%2e%2e"], strict=True))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    """A service with individuals of these names and the photographs `./0.jpg`, `./1.jpg` …"""
    made = contents()
    table = made.table.replace({"individual": NAMES})
    table["image"] = [f"./{row}.jpg" for row in range(len(table))]
    store = EnrolmentStore(f"sqlite:///{tmp_path}/enrolled.db")
    service = web_service(write_bundle(dataclasses.replace(made, table=table), tmp_path / "bundle"), store=store)
    with TestClient(build_app({"default": service}), base_url="http://localhost") as opened:
        yield opened
    service.recognizer.decoders.close()
    store.close()


def test_every_individual_is_shown_in_pages_and_enrolled_and_deleted(client: httpx.Client) -> None:
    names = [one["id"] for one in client.get("/v1/individuals").json()["individuals"]]
    assert sorted(names) == sorted(NAMES.values())
    for number, name in enumerate(names):
        query = {"individual": name}
        first = client.get("/v1/individuals/-", params=query | {"limit": 2}).json()
        second = client.get(first["next"]).json()
        assert (first["id"], second["id"], len(first["images"]), len(second["images"])) == (name, name, 2, 1)
        photograph = encode(draw(50 + number, 0), "PNG")
        answer = client.post("/v1/individuals/-/images", params=query, files={"image": photograph}).json()
        assert answer["individual"] == name
        image = {"image": first["images"][0]}
        assert client.get("/v1/images/-", params=image).headers["content-type"] == "image/jpeg"
        assert client.delete("/v1/individuals/-/images/-", params=query | image).json()["photographs"] == 1
        assert client.delete("/v1/individuals/-", params=query).status_code == 200
        check_problem(client.get("/v1/individuals/-", params=query), 404, "/v1/individuals")
    assert client.get("/v1/individuals").json()["total"] == 0


def test_thumbnails_of_an_answer_are_at_their_addresses(client: httpx.Client) -> None:
    answer = client.post("/v1/identify", files={"image": encode(draw(1, 0), "PNG")}).json()
    candidate = answer["results"][0]["candidates"][0]
    assert candidate["thumbnail"].startswith("/v1/images/-?image=")
    assert client.get(candidate["thumbnail"]).headers["content-type"] == "image/jpeg"


def test_a_name_in_path_and_query_is_refused(client: httpx.Client) -> None:
    check_problem(client.get("/v1/individuals/w_01?individual=.."), 400, "Write `-` there")
    check_problem(client.get("/v1/images/a.jpg?image=b.jpg"), 400, "leave out `image`")
    check_problem(client.get("/v1/individuals/-?individual=nobody"), 404, "/v1/individuals")


def test_a_new_individual_may_not_have_such_a_name(client: httpx.Client) -> None:
    photograph = {"image": encode(draw(60, 0), "PNG")}
    for name in ("c/d", "", " x"):
        answer = client.post("/v1/individuals/-/images", params={"individual": name}, files=photograph)
        check_problem(answer, 400, "the name of a new individual must have")


@pytest.mark.parametrize("name", ["w_01", "-", "Ada & Bo", "3:45", "ünï", "..."])
def test_a_name_that_a_path_holds_stays_in_the_path(name: str) -> None:
    for path, query in (individual_path(name), thumbnail_path(name)):
        assert query == {}
        assert httpx.URL(f"http://localhost{path}").path.rpartition("/")[2] == name


def test_an_image_in_a_folder_keeps_its_address() -> None:
    assert thumbnail_path("w_01/3.jpg") == ("/v1/images/w_01%2F3.jpg", {})
    assert individual_path("%2e%2e") == ("/v1/individuals/-", {"individual": "%2e%2e"})
    assert thumbnail_path("a//3.jpg") == ("/v1/images/-", {"image": "a//3.jpg"})
