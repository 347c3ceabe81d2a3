"""Pools of candidates by viewpoint and species, on hand-written and drawn vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from whale_ray.errors import InputError
from whale_ray.retrieval.evaluation.calibration import fit_calibration, read_calibration
from whale_ray.retrieval.evaluation.decisions import shift_share
from whale_ray.retrieval.evaluation.evaluate import Evaluation, evaluate
from whale_ray.retrieval.search.pools import PooledRanking, PooledSearcher
from whale_ray.retrieval.search.proxy_classifier import ClassProxies
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting, distinct_settings
from whale_ray.retrieval.search.searcher import GallerySearcher

ANY, SAME = RetrievalSetting(), RetrievalSetting(side="same")
RERANK: dict[str, Any] = {"rerank": "k_reciprocal", "rerank_k1": 6, "rerank_k2": 3, "rerank_lambda": 0.3}
EVERY_CHAIN: list[dict[str, Any]] = [
    {},
    {"vote": "majority", "neighbours": 5},
    {"vote": "softmax", "neighbours": 50},
    {"vote": "centroid", "expand_query": 1},
    {"expand_query": 2, "augment_gallery": 1},
    RERANK,
    {"classifier_weight": 0.4},
]
QUERY = np.array([[1.0, 0.0]])
# Cosines to the query: a 0.96 (right), a 0.6 (left), b 0.8 (left), c 0.28 (no viewpoint)
GALLERY = np.array([[0.96, 0.28], [0.6, 0.8], [0.8, 0.6], [0.28, 0.96]])
LABELS = np.array(["a", "a", "b", "c"])
VIEWPOINTS = ["right", "left", "left", ""]


def draw(images: int, *, seed: int, individuals: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return vectors, names, viewpoints and species; an individual has one species."""
    random = np.random.default_rng(seed)
    members = random.integers(0, individuals, images)
    vectors = np.random.default_rng(99).normal(size=(individuals, 8))[members] + 0.7 * random.normal(size=(images, 8))
    names = np.array([f"w_{member:02d}" for member in members], dtype="U12")
    species = np.array(["blue", "fin", ""])[members % 3]
    return vectors.astype(np.float16), names, random.choice(["left", "right", ""], images), species


def ranked(
    searcher: PooledSearcher, setting: RetrievalSetting, viewpoint: str = "", species: str = ""
) -> tuple[list[str], list[float]]:
    """Return names and scores of the individuals that are ranked for `QUERY`."""
    found = searcher.rank(QUERY, setting, first=5, viewpoints=[viewpoint], species=[species])
    names = [str(searcher.index.names[code]) for code in found.ranking.individuals[0] if code >= 0]
    return names, found.ranking.cosines[0].round(2).tolist()


def test_any_ranks_images_of_every_viewpoint() -> None:
    searcher = PooledSearcher(GALLERY, LABELS, viewpoints=VIEWPOINTS)
    assert ranked(searcher, ANY, "left") == (["a", "b", "c"], [0.96, 0.8, 0.28])


def test_same_leaves_out_other_viewpoints_and_keeps_images_without_one() -> None:
    searcher = PooledSearcher(GALLERY, LABELS, viewpoints=VIEWPOINTS)
    assert ranked(searcher, SAME, "left") == (["b", "a", "c"], [0.8, 0.6, 0.28])
    assert ranked(searcher, SAME, "right") == (["a", "c"], [0.96, 0.28])


@pytest.mark.parametrize("viewpoint", ["", "dorsal"])
@pytest.mark.parametrize("setting", [SAME, RetrievalSetting(side="weighted", side_penalty=0.3)])
def test_a_query_without_a_known_viewpoint_is_searched_among_all(viewpoint: str, setting: RetrievalSetting) -> None:
    searcher = PooledSearcher(GALLERY, LABELS, viewpoints=VIEWPOINTS)
    assert ranked(searcher, setting, viewpoint) == ranked(searcher, ANY)


