"""Encounters that are found by dates, places and pixels."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from whale_ray.data.encounters.contact_sheet import draw_contact_sheet
from whale_ray.data.encounters.grouping import describe_encounters, describe_rule, find_encounters, list_encounters


def rows_of(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """Return rows of (individual, date, place)."""
    table = pd.DataFrame(rows, columns=["individual", "date", "place"])
    return table.assign(image=[f"{place}.jpg" for place in range(len(table))])


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16)).astype(np.uint8)


def groups(rows: pd.DataFrame, small: np.ndarray | None = None, linkage: str = "average") -> list[str]:
    small = noise(len(rows)) if small is None else small
    return find_encounters(rows, small, unknown_label="new_whale", linkage=linkage).tolist()


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


def chain(count: int, step: float) -> np.ndarray:
    """Return pictures that turn from one pattern to another; neighbors correlate by cos(step)."""
    one, other = (noise(2)[row].astype(float) - 127.5 for row in range(2))
    angles = np.arange(count)[:, None, None] * step
    return np.clip(127.5 + 0.6 * (np.cos(angles) * one + np.sin(angles) * other), 0, 255).astype(np.uint8)


def test_photographs_that_only_a_chain_connects_are_no_encounter_by_average_linkage() -> None:
    table, small = rows_of(*[("w", "", "")] * 6), chain(6, 0.55)  # neighbors 0.85, next but one 0.45
    assert groups(table, small, "single") == ["0.jpg"] * 6
    found = groups(table, small)
    assert sorted(found.count(name) for name in set(found)) == [2, 2, 2]


def test_a_burst_beside_photographs_of_other_days_is_an_encounter_by_either_linkage() -> None:
    burst, others = chain(4, 0.1), noise(3, seed=5)
    table = rows_of(*[("w", "", "")] * 7)
    for linkage in ("average", "single"):
        assert groups(table, np.concatenate([burst, others]), linkage) == ["0.jpg"] * 4 + [""] * 3


@pytest.mark.parametrize(("linkage", "words"), [("average", "on average"), ("single", "with one other photograph")])
def test_the_rule_of_the_audit_names_the_linkage(linkage: str, words: str) -> None:
    assert words in describe_encounters(
        {"encounters": [{"individual": "w", "images": ["a", "b"]}], "encounter_rule": describe_rule(linkage)}
    )
    assert describe_encounters({"encounters": []}) == ""


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
