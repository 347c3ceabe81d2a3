"""Encounters with local evidence: the mean evidence, what it gains, and one encounter alone against the batch."""

from dataclasses import replace

import numpy as np
import pytest

from whale_ray.retrieval.evaluation.encounters.encounter_calibration import read_encounter_calibration
from whale_ray.retrieval.evaluation.encounters.encounter_rankings import ask_encounters
from whale_ray.retrieval.evaluation.encounters.encounter_sets import EncounterSet
from whale_ray.retrieval.evaluation.encounters.fused_encounters import encounter_candidates
from whale_ray.retrieval.evaluation.encounters.simulated_new_encounters import (
    FEWEST_NEW,
    MOST_PHOTOGRAPHS_HELD_OUT,
    encounters_to_hold_out,
    encounters_with_evidence,
)
from whale_ray.retrieval.evaluation.evaluate import evaluate
from whale_ray.retrieval.evaluation.searches.search_runs import SearchRuns
from whale_ray.retrieval.fusion.candidate_features import candidate_features, features_without
from whale_ray.retrieval.fusion.encounter_evidence import EncounterEvidence
from whale_ray.retrieval.fusion.fused_ranking import fused_refinement
from whale_ray.retrieval.local.evidence import HeldOutEvidence, LocalEvidence
from whale_ray.retrieval.local.shortlists import ShortlistEvidence
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.retrieval.search.pools import PooledSearcher
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting

FUSED = RetrievalSetting(local="sift")
SETTINGS = [FUSED, RetrievalSetting("majority", 5, expand_query=2, augment_gallery=1, local="sift")]


def draw(*, individuals=70, strangers=25, views=3, spread=2.0, signal=3.0, grouped=True):
    """Photographs of `evaluate` in encounters, and evidence that knows the right photograph, apart from noise."""
    random = np.random.default_rng(0)
    members = np.concatenate(
        [np.repeat(np.arange(individuals), 2 + views), np.repeat(individuals + np.arange(strangers), views)]
    )
    known = members < individuals
    asked = ~known | (np.arange(len(members)) % (2 + views) >= 2)
    centers = random.normal(size=(individuals + strangers, 8))
    vectors = centers[members] + spread * random.normal(size=(len(members), 8))
    names = np.where(known, np.char.add("w_", np.char.zfill(members.astype(str), 3)), "new_whale")
    same = (names[asked][:, None] == names[~asked]) & (random.random((asked.sum(), (~asked).sum())) < 0.5)
    scores = (random.exponential(size=same.shape) + signal * same).astype(np.float32)
    evidence = LocalEvidence(
        scores,
        scores.reshape(len(scores), individuals, 2).sum(axis=2),
        np.rint(4 * same * random.random(same.shape)).astype(np.float32),
        np.unique(names[~asked]),
    )
    groups = np.where(asked & (grouped | known), np.char.add("e_", members.astype(str)), "")
    return {
        "views": {"plain": vectors.astype(np.float16)},
        "individuals": names,
        "parts": np.where(asked, "val", "train"),
        "images": np.array([f"{place:05d}.jpg" for place in range(len(members))]),
        "groups": groups,
        "unknown_label": "new_whale",
    }, {"sift": {0: evidence}}


def as_shortlists(evidence):
    """The same evidence as that of shortlists of all photographs."""
    positions = np.broadcast_to(np.arange(evidence.scores.shape[1]), evidence.scores.shape)
    codes = np.repeat(np.arange(len(evidence.names)), 2)
    return ShortlistEvidence(
        positions, evidence.scores, evidence.individual_scores[:, codes], evidence.inliers, codes, evidence.names
    )


@pytest.mark.parametrize("convert", [lambda evidence: evidence, as_shortlists], ids=["whole", "shortlists"])
def test_evidence_of_an_encounter_is_the_mean_of_its_photographs_in_any_order(convert):
    evidence = draw()[1]["sift"][0]
    rows = (np.array([0, 1, 2]), np.array([5]), np.array([2, 0, 1]))
    found = EncounterEvidence(convert(evidence), rows).of_queries(np.array([0, 1, 2]))
    largest = EncounterEvidence(convert(evidence), rows).largest_of_queries(np.array([0]))
    for name in ("scores", "individual_scores", "inliers"):
        values, plain = getattr(found, name), getattr(evidence, name)
        np.testing.assert_allclose(values[0], plain[:3].mean(axis=0), rtol=1e-6)
        np.testing.assert_array_equal(values[1], plain[5])
        np.testing.assert_array_equal(values[2], values[0])
        np.testing.assert_array_equal(getattr(largest, name)[0], plain[:3].max(axis=0))


def test_keypoints_raise_the_scores_of_encounters():
    photographs, evidence = draw()
    found = evaluate(settings=[FUSED], evidence=evidence, **photographs)
    first, several, _, by_embedding = found.scores["encounters"]["rows"]
    assert found.encounters.fusion is not None
    assert found.encounters.fusion != found.fusion, "it is fitted on encounters"
    assert several["recall@1"] > by_embedding["recall@1"] + 0.1
    assert several["auroc"] > by_embedding["auroc"] + 0.05
    assert several["recall@1"] > first["recall@1"]
    assert several["brier/new"] < by_embedding["brier/new"]
    assert read_encounter_calibration(found.encounters.written()) == found.encounters


