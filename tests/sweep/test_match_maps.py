"""Occlusion maps of matches, made with the encoder of the bundle."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from whale_ray.data.image_io import Geometry, center_crop, visible_box
from whale_ray.errors import BundleError
from whale_ray.inference.predictor import Bundle
from whale_ray.retrieval.occlusion_maps import cells_of, embed_occluded
from whale_ray.sweep.planning.dataset import catalog_of
from whale_ray.sweep.report import match_maps, shortcut_audit
from whale_ray.sweep.report.match_maps import map_matches
from whale_ray.sweep.report.page import write_report
from whale_ray.sweep.report.thumbnails import Photographs
from whale_ray.sweep.run_folder.records import Record, read_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from whale_ray.sweep.execution.driver import SweepResult

pytestmark = pytest.mark.integration

WIDE = Geometry(32, 64, "pad", 0.125)


def bright_corner(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """An encoder that sees nothing but how bright the lower left of the picture is: a direction for it."""
    seen = np.stack([center_crop(picture, WIDE)[20:, :16].mean() / 255 for picture in pictures])
    return np.column_stack([np.cos(seen), np.sin(seen)])


def test_the_map_highlights_only_pixels_that_the_encoder_uses() -> None:
    picture = np.zeros((*WIDE.stored, 3), dtype=np.uint8)
    rows, columns = WIDE.border
    picture[rows + 20 : rows + 32, columns : columns + 16] = 255
    covered = embed_occluded(picture, WIDE, bright_corner)
    losses = covered.losses(covered.whole)
    assert losses.shape == cells_of(WIDE) == (4, 9)
    assert np.unravel_index(losses.argmax(), losses.shape) in [(2, 0), (3, 0), (3, 1)]
    assert losses[:, 5:] == pytest.approx(0, abs=1e-6)
    assert losses[0] == pytest.approx(0, abs=1e-6)
    assert losses.max() > 0.1


def test_a_cell_is_the_mean_of_the_patches_that_cover_it() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (*WIDE.stored, 3), dtype=np.uint8)
    other = np.array([0.6, 0.8])
    found = embed_occluded(picture, WIDE, bright_corner).losses(other)
    top, left = WIDE.border
    tops, lefts = (np.linspace(0, side, cells + 1).round().astype(int) for side, cells in ((32, 4), (64, 9)))
    row, column = 3, 1
    cosines = []
    for first_row in (row - 1, row):
        for first_column in (column - 1, column):
            patched = picture.copy()
            y = slice(top + tops[first_row], top + tops[min(first_row + 2, 4)])
            x = slice(left + lefts[first_column], left + lefts[first_column + 2])
            patched[y, x] = picture.mean(axis=(0, 1)).round().astype(np.uint8)
            cosines.append((bright_corner([patched]) @ other)[0])
    assert found[row, column] == pytest.approx((bright_corner([picture]) @ other)[0] - np.mean(cosines))


@pytest.mark.parametrize(("resize", "frame"), [("pad", (0, -25, 300, 125)), ("stretch", (0, 0, 300, 100))])
def test_cells_cover_the_cropped_part_of_the_photograph(resize: str, frame: tuple[float, ...]) -> None:
    assert visible_box((300, 100), Geometry(32, 64, resize, 0.125)) == pytest.approx(frame)


def test_the_map_covers_the_box() -> None:
    assert visible_box((300, 100), Geometry(32, 64, "stretch"), box=(10, 20, 50, 40)) == (10, 20, 50, 40)


def test_a_map_is_painted_where_its_cells_lie(tmp_path: Path) -> None:
    Image.new("RGB", (200, 100), (128, 128, 128)).save(tmp_path / "fluke.png")
    strengths = np.zeros((4, 8))
    strengths[0, 0], strengths[3, 7] = 1.0, -1.0
    uri = Photographs(tmp_path).painted("fluke.png", strengths, (0, 0, 200, 100))
    import base64
    import io

    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))), dtype=int)
    red, _, blue = picture[8, 8]
    assert red > blue + 100, "orange: what the match rests on"
    red, _, blue = picture[-8, -8]
    assert blue > red + 100, "blue: what speaks against it"
    assert np.ptp(picture[50, 100]) < 12, "grey elsewhere"


@pytest.fixture
def run(finished: SweepResult, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.folder, tmp_path / "little", symlinks=True))


def winner(run: Path) -> Record:
    return read_record(run / "trials" / json.loads((run / "best" / "bundle.json").read_text())["trial"])


def pairs_of(record: Record) -> list[tuple[str, str]]:
    queries = pd.read_parquet(record.folder / "queries.parquet").head(2)
    return list(zip(queries["image"], queries["nearest_image"], strict=True))


def test_the_cosine_of_a_map_is_that_of_the_bundle_and_of_the_stored_embeddings(run: Path) -> None:
    record = winner(run)
    catalog = catalog_of(record.settings["data"])
    made = map_matches(run, record, pairs_of(record), catalog)
    assert not made.reason
    queries = pd.read_parquet(record.folder / "queries.parquet").set_index("image")
    bundle = Bundle.load(run / "best")
    for (image, other), one in made.found.items():
        vectors = bundle.embed([bundle.prepare(catalog.path(name)) for name in (image, other)])
        assert one.cosine == pytest.approx(vectors[0] @ vectors[1], abs=1e-5)
        if queries.loc[image, "flip"] == bundle.setting.flip:  # else its fold chose another view
            assert one.cosine == pytest.approx(queries.loc[image, "cosine"], abs=2e-3)
        assert one.losses.shape == cells_of(bundle.geometry)
        assert np.abs(one.losses).max() > 0


def test_a_report_loads_its_bundle_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, loaded = Bundle.load, []
    (run / "maps.json").unlink(missing_ok=True)
    (run / "shortcut_audit.json").unlink(missing_ok=True)

    def recorded(path: Path, **options: Any) -> Bundle:
        loaded.append(path)
        return load(path, **options)

    monkeypatch.setattr(Bundle, "load", recorded)
    monkeypatch.setattr(shortcut_audit, "_FEWEST", 2)
    write_report(run)
    assert (run / "maps.json").exists()
    assert loaded == [run / "best"]
    assert json.loads((run / "shortcut_audit.json").read_text())["asked"] > 0


def test_a_second_report_makes_no_map_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write_report(run).read_text()
    assert (run / "maps.json").exists()

    def refuse(path: Path, **options: object) -> Bundle:
        raise AssertionError("the bundle was loaded again")

    monkeypatch.setattr(Bundle, "load", refuse)
    second = write_report(run).read_text()
    assert first.count("occlusion map of the") == second.count("occlusion map of the") > 0


def test_maps_of_another_bundle_are_deleted(run: Path) -> None:
    record = winner(run)
    catalog = catalog_of(record.settings["data"])
    map_matches(run, record, pairs_of(record), catalog)
    held = json.loads((run / "maps.json").read_text())
    (run / "maps.json").write_text(json.dumps(held | {"bundle": "another", "seconds": 1e6}))
    assert map_matches(run, record, pairs_of(record), catalog).seconds < 1e5


def test_a_damaged_map_file_is_rewritten(run: Path) -> None:
    record = winner(run)
    (run / "maps.json").write_text('{"version": 1, "bundle"')
    assert map_matches(run, record, pairs_of(record), catalog_of(record.settings["data"])).found


def test_without_a_bundle_the_report_says_why_there_are_no_maps(run: Path) -> None:
    (run / "best").unlink()
    page = write_report(run).read_text()
    assert "Occlusion maps: the bundle, which they are made with, is made when the sweep ends" in page
    assert "occlusion map of the" not in page


def test_a_bundle_of_another_trial_makes_no_maps(run: Path) -> None:
    record = winner(run)
    made = map_matches(run, replace(record, trial="00000000"), pairs_of(record), catalog_of(record.settings["data"]))
    assert not made.found
    assert made.reason.startswith(f"the bundle is of trial {record.trial}")


def test_a_bundle_that_does_not_load_gives_a_reason_instead_of_maps(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **options: object) -> Bundle:
        raise BundleError("it is damaged")

    monkeypatch.setattr(Bundle, "load", refuse)
    (run / "maps.json").unlink(missing_ok=True)
    record = winner(run)
    assert map_matches(run, record, pairs_of(record), catalog_of(record.settings["data"])).reason == "it is damaged"


def test_maps_missing_at_the_time_limit_are_made_by_the_next_report(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = winner(run)
    catalog = catalog_of(record.settings["data"])
    (run / "maps.json").unlink(missing_ok=True)
    monkeypatch.setattr(match_maps, "MOST_SECONDS", 0.0)
    stopped = map_matches(run, record, pairs_of(record), catalog)
    assert len(stopped.found) < 2
    assert "maps are left" in stopped.reason
    monkeypatch.undo()
    assert len(map_matches(run, record, pairs_of(record), catalog).found) == 2
