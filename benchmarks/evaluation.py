"""Benchmark of evaluation: neighbours, votes, all scores and intervals against the bare matrix product.

Gallery and queries of the competition's size are drawn. The second comparison is pytorch-metric-learning's
AccuracyCalculator, which returns precision@1, MAP@R and R-precision only. The memory row runs in a process of its own.
"""

from __future__ import annotations

import paired_timing  # isort: skip  # sets one thread; must precede NumPy and torch
import resource
import subprocess
import sys
from collections.abc import Callable
from statistics import median
from typing import Annotated

import numpy as np
import typer

from whale_ray.device import keep_freed_memory
from whale_ray.retrieval.evaluation.evaluate import RetrievalSetting, evaluate
from whale_ray.retrieval.search.gallery_index import GalleryIndex, normalize_rows
from whale_ray.retrieval.search.neighbor_search import find_neighbors

GALLERY, QUERIES, SIZE, INDIVIDUALS = 17_000, 8_000, 512, 5_000
PRODUCT_GOAL, LIBRARY_GOAL, MEMORY_GOAL = 1.5, 1.0, 2.0
PRODUCT_OBSTACLE = (
    "Products with the means of encounters (1.3 of the bare product) and exact cosines in float64 (0.7) alone are more "
    "than the goal; neighbors, votes and intervals come on top."
)
LIBRARY_OBSTACLE = "All scores with intervals are computed, the calculator's three without."
NOISE = 1.5  # of an embedding, beside its individual's direction of length 1 in each dimension


def draw(count: int, individuals: int) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings, float16, shape (N, D), and the individual of each."""
    random = np.random.default_rng(0)
    directions = random.standard_normal((individuals, SIZE), dtype=np.float32)
    codes = random.integers(0, individuals, count)
    vectors = directions[codes] + NOISE * random.standard_normal((count, SIZE), dtype=np.float32)
    return normalize_rows(vectors).astype(np.float16), codes


def whole_evaluation(vectors: np.ndarray, codes: np.ndarray, gallery: int) -> Callable[[], object]:
    """Return a function that computes every score of one retrieval setting, with intervals."""
    parts = np.where(np.arange(len(codes)) < gallery, "train", "val")
    names, images = (
        np.array([f"{kind}{code}" for code in each]) for kind, each in (("w", codes), ("i", range(len(codes))))
    )
    return lambda: evaluate(
        {"plain": vectors},
        individuals=names,
        parts=parts,
        images=images,
        settings=[RetrievalSetting()],
        unknown_label="new",
    )


def library(vectors: np.ndarray, codes: np.ndarray, gallery: int) -> Callable[[], object]:
    """Return a function that computes three scores by pytorch-metric-learning, exactly, on the same threads."""
    import torch
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    torch.set_num_threads(paired_timing.THREADS)
    calculator = AccuracyCalculator(include=("precision_at_1", "mean_average_precision_at_r", "r_precision"), k=50)
    unit, labels = torch.from_numpy(vectors.astype(np.float32)), torch.from_numpy(codes)
    return lambda: calculator.get_accuracy(unit[gallery:], labels[gallery:], unit[:gallery], labels[:gallery])


def memory_ratio(count: int) -> float:
    """Return the growth of this process in a search of `count` queries among as many, divided by the embeddings."""
    random = np.random.default_rng(0)
    vectors = np.empty((2 * count, SIZE), dtype=np.float32)
    for rows in np.array_split(vectors, 2 * count // 1000 + 1):  # in parts, so that drawing has no peak of its own
        rows[:] = normalize_rows(random.standard_normal(rows.shape, dtype=np.float32))
    labels = random.integers(0, count // 3, count).astype(str)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    index = GalleryIndex(vectors[:count], labels, ready=True)
    find_neighbors(vectors[count:], index, individuals=50, neighbours=32)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return (vectors.nbytes + grown) / vectors.nbytes


def main(
    rounds: Annotated[int, typer.Option(help="Rounds, in alternation.", min=1)] = 5,
    scale: Annotated[float, typer.Option(help="Share of the competition's size.", min=0.01, max=1.0)] = 1.0,
    memory: Annotated[int, typer.Option(help="Gallery and queries of the memory row; 0: without.", min=0)] = 100_000,
    only_memory: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Print the seconds of an evaluation divided by those of the bare product; minutes on one thread."""
    if only_memory:
        print(memory_ratio(memory))
        return
    keep_freed_memory()  # as a trial does
    gallery, queries = round(GALLERY * scale), round(QUERIES * scale)
    vectors, codes = draw(gallery + queries, round(INDIVIDUALS * scale))
    full = vectors.astype(np.float32)
    evaluated = whole_evaluation(vectors, codes, gallery)
    product = paired_timing.take_turns(evaluated, lambda: full[gallery:] @ full[:gallery].T, rounds=rounds)
    beside = paired_timing.take_turns(evaluated, library(vectors, codes, gallery), rounds=rounds)
    size = f"{queries} x {gallery} x {SIZE}"
    rows = [
        ["neighbours, votes, scores, intervals", size, f"{median(product.first):.2f}"],
        ["bare matrix product", size, f"{median(product.second):.2f}"],
        ["AccuracyCalculator", size, f"{median(beside.second):.2f}"],
    ]
    paired_timing.print_table(["case", "queries x gallery x D", "seconds"], rows)
    for other, ratio, goal, obstacle in (
        ("bare matrix product", product.ratio, PRODUCT_GOAL, PRODUCT_OBSTACLE),
        ("AccuracyCalculator", beside.ratio, LIBRARY_GOAL, LIBRARY_OBSTACLE),
    ):
        paired_timing.print_verdict(f"evaluation / {other}, {size}", ratio, at_most=goal, obstacle=obstacle)
    if memory:
        command = [sys.executable, __file__, "--only-memory", "--memory", str(memory)]
        ratio = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        paired_timing.print_verdict(
            f"memory of embeddings and search / embeddings, {memory} x {memory} x {SIZE}", ratio, at_most=MEMORY_GOAL
        )


if __name__ == "__main__":
    typer.run(main)