def test_weighted_lowers_the_score_of_other_viewpoints_by_the_penalty() -> None:
    searcher = PooledSearcher(GALLERY, LABELS, viewpoints=VIEWPOINTS)
    little, much = (RetrievalSetting(side="weighted", side_penalty=penalty) for penalty in (0.1, 0.3))
    assert ranked(searcher, little, "left") == (["a", "b", "c"], [0.86, 0.8, 0.28])
    assert ranked(searcher, much, "left") == (["b", "a", "c"], [0.8, 0.66, 0.28])
    assert ranked(searcher, much, "right") == (["a", "b", "c"], [0.96, 0.5, 0.28])
    found = searcher.rank(QUERY, much, first=2, viewpoints=["left"])
    assert found.images[0].tolist() == [2, 0]
    assert found.cosines[0].tolist() == pytest.approx([0.8, 0.96], abs=1e-3), "the distance shown stays a plain one"


def test_weighted_with_centroids_lowers_individuals_without_the_viewpoint() -> None:
    vectors, labels = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]]), np.array(["a", "b", "b"])
    searcher = PooledSearcher(vectors, labels, viewpoints=["right", "left", "right"])
    setting = RetrievalSetting("centroid", side="weighted", side_penalty=0.5)
    assert ranked(searcher, setting, "left")[0] == ["b", "a"]
    assert ranked(searcher, setting, "right")[0] == ["a", "b"]


def test_another_species_is_no_candidate_and_an_unknown_one_is() -> None:
    searcher = PooledSearcher(GALLERY, LABELS, viewpoints=VIEWPOINTS, species=["blue", "blue", "fin", ""])
    assert ranked(searcher, ANY, species="fin")[0] == ["b", "c"]
    assert ranked(searcher, ANY, species="blue")[0] == ["a", "c"]
    assert ranked(searcher, ANY)[0] == ["a", "b", "c"]
    assert ranked(searcher, SAME, "right", "fin")[0] == ["b", "c"], "no fin whale has this viewpoint: all of them"


def test_a_species_without_any_image_has_no_candidate() -> None:
    searcher = PooledSearcher(GALLERY[:3], LABELS[:3], species=["blue", "blue", "fin"])
    found = searcher.rank(np.repeat(QUERY, 2, axis=0), ANY, first=2, species=["sei", "blue"])
    assert found.ranking.individuals.tolist() == [[-1], [0]]
    assert found.ranking.cosines[0, 0] == -1.0
    assert found.images.tolist() == [[-1], [0]]
    assert [len(pool.rows) for pool in found.pools] == [0, 2]


def test_the_answer_says_which_pool_was_searched() -> None:
    searcher = PooledSearcher(GALLERY, LABELS, viewpoints=VIEWPOINTS, species=["blue", "blue", "fin", "blue"])
    found = searcher.rank(
        np.repeat(QUERY, 3, axis=0), SAME, first=1, viewpoints=["left", "dorsal", ""], species=["blue", "blue", ""]
    )
    pools = [(pool.viewpoint, pool.species, len(pool.rows), len(pool.codes)) for pool in found.pools]
    assert pools == [("left", "blue", 2, 2), ("", "blue", 3, 2), ("", "", 4, 3)]


def test_without_viewpoints_and_species_the_ranking_is_that_of_the_gallery() -> None:
    vectors, names, _, _ = draw(60, seed=0)
    queries, _, viewpoints, species = draw(20, seed=1)
    for chain in EVERY_CHAIN[:-1]:
        expected = GallerySearcher(vectors, names).rank(queries, RetrievalSetting(**chain))
        for setting in (RetrievalSetting(**chain), RetrievalSetting(**chain, side="same")):
            found = PooledSearcher(vectors, names).rank(
                queries, setting, first=3, viewpoints=viewpoints, species=species
            )
            np.testing.assert_array_equal(found.ranking.individuals, expected.individuals)
            np.testing.assert_array_equal(found.ranking.cosines, expected.cosines)


