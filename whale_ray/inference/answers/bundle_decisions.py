"""Thresholds, calibrations and decision of a bundle, and the answers that they give to rankings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whale_ray.errors import BundleError
from whale_ray.inference.predictions import UNKNOWN_TRAITS, AnimalTraits, Gallery, Identification, RankedAnswers
from whale_ray.retrieval.evaluation.calibration import read_calibration
from whale_ray.retrieval.evaluation.decisions import read_decision
from whale_ray.retrieval.evaluation.encounters.answer_probabilities import answer_probabilities
from whale_ray.retrieval.evaluation.encounters.encounter_calibration import need_strangers, read_encounter_calibration
from whale_ray.retrieval.evaluation.evaluate import RetrievalSetting
from whale_ray.retrieval.fusion.stranger_cohort import Cohort, stranger_cosines
from whale_ray.retrieval.search.pools import PooledRanking


class BundleDecisions:
    """Thresholds, calibrations and decision of a bundle.

    Args:
        manifest: bundle.json.
        cohort: Unit vectors of photographs of unknown animals, float16, shape (U, D); None if the bundle has none.

    Raises:
        BundleError: If a calibration needs them and there are none.
    """

    def __init__(self, manifest: Mapping[str, Any], cohort: np.ndarray | None = None) -> None:
        self.threshold: float | None = manifest["threshold"]
        self.species_thresholds: dict[str, float] = manifest.get("species_thresholds", {})
        self.calibration = read_calibration(manifest["calibration"])
        self.encounters = read_encounter_calibration(manifest.get("encounter_calibration"))
        self.decision = read_decision(manifest.get("decision"))
        self.setting = RetrievalSetting(**manifest["retrieval"])
        self.cohort = None if cohort is None else Cohort(cohort)
        if self.cohort is None and need_strangers(self.calibration, self.encounters):
            raise BundleError(
                "a probability of new animals that depends on strangers needs the cohort of the bundle, but there is "
                "none. Make the bundle again"
            )

    def threshold_of(self, traits: AnimalTraits) -> float | None:
        """Return the threshold of a query by its species; None if the bundle has no threshold."""
        return self.species_thresholds.get(traits.species, self.threshold)

    def new_distance_of(self, traits: AnimalTraits) -> float | None:
        """Return `new_distance` for a query by its species."""
        threshold = self.threshold_of(traits)
        return None if threshold is None or not self.setting.scores_are_cosines else 1.0 - threshold

    @property
    def new_distance(self) -> float | None:
        """The distance to the nearest individual above which an animal is called new; None if no distance decides."""
        return self.new_distance_of(UNKNOWN_TRAITS)

    def answers(
        self,
        found: PooledRanking,
        gallery: Gallery,
        *,
        vectors: np.ndarray,
        top: int,
        traits: Sequence[AnimalTraits],
        photographs: Sequence[int] | None = None,
    ) -> list[Identification]:
        """Return the answer that each ranking means.

        Args:
            found: Rankings of Q queries.
            gallery: The gallery that was searched.
            vectors: Unit vectors of the queries, as they were searched, float32, shape (Q, D).
            top: Number of individuals.
            traits: Viewpoint and species of each query.
            photographs: Number of photographs behind each query; None for one each. Without a calibration of
                encounters, answers to several have no probabilities.
        """
        counts = photographs or [1] * len(traits)
        match, new = answer_probabilities(
            found.ranking.cosines,
            strangers=stranger_cosines(self.cohort, vectors),
            species=[one.species for one in traits],
            photographs=counts,
            single=self.calibration,
            encounters=self.encounters,
            decision=self.decision,
        )
        answers = RankedAnswers(found, match, new, gallery, top, by_probability=self.decision is not None)
        asked = zip(traits, counts, strict=True)
        return [self._read(answers, place, one, count) for place, (one, count) in enumerate(asked)]

    def _read(self, answers: RankedAnswers, place: int, traits: AnimalTraits, photographs: int) -> Identification:
        if photographs == 1:
            return answers.read(place, threshold=self.threshold_of(traits))
        if self.encounters is None:
            return answers.read(place, threshold=self.threshold_of(traits)).without_probabilities()
        return answers.read(place, threshold=self.encounters.threshold)
