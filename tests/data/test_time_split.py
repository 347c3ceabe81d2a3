"""The split by time and the queries with a photograph of the same day in the gallery."""

from __future__ import annotations

import pandas as pd
import pytest

from whale_ray.data.encounters.same_day import count_same_day, describe_same_day
from whale_ray.data.split import parts_of, plays_unknown, split_photographs
from whale_ray.errors import DataError


def table_of(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """Return a table of (individual, group, date)."""
    table = pd.DataFrame(rows, columns=["individual", "group", "date"])
    return table.assign(image=[f"{place}.jpg" for place in range(len(table))])


def parts(table: pd.DataFrame, **settings: object) -> list[str]:
    return parts_of(split_photographs(table, kind="by_time", **settings)).tolist()  # type: ignore[arg-type]


def test_the_latest_days_validate_whole_until_the_fraction_is_reached() -> None:
    days = ["2019-01-01", "2019-01-05T09:00:00", "2019-01-05", "2019-02-01", "2020-01-01"]
    table = table_of(*(("w", "", day) for day in days))
    assert parts(table, val_fraction=0.2) == ["train"] * 4 + ["val"]
    assert parts(table, val_fraction=0.4) == ["train"] * 3 + ["val"] * 2
    assert parts(table, val_fraction=0.5) == ["train"] + ["val"] * 4
    assert parts(table, val_fraction=0.99) == ["train"] + ["val"] * 4


def test_an_encounter_that_begins_before_the_last_days_trains_whole() -> None:
    table = table_of(
        ("w", "", "2019-01-01"), ("w", "e", "2019-01-02"), ("w", "e", "2020-01-01"), ("v", "", "2020-01-02")
    )
    assert parts(table, val_fraction=0.5) == ["train", "val", "val", "val"]
    assert parts(table, val_fraction=0.25) == ["train", "train", "train", "val"]


def test_photographs_without_a_date_train_and_partial_dates_count_as_their_begin() -> None:
    table = table_of(("w", "", ""), ("w", "", "2019"), ("w", "", "2018-12"), ("w", "", "2018"))
    assert parts(table, val_fraction=0.34) == ["train", "val", "train", "train"]


def test_individuals_that_appear_only_in_the_future_are_unknown() -> None:
    assert plays_unknown("by_time", pd.Series(["w", "new_whale"]), unknown_label="new_whale")


@pytest.mark.parametrize("dates", [["", ""], ["2019-01-01", "2019-01-01T10:00:00"], ["", "2019"]])
def test_fewer_than_two_days_are_refused(dates: list[str]) -> None:
    with pytest.raises(DataError, match=r"have [01] different days\. Name the column of dates in data\.date_column"):
        parts(table_of(*(("w", "", date) for date in dates)))


def test_known_queries_with_a_gallery_photograph_of_their_day_are_counted() -> None:
    rows = [
        ("w", "2019-01-01", "train", 0),
        ("w", "2019-01-01", "val", 0),  # same day
        ("w", "2019-01-02", "val", 0),
        ("w", "", "val", 0),
        ("v", "2019-01-01", "val", 0),  # not in the gallery
        ("new_whale", "2019-01-01", "val", 0),
        ("w", "2019-01-02", "train", 1),  # another split
    ]
    counts = count_same_day(
        pd.DataFrame(rows, columns=["individual", "day", "part", "split"]), unknown_label="new_whale"
    )
    assert counts == {"known": 3, "dated": 2, "same_day": 1}
    sentence = describe_same_day(counts)
    assert sentence.startswith("1 of 3 known queries (33%)")
    assert sentence.endswith("; 1 has no date")
    assert describe_same_day({"known": 3, "dated": 0, "same_day": 0}) == ""