@pytest.mark.parametrize("chain", EVERY_CHAIN, ids=str)
def test_a_query_meets_its_pool_only_whatever_the_vote_and_the_expansion(chain: dict[str, Any]) -> None:
    vectors, names, viewpoints, species = draw(80, seed=0)
    queries, _, sides, kinds = draw(30, seed=1)
    proxies = ClassProxies(np.random.default_rng(5).normal(size=(9, 8)), np.array([f"w_{one:02d}" for one in range(9)]))
    searcher = PooledSearcher(vectors, names, viewpoints=viewpoints, species=species, proxies=proxies)
    setting = RetrievalSetting(**chain, side="same")
    together = searcher.rank(queries, setting, first=3, viewpoints=sides, species=kinds)
    for place, (query, side, kind) in enumerate(zip(queries, sides, kinds, strict=True)):
        kept = np.isin(species, ["", kind]) if kind else np.ones(len(names), dtype=bool)
        kept &= np.isin(viewpoints, ["", side]) if side else True
        alone = GallerySearcher(vectors[kept], names[kept], proxies=proxies)
        expected = alone.rank(query[None], RetrievalSetting(**chain))
        wanted = alone.index.names[expected.individuals[0]].tolist()
        assert named(searcher, together, place) == wanted
        cosines = together.ranking.cosines[place]
        np.testing.assert_allclose(cosines[: len(wanted)], expected.cosines[0], atol=2e-6)
        assert np.isnan(cosines[len(wanted) :]).all()
        (first,) = np.flatnonzero(kept)[expected.images[0, :1]]
        assert together.ranking.images[place, 0] == first


def named(searcher: PooledSearcher, found: PooledRanking, query: int) -> list[str]:
    """Return the ranked names of one query."""
    return [str(searcher.index.names[code]) for code in found.ranking.individuals[query] if code >= 0]


@pytest.mark.parametrize("chain", EVERY_CHAIN[:-1], ids=str)
@pytest.mark.parametrize("side", ["any", "same", "weighted"])
def test_the_evaluation_ranks_as_the_searcher_does(side: str, chain: dict[str, Any]) -> None:
    vectors, names, viewpoints, species = draw(110, seed=2)
    setting = RetrievalSetting(**chain, side=side, side_penalty=0.2 if side == "weighted" else None)
    parts = np.array(["train"] * 80 + ["val"] * 30)
    found = evaluate(
        {"plain": vectors},
        individuals=names,
        parts=parts,
        images=np.array([f"{place}.jpg" for place in range(110)]),
        settings=[setting],
        unknown_label="new_whale",
        viewpoints=viewpoints,
        species=species,
    ).queries
    assert found[["viewpoint", "species"]].to_numpy().tolist() == np.column_stack([viewpoints, species])[80:].tolist()
    searcher = PooledSearcher(vectors[:80], names[:80], viewpoints=viewpoints[:80], species=species[:80])
    for place, row in enumerate(found.to_dict("records"), 80):
        answer = searcher.rank(
            vectors[place][None], setting, first=1, viewpoints=viewpoints[place : place + 1], species=[species[place]]
        )
        ranking = named(searcher, answer, 0)
        assert row["rank"] == (ranking.index(names[place]) + 1 if names[place] in ranking else 0)
        assert row["cosine"] == pytest.approx(answer.ranking.cosines[0, 0], abs=2e-6)
        assert row["nearest_image"] == f"{answer.images[0, 0]}.jpg"


def evaluated(settings: list[RetrievalSetting], *, new: int = 30, seed: int = 3, **more: Any) -> Evaluation:
    vectors, names, viewpoints, species = draw(300, seed=seed)
    parts = np.array(["train"] * 150 + ["val"] * 150)
    names[300 - new :] = "new_whale"
    options = {"viewpoints": viewpoints, "species": species} | more
    images = np.array([f"{place}.jpg" for place in range(300)])
    return evaluate(
        {"plain": vectors},
        individuals=names,
        parts=parts,
        images=images,
        settings=settings,
        unknown_label="new_whale",
        **options,
    )


def test_all_sides_are_measured_on_the_same_queries() -> None:
    sides: dict[str, Any] = {"side": ["any", "same", "weighted"], "side_penalty": [0.1, 0.3]}
    settings = distinct_settings(vote=["nearest"], neighbours=[1], temperature=[0.05], flip=["none"], **sides)
    assert [(one.side, one.side_penalty) for one in settings] == [
        ("any", None),
        ("same", None),
        ("weighted", 0.1),
        ("weighted", 0.3),
    ]
    table = evaluated(settings).table
    assert table["side"].tolist() == ["any", "same", "weighted", "weighted"]
    assert table["side_penalty"].isna().tolist() == [True, True, False, False]
    for setting, row in zip(settings, table.to_dict("records"), strict=True):
        alone = evaluated([setting])
        assert alone.scores["known_queries"] == evaluated(settings[:1]).scores["known_queries"]
        assert row["recall@1"] == alone.table["recall@1"].item()


