"""Evidence by shortlist: scores, ranges, repeated comparisons and the size of shortlists."""

from __future__ import annotations

import numpy as np
import pytest
from pictures import store_of_animals

from whale_ray.retrieval.local import shortlists
from whale_ray.retrieval.local.evidence import gather_evidence
from whale_ray.retrieval.local.local_index import LocalIndex
from whale_ray.retrieval.local.shortlists import ShortlistComparison, compare_shortlists, shortlist_size

NAMES = np.array(["a", "b", "c", "c"])
ALL = np.arange(2)


def test_a_shortlist_gives_the_scores_of_a_gallery_of_these_photographs() -> None:
    store = store_of_animals()
    found = ShortlistComparison(store, [4, 5], range(4), NAMES).compare(np.array([[2, 0, -1], [0, 1, 3]]))
    assert found.positions.tolist() == [[0, 2, -1], [0, 1, 3]]
    evidence, part = found.of_queries(ALL), gather_evidence(store, [4], [0, 2], NAMES[[0, 2]])
    np.testing.assert_array_equal(evidence.scores[0], [part.scores[0, 0], 0, part.scores[0, 1], 0])
    np.testing.assert_array_equal(
        evidence.individual_scores[0], [part.individual_scores[0, 0], 0, part.individual_scores[0, 1]]
    )
    assert evidence.inliers[0, 2] == part.inliers[0, 1] > 0


def test_a_shortlist_of_all_photographs_gives_the_evidence_of_the_whole_gallery() -> None:
    store = store_of_animals()
    found = ShortlistComparison(store, [4, 5], range(4), NAMES).compare(np.tile(np.arange(4), (2, 1)))
    whole = gather_evidence(store, [4, 5], range(4), NAMES)
    for rows in (ALL, ALL[1:]):
        for name in ("scores", "individual_scores", "inliers", "names"):
            expected = getattr(whole.of_queries(rows), name)
            np.testing.assert_array_equal(getattr(found.of_queries(rows), name), expected)


def test_one_query_alone_has_the_same_evidence() -> None:
    store, shortlist = store_of_animals(), np.array([[3, 2], [1, 0], [2, 3]])
    index = LocalIndex(store.subset(range(4)), NAMES)
    together = compare_shortlists([store.of(row) for row in (4, 5, 6)], index, shortlist).of_queries(np.arange(3))
    for query in range(3):
        alone = compare_shortlists([store.of(4 + query)], index, shortlist[[query]]).of_queries(ALL[:1])
        np.testing.assert_array_equal(alone.scores[0], together.scores[query])
        np.testing.assert_array_equal(alone.inliers[0], together.inliers[query])
    assert not together.scores[2].any()


def test_photographs_that_were_left_out_have_no_score() -> None:
    store = store_of_animals()
    index = LocalIndex(store.subset(range(4)), NAMES).without([2])
    evidence = compare_shortlists([store.of(4)], index, np.array([[0, 1, 2, 3]])).of_queries(ALL[:1])
    rest = gather_evidence(store, [4], [0, 1, 3], NAMES[[0, 1, 3]])
    np.testing.assert_array_equal(evidence.scores[0], np.insert(rest.scores[0], 2, 0))


@pytest.mark.parametrize("queries", [0, 1])
def test_no_queries_and_no_gallery_have_evidence_without_cells(queries: int) -> None:
    comparison = ShortlistComparison(store_of_animals(), [4] * queries, [], [])
    evidence = comparison.compare(np.full((queries, 3), -1)).of_queries(np.arange(queries))
    assert evidence.scores.shape == evidence.inliers.shape == evidence.individual_scores.shape == (queries, 0)


def test_the_same_shortlists_are_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    monkeypatch.setattr(
        shortlists,
        "compare_shortlists",
        lambda *parts, **options: compared.append(1) or compare_shortlists(*parts, **options),
    )
    comparison = ShortlistComparison(store_of_animals(), [4, 5], range(4), NAMES)
    first = comparison.compare(np.array([[2, 0], [0, 1]]))
    assert comparison.compare(np.array([[2, 0], [0, 1]], dtype=np.int32)) is first
    assert comparison.compare(np.array([[2, 0], [0, 3]])) is not first
    assert len(compared) == 2


def test_only_large_galleries_have_shortlists() -> None:
    assert shortlist_size(shortlists.WHOLE_GALLERY_UP_TO) == 0
    assert shortlist_size(shortlists.WHOLE_GALLERY_UP_TO + 1) == shortlists.SHORTLIST
