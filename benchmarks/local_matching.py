"""Benchmark of keypoint matching: bytes, memory and milliseconds by the number of gallery photographs.

python benchmarks/local_matching.py PHOTOS [--sizes 1000 17000 100000] [--queries 10]

PHOTOS is a data set in one of the formats of `whale-ray audit`. Extraction and verification are timed on its
photographs. Galleries are drawn from its descriptors: each drawn descriptor is a real one with noise of half the
distance to a real neighbor, so that the clusters of real descriptors stay. Above 20,000 photographs a
shortlist of 100 is searched and no index is built. One thread; CPU time, for the machine may be shared.
"""

from __future__ import annotations

import paired_timing  # isort: skip  # noqa: F401  # sets one thread; must precede NumPy
import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from whale_ray.data.catalog import Catalog, read_catalog
from whale_ray.retrieval.local.evidence import compare_features
from whale_ray.retrieval.local.feature_store import LocalFeatureStore, join_features
from whale_ray.retrieval.local.local_features import LOCAL_KINDS, LocalFeatures, extract_features, local_picture
from whale_ray.retrieval.local.local_index import LocalIndex
from whale_ray.retrieval.local.shortlists import SHORTLIST, compare_shortlists, shortlist_size
from whale_ray.retrieval.local.verification import verify
from whale_ray.retrieval.search.exact_search import use_threads


def milliseconds(function: Callable[[], object], calls: int) -> float:
    """Return the CPU milliseconds of one of the calls that a function makes."""
    start = time.process_time()
    function()
    return (time.process_time() - start) * 1000 / max(calls, 1)


def extract(catalog: Catalog, kind: str, count: int) -> LocalFeatureStore:
    """Extract the features of some photographs and print their cost."""
    names = catalog.table["image"].sample(min(count, len(catalog.table)), random_state=0).tolist()
    pictures = [local_picture(catalog.decode(name), box=catalog.box(name)) for name in names]
    features: list[LocalFeatures] = []
    spent = milliseconds(lambda: features.extend(extract_features(one, kind) for one in pictures), len(pictures))
    store = join_features(features, kind)
    chosen = [row for row in range(len(store)) if store.counts[row]]
    couples = [(store.of(first), store.of(second)) for first, second in zip(chosen[::2], chosen[1::2], strict=False)]
    pair = milliseconds(lambda: [verify(*couple) for couple in couples], len(couples))
    print(f"\n{kind}: {store.counts.mean():.0f} keypoints and {store.nbytes / len(store):,.0f} bytes per photograph, ")
    print(f"{spent:.1f} ms per photograph, {pair:.2f} ms per verified pair")
    return store


def draw_gallery(store: LocalFeatureStore, size: int, numbers: np.random.Generator) -> LocalFeatureStore:
    """Return features of `size` drawn photographs with the keypoint counts of real ones."""
    rows = numbers.integers(0, len(store), size)
    drawn = store.subset(rows)
    for start in range(0, len(drawn.descriptors), 2**20):
        part = drawn.descriptors[start : start + 2**20]
        others = store.descriptors[numbers.integers(0, len(store.descriptors), len(part))]
        mixed = np.float32(0.75) * part + np.float32(0.25) * others
        lengths, mixed_lengths = (np.sqrt(np.einsum("kd,kd->k", one, one)) for one in (part.astype(np.float32), mixed))
        mixed *= (lengths / np.maximum(mixed_lengths, 1))[:, None]
        part[:] = np.rint(mixed).clip(0, 255)
    return drawn


def memory() -> float:
    """Return the memory of this process, in GiB."""
    return float(psutil.Process().memory_info().rss) / 2**30


def search(store: LocalFeatureStore, size: int, queries: int) -> None:
    """Print the cost of an index of one size and of queries against it."""
    numbers = np.random.default_rng(0)
    gallery = draw_gallery(store, size, numbers)
    names = np.char.add("w", (np.arange(size) // 5).astype(str))
    asked = [store.of(int(row)) for row in numbers.permutation(len(store))[:queries]]
    whole = not shortlist_size(size)
    before = memory()
    index = LocalIndex(gallery, names)
    build = milliseconds(index.prepare if whole else lambda: None, 1) / 1000
    after = memory()
    shortlist = numbers.integers(0, size, (queries, SHORTLIST))

    def ask() -> None:
        for row, query in enumerate(asked):
            if whole:
                compare_features([query], index, verified=0)
            else:
                compare_shortlists([query], index, shortlist[row : row + 1], verified=0)

    spent = milliseconds(ask, queries)
    way = "whole gallery" if whole else f"shortlist of {SHORTLIST}"
    print(
        f"| {size:,} | {len(gallery.descriptors) / 1e6:.2f} | {gallery.nbytes / 2**30:.2f} | {after - before:.2f} "
        f"| {build:.1f} | {way} | {spent:.0f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 17_000, 100_000])
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--photographs", type=int, default=200)
    options = parser.parse_args()
    import cv2

    cv2.setNumThreads(1)
    use_threads(1)
    catalog = read_catalog(options.photos)
    stores = {kind: extract(catalog, kind, options.photographs) for kind in LOCAL_KINDS}
    print(
        "\n| gallery photographs | million keypoints | features, GiB | index, GiB | build, s | search | ms per query |"
    )
    print("|---|---|---|---|---|---|---|")
    for size in options.sizes:
        search(stores["sift"], size, options.queries)


if __name__ == "__main__":
    main()
