"""Rankings of encounters by fused scores: mean embedding and mean local evidence of their photographs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from whale_ray.retrieval.evaluation.calibration_features import CANDIDATES
from whale_ray.retrieval.evaluation.encounters.encounter_rankings import (
    AskedEncounters,
    EncounterRankings,
    ask_encounters,
)
from whale_ray.retrieval.evaluation.encounters.encounter_sets import NO_ENCOUNTERS, EncounterSet
from whale_ray.retrieval.evaluation.encounters.simulated_new_encounters import encounters_with_evidence
from whale_ray.retrieval.evaluation.metrics import find_ranks
from whale_ray.retrieval.evaluation.searches.search_runs import SearchRuns
from whale_ray.retrieval.fusion.candidates import Candidates, gather_candidates, join_candidates
from whale_ray.retrieval.fusion.cross_fitting import cross_fit
from whale_ray.retrieval.fusion.encounter_evidence import EncounterEvidence
from whale_ray.retrieval.fusion.evaluation_evidence import evidence_of_encounters, held_out_evidence, size_of_shortlists
from whale_ray.retrieval.fusion.fusion_model import FusionModel
from whale_ray.retrieval.local.evidence import LocalEvidence
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting


@dataclass(frozen=True)
class FusedEncounters:
    """Answers to encounters by fused scores.

    Attributes:
        rankings: Each by a model fitted on the other folds.
        model: Fitted on all folds, for use.
    """

    rankings: EncounterRankings
    model: FusionModel


def fuse_encounters(
    held: SearchRuns,
    setting: RetrievalSetting,
    encounters: EncounterSet,
    *,
    folds: np.ndarray,
    clusters: np.ndarray,
    held_out: EncounterSet = NO_ENCOUNTERS,
    most: int | None = None,
) -> FusedEncounters | None:
    """Return the rankings of encounters by a fusion that is fitted on encounters.

    None if there are too few of them, or if `held_out` has some, but none of them has evidence without its individual.

    Args:
        held: The galleries and queries, with local evidence.
        setting: A retrieval setting with local features.
        encounters: The encounters; each has queries of one split.
        folds: Fold of each photograph that is a query, int, shape (N,).
        clusters: Cluster of each photograph that is a query, int, shape (N,).
        held_out: Those of them that are ranked once more without their individual, to play a new animal; some of
            them, if they are many.
        most: Number of photographs used of each encounter; None for all.
    """
    asked = [*ask_encounters(held, setting, encounters, most=most)]
    found = [encounter_candidates(one, setting) for one in asked]
    if held_out.rows:
        players = encounters_with_evidence(held_out)
        for one in ask_encounters(held, setting, players, most=most):
            if (candidates := held_out_candidates(one, setting)) is None:
                return None
            found.append(candidates)
            asked.append(replace(one, truth=np.full(len(one.truth), -1)))
    candidates = join_candidates(found)
    truth, first, counts, images = (
        np.concatenate([getattr(one, name) for one in asked]) for name in ("truth", "first", "counts", "images")
    )
    right = (candidates.individuals == truth[:, None]) & (truth >= 0)[:, None]
    fitted = cross_fit(candidates.features, right, folds[first], images=images, clusters=clusters[first])
    if fitted is None:
        return None
    ranking = candidates.ranked(fitted.scores)
    shown = ranking.cosines[:, :CANDIDATES]
    rankings = EncounterRankings(
        np.pad(shown, ((0, 0), (0, CANDIDATES - shown.shape[1])), constant_values=np.nan),
        find_ranks(ranking.individuals[:, :CANDIDATES], truth),
        truth >= 0,
        first,
        counts,
        np.concatenate([one.strangers(setting.transform) for one in asked]),
    )
    shortlist = size_of_shortlists(asked[0].run.evidence[setting.local])
    return FusedEncounters(rankings, replace(fitted.model, shortlist=shortlist))


def encounter_candidates(asked: AskedEncounters, setting: RetrievalSetting) -> Candidates:
    """Return the candidates of the encounters of one split; codes are those of its gallery.

    Args:
        asked: The encounters.
        setting: A retrieval setting with local features.
    """
    source = asked.run.evidence[setting.local]
    evidence = evidence_of_encounters(source, asked.photographs, asked.vectors, asked.groups)
    return _gather(asked, setting, evidence)


def held_out_candidates(asked: AskedEncounters, setting: RetrievalSetting) -> Candidates | None:
    """Return the candidates as if the individual of each encounter were not in the gallery; None without evidence.

    Args:
        asked: Encounters of known individuals.
        setting: A retrieval setting with local features.
    """
    source, own = asked.run.evidence[setting.local], asked.truth
    if isinstance(source, LocalEvidence):
        evidence = held_out_evidence(source, asked.photographs)
    else:
        codes = asked.searcher.index.codes_of(asked.run.vectors.individuals[asked.run.gallery])
        allowed = codes != own[:, None]
        evidence = evidence_of_encounters(source, asked.photographs, asked.vectors, asked.groups, allowed=allowed)
    if evidence is None:
        return None
    candidates = _gather(asked, setting, evidence)
    return candidates.without(candidates.individuals == own[:, None])


def _gather(asked: AskedEncounters, setting: RetrievalSetting, evidence: EncounterEvidence) -> Candidates:
    rankings = [
        group.pool.searcher.rank(asked.vectors[group.queries], setting, penalized=group.penalized, ready=True)
        for group in asked.groups
    ]
    cohort = asked.run.cohort(setting.transform)
    return gather_candidates(asked.vectors, asked.groups, rankings, setting.search_mode, evidence, cohort)
