"""Who trains and who validates; expectations are worked out by hand from the definition."""

from __future__ import annotations

import hashlib

import pandas as pd
import pytest

from whale_ray.data.split import SPLITS, split_photographs


def table_of(counts: dict[str, int], *, group: str = "") -> pd.DataFrame:
    rows = [(f"{name}_{i}.jpg", name, group) for name, count in counts.items() for i in range(count)]
    return pd.DataFrame(rows, columns=["image", "individual", "group"])


def validating(table: pd.DataFrame, **settings: object) -> dict[str, int]:
    parts = split_photographs(table, **settings)  # type: ignore[arg-type]
    assert set(parts) <= {"train", "val"}
    return table.loc[parts == "val", "individual"].value_counts().to_dict()


@pytest.mark.parametrize(("images", "expected"), [(1, 0), (2, 1), (3, 1), (7, 1), (8, 2), (12, 2), (13, 3), (73, 15)])
def test_an_individual_gives_a_fifth_rounded_half_up_at_least_one_never_all(images: int, expected: int) -> None:
    table = table_of({"w": images, "new_whale": 1})
    assert validating(table).get("w", 0) == expected


def test_unknown_whales_are_divided_by_the_same_fraction() -> None:
    assert validating(table_of({"w": 2, "new_whale": 50}))["new_whale"] == 10
    assert "new_whale" not in validating(table_of({"w": 2, "new_whale": 2}))


def test_halves_gives_half_of_each_individual_to_validation() -> None:
    expected = {"w": 5, "v": 2, "new_whale": 3}
    assert validating(table_of({"w": 10, "v": 3, "u": 1, "new_whale": 6}), kind="halves") == expected


def test_the_photographs_with_the_smallest_hash_of_seed_and_name_validate() -> None:
    table = table_of({"w": 10, "new_whale": 1})
    images = [f"w_{i}.jpg" for i in range(10)]
    order = sorted(images, key=lambda image: hashlib.sha256(f"7/{image}".encode()).hexdigest())
    parts = split_photographs(table, seed=7)
    assert set(table["image"][parts == "val"]) == set(order[:2])


def test_the_order_of_the_table_does_not_matter() -> None:
    table = table_of({"a": 9, "b": 5, "c": 2, "new_whale": 11})
    mixed = table.sample(frac=1.0, random_state=1)
    pd.testing.assert_series_equal(split_photographs(mixed).sort_index(), split_photographs(table))


def test_another_seed_gives_another_split() -> None:
    table = table_of({"a": 40, "new_whale": 40})
    assert (split_photographs(table, seed=0) != split_photographs(table, seed=1)).any()


def test_added_photographs_of_one_individual_leave_the_others_where_they_are() -> None:
    before, after = table_of({"a": 9, "b": 12, "new_whale": 3}), table_of({"a": 15, "b": 12, "new_whale": 3})
    parts = {
        name: dict(zip(table["image"], split_photographs(table), strict=True))
        for name, table in (("before", before), ("after", after))
    }
    moved = [image for image, part in parts["before"].items() if parts["after"][image] != part]
    assert all(image.startswith("a_") for image in moved)


def test_a_group_stays_together_and_one_group_alone_trains() -> None:
    table = table_of({"w": 12, "v": 5, "new_whale": 4})
    table.loc[table["individual"] == "w", "group"] = ["day 1"] * 4 + ["day 2"] * 4 + ["day 3"] * 4
    table.loc[table["individual"] == "v", "group"] = "day 1"
    table["part"] = split_photographs(table)
    assert (table.groupby(["individual", "group"])["part"].nunique().drop("new_whale") == 1).all()
    assert (table["individual"][table["part"] == "val"] == "w").sum() == 4
    assert (table.loc[table["individual"] == "v", "part"] == "train").all()


def test_two_individuals_seen_on_one_day_are_divided_each_for_itself() -> None:
    table = table_of({"w": 6, "v": 6, "new_whale": 1})
    table["group"] = ["day 1", "day 2"] * 6 + [""]
    assert set(validating(table)) == {"w", "v"}


@pytest.mark.parametrize("seed", range(20))
def test_every_individual_that_validates_also_trains_whatever_the_sizes_of_its_groups(seed: int) -> None:
    table = table_of({"w": 30, "new_whale": 1})
    table["group"] = [*"abbbcccccddddddddddddddddddddd", ""]
    parts = split_photographs(table, seed=seed, val_fraction=0.5)[:30]
    assert set(parts) == {"train", "val"}


def test_twins_stay_on_one_side() -> None:
    table = table_of({"w": 20, "new_whale": 1})
    twins = pd.Series([f"twin{row // 2}" for row in range(20)] + [""])
    parts = split_photographs(table, twins=twins)[:20].to_numpy().reshape(10, 2)
    assert (parts[:, 0] == parts[:, 1]).all()
    assert (parts[:, 0] == "val").sum() == 2


def test_twins_and_groups_that_touch_are_one_group() -> None:
    table = table_of({"w": 4, "new_whale": 1})
    table["group"] = ["a", "a", "b", "", ""]
    twins = pd.Series(["", "t", "t", "", ""])
    parts = split_photographs(table, twins=twins)
    assert parts[0] == parts[1] == parts[2] != parts[3]


def test_twins_that_span_two_individuals_train() -> None:
    table = table_of({"w": 2, "v": 2, "new_whale": 2})
    twins = pd.Series(["t", "", "t", "", "u", "u"])
    for seed in range(10):
        parts = split_photographs(table, twins=twins, seed=seed)
        assert parts[0] == parts[2] == "train"
        assert parts[1] == parts[3] == "val"


def test_where_nobody_is_unknown_a_tenth_of_the_individuals_is_held_out_whole() -> None:
    table = table_of({f"w_{number}": 3 for number in range(40)} | {f"single_{number}": 1 for number in range(50)})
    table["part"] = split_photographs(table)
    whole = table.groupby("individual")["part"].agg(lambda part: (part == "val").all())
    assert whole.sum() == 4
    assert not whole.filter(like="single").any()


def test_of_ten_individuals_one_is_held_out_and_of_nine_none() -> None:
    for count, expected in ((9, 0), (10, 1), (19, 1), (20, 2)):
        table = table_of({f"w_{number}": 2 for number in range(count)})
        assert sum(images == 2 for images in validating(table).values()) == expected


def test_the_index_of_the_table_is_kept() -> None:
    table = table_of({"w": 5, "new_whale": 2}).set_index(pd.Index([10, 20, 30, 40, 50, 60, 70]))
    assert split_photographs(table, twins=pd.Series("", index=table.index)).index.tolist() == table.index.tolist()


def test_the_kinds_of_split_are_a_visible_table() -> None:
    assert set(SPLITS) == {"stratified", "halves"}
