"""Delimited tables: separators, encodings, row names, line numbers and faults."""

from __future__ import annotations

import codecs
from pathlib import Path

import pandas as pd
import pytest

from whale_ray.data.delimited_table import DelimitedTable, read_table
from whale_ray.errors import DataError

ROWS = [["a.jpg", "Smith, J."], ["b.jpg", 'the "big" one'], ["ü/c.jpg", "w;1\t|"]]
WANTED = ("Image", "Id")


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "some table.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(folder: Path, content: str | bytes, *, wanted: tuple[str, ...] = WANTED) -> DelimitedTable:
    return read_table(written(folder, content), columns=wanted)


def rows_of(table: DelimitedTable, *names: str) -> list[list[str]]:
    return [list(row) for row in zip(*(table.column(name) for name in names or WANTED), strict=True)]


@pytest.mark.parametrize("wanted", [WANTED, ()])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_every_separator_is_read_in_every_encoding(
    tmp_path: Path, separator: str, encoding: str, wanted: tuple[str, ...]
) -> None:
    text = pd.DataFrame(ROWS, columns=list(WANTED)).to_csv(sep=separator, index=False)
    table = read(tmp_path, text.encode(encoding), wanted=wanted)
    assert rows_of(table) == ROWS
    assert table.separator == separator
    assert table.lines.tolist() == [2, 3, 4]
    assert len(table.notes) == (encoding == "cp1252")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "text",
    [
        '"Image" "Id"\n"1" "a.jpg" "w 1"\n"17" "b.jpg" "w 2"',  # write.table(x)
        '"Image" "Id"\n"first" "a.jpg" "w 1"\n"second" "b.jpg" "w 2"',
        '"Image"\t"Id"\n"1"\t"a.jpg"\t"w 1"\n"2"\t"b.jpg"\t"w 2"',  # sep = "\t"
        "Image\tId\n1\ta.jpg\tw 1\n2\tb.jpg\tw 2",  # quote = FALSE
        '"","Image","Id"\n"1","a.jpg","w 1"\n"2","b.jpg","w 2"',  # write.csv(x)
        '"";"Image";"Id"\n"1";"a.jpg";"w 1"\n"2";"b.jpg";"w 2"',  # write.csv2(x)
        ",Image,Id\n0,a.jpg,w 1\n1,b.jpg,w 2",  # pandas with its index
        "Image,Id\n1,a.jpg,w 1\n2,b.jpg,w 2",
    ],
)
def test_row_names_of_r_and_pandas_do_not_shift_the_columns(tmp_path: Path, text: str, end: str) -> None:
    table = read(tmp_path, text.replace("\n", end) + end)
    assert rows_of(table) == [["a.jpg", "w 1"], ["b.jpg", "w 2"]]
    assert table.columns[0] == ""
    assert table.lines.tolist() == [2, 3]


def test_a_quote_that_r_escapes_with_a_backslash_is_read(tmp_path: Path) -> None:
    table = read(tmp_path, '"Image" "Id"\n"1" "a.jpg" "the \\"big\\" one"\n')
    assert rows_of(table) == [["a.jpg", 'the "big" one']]


@pytest.mark.parametrize(
    "text",
    [
        "Image,Id,\na.jpg,w_1,\nb.jpg,w_2,\n",
        "Image,Id\na.jpg,w_1,\nb.jpg,w_2,\n",
        "Image,Id,,,\na.jpg,w_1,,,\nb.jpg,w_2\n",
        "Image;Id;\na.jpg;w_1\nb.jpg;w_2;;\n",
        " Image , Id \n a.jpg , w_1\n b.jpg, w_2 \n",
        "sep=;\nImage;Id\na.jpg;w_1\nb.jpg;w_2\n",
        '"sep=,"\r\nImage,Id\r\na.jpg,w_1\r\nb.jpg,w_2\r\n',
    ],
)
def test_separators_at_line_ends_and_blanks_change_nothing(tmp_path: Path, text: str) -> None:
    table = read(tmp_path, text)
    assert rows_of(table) == [["a.jpg", "w_1"], ["b.jpg", "w_2"]]
    assert table.columns == ["Image", "Id"]


def test_a_last_column_without_a_name_is_kept_if_it_has_content(tmp_path: Path) -> None:
    table = read(tmp_path, "Image,Id,\na.jpg,w_1,torn\nb.jpg,w_2,\n")
    assert table.cells.to_numpy().tolist() == [["a.jpg", "w_1", "torn"], ["b.jpg", "w_2", ""]]


def test_lines_are_those_of_the_file_after_blank_lines_and_quoted_line_breaks(tmp_path: Path) -> None:
    table = read(tmp_path, '\n\nImage,Id\n\na.jpg,w_1\n\r\n,,\nb.jpg,"w\n2"\nc.jpg,w_3\n')
    assert table.lines.tolist() == [5, 8, 10]
    assert table.column("Id").tolist() == ["w_1", "w\n2", "w_3"]


