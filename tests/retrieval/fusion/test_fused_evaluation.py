"""Evaluation with local evidence: what it gains, where it falls back, and one query alone against the batch."""

from dataclasses import replace

import numpy as np
import pytest

from whale_ray.errors import InputError
from whale_ray.retrieval.evaluation.evaluate import evaluate, score_setting
from whale_ray.retrieval.evaluation.searches.search_runs import SearchRuns
from whale_ray.retrieval.fusion import cross_fitting
from whale_ray.retrieval.fusion.candidates import BY_EMBEDDING
from whale_ray.retrieval.fusion.evaluation_evidence import shortlist_by_embedding
from whale_ray.retrieval.fusion.fused_ranking import fused_refinement
from whale_ray.retrieval.local.evidence import LocalEvidence
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.retrieval.search.pools import PooledSearcher
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting

PLAIN = RetrievalSetting()
FUSED = RetrievalSetting(local="sift")
RERANKED = {"rerank": "k_reciprocal", "rerank_k1": 6, "rerank_k2": 3, "rerank_lambda": 0.3}
SETTINGS = [
    FUSED,
    RetrievalSetting("centroid", local="sift"),
    RetrievalSetting("majority", 5, expand_query=2, augment_gallery=1, local="sift"),
    RetrievalSetting(local="sift", **RERANKED),
]


def draw(*, individuals=70, size=8, spread=1.5, new=0.2, seed=0, signal=3.0, uneven=False):
    """Photographs of `evaluate` whose local evidence knows the right photograph, apart from noise.

    Each individual has two gallery photographs; if uneven, one or three.
    """
    random = np.random.default_rng(seed)
    members = np.repeat(np.arange(individuals), 4)
    members[1::8] += uneven
    parts = np.tile(["train", "train", "val", "val"], individuals)
    names = np.array([f"w_{member:03d}" for member in members], dtype="U12")
    vectors = random.normal(size=(individuals, size))[members] + spread * random.normal(size=(len(members), size))
    unknown = (parts == "val") & (random.random(len(parts)) < new)
    names[unknown] = "new_whale"
    asking, gallery = np.flatnonzero(parts == "val"), np.flatnonzero(parts == "train")
    same = (names[asking][:, None] == names[gallery]) & (random.random((len(asking), len(gallery))) < 0.7)
    scores = (random.exponential(size=same.shape) + signal * same).astype(np.float32)
    of_individuals = scores @ (names[gallery][:, None] == np.unique(names[gallery])).astype(np.float32)
    inliers = np.rint(4 * same * random.random(same.shape)).astype(np.float32)
    evidence = LocalEvidence(scores, of_individuals, inliers, np.unique(names[gallery]))
    return {
        "views": {"plain": vectors.astype(np.float16)},
        "individuals": names,
        "parts": parts,
        "images": np.array([f"{place:05d}.jpg" for place in range(len(parts))]),
        "unknown_label": "new_whale",
    }, {"sift": {0: evidence}}


def row_of(evidence: LocalEvidence, query: int) -> LocalEvidence:
    part = slice(query, query + 1)
    return replace(
        evidence,
        scores=evidence.scores[part],
        individual_scores=evidence.individual_scores[part],
        inliers=evidence.inliers[part],
    )


def test_local_evidence_raises_the_scores_and_is_chosen():
    photographs, evidence = draw()
    plain = evaluate(settings=[PLAIN], **photographs).scores
    found = evaluate(settings=[PLAIN, FUSED], evidence=evidence, objective="map@5", **photographs)
    assert found.best == FUSED
    assert found.fusion is not None
    assert found.scores["map@5"] > plain["map@5"] + 0.1
    assert found.scores["auroc"] > plain["auroc"] + 0.1
    assert found.scores["image_recall@1"] == plain["image_recall@1"]


