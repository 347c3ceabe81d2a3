"""Deterministic split into training and validation images.

Images of one group (encounter, twins, animals in one photograph) stay together. The same seed gives the same split on
any machine. Works on the table alone and opens no image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from whale_ray.data.components import conflicting_groups, connected_groups, is_in_shared_group
from whale_ray.data.encounters.grouping import require_encounters
from whale_ray.data.encounters.time_split import latest_groups
from whale_ray.errors import DataError

TRAIN, VALIDATION = "train", "val"
NEVER_VALIDATES = -1
_FEWEST_TO_HOLD_OUT = 10


@dataclass(frozen=True)
class SplitKind:
    """Properties of one kind of split.

    Attributes:
        fraction: Maps the configured validation fraction to the one that is used.
        by_individual: Each individual gives its share of images; otherwise whole groups are drawn regardless of who is
            on them.
        in_folds: Every group validates in one of several folds.
        holds_out: Whole individuals always play the unknown; otherwise only if no image has the unknown label.
        by_time: Groups validate by their date.
    """

    fraction: Callable[[float], float] = float
    by_individual: bool = True
    in_folds: bool = False
    holds_out: bool = False
    by_time: bool = False


SPLITS = {
    "stratified": SplitKind(),
    "kfold": SplitKind(in_folds=True),
    "open_set": SplitKind(holds_out=True),
    "by_group": SplitKind(by_individual=False),
    "by_time": SplitKind(by_individual=False, by_time=True),
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
    """Return the fold (from 0) in which each row validates; -1 for rows that always train.

    An individual with n images in g groups gives clamp(floor(val_fraction * n + 0.5), 1, g - 1) of them to validation,
    whole groups at a time, in the order of sha256(seed, image). With one group it only trains. `kfold` distributes the
    groups of each individual with at least two groups over `folds` folds in that order; every other kind has one fold.
    `by_group` gives whole groups to validation, regardless of individuals, until `val_fraction` of all images is
    reached. `by_time` gives the groups that begin on the latest days, see `latest_groups`; individuals that appear only
    then are unknown.

    A group that several animals of one photograph join may hold several individuals. If an individual would have no
    training row in a fold in which it validates, one of its groups always trains.

    `open_set` holds out whole individuals with at least two images. So do the other kinds except `by_group` and
    `by_time` if no image has the unknown label and at least ten individuals are eligible. With k folds, each of them is
    held out in one fold and in the gallery of the others.

    Args:
        table: Columns image, individual, group; optional file: rows of one file are animals in one photograph;
            optional date, ISO 8601 text or "".
        twins: Twin group of each row, "" for none. Twin groups that span two individuals only train.
        kind: A key of `SPLITS`.
        val_fraction: Share of each individual's images that validates, between 0 and 1.
        folds: Number of folds of `kfold`.
        share: Share of the eligible individuals that are held out whole.
        seed: Seed of the split.
        unknown_label: Label of unknown individuals.

    Raises:
        DataError: If `open_set` can hold out no individual, `by_group` has no encounter or a single group, or `by_time`
            a single day.
    """
    chosen = SPLITS[kind]
    if kind == "by_group":
        require_encounters(table["group"])
    photographs = _photographs(table.reset_index(drop=True), twins, seed, by_individual=chosen.by_individual)
    if chosen.in_folds:
        found = _assign_folds(photographs, folds, unknown_label)
    elif chosen.by_individual:
        found = _as_single_fold(
            photographs, _validating_groups(photographs, chosen.fraction(val_fraction), unknown_label)
        )
    else:
        choose = latest_groups if chosen.by_time else _first_groups
        found = _as_single_fold(photographs, choose(photographs, val_fraction))
    if chosen.by_individual:
        found = _with_gallery(photographs, found, unknown_label)
    everyone_named = not (photographs["individual"] == unknown_label).any()
    if chosen.holds_out or (chosen.by_individual and everyone_named):
        fewest = 2 if chosen.holds_out else _FEWEST_TO_HOLD_OUT
        places = _held_out_individuals(photographs, seed, share=share, fewest=fewest, unknown_label=unknown_label)
        held = photographs["individual"].map(places)
        found = found.where(held.isna(), held % folds if chosen.in_folds else 0)
        if chosen.holds_out and not places:
            raise DataError(
                "`split: open_set` holds whole individuals out, but fewer than two have two photographs. "
                "Take `split: stratified`"
            )
    return pd.Series(found.to_numpy(dtype=int), index=table.index, name="fold")


def _photographs(rows: pd.DataFrame, twins: pd.Series | None, seed: int, *, by_individual: bool) -> pd.DataFrame:
    """Return one row per photograph: individual, stratum (unit of the fraction), group, order (hash), day, fixed."""
    photographs = pd.DataFrame(
        {
            "individual": rows["individual"],
            "stratum": rows["individual"] if by_individual else "",
            "group": connected_groups(rows, twins, by_individual=by_individual),
            "order": [_order_hash(seed, image) for image in rows["image"]],
            "day": rows["date"].str.slice(0, 10) if "date" in rows else "",
        }
    )
    fixed = conflicting_groups(photographs["group"], rows, twins)
    return photographs.assign(fixed=photographs["group"].isin(fixed))


def _as_single_fold(photographs: pd.DataFrame, groups: pd.Series) -> pd.Series[int]:
    """Return fold 0 for rows of these groups, -1 for all others."""
    return pd.Series(photographs["group"].isin(groups).astype(int) + NEVER_VALIDATES)


def _with_gallery(photographs: pd.DataFrame, folds: pd.Series, unknown_label: str) -> pd.Series[int]:
    """Return the folds with one group fewer for each individual whose rows all validate in one fold.

    That happens only where photographs of several individuals join their groups.
    """
    joined = photographs.loc[is_in_shared_group(photographs), "individual"].unique()
    folds = folds.copy()
    for individual in sorted(set(joined) - {unknown_label}):
        own = photographs["individual"] == individual
        if folds[own].nunique() == 1 and folds[own].iloc[0] != NEVER_VALIDATES:
            last = photographs[own].groupby("group")["order"].min().idxmax()
            folds[photographs["group"] == last] = NEVER_VALIDATES
    return folds


def parts_of(folds: pd.Series, fold: int | None = None) -> pd.Series:
    """Return `val` for rows that validate in the fold, `train` for all others.

    Args:
        folds: Fold of each row, as `split_photographs` returns it.
        fold: The fold in question; None for any fold.
    """
    validates = folds != NEVER_VALIDATES if fold is None else folds == fold
    return pd.Series(np.where(validates, VALIDATION, TRAIN), index=folds.index, name="part")


def plays_unknown(kind: str, individuals: pd.Series, *, unknown_label: str) -> bool:
    """Return whether a named validation image without a gallery image counts as an unknown individual.

    Args:
        kind: A key of `SPLITS`.
        individuals: Individual of every row.
        unknown_label: Label of unknown individuals.
    """
    chosen = SPLITS[kind]
    return chosen.holds_out or not chosen.by_individual or not bool((individuals == unknown_label).any())


def _validating_groups(photographs: pd.DataFrame, fraction: float, unknown_label: str) -> pd.Series:
    """Return the groups that validate: per individual, in order of their smallest hash, until its share is reached."""
    by_individual = photographs.groupby("stratum")
    images, groups = by_individual.size(), by_individual["group"].nunique()
    wanted = (fraction * images + 0.5) // 1
    keeping_one = wanted.clip(lower=1).clip(upper=groups - 1)
    wanted = wanted.where(wanted.index == unknown_label, keeping_one)
    table = _free_groups(photographs)
    before = table.groupby("stratum")["size"].cumsum() - table["size"]
    return table.loc[before < table["stratum"].map(wanted), "group"]


def _first_groups(photographs: pd.DataFrame, fraction: float) -> pd.Series:
    """Return the groups that validate regardless of individuals. At least one group trains."""
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
    """Return the groups that may validate (stratum, group, size), in order of their smallest hash."""
    free = photographs[~photographs["fixed"]]
    table = free.groupby(["stratum", "group"], as_index=False).agg(size=("order", "size"), order=("order", "min"))
    return table.sort_values(["stratum", "order"])


def _assign_folds(photographs: pd.DataFrame, folds: int, unknown_label: str) -> pd.Series[int]:
    """Return the fold of each row: the groups of a stratum in turn, each stratum starting at another fold."""
    groups = photographs.groupby("stratum")["group"].nunique()
    table = _free_groups(photographs)
    table = table[(table["stratum"].map(groups) > 1) | (table["stratum"] == unknown_label)]
    begin = table.groupby("stratum")["order"].transform("first").map(lambda place: int(place, 16) % folds)
    fold = (table.groupby("stratum").cumcount() + begin.astype(int)) % folds
    places = dict(zip(table["group"], fold, strict=True))
    return pd.Series(photographs["group"].map(places).fillna(NEVER_VALIDATES).astype(int))


def _order_hash(seed: int, image: str) -> str:
    return hashlib.sha256(f"{seed}/{image}".encode()).hexdigest()


def _held_out_individuals(
    photographs: pd.DataFrame, seed: int, *, share: float, fewest: int, unknown_label: str
) -> dict[str, int]:
    """Return the individuals that are held out whole, numbered from 0; empty if fewer than `fewest` are eligible."""
    barred = photographs["fixed"] | is_in_shared_group(photographs)
    by_individual = photographs.assign(barred=barred).groupby("individual")
    able = (by_individual.size() >= 2) & ~by_individual["barred"].any()
    eligible = [name for name in able[able].index if name != unknown_label]
    if len(eligible) < fewest:
        return {}
    ordered = sorted(eligible, key=lambda name: _order_hash(seed, name))
    return {name: place for place, name in enumerate(ordered[: max(1, int(share * len(ordered)))])}
