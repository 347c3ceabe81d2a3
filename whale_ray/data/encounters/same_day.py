"""Queries with a photograph of the same animal and day in the gallery: their scores credit recognising the day."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd


def count_same_day(rows: pd.DataFrame, *, unknown_label: str) -> dict[str, int]:
    """Return how many known queries have a photograph of that animal from the same day in the gallery.

    Args:
        rows: Columns individual, day (ISO 8601 text, "" if unknown), part (`train` or `val`) and split.
        unknown_label: Label of unknown individuals.

    Returns:
        Number of known queries (`known`), of those with a day (`dated`) and of those with a gallery photograph of that
        day (`same_day`).
    """
    named = rows[rows["individual"] != unknown_label]
    gallery, queries = named[named["part"] == "train"], named[named["part"] == "val"]
    of_animal = pd.MultiIndex.from_frame(gallery[["split", "individual"]])
    of_day = pd.MultiIndex.from_frame(gallery[["split", "individual", "day"]])
    known = pd.MultiIndex.from_frame(queries[["split", "individual"]]).isin(of_animal)
    dated = known & (queries["day"] != "").to_numpy()
    same_day = dated & pd.MultiIndex.from_frame(queries[["split", "individual", "day"]]).isin(of_day)
    return {"known": int(known.sum()), "dated": int(dated.sum()), "same_day": int(same_day.sum())}


def describe_same_day(counts: Mapping[str, int]) -> str:
    """Return a sentence on the counts of `count_same_day`; "" if no known query has a date."""
    known, dated, same_day = counts.get("known", 0), counts.get("dated", 0), counts.get("same_day", 0)
    if not dated:
        return ""
    undated = f"; {known - dated} {_have(known - dated)} no date" if dated < known else ""
    queries = "query" if known == 1 else "queries"
    return (
        f"{same_day} of {known} known {queries} ({same_day / known:.0%}) {_have(same_day)} a photograph of that animal "
        f"from the same day in the gallery{undated}"
    )


def _have(count: int) -> str:
    return "has" if count == 1 else "have"
