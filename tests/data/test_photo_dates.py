"""Dates of tables and of EXIF data."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from PIL import ExifTags, Image

from whale_ray.data.catalog import read_catalog
from whale_ray.data.decoding.exif_date import read_exif_date
from whale_ray.data.encounters.photo_dates import date_notes, day_of, hours_of, parse_dates


@pytest.mark.parametrize(
    "text",
    [
        "2019-05-03T10:11:12",
        "2019-05-03 10:11:12",
        "2019:05:03 10:11:12",
        "2019/5/3 10:11:12",
        "2019-05-03T10:11:12.345Z",
        "2019-05-03 10:11:12+12:00",
        "20190503_101112",
        "20190503T101112",
        "3 May 2019 10:11:12",
        "03-May-2019, 10:11:12",
        "May 3, 2019 10:11:12 AM",
        "03.05.2019 10:11:12",
        "3/5/2019 10:11:12",
    ],
)
def test_spellings_of_one_time_become_the_same_iso_text(text: str) -> None:
    assert parse_dates(pd.Series([text])).dates.tolist() == ["2019-05-03T10:11:12"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2019-05-03", "2019-05-03"),
        ("20190503", "2019-05-03"),
        ("3 may 2019", "2019-05-03"),
        ("May 3 2019, 2:05 pm", "2019-05-03T14:05:00"),
        ("2019-05-03 12:00 AM", "2019-05-03T00:00:00"),
        ("2019-05", "2019-05"),
        ("2019", "2019"),
        ("", ""),
        ("NaT", ""),
        ("0000:00:00 00:00:00", ""),
        ("soon", None),
        ("2019-13-03", None),
        ("31.02.2019", None),
        ("3 Foo 2019", None),
        ("03/05/19", None),
        ("2019503", None),
        ("43588", None),
    ],
)
def test_partial_missing_and_wrong_dates(text: str, expected: str | None) -> None:
    parsed = parse_dates(pd.Series([text]))
    assert parsed.dates.tolist() == [expected or ""]
    assert [found for _, found in parsed.wrong] == ([text] if expected is None else [])


def test_the_column_tells_whether_the_month_comes_first() -> None:
    assert parse_dates(pd.Series(["3/5/2019", "3/25/2019"])).dates.tolist() == ["2019-03-05", "2019-03-25"]
    assert parse_dates(pd.Series(["3/5/2019", "25/3/2019"])).dates.tolist() == ["2019-05-03", "2019-03-25"]
    assert parse_dates(pd.Series(["03.05.2019", "3/25/2019"])).dates.tolist()[0] == "2019-05-03"
    assert "day, month, year" in parse_dates(pd.Series(["3/5/2019", "4/4/2019"])).note
    assert not parse_dates(pd.Series(["4/4/2019"])).note


def test_a_date_that_cannot_be_read_is_named_with_its_position() -> None:
    parsed = parse_dates(pd.Series(["soon", "2019", *["later"] * 6], index=[2, 4, *range(5, 11)]))
    (note,) = date_notes(parsed, "line")
    assert note.startswith("7 dates cannot be read and count as none: 'soon' (line 2), 'later' (line 5)")
    assert "and 2 more" in note


def test_days_and_hours() -> None:
    dates = pd.Series(["2019", "2019-05-03", "1970-01-02T01:30:00", ""])
    assert day_of(dates).tolist() == ["", "2019-05-03", "1970-01-02", ""]
    assert hours_of(dates).isna().tolist() == [True, True, False, True]
    assert hours_of(dates)[2] == 25.5


def with_exif(tags: dict[int, str]) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.DateTime] = "2022:02:02 02:02:02"
    exif.get_ifd(ExifTags.IFD.Exif).update(tags)
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "JPEG", exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({ExifTags.Base.DateTimeOriginal: "2019:05:03 10:11:12"}, "2019-05-03T10:11:12"),
        ({ExifTags.Base.DateTimeDigitized: "2019:05:03 10:11:12"}, "2019-05-03T10:11:12"),
        ({ExifTags.Base.DateTimeOriginal: "    :  :     :  :  "}, ""),
        ({ExifTags.Base.DateTimeOriginal: "0000:00:00 00:00:00"}, ""),
        ({}, ""),
    ],
)
def test_the_exif_date_is_when_the_photograph_was_taken(tags: dict[int, str], expected: str) -> None:
    assert read_exif_date(with_exif(tags)) == expected


def test_a_photograph_without_readable_exif_has_no_date(hostile: dict[str, bytes]) -> None:
    assert {read_exif_date(data) for data in hostile.values()} == {""}


def test_a_table_has_dates_places_views_and_species(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(
        "Image,Id,When,Where,Side,Kind\na.jpg,w,03.05.2019,Vava'u,left,humpback\nb.jpg,w,someday,,,\n"
    )
    columns = {"date_column": "When", "place_column": "Where", "view_column": "Side", "species_column": "Kind"}
    catalog = read_catalog(tmp_path, check_files=False, **columns)
    read = catalog.table[["date", "place", "view", "species"]].to_numpy().tolist()
    assert read == [["2019-05-03", "Vava'u", "left", "humpback"], ["", "", "", ""]]
    assert catalog.recognition is not None
    assert "'someday' (line 3)" in catalog.recognition.notes[0]
