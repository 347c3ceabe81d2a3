"""Decoder processes: damaged, slow and malicious files are refused without effect on other calls."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from drawn_photographs import draw, encode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keypoint_networks import write_network
from PIL import Image

from whale_ray.data.decoding.image_formats import FORMATS, register_decoders
from whale_ray.data.image_io import Geometry, decode_image, fit_image
from whale_ray.errors import ImageBoxError, ImageDecodeError, ImageError, ImageTooLargeError, ImageTypeError
from whale_ray.retrieval.local.learned.network_registry import register_network
from whale_ray.retrieval.local.local_features import LOCAL_KINDS, descriptor_size, extract_features, local_picture
from whale_ray.serving.engine.decoder_messages import DecodedImage
from whale_ray.serving.engine.decoder_pool import DecoderPool

pytestmark = pytest.mark.integration

GEOMETRY = Geometry(48, 64, margin=0.125)
LIMITS = {"bytes_": 400_000, "pixels": 4_000_000}
GOOD = encode(draw(1, 0), "JPEG")
SPOTTED = encode(Image.effect_noise((24, 16), 90.0).convert("RGB").resize((96, 64)), "PNG")


@pytest.fixture(scope="module")
def decoders() -> Iterator[DecoderPool]:
    made = DecoderPool(GEOMETRY, count=1, **LIMITS)
    yield made
    made.close()


@pytest.fixture(scope="module", params=[*LOCAL_KINDS, "network"])
def keypoint_decoders(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[DecoderPool, str]]:
    kind, network = request.param, None
    if kind == "network":
        network = write_network(tmp_path_factory.mktemp("networks") / "grid.onnx")
        kind = register_network(network)
    made = DecoderPool(GEOMETRY, count=1, local=kind, network=network, **LIMITS)
    yield made, kind
    made.close()


@pytest.fixture(scope="module")
def sift_decoders() -> Iterator[DecoderPool]:
    made = DecoderPool(GEOMETRY, count=1, local="sift", **LIMITS)
    yield made
    made.close()


def decode(decoders: DecoderPool, data: bytes, *, thumbnail: bool = False) -> tuple[np.ndarray, bytes]:
    found = asyncio.run(decoders.decode(data, thumbnail=thumbnail))
    return found.array, found.thumbnail


def test_a_decoder_returns_the_pixels_used_in_training(decoders: DecoderPool) -> None:
    array, thumbnail = decode(decoders, GOOD, thumbnail=True)
    assert (array == fit_image(decode_image(GOOD), GEOMETRY)).all()
    with Image.open(io.BytesIO(thumbnail)) as small:
        assert (small.format, small.size) == ("JPEG", (96, 64))
    assert decode(decoders, GOOD)[1] == b""


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_decoded_in_the_process_under_its_limits(decoders: DecoderPool, kind: str) -> None:
    register_decoders()
    data = encode(draw(1, 0), kind)
    assert (decode(decoders, data)[0] == fit_image(decode_image(data), GEOMETRY)).all()
    with pytest.raises(ImageTooLargeError):
        decode(decoders, encode(Image.new("RGB", (2001, 2000)), kind))


def test_a_decoder_process_refuses_as_the_function_does(decoders: DecoderPool) -> None:
    for data, kind in (
        (b"text", ImageTypeError),
        (b"", ImageDecodeError),
        (GOOD[:200], ImageDecodeError),
        (b"\xff" * 400_001, ImageTooLargeError),
        (encode(Image.new("1", (2001, 2000)), "PNG"), ImageTooLargeError),
    ):
        with pytest.raises(kind) as here:
            decode_image(data, max_bytes=LIMITS["bytes_"], max_pixels=LIMITS["pixels"])
        with pytest.raises(kind) as there:
            decode(decoders, data)
        assert str(here.value) == str(there.value)


def test_the_boxes_of_an_image_are_decoded_in_one_request(decoders: DecoderPool) -> None:
    boxes = [(0, 0, 40, 64), None, (500, 500, 600, 600), (40.5, 10, 96, 60)]
    expected = [fit_image(decode_image(GOOD), GEOMETRY, box=box) for box in boxes if box != boxes[2]]
    for thumbnail in (False, True):
        found = asyncio.run(decoders.decode_boxes(GOOD, boxes, thumbnail=thumbnail))
        wrong = found.pop(2)
        assert isinstance(wrong, ImageBoxError)
        assert "covers none of 96 x 64" in str(wrong)
        for one, array in zip(found, expected, strict=True):
            assert isinstance(one, DecodedImage)
            assert (one.array == array).all()
            assert one.size == (96, 64)
    sizes = [Image.open(io.BytesIO(one.thumbnail)).size for one in found if isinstance(one, DecodedImage)]
    assert sizes == [(40, 64), (96, 64), (56, 50)]
    errors = asyncio.run(decoders.decode_boxes(GOOD[:200], boxes))
    assert [type(error) for error in errors] == [ImageDecodeError] * 4
    assert (decode(decoders, GOOD)[0] == expected[1]).all()


def test_keypoints_of_boxes_are_those_of_the_bundle_from_one_decoding(
    keypoint_decoders: tuple[DecoderPool, str],
) -> None:
    decoders, kind = keypoint_decoders
    boxes = [(0, 0, 40, 64), None, (500, 500, 600, 600), (40.5, 10, 96, 60)]
    found = asyncio.run(decoders.decode_boxes(SPOTTED, boxes, thumbnail=True, keypoints=True))
    assert isinstance(found[2], ImageBoxError)
    for box, one in zip(boxes, found, strict=True):
        if isinstance(one, DecodedImage):
            expected = extract_features(local_picture(decode_image(SPOTTED), box=box), kind)
            assert one.keypoints is not None
            assert len(one.keypoints) == len(expected) > 0
            np.testing.assert_array_equal(one.keypoints.points, expected.points)
            np.testing.assert_array_equal(one.keypoints.descriptors, expected.descriptors)
            assert one.keypoints.descriptors.dtype == np.uint8
            assert Image.open(io.BytesIO(one.thumbnail)).format == "JPEG"
            assert (one.array == fit_image(decode_image(SPOTTED), GEOMETRY, box=box)).all()


@pytest.mark.parametrize("size", [(64, 48), (2000, 3)])
def test_a_photograph_without_keypoints_is_decoded(
    keypoint_decoders: tuple[DecoderPool, str], size: tuple[int, int]
) -> None:
    decoders, kind = keypoint_decoders
    data = encode(Image.new("RGB", size, (9, 90, 120)), "PNG")
    keypoints = asyncio.run(decoders.decode(data, keypoints=True)).keypoints
    assert keypoints is not None
    assert (keypoints.points.shape, keypoints.descriptors.shape) == ((0, 2), (0, descriptor_size(kind)))


def test_keypoints_are_searched_on_request_only(keypoint_decoders: tuple[DecoderPool, str]) -> None:
    assert asyncio.run(keypoint_decoders[0].decode(GOOD)).keypoints is None


def test_a_decoder_without_keypoints_does_not_load_opencv(
    decoders: DecoderPool, keypoint_decoders: tuple[DecoderPool, str]
) -> None:
    assert asyncio.run(decoders.decode(GOOD, keypoints=True)).keypoints is None
    asyncio.run(keypoint_decoders[0].decode(GOOD))
    loaded = ["cv2" in Path(f"/proc/{pid(one)}/maps").read_text() for one in (decoders, keypoint_decoders[0])]
    assert loaded == [False, True]


def pid(decoders: DecoderPool) -> int:
    process = decoders._idle.get_nowait()
    decoders._idle.put_nowait(process)
    return process.running.pid


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_decoder_that_exited_loses_no_photograph(number: int) -> None:
    decoders = DecoderPool(GEOMETRY, count=1, **LIMITS)
    process = decoders._idle.get_nowait()
    decoders._idle.put_nowait(process)
    before = process.running.pid
    os.kill(before, number)
    assert decode(decoders, GOOD)[0].shape == (60, 80, 3)
    assert process.running.pid != before
    decoders.close()


def test_a_photograph_that_crashes_two_decoders_is_refused(tmp_path: Path) -> None:
    falls = f"import sys; open({str(tmp_path / 'falls')!r}, 'a').write('.'); sys.stdin.buffer.read(5); sys.exit(1)"
    decoders = DecoderPool(GEOMETRY, count=1, command=(sys.executable, "-c", falls), **LIMITS)
    with pytest.raises(ImageDecodeError, match=r"crashed its decoder.*Copy or save it again"):
        decode(decoders, GOOD)
    assert len((tmp_path / "falls").read_text()) >= 2
    decoders.close()


IN_PIECES = """
import struct, sys, time
def say(data):
    sys.stdout.buffer.write(data); sys.stdout.buffer.flush(); time.sleep(0.05)
