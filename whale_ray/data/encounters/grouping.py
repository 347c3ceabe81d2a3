"""Encounters where no column names them: photographs of one individual that are close in time or look alike."""

from __future__ import annotations

from collections.abc import Iterator
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


def find_encounters(rows: pd.DataFrame, small: np.ndarray, *, unknown_label: str) -> pd.Series:
    """Return the encounter of each row, named after its first row; "" for rows that are alone.

    Two photographs of one named individual are one encounter if their times are at most `MAX_HOURS` apart, if they are
    of one day and one known place, if they are of one day and one of them has no time, or if their coarse pixels
    correlate by `MIN_CORRELATION`. Encounters are the connected components of these pairs.

    Args:
        rows: Columns image, individual, date (ISO 8601 text) and place; "" for unknown values.
        small: Grey images, uint8, shape (N, 16, 16).
        unknown_label: Label of unknown individuals, who join no encounter.
    """
    rows = rows.reset_index(drop=True)
    pairs = [np.empty((0, 2), dtype=np.int64)]
    dates = rows.assign(day=day_of(rows["date"]), hours=hours_of(rows["date"]))
    for individual, own in dates.groupby("individual"):
        if individual != unknown_label and len(own) > 1:
            pairs += [*_pairs_by_date(own), _pairs_by_pixels(own.index.to_numpy(), small)]
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


def _pairs_by_pixels(rows: np.ndarray, small: np.ndarray) -> np.ndarray:
    pixels = small[rows].reshape(len(rows), -1).astype(np.float32)
    pixels -= pixels.mean(axis=1, keepdims=True)
    length = np.linalg.norm(pixels, axis=1, keepdims=True)
    pixels /= np.where(length > 0, length, 1.0)  # an even image correlates with nothing
    one, other = np.nonzero(np.triu(pixels @ pixels.T >= MIN_CORRELATION, k=1))
    return np.stack([rows[one], rows[other]], axis=1)


def list_encounters(rows: pd.DataFrame, encounters: pd.Series) -> list[dict[str, Any]]:
    """Return individual and images of each encounter, the largest first, as JSON values.

    Args:
        rows: Columns image and individual.
        encounters: Encounter of each row; "" for none.
    """
    named = rows.assign(encounter=encounters)[encounters != ""].groupby("encounter", sort=False)
    found = [{"individual": str(own["individual"].iat[0]), "images": own["image"].tolist()} for _, own in named]
    return sorted(found, key=lambda one: -len(one["images"]))


def require_encounters(encounters: pd.Series) -> None:
    """Check that some row has an encounter, which `by_group` keeps whole.

    Raises:
        DataError: If no row has one.
    """
    if not encounters.ne("").any():
        raise DataError(
            "`split: by_group` keeps encounters or days whole, but no photograph has one. Name their column in "
            "data.group_column, take `data.group_by: auto`, which looks for them by dates, places and pixels, or take "
            "`split: stratified`"
        )
