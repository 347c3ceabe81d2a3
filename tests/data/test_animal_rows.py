"""Rows of a catalog: identifiers, boxes, and several animals in one photograph from table to split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from whale_ray.data.audit import audit_photographs
from whale_ray.data.catalog import Catalog, read_catalog
from whale_ray.data.formats.animal_rows import COLUMNS, complete_rows
from whale_ray.data.image_io import Geometry, fit_image
from whale_ray.data.pixel_cache import data_fingerprint, decode_images
from whale_ray.data.split import SPLITS, parts_of, split_photographs
from whale_ray.errors import DataError

GEOMETRY = Geometry(24, 32)
TWO_ANIMALS = (
    "Image,Id,x0,y0,x1,y1\n"
    "pair.png,mother,0,0,40,30\n"
    "pair.png,calf,40,30,80,60\n"
    "other.png,mother,1,2,30.5,40\n"
    "copy.png,mother,0,0,40,30\n"
    "copy.png,calf,40,30,80,60\n"
    "whole.png,calf,,,,\n"
)


def drawn(seed: int, size: tuple[int, int] = (80, 60)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def pairs(tmp_path: Path) -> Catalog:
    (tmp_path / "train").mkdir()
    for name, seed in (("pair", 1), ("other", 2), ("copy", 1), ("whole", 3)):
        drawn(seed).save(tmp_path / "train" / f"{name}.png")
    (tmp_path / "train.csv").write_text(TWO_ANIMALS)
    return read_catalog(tmp_path)


def test_a_photograph_with_several_animals_has_a_row_for_each(pairs: Catalog) -> None:
    assert list(pairs.table) == list(COLUMNS)
    assert pairs.table["image"].tolist() == [
        "pair.png#0,0,40,30",
        "pair.png#40,30,80,60",
        "other.png",
        "copy.png#0,0,40,30",
        "copy.png#40,30,80,60",
        "whole.png",
    ]
    assert pairs.path("pair.png#40,30,80,60") == pairs.folder / "pair.png"
    assert pairs.box("pair.png#40,30,80,60") == (40, 30, 80, 60)
    assert pairs.box("other.png") == (1, 2, 30.5, 40)
    assert pairs.box("whole.png") is None


def test_each_animal_is_decoded_from_its_own_box(pairs: Catalog, tmp_path: Path) -> None:
    pixels = decode_images(pairs, GEOMETRY, cache=tmp_path / "cache")
    assert pixels.health["image"].tolist() == pairs.table["image"].tolist()
    assert (pixels.health["status"] == "ok").all()
    for row, box in enumerate([(0, 0, 40, 30), (40, 30, 80, 60), (1, 2, 30.5, 40)]):
        image = drawn(2 if row == 2 else 1)
        assert np.array_equal(pixels.array[row], fit_image(image, GEOMETRY, box=box))


def test_copies_are_found_per_animal_and_animals_of_one_photograph_are_no_twins(pairs: Catalog, tmp_path: Path) -> None:
    audit = audit_photographs(pairs, decode_images(pairs, GEOMETRY, cache=tmp_path / "cache"))
    assert audit.findings["conflicts"] == []
    assert audit.findings["twins"] == [
        ["pair.png#0,0,40,30", "copy.png#0,0,40,30"],
        ["pair.png#40,30,80,60", "copy.png#40,30,80,60"],
    ]
    assert audit.findings["identical_files"] == [["pair.png", "copy.png"]]
    assert audit.lines()[0].startswith("6 animals in 4 photographs: 6 of 2 named individuals")


def test_the_fingerprint_counts_boxes_and_details_but_no_empty_column(pairs: Catalog, tmp_path: Path) -> None:
    pixels = decode_images(pairs, GEOMETRY, cache=tmp_path / "cache")
    found = {
        data_fingerprint(Catalog(table, pairs.folder, "new_whale"), pixels)
        for table in (
            pairs.table,
            pairs.table.assign(x1=pairs.table["x1"] + 1),
            pairs.table.assign(view="left"),
            pairs.table.assign(date="2020-01-01"),
            pairs.table.assign(species="orca"),
        )
    }
    assert len(found) == 5
    plain = Catalog(pairs.table[["image", "individual", "group"]], pairs.folder, "new_whale")
    assert data_fingerprint(plain, pixels) == data_fingerprint(Catalog(plain.table, pairs.folder, "new_whale"), pixels)


def test_two_rows_with_one_box_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train.csv").write_text(TWO_ANIMALS + "pair.png,third,0,0,40,30\n")
    with pytest.raises(DataError, match=r"photograph pair\.png#0,0,40,30 has more"):
        read_catalog(tmp_path)


@pytest.mark.parametrize("box", ["5,5,5,9", "0,0,,9", "0,0,wide,9"])
def test_a_wrong_box_of_the_table_names_its_line(tmp_path: Path, box: str) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train.csv").write_text(TWO_ANIMALS + f"last.png,calf,{box}\n")
    with pytest.raises(DataError, match=r"do not for last\.png \(line 8\)"):
        read_catalog(tmp_path)


def family_table(photographs: int) -> pd.DataFrame:
    """Mother and calf together on every photograph, and individuals that are alone on theirs."""
    together = [(f"pair{n}.jpg", name) for n in range(photographs) for name in ("mother", "calf")]
    alone = [(f"{name}{n}.jpg", name) for name in map("w{}".format, range(12)) for n in range(3)]
    rows = pd.DataFrame([*together, *alone, ("pair0.jpg", "new_whale")], columns=["file", "individual"])
    x0 = rows.groupby("file").cumcount() * 10.0
    return complete_rows(rows.assign(x0=x0, y0=0.0, x1=x0 + 10, y1=9.0))


@pytest.mark.parametrize("kind", SPLITS)
@pytest.mark.parametrize("seed", range(3))
def test_animals_of_one_photograph_never_straddle_the_split(kind: str, seed: int) -> None:
    table = family_table(5).assign(group=lambda rows: rows["file"] if kind == "by_group" else "")
    table["date"] = [f"2019-01-{day:02}" for day in 1 + (seed + table.index) % 28]
    folds = split_photographs(table, kind=kind, seed=seed)
    assert (folds.groupby(table["file"]).nunique() == 1).all()
    if SPLITS[kind].by_individual:
        assert (folds[table["individual"] == "mother"] >= 0).any()


@pytest.mark.parametrize("kind", ["stratified", "kfold", "halves"])
@pytest.mark.parametrize("seed", range(10))
def test_each_individual_keeps_a_training_row_though_it_shares_photographs(kind: str, seed: int) -> None:
    files = ["a", "b", "c", "a", "b", "c", "d", "d", "e"]
    names = ["m", "m", "m", "x", "y", "z", "x", "y", "z"]
    rows = pd.DataFrame({"file": files, "individual": names}).assign(x0=range(9), y0=0.0, x1=100.0, y1=9.0)
    table = complete_rows(pd.concat([rows, rows.iloc[:1].assign(file="u", individual="new_whale")], ignore_index=True))
    folds = split_photographs(table, kind=kind, folds=2, seed=seed)
    for fold in range(2 if kind == "kfold" else 1):
        parts = parts_of(folds, fold)
        asked = set(table.loc[parts == "val", "individual"]) - {"new_whale"}
        assert asked <= set(table.loc[parts == "train", "individual"])


def test_an_individual_that_shares_a_photograph_is_not_held_out_whole() -> None:
    table = family_table(3)
    table = table[table["individual"] != "new_whale"]
    for seed in range(5):
        folds = split_photographs(table, kind="open_set", share=0.5, seed=seed)
        whole = (folds >= 0).groupby(table["individual"]).all()
        assert whole.sum() == 6
        assert not whole[["mother", "calf"]].any()