while header := sys.stdin.buffer.read(8):
    thumbnail, keypoints, length, count = struct.unpack("<??IH", header)
    sys.stdin.buffer.read(32 * count + length)
    if length == 1:
        refusal = b"this is no picture" * 50
        head = struct.pack("<B6I", 1, len(refusal), 0, 0, 0, 0, 0)
        say(head + refusal[:100]); say(refusal[100:])
        continue
    head = struct.pack("<B6I", 0, 4, 4, 3, 9, 8, 0)
    say(head[:5]); say(head[5:] + bytes(range(20))); say(bytes(range(20, 48)) + b"th"); say(b"u")
"""


def test_a_fragmented_answer_is_assembled_and_an_error_may_be_longer_than_the_pixels() -> None:
    decoders = DecoderPool(Geometry(4, 4), count=1, command=(sys.executable, "-c", IN_PIECES), **LIMITS)
    for _ in range(2):
        array, thumbnail = decode(decoders, b"xx", thumbnail=True)
        assert (array.ravel() == np.arange(48)).all()
        assert thumbnail == b"thu"
        with pytest.raises(ImageTypeError, match=r"^(this is no picture){50}$"):
            decode(decoders, b"x")
    decoders.close()


ANSWERS_IN_PIECES = """
import struct, sys, time
head = sys.stdin.buffer.read(8)
thumbnail, keypoints, length, count = struct.unpack("<??IH", head)
sys.stdin.buffer.read(32 * count + length)
picture = struct.pack("<B6I", 0, 4, 4, 3, 9, 8, 0) + bytes(range(48)) + b"thu"
refusal = struct.pack("<B6I", 4, 4, 0, 0, 0, 0, 0) + b"text"
answers = refusal + picture + refusal + picture
for start in range(0, len(answers), SIZE):
    sys.stdout.buffer.write(answers[start : start + SIZE]); sys.stdout.buffer.flush(); time.sleep(0.001)
