from typing import Any

import numpy as np
import pandas as pd
import pytest
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from whale_ray.errors import InputError
from whale_ray.retrieval.evaluation.evaluate import (
    RetrievalSetting,
    distinct_settings,
    evaluate,
    score_setting,
)
from whale_ray.retrieval.evaluation.score_names import CUTOFFS
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.retrieval.study_recall import study_recall

NEAREST = RetrievalSetting()


def draw(*, individuals=30, size=12, spread=1.0, new=0.3, seed=0, train=4, val=2):
    """Photographs as `evaluate` takes them: random individuals, some of `val` of the unknown label."""
    random = np.random.default_rng(seed)
    members = np.repeat(np.arange(individuals), train + val)
    parts = np.tile(["train"] * train + ["val"] * val, individuals)
    names = np.array([f"w_{member:03d}" for member in members], dtype="U12")
    vectors = random.normal(size=(individuals, size))[members] + spread * random.normal(size=(len(members), size))
    unknown = (parts == "val") & (random.random(len(parts)) < new)
    names[unknown] = "new_whale"
    vectors[unknown] = random.normal(size=(unknown.sum(), size))
    mirrored = vectors + 0.5 * random.normal(size=vectors.shape)
    return {
        "views": {
            "plain": normalize_rows(vectors).astype(np.float16),
            "flip": normalize_rows(mirrored).astype(np.float16),
        },
        "individuals": names,
        "parts": parts,
        "images": np.array([f"{place:05d}.jpg" for place in range(len(parts))]),
        "unknown_label": "new_whale",
    }


def in_training(photographs):
    return {key: value for key, value in photographs.items() if key != "images"}


def test_recall_at_1_with_nearest_is_the_precision_at_1_of_pytorch_metric_learning():
    photographs = draw(spread=1.0, new=0.0)
    vectors, train = normalize_rows(photographs["views"]["plain"]), photographs["parts"] == "train"
    labels = np.unique(photographs["individuals"], return_inverse=True)[1]
    calculator = AccuracyCalculator(include=("precision_at_1",), k=1)
    expected = calculator.get_accuracy(vectors[~train], labels[~train], vectors[train], labels[train])
    found = score_setting(setting=NEAREST, **in_training(photographs))
    assert 0.2 < found["recall@1"] < 0.95
    assert found["recall@1"] == pytest.approx(expected["precision_at_1"], abs=1e-6)
    assert evaluate(settings=[NEAREST], **photographs).scores["recall@1"] == pytest.approx(found["recall@1"])


def test_map_at_5_is_that_of_plain_python_with_each_querys_own_threshold():
    photographs = draw(spread=1.5)
    evaluation = evaluate(settings=[NEAREST], objective="map@5", **photographs)
    vectors = normalize_rows(photographs["views"]["plain"]).astype(np.float64)
    train = np.flatnonzero(photographs["parts"] == "train")
    scores = []
    for query in evaluation.queries.to_dict("records"):
        row = int(query["image"][:5])
        best = {}
        for place in train:
            name, cosine = photographs["individuals"][place], round(float(vectors[row] @ vectors[place]), 6)
            best[name] = max(cosine, best.get(name, -2.0))
        answer = sorted(best, key=lambda name: (-best[name], name))
        place = next((place for place, name in enumerate(answer) if best[name] < query["threshold"]), len(answer))
        answer = [*answer[:place], "new_whale", *answer[place:]][:5]
        scores.append(1 / (answer.index(query["individual"]) + 1) if query["individual"] in answer else 0.0)
    assert evaluation.scores["map@5"] == pytest.approx(np.mean(scores), abs=1e-6)
    assert evaluation.queries["average_precision@5"].tolist() == pytest.approx(scores, abs=1e-6)


def test_image_recall_looks_at_images_and_recall_at_individuals():
    vectors = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.3], [1.0, 0.05]])
    found = score_setting(
        {"plain": vectors},
        setting=NEAREST,
        individuals=np.array(["w_a", "w_a", "w_b", "w_b"]),
        parts=np.array(["train", "train", "train", "val"]),
        unknown_label="new_whale",
    )
    assert (found["recall@1"], found["recall@2"]) == (0.0, 1.0)
    assert (found["image_recall@2"], found["image_recall@4"]) == (0.0, 1.0)


