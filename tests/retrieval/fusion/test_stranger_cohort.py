"""Cohort of unknown animals: normalized cosines by hand, which splits have one, and one query against the batch."""

import gc
from dataclasses import replace

import numpy as np
import pytest

from whale_ray.retrieval.evaluation.calibration import read_calibration
from whale_ray.retrieval.evaluation.decisions import DecisionRule
from whale_ray.retrieval.evaluation.encounters.encounter_calibration import read_encounter_calibration
from whale_ray.retrieval.evaluation.evaluate import evaluate
from whale_ray.retrieval.evaluation.open_set_metrics import auroc
from whale_ray.retrieval.evaluation.searches.search_runs import SearchRuns
from whale_ray.retrieval.fusion.candidate_features import FEATURE_SETS, FEATURES
from whale_ray.retrieval.fusion.fused_ranking import fused_refinement
from whale_ray.retrieval.fusion.fusion_model import read_fusion_model
from whale_ray.retrieval.fusion.stranger_cohort import FEWEST, MOST, NEAREST, Cohort, cohort_rows, stranger_cosines
from whale_ray.retrieval.local.evidence import LocalEvidence
from whale_ray.retrieval.search.gallery_index import GalleryIndex, normalize_rows
from whale_ray.retrieval.search.pools import PooledSearcher
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting

FUSED = RetrievalSetting(local="sift")


def draw_unit(count, *, seed, size=6):
    return normalize_rows(np.random.default_rng(seed).normal(size=(count, size)))


def test_a_normalized_cosine_is_the_mean_over_strangers_of_the_query_and_of_the_candidate():
    gallery, labels = draw_unit(9, seed=0), np.repeat(["a", "b", "c"], 3)
    strangers, queries = draw_unit(NEAREST + 15, seed=1), draw_unit(2, seed=2)
    index, codes = GalleryIndex(gallery, labels), np.array([[2, 0, -1], [1, -1, -1]])
    found = Cohort(strangers.astype(np.float16)).normalize(queries, index, codes, (np.zeros((2, 3)), np.ones((2, 3))))
    strangers = normalize_rows(strangers.astype(np.float16)).astype(np.float64)
    for value, scores, kind in zip((0.0, 1.0), found, ("nearest", "mean"), strict=True):
        for query, code in ((0, 2), (0, 0), (1, 1)):
            own = gallery[3 * code : 3 * code + 3].astype(np.float64)
            mean = own.sum(axis=0) / np.linalg.norm(own.sum(axis=0))
            of_candidate = (strangers @ own.T).max(axis=1) if kind == "nearest" else strangers @ mean
            above = [
                (value - largest.mean()) / largest.std()
                for largest in (np.sort(each)[-NEAREST:] for each in (of_candidate, strangers @ queries[query]))
            ]
            column = codes[query].tolist().index(code)
            assert scores[query, column] == pytest.approx(np.mean(above), abs=1e-3)


@pytest.mark.parametrize(("size", "nearest"), [(20, 1), (39, 1), (40, 2), (300, 15)])
def test_strangers_of_a_query_are_the_nearest_twentieth_of_the_cohort(size, nearest):
    strangers, queries = draw_unit(size, seed=1), draw_unit(9, seed=2).astype(np.float32)
    cohort = Cohort(strangers.astype(np.float16))
    cosines = queries.astype(np.float64) @ normalize_rows(strangers.astype(np.float16)).astype(np.float64).T
    found = cohort.stranger_cosines(queries)
    assert found == pytest.approx(np.sort(cosines, axis=1)[:, -nearest:].mean(axis=1), abs=1e-6)
    alone = [cohort.stranger_cosines(queries[place : place + 1])[0] for place in range(9)]
    assert alone == found.tolist()
    assert np.isnan(stranger_cosines(None, queries)).tolist() == [True] * 9


def test_strangers_that_are_one_photograph_give_finite_scores():
    index = GalleryIndex(draw_unit(4, seed=0), np.array(["a", "a", "b", "b"]))
    cohort = Cohort(np.repeat(draw_unit(1, seed=1), NEAREST, axis=0))
    codes = np.array([[0, 1]])
    assert np.isfinite(cohort.normalize(draw_unit(1, seed=2), index, codes, (np.ones((1, 2)), np.ones((1, 2))))).all()