time.sleep(10)
"""


@pytest.mark.parametrize("size", [1, 30, 75, 1000])
def test_answers_of_several_boxes_are_told_apart(size: int) -> None:
    code = ANSWERS_IN_PIECES.replace("SIZE", str(size))
    decoders = DecoderPool(Geometry(4, 4), count=1, command=(sys.executable, "-c", code), **LIMITS)
    found = asyncio.run(decoders.decode_boxes(GOOD, [None] * 4, thumbnail=True))
    decoders.close()
    for one in found[1::2]:
        assert isinstance(one, DecodedImage)
        assert (one.array.ravel() == np.arange(48)).all()
        assert (one.thumbnail, one.size) == (b"thu", (9, 8))
    assert [str(one) for one in found[::2] if isinstance(one, ImageBoxError)] == ["text", "text"]


def forged(keypoints: int, number: bytes = b"\0\0") -> bytes:
    """A decoded image with this number of bytes of keypoints, which repeat a number."""
    head = struct.pack("<B6I", 0, 60, 80, 0, 96, 64, keypoints)
    return head + bytes(60 * 80 * 3) + (number * keypoints)[:keypoints]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"\x01\x02" + b"\0" * 23 + b"x" * 1000, id="a refusal longer than it says"),
        pytest.param(b"\x01" + b"\xff" * 24 + b"x" * 10**6, id="a refusal without an end"),
        pytest.param(b"\x00" + b"\xff" * 24 + b"x" * 10**6, id="a picture of another shape"),
        pytest.param(forged(132 * 501), id="too many keypoints"),
        pytest.param(forged(131), id="a part of a keypoint"),
        pytest.param(forged(132, b"\xff\x7f"), id="a keypoint at no place"),
        pytest.param(forged(132, b"\x00\x50"), id="a keypoint outside the picture"),
    ],
)
def test_a_forged_answer_of_a_decoder_is_refused(answer: bytes, tmp_path: Path) -> None:
    (tmp_path / "answer").write_bytes(answer)
    path = str(tmp_path / "answer")
    code = f"import sys; sys.stdin.buffer.read(5); sys.stdout.buffer.write(open({path!r}, 'rb').read())"
    decoders = DecoderPool(GEOMETRY, count=1, local="sift", command=(sys.executable, "-c", code), **LIMITS)
    with pytest.raises(ImageDecodeError, match=r"crashed its decoder"):
        asyncio.run(decoders.decode(GOOD, keypoints=True))
    decoders.close()


@pytest.mark.parametrize(
    "code",
    [
        "import time; time.sleep(100)",
        "import sys; sys.stdin.buffer.read(5); sys.stdout.write('x'); sys.stdout.flush(); import time; time.sleep(100)",
    ],
)
def test_a_hanging_decoder_is_killed_at_its_time_limit(code: str) -> None:
    decoders = DecoderPool(GEOMETRY, count=1, seconds=0.3, command=(sys.executable, "-c", code), **LIMITS)
    began = time.monotonic()
    with pytest.raises(ImageDecodeError, match=r"took longer than 0\.3 s"):
        decode(decoders, b"x" * 300_000)
    assert time.monotonic() - began < 60
    decoders.close()


def test_a_caller_that_disconnects_during_decoding_affects_no_other(decoders: DecoderPool) -> None:
    async def scene() -> np.ndarray:
        gone = asyncio.create_task(decoders.decode(encode(draw(2, 0), "PNG")))
        await asyncio.sleep(0)  # it has asked
        gone.cancel()
        return (await decoders.decode(GOOD)).array

    assert (asyncio.run(scene()) == fit_image(decode_image(GOOD), GEOMETRY)).all()


def test_a_decoder_has_no_secrets_and_ends_with_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHALE_RAY_API_KEY", "a key of a person")
    decoders = DecoderPool(GEOMETRY, count=1, **LIMITS)
    decode(decoders, GOOD)
    process = decoders._idle.get_nowait()
    with open(f"/proc/{process.running.pid}/environ", "rb") as environment:
        assert b"a key of a person" not in environment.read()
    process.socket.close()  # as when the service is killed
    assert process.running.wait(10) == 0
    decoders.close()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bomb() -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(200)) + packer.flush()


HOSTILE = {
    "a bomb by its size": png(60_000, 60_000, zlib.compress(b"")),
    "a bomb in its text": png(64, 48, zlib.compress(b""), chunk(b"zTXt", b"a\0\0" + bomb())),
    "an svg": b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "a gif": encode(Image.new("RGB", (64, 48)), "GIF"),
    "an eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n(/etc/passwd) run\n",
    "a pdf": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n",
    "a zip behind a jpeg's head": b"\xff\xd8\xff\xe0" + b"PK\x03\x04" * 100,
    "html behind a png's head": b"\x89PNG\r\n\x1a\n<html><script>alert(1)</script>",
    "nothing but a head": b"II*\0",
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
@pytest.mark.parametrize("keypoints", [False, True])
def test_a_malicious_file_is_refused_in_bounded_time_and_memory(
    decoders: DecoderPool, sift_decoders: DecoderPool, name: str, keypoints: bool
) -> None:
    decoders = sift_decoders if keypoints else decoders
    began = time.monotonic()
    with pytest.raises(ImageError) as caught:
        asyncio.run(decoders.decode(HOSTILE[name], keypoints=keypoints))
    assert time.monotonic() - began < 60
    assert "/" not in str(caught.value)
    assert decode(decoders, GOOD)[0].shape == (60, 80, 3)
    assert most_memory(decoders) < 200 * 2**20


def most_memory(decoders: DecoderPool) -> int:
    """The most bytes of memory that the decoder ever held."""
    process = decoders._idle.get_nowait()
    decoders._idle.put_nowait(process)
    status = Path(f"/proc/{process.running.pid}/status").read_text()
    (kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.M)
    return 1024 * int(kilobytes)


def test_a_decompression_bomb_in_a_small_image_is_read_only_up_to_its_size(decoders: DecoderPool) -> None:
    assert not decode(decoders, png(80, 60, bomb()))[0][10:-10, 10:-10].any()
    assert most_memory(decoders) < 200 * 2**20


def test_the_first_of_several_frames_is_decoded(decoders: DecoderPool) -> None:
    first, second = draw(1, 0), draw(2, 0)
    for kind in ("TIFF", "WEBP", "PNG"):
        data = encode(
            first, kind, save_all=True, append_images=[second], **({"lossless": True} if kind == "WEBP" else {})
        )
        assert (decode(decoders, data)[0] == fit_image(first, GEOMETRY)).all()


register_decoders()
SEEDS = [encode(draw(1, 0), kind) for kind in FORMATS]
SEEDS.append(encode(draw(1, 0), "JPEG", progressive=True))
SEEDS.append(encode(draw(1, 0), "TIFF", compression="tiff_lzw"))
SEEDS.append(encode(draw(1, 0).convert("P"), "PNG"))


@st.composite
def mutated(draw_: st.DrawFn) -> bytes:
    """A real file, some bytes of which are changed, cut out, doubled or cut off."""
    data = bytearray(draw_(st.sampled_from(SEEDS)))
    for _ in range(draw_(st.integers(1, 8))):
        # most of what a decoder believes stands in the first bytes
        place = draw_(st.one_of(st.integers(0, 200), st.integers(0, len(data)))) % max(len(data), 1)
        match draw_(st.sampled_from(("change", "change", "change", "cut", "double", "end"))):
            case "change":
                new = draw_(
                    st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0"]))
                )
                data[place : place + len(new)] = new
            case "cut":
                del data[place : place + draw_(st.integers(1, 64))]
            case "double":
                data[place:place] = data[place : place + draw_(st.integers(1, 64))]
            case "end":
                del data[place:]
    return bytes(data)


@given(data=mutated())
@settings(max_examples=300, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mutated_file_is_decoded_or_refused_and_the_decoder_survives(decoders: DecoderPool, data: bytes) -> None:
    process = decoders._idle.get_nowait()
    decoders._idle.put_nowait(process)
    before = process.running.pid
    try:
        array, _ = decode(decoders, data)
        assert (array.shape, array.dtype) == ((60, 80, 3), np.uint8)
    except ImageError:
        pass
    assert process.running.pid == before
