"""Enrolling and forgetting over HTTP, on two services that share a store as replicas do."""

from __future__ import annotations

import dataclasses
import io
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from databases import emptied
from drawn_photographs import INDIVIDUALS, draw, encode
from PIL import Image
from server_processes import end_within_limit, free_port
from services import TOP, contents, plain_server, web_service
from starlette.testclient import TestClient
from test_routes_identify import check_problem
from waiting import wait_until

from whale_ray.data.decoding.image_formats import register_decoders
from whale_ray.inference.bundle import write_bundle
from whale_ray.inference.predictor import Bundle
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore
from whale_ray.serving.http.app import build_app

pytestmark = pytest.mark.integration

Pair = tuple[httpx.Client, httpx.Client]


@pytest.fixture
def pair(bundle: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    url = f"sqlite:///{tmp_path}/enrolled.db"
    if getattr(request, "param", "sqlite") == "postgresql":
        url = emptied(request.getfixturevalue("postgresql"))
    stores = [EnrolmentStore(url) for _ in range(2)]
    first, second = (web_service(bundle, store=store) for store in stores)
    with (
        plain_server(first) as one,
        plain_server(second) as two,
        httpx.Client(base_url=one) as client,
        httpx.Client(base_url=two) as other,
    ):
        yield client, other
    for store in stores:
        store.close()


def photograph(individual: int, view: int = 0) -> bytes:
    return encode(draw(individual, view), "PNG")


def enrol(client: httpx.Client, name: str, *photographs: bytes) -> httpx.Response:
    return client.post(
        f"/v1/individuals/{name}/images", files=[("image", (f"{at}.png", data)) for at, data in enumerate(photographs)]
    )


def best(client: httpx.Client, data: bytes) -> tuple[str, str, float]:
    answer = client.post("/v1/identify", content=data, params={"top": 1}, headers={"Content-Type": "image/png"})
    (result,) = answer.json()["results"]
    (candidate,) = result["candidates"]
    return candidate["individual"], candidate["image"], candidate["distance"]


@pytest.mark.parametrize("pair", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
def test_an_enrolled_photograph_is_found_by_the_next_call_on_every_replica(pair: Pair) -> None:
    client, other = pair
    new_animal = photograph(40)
    assert best(client, new_animal)[2] > 1e-5
    answer = enrol(client, "w_40", new_animal, photograph(40, 1))
    assert answer.status_code == 200
    body = answer.json()
    assert (body["individual"], body["version"]) == ("w_40", 1)
    assert [(one["filename"], one["status"]) for one in body["images"]] == [
        ("0.png", "enrolled"),
        ("1.png", "enrolled"),
    ]
    image = body["images"][0]["image"]
    for replica in (other, client):
        individual, matched, distance = best(replica, new_animal)
        assert (individual, matched) == ("w_40", image)
        assert distance < 1e-5
        assert replica.get("/v1/model").json()["images"] == 20
        assert replica.get("/v1/individuals/w_40").json()["total"] == 2
        with Image.open(io.BytesIO(replica.get(f"/v1/images/{image}").content)) as thumbnail:
            assert (thumbnail.format, thumbnail.width) == ("JPEG", 96)


@pytest.mark.slow
def test_a_service_on_ray_enrols_and_forgets(on_ray: str) -> None:
    with httpx.Client(base_url=on_ray, timeout=60) as client:
        image = enrol(client, "w_40", photograph(40)).json()["images"][0]["image"]
        assert best(client, photograph(40))[:2] == ("w_40", image)
        assert client.delete("/v1/individuals/w_40").json()["photographs"] == 1
        assert best(client, photograph(40))[0] != "w_40"


def test_an_enrolled_photograph_is_ranked_as_one_of_the_bundles_gallery(
    pair: Pair, bundle: Path, tmp_path: Path
) -> None:
    """The same photographs, once all in the bundle and once half of them enrolled, give the same answers."""
    whole = contents()
    table = whole.table.iloc[::3].reset_index(drop=True)
    less = dataclasses.replace(whole, table=table, gallery=whole.gallery[::3], thumbnails={})
    store = EnrolmentStore(f"sqlite:///{tmp_path}/half.db")
    service = web_service(write_bundle(less, tmp_path / "less"), store=store)
    with plain_server(service) as address, httpx.Client(base_url=address) as client:
        for row, name in enumerate(whole.table["individual"]):
            if row % 3:
                assert enrol(client, name, photograph(row // 3, row % 3)).status_code == 200
        for individual in (1, 4, 40):
            data = photograph(individual, 7)
            body = client.post("/v1/identify?top=6", content=data, headers={"Content-Type": "image/png"}).json()
            (expected,) = Bundle.load(bundle).identify([data], top=6)
            found = [(one["individual"], one["distance"]) for one in body["results"][0]["candidates"]]
            assert [name for name, _ in found] == [one.individual for one in expected.candidates]
            assert [at for _, at in found] == pytest.approx([one.distance for one in expected.candidates], abs=2e-6)
    store.close()


def test_enrolling_again_changes_nothing(pair: Pair) -> None:
    client, other = pair
    first = enrol(client, "w_40", photograph(40)).json()
    again = enrol(other, "w_40", photograph(40)).json()
    assert again["version"] == first["version"] == 1
    assert again["images"][0] == first["images"][0] | {"status": "already"}


def test_a_photograph_of_another_individual_is_a_409_problem_and_nothing_is_enrolled(pair: Pair) -> None:
    client, _ = pair
    enrol(client, "w_40", photograph(40))
    check_problem(enrol(client, "w_41", photograph(41), photograph(40)), 409, "picture 2", "'w_40'", "Delete it there")
    assert client.get("/v1/individuals/w_41").status_code == 404


def test_an_unusable_photograph_is_named_and_nothing_is_enrolled(pair: Pair) -> None:
    client, _ = pair
    check_problem(
        enrol(client, "w_40", photograph(40), b"a text"), 415, "photograph 2 (1.png)", "No photograph of this call"
    )
    check_problem(enrol(client, "w_40", photograph(40)[:200]), 422, "photograph 1 (0.png)")
    assert client.get("/v1/versions").json() == {"current": 0, "versions": []}


MISLEADING = ["%20", "%20w", "w%09", "w%00", "a%2Fb", "%2E%2E", "w%CC%88", "x" * 101, "%E2%80%AEw", "new_whale"]


def test_a_misleading_name_is_a_400_problem(pair: Pair) -> None:
    client, _ = pair
    base = httpx.URL(str(client.base_url))
    for name in MISLEADING:
        address = base.copy_with(raw_path=f"/v1/individuals/{name}/images".encode())
        answer = client.post(address, files={"image": photograph(40)})
        check_problem(answer, 400, "Name an individual" if name == "new_whale" else "Choose another name")
    assert client.get("/v1/versions").json()["current"] == 0


@pytest.mark.parametrize("pair", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
def test_a_forgotten_photograph_is_not_found_and_cannot_be_restored(pair: Pair) -> None:
    client, other = pair
    body = enrol(client, "w_40", photograph(40), photograph(40, 1)).json()
    image = body["images"][0]["image"]
    assert client.delete(f"/v1/individuals/w_40/images/{image}").json() == {"photographs": 1, "version": 2}
    assert other.get(f"/v1/images/{image}").status_code == 404
    assert best(other, photograph(40))[1] == body["images"][1]["image"]
    assert other.post("/v1/versions/1/restore").json() == {"version": 2}
    assert client.get("/v1/individuals/w_40").json()["total"] == 1
    check_problem(client.delete(f"/v1/individuals/w_40/images/{image}"), 404, "has no photograph")


@pytest.mark.parametrize(
    ("kind", "extension"), [("HEIF", "heic"), ("AVIF", "avif"), ("TIFF", "tif"), ("WEBP", "webp"), ("BMP", "bmp")]
)
def test_an_enrolled_photograph_keeps_the_extension_of_its_format(pair: Pair, kind: str, extension: str) -> None:
    register_decoders()
    (image,) = enrol(pair[0], "w_40", encode(draw(40, 0), kind)).json()["images"]
    assert image["image"].endswith(f".{extension}")
    assert pair[1].get(f"/v1/images/{image['image']}").headers["content-type"] == "image/jpeg"


def test_a_forgotten_photograph_is_removed_from_the_examples(pair: Pair) -> None:
    """A bundle that was trained on everything has its examples in its gallery."""
    client, other = pair
    assert client.delete("/v1/individuals/w_00/images/w_00%2F1.jpg").status_code == 200
    assert [one["individual"] for one in other.get("/v1/examples").json()["examples"]] == ["new_whale"]
    check_problem(other.get("/v1/examples/0"), 404, "/v1/examples")
    assert other.get("/v1/individuals/w_00").json()["total"] == 2


def test_photographs_and_individuals_of_the_bundle_can_be_forgotten_too(pair: Pair) -> None:
    client, other = pair
    known = photograph(1, 0)
    assert best(client, known)[1] == "w_01/3.jpg"
    assert client.delete("/v1/individuals/w_01/images/w_01%2F3.jpg").status_code == 200
    assert best(other, known)[1] != "w_01/3.jpg"
    assert other.get("/v1/images/w_01%2F3.jpg").status_code == 404
    assert client.delete("/v1/individuals/w_01").status_code == 200
    assert best(other, known)[0] != "w_01"
    assert "w_01" not in [one["id"] for one in other.get("/v1/individuals").json()["individuals"]]
    assert [one["individual"] for one in other.get("/v1/examples").json()["examples"]] == ["w_00", "new_whale"]
    assert client.delete("/v1/individuals/w_00").status_code == 200
    (left,) = other.get("/v1/examples").json()["examples"]
    assert (left["individual"], left["address"]) == ("new_whale", "/v1/examples/1")
    check_problem(other.get("/v1/examples/0"), 404, "/v1/examples")
    check_problem(other.delete("/v1/individuals/w_01"), 404, "/v1/individuals")
    check_problem(other.delete("/v1/individuals/w_02/images/w_03%2F9.jpg"), 404, "has no photograph")


def test_an_empty_gallery_decides_new(pair: Pair) -> None:
    client, _ = pair
    for number in range(6):
        assert client.delete(f"/v1/individuals/w_0{number}").status_code == 200
    answer = client.post("/v1/identify", content=photograph(1), headers={"Content-Type": "image/png"})
    (result,) = answer.json()["results"]
    assert (result["new_individual"]["decision"], result["candidates"]) == ("new", [])


def test_a_restored_version_reaches_every_replica(pair: Pair) -> None:
    client, other = pair
    enrol(client, "w_40", photograph(40))
    enrol(client, "w_41", photograph(41))
    assert other.post("/v1/versions/1/restore").json() == {"version": 3}
    assert client.get("/v1/individuals/w_41").status_code == 404
    assert client.get("/v1/individuals/w_40").status_code == 200
    shown = client.get("/v1/versions").json()
    assert shown["current"] == 3
    assert [(one["number"], one["kind"], one["photographs"]) for one in shown["versions"]] == [
        (3, "restore", 1), (2, "enrol", 1), (1, "enrol", 1),
    ]  # fmt: skip
    check_problem(client.post("/v1/versions/9/restore"), 404, "versions 0 to 3")


def test_a_new_bundle_embeds_earlier_enrolments(pair: Pair, tmp_path: Path) -> None:
    client, _ = pair
    enrol(client, "w_40", photograph(40))
    whole = contents()
    manifest = whole.manifest | {"id": "another-bundle"}
    store = EnrolmentStore(f"sqlite:///{tmp_path}/enrolled.db")
    service = web_service(write_bundle(dataclasses.replace(whole, manifest=manifest), tmp_path / "other"), store=store)
    with plain_server(service) as address, httpx.Client(base_url=address) as newer:
        assert best(newer, photograph(40))[0] == "w_40"
        assert best(newer, photograph(40))[2] < 1e-5
        enrol(client, "w_41", photograph(41))
        assert best(newer, photograph(41))[0] == "w_41"
    (entry, _) = store.state().entries
    vectors = store.vectors("another-bundle", [entry.digest])
    assert normalize_rows(vectors[entry.digest][None]).shape == (1, 32)
    store.close()


def test_a_service_without_a_store_refuses_enrolment(plain: str) -> None:
    with httpx.Client(base_url=plain) as client:
        check_problem(enrol(client, "w_40", photograph(40)), 403, "without a store")
        check_problem(client.delete("/v1/individuals/w_01"), 403, "without a store")


def test_a_store_that_does_not_answer_is_a_503_problem(bundle: Path, tmp_path: Path) -> None:
    store = EnrolmentStore(f"sqlite:///{tmp_path}/enrolled.db")
    with plain_server(web_service(bundle, store=store)) as address, httpx.Client(base_url=address) as client:
        with store.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE whale_ray_store RENAME TO gone")
        answer = client.post("/v1/identify", content=photograph(1), headers={"Content-Type": "image/png"})
        check_problem(answer, 503, "enrolment database does not answer")
        assert "no such table" not in answer.text  # which is for the log
        assert answer.headers["retry-after"] == "5"
        check_problem(client.get("/healthz"), 503, "the database of enrolments does not answer")
    store.close()


SERVER = """
import sys, uvicorn
sys.path[:0] = sys.argv[4:]  # folders of the modules that tests share
from pathlib import Path
from services import build_app, web_service
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore
app = build_app({"default": web_service(Path(sys.argv[1]), store=EnrolmentStore(sys.argv[2]))})
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[3]), log_level="error", ws="none")
"""


def started(bundle: Path, url: str) -> tuple[subprocess.Popen[bytes], httpx.Client]:
    port = free_port()
    shared = [str(folder) for folder in Path(__file__).parents[:2]]
    command = [sys.executable, "-c", SERVER, str(bundle), url, str(port), *shared]
    server = subprocess.Popen(command, cwd=TOP)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)

    def answers() -> bool:
        assert server.poll() is None
        try:
            client.get("/healthz")
        except httpx.TransportError:
            return False
        return True

    wait_until(answers, rest=0.1)
    return server, client


@pytest.mark.slow
def test_acknowledged_enrolments_survive_a_kill_of_the_service(bundle: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/enrolled.db"
    server, client = started(bundle, url)
    answered: list[str] = []

    def enrol_one(number: int) -> None:
        for view in range(1000):
            try:
                answer = enrol(client, f"w_{number}", photograph(number, view))
            except httpx.TransportError:
                return
            answered.append(answer.json()["images"][0]["image"])

    writers = [threading.Thread(target=enrol_one, args=(number,), daemon=True) for number in (50, 51, 52)]
    for writer in writers:
        writer.start()
    wait_until(lambda: len(answered) >= 12)
    server.send_signal(signal.SIGKILL)
    for writer in writers:
        writer.join()
    client.close()
    server.wait()
    server, client = started(bundle, url)
    found = [image for number in (50, 51, 52) for image in client.get(f"/v1/individuals/w_{number}").json()["images"]]
    assert set(answered) <= set(found)
    assert len(set(found) - set(answered)) <= len(writers)
    assert best(client, photograph(50, 0))[0] == "w_50"
    client.close()
    server.send_signal(signal.SIGTERM)
    end_within_limit(server)


def test_each_of_two_models_has_its_own_gallery_and_finds_what_was_enrolled_with_the_other(
    bundle: Path, tmp_path: Path
) -> None:
    store = EnrolmentStore(f"sqlite:///{tmp_path}/two.db")
    whole = contents()
    other = write_bundle(dataclasses.replace(whole, manifest=whole.manifest | {"id": "tiny-other"}), tmp_path / "other")
    services = {
        "first": web_service(bundle, store=store),
        "other": web_service(other, store=store, name="other"),
    }
    photograph = encode(draw(9, 0), "PNG")
    with TestClient(build_app(services), base_url="http://localhost") as client:
        enrolled = client.post("/v1/individuals/nova/images?model=other", files={"image": photograph})
        assert enrolled.status_code == 200, enrolled.text
        for query, model in (("", "tiny-00000000"), ("&model=other", "tiny-other")):
            answer = client.post(f"/v1/identify?top=1{query}", files={"image": photograph}).json()
            assert answer["model"] == model
            best = answer["results"][0]["candidates"][0]
            assert best["individual"] == "nova"
            assert best["thumbnail"].endswith("?model=other") == bool(query)
            assert client.get(best["thumbnail"]).headers["content-type"] == "image/jpeg"
        page = client.get("/v1/individuals?limit=2&model=other").json()
        assert "model=other" in page["next"]
        assert client.get(page["next"]).json()["individuals"][0]["id"] > page["individuals"][-1]["id"]
        assert client.get("/v1/versions?model=huge").status_code == 404
    for service in services.values():
        service.recognizer.decoders.close()
    store.close()


def test_a_photograph_forgotten_through_one_model_is_hidden_in_all(bundle: Path, tmp_path: Path) -> None:
    store = EnrolmentStore(f"sqlite:///{tmp_path}/two.db")
    whole = contents()
    table = whole.table.assign(individual="x_" + whole.table["individual"])
    named = dataclasses.replace(whole, manifest=whole.manifest | {"id": "tiny-other"}, table=table)
    other = write_bundle(named, tmp_path / "other")
    services = {"first": web_service(bundle, store=store), "other": web_service(other, store=store, name="other")}
    with TestClient(build_app(services), base_url="http://localhost") as client:
        first, second = (f"x_{name}" for name in INDIVIDUALS[:2])
        assert client.delete(f"/v1/individuals/{first}").json()["photographs"] == 1
        assert client.get(f"/v1/individuals/{first}?model=other").status_code == 404
        image = client.get(f"/v1/individuals/{second}?model=other").json()["images"][0]
        assert client.delete(f"/v1/individuals/{second}/images/{image}").json()["photographs"] == 1
        assert image not in client.get(f"/v1/individuals/{second}?model=other").json()["images"]
        assert client.delete("/v1/individuals/x_nobody").status_code == 404
    for service in services.values():
        service.recognizer.decoders.close()
    store.close()