def test_a_gallery_that_is_gone_is_forgotten():
    cohort, index = Cohort(draw_unit(NEAREST, seed=1)), GalleryIndex(draw_unit(2, seed=0), np.array(["a", "b"]))
    cohort.normalize(draw_unit(1, seed=2), index, np.array([[0]]), (np.ones((1, 1)), np.ones((1, 1))))
    assert len(cohort._of_galleries) == 1
    del index
    gc.collect()
    assert not len(cohort._of_galleries)


@pytest.mark.parametrize(("count", "taken"), [(0, 0), (FEWEST - 1, 0), (FEWEST, FEWEST), (MOST, MOST), (9999, MOST)])
def test_a_cohort_takes_photographs_evenly(count, taken):
    rows = cohort_rows(np.arange(count))
    assert len(np.unique(rows)) == len(rows) == taken
    assert count < 9999 or rows[-1] > 9900


def draw(*, individuals=30, strangers=FEWEST, seed=0, size=8):
    """Photographs of `evaluate` with unknown animals in the gallery's part, and local evidence without signal."""
    random = np.random.default_rng(seed)
    members = np.repeat(np.arange(individuals), 4)
    names = np.array([f"w_{member:03d}" for member in members], dtype="U12")
    parts = np.tile(["train", "train", "val", "val"], individuals)
    names[np.flatnonzero(parts == "val")[::7]] = "new_whale"
    names = np.append(names, np.full(strangers, "new_whale"))
    parts = np.append(parts, np.full(strangers, "train"))
    vectors = random.normal(size=(individuals, size))[members] + random.normal(size=(len(members), size))
    vectors = np.concatenate([vectors, random.normal(size=(strangers, size))])
    named = np.unique(names[(parts == "train") & (names != "new_whale")])
    shape = (int((parts == "val").sum()), 2 * individuals)
    scores, of_individuals = (random.random((shape[0], width)).astype(np.float32) for width in (shape[1], len(named)))
    evidence = LocalEvidence(scores, of_individuals, np.zeros(shape, np.float32), named)
    photographs = {"views": {"plain": vectors.astype(np.float16)}, "individuals": names, "parts": parts}
    photographs |= {"images": np.array([f"{row:05d}.jpg" for row in range(len(parts))]), "unknown_label": "new_whale"}
    return photographs, {"sift": {0: evidence}}


@pytest.mark.parametrize(("strangers", "has_cohort"), [(FEWEST - 1, False), (FEWEST, True)])
def test_enough_unknown_animals_give_the_fusion_normalized_cosines(strangers, has_cohort):
    photographs, evidence = draw(strangers=strangers)
    model = evaluate(settings=[FUSED], evidence=evidence, **photographs).fusion
    assert model.has_cohort == has_cohort
    assert (tuple(model.weights) == FEATURES) == (not has_cohort)
    assert read_fusion_model(model.written()) == model


@pytest.mark.parametrize("setting", [RetrievalSetting(), FUSED], ids=str)
@pytest.mark.parametrize(("strangers", "has_cohort"), [(FEWEST - 1, False), (FEWEST, True)])
def test_enough_unknown_animals_give_the_probability_of_new_animals_their_strangers(setting, strangers, has_cohort):
    photographs, evidence = draw(individuals=80, strangers=strangers)
    found = evaluate(settings=[setting], evidence=evidence, **photographs)
    assert found.calibration.has_strangers == has_cohort
    assert read_calibration(found.calibration.written()) == found.calibration
    queries = found.queries
    separating = -queries["new_probability"] if has_cohort else queries["cosine"]
    assert found.scores["auroc"] == auroc(separating.to_numpy(), queries["known"].to_numpy())[0]
    by_threshold = evaluate(settings=[setting], evidence=evidence, decide=DecisionRule("map@5"), **photographs)
    plain = auroc(queries["cosine"].to_numpy(), queries["known"].to_numpy())[0]
    assert by_threshold.scores["auroc"] == plain
    assert by_threshold.scores["map@5"] == found.scores["map@5"]


