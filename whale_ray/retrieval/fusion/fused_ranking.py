"""Ranking of a gallery by fused scores, for the service: the same candidates and scores as in the sweep."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whale_ray.retrieval.fusion.candidates import Candidates, gather_in_pool
from whale_ray.retrieval.fusion.evaluation_evidence import QueryEvidence
from whale_ray.retrieval.fusion.fusion_model import FusionModel
from whale_ray.retrieval.fusion.stranger_cohort import Cohort
from whale_ray.retrieval.search.pools import QueryGroup, Refine
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting
from whale_ray.retrieval.search.voting import Ranking, join_rankings


def fused_refinement(
    setting: RetrievalSetting,
    models: Sequence[FusionModel | None],
    evidence: QueryEvidence,
    cohort: Cohort | None = None,
) -> Refine:
    """Return the `refine` of `PooledSearcher.rank` that ranks the candidates by fused score.

    Args:
        setting: The retrieval setting.
        models: Fusion model of each query, Q models; None keeps the ranking by embedding.
        evidence: Local evidence of all queries on the gallery, photographs in the order of its rows.
        cohort: Photographs of unknown animals, if the models weigh scores by them.
    """

    def refine(vectors: np.ndarray, group: QueryGroup, ranking: Ranking) -> Ranking:
        found = gather_in_pool(vectors, group, ranking, setting.search_mode, evidence, cohort)
        asked = [models[query] for query in group.queries]
        refined = found.ranked(_scores(found, asked))
        here = np.array([model is not None for model in asked], dtype=bool)
        if here.all():
            return refined
        parts = [_rows(refined, here), _rows(ranking, ~here)]
        return join_rankings(parts, [np.flatnonzero(here), np.flatnonzero(~here)])

    return refine


def _scores(found: Candidates, models: Sequence[FusionModel | None]) -> np.ndarray:
    """Return the fused score of each candidate by the model of its query, shape (Q, R); NaN without a model."""
    scores = np.full(found.individuals.shape, np.nan)
    for model in {id(one): one for one in models if one is not None}.values():
        here = np.array([one is model for one in models])
        scores[here] = model.scores(found.features[here])
    return scores


def _rows(ranking: Ranking, kept: np.ndarray) -> Ranking:
    return Ranking(ranking.individuals[kept], ranking.cosines[kept], ranking.images[kept])
