"""Encounters that are found by dates, places and pixels."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from whale_ray.data.encounters.contact_sheet import draw_contact_sheet
from whale_ray.data.encounters.grouping import find_encounters, list_encounters


def rows_of(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """Return rows of (individual, date, place)."""
    table = pd.DataFrame(rows, columns=["individual", "date", "place"])
    return table.assign(image=[f"{place}.jpg" for place in range(len(table))])


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16)).astype(np.uint8)


def groups(rows: pd.DataFrame, small: np.ndarray | None = None) -> list[str]:
    small = noise(len(rows)) if small is None else small
    return find_encounters(rows, small, unknown_label="new_whale").tolist()


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        (("2019-05-03T10:00:00", ""), ("2019-05-03T11:00:00", ""), True),
        (("2019-05-03T10:00:00", ""), ("2019-05-03T11:00:01", ""), False),
        (("2019-05-03T23:40:00", "bay"), ("2019-05-04T00:10:00", "cape"), True),
        (("2019-05-03T10:00:00", "bay"), ("2019-05-03T18:00:00", "bay"), True),
        (("2019-05-03T10:00:00", "bay"), ("2019-05-03T18:00:00", "cape"), False),
        (("2019-05-03", ""), ("2019-05-03", ""), True),
        (("2019-05-03", ""), ("2019-05-03T18:00:00", ""), True),
        (("2019-05-03", "bay"), ("2019-05-04", "bay"), False),
        (("2019-05", "bay"), ("2019-05", "bay"), False),
        (("", "bay"), ("", "bay"), False),
    ],
)
def test_dates_and_places_join(first: tuple[str, str], second: tuple[str, str], joined: bool) -> None:
    found = groups(rows_of(("w", *first), ("w", *second)))
    assert found == (["0.jpg", "0.jpg"] if joined else ["", ""])


def test_times_join_in_a_chain_and_only_within_an_individual() -> None:
    hours = ["T10:00:00", "T12:00:00", "T11:10:00", "T10:50:00"]
    table = rows_of(*(("w", f"2019-05-03{hour}", "") for hour in hours), ("v", "2019-05-03T10:00:00", ""))
    assert groups(table) == ["0.jpg"] * 4 + [""]


def test_alike_pixels_join_photographs_of_one_named_individual() -> None:
    small = noise(6)
    blurred = np.clip(small[0] * 0.5 + 60 + noise(1, 1)[0] * 0.1, 0, 255).astype(np.uint8)
    small[[1, 3, 5]], small[4] = blurred, small[0]
    table = rows_of(*((name, "", "") for name in ("w", "w", "w", "v", "new_whale", "new_whale")))
    assert groups(table, small) == ["0.jpg", "0.jpg", "", "", "", ""]


def test_even_pictures_are_not_alike() -> None:
    assert groups(rows_of(("w", "", ""), ("w", "", "")), np.full((2, 16, 16), 7, np.uint8)) == ["", ""]


def test_encounters_are_listed_the_largest_first() -> None:
    table = rows_of(("w", "", ""), ("w", "", ""), ("v", "", ""), ("v", "", ""), ("v", "", ""))
    listed = list_encounters(table, pd.Series(["a", "a", "b", "b", "b"]))
    assert listed[0] == {"individual": "v", "images": ["2.jpg", "3.jpg", "4.jpg"]}
    assert listed[1]["individual"] == "w"


def test_the_contact_sheet_has_a_row_of_thumbnails_for_each_encounter() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (160, 80), "red").save(stream, "JPEG")
    sheet = draw_contact_sheet([("w", [stream.getvalue()] * 3), ("v", [stream.getvalue(), b""])])
    red = (np.asarray(sheet)[:, :, 0] > 200) & (np.asarray(sheet)[:, :, 1] < 60)
    assert red.sum() == pytest.approx(4 * 96 * 48, rel=0.05)