def test_named_queries_without_a_gallery_image_are_not_known_and_lower_the_ceiling():
    photographs = draw(new=0.0)
    stranger = photographs["individuals"] == "w_000"
    photographs["parts"][stranger] = "val"
    evaluation = evaluate(settings=[NEAREST], **photographs)
    known, named = 58, 64
    assert evaluation.scores["known_queries"] == known
    assert evaluation.scores["ceiling/recall@1"] == pytest.approx(known / named)
    assert evaluation.scores["ceiling/map@5"] == pytest.approx(known / named)
    held_out = evaluate(settings=[NEAREST], held_out_as_new=True, **photographs)
    assert held_out.scores["ceiling/recall@1"] == held_out.scores["ceiling/map@5"] == 1.0
    assert held_out.scores["trivial/map@5"] == pytest.approx(6 / named)
    assert evaluation.threshold is None
    assert held_out.threshold is not None


def test_without_a_known_query_recalls_are_absent_with_a_reason():
    photographs = draw(new=1.1)
    scores = evaluate(settings=[NEAREST], **photographs).scores
    for cutoff in CUTOFFS:
        for name in (f"recall@{cutoff}", f"image_recall@{cutoff}"):
            assert scores[name] is scores[f"{name}_low"] is scores[f"chance/{name}"] is None
    assert scores["map@5"] == scores["ceiling/map@5"] == scores["trivial/map@5"] == 1.0
    assert scores["reason"].startswith("no known query")
    assert score_setting(setting=NEAREST, **in_training(photographs))["recall@1"] is None


def test_without_any_query_every_score_is_absent_with_a_reason():
    photographs = draw()
    photographs["parts"][:] = "train"
    evaluation = evaluate(settings=[NEAREST], **photographs)
    assert evaluation.scores["map@5"] is None
    assert evaluation.scores["reason"].startswith("no query")
    assert len(evaluation.queries) == 0


def test_an_empty_gallery_finds_no_individual():
    photographs = draw()
    photographs["parts"][:] = "val"
    evaluation = evaluate(settings=distinct_settings(**MANY), **photographs)
    assert evaluation.scores["known_queries"] == 0
    assert evaluation.scores["map@5"] == 0.0
    assert set(evaluation.queries["nearest_individual"]) == {""}


MANY = {
    "vote": ["nearest", "majority", "softmax", "centroid"],
    "neighbours": [1, 5, 20],
    "temperature": [0.05, 0.2],
    "flip": ["none", "average"],
}


def test_the_table_has_a_row_a_setting_as_if_each_were_scored_alone():
    photographs = draw(spread=1.5)
    settings = distinct_settings(**MANY)
    table = evaluate(settings=settings, **photographs).table
    assert len(table) == len(settings) == 22
    for setting, row in zip(settings, table.to_dict("records"), strict=True):
        alone = score_setting(setting=setting, **in_training(photographs))
        assert {name: row[name] for name in alone} == pytest.approx(alone)


def test_the_best_setting_is_the_best_row_and_the_first_of_equals():
    photographs = draw(spread=1.5)
    settings = distinct_settings(**MANY)
    for objective in ("recall@1", "image_recall@4", "map@5"):
        evaluation = evaluate(settings=settings, objective=objective, **photographs)
        row = int(evaluation.table[objective].to_numpy().argmax())
        assert evaluation.best == settings[row]
        assert evaluation.threshold == evaluation.table["threshold"][row]


def test_the_scored_queries_have_no_part_in_the_choice_of_the_setting():
    photographs = draw(spread=1.5)
    settings = distinct_settings(**MANY)
    evaluation = evaluate(settings=settings, objective="map@5", **photographs)
    fold = evaluation.queries["fold"] == 2
    chosen = evaluation.queries[fold][["vote", "neighbours", "temperature", "flip", "threshold"]].drop_duplicates()
    assert len(chosen) == 1
    swapped = photographs["individuals"].copy()
    rows = evaluation.queries[fold & evaluation.queries["known"]]["image"].str[:5].astype(int).to_numpy()
    others = np.char.replace(swapped[rows], "w_0", "w_x")
    swapped[rows] = others  # other answers in the fold: what was chosen for it stays
    again = evaluate(settings=settings, objective="map@5", **(photographs | {"individuals": swapped}))
    assert again.queries["fold"].tolist() == evaluation.queries["fold"].tolist()
    again_chosen = again.queries[fold][["vote", "neighbours", "temperature", "flip", "threshold"]].drop_duplicates()
    assert again_chosen.equals(chosen)
    assert not again.queries[fold]["known"].any()


def test_pooled_scores_are_the_means_of_the_query_table():
    evaluation = evaluate(settings=distinct_settings(**MANY), **draw(spread=1.5))
    queries = evaluation.queries
    known = queries[queries["known"]]
    for cutoff in CUTOFFS:
        assert evaluation.scores[f"recall@{cutoff}"] == pytest.approx(known["rank"].between(1, cutoff).mean())
        images = known["image_rank"].between(1, cutoff).mean()
        assert evaluation.scores[f"image_recall@{cutoff}"] == pytest.approx(images)
    assert evaluation.scores["map@5"] == pytest.approx(queries["average_precision@5"].mean())
    right = queries["nearest_individual"] == queries["individual"]
    assert right.equals(queries["rank"] == 1)


