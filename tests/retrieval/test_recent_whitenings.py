"""Whitenings that a process needs again are kept, give the same vectors, and are bounded."""

from __future__ import annotations

import numpy as np
import pytest

from whale_ray.retrieval import transformed_vectors
from whale_ray.retrieval.recent_whitenings import RECENT_WHITENINGS
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.retrieval.search.retrieval_settings import VectorTransform
from whale_ray.retrieval.search.whitening import Whitening, fit_whitening
from whale_ray.retrieval.transformed_vectors import TransformedVectors

SHORT = VectorTransform(whiten="learned", whitened_size=8)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of vectors of each fit."""
    found: list[int] = []

    def counted(vectors: np.ndarray, individuals: np.ndarray, **options: str) -> Whitening:
        found.append(len(vectors))
        return fit_whitening(vectors, individuals, **options)

    monkeypatch.setattr(transformed_vectors, "fit_whitening", counted)
    return found


def photographs(*, seed: int = 0, wide: bool = True) -> TransformedVectors:
    random = np.random.default_rng(seed)
    vectors = normalize_rows(random.normal(size=(30, 40 if wide else 16))).astype(np.float16)
    names, parts = np.repeat([f"w_{place}" for place in range(10)], 3), np.array(["train"] * 24 + ["val"] * 6)
    return TransformedVectors({"plain": vectors}, individuals=names, parts=parts, unknown_label="new_whale")


@pytest.mark.parametrize("wide", [True, False])
def test_the_same_whitening_is_fitted_once_and_gives_equal_vectors(wide: bool, fits: list[int]) -> None:
    expected = photographs(wide=wide).seen(SHORT)
    with RECENT_WHITENINGS.keeping():
        first, second = (photographs(wide=wide).seen(SHORT) for _ in range(2))
    assert len(fits) == 2
    assert np.array_equal(first, expected)
    assert np.array_equal(second, expected)


def test_other_vectors_or_another_size_are_fitted_for_themselves(fits: list[int]) -> None:
    with RECENT_WHITENINGS.keeping():
        first = photographs()
        assert first.seen(SHORT).shape == (30, 8)
        assert first.seen(VectorTransform(whiten="learned", whitened_size=4)).shape == (30, 4)
        assert not np.array_equal(photographs(seed=1).seen(SHORT), first.seen(SHORT))
    assert len(fits) == 2  # the sizes of one set of vectors share a fit


def test_no_whitening_is_kept_outside_the_block_nor_beyond_the_limit(fits: list[int]) -> None:
    photographs().seen(SHORT)
    with RECENT_WHITENINGS.keeping(most_bytes=40 * 8 * 8):
        for seed in (0, 1, 1, 0):
            photographs(seed=seed).seen(SHORT)
    photographs().seen(SHORT)
    assert len(fits) == 5
