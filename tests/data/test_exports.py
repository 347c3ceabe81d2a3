"""Exports: what is read again has every row, and tables for other programs have their columns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from whale_ray.data.catalog import Catalog, read_catalog
from whale_ray.data.exports.exported_rows import ExportedRows
from whale_ray.data.exports.registry import EXPORTS, export_rows
from whale_ray.data.formats.animal_rows import BOX, complete_rows
from whale_ray.data.formats.registry import FORMATS
from whale_ray.errors import DataError

READABLE = [name for name in EXPORTS if name in FORMATS]


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """Two animals in one photograph, an unknown one, and names that are no numbers."""
    folder = tmp_path / "photographs"
    for file in ("deep/pair.jpg", "a.jpg", "b.jpg", "n.jpg"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 60)).save(folder / file)
    nan = float("nan")
    rows = [
        ("deep/pair.jpg", "Ada", "e1", 0.5, 1.25, 40.75, 30.0, "2019-05-03T10:11:12", "left", "Orcinus orca"),
        ("deep/pair.jpg", "Bo", "e1", 40.0, 30.0, 80.0, 60.0, "2019-05-03T10:11:12", "right", "Orcinus orca"),
        ("a.jpg", "Ada", "", nan, nan, nan, nan, "2020-01-02", "", "Orcinus orca"),
        ("b.jpg", "007", "e2", 1.0, 2.0, 30.0, 40.0, "", "left", ""),
        ("n.jpg", "new_whale", "", nan, nan, nan, nan, "", "", ""),
    ]
    table = pd.DataFrame(rows, columns=["file", "individual", "group", *BOX, "date", "view", "species"])
    return Catalog(complete_rows(table), folder, "new_whale")


def exported(catalog: Catalog, name: str, out: Path, *, copies_images: bool = False) -> list[str]:
    rows = ExportedRows(catalog.table, catalog.unknown_label, catalog.folder, copies_images)
    return export_rows(rows, name, out)


@pytest.mark.parametrize("name", READABLE)
def test_an_export_is_read_again_without_the_loss_of_a_row(name: str, catalog: Catalog, tmp_path: Path) -> None:
    assert exported(catalog, name, tmp_path / "out") == []
    again = read_catalog(tmp_path / "out", image_folder=str(catalog.folder))
    assert again.recognition is not None
    assert again.recognition.format_name == name
    assert again.folder == catalog.folder
    pd.testing.assert_frame_equal(again.table, catalog.table, check_dtype=False)


@pytest.mark.parametrize("name", READABLE)
def test_an_export_with_its_photographs_is_a_data_set(name: str, catalog: Catalog, tmp_path: Path) -> None:
    exported(catalog, name, tmp_path / "out", copies_images=True)
    again = read_catalog(tmp_path / "out")
    assert len(again.table) == len(catalog.table)
    for image in again.table["image"]:
        assert again.decode(image).size == (80, 60)


@pytest.mark.parametrize("name", READABLE)
def test_a_bundle_without_photographs_is_exported(name: str, catalog: Catalog, tmp_path: Path) -> None:
    gallery = complete_rows(catalog.table[["image", "individual", "file", *BOX]])
    remarks = export_rows(ExportedRows(gallery, "new_whale"), name, tmp_path / "out")
    assert len(remarks) == (name == "coco")
    again = read_catalog(tmp_path / "out", check_files=False)
    assert again.table["image"].tolist() == catalog.table["image"].tolist()
    assert np.allclose(again.table[list(BOX)].to_numpy(), catalog.table[list(BOX)].to_numpy(), equal_nan=True)


def test_camtrap_dp_has_the_tables_of_version_1(catalog: Catalog, tmp_path: Path) -> None:
    remarks = exported(catalog, "camtrap-dp", tmp_path / "out")
    package = json.loads((tmp_path / "out" / "datapackage.json").read_text())
    assert [one["path"] for one in package["resources"]] == ["deployments.csv", "media.csv", "observations.csv"]
    assert package["temporal"] == {"start": "2019-05-03", "end": "2020-01-02"}
    assert package["taxonomic"] == [{"scientificName": "Orcinus orca"}]
    read = {
        name: pd.read_csv(tmp_path / "out" / f"{name}.csv", dtype=str, keep_default_na=False)
        for name in ("deployments", "media", "observations")
    }
    assert read["deployments"]["timestampIssues"].tolist() == ["true"]
    assert read["media"]["filePath"].tolist() == ["deep/pair.jpg", "a.jpg", "b.jpg", "n.jpg"]
    observations = read["observations"]
    assert observations["observationID"].tolist() == catalog.table["image"].tolist()
    assert observations["individualID"].tolist() == ["Ada", "Bo", "Ada", "007", ""]
    assert observations["eventStart"].tolist() == ["2019-05-03T10:11:12Z"] * 2 + ["2020-01-02T00:00:00Z", "", ""]
    sides = ["bboxX", "bboxY", "bboxWidth", "bboxHeight"]
    assert observations.loc[1, sides].astype(float).tolist() == [0.5, 0.5, 0.5, 0.5]
    assert set(observations.loc[2, sides]) == {""}
    for name, key in (("media", "deploymentID"), ("observations", "deploymentID")):
        assert set(read[name][key]) == set(read["deployments"][key])
    assert set(observations["mediaID"]) == set(read["media"]["mediaID"])
    assert any("2 rows have no date" in remark for remark in remarks)


def test_camtrap_dp_names_media_types_and_file_paths_that_it_refuses(tmp_path: Path) -> None:
    files = ["a.JPG", "b.heic", "c.webp", "d.avif", "e.tif", "f", ".g.png", "h..bmp"]
    table = complete_rows(pd.DataFrame({"file": files, "individual": "Ada"}))
    remarks = export_rows(ExportedRows(table, "new_whale"), "camtrap-dp", tmp_path / "out")
    media = pd.read_csv(tmp_path / "out" / "media.csv")
    types = ["jpeg", "heic", "webp", "avif", "tiff", "jpeg", "png", "bmp"]
    assert media["fileMediatype"].tolist() == [f"image/{name}" for name in types]
    assert any(remark.startswith("2 file paths begin with a dot") and ".g.png" in remark for remark in remarks)


def test_the_bulk_import_of_wildbook_has_a_row_for_each_animal(catalog: Catalog, tmp_path: Path) -> None:
    catalog.table.loc[3, "individual"] = "=HYPERLINK(1)"
    remarks = exported(catalog, "wildbook", tmp_path / "out")
    sheet = pd.read_csv(tmp_path / "out" / "wildbook_import.csv", dtype=str, keep_default_na=False)
    assert sheet["Encounter.mediaAsset0"].tolist() == ["pair.jpg", "pair.jpg", "a.jpg", "b.jpg", "n.jpg"]
    assert sheet["Encounter.individualID"].tolist() == ["Ada", "Bo", "Ada", "'=HYPERLINK(1)", ""]
    date = [f"Encounter.{part}" for part in ("year", "month", "day", "hour", "minutes")]
    assert sheet.loc[0, date].tolist() == ["2019", "5", "3", "10", "11"]
    assert sheet.loc[2, date].tolist() == ["2020", "1", "2", "", ""]
    assert sheet.loc[0, ["Encounter.genus", "Encounter.specificEpithet"]].tolist() == ["Orcinus", "orca"]
    assert sheet["Occurrence.occurrenceID"].tolist() == ["e1", "e1", "", "e2", ""]
    assert sheet["Encounter.occurrenceRemarks"][0] == "view left; box 0.5,1.25,40.75,30"
    assert any("locationID" in remark for remark in remarks)
    assert any("2 rows have no species" in remark for remark in remarks)


def test_photographs_of_one_name_are_reported_for_wildbook(catalog: Catalog, tmp_path: Path) -> None:
    twin = catalog.table.iloc[[2]].assign(file="deep/a.jpg", image="deep/a.jpg")
    table = pd.concat([catalog.table, twin], ignore_index=True)
    remarks = export_rows(ExportedRows(table, "new_whale", catalog.folder), "wildbook", tmp_path / "out")
    assert any("1 files have the name of another file" in remark for remark in remarks)


def test_names_that_mean_unknown_elsewhere_are_reported(catalog: Catalog, tmp_path: Path) -> None:
    catalog.table.loc[3, "individual"] = "Unknown"
    assert "called Unknown are read as unknown" in exported(catalog, "wildlife", tmp_path / "out")[0]


def test_an_individual_may_be_called_nan(catalog: Catalog, tmp_path: Path) -> None:
    catalog.table.loc[[2, 3], "individual"] = "NaN"
    for name in READABLE:
        exported(catalog, name, tmp_path / name)
        assert (read_catalog(tmp_path / name).table["individual"] == "NaN").sum() == 2


def test_an_export_never_overwrites_and_names_its_formats(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metadata.csv").write_text("mine")
    with pytest.raises(DataError, match="never overwrites"):
        exported(catalog, "wildlife", tmp_path / "out")
    with pytest.raises(DataError, match="wildlife, coco, camtrap-dp, wildbook"):
        exported(catalog, "wildlive", tmp_path / "other")
    with pytest.raises(DataError, match="Export the run folder"):
        export_rows(ExportedRows(catalog.table, "new_whale", None, copies_images=True), "coco", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_missing_photograph_is_named_and_the_others_are_copied(catalog: Catalog, tmp_path: Path) -> None:
    (catalog.folder / "a.jpg").unlink()
    remarks = exported(catalog, "wildlife", tmp_path / "out", copies_images=True)
    assert remarks == ["1 photographs were not found and not copied: a.jpg"]
    assert (tmp_path / "out" / "images" / "deep" / "pair.jpg").is_file()
