"""`POST /v1/identify` without Ray and, marked slow, on a real Ray Serve."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import httpx
import pytest
from drawn_photographs import INDIVIDUALS, draw, encode
from PIL import Image
from services import LIMITS

JPEG = {"Content-Type": "image/jpeg"}
ANSWER_KEYS = {"model", "results"}
CANDIDATE_KEYS = {"rank", "individual", "distance", "probability", "image", "thumbnail", "matched_points"}


def post(client: httpx.Client, body: bytes, kind: str = "image/jpeg", **query: int) -> httpx.Response:
    return client.post("/v1/identify", content=body, headers={"Content-Type": kind}, params=query)


def check_problem(answer: httpx.Response, status: int, *words: str) -> None:
    problem = answer.json()
    assert answer.status_code == status, problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(problem) == {"type", "title", "status", "detail"}
    assert problem["status"] == status
    assert problem["title"]
    for word in words:
        assert word in problem["detail"]
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text


def test_a_raw_photograph_gets_a_response_of_the_contract(client: httpx.Client) -> None:
    answer = post(client, encode(draw(2, 0), "PNG"), "image/png", top=4)
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == ANSWER_KEYS
    assert body["model"] == "tiny-00000000"
    (result,) = body["results"]
    assert set(result) == {"filename", "views", "new_individual", "candidates"}
    assert result["filename"] is None
    assert result["new_individual"] == {"probability": None, "decision": "known"}
    assert [candidate["rank"] for candidate in result["candidates"]] == [1, 2, 3, 4]
    assert all(set(candidate) == CANDIDATE_KEYS for candidate in result["candidates"])
    best = result["candidates"][0]
    assert best["individual"] == "w_02"
    assert best["image"] == "w_02/6.jpg"
    assert best["distance"] == pytest.approx(0.0, abs=1e-3)
    assert best["distance"] == round(best["distance"], 7)
    assert best["probability"] is None
    assert len({candidate["individual"] for candidate in result["candidates"]}) == 4


def test_a_form_with_one_image_returns_its_file_name(client: httpx.Client) -> None:
    answer = client.post("/v1/identify", files={"image": ("fluke.png", encode(draw(1, 0), "PNG"), "image/png")})
    (result,) = answer.json()["results"]
    assert result["filename"] == "fluke.png"
    assert result["candidates"][0]["individual"] == "w_01"
    assert len(result["candidates"]) == 5


def test_each_of_several_images_has_a_result_or_a_problem_in_order(client: httpx.Client) -> None:
    files = [(f"{place}.png", encode(draw(place, 0), "PNG")) for place in range(3)]
    files.insert(1, ("notes.jpg", b"these are my notes"))
    answer = client.post("/v1/identify", files=[("image", file) for file in files], params={"top": 1})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result["filename"] for result in results] == ["0.png", "notes.jpg", "1.png", "2.png"]
    assert set(results[1]) == {"filename", "problem"}
    assert results[1]["problem"]["status"] == 415
    named = [result["candidates"][0]["individual"] for place, result in enumerate(results) if place != 1]
    assert named == ["w_00", "w_01", "w_02"]


def test_top_beyond_the_gallery_returns_all_individuals(client: httpx.Client) -> None:
    answer = post(client, encode(draw(0, 0), "PNG"), top=50)
    assert {one["individual"] for one in answer.json()["results"][0]["candidates"]} == set(INDIVIDUALS)


@pytest.mark.parametrize("query", ["top=0", "top=51", "top=many", "top=", "tpo=5"])
def test_an_invalid_query_parameter_is_a_400_problem(client: httpx.Client, query: str) -> None:
    name = query.partition("=")[0]
    check_problem(client.post(f"/v1/identify?{query}", content=b"x", headers=JPEG), 400, name, "See /docs")


def test_an_image_unlike_all_others_is_decided_as_new(client: httpx.Client) -> None:
    answer = post(client, encode(Image.radial_gradient("L"), "PNG"), "image/png")
    assert answer.json()["results"][0]["new_individual"]["decision"] == "new"


def same_answer(client: httpx.Client, body: bytes, upright: bytes) -> None:
    answers = [post(client, data, "application/octet-stream").json()["results"][0] for data in (body, upright)]
    names = [[one["individual"] for one in answer["candidates"]] for answer in answers]
    distances = [[one["distance"] for one in answer["candidates"]] for answer in answers]
    assert names[0] == names[1]
    assert distances[0] == pytest.approx(distances[1], abs=1e-5)


@pytest.mark.parametrize(
    ("orientation", "stored_as"), [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90)]
)
def test_an_exif_rotation_has_the_result_of_the_upright_image(
    client: httpx.Client, orientation: int, stored_as: Image.Transpose
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = encode(draw(3, 0).transpose(stored_as), "PNG", exif=exif)
    upright = encode(draw(3, 0), "PNG")
    same_answer(client, turned, upright)


def test_a_cmyk_jpeg_is_answered(client: httpx.Client) -> None:
    answer = post(client, encode(draw(4, 0).convert("CMYK"), "JPEG", quality=95))
    assert answer.status_code == 200
    assert answer.json()["results"][0]["candidates"][0]["individual"] == "w_04"


def test_a_16_bit_png_has_the_result_of_its_8_bit_original(client: httpx.Client) -> None:
    grey = draw(5, 0).convert("L")
    deep = grey.convert("I").point(lambda value: value * 257).convert("I;16")
    same_answer(client, encode(deep, "PNG"), encode(grey, "PNG"))


def huge_png() -> bytes:
    """A well-formed PNG of 30,000 x 30,000 pixels in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(3751 * 30_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def animated_gif() -> bytes:
    frames = [draw(0, view) for view in range(3)]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:])