@pytest.mark.parametrize("kind", ["no new encounter", "few encounters", "no local features"])
def test_encounters_are_ranked_by_the_embedding_without_enough_of_them(kind):
    photographs, evidence = draw(individuals=6 if kind == "few encounters" else 70, grouped=kind != "no new encounter")
    setting = replace(FUSED, local="none") if kind == "no local features" else FUSED
    found = evaluate(settings=[setting], evidence=evidence, **photographs)
    assert found.encounters is None or found.encounters.fusion is None
    rows = found.scores.get("encounters", {"rows": []})["rows"]
    assert "all, by embedding" not in [row["photographs"] for row in rows]


@pytest.mark.parametrize("individuals", [1, 2, 70])
def test_photographs_without_keypoints_leave_scores_and_probabilities_finite(individuals):
    photographs, evidence = draw(individuals=individuals)
    found = evidence["sift"][0]
    zeros = [np.zeros_like(values) for values in (found.scores, found.individual_scores, found.inliers)]
    scored = evaluate(settings=[FUSED], evidence={"sift": {0: LocalEvidence(*zeros, found.names)}}, **photographs)
    assert np.isfinite(scored.queries["cosine"]).all()
    for row in scored.scores.get("encounters", {"rows": []})["rows"]:
        assert all(value is None or np.isfinite(value) for name, value in row.items() if name != "photographs")


def hold_out(photographs, evidence):
    """The evidence with that of known encounters without their individual, which has none for its photographs."""
    names, asking = (photographs["individuals"][photographs["parts"] == part] for part in ("train", "val"))
    queries = np.flatnonzero(asking != "new_whale")
    without = evidence["sift"][0].of_queries(queries)
    own = asking[queries, None] == names
    scores, inliers = (np.where(own, 0, values).astype(np.float32) for values in (without.scores, without.inliers))
    individual_scores = np.where(asking[queries, None] == without.names, 0, without.individual_scores)
    held_out = HeldOutEvidence(queries, LocalEvidence(scores, individual_scores, inliers, without.names))
    return {"sift": {0: replace(evidence["sift"][0], held_out=held_out)}}


def test_known_encounters_without_their_individual_play_new_animals():
    photographs, evidence = draw(grouped=False)
    found = evaluate(settings=[FUSED], evidence=hold_out(photographs, evidence), **photographs)
    scores = found.scores["encounters"]
    assert found.encounters.fusion is not None
    assert scores["known"] == scores["playing_new"] == 70
    assert scores["new"] == 0
    assert scores["rows"][1]["auroc"] > scores["rows"][3]["auroc"] + 0.05
    assert scores["rows"][1]["brier/new"] < scores["rows"][3]["brier/new"]


@pytest.mark.parametrize(("enough", "known"), [(FEWEST_NEW, 0), (FEWEST_NEW - 1, 300)])
def test_encounters_are_held_out_if_few_are_of_new_animals(enough, known):
    rows = tuple(np.arange(2 * place, 2 * place + 2) for place in range(300 + enough))
    is_known = np.arange(2 * len(rows)) < 600
    found = encounters_to_hold_out(EncounterSet(rows, np.zeros(len(rows), dtype=bool)), is_known)
    assert len(found.rows) == known
    kept = encounters_with_evidence(found)
    assert len(kept.rows) == min(known, MOST_PHOTOGRAPHS_HELD_OUT // 2)
    assert all(is_known[rows].all() for rows in kept.rows)


def test_features_without_a_candidate_are_those_of_a_gallery_without_it():
    random = np.random.default_rng(0)
    scores, ranks = random.normal(size=(5, 6, 9)), np.tile(np.minimum(np.arange(9), 7) + 1, (6, 1))
    removed = np.arange(9) == random.integers(0, 9, 6)[:, None]
    images = random.integers(1, 40, (6, 9))
    found = features_without(candidate_features(ranks, scores, images), removed)
    for query in range(6):
        kept = ~removed[query]
        others = np.where(np.flatnonzero(kept) < 7, np.arange(8), 6 if removed[query, :7].any() else 7) + 1
        expected = candidate_features(others[None], scores[:, query, kept][:, None], images[query, kept][None])
        np.testing.assert_allclose(found[query, kept], expected[0], atol=1e-12)
        assert np.isnan(found[query, ~kept]).all()


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_one_encounter_at_the_gallery_is_ranked_as_in_the_sweep_to_the_last_digit(setting):
    photographs, evidence = draw()
    model = evaluate(settings=[setting], evidence=evidence, **photographs).encounters.fusion
    options = {name: photographs[name] for name in ("individuals", "parts", "unknown_label")}
    views, names, parts = (photographs[name] for name in ("views", "individuals", "parts"))
    held = SearchRuns(views, [setting], splits=None, held_out_as_new=False, evidence=evidence, **options)
    rows = np.flatnonzero(parts == "val").reshape(-1, 3)
    (asked,) = ask_encounters(held, setting, EncounterSet(tuple(rows), np.zeros(len(rows), dtype=bool)))
    candidates = encounter_candidates(asked, setting)
    expected = candidates.ranked(model.scores(candidates.features))
    gallery = np.flatnonzero(parts == "train")
    searcher = PooledSearcher(views["plain"][gallery], names[gallery])
    for place, photos in enumerate(rows):
        mean = normalize_rows(normalize_rows(views["plain"][photos]).sum(axis=0)[None])
        own = EncounterEvidence(evidence["sift"][0], (np.arange(3 * place, 3 * place + 3),))
        found = searcher.rank(mean, setting, first=3, refine=fused_refinement(setting, [model], own), ready=True)
        width = found.ranking.individuals.shape[1]
        np.testing.assert_array_equal(found.ranking.individuals[0], expected.individuals[place, :width])
        np.testing.assert_array_equal(found.ranking.cosines[0], expected.cosines[place, :width])
