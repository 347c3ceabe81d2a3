"""Ranking of a gallery by fused scores, for the service: the same candidates and scores as in the sweep."""

from __future__ import annotations

import numpy as np

from whale_ray.retrieval.fusion.candidates import gather_in_pool
from whale_ray.retrieval.fusion.evidence_source import QueryEvidence
from whale_ray.retrieval.fusion.fusion_model import FusionModel
from whale_ray.retrieval.search.pools import QueryGroup, Refine
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting
from whale_ray.retrieval.search.voting import Ranking, join_rankings


def fused_refinement(
    setting: RetrievalSetting, model: FusionModel, evidence: QueryEvidence, *, fused: np.ndarray | None = None
) -> Refine:
    """Return the `refine` of `PooledSearcher.rank` that ranks the candidates by fused score.

    Args:
        setting: The retrieval setting.
        model: Its fusion model.
        evidence: Local evidence of all queries on the gallery, photographs in the order of its rows.
        fused: Queries that are ranked by fused score, bool, shape (Q,); the others keep the ranking by embedding.
            None for all.
    """

    def refine(vectors: np.ndarray, group: QueryGroup, ranking: Ranking) -> Ranking:
        found = gather_in_pool(vectors, group, ranking, setting.search_mode, evidence)
        refined = found.ranked(model.scores(found.features))
        if fused is None or fused.all():
            return refined
        here = fused[group.queries]
        parts = [_rows(refined, here), _rows(ranking, ~here)]
        return join_rankings(parts, [np.flatnonzero(here), np.flatnonzero(~here)])

    return refine


def _rows(ranking: Ranking, kept: np.ndarray) -> Ranking:
    return Ranking(ranking.individuals[kept], ranking.cosines[kept], ranking.images[kept])
