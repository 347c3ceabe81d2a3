"""Evidence of queries against a whole gallery, and its cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pictures import store_of_animals

from whale_ray.errors import DataError
from whale_ray.retrieval.local import evidence_files
from whale_ray.retrieval.local.evidence import compare_features, gather_evidence
from whale_ray.retrieval.local.evidence_files import cached_evidence
from whale_ray.retrieval.local.local_index import LocalIndex
from whale_ray.retrieval.local.verification import verify

NAMES = np.array(["a", "b", "c", "c"])


def test_evidence_holds_scores_of_the_index_and_inliers_of_leading_photographs() -> None:
    store, calls = store_of_animals(), []
    evidence = gather_evidence(store, [4, 5, 6], range(4), NAMES, verified=2, on_batch=lambda: calls.append(1))
    index = LocalIndex(store.subset(range(4)), NAMES)
    assert evidence.names.tolist() == ["a", "b", "c"]
    assert evidence.scores.shape == evidence.inliers.shape == (3, 4)
    assert evidence.scores.argmax(axis=1)[:2].tolist() == [2, 0]
    np.testing.assert_array_equal(evidence.scores[1], index.image_scores(store.of(5)))
    np.testing.assert_array_equal(evidence.individual_scores[0], index.individual_scores(store.of(4)))
    assert evidence.inliers[0, 2] == verify(store.of(4), store.of(2)).inliers
    leading = np.argsort(-evidence.scores[0], kind="stable")[:2]
    assert not evidence.inliers[0, ~np.isin(range(4), leading)].any()
    assert not evidence.scores[2].any()
    assert not evidence.inliers[2].any()
    assert calls


def test_one_query_alone_has_the_same_evidence() -> None:
    store = store_of_animals()
    together = gather_evidence(store, [4, 5], range(4), NAMES)
    alone = compare_features([store.of(5)], LocalIndex(store.subset(range(4)), NAMES))
    np.testing.assert_array_equal(alone.scores[0], together.scores[1])
    np.testing.assert_array_equal(alone.inliers[0], together.inliers[1])


def test_each_query_may_have_photographs_of_its_own() -> None:
    store = store_of_animals()
    allowed = np.array([[True, True, False, True], [True, True, True, True]])
    evidence = gather_evidence(store, [4, 5], range(4), NAMES, allowed=allowed)
    index = LocalIndex(store.subset(range(4)), NAMES)
    np.testing.assert_array_equal(evidence.scores[0], index.image_scores(store.of(4), allowed[0]))
    np.testing.assert_array_equal(evidence.scores[1], index.image_scores(store.of(5)))
    assert evidence.scores[0, 2] == evidence.inliers[0, 2] == 0


def test_no_queries_and_no_gallery_have_evidence_without_cells() -> None:
    store = store_of_animals()
    assert gather_evidence(store, [], range(4), NAMES).scores.shape == (0, 4)
    empty = gather_evidence(store, [4], [], [])
    assert empty.scores.shape == empty.inliers.shape == (1, 0)
    assert empty.individual_scores.shape == (1, 0)


def test_evidence_is_gathered_once_until_something_that_decides_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, gathered = store_of_animals(), []
    monkeypatch.setattr(
        evidence_files, "gather_evidence", lambda *args, **more: gathered.append(1) or gather_evidence(*args, **more)
    )
    objects = np.array(NAMES, dtype=object)
    first = cached_evidence(store, [4, 5], range(4), objects, cache=tmp_path)
    again = cached_evidence(store, np.array([4, 5]), np.arange(4), NAMES, cache=tmp_path)
    for name in ("scores", "individual_scores", "inliers", "names"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert len(gathered) == 1
    cached_evidence(store, [4], range(4), NAMES, cache=tmp_path)
    cached_evidence(store, [4, 5], range(3), NAMES[:3], cache=tmp_path)
    cached_evidence(store, [4, 5], range(4), NAMES[::-1], cache=tmp_path)
    cached_evidence(store, [4, 5], range(4), NAMES, verified=1, cache=tmp_path)
    cached_evidence(store, [4, 5], range(4), NAMES, allowed=np.eye(4, dtype=bool)[:2], cache=tmp_path)
    assert len(gathered) == 6
    for path in tmp_path.glob("*.npz"):
        path.write_bytes(path.read_bytes()[:50])
    cached_evidence(store, [4, 5], range(4), NAMES, cache=tmp_path)
    assert len(gathered) == 7


def test_an_evidence_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"can be written to, but .*file/cache"):
        cached_evidence(store_of_animals(), [4], range(4), NAMES, cache=tmp_path / "file" / "cache")