HOSTILE = {
    "a text file named .jpg": (b"I am no picture", 415, "JPEG"),
    "an SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', 415, "JPEG"),
    "an animated GIF": (animated_gif(), 415, "JPEG"),
    "a truncated JPEG": (encode(draw(0, 0), "JPEG")[:-600], 422, "damaged"),
    "a PNG of 30,000 x 30,000 pixels": (huge_png(), 413, "30000 x 30000"),
    "nothing": (b"", 422, "empty"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("form", [False, True], ids=["raw", "form"])
def test_an_invalid_upload_is_refused_with_its_reason(client: httpx.Client, case: str, form: bool) -> None:
    body, status, word = HOSTILE[case]
    if form:
        answer = client.post("/v1/identify", files={"image": ("fluke.jpg", body, "image/jpeg")})
    else:
        answer = post(client, body)
    check_problem(answer, status, word)


def test_a_content_length_above_the_limit_is_refused(client: httpx.Client) -> None:
    check_problem(post(client, bytes(LIMITS.image_bytes + 1)), 413, f"{LIMITS.image_bytes:,}")


def test_a_chunked_body_above_the_limit_is_refused(client: httpx.Client) -> None:
    def stream() -> Iterator[bytes]:
        for _ in range(LIMITS.image_bytes // 50_000 + 2):
            yield bytes(50_000)

    check_problem(client.post("/v1/identify", content=stream(), headers=JPEG), 413, f"{LIMITS.image_bytes:,}")


def test_a_form_with_an_image_of_too_many_bytes_is_refused(client: httpx.Client) -> None:
    answer = client.post("/v1/identify", files={"image": ("fluke.jpg", bytes(LIMITS.image_bytes + 1))})
    check_problem(answer, 413, f"{LIMITS.image_bytes:,}")


def test_a_form_with_too_many_images_is_refused(client: httpx.Client) -> None:
    files = [("image", (f"{place}.jpg", b"x")) for place in range(LIMITS.images + 1)]
    check_problem(client.post("/v1/identify", files=files), 413, str(LIMITS.images))


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "application/x-www-form-urlencoded"])
def test_a_body_that_is_neither_image_nor_form_is_refused(client: httpx.Client, kind: str) -> None:
    check_problem(post(client, encode(draw(0, 0), "JPEG"), kind), 415, kind, "curl -F image=@fluke.jpg")


def test_the_image_type_is_detected_from_the_content(client: httpx.Client) -> None:
    file = ("notes.txt", encode(draw(1, 0), "PNG"), "text/plain")
    assert client.post("/v1/identify", files={"image": file}).status_code == 200
    assert post(client, encode(draw(1, 0), "PNG"), "image/jpeg").status_code == 200


FORM = "multipart/form-data; boundary=X"
MALFORMED = {
    "another field": (
        b'--X\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\nx\r\n--X--\r\n',
        FORM,
        "'file'",
    ),
    "text in place of a file": (
        b'--X\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--X--\r\n',
        FORM,
        "must be a file",
    ),
    "no field": (b"--X--\r\n", FORM, "`image`"),
    "no boundary": (b"--X--\r\n", "multipart/form-data", "boundary"),
    "no form": (b"nothing of the kind", FORM, "well-formed"),
    "a name in a strange character set": (
        b'--X\r\nContent-Disposition: form-data; name="image"; filename="xn--0"\r\n\r\nx\r\n--X--\r\n',
        FORM + "; charset=idna",
        "character set",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_form_is_refused_with_the_remedy(client: httpx.Client, case: str) -> None:
    body, kind, word = MALFORMED[case]
    check_problem(post(client, body, kind), 400, word, "curl -F image=@fluke.jpg")


def test_a_file_name_is_returned_as_plain_text(client: httpx.Client) -> None:
    name = '../../<b>"fluke"\u202e.png'
    answer = client.post("/v1/identify", files={"image": (name, io.BytesIO(encode(draw(1, 0), "PNG")))})
    assert answer.json()["results"][0]["filename"].endswith("\u202e.png")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
