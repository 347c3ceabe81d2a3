"""Images for the tests of `data`: valid ones, drawn from noise, and unusable ones."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whale_ray.data.catalog import Catalog, read_catalog


def drawn(seed: int, size: tuple[int, int] = (80, 60)) -> Image.Image:
    """A smooth picture of its own for every seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of the picture as a file of this kind."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def vast_png(side: int = 30_000) -> bytes:
    """A whole PNG of one bit a pixel: small as a file, 900 million pixels when decoded."""
    packer = zlib.compressobj(1)
    row = b"\0" + b"\0" * ((side + 7) // 8)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture(scope="session")
def hostile() -> dict[str, bytes]:
    """Files by name, as people really send them."""
    picture = drawn(1)
    sideways = Image.Exif()
    sideways[0x0112] = 6
    deep = Image.fromarray(np.linspace(0, 65535, 4800).astype(np.uint16).reshape(60, 80))
    return {
        "text.jpg": b"this is a text, whatever its name says\n",
        "truncated.jpg": encoded(picture, "JPEG")[:-400],
        "vast.png": vast_png(),
        "animated.gif": encoded(picture, "GIF", save_all=True, append_images=[drawn(2)]),
        "cmyk.jpg": encoded(picture.convert("CMYK"), "JPEG", quality=95),
        "deep.png": encoded(deep, "PNG"),
        "sideways.jpg": encoded(picture, "JPEG", exif=sideways, quality=95),
        "empty.jpg": b"",
    }


DataFolder = Callable[[Mapping[str, tuple[str, bytes | Image.Image]]], Catalog]


@pytest.fixture
def data_folder(tmp_path: Path) -> DataFolder:
    """Writes photographs, by name: (individual, content), into a folder of the competition's layout and reads it."""

    def write(photographs: Mapping[str, tuple[str, bytes | Image.Image]]) -> Catalog:
        folder = tmp_path / "data" / "train"
        folder.mkdir(parents=True)
        for name, (_, content) in photographs.items():
            data = encoded(content, "PNG") if isinstance(content, Image.Image) else content
            (folder / name).write_bytes(data)
        rows = [f"{name},{individual}\n" for name, (individual, _) in photographs.items()]
        (tmp_path / "data" / "train.csv").write_text("Image,Id\n" + "".join(rows))
        return read_catalog(tmp_path / "data")

    return write
