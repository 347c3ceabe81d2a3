"""Searches of one evaluation: one search per distinct transform and search mode, one outcome per setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from whale_ray.retrieval.evaluation.outcomes import Outcome, Queries, join_outcomes, join_queries
from whale_ray.retrieval.evaluation.score_names import CUTOFFS
from whale_ray.retrieval.evaluation.searches.split_searches import SearchKey, SearchRun, search_key
from whale_ray.retrieval.fusion.candidates import Candidates, join_candidates
from whale_ray.retrieval.fusion.evaluation_evidence import EvidenceSource
from whale_ray.retrieval.search.proxy_classifier import ClassProxies
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting
from whale_ray.retrieval.transformed_vectors import TransformedVectors

Evidence = Mapping[str, Mapping[int, EvidenceSource]]
"""Local evidence, or its source, by kind and split."""


class SearchRuns:
    """Search results, computed once per transform and search mode, in the gallery of each split.

    Args:
        views: As in `evaluate.evaluate`.
        settings: As in `evaluate.evaluate`.
        individuals: As in `evaluate.evaluate`.
        parts: As in `evaluate.evaluate`.
        splits: As in `evaluate.evaluate`.
        unknown_label: Label of unknown individuals.
        held_out_as_new: As in `evaluate.evaluate`.
        proxies: As in `evaluate.evaluate`.
        viewpoints: As in `evaluate.evaluate`.
        species: As in `evaluate.evaluate`.
        evidence: As in `evaluate.evaluate`.

    Attributes:
        rows: Positions of the queries in `individuals`, those of a split together.
        traits: `viewpoint` and `species` of each photograph, str, shape (N,); "" for unknown.
        splits: Split of each photograph, shape (N,).
        runs: The gallery of each split with its queries.
    """

    def __init__(
        self,
        views: Mapping[str, np.ndarray],
        settings: Sequence[RetrievalSetting],
        *,
        individuals: np.ndarray,
        parts: np.ndarray,
        splits: np.ndarray | None,
        unknown_label: str,
        held_out_as_new: bool,
        proxies: Mapping[int, ClassProxies] | None = None,
        viewpoints: np.ndarray | None = None,
        species: np.ndarray | None = None,
        evidence: Evidence | None = None,
    ) -> None:
        self.individuals, parts = np.asarray(individuals, dtype=str), np.asarray(parts)
        unknown, traits = np.full(len(parts), ""), {"viewpoint": viewpoints, "species": species}
        self.traits = {key: unknown if one is None else np.asarray(one, dtype=str) for key, one in traits.items()}
        splits = np.zeros(len(parts), dtype=np.int64) if splits is None else np.asarray(splits)
        depths: dict[SearchKey, int] = {}
        for setting in settings:
            key = search_key(setting)
            depths[key] = max(CUTOFFS[-1], depths.get(key, 1), setting.neighbours or 1)
        self.splits, self.unknown_label = splits, unknown_label
        rows_of = {split: np.flatnonzero(splits == split) for split in np.unique(splits).tolist() or [0]}
        vectors_of = {
            split: TransformedVectors(
                {name: view[rows] for name, view in views.items()},
                individuals=self.individuals[rows],
                parts=parts[rows],
                unknown_label=unknown_label,
                proxies=(proxies or {}).get(split),
            )
            for split, rows in rows_of.items()
        }
        has_cohort = all(vectors.has_cohort for vectors in vectors_of.values())  # all have the same features
        self.runs = [
            SearchRun(
                vectors_of[split],
                rows,
                depths,
                viewpoints=self.traits["viewpoint"][rows],
                species=self.traits["species"][rows],
                held_out_as_new=held_out_as_new,
                evidence={kind: found[split] for kind, found in (evidence or {}).items()},
                has_cohort=has_cohort,
            )
            for split, rows in rows_of.items()
        ]
        self.rows = np.concatenate([one.rows[one.asking] for one in self.runs])

    @cached_property
    def queries(self) -> Queries:
        """Return the right answers, which do not depend on the vectors."""
        return join_queries([one.queries for one in self.runs])

    def outcome(self, setting: RetrievalSetting) -> Outcome:
        """Return what a setting gives each query by the embedding alone."""
        return join_outcomes([one.outcome(setting) for one in self.runs])

    def candidates(self, setting: RetrievalSetting) -> Candidates:
        """Return the candidates of a setting with local evidence; images are rows of all photographs."""
        return join_candidates([one.candidates(setting) for one in self.runs])
