"""Boxes of `identify`: several animals in one photograph, and the scores of a sweep that was trained on boxes."""

from __future__ import annotations

import asyncio
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import pandas as pd
import pytest
from drawn_photographs import draw, encode
from PIL import Image
from services import contents, enrolment_server, plain_server, web_service, write_named
from small_sweep import SWEEP
from test_routes_identify import check_problem

from whale_ray.data.decoding.box_arguments import format_box, parse_box
from whale_ray.data.image_io import Box
from whale_ray.inference.bundle import write_bundle
from whale_ray.inference.predictor import Bundle
from whale_ray.serving.client import ask_service
from whale_ray.serving.engine.decoder_messages import Decoded
from whale_ray.serving.engine.decoder_pool import DecoderPool
from whale_ray.serving.gallery.enrolled_pictures import EnrolledPicture, picture_digest, picture_name
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore
from whale_ray.serving.gallery.live_gallery import LiveGallery
from whale_ray.serving.http.content_negotiation import bundle_results
from whale_ray.serving.http.uploads import Upload
from whale_ray.sweep.config.sweep_spec import load_sweep
from whale_ray.sweep.execution.driver import run_sweep
from whale_ray.sweep.planning.dataset import catalog_of
from whale_ray.sweep.planning.trial_points import first_settings


def two_animals() -> tuple[bytes, list[str]]:
    """Two photographs side by side in one picture, and the box of each."""
    left, right = draw(1, 0), draw(2, 0)
    picture = Image.new("RGB", (left.width + right.width, max(left.height, right.height)))
    picture.paste(left, (0, 0))
    picture.paste(right, (left.width, 0))
    boxes = [f"0,0,{left.width},{left.height}", f"{left.width},0,{picture.width},{right.height}"]
    return encode(picture, "PNG"), boxes


def test_each_box_of_a_photograph_has_its_result(plain: str) -> None:
    body, boxes = two_animals()
    answer = httpx.post(f"{plain}/v1/identify", params={"box": boxes}, content=body)
    results = answer.json()["results"]
    assert [result["candidates"][0]["individual"] for result in results] == ["w_01", "w_02"]
    assert [",".join(f"{side:g}" for side in result["box"]) for result in results] == boxes
    assert results[0]["candidates"][0]["distance"] == pytest.approx(0.0, abs=1e-3)


def test_several_photographs_have_a_box_each(plain: str) -> None:
    body, boxes = two_animals()
    files = [("image", ("a.png", body)), ("image", ("b.png", body))]
    answer = httpx.post(f"{plain}/v1/identify", params={"box": boxes[::-1], "top": 1}, files=files)
    found = [(one["filename"], one["candidates"][0]["individual"]) for one in answer.json()["results"]]
    assert found == [("a.png", "w_02"), ("b.png", "w_01")]
    refused = httpx.post(f"{plain}/v1/identify", params={"box": boxes * 2}, files=files)
    check_problem(refused, 400, "one box each", "2 photographs have 4")


@pytest.mark.parametrize(
    ("box", "status", "word"),
    [
        ("1,2,3", 400, "x0,y0,x1,y1"),
        ("a,b,c,d", 400, "x0,y0,x1,y1"),
        ("", 400, "x0,y0,x1,y1"),
        ("10,10,5,20", 400, "x0 < x1"),
        ("nan,0,5,5", 400, "x0,y0,x1,y1"),
        ("0,0,inf,5", 400, "x0,y0,x1,y1"),
        ("5000,5000,5100,5100", 422, "covers none of"),
        ("0,0,0.2,0.2", 422, "covers none of"),
    ],
)
def test_a_box_without_pixels_is_a_problem(plain: str, box: str, status: int, word: str) -> None:
    answer = httpx.post(f"{plain}/v1/identify", params={"box": box}, content=two_animals()[0])
    check_problem(answer, status, word)


def test_a_wrong_box_beside_a_right_one_is_the_problem_of_its_result(plain: str) -> None:
    body, boxes = two_animals()
    params = {"box": [boxes[0], "9000,9000,9100,9100"]}
    first, second = httpx.post(f"{plain}/v1/identify", params=params, content=body).json()["results"]
    assert first["candidates"][0]["individual"] == "w_01"
    assert second["problem"]["status"] == 422
    assert second["box"] == [9000, 9000, 9100, 9100]


def test_more_boxes_than_images_per_call_are_refused(plain: str) -> None:
    body, boxes = two_animals()
    answer = httpx.post(f"{plain}/v1/identify", params={"box": boxes * 5}, content=body)
    check_problem(answer, 413, "at most 8 boxes")


def test_boxes_are_a_column_of_the_csv(plain: str) -> None:
    body, boxes = two_animals()
    headers = {"Accept": "text/csv"}
    answer = httpx.post(f"{plain}/v1/identify", params={"box": boxes, "top": 1}, content=body, headers=headers)
    table = pd.read_csv(io.StringIO(answer.text))
    assert table["individual"].tolist() == ["w_01", "w_02"]
    assert [[float(side) for side in box.split(",")] for box in table["box"]] == [
        [float(side) for side in box.split(",")] for box in boxes
    ]


