"""Encounters where no column names them: photographs of one individual that are close in time or look alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from whale_ray.data.components import components_by_pairs
from whale_ray.data.encounters.photo_dates import day_of, hours_of
from whale_ray.errors import DataError

MAX_HOURS = 1.0
"""Hours between two photographs of one encounter."""
MIN_CORRELATION = 0.8
"""Correlation of 16 x 16 grey pixels of one encounter. 5 of 100,000 pairs of different animals exceed it."""
AVERAGE, SINGLE = "average", "single"
_RULES = {
    AVERAGE: f"pixels that correlate by {MIN_CORRELATION} on average within an encounter",
    SINGLE: f"pixels that correlate by {MIN_CORRELATION} with one other photograph of the encounter",
}


def describe_rule(linkage: str) -> str:
    """Return the rule by which encounters are found.

    Args:
        linkage: `average` or `single`, see `find_encounters`.
    """
    return f"times within {MAX_HOURS:g} h, one day and place, or {_RULES[linkage]}"


def find_encounters(rows: pd.DataFrame, small: np.ndarray, *, unknown_label: str, linkage: str = AVERAGE) -> pd.Series:
    """Return the encounter of each row, named after its first row; "" for rows that are alone.

    Two photographs of one named individual are one encounter if their times are at most `MAX_HOURS` apart, if they are
    of one day and one known place, if they are of one day and one of them has no time, or if their coarse pixels are
    alike. Encounters are the connected components of these pairs.

    Alike photographs are clusters whose pixels correlate by `MIN_CORRELATION` on average between any two parts that are
    joined (average linkage, UPGMA). Single linkage asks for one pair of that correlation: it also joins photographs
    that are alike only through a chain of others, which on animals with a coarse pattern connects different days.

    Args:
        rows: Columns image, individual, date (ISO 8601 text) and place; "" for unknown values.
        small: Grey images, uint8, shape (N, 16, 16).
        unknown_label: Label of unknown individuals, who join no encounter.
        linkage: `average` or `single`.
    """
    rows = rows.reset_index(drop=True)
    pairs = [np.empty((0, 2), dtype=np.int64)]
    dates = rows.assign(day=day_of(rows["date"]), hours=hours_of(rows["date"]))
    for individual, own in dates.groupby("individual"):
        if individual != unknown_label and len(own) > 1:
            pairs += [*_pairs_by_date(own), _pairs_by_pixels(own.index.to_numpy(), small, linkage)]
    first = components_by_pairs(len(rows), np.concatenate(pairs))
    counts = np.bincount(first, minlength=len(rows))
    images = rows["image"].to_numpy()
    names = np.where(counts[first] > 1, images[first], "") if len(rows) else images
    return pd.Series(names, dtype=object)


def _pairs_by_date(own: pd.DataFrame) -> Iterator[np.ndarray]:
    """Yield the pairs of rows of one individual that dates and places connect, int64, shape (P, 2)."""
    timed = own["hours"].dropna().sort_values(kind="stable")
    near = np.flatnonzero(np.diff(timed.to_numpy()) <= MAX_HOURS)
    order = timed.index.to_numpy()
    yield np.stack([order[near], order[near + 1]], axis=1)
    for _, one_day in own[own["day"] != ""].groupby("day"):
        if one_day["hours"].isna().any():
            yield _chain(one_day.index.to_numpy())
        for _, one_place in one_day[one_day["place"] != ""].groupby("place"):
            yield _chain(one_place.index.to_numpy())


def _chain(rows: np.ndarray) -> np.ndarray:
    return np.stack([rows[:-1], rows[1:]], axis=1)


def _pairs_by_pixels(rows: np.ndarray, small: np.ndarray, method: str) -> np.ndarray:
    """Return pairs of rows that connect the clusters of alike photographs, int64, shape (P, 2)."""
    from scipy.cluster import hierarchy  # slow to import

    pixels = small[rows].reshape(len(rows), -1).astype(np.float64)
    pixels -= pixels.mean(axis=1, keepdims=True)
    length = np.linalg.norm(pixels, axis=1, keepdims=True)
    pixels /= np.where(length > 0, length, 1.0)  # an even image correlates with nothing
    distances = 1.0 - (pixels @ pixels.T)[np.triu_indices(len(rows), k=1)]
    tree = hierarchy.linkage(np.clip(distances, 0.0, None), method)
    clusters = hierarchy.fcluster(tree, 1.0 - MIN_CORRELATION, criterion="distance")
    order = np.argsort(clusters, kind="stable")
    together = clusters[order][:-1] == clusters[order][1:]
    connected: np.ndarray = _chain(rows[order])[together]
    return connected


def list_encounters(rows: pd.DataFrame, encounters: pd.Series) -> list[dict[str, Any]]:
    """Return individual and images of each encounter, the largest first, as JSON values.

    Args:
        rows: Columns image and individual.
        encounters: Encounter of each row; "" for none.
    """
    named = rows.assign(encounter=encounters)[encounters != ""].groupby("encounter", sort=False)
    found = [{"individual": str(own["individual"].iat[0]), "images": own["image"].tolist()} for _, own in named]
    return sorted(found, key=lambda one: -len(one["images"]))


def describe_encounters(findings: Mapping[str, Any]) -> str:
    """Return a sentence on the encounters that an audit found, with the rule; "" if it found none."""
    joined = findings.get("encounters")
    if not joined:
        return ""
    count = sum(len(one["images"]) for one in joined)
    encounters = "1 encounter" if len(joined) == 1 else f"{len(joined)} encounters"
    rule = findings.get("encounter_rule", describe_rule(SINGLE))
    return f"found {encounters} with {count} photographs, which the split keeps together, by {rule}"


def require_encounters(encounters: pd.Series) -> None:
    """Check that some row has an encounter, which `by_group` keeps whole.

    Raises:
        DataError: If no row has one.
    """
    if not encounters.ne("").any():
        raise DataError(
            "`split: by_group` keeps encounters or days whole, but no photograph has one. Name their column in "
            "data.group_column, or that of dates in data.date_column, by which `data.group_by: auto` finds them, or "
            "take `split: stratified`"
        )
