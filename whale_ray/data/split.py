"""Who trains and who validates: a split that keeps what belongs together together, the same on every machine.

Knows a table of photographs and their groups; opens no picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pandas as pd

TRAIN, VALIDATION = "train", "val"
HELD_OUT_SHARE = 0.1
_FEWEST_TO_HOLD_OUT = 10


def split_photographs(
    table: pd.DataFrame,
    *,
    twins: pd.Series | None = None,
    kind: str = "stratified",
    val_fraction: float = 0.2,
    seed: int = 0,
    unknown_label: str = "new_whale",
) -> pd.Series:
    """`train` or `val` for every row of `table` (image, individual, group).

    An individual with n images in g groups gives clamp(floor(val_fraction n + 0.5), 1, g - 1) of them to validation,
    whole groups at a time, in the order of sha256(seed, image); with one group it is training only. `twins` names
    groups of the same picture, "" for none; those that span two individuals are training. Where nobody is
    unknown, a tenth of the individuals is held out whole, to play the unknown.
    """
    fraction = SPLITS[kind](val_fraction)
    rows = table.reset_index(drop=True)
    photographs = pd.DataFrame(
        {
            "individual": rows["individual"],
            "group": _merged(rows, twins),
            "order": [_place(seed, image) for image in rows["image"]],
        }
    )
    by_group = photographs.groupby("group")
    photographs["fixed"] = by_group["individual"].transform("nunique") > 1
    groups = _validating_groups(photographs, fraction, unknown_label)
    chosen = photographs["group"].isin(groups)
    if not (rows["individual"] == unknown_label).any():
        chosen |= rows["individual"].isin(_held_out(photographs, seed))
    return pd.Series(np.where(chosen, VALIDATION, TRAIN), index=table.index, name="part")


def _validating_groups(photographs: pd.DataFrame, fraction: float, unknown_label: str) -> pd.Series:
    """The groups that validate: of each individual the first, by their smallest hash, until its share is reached."""
    by_individual = photographs.groupby("individual")
    images, groups = by_individual.size(), by_individual["group"].nunique()
    wanted = (fraction * images + 0.5) // 1
    keeping_one = wanted.clip(lower=1).clip(upper=groups - 1)
    wanted = wanted.where(wanted.index == unknown_label, keeping_one)
    free = photographs[~photographs["fixed"]]
    table = free.groupby(["individual", "group"], as_index=False).agg(size=("order", "size"), order=("order", "min"))
    table = table.sort_values(["individual", "order"])
    before = table.groupby("individual")["size"].cumsum() - table["size"]
    return table.loc[before < table["individual"].map(wanted), "group"]


def _place(seed: int, image: str) -> str:
    return hashlib.sha256(f"{seed}/{image}".encode()).hexdigest()


def _merged(rows: pd.DataFrame, twins: pd.Series | None) -> pd.Series:
    """One id for all rows that a group or a twin group connects: the smallest row number among them."""
    parent = np.arange(len(rows))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    named = rows["group"].where(rows["group"] != "", None)
    keys = [rows["individual"].str.cat(named, sep="\0")]
    if twins is not None:
        keys.append(twins.reset_index(drop=True).replace("", None))
    for key in keys:
        for members in key.groupby(key).indices.values():
            first = root(int(members[0]))
            for row in members[1:]:
                parent[root(int(row))] = first
    return pd.Series([root(row) for row in range(len(rows))])


def _held_out(photographs: pd.DataFrame, seed: int) -> list[str]:
    by_individual = photographs.groupby("individual")
    eligible = by_individual.size()[(by_individual.size() >= 2) & ~by_individual["fixed"].any()].index
    if len(eligible) < _FEWEST_TO_HOLD_OUT:
        return []
    ordered = sorted(eligible, key=lambda name: _place(seed, name))
    return ordered[: max(1, int(HELD_OUT_SHARE * len(ordered)))]


# How a kind of split turns data.val_fraction into the share that validates.
SPLITS: dict[str, Callable[[float], float]] = {
    "stratified": lambda val_fraction: val_fraction,
    "halves": lambda val_fraction: 0.5,
}
