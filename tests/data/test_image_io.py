"""One picture: what is accepted, what it becomes, and which part of it is kept."""

from __future__ import annotations

import io
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whale_ray.data.image_io import FILL, Geometry, center_crop, decode_image, fit_image
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
