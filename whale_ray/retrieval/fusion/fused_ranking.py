"""Ranking of a gallery by fused scores, for the service: the same candidates and scores as in the sweep."""

from __future__ import annotations

import numpy as np

from whale_ray.retrieval.fusion.candidates import gather_in_pool
from whale_ray.retrieval.fusion.fusion_model import FusionModel
from whale_ray.retrieval.local.evidence import LocalEvidence
from whale_ray.retrieval.search.pools import QueryGroup, Refine
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting
from whale_ray.retrieval.search.voting import Ranking


def fused_refinement(setting: RetrievalSetting, model: FusionModel, evidence: LocalEvidence) -> Refine:
    """Return the `refine` of `PooledSearcher.rank` that ranks the candidates by fused score.

    Args:
        setting: The retrieval setting.
        model: Its fusion model.
        evidence: Local evidence of all queries on the gallery, photographs in the order of its rows.
    """

    def refine(vectors: np.ndarray, group: QueryGroup, ranking: Ranking) -> Ranking:
        found = gather_in_pool(vectors, group, ranking, setting.search_mode, evidence)
        return found.ranked(model.scores(found.features))

    return refine
