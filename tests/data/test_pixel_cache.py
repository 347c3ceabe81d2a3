"""Cache of decoded photographs: decoded once, complete, shared, with the health of each photograph."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiff_files import Page, write_tiff

from whale_ray.data.audit import audit_photographs
from whale_ray.data.catalog import Catalog, read_catalog
from whale_ray.data.decoding import decode_photograph
from whale_ray.data.decoding.thumbnails import THUMBNAIL_SIDE, shrink_to_jpeg
from whale_ray.data.image_io import Geometry, center_crop, fit_image
from whale_ray.data.pixel_cache import data_fingerprint, decode_images
from whale_ray.errors import DataError
from whale_ray.serving.http.uploads import Limits

DataFolder = Callable[[dict[str, tuple[str, bytes | Image.Image]]], Catalog]
GEOMETRY = Geometry(24, 32)

BUILD = """
import sys
from pathlib import Path
from whale_ray.data.catalog import read_catalog
from whale_ray.data.image_io import Geometry
from whale_ray.data.pixel_cache import decode_images
print(decode_images(read_catalog(Path(sys.argv[1])), Geometry(24, 32), cache=Path(sys.argv[2])).decoded)
"""


def drawn(seed: int, size: tuple[int, int] = (80, 60)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def three(data_folder: DataFolder) -> Catalog:
    return data_folder({"a.png": ("w", drawn(1)), "b.png": ("w", drawn(2, (50, 90))), "c.png": ("v", drawn(3))})


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A second of decoding: links to one large photograph."""
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    drawn(1, (2000, 1500)).save(folder / "0.jpg", quality=90)
    for number in range(1, 20):
        os.link(folder / "0.jpg", folder / f"{number}.jpg")
    rows = "".join(f"{number}.jpg,w\n" for number in range(20))
    (tmp_path / "data" / "train.csv").write_text("Image,Id\n" + rows)
    return tmp_path / "data"