def test_a_query_is_no_stranger_to_itself():
    photographs, _ = draw()
    vectors, parts = photographs["views"]["plain"], photographs["parts"]
    unknown = photographs["individuals"] == "new_whale"
    options = {name: photographs[name] for name in ("views", "individuals", "parts", "unknown_label")}
    held = SearchRuns(settings=[RetrievalSetting()], splits=None, held_out_as_new=False, **options)
    found = held.outcome(RetrievalSetting()).strangers
    units = normalize_rows(vectors).astype(np.float64)
    cosines = units[held.rows] @ units[(parts == "train") & unknown].T
    assert found == pytest.approx(cosines.max(axis=1), abs=1e-6)
    assert unknown[held.rows].any()
    assert found.max() < 0.999


def test_encounters_have_the_strangers_of_their_mean_embedding():
    photographs, _ = draw(individuals=60)
    groups = np.where(photographs["parts"] == "val", photographs["individuals"], "")
    photographs["groups"] = np.where(groups == "new_whale", "", groups)
    found = evaluate(settings=[RetrievalSetting()], **photographs)
    assert found.encounters.base.has_strangers
    assert read_encounter_calibration(found.encounters.written()) == found.encounters
    short = {name: values for name, values in photographs.items() if name not in ("views", "unknown_label")}
    kept = np.arange(len(photographs["parts"])) < len(photographs["parts"]) - 1
    short = {name: values[kept] for name, values in short.items()}
    views = {"plain": photographs["views"]["plain"][kept]}
    without = evaluate(settings=[RetrievalSetting()], views=views, unknown_label="new_whale", **short)
    assert not without.encounters.base.has_strangers


def test_one_split_without_enough_unknown_animals_takes_the_cohort_from_all():
    parts = [draw(strangers=count, seed=count) for count in (FEWEST, FEWEST - 1)]
    joined = {name: np.concatenate([one[name] for one, _ in parts]) for name in ("individuals", "parts")}
    splits = np.repeat([0, 1], [len(one["parts"]) for one, _ in parts])
    held = SearchRuns(
        {"plain": np.concatenate([one["views"]["plain"] for one, _ in parts])},
        [FUSED],
        splits=splits,
        unknown_label="new_whale",
        held_out_as_new=False,
        evidence={"sift": {place: evidence["sift"][0] for place, (_, evidence) in enumerate(parts)}},
        **joined,
    )
    assert FEATURE_SETS[held.candidates(FUSED).features.shape[2]] == FEATURES


@pytest.mark.parametrize("setting", [FUSED, replace(FUSED, vote="centroid"), replace(FUSED, expand_query=2)], ids=str)
def test_one_query_is_ranked_with_its_cohort_as_in_the_sweep_to_the_last_digit(setting):
    photographs, evidence = draw()
    names, vectors = photographs["individuals"], photographs["views"]["plain"]
    model = evaluate(settings=[setting], evidence=evidence, **photographs).fusion
    options = {name: photographs[name] for name in ("views", "individuals", "parts", "unknown_label")}
    held = SearchRuns(settings=[setting], splits=None, held_out_as_new=False, evidence=evidence, **options)
    candidates = held.candidates(setting)
    expected = candidates.ranked(model.scores(candidates.features))
    training, unknown = photographs["parts"] == "train", names == "new_whale"
    searcher = PooledSearcher(vectors[training & ~unknown], names[training & ~unknown])
    cohort = Cohort(vectors[cohort_rows(np.flatnonzero(training & unknown))])
    for query, row in enumerate(held.rows[:20]):
        refine = fused_refinement(setting, [model], evidence["sift"][0].of_queries(np.array([query])), cohort)
        found = searcher.rank(vectors[row : row + 1], setting, first=1, refine=refine).ranking
        np.testing.assert_array_equal(found.individuals[0], expected.individuals[query])
        np.testing.assert_array_equal(found.cosines[0], expected.cosines[query])
