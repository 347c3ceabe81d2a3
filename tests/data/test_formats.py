"""Formats of data sets: what each reader reads, what `auto` recognises, and faults with their position."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from whale_ray.data.catalog import Catalog, read_catalog
from whale_ray.data.formats.cell_values import parse_bbox_cell
from whale_ray.data.formats.format_names import FORMAT_NAMES
from whale_ray.data.formats.registry import FORMATS
from whale_ray.data.formats.understanding import understood
from whale_ray.errors import DataError

BOX = ["x0", "y0", "x1", "y1"]
TURNED = 6  # EXIF orientation: a quarter turn


def write_image(path: Path, size: tuple[int, int] = (80, 60), *, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, (90, 120, 150)).save(path, "JPEG", exif=exif)


def write_folders(root: Path) -> Path:
    for file in ("Ada/a1.jpg", "Ada/2019/a2.jpg", "Ada/2019/may/a3", "Bo/b1.jpg", "new_whale/n.jpg", "loose.jpg"):
        write_image(root / file)
    (root / "Ada" / "notes.txt").write_text("seen off the island")
    return root


def write_wildlife(root: Path, text: str | None = None) -> Path:
    for file in ("images/pair.jpg", "images/a.jpg", "images/n.jpg"):
        write_image(root / file)
    (root / "metadata.csv").write_text(
        text
        or "image_id,identity,path,bbox,date,orientation,species,encounter\n"
        '1,Ada,images/pair.jpg,"[0, 0, 40.0, 30]",2019-05-03 10:11:12,left,orca,e1\n'
        '2,Bo,images/pair.jpg,"[40.0, 30.0, 40.0, 30.0]",2019-05-03 10:11:12,right,orca,e1\n'
        "3,Ada,images/a.jpg,,2020-01-02,,orca,\n"
        "4,unknown,images/n.jpg,,,unknown,orca,\n"
    )
    return root


def coco_content() -> dict[str, Any]:
    return {
        "info": {},
        "categories": [{"id": 1, "name": "whaleshark"}],
        "images": [
            {"id": 1, "file_name": "pair.jpg", "width": 80, "height": 60, "date_captured": "2019:05:03 10:11:12"},
            {"id": 2, "file_name": "a.jpg", "width": 80, "height": 60, "date_captured": None},
            {"id": 3, "file_name": "bare.jpg", "width": 80, "height": 60},
        ],
        "annotations": [
            {"id": 7, "image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 30], "name": "Ada", "viewpoint": "left"},
            {"id": 8, "image_id": 1, "category_id": 1, "bbox": [40, 30, 40, 30], "name": "Bo", "viewpoint": None},
            {"id": 9, "image_id": 2, "category_id": 1, "name": "Ada", "viewpoint": "right"},
            {"id": 10, "image_id": 2, "category_id": 1, "bbox": [1, 2, 3.5, 4], "name": "____"},
        ],
    }


def write_coco(root: Path, content: Any = None, *, images: str = "images/train2020") -> Path:
    for file in ("pair.jpg", "a.jpg", "bare.jpg"):
        write_image(root / images / file)
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train2020.json").write_text(json.dumps(content or coco_content()))
    return root


def write_kaggle(root: Path) -> Path:
    for file in ("a.jpg", "b.jpg", "c.jpg"):
        write_image(root / "train" / file)
    (root / "train.csv").write_text("Image,Id\na.jpg,Ada\nb.jpg,Ada\nc.jpg,new_whale\n")
    return root


WRITERS = {"kaggle": write_kaggle, "folders": write_folders, "wildlife": write_wildlife, "coco": write_coco}


def cells(catalog: Catalog, *columns: str) -> list[list[Any]]:
    rows: list[list[Any]] = catalog.table[list(columns)].to_numpy().tolist()
    return rows


def fault_of(root: Path, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_catalog(root, **settings)
    return str(caught.value)


def test_the_names_of_the_formats_are_those_of_their_table() -> None:
    assert tuple(FORMATS) == FORMAT_NAMES


@pytest.mark.parametrize("name", FORMATS)
def test_auto_recognizes_each_format_and_says_why(name: str, tmp_path: Path) -> None:
    catalog = read_catalog(WRITERS[name](tmp_path))
    assert catalog.recognition is not None
    assert catalog.recognition.format_name == name
    assert str(tmp_path) in catalog.recognition.reason
    assert catalog.recognition.source.exists()
    assert all(catalog.path(image).is_file() for image in catalog.table["image"])
    chosen = read_catalog(tmp_path, format_name=name)
    pd.testing.assert_frame_equal(chosen.table, catalog.table)


def test_a_folder_for_each_individual(tmp_path: Path) -> None:
    catalog = read_catalog(write_folders(tmp_path))
    assert cells(catalog, "image", "individual", "group") == [
        ["Ada/2019/a2.jpg", "Ada", "2019"],
        ["Ada/2019/may/a3", "Ada", "2019/may"],
        ["Ada/a1.jpg", "Ada", ""],
        ["Bo/b1.jpg", "Bo", ""],
        ["loose.jpg", "new_whale", ""],
        ["new_whale/n.jpg", "new_whale", ""],
    ]
    assert catalog.recognition is not None
    assert "loose.jpg" in catalog.recognition.notes[0]
    assert "Ada/notes.txt" in catalog.recognition.notes[1]


def test_folders_of_individuals_may_lie_in_the_image_folder(tmp_path: Path) -> None:
    write_folders(tmp_path / "train")
    catalog = read_catalog(tmp_path)
    assert catalog.folder == tmp_path / "train"
    assert "Ada/a1.jpg" in set(catalog.table["image"])


def test_photographs_without_a_table_or_folders_are_no_format(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "a.jpg")
    message = fault_of(tmp_path)
    for part in ("train.csv is not there", "metadata.csv", "images and annotations", "two folders"):
        assert part in message


def test_metadata_of_wildlife_datasets(tmp_path: Path) -> None:
    catalog = read_catalog(write_wildlife(tmp_path))
    assert catalog.folder == tmp_path
    assert cells(catalog, "image", "individual", "group", "date", "view", "species") == [
        ["images/pair.jpg#0,0,40,30", "Ada", "e1", "2019-05-03T10:11:12", "left", "orca"],
        ["images/pair.jpg#40,30,80,60", "Bo", "e1", "2019-05-03T10:11:12", "right", "orca"],
        ["images/a.jpg", "Ada", "", "2020-01-02", "", "orca"],
        ["images/n.jpg", "new_whale", "", "", "", "orca"],
    ]
    assert cells(catalog, *BOX)[1] == [40, 30, 80, 60]
    assert catalog.table.loc[2:, BOX].isna().all(axis=None)


def test_columns_of_metadata_may_have_other_names(tmp_path: Path) -> None:
    write_wildlife(tmp_path, "file;whale;side\nimages/a.jpg;Ada;left\nimages/n.jpg;Ada;right\n")
    settings = {"image_column": "file", "label_column": "whale"}
    catalog = read_catalog(tmp_path, format_name="wildlife", **settings)
    assert catalog.table["individual"].tolist() == ["Ada", "Ada"]
    assert "must have the columns path, identity" in fault_of(tmp_path, format_name="wildlife")


def test_another_metadata_file_is_the_table(tmp_path: Path) -> None:
    write_wildlife(tmp_path)
    (tmp_path / "metadata.csv").rename(tmp_path / "whales.csv")
    catalog = read_catalog(tmp_path, table="whales.csv")
    assert catalog.recognition is not None
    assert catalog.recognition.format_name == "wildlife"


@pytest.mark.parametrize("box", ["[0, 0, 0, 5]", "[1, 2, 3]", "somewhere", "[nan, 1, 2, 3]", "[1, 2, -3, 4]"])
def test_a_wrong_bbox_names_its_line(tmp_path: Path, box: str) -> None:
    text = f'path,identity,bbox\nimages/a.jpg,Ada,\n\nimages/n.jpg,Ada,"{box}"\n'
    message = fault_of(write_wildlife(tmp_path, text))
    assert "metadata.csv cannot be used" in message
    assert "that of line 4" in message


def test_coco_of_wildbook_and_miewid(tmp_path: Path) -> None:
    catalog = read_catalog(write_coco(tmp_path))
    assert catalog.folder == tmp_path / "images" / "train2020"
    assert cells(catalog, "image", "individual", "date", "view", "species") == [
        ["pair.jpg#0,0,40,30", "Ada", "2019-05-03T10:11:12", "left", "whaleshark"],
        ["pair.jpg#40,30,80,60", "Bo", "2019-05-03T10:11:12", "", "whaleshark"],
        ["a.jpg", "Ada", "", "right", "whaleshark"],
        ["a.jpg#1,2,4.5,6", "new_whale", "", "", "whaleshark"],
    ]
    assert catalog.recognition is not None
    assert "1 images have no annotation and get no row: bare.jpg" in catalog.recognition.notes


def test_coco_that_links_by_uuid(tmp_path: Path) -> None:
    images = [{"uuid": f"u{n}", "image_path": f"{name}.jpg"} for n, name in enumerate(("pair", "a"))]
    boxes = [{"uuid": f"x{n}", "image_uuid": f"u{n}", "individual_id": 5, "bbox": [0, 0, 9, 9]} for n in range(2)]
    catalog = read_catalog(write_coco(tmp_path, {"images": images, "annotations": boxes}))
    assert cells(catalog, "image", "individual") == [["pair.jpg", "5"], ["a.jpg", "5"]]


def test_half_of_a_surrogate_pair_in_a_name_can_be_written(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"][1]["name"] = "B\ud800o"
    catalog = read_catalog(write_coco(tmp_path, content))
    assert catalog.table["individual"][1] == "B?o"
    catalog.table.to_csv(tmp_path / "table.csv")


def test_the_category_is_the_individual_where_no_annotation_names_one(tmp_path: Path) -> None:
    content = coco_content()
    content["categories"] = [{"id": 1, "name": "Ada"}, {"id": 2, "name": "unknown"}]
    for entry in content["annotations"]:
        del entry["name"]
    content["annotations"][1]["category_id"] = 2
    catalog = read_catalog(write_coco(tmp_path, content))
    assert catalog.table["individual"].tolist() == ["Ada", "new_whale", "Ada", "Ada"]
    assert set(catalog.table["species"]) == {""}


def changed(**changes: Any) -> dict[str, Any]:
    """COCO with other values in its last annotation."""
    content = coco_content()
    content["annotations"][-1] |= changes
    return content


DOUBLE_IMAGE = coco_content()
DOUBLE_IMAGE["images"][2]["id"] = 1
NUL = coco_content()
NUL["images"][1]["file_name"] = "a\0.jpg"
NAMELESS = coco_content()
del NAMELESS["images"][1]["file_name"]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ([1, 2], ["has a list at the top"]),
        ({"rows": []}, ["lists images and annotations", "the keys rows"]),
        ({"images": [], "annotations": []}, ["must have annotations"]),
        ({"images": [{"file": "a.jpg", "detections": []}], "detection_categories": {}}, ["MegaDetector", "data.boxes"]),
        (changed(image_id=99), ["image_id of annotations[3] (id 10) is not in it"]),
        (changed(id=9), ["that of annotations[3] (id 9) was used before"]),
        (changed(bbox=[500, 2, 3, 4]), ["annotations[3] (id 10) lies outside of 80 x 60"]),
        (changed(bbox=[1, 2, 0, 4]), ["annotations[3] (id 10) has width 0"]),
        (changed(bbox=[1, 2, "3", 4]), ["that of annotations[3] (id 10) is"]),
        (changed(bbox=7), ["that of annotations[3] (id 10) is [7]"]),
        (DOUBLE_IMAGE, ["images[2] (id 1) was used before"]),
        (NAMELESS, ["images[1] lacks one"]),
        (NUL, ["images[1] lacks one"]),
    ],
)
def test_coco_faults_name_their_position(tmp_path: Path, content: Any, parts: list[str]) -> None:
    message = fault_of(write_coco(tmp_path, content), format_name="coco")
    assert "instances_train2020.json" in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("content", [b'{"images": [}', b"", b"\xff\xfe\x00", b"[" * 100_000])
def test_a_file_that_is_not_json_is_named(tmp_path: Path, content: bytes) -> None:
    write_coco(tmp_path)
    (tmp_path / "annotations" / "instances_train2020.json").write_bytes(content)
    assert "instances_train2020.json must be JSON" in fault_of(tmp_path, format_name="coco")


def test_of_several_coco_files_one_must_be_named(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "other.json").write_text(json.dumps(coco_content()))
    message = fault_of(tmp_path)
    assert "annotations/instances_train2020.json, other.json" in message or "other.json, annotations" in message
    assert "data.table" in message
    assert len(read_catalog(tmp_path, table="other.json").table) == 4


def test_a_path_of_any_format_stays_inside_the_folder(tmp_path: Path) -> None:
    content = coco_content()
    content["images"][0]["file_name"] = "../../secret.jpg"
    assert "leaves it" in fault_of(write_coco(tmp_path, content))


def write_detections(root: Path, entries: list[dict[str, Any]]) -> Path:
    path = root / "detections.json"
    categories = {"1": "animal", "2": "person", "3": "vehicle"}
    path.write_text(json.dumps({"images": entries, "detection_categories": categories, "info": {}}))
    return path


def detection(*bbox: float, conf: float = 0.9, category: str = "1") -> dict[str, Any]:
    return {"category": category, "conf": conf, "bbox": list(bbox)}


def test_megadetector_gives_boxes_in_pixels_of_the_upright_photograph(tmp_path: Path) -> None:
    write_kaggle(tmp_path)
    write_image(tmp_path / "train" / "b.jpg", (80, 60), orientation=TURNED)
    entries = [
        {"file": "train/a.jpg", "detections": [detection(0.5, 0.25, 0.25, 0.5), detection(0, 0, 1, 1, conf=0.4)]},
        {"file": "C:\\photos\\b.jpg", "detections": [detection(0.5, 0.5, 0.5, 0.5)]},
        {"file": "c.jpg", "detections": [detection(0, 0, 1, 1, category="2"), detection(0, 0, 1, 1, conf=0.1)]},
        {"file": "elsewhere.jpg", "detections": None, "failure": "image access"},
    ]
    catalog = read_catalog(tmp_path, boxes=write_detections(tmp_path, entries))
    assert cells(catalog, *BOX)[:2] == [[40, 15, 60, 45], [30, 40, 60, 80]]
    assert np.isnan(catalog.table.loc[2, "x0"])
    assert catalog.recognition is not None
    assert [note.partition(" photographs")[0] for note in catalog.recognition.notes] == ["1", "1"]


@pytest.mark.parametrize("bbox", [[0.1, 0.1, 0, 0.5], [10, 20, 300, 200], [0.1, 0.2], ["a", 0, 0, 0], None])
def test_a_wrong_detection_names_file_and_position(tmp_path: Path, bbox: Any) -> None:
    entries = [{"file": "a.jpg", "detections": [detection(0, 0, 1, 1) | {"bbox": bbox}]}]
    message = fault_of(write_kaggle(tmp_path), boxes=write_detections(tmp_path, entries))
    assert "detections.json cannot be used" in message
    assert "images[0] (a.jpg)" in message


def test_boxes_of_coco_go_to_a_table(tmp_path: Path) -> None:
    write_kaggle(tmp_path)
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(coco_content() | {"annotations": coco_content()["annotations"][3:]}))
    catalog = read_catalog(tmp_path, boxes=path)
    assert cells(catalog, *BOX)[0] == [1, 2, 4.5, 6]
    assert catalog.table.loc[1:, BOX].isna().all(axis=None)


def test_boxes_of_several_animals_are_matched_by_individual(tmp_path: Path) -> None:
    write_kaggle(tmp_path)
    (tmp_path / "train.csv").write_text("Image,Id\na.jpg,Ada\na.jpg,Bo\nb.jpg,Ada\n")
    (tmp_path / "boxes.csv").write_text("Image,Id,x0,y0,x1,y1\na.jpg,Bo,5,5,9,9\na.jpg,Ada,1,1,4,4\n")
    table = read_catalog(tmp_path, boxes=tmp_path / "boxes.csv").table
    assert table["image"].tolist() == ["a.jpg#1,1,4,4", "a.jpg#5,5,9,9", "b.jpg"]


def test_an_empty_box_is_the_whole_photograph(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("Image,x0,y0,x1,y1\na.jpg,,,,\nb.jpg,1,1,4,4\n")
    table = read_catalog(write_kaggle(tmp_path), boxes=tmp_path / "boxes.csv").table
    assert np.isnan(table["x0"]).tolist() == [True, False, True]


def test_a_photograph_that_the_file_of_boxes_does_not_list_keeps_its_own(tmp_path: Path) -> None:
    write_kaggle(tmp_path)
    (tmp_path / "train.csv").write_text("Image,Id,x0,y0,x1,y1\na.jpg,Ada,1,1,9,9\nb.jpg,Ada,,,,\nc.jpg,Bo,2,2,8,8\n")
    (tmp_path / "boxes.csv").write_text("Image,x0,y0,x1,y1\na.jpg,3,3,4,4\nb.jpg,5,5,6,6\n")
    assert read_catalog(tmp_path, boxes=tmp_path / "boxes.csv").table["x0"].tolist() == [3.0, 5.0, 2.0]


def test_what_was_understood_is_a_table(tmp_path: Path) -> None:
    found = understood(read_catalog(write_wildlife(tmp_path)))
    assert found["format"] == "wildlife"
    assert "path and identity" in found["because"]
    assert "comma" in found["read from"]
    counts = [found[key] for key in ("rows", "photographs", "individuals", "encounters")]
    assert counts == [4, 3, 2, 1]
    assert found["unknown"].startswith("1 rows")
    assert found["boxes"] == "2 rows"
    assert found["dates"] == "3 rows, 2019-05-03 to 2020-01-02"
    assert found["views"] == "left 1, right 1"
    assert found["species"] == "orca 4"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1, 2, 3, 4]", (1, 2, 4, 6)),
        ("(1.5, 2, 3, 4)", (1.5, 2, 4.5, 6)),
        ("[ 1.  2.  3.  4.]", (1, 2, 4, 6)),
        ("1e1,2,3,4", (10, 2, 13, 6)),
        ("", None),
        ("nan", None),
    ],
)
def test_boxes_as_pandas_and_numpy_write_them(text: str, expected: object) -> None:
    assert parse_bbox_cell(text) == expected