def test_every_score_lies_in_its_interval_and_between_chance_and_ceiling():
    scores = evaluate(settings=[NEAREST], **draw(spread=1.5)).scores
    for name in ("recall@1", "recall@8", "image_recall@4", "map@5"):
        assert scores[f"{name}_low"] < scores[name] < scores[f"{name}_high"]
        assert scores[f"chance/{name}"] < scores[name] <= scores[f"ceiling/{name}"]


def test_chance_is_what_random_vectors_score():
    photographs = draw(individuals=20, new=0.0, spread=0.0, val=40)
    photographs["views"] = {"plain": np.random.default_rng(5).normal(size=(len(photographs["parts"]), 64))}
    scores = evaluate(settings=[NEAREST], **photographs).scores
    for name in ("recall@1", "recall@8", "image_recall@4", "image_recall@16", "map@5"):
        assert scores[name] == pytest.approx(scores[f"chance/{name}"], abs=0.05)


def test_the_same_input_gives_the_same_figures():
    first, second = (evaluate(settings=distinct_settings(**MANY), **draw()) for _ in range(2))
    assert first.scores == second.scores
    assert first.queries.equals(second.queries)


def test_study_recall_searches_the_other_validation_images():
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [1.0, 0.01]])
    scores = study_recall(
        vectors,
        individuals=np.array(["w_a", "new_whale", "w_b", "new_whale", "w_a"]),
        parts=np.array(["val", "val", "val", "val", "train"]),
    )
    assert scores["study_recall@1"] == 0.0
    assert scores["study_recall@2"] == 0.5  # each new_whale image finds the other one, w_a and w_b are alone
    assert scores["study_recall@32"] == 0.5


def test_study_recall_of_identical_images_never_counts_the_query_itself():
    names = np.array([f"w_{place // 2}" for place in range(100)])
    scores = study_recall(np.ones((100, 4)), individuals=names, parts=np.full(100, "val"))
    assert 0.0 < scores["study_recall@1"] <= 0.05
    assert study_recall(np.ones((1, 4)), individuals=names[:1], parts=np.array(["val"]))["study_recall@1"] == 0.0
    assert study_recall(np.ones((1, 4)), individuals=names[:1], parts=np.array(["train"]))["study_recall@1"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "recall@3"}, r"an objective is one of recall@1, .*but got 'recall@3'"),
        ({"settings": []}, "at least one retrieval setting"),
        ({"settings": [RetrievalSetting(flip="average")], "views": {"plain": np.zeros((180, 2))}}, "needs the views"),
    ],
)
def test_invalid_input_of_the_evaluation_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        evaluate(**({"settings": [NEAREST]} | draw() | options))


def test_queries_of_several_splits_are_searched_in_their_own_galleries_and_scored_together() -> None:
    random = np.random.default_rng(3)
    individuals = np.array([f"w_{number % 10}" for number in range(40)] + ["new_whale"] * 10)
    vectors = random.normal(size=(50, 8)).astype(np.float16)
    images = np.array([f"{row}.jpg" for row in range(50)])
    folds = np.arange(50) // 5 % 2
    parts = [np.where(folds == split, "val", "train") for split in range(2)]
    settings = [RetrievalSetting()]
    options: dict[str, Any] = {"settings": settings, "unknown_label": "new_whale"}
    both = evaluate(
        {"plain": np.concatenate([vectors, vectors])},
        individuals=np.tile(individuals, 2),
        parts=np.concatenate(parts),
        images=np.tile(images, 2),
        splits=np.repeat([0, 1], 50),
        **options,
    )
    alone = [
        evaluate({"plain": vectors}, individuals=individuals, parts=part, images=images, **options) for part in parts
    ]
    assert sorted(both.queries["image"]) == sorted(images)
    columns = ["image", "known", "rank", "nearest_image", "nearest_individual", "cosine"]
    expected = pd.concat([one.queries[columns] for one in alone], ignore_index=True)
    pd.testing.assert_frame_equal(both.queries[columns], expected)
    assert both.scores["known_queries"] == sum(one.scores["known_queries"] for one in alone)


def test_no_photograph_at_all_gives_a_reason_and_no_number() -> None:
    nothing = np.array([], dtype=str)
    found = evaluate(
        {"plain": np.zeros((0, 8), dtype=np.float16)},
        individuals=nothing,
        parts=nothing,
        images=nothing,
        settings=[RetrievalSetting()],
        unknown_label="new_whale",
    )
    assert found.scores["recall@1"] is None
    assert "no query" in found.scores["reason"]