def test_the_client_and_the_bundle_answer_for_boxes_alike(plain: str, bundle: Path, tmp_path: Path) -> None:
    body, boxes = two_animals()
    photograph = tmp_path / "two.png"
    photograph.write_bytes(body)
    parsed = [parse_box(box) for box in boxes]
    asked = ask_service(plain, [photograph], top=3, boxes=parsed)
    own = bundle_results(Bundle.load(bundle), [photograph], top=3, boxes=parsed)
    for remote, local in zip(asked, own, strict=True):
        assert tuple(remote["box"]) == local["box"]
        assert [one["individual"] for one in remote["candidates"]] == [one["individual"] for one in local["candidates"]]
    again = ask_service(plain, [photograph, photograph], top=1, boxes=parsed)
    assert [one["candidates"][0]["individual"] for one in again] == ["w_01", "w_02"]


def test_the_boxes_of_a_photograph_are_decoded_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body, texts = two_animals()
    boxes, requests = [*map(parse_box, texts)], []
    whole = DecoderPool.decode_boxes

    async def count(pool: DecoderPool, data: bytes, boxes: Sequence[Box | None], **options: bool) -> list[Decoded]:
        requests.append(list(boxes))
        return await whole(pool, data, boxes, **options)

    async def ask() -> None:
        service = web_service(bundle)
        await service.answer([Upload("a", body, boxes[0]), Upload("a", body, boxes[1])], top=1)
        await service.answer_encounter([Upload("a", body, boxes[0]), Upload("b", bytes(bytearray(body)))], top=1)
        await service.prepare_pictures([Upload("a", body, boxes[0]), Upload("a", body, boxes[1])])
        service.recognizer.decoders.close()

    monkeypatch.setattr(DecoderPool, "decode_boxes", count)
    asyncio.run(ask())
    assert requests == [boxes, [boxes[0]], [None], boxes]


@pytest.mark.integration
def test_the_animals_of_a_photograph_are_enrolled_by_their_boxes(bundle: Path, tmp_path: Path) -> None:
    left, right = draw(40, 0), draw(41, 0)
    both = Image.new("RGB", (200, 64))
    both.paste(left, (0, 0))
    both.paste(right, (104, 0))
    body, boxes = encode(both, "PNG"), ["0,0,96,64", "104,0,200,64"]
    with enrolment_server(bundle, tmp_path) as address, httpx.Client(base_url=address) as client:
        images = []
        for name, box in zip(("w_40", "w_41"), boxes, strict=True):
            answer = client.post(f"/v1/individuals/{name}/images", params={"box": box}, content=body).json()
            assert [one["status"] for one in answer["images"]] == ["enrolled"]
            images.append(answer["images"][0]["image"])
        again = client.post("/v1/individuals/w_41/images", params={"box": boxes[1]}, content=body).json()
        assert (again["images"][0]["status"], again["version"]) == ("already", 2)
        elsewhere = client.post("/v1/individuals/w_41/images", params={"box": boxes[0]}, content=body)
        check_problem(elsewhere, 409, "enrolled under 'w_40'")
        outside = client.post("/v1/individuals/w_41/images", params={"box": [boxes[0], "900,0,990,9"]}, content=body)
        check_problem(outside, 422, "box 900,0,990,9: ", "No photograph of this call was enrolled")
        for image, expected in zip(images, (left, right), strict=True):
            found = client.post("/v1/identify", params={"top": 1}, content=encode(expected, "PNG")).json()["results"][0]
            (candidate,) = found["candidates"]
            assert candidate["image"] == image
            assert candidate["distance"] == pytest.approx(0.0, abs=1e-3)
            with Image.open(io.BytesIO(client.get(candidate["thumbnail"]).content)) as thumbnail:
                assert np.abs(np.asarray(thumbnail, float) - np.asarray(expected, float)).mean() < 10
    # a bundle that embeds what another one enrolled
    store = EnrolmentStore(f"sqlite:///{tmp_path}/enrolled.db")
    with plain_server(web_service(write_named(tmp_path, "next-0"), store=store)) as address:
        answer = httpx.post(f"{address}/v1/identify", content=encode(right, "PNG")).json()
        assert answer["results"][0]["candidates"][0]["image"] == images[1]
        assert answer["results"][0]["candidates"][0]["distance"] == pytest.approx(0.0, abs=1e-3)
        path = f"{address}/v1/individuals/w_41/images/{quote(images[1])}"
        assert httpx.delete(path).json()["photographs"] == 1
    store.close()


