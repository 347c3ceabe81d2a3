"""A bundle with local features in service: the same answers as the bundle's own, in every way of asking."""

from __future__ import annotations

import asyncio
import csv
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from drawn_photographs import IMAGES_EACH, encode
from keypoint_bundles import spotted, write_local_bundle
from keypoint_networks import write_matcher, write_network
from PIL import Image
from services import contents, enrolment_server, plain_server, web_service
from test_recognizer import RemoteEncoder

from whale_ray.data.decoding.box_arguments import format_box
from whale_ray.data.image_io import Box
from whale_ray.inference.keypoints.keypoint_files import features_of_pictures
from whale_ray.inference.keypoints.keypoint_matcher import KeypointMatcher, read_photograph
from whale_ray.inference.predictions import Identification
from whale_ray.inference.predictor import Bundle
from whale_ray.retrieval.evaluation.encounters.encounter_calibration import read_encounter_calibration
from whale_ray.retrieval.local.feature_store import join_features
from whale_ray.retrieval.local.learned.network_registry import register_network
from whale_ray.retrieval.local.local_index import LocalIndex
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.serving.client import ask_service
from whale_ray.serving.engine.encoder import LocalEncoder
from whale_ray.serving.engine.recognizer import Recognizer
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore
from whale_ray.serving.gallery.live_gallery import LiveGallery
from whale_ray.serving.gallery.tables import KEYPOINTS
from whale_ray.serving.http.content_negotiation import bundle_results

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("local")


@pytest.fixture(scope="module", params=[("sift", 0), ("orb", 9), ("matcher", 0)])
def local_bundle(request: pytest.FixtureRequest, folder: Path) -> Path:
    """A bundle that compares a query with the whole gallery, or with a shortlist, or by networks."""
    kind, shortlist = request.param
    if kind == "matcher":
        kind = register_network(write_network(folder / "grid.onnx"), write_matcher(folder / "glue.onnx"))
    return write_local_bundle(folder, kind, shortlist=shortlist)


@pytest.fixture(scope="module")
def sift_bundle(folder: Path) -> Path:
    return write_local_bundle(folder / "another", "sift")


@pytest.fixture(scope="module")
def asked(local_bundle: Path) -> Iterator[httpx.Client]:
    with plain_server(web_service(local_bundle)) as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client


def identify(client: httpx.Client, data: bytes, box: Box | None = None, **query: Any) -> dict[str, Any]:
    asked = query | ({} if box is None else {"box": format_box(box)})
    answer = client.post("/v1/identify", content=data, params=asked, headers={"Content-Type": "image/png"})
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    return dict(result)


def check_equal(result: dict[str, Any], expected: Identification) -> None:
    """Asserts that a result of the service is the bundle's answer, to the last digit that it shows."""
    assert result["new_individual"] == vars(expected.new_individual)
    assert len(result["candidates"]) == len(expected.candidates) > 1
    for found, one in zip(result["candidates"], expected.candidates, strict=True):
        for name in ("rank", "individual", "probability", "image", "matched_points"):
            assert found[name] == getattr(one, name)
        assert found["distance"] == pytest.approx(one.distance, abs=2e-7)


@pytest.mark.parametrize("box", [None, (20.0, 10.0, 150.0, 120.0)])
def test_the_service_answers_as_the_bundle(local_bundle: Path, asked: httpx.Client, box: Box | None) -> None:
    bundle = Bundle.load(local_bundle)
    data = [encode(spotted(number, 5), "PNG") for number in (0, 3, 5, 40)]
    # One by one: on some processors an embedding differs in the last digits with the number of images in its batch.
    expected = [answer for one in data for answer in bundle.identify([one], top=4, boxes=[box])]
    for one, answer in zip(data, expected, strict=True):
        check_equal(identify(asked, one, box, top=4), answer)
    assert [answer.candidates[0].individual for answer in expected[:3]] == ["w_00", "w_03", "w_05"]
    assert all((answer.candidates[0].matched_points or 0) >= 4 for answer in expected[:3])
    plain = Bundle(dataclasses.replace(bundle.contents, manifest=contents().manifest, keypoints=None))
    assert [one.candidates[0].score for one in plain.identify(data)] != [one.candidates[0].score for one in expected]


def test_many_photographs_and_boxes_of_one_call_are_answered_as_one_by_one(
    local_bundle: Path, asked: httpx.Client
) -> None:
    bundle = Bundle.load(local_bundle)
    data = encode(spotted(2, 4), "PNG")
    boxes: list[Box] = [(0.0, 0.0, 96.0, 128.0), (30.0, 20.0, 190.0, 128.0), (500.0, 500.0, 600.0, 600.0)]
    answer = asked.post(
        "/v1/identify", content=data, params={"box": [*map(format_box, boxes)]}, headers={"Content-Type": "image/png"}
    )
    results = answer.json()["results"]
    assert "problem" in results[2]
    for result, box in zip(results, boxes[:2], strict=False):
        check_equal(result, bundle.identify([data], boxes=[box])[0])


