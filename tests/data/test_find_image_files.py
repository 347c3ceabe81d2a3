"""Image files of a folder are found by content; every other file has its reason."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whale_ray.data.decoding.find_image_files import find_images
from whale_ray.data.decoding.image_formats import EXTENSIONS, FORMATS, recognize_format, register_decoders
from whale_ray.errors import DataError


def drawn(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((80, 60), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


JPEG = encoded(drawn(1), "JPEG")


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_images_are_found_by_content_in_all_sub_folders(tmp_path: Path) -> None:
    names = ["a.jfif", "b", "c.jpe", "d.txt", "deep/er/e.JPG", "f.HEIC", "g.mpo", ".hidden", "3:45pm", "n\u202fb.jpg"]
    found = find_images(fill(tmp_path, dict.fromkeys(names, JPEG)))
    assert (found.images, found.others) == (tuple(sorted(names)), {})


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_recognized_without_its_extension(kind: str, tmp_path: Path) -> None:
    register_decoders()
    data = encoded(drawn(1), kind)
    assert recognize_format(data) == kind
    assert find_images(fill(tmp_path, {"photograph": data})).images == ("photograph",)
    assert set(EXTENSIONS) == set(FORMATS)


def test_a_multi_picture_jpeg_and_a_big_endian_tiff_are_recognized() -> None:
    mpo = encoded(drawn(1), "MPO", save_all=True, append_images=[drawn(2)])
    assert recognize_format(mpo) == "JPEG"
    assert recognize_format(encoded(Image.fromarray(np.zeros((2, 2), dtype=">u2")), "TIFF")) == "TIFF"


def test_files_without_an_image_have_a_reason(tmp_path: Path) -> None:
    fill(
        tmp_path,
        {"a.jpg": JPEG, "notes.txt": b"BM is no bitmap", "empty": b"", "._a.jpg": b"\0\5\x16\7Mac", "x/y": b"z"},
    )
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "again").symlink_to(tmp_path / "x")
    os.mkfifo(tmp_path / "pipe.jpg")
    found = find_images(tmp_path)
    assert found.images == ("a.jpg",)
    reasons = {name: reason.split(",")[0] for name, reason in found.others.items()}
    unknown = f"the content is none of {FORMATS[0]}"
    assert reasons == {
        "._a.jpg": unknown,
        "again": "a link to a folder",
        "empty": "the file is empty",
        "notes.txt": unknown,
        "nowhere": "it cannot be read: No such file or directory",
        "pipe.jpg": "not a regular file",
        "x/y": unknown,
    }


def test_a_file_that_is_named_like_an_image_is_one_so_that_its_damage_is_reported(tmp_path: Path) -> None:
    fill(tmp_path, {"text.jpg": b"a text", "empty.heic": b""})
    assert find_images(tmp_path).images == ("empty.heic", "text.jpg")


def test_a_name_that_no_table_can_hold_has_a_reason(tmp_path: Path) -> None:
    fill(tmp_path, {"a.jpg": JPEG})
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff.jpg")).write_bytes(JPEG)
    found = find_images(tmp_path)
    assert (found.images, list(found.others.values())) == (("a.jpg",), ["its name is not valid UTF-8; rename it"])


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must hold photographs .*it is empty"):
        find_images(tmp_path)
    fill(tmp_path, {"a.txt": b"a text"})
    with pytest.raises(DataError, match=r"none of its 1 files is one \(a.txt: the content"):
        find_images(tmp_path)
    with pytest.raises(DataError, match="must lie in a folder"):
        find_images(tmp_path / "nowhere")
