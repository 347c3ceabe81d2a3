"""Split into training and validation; expectations are computed by hand from the definition."""

from __future__ import annotations

import hashlib

import pandas as pd
import pytest

from whale_ray.data.split import SPLITS, parts_of, plays_unknown, split_photographs
from whale_ray.errors import DataError


def table_of(counts: dict[str, int], *, group: str = "") -> pd.DataFrame:
    rows = [(f"{name}_{i}.jpg", name, group) for name, count in counts.items() for i in range(count)]
    return pd.DataFrame(rows, columns=["image", "individual", "group"])


def validating(table: pd.DataFrame, **settings: object) -> dict[str, int]:
    parts = parts_of(split_photographs(table, **settings))  # type: ignore[arg-type]
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
    parts = parts_of(split_photographs(table, seed=7))
    assert set(table["image"][parts == "val"]) == set(order[:2])


def test_the_order_of_the_table_does_not_matter() -> None:
    table = table_of({"a": 9, "b": 5, "c": 2, "new_whale": 11})
    mixed = table.sample(frac=1.0, random_state=1)
    pd.testing.assert_series_equal(split_photographs(mixed).sort_index(), split_photographs(table))


def test_another_seed_gives_another_split() -> None:
    table = table_of({"a": 40, "new_whale": 40})
    assert (parts_of(split_photographs(table, seed=0)) != parts_of(split_photographs(table, seed=1))).any()


def test_added_photographs_of_one_individual_leave_the_others_where_they_are() -> None:
    before, after = table_of({"a": 9, "b": 12, "new_whale": 3}), table_of({"a": 15, "b": 12, "new_whale": 3})
    parts = {
        name: dict(zip(table["image"], parts_of(split_photographs(table)), strict=True))
        for name, table in (("before", before), ("after", after))
    }
    moved = [image for image, part in parts["before"].items() if parts["after"][image] != part]
    assert all(image.startswith("a_") for image in moved)


def test_a_group_stays_together_and_one_group_alone_trains() -> None:
    table = table_of({"w": 12, "v": 5, "new_whale": 4})
    table.loc[table["individual"] == "w", "group"] = ["day 1"] * 4 + ["day 2"] * 4 + ["day 3"] * 4
    table.loc[table["individual"] == "v", "group"] = "day 1"
    table["part"] = parts_of(split_photographs(table))
    assert (table.groupby(["individual", "group"])["part"].nunique().drop("new_whale") == 1).all()
    assert (table["individual"][table["part"] == "val"] == "w").sum() == 4
    assert (table.loc[table["individual"] == "v", "part"] == "train").all()


def test_two_individuals_of_one_day_are_split_independently() -> None:
    table = table_of({"w": 6, "v": 6, "new_whale": 1})
    table["group"] = ["day 1", "day 2"] * 6 + [""]
    assert set(validating(table)) == {"w", "v"}


@pytest.mark.parametrize("seed", range(20))
def test_every_individual_that_validates_also_trains_whatever_the_sizes_of_its_groups(seed: int) -> None:
    table = table_of({"w": 30, "new_whale": 1})
    table["group"] = [*"abbbcccccddddddddddddddddddddd", ""]
    parts = parts_of(split_photographs(table, seed=seed, val_fraction=0.5))[:30]
    assert set(parts) == {"train", "val"}


def test_twins_stay_on_one_side() -> None:
    table = table_of({"w": 20, "new_whale": 1})
    twins = pd.Series([f"twin{row // 2}" for row in range(20)] + [""])
    parts = parts_of(split_photographs(table, twins=twins))[:20].to_numpy().reshape(10, 2)
    assert (parts[:, 0] == parts[:, 1]).all()
    assert (parts[:, 0] == "val").sum() == 2


def test_twins_and_groups_that_touch_are_one_group() -> None:
    table = table_of({"w": 4, "new_whale": 1})
    table["group"] = ["a", "a", "b", "", ""]
    twins = pd.Series(["", "t", "t", "", ""])
    parts = parts_of(split_photographs(table, twins=twins))
    assert parts[0] == parts[1] == parts[2] != parts[3]


def test_twins_that_span_two_individuals_train() -> None:
    table = table_of({"w": 2, "v": 2, "new_whale": 2})
    twins = pd.Series(["t", "", "t", "", "u", "u"])
    for seed in range(10):
        parts = parts_of(split_photographs(table, twins=twins, seed=seed))
        assert parts[0] == parts[2] == "train"
        assert parts[1] == parts[3] == "val"


def test_without_unknown_photographs_a_tenth_of_the_individuals_is_held_out() -> None:
    table = table_of({f"w_{number}": 3 for number in range(40)} | {f"single_{number}": 1 for number in range(50)})
    table["part"] = parts_of(split_photographs(table))
    whole = table.groupby("individual")["part"].agg(lambda part: (part == "val").all())
    assert whole.sum() == 4
    assert not whole.filter(like="single").any()


def test_of_ten_individuals_one_is_held_out_and_of_nine_none() -> None:
    for count, expected in ((9, 0), (10, 1), (19, 1), (20, 2)):
        table = table_of({f"w_{number}": 2 for number in range(count)})
        assert sum(images == 2 for images in validating(table).values()) == expected


