"""Tables of an evaluation: one row per retrieval setting, and one row per query."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from whale_ray.retrieval.evaluation.metrics import average_precisions
from whale_ray.retrieval.evaluation.outcomes import Outcome, Queries, first_column
from whale_ray.retrieval.evaluation.searches.search_runs import SearchRuns
from whale_ray.retrieval.evaluation.selection import CrossFittedOutcome, scores_of_settings
from whale_ray.retrieval.search.retrieval_options import RETRIEVAL_OPTIONS, effective_values
from whale_ray.retrieval.search.retrieval_settings import SETTING_FIELDS, RetrievalSetting


def setting_table(settings: Sequence[RetrievalSetting], outcomes: Sequence[Outcome], queries: Queries) -> pd.DataFrame:
    """Return the scores of each setting on all queries, not cross-fitted, one row per setting.

    Args:
        settings: The settings; their options are the first columns.
        outcomes: Outcome of each setting.
        queries: The right answers.
    """
    return pd.concat([_setting_columns(settings), pd.DataFrame(scores_of_settings(outcomes, queries))], axis=1)


@dataclass(frozen=True)
class SettingQueries:
    """Outcomes of Q queries under each of S retrieval settings, not cross-fitted.

    Attributes:
        settings: The settings.
        images: File name of each query, shape (Q,).
        individuals: Its individual, shape (Q,).
        known: Its individual is in the gallery, bool, shape (Q,).
        ranks: Rank of the right individual, 0 for none, int32, shape (Q, S).
        image_ranks: Rank of the first right image, likewise.
        precisions: Contribution to map@5 with the setting's best threshold, float64, shape (Q, S).
    """

    settings: tuple[RetrievalSetting, ...]
    images: np.ndarray
    individuals: np.ndarray
    known: np.ndarray
    ranks: np.ndarray
    image_ranks: np.ndarray
    precisions: np.ndarray

    def columns(self, places: Sequence[int]) -> SettingQueries:
        """Return the settings at these positions."""
        by_setting = {name: getattr(self, name)[:, places] for name in ("ranks", "image_ranks", "precisions")}
        return replace(self, settings=tuple(self.settings[place] for place in places), **by_setting)


def setting_queries(
    held: SearchRuns,
    settings: Sequence[RetrievalSetting],
    outcomes: Sequence[Outcome],
    thresholds: Iterable[float | None],
    images: np.ndarray,
) -> SettingQueries:
    """Return what each setting gives each query.

    Args:
        held: The searches.
        settings: The settings.
        outcomes: Outcome of each setting.
        thresholds: Best threshold of each setting for map@5; None or NaN without one.
        images: File name of each photograph, shape (N,).
    """
    precisions = [
        average_precisions(one.cosines, one.ranks, one.new, threshold=threshold)
        for one, threshold in zip(outcomes, thresholds, strict=True)
    ]
    return SettingQueries(
        settings=tuple(settings),
        images=images[held.rows],
        individuals=held.individuals[held.rows],
        known=held.queries.known,
        ranks=np.column_stack([one.ranks for one in outcomes]).astype(np.int32),
        image_ranks=np.column_stack([one.image_ranks for one in outcomes]).astype(np.int32),
        precisions=np.column_stack(precisions),
    )


def _setting_columns(settings: Sequence[RetrievalSetting]) -> pd.DataFrame:
    """Return one row per setting; options without effect are off or missing."""
    # `asdict` copies every value, which takes longer than the scores of a small data set.
    rows = [effective_values({name: getattr(setting, name) for name in SETTING_FIELDS}) for setting in settings]
    columns = {name: [row.get(name) for row in rows] for name in SETTING_FIELDS}
    dtypes = {option.name: option.dtype for option in RETRIEVAL_OPTIONS}
    return pd.DataFrame({name: pd.Series(values, dtype=dtypes[name]) for name, values in columns.items()})


def query_table(
    held: SearchRuns,
    pooled: CrossFittedOutcome,
    settings: Sequence[RetrievalSetting],
    images: np.ndarray,
    *,
    clusters: np.ndarray,
    folds: np.ndarray,
) -> pd.DataFrame:
    """Return the cross-fitted outcome of each query, one row per query, with the options of the setting of its fold.

    The columns `viewpoint` and `species` are there if photographs have some.

    Args:
        held: The searches.
        pooled: Cross-fitted outcome of each query.
        settings: The retrieval settings.
        images: File name of each photograph, shape (N,).
        clusters: Cluster of each query, shape (Q,).
        folds: Fold of each query, shape (Q,).
    """
    queries = held.queries
    columns = {
        "image": images[held.rows],
        "individual": held.individuals[held.rows],
        "known": queries.known,
        "new": queries.new,
        "rank": pooled.ranks,
        "image_rank": pooled.image_ranks,
        "nearest_image": np.append(images, "")[pooled.images],  # -1, no answer, is the last
        "nearest_individual": np.append(held.individuals, "")[pooled.images],
        "cosine": first_column(pooled.cosines, np.nan),
        "average_precision@5": pooled.precisions,
        "threshold": pooled.thresholds,
        "match_probability": pooled.match,
        "new_probability": pooled.new,
        "cluster": clusters,
        "fold": folds,
        "gallery_images": queries.images,
    }
    columns |= {name: values[held.rows] for name, values in held.traits.items() if (values != "").any()}
    used, places = np.unique(pooled.place, return_inverse=True)  # at most one setting for each fold
    chosen = _setting_columns([settings[place] for place in used]).iloc[places].reset_index(drop=True)
    return pd.concat([pd.DataFrame(columns), chosen], axis=1)
