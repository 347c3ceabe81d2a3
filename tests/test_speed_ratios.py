"""Ratios of processor time that a change must not spoil: the rows of `make bench` that take seconds, with wide margins.

Both sides run in alternation on one thread, and the best of several pairs counts: other load slows a pair, and never
makes it better than it is.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from threadpoolctl import threadpool_limits

from whale_ray.data.catalog import read_catalog
from whale_ray.data.image_io import Geometry
from whale_ray.data.pixel_cache import decode_images
from whale_ray.inference.predictions import Gallery, RankedAnswers
from whale_ray.retrieval.evaluation.evaluate import Evaluation, RetrievalSetting, distinct_settings, evaluate
from whale_ray.retrieval.search.gallery_index import GalleryIndex, normalize_rows
from whale_ray.retrieval.search.nearest_images.inverted_lists import InvertedLists
from whale_ray.retrieval.search.neighbor_search import find_neighbors
from whale_ray.retrieval.search.pools import PooledSearcher

pytestmark = pytest.mark.slow
SIZE = 256
MANY = distinct_settings(
    vote=["nearest", "majority", "softmax", "centroid"],
    neighbours=[1, 2, 3, 5, 8, 10, 15, 20, 25],
    temperature=[0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2],
    flip=["none"],
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


def best_ratio(first: Callable[[], object], second: Callable[[], object], *, pairs: int = 4) -> float:
    """Return the smallest ratio of the processor time of two functions, after one call of each."""
    first(), second()
    return min(_seconds(first) / _seconds(second) for _ in range(pairs))


def _seconds(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def embeddings(count: int, individuals: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    codes = random.integers(0, individuals, count)
    directions = random.standard_normal((individuals, SIZE), dtype=np.float32)
    return normalize_rows(directions[codes] + random.standard_normal((count, SIZE), dtype=np.float32)), codes


def evaluated(count: int, gallery: int, settings: list[RetrievalSetting]) -> Callable[[], Evaluation]:
    vectors, codes = embeddings(count, count // 4)
    return lambda: evaluate(
        {"plain": vectors.astype(np.float16)},
        individuals=np.char.add("w", codes.astype(str)),
        parts=np.where(np.arange(count) < gallery, "train", "val"),
        images=np.arange(count).astype(str),
        settings=settings,
        unknown_label="new",
    )


def test_an_evaluation_takes_few_times_the_matrix_product() -> None:
    """Measured 2.9 here, and 2.4 for 8,000 x 17,000 x 512."""
    vectors, _ = embeddings(9_000, 2_000)
    whole = evaluated(9_000, 6_000, [RetrievalSetting()])
    assert best_ratio(whole, lambda: vectors[6_000:] @ vectors[:6_000].T) < 16


def test_many_settings_take_few_times_one_setting() -> None:
    """Measured 1.6: 60 times faster than one evaluation for each."""
    few, many = (evaluated(2_000, 1_500, settings) for settings in ([MANY[50]], MANY))
    assert best_ratio(many, few) < len(MANY) / 8


def test_the_pixel_cache_takes_little_more_than_decoding_and_resizing(tmp_path: Path) -> None:
    """Measured 1.3, and 0.9 for photographs with more detail."""
    root, geometry, number = tmp_path / "data", Geometry(224, 224), itertools.count()
    (root / "train").mkdir(parents=True)
    random = np.random.default_rng(0)
    names = [f"{row}.jpg" for row in range(12)]
    for name in names:
        coarse = Image.fromarray(random.integers(0, 256, (30, 52, 3), dtype=np.uint8))
        coarse.resize((1050, 600), Image.Resampling.BICUBIC).save(root / "train" / name)
    (root / "train.csv").write_text("Image,Id\n" + "".join(f"{name},w_1\n" for name in names))
    catalog = read_catalog(root)

    def cached() -> None:
        decode_images(catalog, geometry, cache=tmp_path / f"cache{next(number)}", workers=1)

    def bare() -> None:
        for name in names:
            with Image.open(root / "train" / name) as image:
                image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC, reducing_gap=3.0)

    assert best_ratio(cached, bare) < 4


def test_inverted_lists_are_faster_than_exact_search_for_one_query() -> None:
    """Measured 5 here, and 11 at 50,000 images of 512 dimensions."""
    vectors, codes = embeddings(30_000, 3_000)
    names = np.char.add("w", codes.astype(str))
    exact, index = (GalleryIndex(vectors, names, ready=True) for _ in range(2))
    index.lists = InvertedLists(index.vectors)
    calls = [vectors[row : row + 1] for row in range(0, 40, 2)]

    def search(gallery: GalleryIndex) -> None:
        for query in calls:
            find_neighbors(query, gallery, individuals=10, neighbours=10, by_lists=True)

    assert best_ratio(lambda: search(index), lambda: search(exact)) < 0.9


def answers_of(images: int) -> Callable[[], None]:
    """A call that reads ranked answers of a gallery with as many images, in which nothing is searched any more."""
    vectors = normalize_rows(np.random.default_rng(0).standard_normal((images, 4), dtype=np.float32))
    names = [f"w{row // 4}" for row in range(images)]
    searcher = PooledSearcher(vectors, np.array(names), ready=True)
    found = searcher.rank(vectors[:20], RetrievalSetting(), first=5, individuals=5)
    unknown = np.full((20, found.ranking.individuals.shape[1]), np.nan)
    answers = RankedAnswers(found, unknown, unknown[:, 0], Gallery(names, names, searcher), top=5)

    def read() -> None:
        for query in range(20):
            answers.read(query, threshold=0.5)

    return read


def test_an_answer_does_not_go_through_the_whole_gallery() -> None:
    """Measured 1.0; 31 when each answer looked for viewpoints in all images."""
    assert best_ratio(answers_of(60_000), answers_of(600)) < 5
