"""Review queue of probably new animals, and the export of confirmed photographs."""

from __future__ import annotations

import asyncio
import csv
import dataclasses
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from drawn_photographs import draw, encode
from PIL import Image
from services import plain_server, web_service
from test_gallery_store import picture
from test_routes_gallery import enrol, photograph
from test_routes_identify import check_problem
from typer.testing import CliRunner
from waiting import wait_until

from whale_ray.cli import application
from whale_ray.data.catalog import read_catalog
from whale_ray.data.review.apply_review import apply_review
from whale_ray.errors import DataError, StoreError
from whale_ray.inference.predictions import AnimalTraits
from whale_ray.serving.engine.recognizer import Recognizer
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore
from whale_ray.serving.gallery.export import export_enrolled
from whale_ray.serving.gallery.review.review_backlog import ReviewBacklog
from whale_ray.serving.gallery.review.review_queue import LatestAnswer, ReviewItem, ReviewQueue
from whale_ray.serving.http.review.routes_review import queries
from whale_ray.serving.query_parameters import WaitingQuery

pytestmark = pytest.mark.integration


@pytest.fixture
def store(url: str) -> Iterator[EnrolmentStore]:
    opened = EnrolmentStore(url)
    yield opened
    opened.close()


@pytest.fixture
def keeping(bundle: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    store = EnrolmentStore(f"sqlite:///{tmp_path}/enrolled.db")
    service = web_service(bundle, store=store, keep=True)
    service.bundle.threshold = 0.9999999  # random weights: all are near
    with plain_server(service) as address, httpx.Client(base_url=address) as client:
        yield client
    store.close()


def ask(client: httpx.Client, data: bytes) -> None:
    answer = client.post("/v1/identify", content=data, headers={"Content-Type": "image/png"})
    assert answer.status_code == 200


def waiting(client: httpx.Client, count: int) -> list[dict[str, Any]]:
    pages: list[dict[str, Any]] = []

    def is_complete() -> bool:
        pages.append(client.get("/v1/queries").json())
        return bool(pages[-1]["total"] == count)

    wait_until(is_complete, said=lambda: str(pages[-1]))
    return list(pages[-1]["queries"])


def test_each_image_of_an_encounter_decided_as_new_is_queued(keeping: httpx.Client) -> None:
    files = [("image", (f"{view}.png", photograph(40, view))) for view in (0, 1)]
    answer = keeping.post("/v1/identify", files=files, params={"encounter": True})
    assert answer.json()["results"][0]["new_individual"]["decision"] == "new"
    assert {query["decision"] for query in waiting(keeping, 2)} == {"new"}


def test_a_photograph_decided_as_new_is_queued_and_confirmed(keeping: httpx.Client) -> None:
    ask(keeping, photograph(1))  # is in the gallery
    ask(keeping, photograph(40))
    ask(keeping, photograph(40))
    (query,) = waiting(keeping, 1)
    assert query["decision"] == "new"
    assert query["at"].endswith("Z")
    with Image.open(io.BytesIO(keeping.get(query["thumbnail"]).content)) as small:
        assert small.format == "JPEG"
    address = f"/v1/queries/{query['id']}"
    check_problem(keeping.post(f"{address}/confirm", params={"individual": "new_whale"}), 400, "Name an individual")
    answer = keeping.post(f"{address}/confirm", params={"individual": "w_40"}).json()
    assert answer["images"][0]["status"] == "enrolled"
    assert waiting(keeping, 0) == []
    assert keeping.get("/v1/individuals/w_40").json()["images"] == [answer["images"][0]["image"]]
    check_problem(keeping.get(f"{address}/thumbnail"), 404, "/v1/queries")


def test_the_box_of_a_new_animal_is_queued_and_confirmed(keeping: httpx.Client) -> None:
    picture = draw(40, 0)
    wide = Image.new("RGB", (200, 64))
    wide.paste(picture, (100, 0))
    box = {"box": "100,0,196,64"}
    for params in (box, box, {"box": "0,0,100,64"}):
        answer = keeping.post("/v1/identify", params=params, content=encode(wide, "PNG"))
        assert answer.status_code == 200
    last, first = waiting(keeping, 2)
    assert [first["box"], last["box"]] == [[100, 0, 196, 64], [0, 0, 100, 64]]
    with Image.open(io.BytesIO(keeping.get(first["thumbnail"]).content)) as small:
        assert small.size == (96, 64)
    answer = keeping.post(f"/v1/queries/{first['id']}/confirm", params={"individual": "w_40"})
    (image,) = answer.json()["images"]
    assert image["box"] == [100, 0, 196, 64]
    found = keeping.post("/v1/identify", params={"top": 1}, content=photograph(40)).json()["results"][0]
    assert found["candidates"][0]["individual"] == "w_40"
    assert found["candidates"][0]["distance"] == pytest.approx(0.0, abs=1e-3)


def test_a_photograph_that_is_rejected_is_erased(keeping: httpx.Client, tmp_path: Path) -> None:
    ask(keeping, photograph(40))
    (query,) = waiting(keeping, 1)
    pixels = photograph(40)[60:200]
    assert any(pixels in path.read_bytes() for path in tmp_path.glob("enrolled.db*"))
    assert keeping.delete(f"/v1/queries/{query['id']}").status_code == 200
    assert not any(pixels in path.read_bytes() for path in tmp_path.glob("enrolled.db*"))
    check_problem(keeping.delete(f"/v1/queries/{query['id']}"), 404, "/v1/queries")


def test_the_queue_is_listed_in_pages(keeping: httpx.Client) -> None:
    for individual in (40, 41, 42):
        ask(keeping, photograph(individual))
    everything = waiting(keeping, 3)
    page = keeping.get("/v1/queries?limit=2").json()
    assert [*page["queries"], *keeping.get(page["next"]).json()["queries"]] == everything


def searched(client: httpx.Client, *, total: int | None = None, **params: object) -> dict[str, Any]:
    """The queue after the background task has searched all of it; with `total`, once it lists so many."""
    pages: list[dict[str, Any]] = []

    def is_searched() -> bool:
        pages.append(client.get("/v1/queries", params=params).json())  # type: ignore[arg-type]
        return pages[-1]["pending"] == 0 and total in (None, pages[-1]["total"])

    wait_until(is_searched, said=lambda: str(pages[-1]))
    return pages[-1]


def test_waiting_photographs_are_searched_again_after_an_enrolment(keeping: httpx.Client) -> None:
    for individual in (40, 41, 42):
        ask(keeping, photograph(individual))
    waiting(keeping, 3)
    page = searched(keeping)
    assert {query["latest"]["nearest"] == query["nearest"] for query in page["queries"]} == {True}
    assert not [query for query in page["queries"] if query["changed"]]
    assert searched(keeping, changed=True)["total"] == 0
    enrol(keeping, "w_40", photograph(40))
    enrol(keeping, "w_41", photograph(41))
    page = searched(keeping, total=2, changed=True, limit=1)
    both = [*page["queries"], *keeping.get(page["next"]).json()["queries"]]
    assert {query["latest"]["nearest"] for query in both} == {"w_40", "w_41"}
    assert all(query["changed"] and query["latest"]["distance"] < 1e-3 for query in both)
    assert all(query["nearest"] not in ("w_40", "w_41") for query in both)
    (unchanged,) = (query for query in searched(keeping)["queries"] if not query["changed"])
    keeping.delete("/v1/individuals/w_40")
    searched(keeping, total=1, changed=True)
    assert unchanged["id"] not in {query["id"] for query in both}


def test_the_backlog_embeds_once_per_bundle_and_searches_once_per_version(bundle: Path, tmp_path: Path) -> None:
    store = EnrolmentStore(f"sqlite:///{tmp_path}/enrolled.db")
    service = web_service(bundle, store=store, keep=True)
    queue, backlog, searcher = service.review_queue, ReviewBacklog(store), service.backlog
    assert queue is not None and searcher is not None  # noqa: PT018
    began = datetime(2026, 11, 24, tzinfo=UTC)
    pictures = [photograph(40 + number) for number in range(5)] + [b"no image"]
    for number, data in enumerate(pictures):
        item = ReviewItem(f"d{number}", began, "older", "w_00", 0.5, "new", traits=AnimalTraits("left", "fin"))
        queue.keep(item, data=data, thumbnail=b"small")
    decoded: list[int] = []

    async def decode(data: bytes, boxes: Any) -> Any:
        decoded.append(len(data))
        return await Recognizer.decode(service.recognizer, data, boxes)

    service.recognizer.decode = decode  # type: ignore[method-assign]

    async def steps() -> list[int]:
        found = [await searcher.search_some(most=4) for _ in range(3)]
        await asyncio.to_thread(store.forget_individual, "w_00", hide=True)
        return [*found, await searcher.search_some(most=10), await searcher.search_some(), await searcher.pending()]

    try:
        assert asyncio.run(steps()) == [4, 2, 0, 6, 0, 0]
    finally:
        service.recognizer.decoders.close()
    assert len(decoded) == 7, "six photographs, and the one that cannot be decoded once more"
    assert len(backlog.vectors(service.bundle.id, [f"d{number}" for number in range(6)])) == 5
    items = {item.digest: item for item in queue.waiting()}
    assert items["d5"].latest is None
    assert {item.latest.bundle for item in items.values() if item.latest} == {service.bundle.id}
    assert items["d0"].traits == AnimalTraits("left", "fin")
    queue.drop("d0")
    assert not backlog.vectors(service.bundle.id, ["d0"])
    store.close()


def test_nothing_is_pending_only_when_the_list_has_every_new_answer(bundle: Path, tmp_path: Path) -> None:
    store = EnrolmentStore(f"sqlite:///{tmp_path}/enrolled.db")
    service = web_service(bundle, store=store, keep=True)
    queue, searcher = service.review_queue, service.backlog
    assert queue is not None and searcher is not None  # noqa: PT018
    item = ReviewItem("d1", datetime(2026, 11, 24, tzinfo=UTC), "older", "nobody", 0.5, "new")
    queue.keep(item, data=photograph(1), thumbnail=b"small")
    count = searcher.pending

    async def count_after_the_search() -> int:
        """The background search ends while the list is asked for."""
        while await searcher.search_some():
            pass
        return await count()

    searcher.pending = count_after_the_search  # type: ignore[method-assign]
    try:
        page = asyncio.run(queries(WaitingQuery(changed=True), service))
    finally:
        service.recognizer.decoders.close()
        store.close()
    assert (page.pending, page.total) == (0, 1)


def test_an_answer_has_the_time_since_which_it_holds(store: EnrolmentStore) -> None:
    queue, backlog, began = ReviewQueue(store), ReviewBacklog(store), datetime.now(UTC)
    item = ReviewItem("d1", began - timedelta(days=1), "b1", "w_1", 0.5, "new")
    queue.keep(item, data=b"data", thumbnail=b"small")

    def since(version: int, nearest: str, distance: float, decision: str) -> datetime:
        backlog.record("b1", version, {"d1": LatestAnswer("b1", nearest, distance, decision)})
        (found,) = queue.waiting()
        assert found.latest is not None
        assert found.latest.since is not None
        return found.latest.since

    first = since(1, "w_1", 0.5, "new")
    assert began <= first <= datetime.now(UTC)
    assert since(2, "w_1", 0.4, "new") == first
    second = since(3, "w_2", 0.1, "new")
    assert second > first
    assert since(4, "w_2", 0.1, "new") == second
    assert since(5, "w_2", 0.1, "known") > second


def test_nothing_is_queued_by_default(plain: str) -> None:
    with httpx.Client(base_url=plain) as client:
        check_problem(client.get("/v1/queries"), 403, "keep_queries=on")


def test_the_queue_keeps_the_newest_photographs_each_once(store: EnrolmentStore) -> None:
    kept, began = ReviewQueue(store, most=3), datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
    for number in (0, 1, 1, 2, 3, 4):
        query = ReviewItem(f"d{number}", began + timedelta(seconds=number), "b1", "w_1", 0.5, "new")
        kept.keep(query, data=b"data", thumbnail=b"small")
    assert [query.digest for query in kept.waiting()] == ["d4", "d3", "d2"]
    assert kept.waiting()[0].at == began + timedelta(seconds=4)


def test_confirmed_photographs_are_exported_with_review_rows(store: EnrolmentStore, tmp_path: Path) -> None:
    store.enrol("w_1", [picture("a")], bundle="b1")
    seen = dataclasses.replace(picture("b"), traits=AnimalTraits("left", "=fin"))
    store.enrol("=cmd()", [seen], bundle="b1")
    folder, review = tmp_path / "train", tmp_path / "review.csv"
    for _ in range(2):
        assert export_enrolled(store, folder, review) == 2
    assert (folder / "enrolled-a.jpg").read_bytes() == picture("a").data
    with review.open() as stream:
        assert [(row["view"], row["species"]) for row in csv.DictReader(stream)] == [("", ""), ("left", "'=fin")]
    with review.open() as stream:
        rows = [(row["kind"], row["image"], row["individual"], row["confirm"]) for row in csv.DictReader(stream)]
    assert rows == [
        ("confirmed", "enrolled-a.jpg", "w_1", "yes"),
        ("confirmed", "enrolled-b.jpg", "'=cmd()", "yes"),
    ]
    (folder / "enrolled-a.jpg").write_bytes(b"another")
    with pytest.raises(StoreError, match=r"enrolled-a\.jpg must not exist"):
        export_enrolled(store, folder, review)


def test_enrolled_photographs_are_merged_into_the_training_table(tmp_path: Path) -> None:
    url, data, review = f"sqlite:///{tmp_path}/enrolled.db", tmp_path / "data", tmp_path / "review.csv"
    store = EnrolmentStore(url)
    store.enrol("w_1", [picture("a")], bundle="b1")
    store.enrol("=cmd()", [picture("b")], bundle="b1")
    store.close()
    (data / "train").mkdir(parents=True)
    for name in ("old.jpg", "older.jpg"):
        (data / "train" / name).write_bytes(b"old")
    (data / "train.csv").write_text("Image,Id\nold.jpg,w_1\nolder.jpg,w_1\n")
    for command in (("export-enrolled", url, data / "train", review), ("apply-review", review, "--data", data)):
        result = CliRunner().invoke(application, [str(word) for word in command])
        assert result.exit_code == 0, result.output
    table = (data / "train.reviewed.csv").read_text()
    assert table == "Image,Id\nold.jpg,w_1\nolder.jpg,w_1\nenrolled-a.jpg,w_1\nenrolled-b.jpg,=cmd()\n"
    assert "data.view_column" not in result.output


def test_viewpoint_and_species_of_enrolled_photographs_reach_the_training_table(tmp_path: Path) -> None:
    url, data, review = f"sqlite:///{tmp_path}/enrolled.db", tmp_path / "data", tmp_path / "review.csv"
    store = EnrolmentStore(url)
    store.enrol("w_1", [picture("a")], bundle="b1")
    store.enrol("w_1", [dataclasses.replace(picture("b"), traits=AnimalTraits("left", "fin"))], bundle="b1")
    store.close()
    (data / "train").mkdir(parents=True)
    (data / "train.csv").write_text("Image,Id\nold.jpg,w_1\nolder.jpg,w_1\n")
    for command in (("export-enrolled", url, data / "train", review), ("apply-review", review, "--data", data)):
        result = CliRunner().invoke(application, [str(word) for word in command])
        assert result.exit_code == 0, result.output
    assert "--set data.table=train.reviewed.csv --set data.view_column=view --set data.species_column=species" in (
        result.output
    )
    rows = read_catalog(data, table="train.reviewed.csv", view_column="view", species_column="species").table
    assert rows[["view", "species"]].iloc[1:].to_numpy().tolist() == [["", ""], ["", ""], ["left", "fin"]]


def test_enrolled_boxes_reach_the_training_table(tmp_path: Path) -> None:
    url, data, review = f"sqlite:///{tmp_path}/enrolled.db", tmp_path / "data", tmp_path / "review.csv"
    boxes = [(0.0, 0.0, 10.5, 10.0), (10.5, 0.0, 20.0, 10.0)]
    store = EnrolmentStore(url)
    store.enrol("w_1", [picture("a", boxes[0])], bundle="b1")
    (data / "train").mkdir(parents=True)
    for name in ("old.jpg", "older.jpg"):
        (data / "train" / name).write_bytes(b"old")
    (data / "train.csv").write_text("Image,Id\nold.jpg,w_1\nolder.jpg,w_1\n")
    export, apply = ["export-enrolled", url, data / "train", review], ["apply-review", review, "--data", data]

    def run(*command: object, code: int = 0) -> str:
        result = CliRunner().invoke(application, [str(word) for word in command])
        assert result.exit_code == code, result.output
        return result.output

    run(*export)
    run(*apply)
    (data / "train.reviewed.csv").rename(data / "train.csv")
    assert read_catalog(data).box("enrolled-a.jpg") == boxes[0]
    run(*export)
    assert "box 0,0,10.5,10 of enrolled-a.jpg is there, of w_1" in run(*apply, code=2)
    store.enrol("w_2", [picture("a", boxes[1]), picture("b")], bundle="b1")
    run(*export)
    table = pd.read_csv(review, dtype=str, keep_default_na=False)
    assert table["box"].tolist() == ["0,0,10.5,10", "10.5,0,20,10", ""]
    table.loc[0, "confirm"] = "no"
    table.to_csv(review, index=False)
    run(*apply)
    catalog = read_catalog(data, table="train.reviewed.csv")
    rows = catalog.table.iloc[2:]
    assert [(name, catalog.box(name)) for name in rows["image"]] == [
        ("enrolled-a.jpg#0,0,10.5,10", boxes[0]),
        ("enrolled-a.jpg#10.5,0,20,10", boxes[1]),
        ("enrolled-b.jpg", None),
    ]
    assert rows["individual"].tolist() == ["w_1", "w_2", "w_2"]
    store.close()


@pytest.mark.parametrize("box", ["1,2,3", "9,0,5,5"])
def test_a_review_row_with_a_wrong_box_is_refused(tmp_path: Path, box: str) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train.csv").write_text("Image,Id\na.jpg,w_1\nb.jpg,w_1\n")
    (tmp_path / "train" / "c.jpg").write_bytes(b"new")
    (tmp_path / "review.csv").write_text(f'kind,image,individual,confirm,box\nconfirmed,c.jpg,w_1,yes,"{box}"\n')
    with pytest.raises(DataError, match="line 2: a box must be x0,y0,x1,y1"):
        apply_review(tmp_path / "review.csv", root=tmp_path)


def test_the_command_line_exports_a_store(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/enrolled.db"
    store = EnrolmentStore(url)
    store.enrol("w_1", [picture("a")], bundle="b1")
    store.close()
    result = CliRunner().invoke(application, ["export-enrolled", url, str(tmp_path / "t"), str(tmp_path / "r.csv")])
    assert result.exit_code == 0, result.output
    assert "1 enrolled photographs" in result.output
    assert (tmp_path / "t" / "enrolled-a.jpg").exists()
    refused = CliRunner().invoke(application, ["export-enrolled", "mysql://x", str(tmp_path), str(tmp_path / "r.csv")])
    assert refused.exit_code == 2


def test_a_photograph_of_another_individual_stays_in_the_queue(keeping: httpx.Client) -> None:
    ask(keeping, photograph(40))
    (query,) = waiting(keeping, 1)
    enrol(keeping, "w_40", photograph(40))
    answer = keeping.post(f"/v1/queries/{query['id']}/confirm", params={"individual": "w_41"})
    check_problem(answer, 409, "'w_40'")
    assert len(waiting(keeping, 1)) == 1