def build(data: Path, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", BUILD, data, cache], stdout=subprocess.PIPE, text=True)


def test_rows_are_the_photographs_fitted_to_the_geometry(three: Catalog, tmp_path: Path) -> None:
    pixels = decode_images(three, GEOMETRY, cache=tmp_path / "cache")
    assert isinstance(pixels.array, np.memmap)
    for row, image in enumerate((drawn(1), drawn(2, (50, 90)), drawn(3))):
        assert np.array_equal(pixels.array[row], fit_image(image, GEOMETRY))
    assert pixels.health["status"].tolist() == ["ok"] * 3
    assert pixels.health[["width", "height"]].to_numpy().tolist() == [[80, 60], [50, 90], [80, 60]]
    content = three.path("a.png").read_bytes()
    assert pixels.health["sha256"][0] == hashlib.sha256(content).hexdigest()
    assert pixels.health["phash"].str.fullmatch("[0-9a-f]{16}").all()


def test_the_second_call_decodes_nothing_and_gives_the_same(three: Catalog, tmp_path: Path) -> None:
    first = decode_images(three, GEOMETRY, cache=tmp_path / "cache")
    second = decode_images(three, GEOMETRY, cache=tmp_path / "cache")
    assert (first.decoded, second.decoded) == (3, 0)
    assert np.array_equal(first.array, second.array)
    pd.testing.assert_frame_equal(first.health, second.health)


def test_thumbnails_are_made_while_decoding(data_folder: DataFolder, tmp_path: Path) -> None:
    large = drawn(1, (400, 200))
    catalog = data_folder({"a.png": ("w", large), "b.jpg": ("w", b"no image"), "c.png": ("v", drawn(3))})
    for _ in ("decoded", "from the cache"):
        thumbnails = decode_images(catalog, GEOMETRY, cache=tmp_path / "cache").thumbnails
        assert thumbnails is not None
        assert [thumbnails[row] for row in range(3)] == [shrink_to_jpeg(large.copy()), b"", shrink_to_jpeg(drawn(3))]
    with Image.open(io.BytesIO(thumbnails[0])) as picture:
        assert picture.size == (THUMBNAIL_SIDE, THUMBNAIL_SIDE // 2)


def test_a_cache_without_a_decoded_image_or_of_an_earlier_version_is_read(
    data_folder: DataFolder, tmp_path: Path
) -> None:
    catalog = data_folder({"a.png": ("w", b"no image"), "b.png": ("w", b"nor this")})
    thumbnails = decode_images(catalog, GEOMETRY, cache=tmp_path / "cache").thumbnails
    assert thumbnails is not None
    assert thumbnails[0] == thumbnails[1] == b""
    for path in (tmp_path / "cache").glob("*/thumbnail*.npy"):
        path.unlink()
    assert decode_images(catalog, GEOMETRY, cache=tmp_path / "cache").thumbnails is None


def test_the_array_is_read_only(three: Catalog, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        decode_images(three, GEOMETRY, cache=tmp_path / "cache").array[0] = 0


def test_another_geometry_or_a_changed_photograph_is_decoded_again(three: Catalog, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    decode_images(three, GEOMETRY, cache=cache)
    assert decode_images(three, Geometry(24, 32, margin=0.25), cache=cache).decoded == 3
    assert decode_images(three, Geometry(24, 32, "stretch"), cache=cache).decoded == 3
    drawn(9).save(three.path("a.png"))
    changed = decode_images(three, GEOMETRY, cache=cache)
    assert changed.decoded == 3
    assert np.array_equal(changed.array[0], fit_image(drawn(9), GEOMETRY))


def test_boxes_are_cut_out_and_belong_to_the_cache_key(three: Catalog, tmp_path: Path) -> None:
    root, cache = three.folder.parent, tmp_path / "cache"
    decode_images(three, GEOMETRY, cache=cache)
    (root / "boxes.csv").write_text("Image,x0,y0,x1,y1\nc.png,10,10,42,34\na.png,70,50,900,900\n")
    pixels = decode_images(read_catalog(root, boxes=root / "boxes.csv"), GEOMETRY, cache=cache)
    assert pixels.decoded == 3
    assert np.array_equal(pixels.array[2], np.asarray(drawn(3))[10:34, 10:42])
    assert np.array_equal(pixels.array[1], fit_image(drawn(2, (50, 90)), GEOMETRY))
    assert np.array_equal(pixels.array[0], fit_image(drawn(1), GEOMETRY, box=(70, 50, 80, 60)))
    (root / "boxes.csv").write_text("Image,x0,y0,x1,y1\nc.png,10,10,43,34\n")
    assert decode_images(read_catalog(root, boxes=root / "boxes.csv"), GEOMETRY, cache=cache).decoded == 3


def test_a_photograph_of_several_rows_is_decoded_once(
    three: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []
    decode_image = decode_photograph.decode_image

    def count(data: bytes, **options: Any) -> Image.Image:
        decoded.append(Path(hashlib.sha256(data).hexdigest()))
        return decode_image(data, **options)

    monkeypatch.setattr(decode_photograph, "decode_image", count)
    rows = [
        ("a.png", "0,0,40,30"),
        ("b.png", ",,,"),
        ("a.png", ",,,"),
        ("a.png", "900,0,940,30"),
        ("a.png", "40,0,80,60"),
    ]
    lines = [f"{name},w,{box}" for name, box in rows]
    (three.folder.parent / "train.csv").write_text("\n".join(["Image,Id,x0,y0,x1,y1", *lines]))
    pixels = decode_images(read_catalog(three.folder.parent), GEOMETRY, cache=tmp_path / "cache")
    assert len(decoded) == 2
    names = ["a.png#0,0,40,30", "b.png", "a.png", "a.png#900,0,940,30", "a.png#40,0,80,60"]
    assert pixels.health["image"].tolist() == names
    assert pixels.health["status"].tolist() == ["ok", "ok", "ok", "wrong_box", "ok"]
    for row, box in ((0, (0, 0, 40, 30)), (2, None), (4, (40, 0, 80, 60))):
        assert np.array_equal(pixels.array[row], fit_image(drawn(1), GEOMETRY, box=box))
    assert pixels.thumbnails is not None
    sizes = [Image.open(io.BytesIO(pixels.thumbnails[row])).size for row in (0, 1, 2, 4)]
    assert sizes == [(40, 30), (50, 90), (80, 60), (40, 60)]


def test_the_largest_file_is_a_setting_and_belongs_to_the_cache_key(three: Catalog, tmp_path: Path) -> None:
    size = max(path.stat().st_size for path in three.folder.iterdir())
    root, cache = three.folder.parent, tmp_path / "cache"
    limited = decode_images(read_catalog(root, image_bytes=size - 1), GEOMETRY, cache=cache)
    assert sorted(limited.health["status"]) == ["ok", "ok", "too_large"]
    assert limited.health["reason"].str.contains("Shrink it, or raise image_bytes").sum() == 1
    found = decode_images(read_catalog(root, image_bytes=size), GEOMETRY, cache=cache)
    assert (found.decoded, set(found.health["status"])) == (3, {"ok"})
    assert decode_images(three, GEOMETRY, cache=cache).decoded == 0


def test_a_file_above_the_limit_of_a_service_is_read(three: Catalog, tmp_path: Path) -> None:
    drawn(1).resize((4000, 2900)).save(three.path("a.png"), "BMP")
    assert three.path("a.png").stat().st_size > Limits.image_bytes
    assert decode_images(three, GEOMETRY, cache=tmp_path / "cache").health["status"].tolist() == ["ok"] * 3


def test_warnings_of_the_decoder_are_in_the_health(three: Catalog, tmp_path: Path) -> None:
    strange = write_tiff(Page(np.zeros((60, 80, 3), dtype=np.uint8), {283: ("H", (1, 2, 3))}))
    three.path("b.png").write_bytes(strange)
    pixels = decode_images(three, GEOMETRY, cache=tmp_path / "cache")
    remarks = pixels.health.set_index("image")["remark"]
    assert remarks.ne("").to_dict() == {"a.png": False, "b.png": True, "c.png": False}
    assert "tag 283" in remarks["b.png"]
    assert any("the decoder warns" in line for line in audit_photographs(three, pixels).lines())


def test_a_box_outside_the_image_is_recorded_in_the_health(three: Catalog, tmp_path: Path) -> None:
    root = three.folder.parent
    (root / "boxes.csv").write_text("Image,x0,y0,x1,y1\na.png,500,500,600,600\n")
    health = decode_images(read_catalog(root, boxes=root / "boxes.csv"), GEOMETRY, cache=tmp_path / "cache").health
    assert health["status"].tolist() == ["wrong_box", "ok", "ok"]
    assert "80 x 60" in health["reason"][0]


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("text.jpg", "wrong_type", "Save it as JPEG or PNG"),
        ("truncated.jpg", "damaged", "truncated"),
        ("vast.png", "too_large", "30000 x 30000"),
        ("animated.gif", "wrong_type", "Save it as JPEG or PNG"),
        ("empty.jpg", "empty", "empty"),
    ],
)
def test_an_unusable_photograph_is_zero_with_a_reason(
    hostile: dict[str, bytes], data_folder: DataFolder, tmp_path: Path, name: str, status: str, reason: str
) -> None:
    catalog = data_folder({"good.png": ("w", drawn(1)), name: ("w", hostile[name]), "also.png": ("w", drawn(2))})
    pixels = decode_images(catalog, GEOMETRY, cache=tmp_path / "cache")
    assert pixels.health["status"].tolist() == ["ok", status, "ok"]
    assert reason in pixels.health["reason"][1]
    assert not pixels.array[1].any()
    assert np.array_equal(pixels.array[2], fit_image(drawn(2), GEOMETRY))


@pytest.mark.parametrize(("name", "size"), [("cmyk.jpg", (80, 60)), ("deep.png", (80, 60)), ("sideways.jpg", (60, 80))])
def test_unusual_but_valid_photographs_are_used(
    hostile: dict[str, bytes], data_folder: DataFolder, tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    catalog = data_folder({"good.png": ("w", drawn(1)), name: ("w", hostile[name])})
    pixels = decode_images(catalog, GEOMETRY, cache=tmp_path / "cache")
    assert pixels.health["status"].tolist() == ["ok", "ok"]
    assert (pixels.health["width"][1], pixels.health["height"][1]) == size
    assert pixels.array[1].any()


def test_missing_files_and_folders_are_recorded_in_the_health(three: Catalog, tmp_path: Path) -> None:
    three.path("a.png").unlink()
    three.path("b.png").unlink()
    three.path("b.png").mkdir()
    pixels = decode_images(three, GEOMETRY, cache=tmp_path / "cache")
    assert pixels.health["status"].tolist() == ["missing", "unreadable", "ok"]
    drawn(1).save(three.path("a.png"))
    assert decode_images(three, GEOMETRY, cache=tmp_path / "cache").health["status"][0] == "ok"


@pytest.mark.integration
def test_a_kill_leaves_no_partial_cache_and_the_next_call_cleans_up(many: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    builder = build(many, cache)
    while not list(cache.glob(".*/pixels.npy")):
        assert builder.poll() is None
        time.sleep(0.005)
    builder.send_signal(signal.SIGKILL)
    assert builder.wait() == -signal.SIGKILL
    builder.communicate()
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [path.name for path in cache.glob(".*")]
    pixels = decode_images(read_catalog(many), GEOMETRY, cache=cache)
    assert pixels.decoded == 20
    assert pixels.array.any(axis=(1, 2, 3)).all()
    assert list(cache.glob(".*")) == []
    assert decode_images(read_catalog(many), GEOMETRY, cache=cache).decoded == 0


@pytest.mark.integration
def test_of_two_processes_at_once_one_decodes(many: Path, tmp_path: Path) -> None:
    builders = [build(many, tmp_path / "cache") for _ in range(2)]
    decoded = [int(builder.communicate(timeout=300)[0]) for builder in builders]
    assert sorted(decoded) == [0, 20]


def test_a_full_disk_is_an_error_with_the_required_space(three: Catalog, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"need [0-9.]+ GiB in .*cache, but: .*WHALE_RAY_CACHE"):
        decode_images(three, Geometry(2_000_000, 1_000_000), cache=tmp_path / "cache")
    assert list((tmp_path / "cache").glob(".*")) == []


def test_a_cache_with_pickled_objects_is_refused(three: Catalog, tmp_path: Path) -> None:
    decode_images(three, GEOMETRY, cache=tmp_path / "cache")
    (stored,) = (tmp_path / "cache").glob("*/pixels.npy")
    np.save(stored, np.array([{"code": "runs"}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        decode_images(three, GEOMETRY, cache=tmp_path / "cache")


def test_one_thread_and_several_give_the_same(three: Catalog, tmp_path: Path) -> None:
    one = decode_images(three, GEOMETRY, cache=tmp_path / "one", workers=1)
    several = decode_images(three, GEOMETRY, cache=tmp_path / "several", workers=4)
    assert np.array_equal(one.array, several.array)
    pd.testing.assert_frame_equal(one.health, several.health)


def test_the_margin_is_around_the_same_pixels(three: Catalog, tmp_path: Path) -> None:
    wide = Geometry(24, 32, margin=0.25)
    with_margin = decode_images(three, wide, cache=tmp_path / "cache").array
    assert with_margin.shape == (3, 36, 48, 3)
    without = decode_images(three, GEOMETRY, cache=tmp_path / "cache").array
    difference = np.abs(center_crop(with_margin, wide).astype(int) - without)
    assert difference.max() <= 1


def test_the_data_fingerprint_depends_on_contents_and_labels_only(three: Catalog, tmp_path: Path) -> None:
    def fingerprint(catalog: Catalog, geometry: Geometry = GEOMETRY) -> str:
        return data_fingerprint(catalog, decode_images(catalog, geometry, cache=tmp_path / "cache"))

    original = fingerprint(three)
    os.utime(three.path("a.png"), (1, 1))
    moved = Catalog(three.table, three.folder.rename(tmp_path / "moved"), "new_whale")
    assert fingerprint(moved) == original == fingerprint(moved, Geometry(8, 8))
    relabelled = three.table.assign(individual=["w", "v", "v"])
    assert fingerprint(Catalog(relabelled, moved.folder, "new_whale")) != original
    grouped = three.table.assign(group=["day", "", ""])
    assert fingerprint(Catalog(grouped, moved.folder, "new_whale")) != original
    drawn(9).save(moved.path("a.png"))
    assert fingerprint(moved) != original