def test_a_bundle_trained_with_an_enrolled_box_has_it_once(tmp_path: Path) -> None:
    """A data set names the animal by its file if the photograph has one row, and by its box otherwise."""
    store, whole, vector = EnrolmentStore(f"sqlite:///{tmp_path}/enrolled.db"), contents(), np.ones(32)
    file, box, other = picture_name(b"file"), (0.0, 0.0, 9.0, 9.0), (9.0, 0.0, 18.0, 9.0)
    names = [picture_name(b"file", one) for one in (box, other)]
    for individual, one, name in zip(("w_00", "w_40"), (box, other), names, strict=True):
        picture = EnrolledPicture(picture_digest(b"file", one), name, b"file", b"", vector, one)
        store.enrol(individual, [picture], bundle=whole.manifest["id"])

    def shown(trained: str) -> list[str]:
        table = whole.table.assign(file=whole.table["image"], x0=np.nan, y0=np.nan, x1=np.nan, y1=np.nan)
        table.loc[0, ["image", "file", "x0", "y0", "x1", "y1"]] = [trained, file, *box]
        table = table.map(lambda cell: "" if pd.isna(cell) else str(cell))  # as it is read from a bundle
        gallery = LiveGallery(Bundle(dataclasses.replace(whole, table=table)), store)
        assert gallery.picture_name(trained) == names[0]
        images = gallery.snapshot().gallery.images
        return [image for image in images if image.startswith("enrolled-")]

    for trained in (file, names[0]):
        assert shown(trained) == [trained, names[1]]
    assert store.forget_image("w_00", file, hide=True, aliases=[names[0]]) == 2
    assert shown(file) == [names[1]]
    assert shown(names[0]) == [names[1]]
    store.close()


def test_the_shadow_is_asked_for_the_same_box(bundle: Path) -> None:
    asked: list[tuple[bytes, Box | None]] = []
    body, boxes = two_animals()

    async def ask() -> None:
        service = web_service(bundle)
        service.on_answer = lambda upload, found: asked.append((upload.data, upload.box))
        await service.answer([Upload(None, body, parse_box(boxes[1]))], top=1)
        await service.answer([Upload(None, body)], top=1)
        service.recognizer.decoders.close()

    asyncio.run(ask())
    assert asked == [(body, parse_box(boxes[1])), (body, None)]


@pytest.mark.slow
def test_boxes_over_http_give_the_recall_of_the_sweep(photographs: Path, cache: Path, tmp_path: Path) -> None:
    """The gallery of the bundle also holds the validation photographs; here it is that of the training part."""
    data = tmp_path / "data"
    (data / "train").mkdir(parents=True)
    table = pd.read_csv(photographs / "train.csv")
    drawn = np.random.default_rng(0)
    rows = []
    for name in table["Image"]:
        picture = Image.open(photographs / "train" / name).convert("RGB")
        x, y = (int(place) for place in drawn.integers(0, 60, 2))
        whole = Image.fromarray(drawn.integers(0, 256, (100 + picture.height, 100 + picture.width, 3), dtype=np.uint8))
        whole.paste(picture, (x, y))
        whole.save(data / "train" / Path(name).with_suffix(".png"))
        rows.append((Path(name).with_suffix(".png").name, x, y, x + picture.width, y + picture.height))
    table.assign(Image=[row[0] for row in rows]).to_csv(data / "train.csv", index=False)
    pd.DataFrame(rows, columns=["Image", "x0", "y0", "x1", "y1"]).to_csv(data / "boxes.csv", index=False)
    (tmp_path / "boxed.yaml").write_text(SWEEP.replace("ROOT", str(data)))
    options = [f"data.boxes={data / 'boxes.csv'}", "loss.name=arcface", "retrieval.vote=nearest", "train.epochs=4"]
    sweep = load_sweep(tmp_path / "boxed.yaml", [*options, "retrieval.flip=none", "retrieval.neighbours=1"])
    result = run_sweep(sweep, runs=tmp_path / "runs", in_process=True)
    assert result.bundle
    catalog, best = catalog_of(first_settings(sweep)["data"]), Bundle.load(result.bundle)
    parts = pd.read_csv(result.folder / "split.csv").set_index("Image")["part"]
    known = catalog.table[catalog.table["individual"] != "new_whale"].set_index("image")
    gallery = known.index[parts[known.index] == "train"]
    individual = known["individual"]
    queries = [name for name in known.index if parts[name] == "val" and individual[name] in set(individual[gallery])]
    kept = best.contents.table["image"].isin(gallery).to_numpy()
    table = best.contents.table[kept].reset_index(drop=True)
    searched = dataclasses.replace(best.contents, gallery=best.contents.gallery[kept], table=table, thumbnails={})
    with plain_server(web_service(write_bundle(searched, tmp_path / "searched"))) as address:
        answers = [
            httpx.post(
                f"{address}/v1/identify",
                params={"box": format_box(catalog.box(name)), "top": 1},
                content=catalog.path(name).read_bytes(),
                timeout=30,
            ).json()["results"][0]
            for name in queries
        ]
    named = [answer["candidates"][0]["individual"] for answer in answers]
    right = [individual[name] == found for name, found in zip(queries, named, strict=True)]
    assert np.mean(right) == pytest.approx(result.table.iloc[0]["recall@1"])