def test_cells_that_look_like_numbers_or_nothing_stay_text(tmp_path: Path) -> None:
    names = ["007", "NaN", "1e5", "NA", "None", "true"]
    table = read(tmp_path, "Image,Id\n" + "".join(f"{name}.jpg,{name}\n" for name in names))
    assert table.column("Id").tolist() == names


def test_a_decimal_comma_is_read_where_the_separator_is_another(tmp_path: Path) -> None:
    table = read(tmp_path, "Image;x0;x1\na.jpg;1,5;\nb.jpg;2.5;wide\n", wanted=("Image", "x0"))
    assert table.numbers("x0").tolist() == [1.5, 2.5]
    assert table.numbers("x1").isna().all()


def test_the_wanted_columns_decide_between_separators(tmp_path: Path) -> None:
    text = "Image;Id;seen, where\na.jpg;w_1;bay, north\nb.jpg;w_2;bay, south\n"
    assert read(tmp_path, text).separator == ";"
    assert read(tmp_path, "Image,Id,first day\na,w,1 May\nb,w,2 May\n", wanted=()).separator == ","


def test_a_table_of_one_column_and_one_without_rows_are_read(tmp_path: Path) -> None:
    assert read(tmp_path, "Image\na b.jpg\nc.jpg\n").column("Image").tolist() == ["a b.jpg", "c.jpg"]
    empty = read(tmp_path, "Image,Id\n")
    assert (empty.columns, len(empty.cells), len(empty.lines)) == (["Image", "Id"], 0, 0)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Image,Id\n\na.jpg,w_1\nb.jpg,Smith, John\n", r"the 2 fields of its header \(Image,Id\).*\n  line 4 has 3: b"),
        ("Image,Id,Day\na.jpg,w_1,3\nb.jpg,w_1\n", r"but 1 of 2 have not:\n  line 3 has 2: b.jpg,w_1"),
        ("Image,Id,\na.jpg,w_1,\nb.jpg,Smith,John,\n", "line 3 has 3: b.jpg,Smith,John"),
        ("Image;Id\na.jpg;w_1\nb.jpg;w;2\n", r"line 3 has 3(.*\n)+.*contains a semicolon in double quotes"),
        (
            '"Image" "Id"\n' + "".join(f'"{n}" "{n}.jpg" "w 1"\n' for n in range(20)) + '"20" "w" "x" "y"\n',
            "line 22 has 4",
        ),
        ("Image,Id\na.jpg,Smith,J\nb.jpg,Smith,A\n", "line 2 has 3(.*\n)+  line 3 has 3"),
        ('Image,Id\na.jpg,w_1\nb.jpg,"w_2\nc.jpg,w_3\n', "the row that starts on line 3"),
        ('Image,Id\na.jpg,"w_1" x\n', "the row that starts on line 2"),
        ("", "must have a header, but .* is empty"),
        ("\n\n", "must have a header, but .* is empty"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        read(tmp_path, text)


def test_of_many_wrong_lines_five_are_shown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"but 9 of 9 have not:\n(.*\n){5}  and 4 more\n"):
        read(tmp_path, "Image,Id\n" + "a.jpg\n" * 9)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"PK\x03\x04rest", "it is an Excel or OpenDocument workbook. Save it as CSV"),
        (b"\x1f\x8b\x08", "it is compressed with gzip"),
        (b"Image,Id\na.jpg,w\0\n", "line 2 has a zero byte"),
        (b"Image,Id\na.jpg,\x81\n", "line 2 has the byte 0x81"),
        (codecs.BOM_UTF16_LE + b"I\0m", "which is no character of utf-16"),
    ],
)
def test_a_file_that_is_no_text_is_refused_with_the_reason(tmp_path: Path, data: bytes, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        read(tmp_path, data)


@pytest.mark.parametrize(
    ("title", "line"), [("# exported on 5 May\n", 2), ("My whales\n\n", 3), ("Whales,of,2019\n\nNotes,,\n", 4)]
)
def test_lines_above_the_header_are_to_be_deleted(tmp_path: Path, title: str, line: int) -> None:
    with pytest.raises(DataError, match=rf"[Ll]ine {line} names (the columns|them)[:,] delete the lines above it"):
        read(tmp_path, title + "Image,Id\na.jpg,w_1\nb.jpg,w_2\n").require(WANTED)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.csv", tmp_path / "zero\0byte.csv"):
        with pytest.raises(DataError, match="a table must be"):
            read_table(path)


def test_missing_and_doubled_columns_are_named_with_the_nearest(tmp_path: Path) -> None:
    table = read(tmp_path, "image;ID;Day;Day\na.jpg;w;1;2\n")
    with pytest.raises(DataError, match=r"columns Image, Id, but has image, ID, Day, Day \(separated by semicolon"):
        table.require(WANTED)
    with pytest.raises(DataError, match=r"Did you mean `image` for `Image`\? Name it so"):
        table.require(["Image"], remedy="Name it so")
    with pytest.raises(DataError, match="must have one column Day, but the header names 2"):
        table.column("Day")
    with pytest.raises(DataError, match="The first line must name the columns, but it seems to be a row"):
        read(tmp_path, "a.jpg,w_1\nb.jpg,w_2\n").require(WANTED)
