"""Cache of the local features of a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pictures import draw_animal, features_of

from whale_ray.data.catalog import Catalog
from whale_ray.errors import DataError, InputError
from whale_ray.retrieval.local import feature_files
from whale_ray.retrieval.local.feature_files import local_features_of


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """Three whole photographs, of which one is damaged and one missing, and two boxes in a fourth."""
    folder = tmp_path / "train"
    folder.mkdir()
    draw_animal(1).save(folder / "a.png")
    draw_animal(2, size=(480, 160)).save(folder / "d.png")
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    nowhere = float("nan")
    rows = [("a.png", *[nowhere] * 4), ("b.png", *[nowhere] * 4), ("c.png", *[nowhere] * 4)]
    rows += [("d.png", 0.0, 0.0, 240.0, 160.0), ("d.png", 240.0, 0.0, 480.0, 160.0), ("d.png", 900.0, 0.0, 990.0, 9.0)]
    table = pd.DataFrame(rows, columns=["file", "x0", "y0", "x1", "y1"])
    table["image"] = [f"{file}#{place}" if file == "d.png" else file for place, file in enumerate(table["file"])]
    table["individual"], table["group"] = "w", ""
    return Catalog(table, folder, "new_whale")


def test_each_row_has_the_features_of_its_box(catalog: Catalog, tmp_path: Path) -> None:
    store = local_features_of(catalog, "sift", cache=tmp_path / "cache")
    assert len(store) == 6
    assert store.counts[[1, 2, 5]].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(store.of(0).descriptors, features_of(draw_animal(1)).descriptors)
    left = draw_animal(2, size=(480, 160)).crop((0, 0, 240, 160))
    np.testing.assert_array_equal(store.of(3).descriptors, features_of(left).descriptors)
    assert store.counts[4] > 0


def test_features_are_computed_once_until_a_file_a_box_or_the_kind_changes(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extracted: list[str] = []
    extract = feature_files.extract_features
    monkeypatch.setattr(feature_files, "extract_features", lambda *args: extracted.append(args[1]) or extract(*args))
    cache, steps = tmp_path / "cache", []
    first = local_features_of(catalog, "sift", cache=cache, on_batch=lambda: steps.append(1))
    assert len(extracted) == 3
    assert len(steps) == 4
    again = local_features_of(catalog, "sift", cache=cache)
    np.testing.assert_array_equal(again.descriptors, first.descriptors)
    assert len(extracted) == 3
    local_features_of(catalog, "orb", cache=cache)
    assert len(extracted) == 6
    catalog.table.loc[3, "x1"] = 200.0
    moved = Catalog(catalog.table, catalog.folder, "new_whale")
    assert local_features_of(moved, "sift", cache=cache).counts[3] != first.counts[3]
    draw_animal(5).save(catalog.folder / "c.png")
    assert local_features_of(moved, "sift", cache=cache).counts[2] > 0


def test_a_damaged_file_of_the_cache_is_written_again(catalog: Catalog, tmp_path: Path) -> None:
    first = local_features_of(catalog, "orb", cache=tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*.npz")
    path.write_bytes(path.read_bytes()[:100])
    again = local_features_of(catalog, "orb", cache=tmp_path / "cache")
    np.testing.assert_array_equal(again.descriptors, first.descriptors)


def test_a_folder_that_cannot_be_written_is_named(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"can be written to, but .*file/cache"):
        local_features_of(catalog, "orb", cache=tmp_path / "file" / "cache")
    with pytest.raises(InputError, match="got 'surf'"):
        local_features_of(catalog, "surf", cache=tmp_path)