def test_the_lines_join_the_matched_points_of_both_photographs(asked: httpx.Client) -> None:
    data = encode(spotted(3, 6), "PNG")
    result = identify(asked, data, lines=True)
    first = result["candidates"][0]
    assert first["matched_points"] == len(first["matched"]["lines"]) > 10
    assert first["matched"]["image"].startswith("w_03/")
    assert first["matched"]["thumbnail"].startswith("/v1/images/")
    ends = np.array(first["matched"]["lines"])
    assert ((ends >= 0) & (ends <= 1)).all()
    shift = np.array([6, 6]) - int(first["matched"]["image"].removesuffix(".jpg").rpartition("/")[2]) % IMAGES_EACH
    assert np.abs((ends[:, 2:] - ends[:, :2]) * (192, 128) - shift).max() < 4  # pixels by which the view is moved
    assert all("matched" not in one for one in identify(asked, data)["candidates"])
    for one in result["candidates"]:
        assert bool(one["matched_points"]) is ("matched" in one)


def test_a_photograph_without_keypoints_is_answered(local_bundle: Path, asked: httpx.Client) -> None:
    data = encode(Image.new("RGB", (64, 48), (9, 90, 120)), "PNG")
    result = identify(asked, data, lines=True)
    check_equal(result, Bundle.load(local_bundle).identify([data])[0])
    assert {one["matched_points"] for one in result["candidates"]} == {0}


def test_the_spreadsheet_has_the_matched_points(asked: httpx.Client) -> None:
    data = encode(spotted(3, 6), "PNG")
    answer = asked.post("/v1/identify", content=data, headers={"Content-Type": "image/png", "Accept": "text/csv"})
    rows = [*csv.DictReader(io.StringIO(answer.text))]
    assert [int(row["matched_points"]) for row in rows] == [
        one["matched_points"] for one in identify(asked, data)["candidates"]
    ]


def test_the_client_and_the_bundle_itself_give_the_same_results(
    local_bundle: Path, asked: httpx.Client, tmp_path: Path
) -> None:
    path = tmp_path / "asked.png"
    path.write_bytes(encode(spotted(4, 6), "PNG"))
    (remote,) = ask_service(str(asked.base_url), [path], top=3)
    (here,) = bundle_results(Bundle.load(local_bundle), [path], top=3)
    for one, other in zip(remote["candidates"], here["candidates"], strict=True):
        assert {name: one[name] for name in other} == other
    assert "matched_points" in here["candidates"][0]


def test_a_model_without_local_features_matches_no_points(plain: str) -> None:
    with httpx.Client(base_url=plain) as client:
        result = identify(client, encode(spotted(3, 6), "PNG"), lines=True)
    assert {one["matched_points"] for one in result["candidates"]} == {None}
    assert all("matched" not in one for one in result["candidates"])