def test_a_candidate_of_the_same_species_is_found_more_often_than_among_all() -> None:
    limited, free = evaluated([ANY]), evaluated([ANY], species=None)
    assert limited.scores["recall@1"] > free.scores["recall@1"]
    assert limited.scores["known_queries"] == free.scores["known_queries"]
    assert limited.scores["chance/recall@1"] > free.scores["chance/recall@1"]
    assert "by_species" not in free.scores
    rows = {row["species"]: row for row in limited.scores["by_species"]}
    assert sorted(rows) == ["", "blue", "fin"]
    queries = limited.queries
    for species, row in rows.items():
        own = queries[queries["species"] == species]
        assert row["queries"] == len(own)
        assert row["recall@1"] == pytest.approx((own.loc[own["known"], "rank"] == 1).mean())
        assert row["map@5"] == pytest.approx(own["average_precision@5"].mean())


def test_a_species_with_enough_queries_has_a_threshold_of_its_own() -> None:
    found = evaluated([ANY], new=60)
    kinds = found.queries.groupby("species")["new"].agg(["sum", "size"])
    enough = {name for name, row in kinds.iterrows() if name and row["sum"] >= 10 and row["size"] - row["sum"] >= 10}
    assert set(found.species_thresholds) == enough == {"blue", "fin"}
    assert len({*found.species_thresholds.values(), found.threshold}) == 3
    for name in enough:  # the threshold of a species is that of a sweep with this species alone
        vectors, names, _, species = draw(300, seed=3)
        names[240:] = "new_whale"
        own = (species == name) | ((species == "") & (np.arange(300) < 150))
        alone = evaluate(
            {"plain": vectors[own]},
            individuals=names[own],
            parts=np.array(["train"] * 150 + ["val"] * 150)[own],
            images=np.array([f"{place}.jpg" for place in range(300)])[own],
            settings=[ANY],
            unknown_label="new_whale",
        )
        assert found.species_thresholds[name] == pytest.approx(alone.threshold)


def test_the_probability_of_a_new_animal_is_that_of_its_species() -> None:
    found = evaluated([ANY], new=60)
    assert set(found.calibration.new_of_species) == {"blue", "fin"}
    assert read_calibration(found.calibration.written()) == found.calibration
    assert evaluated([ANY], new=60, species=None).calibration.new_of_species == {}
    random = np.random.default_rng(0)
    new, species = np.arange(200) % 2 == 0, np.repeat(["blue", "fin"], 100)
    new[:25] = True  # most blue whales are new, at a larger cosine than fin whales
    cosines = np.where(species == "blue", 0.5, 0.2)[:, None] - 0.2 * new[:, None] + 0.1 * random.normal(size=(200, 1))
    fitted = fit_calibration(cosines, np.where(new, 0, 1), new, species)
    asked = np.full((3, 1), 0.35)
    blue, fin, unknown = fitted.of_new(asked, np.array(["blue", "fin", "sei"]))
    assert blue > 0.7
    assert fin < 0.3
    assert unknown == fitted.of_new(asked)[0]
    for name, value in (("blue", blue), ("fin", fin)):  # as fitted alone, where new animals are as frequent as in all
        own = species == name
        alone = fit_calibration(cosines[own], np.where(new, 0, 1)[own], new[own]).of_new(asked)
        assert value == pytest.approx(shift_share(alone, new[own].mean(), new.mean())[0])


def test_a_species_with_few_unknown_queries_has_the_common_threshold() -> None:
    found = evaluated([ANY], new=12)
    assert found.threshold is not None
    assert found.species_thresholds == {}
    assert evaluated([ANY], new=0).threshold is None


def test_a_setting_says_what_it_needs() -> None:
    with pytest.raises(InputError, match="side is one of any, same, weighted, but got 'left'"):
        RetrievalSetting(side="left")
    with pytest.raises(InputError, match="`0 < side_penalty <= 2` must hold for side weighted, but got None"):
        RetrievalSetting(side="weighted")
