"""Split by time: the earlier days train, the later days validate."""

from __future__ import annotations

import pandas as pd

from whale_ray.errors import DataError


def latest_groups(photographs: pd.DataFrame, fraction: float) -> pd.Series:
    """Return the groups that validate: those that begin on the latest days, whole days at a time.

    Days are taken from the latest on until they have `fraction` of the photographs of all dated groups. The earliest
    day always trains, and so does a group without a date. A group that begins before these days trains whole.

    Args:
        photographs: Columns group, fixed (the group must train) and day (ISO 8601 text, "" if unknown).
        fraction: Share of the photographs that validates, between 0 and 1.

    Raises:
        DataError: If there are not two days.
    """
    dated = photographs["day"].where(photographs["day"] != "")
    groups = (
        photographs.assign(day=dated)
        .groupby("group")
        .agg(begin=("day", lambda days: days.dropna().min()), size=("day", "size"), fixed=("fixed", "any"))
    )
    groups = groups[groups["begin"].notna()]
    if groups["begin"].nunique() < 2:
        raise DataError(
            f"`split: by_time` trains on earlier days and validates on later ones, but the photographs have "
            f"{groups['begin'].nunique()} different days. Name the column of dates in data.date_column, or take "
            "`split: stratified`"
        )
    days = groups.groupby("begin")["size"].sum().sort_index(ascending=False)
    before = days.cumsum() - days
    wanted = max(1.0, (fraction * days.sum() + 0.5) // 1)
    later = days.index[(before < wanted) & (days.index != days.index[-1])]
    return pd.Series(groups.index[groups["begin"].isin(later) & ~groups["fixed"]])
