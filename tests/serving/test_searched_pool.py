"""`view` and `species` of `identify`: the service searches the pool of the bundle, and says which one."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from drawn_photographs import IMAGES_EACH, INDIVIDUALS, draw, encode
from services import contents, enrolment_server, plain_server, web_service
from test_routes_identify import check_problem
from typer.testing import CliRunner

from whale_ray.cli import application
from whale_ray.inference.bundle import write_bundle
from whale_ray.inference.predictor import Bundle
from whale_ray.serving.client import ask_service

SIDES = ("left", "right", "")  # of the three photographs of each individual
SPECIES = ("blue", "blue", "blue", "fin", "fin", "")  # of each individual
PNG = encode(draw(0, 9), "PNG")


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `contents` with viewpoints and species, searched on the same side."""
    whole = contents()
    table = whole.table.assign(
        viewpoint=SIDES * len(INDIVIDUALS), species=[one for one in SPECIES for _ in range(IMAGES_EACH)]
    )
    manifest = whole.manifest | {"retrieval": whole.manifest["retrieval"] | {"side": "same"}}
    folder = tmp_path_factory.mktemp("sides") / "bundle"
    return write_bundle(dataclasses.replace(whole, table=table, manifest=manifest), folder)


@pytest.fixture(scope="module")
def address(sides: Path) -> Iterator[str]:
    with plain_server(web_service(sides)) as address:
        yield address


def ask(address: str, **query: Any) -> dict[str, Any]:
    answer = httpx.post(f"{address}/v1/identify", params=query, content=PNG)
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    return dict(result)


@pytest.mark.parametrize(
    ("query", "pool"),
    [
        ({}, (None, None, 18, 6)),
        ({"view": "left"}, ("left", None, 12, 6)),
        ({"species": "blue"}, (None, "blue", 12, 4)),
        ({"view": "right", "species": "fin"}, ("right", "fin", 6, 3)),
    ],
)
def test_the_answer_says_which_part_of_the_gallery_was_searched(
    address: str, sides: Path, query: dict[str, str], pool: tuple[object, ...]
) -> None:
    found = ask(address, top=6, **query)
    assert tuple(found["pool"].values()) == pool
    assert list(found["pool"]) == ["view", "species", "images", "individuals"]
    species = dict(zip(INDIVIDUALS, SPECIES, strict=True))
    if "species" in query:
        assert {species[one["individual"]] for one in found["candidates"]} == {query["species"], ""}
    for one in found["candidates"]:
        viewpoint = SIDES[int(one["image"].partition("/")[2].partition(".")[0]) % IMAGES_EACH]
        assert viewpoint in (query.get("view", viewpoint), "")
    (alone,) = Bundle.load(sides).identify(
        [PNG], top=6, viewpoint=query.get("view", ""), species=query.get("species", "")
    )
    assert [one["image"] for one in found["candidates"]] == [one.image for one in alone.candidates]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"view": "lefd"}, ("view is one of left, right here, but got 'lefd'", "Did you mean `left`?")),
        ({"species": "sei"}, ("species is one of blue, fin here, but got 'sei'", "leave it out")),
    ],
)
def test_an_unknown_value_is_refused_with_the_known_ones(
    address: str, plain: str, query: dict[str, str], words: tuple[str, ...]
) -> None:
    check_problem(httpx.post(f"{address}/v1/identify", params=query, content=PNG), 422, *words)
    without = httpx.post(f"{plain}/v1/identify", params=query, content=PNG)
    check_problem(without, 422, f"the gallery has no {next(iter(query))}", "out")


def test_a_model_without_viewpoints_and_species_answers_as_before(plain: str, bundle: Path) -> None:
    assert "pool" not in ask(plain)
    card = httpx.get(f"{plain}/v1/model").json()
    assert (card["viewpoints"], card["species"], card["species_thresholds"]) == ([], [], {})
    printed = CliRunner().invoke(application, ["identify", str(bundle), "--help"])
    assert "--view" in printed.stdout


def test_the_model_card_names_the_values(address: str) -> None:
    card = httpx.get(f"{address}/v1/model").json()
    assert (card["viewpoints"], card["species"]) == (["left", "right"], ["blue", "fin"])


def test_an_encounter_and_its_boxes_are_searched_in_the_pool(address: str) -> None:
    found = ask(address, view="left", encounter=True)
    assert found["pool"]["view"] == "left"
    boxed = ask(address, view="left", box="0,0,90,60")
    assert (boxed["pool"]["view"], boxed["box"]) == ("left", [0, 0, 90, 60])


def test_the_pool_has_columns_in_the_csv(address: str) -> None:
    answer = httpx.post(
        f"{address}/v1/identify",
        params={"view": "left", "box": "0,0,90,60"},
        content=PNG,
        headers={"Accept": "text/csv"},
        timeout=30,
    )
    table = pd.read_csv(io.StringIO(answer.text))
    assert table.columns[-5:].tolist() == ["pool_view", "pool_species", "pool_images", "pool_individuals", "box"]
    assert set(table["pool_view"]) == {"left"}
    assert set(table["pool_images"]) == {12}


def test_client_and_command_take_view_and_species(address: str, sides: Path, tmp_path: Path) -> None:
    path = tmp_path / "fluke.png"
    path.write_bytes(PNG)
    (asked,) = ask_service(address, [path], view="left", species="fin")
    assert tuple(asked["pool"].values()) == ("left", "fin", 6, 3)
    command = ["identify", str(sides), str(path), "--view", "left", "--species", "fin"]
    printed = CliRunner().invoke(application, command)
    assert printed.exit_code == 0, printed.output
    assert json.loads(printed.stdout)["pool"] == asked["pool"]
    refused = CliRunner().invoke(application, [*command[:-1], "fim"])
    assert refused.exit_code == 2
    assert "Did you mean `fin`?" in refused.output


@pytest.mark.integration
def test_an_enrolled_photograph_keeps_its_view_and_species(sides: Path, tmp_path: Path) -> None:
    with enrolment_server(sides, tmp_path) as address, httpx.Client(base_url=address) as client:
        wrong = client.post("/v1/individuals/w_50/images", params={"view": "top"}, content=PNG)
        check_problem(wrong, 422, "view is one of left, right")
        answer = client.post(
            "/v1/individuals/w_50/images", params={"view": "left", "species": "fin"}, content=encode(draw(50, 0), "PNG")
        )
        assert answer.json()["images"][0]["status"] == "enrolled"
        assert ask(address, view="left", species="fin")["pool"] == {
            "view": "left",
            "species": "fin",
            "images": 7,
            "individuals": 4,
        }
        assert ask(address, view="right", species="fin")["pool"]["images"] == 6
        assert ask(address, species="blue")["pool"]["individuals"] == 4
        client.post("/v1/individuals/w_51/images", content=encode(draw(51, 0), "PNG"))
        assert ask(address, view="right", species="fin")["pool"]["images"] == 7, "unknown: a candidate of every query"