def test_the_index_of_the_table_is_kept() -> None:
    table = table_of({"w": 5, "new_whale": 2}).set_index(pd.Index([10, 20, 30, 40, 50, 60, 70]))
    assert (
        parts_of(split_photographs(table, twins=pd.Series("", index=table.index))).index.tolist()
        == table.index.tolist()
    )


def test_the_kinds_of_split_are_a_visible_table() -> None:
    assert set(SPLITS) == {"stratified", "kfold", "open_set", "by_group", "by_time", "halves"}


def test_in_k_folds_every_photograph_of_an_individual_with_two_groups_validates_once() -> None:
    table = table_of({"a": 13, "b": 2, "c": 5, "alone": 1, "new_whale": 11})
    table["fold"] = split_photographs(table, kind="kfold", folds=5)
    assert set(table["fold"]) == {-1, 0, 1, 2, 3, 4}
    assert set(table.loc[table["fold"] < 0, "individual"]) == {"alone"}
    for fold in range(5):
        parts = parts_of(table["fold"], fold)
        left = set(table.loc[parts == "train", "individual"])
        assert set(table.loc[(parts == "val") & (table["individual"] != "new_whale"), "individual"]) <= left
    counts = table[table["fold"] >= 0].groupby(["individual", "fold"]).size().unstack(fill_value=0)
    assert ((counts.max(axis=1) - counts.min(axis=1)) <= 1).all()


def test_folds_are_about_equally_large_however_small_the_individuals_are() -> None:
    table = table_of({f"w_{number}": 2 for number in range(300)} | {"new_whale": 1})
    sizes = split_photographs(table, kind="kfold", folds=5).value_counts()
    assert sizes.loc[range(5)].between(80, 160).all()


def test_groups_and_twins_stay_in_one_fold_and_twins_of_two_individuals_always_train() -> None:
    table = table_of({"w": 8, "v": 4, "new_whale": 2})
    table["group"] = ["x", "x", "y", "y", "z", "z", "u", "u", *[""] * 6]
    twins = pd.Series([""] * 7 + ["t"] + ["t"] + [""] * 5)
    table["fold"] = split_photographs(table, kind="kfold", folds=3, twins=twins)
    assert (table.iloc[:8].groupby("group")["fold"].nunique() == 1).all()
    assert (table.loc[[6, 7, 8], "fold"] == -1).all()


def test_in_k_folds_held_out_individuals_are_whole_in_one_fold_and_gallery_in_the_others() -> None:
    table = table_of({f"w_{number}": 4 for number in range(40)})
    table["fold"] = split_photographs(table, kind="kfold", folds=4, share=0.1)
    whole = table.groupby("individual")["fold"].nunique() == 1
    assert whole.sum() == 4
    held = table[table["individual"].isin(whole[whole].index)]
    assert sorted(held.groupby("individual")["fold"].first()) == [0, 1, 2, 3]


def test_an_open_set_holds_a_share_of_the_individuals_out_whole_beside_the_unknown() -> None:
    table = table_of({f"w_{number}": 5 for number in range(20)} | {"single": 1, "new_whale": 10})
    table["part"] = parts_of(split_photographs(table, kind="open_set", share=0.25))
    whole = table.groupby("individual")["part"].agg(lambda part: (part == "val").all())
    assert whole.sum() == 5
    assert not whole["single"]
    assert (table.loc[table["individual"] == "new_whale", "part"] == "val").sum() == 2
    others = table[table["individual"].isin(whole[~whole].index) & (table["individual"] != "single")]
    assert (others[others["individual"] != "new_whale"].groupby("individual")["part"].value_counts()["w_0"]["val"]) == 1


def test_an_open_set_without_individuals_to_hold_out_is_refused() -> None:
    with pytest.raises(DataError, match="fewer than two have two photographs"):
        split_photographs(table_of({"w": 5, "v": 1, "new_whale": 3}), kind="open_set")


def test_by_group_a_day_stays_on_one_side() -> None:
    table = table_of({f"w_{number}": 10 for number in range(6)} | {"new_whale": 20})
    table["group"] = [f"day {row % 8}" for row in range(len(table))]
    table["part"] = parts_of(split_photographs(table, kind="by_group", val_fraction=0.25))
    assert (table.groupby("group")["part"].nunique() == 1).all()
    assert (table["part"] == "val").sum() == 20


def test_by_group_one_group_trains_and_one_group_alone_is_refused() -> None:
    table = table_of({"w": 4, "v": 4})
    table["group"] = ["a", "b"] * 4
    assert set(parts_of(split_photographs(table, kind="by_group", val_fraction=0.9))) == {"train", "val"}
    with pytest.raises(DataError, match="all photographs are of one group"):
        split_photographs(table.assign(group="a"), kind="by_group")


def test_by_group_without_any_encounter_is_refused() -> None:
    with pytest.raises(DataError, match="keeps encounters or days whole, but no photograph has one"):
        split_photographs(table_of({"w": 4, "v": 4}), kind="by_group")


def test_held_out_individuals_depend_on_split_kind_and_labels() -> None:
    labelled, named = pd.Series(["w", "new_whale"]), pd.Series(["w", "v"])
    found = {kind: plays_unknown(kind, labelled, unknown_label="new_whale") for kind in SPLITS}
    assert {kind for kind, holds in found.items() if holds} == {"open_set", "by_group", "by_time"}
    assert set(found) == set(SPLITS)
    assert plays_unknown("stratified", named, unknown_label="new_whale")
