"""Dataset of a sweep: read, decoded, audited and split once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from whale_ray.data.caches.cache_folder import pixel_cache
from whale_ray.data.catalog import Catalog, read_catalog
from whale_ray.data.image_io import Geometry
from whale_ray.errors import DataError
from whale_ray.sweep.config.schema.all_settings import section_settings
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.execution.console import Progress
from whale_ray.sweep.execution.preparation import check_inputs, prepare_dataset
from whale_ray.sweep.planning.dataset import MARGIN, Dataset, geometry_of, open_dataset, write_split

GEOMETRY = Geometry(16, 32)


@pytest.fixture
def root(photographs: Path, tmp_path: Path) -> Path:
    return shutil.copytree(photographs, tmp_path / "photographs")


def opened(root: Path, tmp_path: Path, *, kind: str = "stratified", **data: Any) -> Dataset:
    defaults = {key: setting.default for key, setting in section_settings("data").items()}
    settings = defaults | {"root": str(root), "val_fraction": 0.4} | data
    return open_dataset(settings, {"kind": kind, "seed": 0}, geometry=GEOMETRY, cache=tmp_path / "cache")


def write_folders(table: pd.DataFrame, images: Path, root: Path) -> None:
    for image, individual, encounter in table[["Image", "Id", "Encounter"]].itertuples(index=False):
        (root / individual / encounter).mkdir(parents=True, exist_ok=True)
        shutil.copy(images / image, root / individual / encounter)


def write_wildlife(table: pd.DataFrame, images: Path, root: Path) -> None:
    shutil.copytree(images, root / "images")
    rows = {"path": "images/" + table["Image"], "identity": table["Id"], "encounter": table["Encounter"]}
    pd.DataFrame(rows).to_csv(root / "metadata.csv", index=False)


def write_coco(table: pd.DataFrame, images: Path, root: Path) -> None:
    shutil.copytree(images, root / "images")
    listed = [{"id": row, "file_name": image} for row, image in enumerate(table["Image"])]
    animals = [
        {"id": row, "image_id": row, "name": individual, "encounter_id": encounter}
        for row, (individual, encounter) in enumerate(zip(table["Id"], table["Encounter"], strict=True))
    ]
    (root / "annotations.json").write_text(json.dumps({"images": listed, "annotations": animals}))


FORMS = {"folders": write_folders, "wildlife": write_wildlife, "coco": write_coco}


def test_a_row_of_the_table_is_a_row_of_the_pixels(root: Path, tmp_path: Path) -> None:
    dataset = opened(root, tmp_path)
    pixels = dataset.pixels(GEOMETRY)
    assert pixels.decoded == 0
    assert len(pixels.array) == len(dataset.table) == 72
    assert set(dataset.table["part"]) == {"train", "val"}
    row = 7
    with Image.open(root / "train" / dataset.table["image"][row]) as picture:
        mean = np.asarray(picture.convert("RGB")).mean()
    assert abs(pixels.array[row].mean() - mean) < 25


def test_decoded_photographs_are_opened_without_looking_at_the_image_files(root: Path, tmp_path: Path) -> None:
    dataset = opened(root, tmp_path)
    before = dataset.pixels(GEOMETRY).array.copy()
    shutil.rmtree(root / "train")
    assert (dataset.pixels(GEOMETRY).array == before).all()


def test_the_training_table_is_read_once_a_sweep(
    write_sweep: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(root: Path, **options: Any) -> Catalog:
        read.append(root)
        return read_catalog(root, **options)

    monkeypatch.setattr("whale_ray.sweep.planning.dataset.read_catalog", counted)
    sweep = write_sweep('data.image_size=["16x32", "24x48"]')
    dataset = prepare_dataset(sweep, check_inputs(sweep), Progress(sweep="little", objective="recall@1"))
    assert len(read) == 1
    assert len(dataset.decoded) == 2


def test_classes_are_the_named_individuals_of_the_training_part(root: Path, tmp_path: Path) -> None:
    dataset = opened(root, tmp_path)
    rows, labels, classes = dataset.training_rows(negatives=False)
    individuals = dataset.table["individual"].to_numpy()[rows]
    assert set(dataset.table["part"].iloc[rows]) == {"train"}
    assert "new_whale" not in individuals
    assert set(labels) == set(range(classes))
    assert len({*zip(individuals, labels, strict=True)}) == classes


def test_unknown_individuals_are_negatives_on_request(root: Path, tmp_path: Path) -> None:
    dataset = opened(root, tmp_path)
    rows, labels, classes = dataset.training_rows(negatives=True)
    unknown = dataset.table["individual"].to_numpy()[rows] == "new_whale"
    assert unknown.any()
    assert (labels[unknown] == -1).all()
    assert classes == len(set(labels[~unknown]))
    assert len(rows) > len(dataset.training_rows(negatives=False)[0])


def test_an_unusable_photograph_is_in_the_audit_and_in_no_part(root: Path, tmp_path: Path) -> None:
    name = pd.read_csv(root / "train.csv")["Image"][3]
    (root / "train" / name).write_text("a text")
    dataset = opened(root, tmp_path)
    assert dataset.table.set_index("image")["part"][name] == "set_aside"
    assert name in str(dataset.audit.findings)
    assert 3 not in dataset.rows("train", "val")
    with pytest.raises(DataError, match=name):
        opened(root, tmp_path, on_bad_image="error")


def test_without_unknown_individuals_whole_individuals_are_held_out(root: Path, tmp_path: Path) -> None:
    table = pd.read_csv(root / "train.csv")
    table["Id"] = np.where(table["Id"] == "new_whale", [f"x_{row // 4}" for row in range(len(table))], table["Id"])
    table.to_csv(root / "train.csv", index=False)
    dataset = opened(root, tmp_path)
    parts = dataset.table.groupby("individual")["part"].agg(set)
    assert any(found == {"val"} for found in parts)


def test_an_encounter_is_in_one_part(root: Path, tmp_path: Path) -> None:
    dataset = opened(root, tmp_path, group_column="Encounter")
    assert dataset.table.groupby("group")["part"].nunique().max() == 1


def test_the_fingerprint_depends_on_contents_and_not_on_the_folder(root: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(root, tmp_path / "moved")
    one, other = opened(root, tmp_path), opened(moved, tmp_path)
    assert one.fingerprint == other.fingerprint
    table = pd.read_csv(moved / "train.csv")
    table.loc[0, "Id"] = "someone_else"
    table.to_csv(moved / "train.csv", index=False)
    assert opened(moved, tmp_path).fingerprint != one.fingerprint


def test_split_csv_has_the_columns_of_the_training_table(root: Path, tmp_path: Path) -> None:
    dataset = opened(root, tmp_path)
    write_split(dataset, tmp_path / "split.csv")
    written = pd.read_csv(tmp_path / "split.csv")
    assert list(written.columns) == ["Image", "Id", "part"]
    assert written["Image"].tolist() == pd.read_csv(root / "train.csv")["Image"].tolist()
    assert written["part"].tolist() == dataset.table["part"].tolist()


def test_a_missing_data_folder_is_reported_with_all_remedies(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        opened(tmp_path / "data", tmp_path)
    message = str(caught.value)
    for part in ("kaggle.com/competitions/humpback-whale-identification", "train.csv", "make sweep", "synth"):
        assert part in message


def test_images_have_a_margin_if_augmentation_moves_them() -> None:
    data = {"image_size": "16x32", "resize": "stretch"}
    assert geometry_of(data, {"affine": 0.0}) == Geometry(16, 32, "stretch", 0.0)
    assert geometry_of(data, {"affine": 0.1}) == Geometry(16, 32, "stretch", MARGIN)


def test_the_cache_folder_is_the_one_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WHALE_RAY_CACHE", str(tmp_path))
    assert pixel_cache() == tmp_path / "pixels"
    monkeypatch.delenv("WHALE_RAY_CACHE")
    assert pixel_cache() == Path.home() / ".cache" / "whale_ray" / "pixels"


@pytest.mark.integration
def test_encounters_are_found_only_where_the_table_names_none(root: Path, tmp_path: Path) -> None:
    table = pd.read_csv(root / "train.csv")
    table.assign(When="2019-05-03", Day=[f"day {row}" for row in range(len(table))]).to_csv(
        root / "train.csv", index=False
    )
    found = opened(root, tmp_path, date_column="When")
    named = found.table["individual"] != "new_whale"
    assert (found.table[named].groupby("individual")["group"].nunique() == 1).all()
    assert {one["individual"] for one in found.audit.findings["encounters"]} <= set(found.table["individual"][named])
    assert not opened(root, tmp_path, date_column="When", group_by="twins").table["group"].any()
    given = opened(root, tmp_path, date_column="When", group_column="Day")
    assert given.table["group"].tolist() == [f"day {row}" for row in range(len(table))]
    assert "encounters" not in given.audit.findings
    assert given.audit.findings["same_day"]["same_day"] == given.audit.findings["same_day"]["known"] > 0


def test_by_group_keeps_found_encounters_whole(root: Path, tmp_path: Path) -> None:
    table = pd.read_csv(root / "train.csv")
    days = table.groupby("Id").cumcount() // 2
    table.assign(When=[f"2019-05-{day + 1:02}" for day in days]).to_csv(root / "train.csv", index=False)
    found = opened(root, tmp_path, kind="by_group", date_column="When").table
    joined = found[found["group"] != ""]
    assert joined["group"].nunique() > 8
    assert (joined.groupby("group")["part"].nunique() == 1).all()
    assert set(joined["part"]) == {"train", "val"}


@pytest.mark.parametrize("fmt", ["folders", "wildlife", "coco"])
def test_by_group_keeps_the_encounters_of_a_format_whole(fmt: str, root: Path, tmp_path: Path) -> None:
    table = pd.read_csv(root / "train.csv")
    table["Encounter"] = [f"visit {row // 3}" for row in range(len(table))]
    data = tmp_path / "other"
    FORMS[fmt](table, root / "train", data)
    found = opened(data, tmp_path, kind="by_group").table
    assert (found["group"] != "").all()
    assert (found.groupby("group")["part"].nunique() == 1).all()
    assert set(found["part"]) == {"train", "val"}


def test_by_group_without_encounters_is_refused_before_photographs_are_decoded(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"but no photograph has one\. Name their column in data\.group_column"):
        opened(root, tmp_path, kind="by_group", group_by="twins")
    assert not (tmp_path / "cache").exists()
