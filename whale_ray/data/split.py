"""Who trains and who validates: a split that keeps what belongs together together, the same on every machine.

Knows a table of photographs and their groups; opens no picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from whale_ray.errors import DataError

TRAIN, VALIDATION = "train", "val"
NEVER = -1
_FEWEST_TO_HOLD_OUT = 10


@dataclass(frozen=True)
class SplitKind:
    """What tells one kind of split from another.

    fraction: what it makes of the share of photographs that validate. by_individual: each individual gives its share;
    else whole groups do, whoever is on them. in_folds: every group validates in one of the folds. holds_out: whole
    individuals always play the unknown, not only where nobody is unknown.
    """

    fraction: Callable[[float], float] = float
    by_individual: bool = True
    in_folds: bool = False
    holds_out: bool = False


SPLITS = {
    "stratified": SplitKind(),
    "kfold": SplitKind(in_folds=True),
    "open_set": SplitKind(holds_out=True),
    "by_group": SplitKind(by_individual=False),
    "halves": SplitKind(fraction=lambda val_fraction: 0.5),
}


def split_photographs(
    table: pd.DataFrame,
    *,
    twins: pd.Series | None = None,
    kind: str = "stratified",
    val_fraction: float = 0.2,
    folds: int = 5,
    share: float = 0.1,
    seed: int = 0,
    unknown_label: str = "new_whale",
) -> pd.Series[int]:
    """The fold (from 0) in which each row of `table` (image, individual, group) validates; -1: it always trains.

    An individual with n images in g groups gives clamp(floor(val_fraction n + 0.5), 1, g - 1) of them to validation,
    whole groups at a time, in the order of sha256(seed, image); with one group it is training only. `twins` names
    groups of the same picture, "" for none; those that span two individuals are training. `kfold` deals the groups of
    each individual with two or more into `folds` folds, in that order; every other kind has one fold. `by_group` gives
    whole groups to validation, whoever is on them, until val_fraction of all photographs is reached.

    `open_set` holds `share` of the individuals with two or more photographs out whole, to play the unknown; so do the
    other kinds, but `by_group`, where nobody is unknown and ten individuals could. In k folds each of them is held out
    in one, and in the gallery of the others.

    Raises: DataError where `open_set` finds no individual to hold out beside one that stays, or `by_group` one group.
    """
    chosen = SPLITS[kind]
    photographs = _photographs(table.reset_index(drop=True), twins, seed, by_individual=chosen.by_individual)
    if chosen.in_folds:
        found = _dealt(photographs, folds, unknown_label)
    elif chosen.by_individual:
        found = _only(photographs, _validating_groups(photographs, chosen.fraction(val_fraction), unknown_label))
    else:
        found = _only(photographs, _first_groups(photographs, val_fraction))
    everyone_named = not (photographs["individual"] == unknown_label).any()
    if chosen.holds_out or (chosen.by_individual and everyone_named):
        fewest = 2 if chosen.holds_out else _FEWEST_TO_HOLD_OUT
        places = _held_out(photographs, seed, share=share, fewest=fewest, unknown_label=unknown_label)
        held = photographs["individual"].map(places)
        found = found.where(held.isna(), held % folds if chosen.in_folds else 0)
        if chosen.holds_out and not places:
            raise DataError(
                "`split: open_set` holds whole individuals out, but fewer than two have two photographs of their own. "
                "Take `split: stratified`"
            )
    return pd.Series(found.to_numpy(dtype=int), index=table.index, name="fold")


def _photographs(rows: pd.DataFrame, twins: pd.Series | None, seed: int, *, by_individual: bool) -> pd.DataFrame:
    """individual; stratum, whose share validates; group, what stays together; order, its hash; fixed, always trains."""
    photographs = pd.DataFrame(
        {
            "individual": rows["individual"],
            "stratum": rows["individual"] if by_individual else "",
            "group": _merged(rows, twins, by_individual=by_individual),
            "order": [_place(seed, image) for image in rows["image"]],
        }
    )
    return photographs.assign(fixed=photographs["group"].isin(_of_two_individuals(photographs, rows, twins)))


def _only(photographs: pd.DataFrame, groups: pd.Series) -> pd.Series[int]:
    """Fold 0 for these groups, none for the others."""
    return pd.Series(photographs["group"].isin(groups).astype(int) + NEVER)


def parts_of(folds: pd.Series, fold: int | None = None) -> pd.Series:
    """`val` for each row that validates in this fold (None: in any), else `train`."""
    validates = folds != NEVER if fold is None else folds == fold
    return pd.Series(np.where(validates, VALIDATION, TRAIN), index=folds.index, name="part")


def plays_unknown(kind: str, individuals: pd.Series, *, unknown_label: str) -> bool:
    """Whether a named validation image without a gallery image stands for an unknown individual."""
    chosen = SPLITS[kind]
    return chosen.holds_out or not chosen.by_individual or not bool((individuals == unknown_label).any())


def _validating_groups(photographs: pd.DataFrame, fraction: float, unknown_label: str) -> pd.Series:
    """The groups that validate: of each individual the first, by their smallest hash, until its share is reached."""
    by_individual = photographs.groupby("stratum")
    images, groups = by_individual.size(), by_individual["group"].nunique()
    wanted = (fraction * images + 0.5) // 1
    keeping_one = wanted.clip(lower=1).clip(upper=groups - 1)
    wanted = wanted.where(wanted.index == unknown_label, keeping_one)
    table = _free_groups(photographs)
    before = table.groupby("stratum")["size"].cumsum() - table["size"]
    return table.loc[before < table["stratum"].map(wanted), "group"]


def _first_groups(photographs: pd.DataFrame, fraction: float) -> pd.Series:
    """The groups that validate where it does not matter who is on them; one always trains."""
    table = _free_groups(photographs)
    if photographs["group"].nunique() < 2:
        raise DataError(
            "`split: by_group` gives whole groups to validation, but all photographs are of one group. Name another "
            "column in data.group_column, or take `split: stratified`"
        )
    before = table["size"].cumsum() - table["size"]
    some_train = len(table) < photographs["group"].nunique()
    chosen = before < (fraction * len(photographs) + 0.5) // 1
    return pd.Series(table.loc[chosen & (some_train | (before < before.iloc[-1])), "group"])


def _free_groups(photographs: pd.DataFrame) -> pd.DataFrame:
    """The groups that may validate, with their size, in the order of their smallest hash: stratum, group, size."""
    free = photographs[~photographs["fixed"]]
    table = free.groupby(["stratum", "group"], as_index=False).agg(size=("order", "size"), order=("order", "min"))
    return table.sort_values(["stratum", "order"])


def _dealt(photographs: pd.DataFrame, folds: int, unknown_label: str) -> pd.Series[int]:
    """The fold of each row: the groups of a stratum dealt out in turn, each stratum beginning at another fold."""
    groups = photographs.groupby("stratum")["group"].nunique()
    table = _free_groups(photographs)
    table = table[(table["stratum"].map(groups) > 1) | (table["stratum"] == unknown_label)]
    begin = table.groupby("stratum")["order"].transform("first").map(lambda place: int(place, 16) % folds)
    fold = (table.groupby("stratum").cumcount() + begin.astype(int)) % folds
    places = dict(zip(table["group"], fold, strict=True))
    return pd.Series(photographs["group"].map(places).fillna(NEVER).astype(int))


def _place(seed: int, image: str) -> str:
    return hashlib.sha256(f"{seed}/{image}".encode()).hexdigest()


def _merged(rows: pd.DataFrame, twins: pd.Series | None, *, by_individual: bool) -> pd.Series:
    """One id for all rows that a group or a twin group connects: the smallest row number among them.

    by_individual: a group is what it has of one individual.
    """
    parent = np.arange(len(rows))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    named = rows["group"].where(rows["group"] != "", None)
    keys = [rows["individual"].str.cat(named, sep="\0") if by_individual else named]
    if twins is not None:
        keys.append(_named_twins(twins))
    for key in keys:
        for members in key.groupby(key).indices.values():
            first = root(int(members[0]))
            for row in members[1:]:
                parent[root(int(row))] = first
    return pd.Series([root(row) for row in range(len(rows))])


def _named_twins(twins: pd.Series) -> pd.Series:
    return twins.reset_index(drop=True).replace("", None)


def _of_two_individuals(photographs: pd.DataFrame, rows: pd.DataFrame, twins: pd.Series | None) -> pd.Series:
    """The groups with a picture that stands under two individuals."""
    if twins is None:
        return photographs["group"].iloc[:0]
    shown = rows["individual"].groupby(_named_twins(twins)).transform("nunique")
    return photographs.loc[shown > 1, "group"]


def _held_out(photographs: pd.DataFrame, seed: int, *, share: float, fewest: int, unknown_label: str) -> dict[str, int]:
    """The individuals that are held out whole, numbered from 0; none where fewer than `fewest` could be."""
    by_individual = photographs.groupby("individual")
    able = (by_individual.size() >= 2) & ~by_individual["fixed"].any()
    eligible = [name for name in able[able].index if name != unknown_label]
    if len(eligible) < fewest:
        return {}
    ordered = sorted(eligible, key=lambda name: _place(seed, name))
    return {name: place for place, name in enumerate(ordered[: max(1, int(share * len(ordered)))])}
