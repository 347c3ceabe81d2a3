"""Benchmark of scoring: seconds for 202 retrieval settings against those of one training epoch, and of 202 evaluations.

Two sizes: 15,000 photographs with the class balance of the competition and 512 dimensions, against resnet18 at 224 px;
and the quickstart sweep, with 202 settings and with its own. Embeddings are drawn beforehand. The time of an epoch is
extrapolated from a measured number of steps.
"""

from __future__ import annotations

import paired_timing  # isort: skip  # sets one thread; must precede NumPy and torch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer

from whale_ray.data.batches import Batches
from whale_ray.data.image_io import Geometry
from whale_ray.data.split import parts_of, split_photographs
from whale_ray.data.synthetic.photo_plan import UNKNOWN, plan_photos
from whale_ray.device import keep_freed_memory
from whale_ray.learning.encoders.registry import build_encoder
from whale_ray.learning.losses.registry import build_loss
from whale_ray.learning.training.loop import start_training, train_epochs
from whale_ray.retrieval.evaluation.evaluate import RetrievalSetting, distinct_settings, evaluate
from whale_ray.sweep.config.sweep_spec import load_sweep
from whale_ray.sweep.config.value_kinds import image_size
from whale_ray.sweep.planning.trial_points import retrieval_settings

GOAL, SEPARATE_GOAL = 0.05, 50.0
OBSTACLE = (
    "The epoch of a small encoder on 700 photographs takes half a second to two; a setting costs calls of NumPy, which "
    "do not become fewer on less data."
)
SEPARATE_OBSTACLE = "Embeddings, searches and candidates are shared; votes and scores are computed for each setting."
QUICKSTART = Path(__file__).parents[1] / "sweeps" / "quickstart.yaml"
NOISE = 1.5  # of an embedding, beside its individual's direction of length 1 in each dimension
MANY = distinct_settings(
    vote=["nearest", "majority", "softmax", "centroid"],
    neighbours=[1, 2, 3, 5, 8, 10, 15, 20, 25],
    temperature=[0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2],
    flip=["none", "average"],
)


@dataclass(frozen=True)
class Case:
    """A data set, an encoder and the number of timed training steps."""

    name: str
    images: int
    individuals: int
    encoder: str
    size: tuple[int, int]
    batch: int
    embedding_size: int
    steps: int
    settings: Sequence[RetrievalSetting]


def cases() -> list[Case]:
    """Return the realistic case, then the encoders of the quickstart with many settings and with its own."""
    large = Case("15,000 photographs", 15_000, 2_960, "torchvision:resnet18", (224, 224), 32, 512, 3, MANY)
    sweep = load_sweep(QUICKSTART)
    small = partial(
        Case,
        images=700,
        individuals=60,
        size=image_size(sweep.fixed["data.image_size"]),
        batch=sweep.fixed["train.batch_size"],
        embedding_size=sweep.fixed["model.embedding_size"],
        steps=4,
    )
    own = [setting for setting in retrieval_settings(sweep) if setting.local == "none"]  # no keypoints: vectors only
    wanted, encoders = [MANY, own], ("tiny", "torchvision:resnet18")
    return [large] + [small("quickstart", encoder=name, settings=each) for each in wanted for name in encoders]


