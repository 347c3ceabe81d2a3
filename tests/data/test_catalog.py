"""The table of photographs: what is read, and every fault is reported before the start."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from whale_ray.data.catalog import read_catalog
from whale_ray.data.split import parts_of, split_photographs
from whale_ray.errors import DataError

TABLES = Path(__file__).parents[3] / "shared" / "data" / "humpback_tables"
GOOD = "Image,Id\na.jpg,w_1\nb.jpg,w_1\nc.jpg,new_whale\n"


def write_data(root: Path, text: str = GOOD, *, table: str = "train.csv", folder: str = "train") -> Path:
    (root / folder).mkdir(parents=True)
    (root / table).write_text(text, encoding="utf-8")
    return root


def fault_of(root: Path, **settings: object) -> str:
    with pytest.raises(DataError) as caught:
        read_catalog(root, **settings)  # type: ignore[arg-type]
    return str(caught.value)


def test_the_kaggle_layout_is_read_in_table_order(tmp_path: Path) -> None:
    catalog = read_catalog(write_data(tmp_path))
    assert catalog.table.drop(columns=["x0", "y0", "x1", "y1"]).to_dict("list") == {
        "image": ["a.jpg", "b.jpg", "c.jpg"],
        "file": ["a.jpg", "b.jpg", "c.jpg"],
        "individual": ["w_1", "w_1", "new_whale"],
        "group": ["", "", ""],
        "date": ["", "", ""],
        "place": ["", "", ""],
        "view": ["", "", ""],
        "species": ["", "", ""],
    }
    assert catalog.table[["x0", "y0", "x1", "y1"]].isna().all(axis=None)
    assert not catalog.has_boxes
    assert list(catalog.table.index) == [0, 1, 2]
    assert catalog.path("a.jpg") == tmp_path / "train" / "a.jpg"


def test_other_names_of_table_folder_and_columns_are_settings(tmp_path: Path) -> None:
    text = "day,whale,file\n3 May,Nemo,x/a.png\n4 May,Nemo,x/b.png\n"
    write_data(tmp_path, text, table="whales.csv", folder="pictures")
    catalog = read_catalog(
        tmp_path,
        table="whales.csv",
        image_folder="pictures",
        image_column="file",
        label_column="whale",
        group_column="day",
    )
    assert catalog.table["group"].tolist() == ["3 May", "4 May"]
    assert catalog.table["image"].tolist() == ["x/a.png", "x/b.png"]
    assert catalog.folder == tmp_path / "pictures"


def test_an_individual_may_be_called_nan_or_007(tmp_path: Path) -> None:
    table = read_catalog(write_data(tmp_path, "Image,Id\na.jpg,007\nb.jpg,007\nc.jpg,NaN\nd.jpg,1e5\n")).table
    assert table["individual"].tolist() == ["007", "007", "NaN", "1e5"]


def test_a_byte_order_mark_and_blanks_around_names_do_not_matter(tmp_path: Path) -> None:
    table = read_catalog(write_data(tmp_path, "\ufeffImage,Id\na.jpg , w_1\nb.jpg,w_1\n")).table
    assert table[["image", "individual"]].to_numpy().tolist() == [["a.jpg", "w_1"], ["b.jpg", "w_1"]]


def test_missing_data_is_reported_with_source_layout_and_synthetic_alternative(tmp_path: Path) -> None:
    message = fault_of(tmp_path / "data")
    for part in ("humpback-whale-identification", "train.csv", "train/", "--data DIR", "make sweep", "whale-ray synth"):
        assert part in message


def test_a_missing_folder_of_photographs_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(GOOD)
    assert f"{tmp_path / 'train'} is not there" in fault_of(tmp_path)


def test_another_folder_of_photographs_is_named_with_the_setting(tmp_path: Path) -> None:
    write_data(tmp_path, folder="test")
    for name in ("my photos", "notes", "test"):
        (tmp_path / name).mkdir(exist_ok=True)
    for name in ("my photos", "test"):
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.jpg")
    message = fault_of(tmp_path)
    assert f"{tmp_path}/my photos holds photographs: add --set 'data.image_folder=my photos'." in message
    assert "test holds" not in message


@pytest.mark.parametrize("name", ["train", "train.csv"])
def test_a_link_that_leads_to_itself_is_named(tmp_path: Path, name: str) -> None:
    write_data(tmp_path, folder="other")
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).symlink_to(name)
    assert f"{tmp_path / name} is a link that leads nowhere" in fault_of(tmp_path, format_name="kaggle")


def test_the_table_alone_can_be_read_where_no_files_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(GOOD)
    assert len(read_catalog(tmp_path, check_files=False).table) == 3


def test_a_missing_column_names_the_nearest_that_is_there(tmp_path: Path) -> None:
    message = fault_of(write_data(tmp_path, "image,ID\na.jpg,w_1\n"))
    assert "Did you mean `image` for `Image`?" in message
    assert "Did you mean `ID` for `Id`?" in message
    assert "data.image_column" in message


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe\x80", b'Image,Id\na,"b\n', b"Image,Id\na,b,c\n\xe4,x\n"])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    write_data(tmp_path)
    (tmp_path / "train.csv").write_bytes(content)
    assert "train.csv" in fault_of(tmp_path)


@pytest.mark.parametrize("name", ["../a.jpg", "x/../../a.jpg", "/etc/passwd", "..\\a.jpg", "C:\\a.jpg"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    message = fault_of(write_data(tmp_path, GOOD + f"{name},w_2\n"))
    assert f"the path of photograph {name} leaves it" in message
    assert "below the image folder, such as " + re.split(r"[/\\\\]", name)[-1] in message


@pytest.mark.parametrize("name", ["3:45pm.jpg", "a:b.jpg", "T:1.jpg", "day:2/a.jpg"])
def test_a_colon_is_part_of_a_file_name(tmp_path: Path, name: str) -> None:
    catalog = read_catalog(write_data(tmp_path, GOOD + f"{name},w_2\n"))
    assert catalog.table["image"].tolist()[-1] == name


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (root / "train" / "b.jpg").symlink_to(tmp_path / "secret.jpg")
    assert "photograph b.jpg links out of it" in fault_of(root)


def test_an_image_folder_may_be_a_symbolic_link(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data", folder="elsewhere")
    (root / "train").symlink_to(root / "elsewhere")
    (root / "elsewhere" / "a.jpg").write_bytes(b"")
    assert len(read_catalog(root).table) == 3


def test_every_fault_of_the_table_is_in_one_message(tmp_path: Path) -> None:
    message = fault_of(write_data(tmp_path, GOOD + "a.jpg,w_2\nd.jpg,\n,w_3\n../e.jpg,w_1\n"))
    assert "photograph a.jpg has more" in message
    assert "must name its individual, but line 6 does not" in message
    assert "must name its photograph, but line 7 does not" in message
    assert "../e.jpg leaves it" in message


def test_a_fault_names_the_line_of_the_file_after_blank_lines_and_line_breaks_in_cells(tmp_path: Path) -> None:
    text = 'Image;Day;Id\n\na.jpg;"1\nMay";w_1\n\nb.jpg;2 May;\n;3 May;w_1\n'
    message = fault_of(write_data(tmp_path, text), group_column="Day")
    assert "must name its individual, but line 6 does not" in message
    assert "must name its photograph, but line 7 does not" in message


def test_unknown_animals_with_an_empty_label_are_faults_that_name_the_label_to_write(tmp_path: Path) -> None:
    root = write_data(tmp_path, "Image,Id\na.jpg,w_1\nb.jpg,w_1\nc.jpg,\nd.jpg,\n")
    message = fault_of(root, unknown_label="{nobody}")
    assert "but lines 4, 5 do not. Write its name, or {nobody} for an unknown animal" in message


def test_a_file_in_the_place_of_a_folder_and_the_reverse_are_named(tmp_path: Path) -> None:
    (tmp_path / "train.csv").mkdir()
    (tmp_path / "train").write_text("no folder")
    assert f"{tmp_path / 'train.csv'} is a folder and {tmp_path / 'train'} is a file" in fault_of(tmp_path)


@pytest.mark.parametrize("box", [",,,", "NA,NA,NA,NA", " , , , ", "NaN,nan,,"])
def test_an_empty_box_is_the_whole_photograph(tmp_path: Path, box: str) -> None:
    boxes = boxes_file(tmp_path, f"a.jpg,{box}\nb.jpg,1,2,3,4\n")
    table = read_catalog(write_data(tmp_path), boxes=boxes).table
    assert table["x0"].isna().tolist() == [True, False, True]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_boxes_may_have_another_separator_and_decimal_commas(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "boxes.csv"
    rows = ["Image x0 y0 x1 y1 ", "a.jpg 1,5 2 30 40,5 "]
    path.write_text("\n".join(row.replace(" ", separator) for row in rows) + "\n")
    table = read_catalog(write_data(tmp_path), boxes=path).table
    assert table.loc[0, ["x0", "y0", "x1", "y1"]].tolist() == [1.5, 2, 30, 40.5]


def test_faults_of_boxes_come_under_their_own_file_with_lines(tmp_path: Path) -> None:
    boxes = boxes_file(tmp_path, "\na.jpg,1,2,3,4\n\nb.jpg,5,5,5,9\n")
    message = fault_of(write_data(tmp_path), boxes=boxes)
    assert message.startswith(f"{boxes} cannot be used")
    assert "b.jpg (line 5)" in message
    assert "train.csv" not in message


def test_of_many_faults_of_a_kind_five_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    rows = "".join(f"../{number}.jpg,w_1\n" for number in range(12))
    assert "../4.jpg and 7 more" in fault_of(write_data(tmp_path, "Image,Id\n" + rows))


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    assert "a table must have a row for each photograph" in fault_of(write_data(tmp_path, "Image,Id\n"))


@pytest.mark.parametrize("rows", ["a.jpg,w_1\nb.jpg,w_2\n", "a.jpg,new_whale\nb.jpg,new_whale\n"])
def test_some_individual_must_have_two_photographs(tmp_path: Path, rows: str) -> None:
    assert "at least one individual must have two photographs" in fault_of(write_data(tmp_path, "Image,Id\n" + rows))


def test_the_unknown_label_is_a_setting(tmp_path: Path) -> None:
    root = write_data(tmp_path, "Image,Id\na.jpg,unknown\nb.jpg,unknown\n")
    assert read_catalog(root).unknown_label == "new_whale"
    assert "two photographs" in fault_of(root, unknown_label="unknown")


def boxes_file(root: Path, rows: str) -> Path:
    path = root / "boxes.csv"
    path.write_text("Image,x0,y0,x1,y1\n" + rows)
    return path


def test_boxes_go_to_their_photographs_and_the_others_have_none(tmp_path: Path) -> None:
    boxes = boxes_file(tmp_path, "c.jpg,1,2,30,40.5\na.jpg,0,0,10,10\nunlisted.jpg,5,5,5,5\n")
    table = read_catalog(write_data(tmp_path), boxes=boxes).table
    assert table["image"].tolist() == ["a.jpg", "b.jpg", "c.jpg"]
    assert table.loc[2, ["x0", "y0", "x1", "y1"]].tolist() == [1, 2, 30, 40.5]
    assert table.loc[1, ["x0", "y0", "x1", "y1"]].isna().all()


@pytest.mark.parametrize("box", ["10,0,10,5", "0,9,5,3", "0,0,,5", "0,0,wide,5"])
def test_a_box_without_area_or_with_a_side_that_is_no_number_is_refused(tmp_path: Path, box: str) -> None:
    message = fault_of(write_data(tmp_path), boxes=boxes_file(tmp_path, f"a.jpg,{box}\n"))
    assert "`x0 < x1` and `y0 < y1` must hold for every box, in pixels, but they do not for a.jpg (line 2)" in message
    assert "boxes.csv cannot be used" in message


def test_a_second_box_of_a_photograph_is_refused(tmp_path: Path) -> None:
    boxes = boxes_file(tmp_path, "a.jpg,0,0,1,1\na.jpg,0,0,2,2\n")
    assert "a.jpg (line 3) has more" in fault_of(write_data(tmp_path), boxes=boxes)


def test_boxes_of_other_photographs_only_are_refused(tmp_path: Path) -> None:
    message = fault_of(write_data(tmp_path), boxes=boxes_file(tmp_path, "z.jpg,0,0,1,1\n"))
    assert "but none is. Write names as the data set does, such as a.jpg" in message


def test_a_missing_boxes_file_is_refused(tmp_path: Path) -> None:
    assert "nowhere.csv" in fault_of(write_data(tmp_path), boxes=tmp_path / "nowhere.csv")


@pytest.mark.skipif(not TABLES.is_dir(), reason="the competition's tables are not here")
def test_the_competitions_table_is_read_and_split() -> None:
    catalog = read_catalog(TABLES, boxes=TABLES / "bounding_boxes.csv", check_files=False)
    parts = parts_of(split_photographs(catalog.table))
    known = catalog.table["individual"] != "new_whale"
    individuals = pd.DataFrame({"individual": catalog.table["individual"], "part": parts})[known]
    assert len(catalog.table) == 25_361
    assert individuals["individual"].nunique() == 5_004
    assert (individuals.groupby("individual")["part"].nunique() == 1).sum() == 2_073
    assert individuals.groupby("individual")["part"].agg(lambda part: (part == "train").any()).all()
    assert not catalog.table[["x0", "y0", "x1", "y1"]].isna().any(axis=None)