def test_evidence_without_signal_loses_little():
    photographs, evidence = draw(signal=0.0)
    plain, fused = evaluate(settings=[PLAIN, FUSED], evidence=evidence, objective="map@5", **photographs).table["map@5"]
    assert fused > plain - 0.05


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_one_query_at_the_gallery_is_ranked_as_in_the_sweep_to_the_last_digit(setting):
    photographs, evidence = draw(individuals=BY_EMBEDDING + 20)
    model = evaluate(settings=[setting], evidence=evidence, **photographs).fusion
    options = {name: photographs[name] for name in ("individuals", "parts", "unknown_label")}
    views, names = photographs["views"], photographs["individuals"]
    held = SearchRuns(views, [setting], splits=None, held_out_as_new=False, evidence=evidence, **options)
    candidates = held.candidates(setting)
    expected = candidates.ranked(model.scores(candidates.features))
    gallery = np.flatnonzero(photographs["parts"] == "train")
    searcher = PooledSearcher(views["plain"][gallery], names[gallery])
    for query, row in enumerate(held.rows):
        refine = fused_refinement(setting, [model], row_of(evidence["sift"][0], query))
        found = searcher.rank(views["plain"][row : row + 1], setting, first=3, refine=refine)
        width = found.ranking.individuals.shape[1]
        assert width >= BY_EMBEDDING
        np.testing.assert_array_equal(found.ranking.individuals[0], expected.individuals[query, :width])
        np.testing.assert_array_equal(found.ranking.cosines[0], expected.cosines[query, :width])
        assert (expected.individuals[query, width:] < 0).all()
        nearest = views["plain"][gallery].astype(np.float64) @ views["plain"][row].astype(np.float64)
        own = found.ranking.individuals[0, 0] == searcher.index.codes_of(names[gallery])
        lengths = [np.linalg.norm(views["plain"][rows].astype(np.float64), axis=-1) for rows in (gallery, row)]
        assert found.cosines[0, 0] == pytest.approx((nearest / lengths[0] / lengths[1])[own].max(), abs=1e-6)


def test_one_query_is_ranked_by_slopes_as_in_the_sweep_to_the_last_digit(monkeypatch):
    monkeypatch.setattr(cross_fitting, "FEWEST_FOR_SLOPES", 100)
    photographs, evidence = draw(individuals=90, uneven=True)
    model = evaluate(settings=[FUSED], evidence=evidence, **photographs).fusion
    assert any(model.slopes.values())
    options = {name: photographs[name] for name in ("views", "individuals", "parts", "unknown_label")}
    held = SearchRuns(settings=[FUSED], splits=None, held_out_as_new=False, evidence=evidence, **options)
    candidates = held.candidates(FUSED)
    assert np.unique(np.exp(candidates.features[:, :, -1]).round()).tolist()[:2] == [1.0, 3.0]
    expected = candidates.ranked(model.scores(candidates.features))
    gallery, vectors = np.flatnonzero(photographs["parts"] == "train"), photographs["views"]["plain"]
    searcher = PooledSearcher(vectors[gallery], photographs["individuals"][gallery])
    for query, row in enumerate(held.rows):
        refine = fused_refinement(FUSED, [model], row_of(evidence["sift"][0], query))
        found = searcher.rank(vectors[row : row + 1], FUSED, first=3, refine=refine).ranking
        width = found.individuals.shape[1]
        np.testing.assert_array_equal(found.individuals[0], expected.individuals[query, :width])
        np.testing.assert_array_equal(found.cosines[0], expected.cosines[query, :width])


def test_shortlists_are_the_nearest_photographs_of_the_pool():
    photographs, _ = draw(individuals=30)
    gallery, asking = (np.flatnonzero(photographs["parts"] == part) for part in ("train", "val"))
    vectors, names = photographs["views"]["plain"], photographs["individuals"]
    species = np.where(np.arange(len(gallery)) % 3 == 0, "orca", "minke")
    searcher = PooledSearcher(vectors[gallery], names[gallery], species=species)
    asked, of_queries = normalize_rows(vectors[asking]), np.where(np.arange(len(asking)) % 2 == 0, "orca", "minke")
    groups = searcher.groups("any", len(asked), species=of_queries)
    found = shortlist_by_embedding(asked, groups, 25)
    cosines = asked.astype(np.float64) @ normalize_rows(vectors[gallery]).astype(np.float64).T
    for query, rows in enumerate(found):
        allowed = np.flatnonzero(species == of_queries[query])
        expected = allowed[np.argsort(-cosines[query, allowed])[:25]]
        kept = rows[rows >= 0]
        assert len(kept) == min(25, len(allowed))
        np.testing.assert_allclose(cosines[query, kept], cosines[query, expected], atol=2e-6)
        one = searcher.groups("any", 1, species=of_queries[[query]])
        np.testing.assert_array_equal(shortlist_by_embedding(asked[[query]], one, 25)[0], rows)


def test_evidence_of_further_individuals_changes_nothing():
    photographs, evidence = draw()
    found = evidence["sift"][0]
    wider = replace(
        found,
        individual_scores=np.insert(found.individual_scores, [0, 9], 99.0, axis=1),
        names=np.insert(found.names, [0, 9], ["a", found.names[8] + "_"]),
    )
    first, second = (
        evaluate(settings=[FUSED], evidence={"sift": {0: one}}, **photographs).queries for one in (found, wider)
    )
    np.testing.assert_array_equal(first["cosine"], second["cosine"])