def photographs(case: Case) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the table of the case (image, individual, group, part) and the animal in each photograph."""
    planned = plan_photos(individuals=case.individuals, images=case.images, seed=0)
    photos = [photo for photo in planned if photo.part == "train"]
    table = pd.DataFrame(
        {
            "image": [photo.image for photo in photos],
            "individual": [photo.label for photo in photos],
            "group": [f"encounter {photo.encounter}" for photo in photos],
        }
    )
    table["part"] = parts_of(split_photographs(table, unknown_label=UNKNOWN))
    return table, np.array([photo.animal for photo in photos])


def scoring(
    case: Case, table: pd.DataFrame, animals: np.ndarray, settings: Sequence[RetrievalSetting]
) -> Callable[[], object]:
    """Return a function that scores the settings on drawn embeddings."""
    random = np.random.default_rng(0)
    directions = random.standard_normal((animals.max() + 1, case.embedding_size))
    views = {view: _embeddings(directions[animals], random) for view in ("plain", "flip")}
    columns = {name: table[name].to_numpy(dtype=str) for name in ("image", "individual", "group", "part")}
    return lambda: evaluate(
        views,
        images=columns["image"],
        individuals=columns["individual"],
        groups=columns["group"],
        parts=columns["part"],
        settings=settings,
        unknown_label=UNKNOWN,
    )


def _embeddings(directions: np.ndarray, random: np.random.Generator) -> np.ndarray:
    noisy = directions + NOISE * random.standard_normal(directions.shape)
    vectors: np.ndarray = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    return vectors.astype(np.float16)


def training(case: Case, individuals: int, *, rounds: int) -> Callable[[], object]:
    """Return a function that trains `steps` steps as a trial does."""
    geometry, count = Geometry(*case.size), case.steps * case.batch
    pictures = np.random.default_rng(0).integers(0, 256, (count, *geometry.stored, 3), dtype=np.uint8)
    labels = np.arange(count) // 4
    batches = Batches(pictures, geometry, np.arange(count), labels, batch_size=case.batch, images_per_individual=4)
    encoder = build_encoder(case.encoder, embedding_size=case.embedding_size, weights="random", image_size=case.size)
    loss = build_loss("proxy_anchor", num_classes=individuals, embedding_size=case.embedding_size)
    epochs = train_epochs(
        start_training(encoder, loss, epochs=rounds + 1, steps=case.steps, learning_rate=1e-4, seed=0), batches
    )
    return lambda: next(epochs)


def measure(case: Case, *, rounds: int) -> tuple[list[str], float, float]:
    """Return a row of the table, and the ratios of scoring to one epoch and of separate evaluations to scoring."""
    table, animals = photographs(case)
    known = (table["part"] == "train") & (table["individual"] != UNKNOWN)
    individuals = table["individual"][known].nunique()
    together = scoring(case, table, animals, case.settings)
    alone = scoring(case, table, animals, [case.settings[len(case.settings) // 2]])
    pair = paired_timing.take_turns(together, training(case, individuals, rounds=rounds), rounds=rounds)
    separate = paired_timing.take_turns(alone, together, rounds=rounds).ratio * len(case.settings)
    gallery, queries = int(known.sum()), int((table["part"] == "val").sum())
    scale = gallery / (case.steps * case.batch)
    row = [
        case.name,
        case.encoder.removeprefix("torchvision:"),
        f"{gallery} x {queries} x {case.embedding_size}",
        str(len(case.settings)),
        f"{median(pair.first):.3f}",
        f"{scale * median(pair.second):.2f}",
        f"{case.steps} of {gallery / case.batch:.1f}",
        f"{pair.ratio / scale:.4f}",
        f"{pair.cpu_ratio / scale:.4f}",
    ]
    return row, pair.ratio / scale, separate


def main(rounds: Annotated[int, typer.Option(help="Rounds of both, in alternation.", min=1)] = 5) -> None:
    """Print the time to score retrieval settings divided by that of one epoch; about two minutes on one thread."""
    torch.set_num_threads(paired_timing.THREADS)
    keep_freed_memory()  # as a trial does
    rows, verdicts, others = [], [], []
    for case in cases():
        row, ratio, separate = measure(case, rounds=rounds)
        rows.append(row)
        if case.settings is MANY:
            others.append((f"{len(MANY)} separate evaluations / one of all settings, {case.name}, {row[1]}", separate))
        verdicts.append((f"scoring {len(case.settings)} settings / one epoch, {case.name}, {row[1]}", ratio))
    head = ["case", "encoder", "gallery x queries x D", "settings", "scoring s", "epoch s (extrapolated)"]
    paired_timing.print_table([*head, "steps measured", "ratio", "ratio, processor time"], rows)
    for name, ratio in verdicts:
        paired_timing.print_verdict(name, ratio, at_most=GOAL, obstacle=OBSTACLE)
    for name, ratio in others:
        paired_timing.print_verdict(name, ratio, at_least=SEPARATE_GOAL, obstacle=SEPARATE_OBSTACLE)


if __name__ == "__main__":
    typer.run(main)
