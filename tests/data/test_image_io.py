"""Decoding and fitting of one image: formats, limits, boxes and geometry."""

from __future__ import annotations

import io
import os
import random
import struct
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiff_files import Page, write_tiff

from whale_ray.data.decoding.image_formats import register_decoders
from whale_ray.data.image_io import FILL, Geometry, center_crop, decode_image, fit_image, read_file
from whale_ray.errors import DataError, ImageDecodeError, ImageError, ImageTooLargeError, ImageTypeError


def drawn(seed: int = 0, size: tuple[int, int] = (80, 60)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def ramp(width: int, height: int) -> Image.Image:
    """Red grows by one a column, green by one a row, blue is 200."""
    array = np.full((height, width, 3), 200, dtype=np.uint8)
    array[..., 0] = np.arange(width)
    array[..., 1] = np.arange(height)[:, None]
    return Image.fromarray(array)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_lossless_formats_are_read_exactly(kind: str) -> None:
    assert np.array_equal(decode_image(encoded(drawn(), kind)), drawn())


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_are_read_approximately(kind: str) -> None:
    found = np.asarray(decode_image(encoded(drawn(), kind, quality=95)), dtype=float)
    assert np.abs(found - np.asarray(drawn(), dtype=float)).mean() < 3


def test_a_path_and_its_bytes_are_the_same_picture(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(drawn(), "JPEG"))
    from_path = decode_image(tmp_path / "a.jpg")
    assert np.array_equal(from_path, decode_image((tmp_path / "a.jpg").read_bytes()))


def test_a_text_named_jpg_is_no_picture(hostile: dict[str, bytes]) -> None:
    with pytest.raises(ImageTypeError, match=r"content is none of them\. Save it as JPEG or PNG"):
        decode_image(hostile["text.jpg"])


def test_a_gif_is_not_accepted(hostile: dict[str, bytes]) -> None:
    with pytest.raises(ImageTypeError, match="Save it as JPEG or PNG"):
        decode_image(hostile["animated.gif"])


def test_a_truncated_jpeg_is_damaged(hostile: dict[str, bytes]) -> None:
    with pytest.raises(ImageDecodeError, match="damaged"):
        decode_image(hostile["truncated.jpg"])


def test_an_empty_file_is_reported_as_empty(hostile: dict[str, bytes]) -> None:
    with pytest.raises(ImageDecodeError, match="empty"):
        decode_image(hostile["empty.jpg"])


def test_a_png_of_too_many_pixels_is_refused_before_decoding(hostile: dict[str, bytes]) -> None:
    with pytest.raises(ImageTooLargeError, match="30000 x 30000"):
        decode_image(hostile["vast.png"])


def test_the_limits_are_settings(tmp_path: Path) -> None:
    data = encoded(drawn(), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    assert decode_image(data, max_bytes=len(data), max_pixels=80 * 60).size == (80, 60)
    with pytest.raises(ImageTooLargeError, match="pixels"):
        decode_image(data, max_pixels=80 * 60 - 1)
    for source in (data, tmp_path / "a.png"):
        with pytest.raises(ImageTooLargeError, match="bytes"):
            decode_image(source, max_bytes=len(data) - 1)


def test_reading_a_file_reserves_memory_for_its_size_and_not_for_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(drawn(), "PNG"))
    tracemalloc.start()
    try:
        data = read_file(path, 2**30)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert data == path.read_bytes()
    assert peak < len(data) + 2**18


def test_a_cmyk_jpeg_keeps_its_colors(hostile: dict[str, bytes]) -> None:
    found = np.asarray(decode_image(hostile["cmyk.jpg"]), dtype=float)
    assert np.abs(found - np.asarray(drawn(1), dtype=float)).mean() < 4


def test_sixteen_bits_become_eight(hostile: dict[str, bytes]) -> None:
    found = np.asarray(decode_image(hostile["deep.png"]))
    expected = np.linspace(0, 255, 4800).reshape(60, 80, 1)
    assert np.abs(found - expected).max() <= 1


def test_a_dark_picture_of_sixteen_bits_stays_dark() -> None:
    dark = Image.fromarray(np.full((8, 8), 250, dtype=np.uint16))
    assert np.asarray(decode_image(encoded(dark, "PNG"))).max() == 1


@pytest.mark.parametrize(("high", "warns"), [(0, False), (4095, True), (4096, False), (65535, False)])
def test_sixteen_bits_that_hold_fewer_are_noticed(high: int, warns: bool) -> None:
    picture = np.zeros((8, 8), dtype=np.uint16)
    picture[4:] = high
    for kind in ("PNG", "TIFF"):
        messages: list[str] = []
        decode_image(encoded(Image.fromarray(picture), kind), on_warning=messages.append)
        assert [f"up to {high} of 65535" in message for message in messages] == [True] * warns


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_refused_without_waiting_for_its_content(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(OSError, match="it is a pipe"):
        decode_image(tmp_path / "a.jpg")


def test_the_reason_of_a_damaged_picture_is_one_line() -> None:
    heic = encoded(Image.new("RGB", (64, 64), "red"), "HEIF")
    with pytest.raises(ImageDecodeError) as caught:
        decode_image(heic[: len(heic) // 2])
    assert "\n" not in str(caught.value)


def test_exif_orientation_is_applied(hostile: dict[str, bytes]) -> None:
    found = decode_image(hostile["sideways.jpg"])
    assert found.size == (60, 80)
    turned = np.rot90(np.asarray(drawn(1), dtype=float), k=-1)
    assert np.abs(np.asarray(found, dtype=float) - turned).mean() < 3


def test_transparent_pixels_become_white() -> None:
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.putpixel((1, 1), 1)
    assert np.asarray(decode_image(encoded(clear, "PNG"))).min() == 255
    found = np.asarray(decode_image(encoded(palette, "PNG", transparency=0)))
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[1, 1].tolist() == [200, 0, 0]


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = decode_image(encoded(drawn().convert(mode), "PNG"))
    assert (image.mode, image.size) == ("RGB", (80, 60))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(drawn(1), kind, save_all=True, append_images=[drawn(2)], **options)
    assert np.array_equal(decode_image(data), drawn(1))


def test_a_damaged_file_raises_nothing_but_an_image_error(hostile: dict[str, bytes]) -> None:
    sideways = Image.Exif()
    sideways[0x0112] = 6
    whole = [
        *(encoded(drawn(), kind, exif=sideways) for kind in ("JPEG", "PNG", "WEBP")),
        *(encoded(drawn(), "TIFF", compression=how) for how in (None, "tiff_lzw", "jpeg")),
        encoded(drawn().convert("P"), "BMP"),
        hostile["cmyk.jpg"],
    ]
    numbers = random.Random(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damage that it can live with
        for _ in range(1500):
            data = bytearray(numbers.choice(whole))
            for _ in range(numbers.choice([1, 4, 16])):
                data[numbers.randrange(min(len(data), 400))] = numbers.choice([0, 1, 127, 128, 255])
            try:
                assert decode_image(bytes(data)).mode == "RGB"
            except ImageError:
                continue


def test_damaged_exif_is_an_image_error() -> None:
    sideways = Image.Exif()
    sideways[0x0112] = 6
    data = encoded(drawn(), "JPEG", exif=sideways)
    place = data.index(b"\x12\x01\x03\x00") if b"\x12\x01\x03\x00" in data else data.index(b"\x01\x12\x00\x03")
    for kind in range(256):
        damaged = data[: place + 2] + bytes([kind]) + data[place + 3 :]
        try:
            decode_image(damaged)
        except ImageError:
            continue


def test_stretch_fills_the_whole_array() -> None:
    array = fit_image(Image.new("RGB", (100, 20), "red"), Geometry(32, 48, "stretch"))
    assert array.shape == (32, 48, 3)
    assert array.dtype == np.uint8
    assert (array == [255, 0, 0]).all()


def test_pad_keeps_the_aspect_and_shows_grey_beside_it() -> None:
    array = fit_image(Image.new("RGB", (100, 50), "red"), Geometry(64, 64))
    assert (array[16:48] == [255, 0, 0]).all()
    assert (array[:16] == FILL).all()
    assert (array[48:] == FILL).all()


def test_an_array_of_the_pictures_own_size_is_the_picture() -> None:
    image = drawn(3)
    assert np.array_equal(fit_image(image, Geometry(60, 80)), image)


def test_the_box_is_cropped() -> None:
    array = fit_image(ramp(100, 100), Geometry(20, 30), box=(40, 50, 70, 70))
    assert np.array_equal(array, np.asarray(ramp(100, 100))[50:70, 40:70])


def test_a_box_brought_to_the_aspect_shows_what_lies_around_it() -> None:
    array = fit_image(ramp(100, 100), Geometry(30, 30), box=(40, 50, 70, 70))
    assert np.array_equal(array, np.asarray(ramp(100, 100))[45:75, 40:70])


def test_a_margin_lies_around_the_centre_crop_which_is_the_same_as_without() -> None:
    image, box = ramp(200, 100), (40.0, 30.0, 80.0, 70.0)
    geometry = Geometry(40, 40, margin=0.25)
    array = fit_image(image, geometry, box=box)
    assert array.shape == (60, 60, 3)
    assert np.array_equal(array, np.asarray(image)[20:80, 30:90])
    assert np.array_equal(center_crop(array, geometry), fit_image(image, Geometry(40, 40), box=box))


def test_a_margin_beyond_the_picture_is_grey() -> None:
    array = fit_image(Image.new("RGB", (40, 40), "red"), Geometry(40, 40, margin=0.1))
    assert (center_crop(array, Geometry(40, 40, margin=0.1)) == [255, 0, 0]).all()
    assert (array[:4] == FILL).all()
    assert (array[:, -4:] == FILL).all()


def test_the_centre_crop_is_a_view_of_many_pictures_at_once() -> None:
    stack = np.zeros((5, 60, 60, 3), dtype=np.uint8)
    view = center_crop(stack, Geometry(40, 40, margin=0.25))
    assert view.shape == (5, 40, 40, 3)
    assert np.shares_memory(view, stack)


def test_a_box_over_the_edge_is_clipped() -> None:
    image = ramp(100, 100)
    over = fit_image(image, Geometry(20, 20, "stretch"), box=(-50, -3, 20, 20))
    assert np.array_equal(over, fit_image(image, Geometry(20, 20, "stretch"), box=(0, 0, 20, 20)))
    over = fit_image(image, Geometry(10, 10), box=(90, 90, 1e9, float("inf")))
    assert np.array_equal(over, np.asarray(image)[90:, 90:])


@pytest.mark.parametrize("box", [(100, 0, 120, 50), (-20, 0, 0, 50), (0.1, 0.2, 0.9, 0.8)])
def test_a_box_outside_the_image_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(DataError, match=r"a box covers a pixel of its picture at least.*100 x 100"):
        fit_image(ramp(100, 100), Geometry(10, 10), box=box)


def test_any_size_box_and_geometry_give_the_stored_shape() -> None:
    numbers = random.Random(0)
    for _ in range(300):
        width, height = numbers.choice([1, 2, 7, 300]), numbers.choice([1, 3, 50, 401])
        geometry = Geometry(
            numbers.choice([1, 8, 33]),
            numbers.choice([1, 9, 64]),
            numbers.choice(["pad", "stretch"]),
            numbers.random() / 2,
        )
        left, top = numbers.uniform(-5, width - 1), numbers.uniform(-5, height - 1)
        box = (left, top, max(left, 0) + 1 + numbers.uniform(0, 400), max(top, 0) + 1 + numbers.uniform(0, 400))
        array = fit_image(Image.new("RGB", (width, height)), geometry, box=numbers.choice([None, box]))
        assert array.shape == (*geometry.stored, 3)


GREY = np.linspace(0, 1, 20).reshape(4, 5)
COLORS = np.stack([GREY, 1 - GREY, GREY / 2], axis=-1)
QUARTER = np.zeros((48, 64, 3), dtype=np.uint8)  # white in its upper left quarter
QUARTER[:24, :32] = 255
BYTE_ORDERS = pytest.mark.parametrize("order", "<>")


def scaled(values: np.ndarray, kind: str) -> np.ndarray:
    """Values of 0 to 1 in the range of a number format."""
    type_ = np.dtype(kind)
    return (values if type_.kind == "f" else (values * np.iinfo(type_).max).round()).astype(type_)


def assert_levels(data: bytes, expected: np.ndarray) -> None:
    """Pixels are `expected`, 0 to 1, within one grey level."""
    found = np.asarray(decode_image(data), dtype=float)
    wanted = 255 * (expected if expected.ndim == 3 else expected[..., None])
    assert found.shape == (*expected.shape[:2], 3)
    assert np.abs(found - wanted).max() <= 1


@BYTE_ORDERS
@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
def test_grey_tiff_is_scaled_by_the_range_of_its_format(kind: str, order: str) -> None:
    assert_levels(write_tiff(Page(scaled(GREY, kind)), order=order), GREY)


def test_grey_tiff_of_32_bits_and_bigtiff_are_scaled_by_their_range() -> None:
    assert_levels(write_tiff(Page(scaled(GREY, "u4"))), GREY)
    assert_levels(write_tiff(Page(scaled(GREY, "u2")), big=True), GREY)


@BYTE_ORDERS
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_color_tiff_is_scaled_by_the_range_of_its_format(kind: str, order: str) -> None:
    assert_levels(write_tiff(Page(scaled(COLORS, kind)), order=order), COLORS)


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
def test_white_is_zero_tiff_is_inverted(kind: str) -> None:
    assert_levels(write_tiff(Page(scaled(GREY, kind), {262: ("H", (0,))})), 1 - GREY)


def test_packed_12_bit_tiff_is_scaled_by_12_bits() -> None:
    packed = np.array([[0xFF, 0xF8, 0x00]], dtype=np.uint8)  # 4095 and 2048
    data = write_tiff(Page(packed, {256: ("I", (2,)), 258: ("H", (12,))}))
    assert_levels(data, np.array([[1.0, 0.5]]))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("kind", ["<u2", ">u2", "f4"])
def test_compressed_tiff_is_scaled_as_the_uncompressed_one(kind: str, compression: str) -> None:
    assert_levels(encoded(Image.fromarray(scaled(GREY, kind)), "TIFF", compression=compression), GREY)


@BYTE_ORDERS
@pytest.mark.parametrize(
    ("pixels", "tags", "reason"),
    [
        (scaled(COLORS, "f4"), {}, "floating-point numbers of 32 bits in 3 channels"),
        (scaled(GREY, "f8"), {}, "floating-point numbers of 64 bits"),
        (scaled(GREY, "f2"), {}, "floating-point numbers of 16 bits"),
        (scaled(GREY, "i1"), {}, "signed integers of 8 bits"),
        (scaled(GREY, "i2"), {}, "signed integers of 16 bits"),
        (scaled(GREY, "i4"), {}, "signed integers of 32 bits"),
        (scaled(COLORS, "u2"), {284: ("H", (2,))}, "16 bits in 3 channels in separate planes"),
        (scaled(COLORS, "u4"), {}, "unsigned integers of 32 bits in 3 channels"),
        (scaled(GREY * 255, "f4"), {}, "go from 0 to 255"),
        (scaled(GREY - 0.5, "f4"), {}, "go from -0.5 to 0.5"),
        (np.full((4, 5), np.nan, dtype=np.float32), {}, "floating-point values must go from 0"),
        (scaled(GREY / 1000, "f4"), {}, "would all be black"),
    ],
)
def test_tiff_that_would_decode_to_wrong_pixels_is_refused_with_its_number_format(
    pixels: np.ndarray, tags: dict[int, tuple[str, tuple[int, ...]]], reason: str, order: str
) -> None:
    with pytest.raises(ImageTypeError, match=reason):
        decode_image(write_tiff(Page(pixels, tags), order=order))


def test_16_bit_values_in_32_bits_are_refused_instead_of_shown_black() -> None:
    with pytest.raises(ImageTypeError, match=r"0 to 4294967295.*go from 0 to 65535"):
        decode_image(write_tiff(Page((GREY * 65535).astype(np.uint32))))


REDUCED = Page(np.full((2, 2, 3), 7, dtype=np.uint8), {254: ("I", (1,))})
FULL = Page(scaled(COLORS, "u1"))
SENSOR = Page(scaled(GREY, "u2"), {262: ("H", (32803,))})


@BYTE_ORDERS
@pytest.mark.parametrize(
    "pages",
    [
        (REDUCED, FULL),
        (Page(REDUCED.pixels, {255: ("H", (2,))}), FULL),
        (Page(REDUCED.pixels, {254: ("I", (4,))}), FULL),
        (REDUCED, REDUCED, FULL, SENSOR),
        (Page(REDUCED.pixels, REDUCED.tags, (FULL,)),),
        (Page(REDUCED.pixels, REDUCED.tags, (REDUCED, SENSOR, FULL)),),
        (FULL, REDUCED),
    ],
    ids=["reduced", "old tag", "mask", "two reduced", "sub-page", "third sub-page", "full first"],
)
def test_the_first_full_page_of_a_tiff_is_decoded(pages: tuple[Page, ...], order: str) -> None:
    assert_levels(write_tiff(*pages, order=order), COLORS)


def test_the_full_page_of_a_bigtiff_is_decoded() -> None:
    assert_levels(write_tiff(REDUCED, FULL, big=True), COLORS)


@BYTE_ORDERS
@pytest.mark.parametrize(
    ("pages", "reason"),
    [
        ((SENSOR,), "camera sensor data"),
        ((Page(REDUCED.pixels, REDUCED.tags, (REDUCED, SENSOR)),), "camera sensor data"),
        ((REDUCED, REDUCED), "all 2 pages are reduced previews"),
    ],
    ids=["DNG", "NEF", "previews"],
)
def test_a_tiff_without_a_developed_full_page_is_refused(pages: tuple[Page, ...], reason: str, order: str) -> None:
    with pytest.raises(ImageTypeError, match=reason):
        decode_image(write_tiff(*pages, order=order))


def test_pages_that_lead_in_a_circle_end() -> None:
    data = bytearray(write_tiff(REDUCED, REDUCED))
    first = int.from_bytes(data[4:8], "little")
    data[-4:] = first.to_bytes(4, "little")  # the last page's link to the next one
    with pytest.raises(ImageTypeError, match="all 2 pages"):
        decode_image(bytes(data))


def exif(orientation: int, *, broken: bool = False) -> bytes:
    """EXIF with an orientation; broken: and a resolution of two rationals, one of them 0/0."""
    entries = [struct.pack("<HHIHxx", 0x0112, 3, 1, orientation)]
    if broken:
        entries += [struct.pack("<HHII", 0x011A, 5, 2, 50), struct.pack("<HHII", 0x011B, 10, 1, 66)]
    body = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"Exif\0\0II*\0\x08\0\0\0" + body.ljust(42, b"\0") + struct.pack("<6I", 72, 1, 0, 0, 0, 0)


UPRIGHT = {1: QUARTER, 2: QUARTER[:, ::-1], 3: np.rot90(QUARTER, 2), 4: QUARTER[::-1]} | {
    5: np.rot90(QUARTER[:, ::-1]),
    6: np.rot90(QUARTER, -1),
    7: np.rot90(QUARTER[::-1]),
    8: np.rot90(QUARTER),
}


@pytest.mark.parametrize("broken", [False, True], ids=["sound", "broken"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright_whatever_other_tags_hold(
    orientation: int, kind: str, broken: bool
) -> None:
    register_decoders()
    if kind == "TIFF":
        tags = {274: ("H", (orientation,))} | ({283: ("H", (1, 2, 3))} if broken else {})
        data = write_tiff(Page(QUARTER, tags))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's encoder of AVIF reads the tags
            data = encoded(Image.fromarray(QUARTER), kind, exif=exif(orientation, broken=broken))
    found = np.asarray(decode_image(data, on_warning=lambda _: None), dtype=float)
    assert found.shape == UPRIGHT[orientation].shape
    assert np.abs(found - UPRIGHT[orientation]).mean() < 3


def test_an_orientation_in_xmp_is_turned_upright() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    assert decode_image(encoded(Image.fromarray(QUARTER), "JPEG", xmp=xmp)).size == (48, 64)


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_images_of_phones_are_decoded_in_color(kind: str) -> None:
    register_decoders()
    found = np.asarray(decode_image(encoded(drawn(), kind, quality=95)), dtype=float)
    assert np.abs(found - np.asarray(drawn(), dtype=float)).mean() < 5
    with pytest.raises(ImageTooLargeError, match="80 x 60"):
        decode_image(encoded(drawn(), kind), max_pixels=80 * 60 - 1)
    with pytest.raises(ImageError):
        decode_image(encoded(drawn(), kind)[:-200])


def test_a_film_is_not_mistaken_for_an_image() -> None:
    with pytest.raises(ImageTypeError, match="none of them"):
        decode_image(b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(100))


def png(depth: int, color: int, row: bytes, transparent: bytes, *, width: int = 2, palette: bytes = b"") -> bytes:
    """A PNG of one row with any bit depth and a transparent color."""
    header = struct.pack(">IIBBBBB", width, 1, depth, color, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", palette), (b"tRNS", transparent), (b"IDAT", zlib.compress(b"\0" + row))]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in [*chunks, (b"IEND", b"")]
        if data or name == b"IEND"
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(1, 0, b"\x40", b"\0\x00"), [255, 255]),
        (png(1, 0, b"\x40", b"\0\x01"), [0, 255]),
        (png(2, 0, b"\x1b", b"\0\x01", width=4), [0, 255, 170, 255]),
        (png(4, 0, b"\x5a", b"\0\x05"), [255, 170]),
        (png(8, 0, b"\x05\x09", b"\0\x05"), [255, 9]),
        (png(16, 0, struct.pack(">HH", 500, 9000), struct.pack(">H", 500)), [255, 35]),
        (png(8, 2, b"\5\6\7\5\6\5", struct.pack(">HHH", 5, 6, 7)), [255, [5, 6, 5]]),
        (png(16, 2, struct.pack(">6H", *[500] * 3, *[9000] * 3), struct.pack(">3H", *[500] * 3)), [255, 35]),
        (png(8, 3, b"\0\1", b"\0", palette=bytes([9, 9, 9, 200, 0, 0])), [255, [200, 0, 0]]),
        (png(16, 4, struct.pack(">HHHH", 500, 65535, 700, 0), b""), [1, 255]),
        (png(16, 6, struct.pack(">8H", 30000, 600, 700, 65535, 1, 2, 3, 0), b""), [[117, 2, 2], 255]),
    ],
    ids=["1", "1 white", "2", "4", "8", "16", "RGB", "RGB 16", "palette", "LA 16", "RGBA 16"],
)
def test_a_png_of_every_depth_is_white_where_it_is_transparent(data: bytes, expected: list[object]) -> None:
    wanted = [value if isinstance(value, list) else [value] * 3 for value in expected]
    assert np.asarray(decode_image(data))[0].tolist() == wanted


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=95),
        encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "TIFF"),
        encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "TIFF", compression="tiff_lzw"),
    ],
    ids=["Adobe JPEG", "TIFF", "TIFF LZW"],
)
def test_cmyk_ink_becomes_its_color(data: bytes) -> None:
    assert np.asarray(decode_image(data))[0, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize(("alpha", "expected"), [(1, [227, 177, 127]), (2, [177, 152, 127])])
def test_associated_and_plain_alpha_of_a_tiff_are_laid_on_white(alpha: int, expected: list[int]) -> None:
    data = write_tiff(Page(np.array([[[100, 50, 0, 128]]], dtype=np.uint8), {338: ("H", (alpha,))}))
    assert np.asarray(decode_image(data))[0, 0].tolist() == expected


def test_a_lab_tiff_is_refused() -> None:
    with pytest.raises(ImageTypeError, match="CIELAB"):
        decode_image(encoded(Image.new("LAB", (4, 4)), "TIFF"))


def test_warnings_of_the_decoder_are_logged_with_the_path(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "strange.tif"
    path.write_bytes(write_tiff(Page(QUARTER, {283: ("H", (1, 2, 3))})))
    decode_image(path)
    assert f"{path}: Metadata Warning, tag 283" in caplog.text


def test_warnings_of_decoding_threads_stay_with_their_image() -> None:
    sound, strange = write_tiff(Page(QUARTER)), write_tiff(Page(QUARTER, {283: ("H", (1, 2, 3))}))

    def heard(data: bytes) -> list[str]:
        messages: list[str] = []
        decode_image(data, on_warning=messages.append)
        return messages

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(heard, [sound, strange] * 50))
    assert all(not messages for messages in found[::2])
    assert all(len(messages) == 1 and "tag 283" in messages[0] for messages in found[1::2])
    with pytest.warns(UserWarning, match="as before"):
        warnings.warn("as before", stacklevel=1)


def test_a_decoded_jpeg_outlives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.full((8, 9, 3), 90, np.uint8)).save(path)
    image = decode_image(path)
    path.unlink()
    assert np.abs(np.asarray(image.resize((3, 3))).astype(int) - 90).max() <= 2
    assert image.copy().size == (9, 8)