def test_queries_that_are_not_fused_keep_their_ranking_by_embedding():
    photographs, evidence = draw()
    model = evaluate(settings=[FUSED], evidence=evidence, **photographs).fusion
    gallery, asking = (np.flatnonzero(photographs["parts"] == part) for part in ("train", "val"))
    vectors = photographs["views"]["plain"]
    searcher = PooledSearcher(vectors[gallery], photographs["individuals"][gallery])
    options = {"setting": FUSED, "first": 1}
    plain = searcher.rank(vectors[asking], **options).ranking
    mask = np.arange(len(asking)) % 3 == 0
    every, some = (
        searcher.rank(vectors[asking], refine=fused_refinement(FUSED, models, evidence["sift"][0]), **options)
        for models in ([model] * len(asking), [model if is_fused else None for is_fused in mask])
    )
    width = plain.individuals.shape[1]
    np.testing.assert_array_equal(some.ranking.cosines[mask], every.ranking.cosines[mask])
    np.testing.assert_array_equal(some.ranking.individuals[~mask, :width], plain.individuals[~mask])
    np.testing.assert_array_equal(some.ranking.cosines[~mask, :width], plain.cosines[~mask])
    assert (some.ranking.individuals[~mask, width:] == -1).all()


def test_species_are_searched_apart_with_the_evidence_of_their_rows():
    photographs, evidence = draw()
    species = np.where(np.char.endswith(photographs["individuals"], "0"), "orca", "minke")
    species[photographs["individuals"] == "new_whale"] = ""
    found = evaluate(settings=[FUSED], evidence=evidence, species=species, **photographs).queries
    named = {str(name): str(one) for name, one in zip(photographs["individuals"], species, strict=True) if one}
    answered = found[found["species"] != ""]
    assert (answered["nearest_individual"].map(named) == answered["species"]).all()


def test_splits_are_fused_together_and_searched_apart():
    photographs, evidence = draw(seed=0)
    other, more = draw(seed=1)
    both = {name: np.concatenate([photographs[name], other[name]]) for name in ("individuals", "parts")}
    count = len(photographs["parts"])
    images = np.array([f"{place:05d}.jpg" for place in range(2 * count)])
    views = {"plain": np.concatenate([photographs["views"]["plain"], other["views"]["plain"]])}
    found = evaluate(
        views,
        images=images,
        splits=np.repeat([0, 1], count),
        settings=[FUSED],
        evidence={"sift": {0: evidence["sift"][0], 1: more["sift"][0]}},
        unknown_label="new_whale",
        **both,
    )
    splits = pd_places(found.queries["image"]) // count
    nearest = pd_places(found.queries["nearest_image"]) // count
    np.testing.assert_array_equal(splits, nearest)


def pd_places(images):
    return images.str.removesuffix(".jpg").astype(int).to_numpy()


@pytest.mark.parametrize("kind", ["one_individual", "no_known_query", "few_queries", "no_validation"])
def test_without_enough_right_candidates_the_embedding_ranks_and_the_setting_says_so(kind):
    photographs, evidence = draw(individuals={"one_individual": 1, "few_queries": 4}.get(kind, 20), new=0.0)
    parts = photographs["parts"]
    if kind == "no_known_query":
        photographs["individuals"] = np.where(parts == "val", "new_whale", photographs["individuals"])
    if kind == "no_validation":
        kept = parts == "train"
        photographs = {
            name: {"plain": value["plain"][kept]}
            if name == "views"
            else value[kept]
            if name != "unknown_label"
            else value
            for name, value in photographs.items()
        }
        evidence = {"sift": {0: row_of(evidence["sift"][0], 0)}}
    plain = evaluate(settings=[PLAIN], **photographs)
    found = evaluate(settings=[FUSED], evidence=evidence, **photographs)
    assert found.best == PLAIN
    assert found.fusion is None
    assert found.scores["map@5"] == plain.scores["map@5"]
    assert "local" in found.scores["reason"]


def test_a_query_without_candidates_counts_as_new_beside_others():
    photographs, evidence = draw()
    gallery = photographs["parts"] == "train"
    species = np.where(gallery, "orca", "")
    asked = np.flatnonzero(~gallery)[:1]
    species[asked] = "minke"
    found = evaluate(settings=[FUSED], evidence=evidence, species=species, **photographs).queries
    alone = found[found["image"] == photographs["images"][asked[0]]]
    assert alone["cosine"].item() == -1.0


def test_evidence_of_another_kind_is_refused():
    photographs, evidence = draw()
    with pytest.raises(InputError, match="needs evidence of its kind"):
        evaluate(settings=[RetrievalSetting(local="orb")], evidence=evidence, **photographs)


def test_training_is_scored_by_the_embedding_alone():
    photographs, _ = draw()
    del photographs["images"]
    assert score_setting(setting=FUSED, **photographs) == score_setting(setting=PLAIN, **photographs)
