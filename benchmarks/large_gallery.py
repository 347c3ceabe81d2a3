"""Benchmark of search in a large gallery: inverted lists with exact cosines against faiss's exact flat index.

Vectors are drawn with the spectrum of trained embeddings (variance falls with the power 1.2 of the direction's number),
ten images of each individual. Service calls bring one or a few queries; the flat index takes a matrix product from
twenty queries on.
"""

from __future__ import annotations

import paired_timing  # isort: skip  # sets one thread; must precede NumPy
import time
from functools import partial
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer

from whale_ray.device import keep_freed_memory
from whale_ray.retrieval.search.gallery_index import GalleryIndex, normalize_rows
from whale_ray.retrieval.search.nearest_images.inverted_lists import InvertedLists
from whale_ray.retrieval.search.neighbor_search import find_neighbors

SIZE, IMAGES_PER_INDIVIDUAL = 512, 10
DECAY = 0.6  # of the deviation
QUERIES, NEAREST = 256, 10
SPEED_GOAL, RECALL_GOAL = 10.0, 0.99
SPEED_OBSTACLE = (
    "The flat index takes one matrix product for a batch, which is fast on this processor; vectors that spread far "
    "need many lists for this recall, and a gallery below 200,000 images has less to leave out."
)


def draw(images: int, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return unit vectors of a gallery, the name of each, and unit vectors of queries.

    Args:
        images: Number of gallery images.
        spread: Deviation within an individual, of that between individuals.
    """
    random, scale = np.random.default_rng(0), np.arange(1, SIZE + 1, dtype=np.float32) ** -DECAY
    individuals = images // IMAGES_PER_INDIVIDUAL
    centers = random.standard_normal((individuals, SIZE), dtype=np.float32)
    codes = random.integers(0, individuals, images + QUERIES)
    vectors = np.empty((len(codes), SIZE), dtype=np.float32)
    for rows in np.array_split(np.arange(len(codes)), 1 + len(codes) // 10_000):
        noise = random.standard_normal((len(rows), SIZE), dtype=np.float32)
        vectors[rows] = normalize_rows((centers[codes[rows]] + spread * noise) * scale)
    return vectors[:images], np.char.add("w", codes[:images].astype(str)), vectors[images:]


def measure(images: int, spread: float, *, rounds: int) -> list[str]:
    """Print the verdicts of one gallery and return its row of the table.

    Args:
        images: Number of gallery images.
        spread: As in `draw`.
        rounds: Rounds of each measurement, in alternation.
    """
    import faiss

    vectors, names, queries = draw(images, spread)
    index = GalleryIndex(vectors, names, ready=True)
    flat = faiss.IndexFlatIP(SIZE)
    flat.add(index.vectors)
    started = time.perf_counter()
    index.lists = lists = InvertedLists(index.vectors)
    made = time.perf_counter() - started
    wanted = flat.search(queries, NEAREST)[1]
    search = partial(find_neighbors, index=index, individuals=NEAREST, neighbours=NEAREST, by_lists=True)
    found = search(queries).indices
    recall = float((index.rows[wanted][:, :, None] == found[:, None, :]).any(axis=2).mean())
    name = f"{images:,} x {SIZE}, spread {spread:g}"
    row = [name, f"{lists.recall:.4f}", f"{made:.0f}", f"{lists.nbytes / index.vectors.nbytes:.3f}", f"{recall:.4f}"]
    for at_once in (1, 32, QUERIES):
        pair = paired_timing.take_turns(
            partial(_in_calls, lambda part: flat.search(part, NEAREST), queries, at_once),
            partial(_in_calls, search, queries, at_once),
            rounds=rounds,
        )
        row += [f"{1000 * median(side) / _asked(at_once):.2f}" for side in (pair.first, pair.second)]
        text = f"exact flat / inverted lists, {name}, {at_once} at a time"
        paired_timing.print_verdict(text, pair.ratio, at_least=SPEED_GOAL, obstacle=SPEED_OBSTACLE)
    paired_timing.print_verdict(f"recall@{NEAREST} of exact search, {name}", recall, at_least=RECALL_GOAL)
    return row


def _asked(at_once: int) -> int:
    return min(QUERIES, 16 * at_once)


def _in_calls(search: Any, queries: np.ndarray, at_once: int) -> None:
    for start in range(0, _asked(at_once), at_once):
        search(queries[start : start + at_once])


def main(
    rounds: Annotated[int, typer.Option(help="Rounds, in alternation.", min=1)] = 3,
    images: Annotated[int, typer.Option(help="Gallery images.", min=10_000)] = 200_000,
) -> None:
    """Print the time of exact search divided by that with inverted lists; about five minutes on one thread."""
    keep_freed_memory()
    rows = [measure(images, spread, rounds=rounds) for spread in (0.3, 0.7)]
    head = ["gallery", "measured recall", "s to make", "memory / vectors", f"recall@{NEAREST}"]
    head += [f"{name} ms, {count}" for count in (1, 32, QUERIES) for name in ("flat", "lists")]
    paired_timing.print_table(head, rows)


if __name__ == "__main__":
    typer.run(main)
