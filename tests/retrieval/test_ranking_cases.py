"""Hand-checked cases of the definitions: rankings by name, scores to 1e-6."""

import json
from pathlib import Path

import numpy as np
import pytest

from whale_ray.retrieval.evaluation.evaluate import RetrievalSetting, score_setting
from whale_ray.retrieval.evaluation.metrics import average_precisions, find_ranks
from whale_ray.retrieval.evaluation.score_names import CUTOFFS
from whale_ray.retrieval.search.searcher import GallerySearcher

CASES = json.loads((Path(__file__).parent / "ranking_cases.json").read_text())["cases"]
pytestmark = pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))


def rank(case):
    matcher = GallerySearcher(np.array(case["gallery"]), np.array(case["gallery_labels"]))
    setting = RetrievalSetting(**{key: case[key] for key in ("vote", "neighbours", "temperature")})
    return matcher.index, matcher.rank(np.array(case["queries"]), setting)


def test_there_are_cases(case):
    assert len(CASES) > 10


def test_individuals_are_ranked_as_the_case_says(case):
    index, ranking = rank(case)
    assert [index.names[row[row >= 0]].tolist() for row in ranking.individuals] == case["expected"]["ranking"]


def test_map_at_5_is_as_the_case_says(case):
    index, ranking = rank(case)
    labels = np.array(case["query_labels"])
    ranks = find_ranks(ranking.individuals, index.codes_of(labels))
    found = average_precisions(ranking.cosines, ranks, labels == "new_whale", threshold=case["threshold"])
    assert found.mean() == pytest.approx(case["expected"]["map@5"], abs=1e-6)


def test_recalls_are_as_the_case_says(case):
    labels = case["gallery_labels"] + case["query_labels"]
    scores = score_setting(
        {"plain": np.array(case["gallery"] + case["queries"])},
        setting=RetrievalSetting(case["vote"], case["neighbours"], case["temperature"]),
        individuals=np.array(labels),
        parts=np.array(["train"] * len(case["gallery"]) + ["val"] * len(case["queries"])),
        unknown_label="new_whale",
    )
    for cutoff in CUTOFFS:
        for name in (f"recall@{cutoff}", f"image_recall@{cutoff}"):
            assert scores[name] == pytest.approx(case["expected"][name], abs=1e-6)