@pytest.mark.parametrize("calibrated", ["not", "by embedding", "by fused score"])
def test_an_encounter_is_answered_as_by_the_bundle(
    sift_bundle: Path, calibrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Bundle.load(sift_bundle).card
    other = {**manifest["fusion"], "intercept": -1.0}
    encounters = {"match": None, "new": None, "match_slope": 0.0, "new_slope": 0.0, "threshold": 0.5}
    encounters |= {"fusion": other} if calibrated == "by fused score" else {}
    service = web_service(sift_bundle)
    if calibrated != "not":
        service.bundle.encounters = read_encounter_calibration(encounters)
        matcher = KeypointMatcher(service.bundle.setting, manifest["fusion"], service.bundle.encounters)
        monkeypatch.setattr(service.bundle, "keypoints", matcher)
    data = [encode(spotted(1, view), "PNG") for view in (4, 5)]
    files = [("image", (f"{view}.png", one)) for view, one in enumerate(data)]
    with plain_server(service) as address:
        answer = httpx.post(f"{address}/v1/identify", files=files, params={"encounter": True, "lines": True})
        (result,) = answer.json()["results"]
        single = httpx.post(f"{address}/v1/identify", files=files[:1], params={"encounter": True, "lines": True})
    read = [read_photograph(one, service.bundle.geometry, service.bundle.keypoints) for one in data]
    mean = normalize_rows(service.bundle.embed([array for array, _ in read]).sum(axis=0)[None])
    local = [one for _, one in read if one is not None]
    (expected,) = service.bundle.rank(mean, photographs=[2], local=[local])
    check_equal(result, expected)
    assert (result["views"], result["candidates"][0]["individual"]) == (2, "w_01")
    assert (result["candidates"][0]["matched_points"] is None) is (calibrated == "by embedding")
    assert "matched" not in result["candidates"][0]
    assert len(single.json()["results"][0]["candidates"][0]["matched"]["lines"]) > 10
    scores = {one.individual: one.score for one in expected.candidates}
    (plain,) = Bundle.load(sift_bundle).rank(mean, photographs=[2], local=[local])
    assert (scores == {one.individual: one.score for one in plain.candidates}) is (calibrated == "not")


def test_features_stay_with_their_photograph_when_another_process_embeds(sift_bundle: Path) -> None:
    service = web_service(sift_bundle)
    encoder = service.recognizer.encoder
    assert isinstance(encoder, LocalEncoder)
    recognizer = Recognizer(
        service.live_gallery, RemoteEncoder(encoder), service.recognizer.decoders, threads=1, batch=4
    )
    data = [encode(spotted(number, 7), "PNG") for number in (5, 1, 4, 2, 40)]

    async def ask() -> list[Identification]:
        return await asyncio.gather(*(recognizer.identify(one, top=3) for one in data))

    for found, expected in zip(asyncio.run(ask()), service.bundle.identify(data, top=3), strict=True):
        assert [one.matched_points for one in found.candidates] == [one.matched_points for one in expected.candidates]
        assert [one.score for one in found.candidates] == pytest.approx([one.score for one in expected.candidates])
    service.recognizer.decoders.close()


def enrol(client: httpx.Client, individual: str, data: bytes, box: Box | None = None) -> str:
    answer = client.post(
        f"/v1/individuals/{individual}/images",
        content=data,
        headers={"Content-Type": "image/png"},
        params={} if box is None else {"box": format_box(box)},
    )
    assert answer.status_code in (200, 201), answer.text
    return str(answer.json()["images"][0]["image"])


@pytest.mark.parametrize("box", [None, (10.0, 5.0, 180.0, 125.0)])
def test_an_enrolled_picture_matches_from_the_next_call_on_until_it_is_forgotten(
    sift_bundle: Path, tmp_path: Path, box: Box | None
) -> None:
    with enrolment_server(sift_bundle, tmp_path) as address, httpx.Client(base_url=address, timeout=60) as client:
        query = encode(spotted(50, 5), "PNG")
        before = identify(client, query)
        image = enrol(client, "w_50", encode(spotted(50, 0), "PNG"), box)
        first = identify(client, query, lines=True)["candidates"][0]
        assert (first["individual"], first["image"], first["matched"]["image"]) == ("w_50", image, image)
        assert first["matched_points"] >= 10
        assert client.delete(f"/v1/individuals/w_50/images/{quote(image)}").status_code < 300
        assert identify(client, query) == before


def check_scores(gallery: LiveGallery, store: EnrolmentStore, query: bytes) -> None:
    """Asserts that the live index scores as one that is made of the same photographs at once."""
    snapshot = gallery.snapshot()
    found = snapshot.gallery.keypoints
    assert found is not None
    assert len(found) == len(snapshot.gallery.images)
    features = [found.features(row) for row in range(len(found))]
    fresh = LocalIndex(join_features(features, found.kind), snapshot.gallery.individuals)
    asked = [features_of_pictures([query], found.kind).of(0)]
    for one, other in zip(found.scores(asked), fresh.scores(asked), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_live_gallery_follows_enrolments_removals_and_restores(sift_bundle: Path, tmp_path: Path) -> None:
    store = EnrolmentStore(f"sqlite:///{tmp_path}/enrolled.db")
    service = web_service(sift_bundle, store=store)
    reader, gallery = service.recognizer.enrolments, service.live_gallery
    query = encode(spotted(2, 8), "PNG")

    async def prepared(number: int) -> Any:
        return (await reader.prepare(encode(spotted(number, 0), "PNG"), [None]))[0]

    pictures = {number: asyncio.run(prepared(number)) for number in (60, 61, 62)}
    for number, picture in pictures.items():
        store.enrol(f"w_{number}", [picture], bundle=service.bundle.id)
        check_scores(gallery, store, query)
    store.forget_image("w_61", pictures[61].name, hide=False)
    store.forget_image("w_02", service.bundle.images[7], hide=True)
    check_scores(gallery, store, query)
    assert "w_61" not in gallery.snapshot().gallery.individuals
    store.restore(1)
    store.enrol("w_63", [pictures[62]], bundle=service.bundle.id)  # under another name than before
    check_scores(gallery, store, query)
    assert {"w_60", "w_63"} <= {*gallery.snapshot().gallery.individuals}
    assert not gallery.snapshot().missing
    service.recognizer.decoders.close()
    store.close()


@pytest.mark.parametrize("lost", ["another bundle enrolled", "no table"])
def test_pictures_that_were_enrolled_without_keypoints_catch_up(
    sift_bundle: Path, folder: Path, tmp_path: Path, lost: str
) -> None:
    writer = sift_bundle if lost == "no table" else write_local_bundle(tmp_path, "none")
    query = encode(spotted(50, 5), "PNG")
    with enrolment_server(writer, tmp_path) as address, httpx.Client(base_url=address, timeout=60) as client:
        image = enrol(client, "w_50", encode(spotted(50, 0), "PNG"))
    if lost == "no table":
        store = EnrolmentStore(f"sqlite:///{tmp_path}/enrolled.db")
        with store.engine.begin() as connection:
            KEYPOINTS.drop(connection)
        store.close()
    with enrolment_server(sift_bundle, tmp_path) as address, httpx.Client(base_url=address, timeout=60) as client:
        first = identify(client, query)["candidates"][0]
    assert (first["individual"], first["image"]) == ("w_50", image)
    assert first["matched_points"] >= 10
